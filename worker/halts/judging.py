"""Which URLs that people registered may be called, and at which addresses.

Guarantee: nothing is called here, and nothing that calls is imported: settings are judged without it.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Protocol

from drawdown.providers.http.names import Lookup
from drawdown.providers.http.outgoing import Outgoing
from drawdown.worker.halts.addresses import Network, refusal
from drawdown.worker.halts.cell_urls import CellUrl, parse


class Judge(Protocol):
    """Who says what may be called: origins (scheme://host:port), and networks besides public addresses."""

    @property
    def allowed(self) -> frozenset[str]: ...
    @property
    def networks(self) -> tuple[Network, ...]: ...
    @property
    def outgoing(self) -> Outgoing: ...

    def address_refused(self, url: CellUrl, host: str) -> str | None:
        """Why a connection for this URL is not made to this address; None where it may be."""


def address_refused(judge: Judge, url: CellUrl, host: str) -> str | None:
    """Why a connection for this URL is not made to this address; None where it may be."""
    address = ip_address(host.partition("%")[0])
    return refusal(address, judge.networks, named=address == url.address and url.origin in judge.allowed)


def why_not(url: str, judge: Judge, lookup: Lookup, settings: str) -> str | None:
    """What would keep a call from this URL as its name stands this moment; None where nothing would. `settings`: what
    the names of those that would allow it begin with."""
    found = parse(url)
    if found is None or found.origin not in judge.allowed:
        return f"add its origin to {settings}_ORIGINS"
    if found.origin.startswith("https:") and judge.outgoing.proxy_for(found.host, found.port) is not None:
        return None  # the proxy finds the address
    try:
        hosts = [where[0] for *_, where in lookup(found.host, found.port)]
    except OSError:
        return f"the name {found.host} has no address"
    refused = [judge.address_refused(found, host) for host in hosts]
    if None in refused:
        return None
    return f"{refused[0] or 'it has no address'}: {settings}_NETWORKS has to allow it"
