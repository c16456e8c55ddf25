"""Uses that are decided in one transaction get the answers that they would have got alone, and leave the same rows."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from drawdown.ledger.reservations import NotTogether
from drawdown.schema.database import write
from drawdown.schema.errors import DrawdownError
from drawdown.worker.guard import counters as guard_counts
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.counters import Denials
from drawdown.worker.guard.use import Answer, Ask, Wish
from tests.integration.guarding import Guarded

KEPT = (
    "SELECT use_key, org_id, metric, number, amount, state, decision, would, rule, limit_amount, reservation, "
    "charged_micro, forgone_micro, expires_ms FROM guard_uses ORDER BY 1",
    "SELECT metric, period, used, uses, warned FROM guard_counters ORDER BY 1, 2",
    "SELECT metric, reason_code, enforced, count, amount, sample FROM guard_denials ORDER BY 1, 2, 3",
    "SELECT reservation, state, drawn_micro FROM reservations ORDER BY 1",
    "SELECT account_id, balance_micro, held_micro FROM ledger_accounts ORDER BY 1",
)
SEEDS: Final = 12
PLANTED: Final = 5
"""Of those, that are enough to show a mistake."""
Outcome = tuple[list[Any], list[list[tuple[Any, ...]]]]


@pytest.fixture
def guarded(engine: sa.Engine) -> Guarded:
    """`look` is free and limited, `idea` costs a credit, `hint` is let through beyond its limit, `poor` has little."""
    made = Guarded(engine)
    made.metric("hint", phase=1)
    made.give("poor", 6)
    made.limit("look", 30)
    made.limit("look", 20, "hour")
    made.limit("idea", 14)
    made.limit("hint", 9, "day")
    made.consume("look", 2, key="k0")
    made.reserve("look", 3, key="over", for_ms=60_000)
    made.fleet.clock.at_ms += 120_000
    return made


def asks(seed: int, guarded: Guarded) -> list[Ask]:
    """Of one metric and organisation: keys that come again, some with another content, by keys of both kinds."""
    stream = random.Random(seed)
    metric, org = stream.choice((("look", "acme"), ("idea", "acme"), ("hint", "acme"), ("idea", "poor")))
    found = []
    for _ in range(stream.randint(2, 14)):
        wish = Wish(org, metric, stream.choice((1, 1, 2, 3, 5)), payer="nobody" if stream.random() < 0.1 else None)
        if stream.random() < 0.1:
            wish = replace(wish, quantity=0)
        key, own = f"k{stream.randint(0, 9)}", stream.random() < 0.5
        found.append(Ask(key, wish, guarded.fleet.by, "used" if stream.random() < 0.6 else "held", own=own))
    return found


def outcome(guarded: Guarded, work: Callable[[sa.Connection], Sequence[Answer | DrawdownError]]) -> Outcome:
    """The answers, and what is kept: rolled back."""

    def whole(connection: sa.Connection) -> Outcome:
        answers = [
            (type(one).__name__, one.code) if isinstance(one, DrawdownError) else one for one in work(connection)
        ]
        return answers, [[tuple(row) for row in connection.execute(sa.text(text))] for text in KEPT]

    return write(guarded.fleet.engine, whole, rollback=True)


def alone(asked: Sequence[Ask]) -> Callable[[sa.Connection], Sequence[Answer | DrawdownError]]:
    def work(connection: sa.Connection) -> list[Answer | DrawdownError]:
        found: list[Answer | DrawdownError] = []
        for one in asked:
            try:
                with connection.begin_nested():
                    found.append(guard.take(connection, one))
            except DrawdownError as error:
                found.append(error)
        return found

    return work


def same(guarded: Guarded, seed: int, wanted: Outcome) -> bool:
    """Whether they come to the same together, and to an end."""
    try:
        return outcome(guarded, lambda c: guard.take_all(c, asks(seed, guarded))) == wanted
    except (DrawdownError, DBAPIError):
        return False


def test_guard_uses_decided_together_equal_uses_decided_alone(guarded: Guarded) -> None:
    seen = set()
    for seed in range(SEEDS):
        wanted = outcome(guarded, alone(asks(seed, guarded)))
        assert same(guarded, seed, wanted), seed
        seen |= {one[1] if isinstance(one, tuple) else (one.decision, one.repeated) for one in wanted[0]}
    assert {("allow", False), ("block", False), ("warn", False), ("allow", True), "other_content", "bad_value"} <= seen


def _nothing_is_counted_before_the_end(patch: pytest.MonkeyPatch) -> None:
    right = guard_counts.after

    def wrong(found: Any, amount: int, bounds: Any, warn_ppm: int, *, uses: int) -> Any:
        then = right(found, amount, bounds, warn_ppm, uses=uses)
        odd = {period for period, one in then.counted.items() if one.used % 2}
        kept = {period: found.counted[period] if period in odd else one for period, one in then.counted.items()}
        return replace(then, counted=kept)

    patch.setattr(guard_counts, "after", wrong)


def _one_that_is_refused_ends_them_all(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(guard, "_answered", lambda connection, book, ask: guard.decide_use(book, ask))
    patch.setattr(guard, "wrong", lambda ask: None)


def _a_key_within_the_batch_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    right = guard.decide_use

    def wrong(book: Any, ask: Ask) -> Answer:
        found = right(book, ask)
        book.uses.pop(ask.name, None)
        return found

    patch.setattr(guard, "decide_use", wrong)


def _the_last_refusal_counts_for_all(patch: pytest.MonkeyPatch) -> None:
    def wrong(self: Denials, code: str, amount: int, sample: str, *, enforced: bool) -> None:
        self.found[code, enforced] = 1, amount, sample

    patch.setattr(Denials, "add", wrong)


@pytest.mark.parametrize(
    "plant",
    [_nothing_is_counted_before_the_end, _one_that_is_refused_ends_them_all, _a_key_within_the_batch_is_forgotten,
     _the_last_refusal_counts_for_all],
)  # fmt: skip
def test_planted_mistake_is_found(
    guarded: Guarded, plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {seed: outcome(guarded, alone(asks(seed, guarded))) for seed in range(PLANTED)}
    plant(monkeypatch)
    assert not all(same(guarded, seed, right) for seed, right in wanted.items())


@pytest.mark.both_databases
def test_key_taken_concurrently_rejects_group_of_uses(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [Ask(f"n{number}", Wish("acme", "look", 1), guarded.fleet.by) for number in (1, 2)]
    monkeypatch.setattr(guard, "read_by_keys", lambda connection, keys: {})
    guarded.consume("hint", key="n2")
    before = guarded.used("look")
    with pytest.raises(NotTogether):
        guarded.write(lambda c: guard.take_all(c, asked))
    assert guarded.used("look") == before, "nothing of it was kept"
    with pytest.raises(DrawdownError) as found:
        guarded.write(lambda c: guard.take(c, asked[1]))
    assert found.value.code == "other_content"


def _while_it_waits(guarded: Guarded, monkeypatch: pytest.MonkeyPatch, work: Callable[[], object]) -> None:
    """Have something happen between what the next use reads and the lock of its counters."""
    right = guard_counts.lock

    def lock(*given: Any) -> guard_counts.Counters:
        monkeypatch.setattr(guard_counts, "lock", right)
        work()
        return right(*given)

    monkeypatch.setattr(guard_counts, "lock", lock)


def test_use_waiting_while_terms_change_reports_earlier_terms(
    postgres: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded = Guarded(postgres)
    guarded.limit("look", 20)

    def less() -> None:
        guarded.limit("look", 4)
        assert guarded.consume("look", 5).decision == "block", "whoever asks from now on has the new limit"
        assert guarded.consume("look", 4).limit == 4

    _while_it_waits(guarded, monkeypatch, less)
    waited = guarded.consume("look", 6)
    assert (waited.decision, waited.limit, waited.used) == ("allow", 20, 4), "it goes by what others used meanwhile"
    _while_it_waits(guarded, monkeypatch, lambda: guarded.limit("look", 30))
    refused = guarded.consume("look", 1)
    assert (refused.decision, refused.limit) == ("block", 4)
    assert guarded.consume("look", 1).limit == 30, "the same asked again"
    _while_it_waits(guarded, monkeypatch, lambda: guarded.metric("look", price_micro=7))
    assert [guarded.consume("look", 2).charged_micro for _ in range(2)] == [0, 14]
    assert guarded.used("look") == 15
    assert guarded.fleet.rows("SELECT limit_amount, amount, charged_micro FROM guard_uses ORDER BY number") == [
        (4, 4, 0), (20, 6, 0), (30, 1, 0), (30, 2, 0), (30, 2, 14),
    ]  # fmt: skip
    guarded.prove()
