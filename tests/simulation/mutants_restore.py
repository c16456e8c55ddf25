"""Bugs about a restored database: what shows it, what is asked for before anything is sent, what is settled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from drawdown.providers.protocol import Absent
from drawdown.worker.history import incarnation, recover
from drawdown.worker.push import claim, confirm, outcome, push
from drawdown.worker.push.outcome import Void
from drawdown.worker.seal import seal
from tests.simulation.mutants_remote import Patches


def _absent_is_void(patches: Patches) -> None:
    right = outcome.after_lookup

    def wrong(found: Any, asked: Any, now_ms: int, capabilities: Any) -> Any:
        end = right(found, asked, now_ms, capabilities)
        sent = isinstance(found, Absent) and asked.may_be_sent and getattr(end, "state", "") == "due"
        return Void("absent") if sent else end

    patches.put(confirm, "after_lookup", wrong)


def _another_history_settled(patches: Patches) -> None:
    for module in (push, claim, push, confirm, seal):
        patches.put(module, "require_same", lambda connection, witness: None)


RESTORE: Final[dict[str, Callable[[Patches], None]]] = {
    "the witness is ignored": lambda p: p.put(incarnation, "difference", lambda connection, found, witness: None),
    "lost windows' pushes start as due": lambda p: p.put(seal, "_ask_first_what_was_lost", lambda *rest: None),
    "absent in a lost history, voided instead of sent": _absent_is_void,
    "recover forgets open due pushes": lambda p: p.put(recover, "_ask_first", lambda *rest: (0, 0)),
    "a tick goes on in another history": _another_history_settled,
    "what a lookup found keeps no name": lambda p: p.put(confirm, "_keep_wire_key", lambda c, row, capabilities: row),
}
