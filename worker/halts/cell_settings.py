"""Define which cells may be called, and the secrets that sign requests to them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from drawdown.providers.http.egress import Lookup, Outgoing, system_lookup
from drawdown.worker.halts.addresses import CellUrl, Network, address_refused, why_not

SHARED: Final = "*"
"""The name for all cells without an entry of their own."""


@dataclass(frozen=True)
class CellSettings:
    """The settings of calls to cells. Secrets never print.

    `allowed`: origins (scheme://host:port) that may be called. `roots`: root secrets, from which each cell's own secret
    is derived. `secrets`: other secrets by cell id; `*` has the shared secrets of cells without an entry. If there are
    two secrets, the first is the new secret. `networks`: networks that are allowed in addition to public addresses.
    """

    allowed: frozenset[str]
    roots: tuple[str, ...] = ()
    secrets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    networks: tuple[Network, ...] = ()
    outgoing: Outgoing = field(default_factory=Outgoing)
    """The trusted certificate authorities and the proxy of outgoing calls."""

    def __repr__(self) -> str:
        return f"CellSettings(allowed={sorted(self.allowed)}, networks={[str(one) for one in self.networks]})"

    def secrets_of(self, cell_id: str) -> tuple[str, ...]:
        """Return the secrets that sign halts for this cell, the new secret first."""
        made = tuple(cell_secret(root, cell_id) for root in self.roots)
        return self.secrets.get(cell_id) or (*made, *self.secrets.get(SHARED, ()))

    def why_not(self, url: str, lookup: Lookup | None = None) -> str | None:
        """Return the reason why a halt to this URL is refused, or None.

        The function resolves the host name now.
        """
        return why_not(url, self, lookup or system_lookup, "DRAWDOWN_CELL")

    def address_refused(self, url: CellUrl, host: str) -> str | None:
        """Return the reason that prevents a connection to this address, or None."""
        return address_refused(self, url, host)


def cell_secret(root: str, cell_id: str) -> str:
    """Return a cell's own secret: 64 characters of hex.

    The secret is HMAC-SHA256 with the root secret over `cell:{cell_id}`. From its own secret, the cell can compute
    neither the root secret nor another cell's secret.
    """
    return hmac.new(root.encode(), f"cell:{cell_id}".encode(), hashlib.sha256).hexdigest()
