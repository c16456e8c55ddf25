"""Which endpoints of the operator's product may be called, and the secrets that sign what they are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from drawdown.providers.http.names import Lookup, system_lookup
from drawdown.providers.http.outgoing import Outgoing
from drawdown.worker.halts.addresses import Network
from drawdown.worker.halts.cell_urls import CellUrl
from drawdown.worker.halts.judging import address_refused, why_not
from drawdown.worker.hooks.signing import endpoint_secret


@dataclass(frozen=True)
class HookSettings:
    """`allowed`: origins (scheme://host:port) that may be called. `roots` make each endpoint's secrets; of two, the
    first is the new one. `networks` are allowed besides public addresses. Secrets never print."""

    allowed: frozenset[str] = frozenset()
    roots: tuple[str, ...] = field(default=(), repr=False)
    networks: tuple[Network, ...] = ()
    outgoing: Outgoing = field(default_factory=Outgoing)
    """How calls leave: whom they trust, and through which proxy."""

    @property
    def origins(self) -> frozenset[str]:
        """Those that this machine can tell something: none without a secret."""
        return self.allowed if self.roots else frozenset()

    def secrets_of(self, endpoint: str, generations: Sequence[int]) -> tuple[str, ...]:
        """What signs messages for this endpoint, the newest first."""
        return tuple(endpoint_secret(root, endpoint, number) for number in generations for root in self.roots)

    def why_not(self, url: str, lookup: Lookup | None = None) -> str | None:
        """What would keep a message from this URL as its name stands this moment; None where nothing would."""
        return why_not(url, self, lookup or system_lookup, "DRAWDOWN_HOOK")

    def address_refused(self, url: CellUrl, host: str) -> str | None:
        """Why a connection for this URL is not made to this address; None where it may be."""
        return address_refused(self, url, host)
