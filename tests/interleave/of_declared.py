"""What is declared, as HTTP does it.

The deed of each action is that of the command's party, in one transaction as here: `test_registry.py` sees to it that
there is one. What HTTP adds, a key that counts once and a limit, is explored of one action of each kind: one that gives
credit, one that goes in portions, one that is judged by its size, and one that is none of these. `settlement reverse`,
which the caller keys, is in `of_suppliers.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Final

import sqlalchemy as sa

from drawdown.schema.units import MAX_AMOUNT_MICRO
from drawdown.server.api.declared import carry_out
from drawdown.server.api.programs import Caller
from drawdown.server.declarations import ACTIONS
from drawdown.worker.access.idempotency import Call
from drawdown.worker.access.keys import ApiKey
from tests.interleave.party import Check, Party, plain, well
from tests.interleave.stage import NOW, Stage, key

BY_HAND: Final[Mapping[str, str]] = {
    "org assign": "assign",
    "cell set": "cli.nouns.cells:set_",
    "hook test": "cli.nouns.hooks:test_",
    "provider accept": "cli.nouns.providers:accept",
    "override end": "cli.declared:run override refuse",
}
"""The parties of actions whose command is written by hand, or whose deed is another's, too (an override is ended as it
is refused: by one statement on its row)."""


def _called(name: str, **given: object) -> Callable[[Stage, sa.Connection], object]:
    """By one Idempotency-Key, whichever of two calls comes first."""
    action = ACTIONS[name]
    values = {param.name: param.default for param in action.params} | given

    def work(_stage: Stage, connection: sa.Connection) -> object:
        said = Caller(ApiKey("finance", (action.scope,), None, gives_micro=MAX_AMOUNT_MICRO), NOW)
        order = SimpleNamespace(reason="explored", dry_run=False)
        return carry_out(connection, action, said, values, order, Call(said.key.actor, "call-1", name, ""))

    return work


def _once(stage: Stage) -> Iterator[str]:
    for (times,) in stage.rows("SELECT COUNT(*) FROM console_acts WHERE name = 'key:finance'"):
        if times != 1:
            yield f"one Idempotency-Key is kept {times} times"


def _is_called(name: str, check: Check = well, **given: object) -> Party:
    return plain(f"server.api.declared:_acting {name}", _called(name, **given), check)


DECLARED: Final = (
    _is_called("ledger grant", _once, customer_id="spent", amount_micro=5, kind="bonus"),
    _is_called("backfill revert", _once, backfill="may"),
    _is_called("push void", keys=[key(7)], evidence="their console"),
    _is_called("provider pause", _once, provider="embedded"),
)
