"""Which cells may be called, and the secrets that sign what they are told."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from drawdown.providers.http.egress import Lookup, Outgoing, system_lookup
from drawdown.worker.halts.addresses import CellUrl, Network, address_refused, why_not

SHARED: Final = "*"
"""Stands for every cell without an entry of its own."""


@dataclass(frozen=True)
class CellSettings:
    """The settings of calls to cells. Secrets never print.

    `allowed`: origins (scheme://host:port) that may be called. `roots` make each cell's own secret. `secrets`: other
    secrets, by the cell's id; under `*` those that cells without an entry shared before they had their own. If there
    are two, the first is the new one. `networks` are allowed besides public addresses.
    """

    allowed: frozenset[str]
    roots: tuple[str, ...] = ()
    secrets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    networks: tuple[Network, ...] = ()
    outgoing: Outgoing = field(default_factory=Outgoing)
    """The way of calls out: trusted authorities, and the proxy."""

    def __repr__(self) -> str:
        return f"CellSettings(allowed={sorted(self.allowed)}, networks={[str(one) for one in self.networks]})"

    def secrets_of(self, cell_id: str) -> tuple[str, ...]:
        """Return the secrets that sign halts for this cell, in the order of use: the new secret first."""
        made = tuple(cell_secret(root, cell_id) for root in self.roots)
        return self.secrets.get(cell_id) or (*made, *self.secrets.get(SHARED, ()))

    def why_not(self, url: str, lookup: Lookup | None = None) -> str | None:
        """Return the reason that prevents a halt to this URL, as its name resolves now; None if nothing does."""
        return why_not(url, self, lookup or system_lookup, "DRAWDOWN_CELL")

    def address_refused(self, url: CellUrl, host: str) -> str | None:
        """Why a connection for this URL is not made to this address; None where it may be."""
        return address_refused(self, url, host)


def cell_secret(root: str, cell_id: str) -> str:
    """Return a cell's own secret, 64 characters of hex: HMAC-SHA256 by the root over `cell:{cell_id}`.

    Its holder can compute neither the root nor another cell's secret.
    """
    return hmac.new(root.encode(), f"cell:{cell_id}".encode(), hashlib.sha256).hexdigest()
