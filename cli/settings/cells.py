"""The settings of cells, and of your product's endpoints, read from text. Guarantee: errors name the setting and the
entry's place, never a secret."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_network
from typing import Final

from drawdown.schema.errors import UsageError
from drawdown.worker.halts.addresses import Network, parse

MAX_SECRETS: Final = 2


def origins(text: str, setting: str = "DRAWDOWN_CELL_ORIGINS") -> frozenset[str]:
    """`https://cell-1:8443,http://10.0.0.7:8080`"""
    found = set()
    for number, entry in enumerate(_entries(text, ","), 1):
        url = parse(entry)
        shown = f"entry {number}" if "@" in entry else repr(entry)  # before an @ there may be a password
        if url is None:
            raise UsageError(f"{setting}: {shown} is no http(s) origin such as https://cell-1:8443")
        if url.path:  # cut silently, it would allow more than was written
            raise UsageError(f"{setting}: {shown} has a path: write {url.origin}, which allows all of it")
        found.add(url.origin)
    return frozenset(found)


def networks(text: str, setting: str = "DRAWDOWN_CELL_NETWORKS") -> tuple[Network, ...]:
    """`10.0.0.0/8,fd12:3456::/32`"""
    found = []
    for entry in _entries(text, ","):
        try:
            found.append(ip_network(entry))
        except ValueError as error:
            raise UsageError(f"{setting}: {entry!r} is no network such as 10.0.0.0/8") from error
    return tuple(found)


def roots(text: str, setting: str = "DRAWDOWN_CELL_SECRET") -> tuple[str, ...]:
    """`new,old`, or one: what each cell's own secret is made from; none where the text is empty."""
    given = tuple(secret.strip() for secret in text.split(",")) if text.strip() else ()
    if not all(given) or len(given) > MAX_SECRETS:
        raise UsageError(f"{setting}: that is neither SECRET nor NEW,OLD")
    return given


def secrets(text: str) -> Mapping[str, tuple[str, ...]]:
    """`cell-1=new,old;cell-2=other;*=new,old`: the first of two is the new one; `*` is what all other
    cells shared before each had its own."""
    found: dict[str, tuple[str, ...]] = {}
    for number, entry in enumerate(_entries(text, ";"), 1):
        cell, _, listed = entry.partition("=")
        given = tuple(secret.strip() for secret in listed.split(","))
        if not cell.strip() or not all(given) or len(given) > MAX_SECRETS or cell.strip() in found:
            raise UsageError(
                f"DRAWDOWN_CELL_SECRETS: entry {number} is not CELL=SECRET or CELL=NEW,OLD; each cell comes once"
            )
        found[cell.strip()] = given
    return found


def _entries(text: str, between: str) -> list[str]:
    return [entry for entry in (part.strip() for part in text.split(between)) if entry]
