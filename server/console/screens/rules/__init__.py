"""The pages of rules and proof: limits, events, keys, proof, audit and people."""

from __future__ import annotations

from typing import Final

from drawdown.server.console.page import Page
from drawdown.server.console.screens.rules import audit, events, keys, limits, people, proof

PAGES: Final[tuple[Page, ...]] = (
    Page("/console/limits", "Limits", "list.html", limits.read),
    Page("/console/events", "Events", "list.html", events.read, lines=events.csv_lines),
    Page("/console/event", "Event", "list.html", events.read_one, menu=False, example="?source=shop&id=order-1"),
    Page("/console/keys", "Keys", "list.html", keys.read),
    Page("/console/proof", "Proof", "list.html", proof.read),
    Page("/console/audit", "Audit", "list.html", audit.read, lines=audit.csv_lines),
    Page("/console/people", "People", "list.html", people.read, role="admin"),
)
ACTIONS: Final = (*limits.ACTIONS, *people.ACTIONS)
