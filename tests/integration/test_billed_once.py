"""Usage is billed by the seal or charged by the guard: whichever comes second is refused, and says what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.events.envelope import UsageEvent
from drawdown.schema import sql
from drawdown.schema.errors import Refused, UnknownId
from drawdown.schema.units import MICRO, WINDOW_MS
from drawdown.worker.features.actions import end_feature, map_event, map_size
from drawdown.worker.guard.terms import Change, set_metric
from drawdown.worker.sources.events.store import sample_id_of, take
from drawdown.worker.usage.withdrawals import withdraw
from drawdown.worker.verify import questions
from tests.integration.guarding import Guarded
from tests.integration.verifying import verified
from tests.world import T0


@pytest.fixture
def guarded(engine: sa.Engine) -> Iterator[Guarded]:
    made = Guarded(engine)
    yield made
    made.prove()


def price(guarded: Guarded, metric: str, micro: int = MICRO, **more: str) -> None:
    guarded.write(lambda c: set_metric(c, metric, Change(price_micro=micro, phase=3, **more), guarded.fleet.by))  # type: ignore[arg-type]


def meter(guarded: Guarded, event_type: str, feature: str, from_ms: int | None = None) -> None:
    guarded.write(
        lambda c: map_event(c, event_type, feature, guarded.fleet.by, from_ms=from_ms, confirmed=True, new=True)
    )


def size(guarded: Guarded, feature: str, memory_mb: int, kind: str = "exact") -> None:
    guarded.write(lambda c: map_size(c, feature, guarded.fleet.by, kind=kind, memory_mb=memory_mb, unit="s"))


def refused(work: Callable[[], object]) -> str:
    with pytest.raises(Refused) as found:
        work()
    return str(found.value)


@pytest.mark.parametrize(
    ("metric", "counts"),
    [("page.render", None), ("render", None), ("draw", "page.render"), ("draw", "render")],
    ids=["type by its name", "feature by its name", "type by the word", "feature by the word"],
)
def test_guard_price_and_mapping_of_same_usage_second_is_refused(
    guarded: Guarded, metric: str, counts: str | None
) -> None:
    said: dict[str, Any] = {} if counts is None else {"counts": counts}
    price(guarded, metric, **said)
    text = refused(lambda: meter(guarded, "page.render", "render"))
    assert f"the guard charges {counts or metric} as {metric}" in text
    assert f"drawdown guard set {metric} --credits 0" in text
    price(guarded, metric, 0)
    guarded.later(1)
    meter(guarded, "page.render", "render")
    text = refused(lambda: price(guarded, metric, 2 * MICRO))
    assert f"the seal bills {counts or metric} as render" in text
    assert "drawdown feature end render" in text


def test_guard_price_of_billed_size_or_tier_is_refused(guarded: Guarded) -> None:
    price(guarded, "compute_big")
    for kind in ("exact", "up_to"):
        assert "the guard charges compute_big" in refused(lambda kind=kind: size(guarded, "compute_big", 99_000, kind))  # type: ignore[misc]
    assert "the seal bills compute_1gb" in refused(lambda: price(guarded, "compute_1gb"))
    assert "the seal bills compute_1gb" in refused(lambda: price(guarded, "second", counts="compute_1gb"))
    size(guarded, "compute_tier", 99_000, "up_to")
    assert "the seal bills compute_tier" in refused(lambda: price(guarded, "compute_tier"))


def test_guard_free_metric_counts_usage_billed_by_seal(guarded: Guarded) -> None:
    meter(guarded, "page.render", "render")
    price(guarded, "page.render", 0)
    guarded.metric("page.render", phase=1)
    guarded.limit("page.render", 3)
    assert guarded.consume("page.render").charged_micro == 0


def test_guard_priced_metric_counting_billed_usage_is_refused(guarded: Guarded) -> None:
    meter(guarded, "page.render", "render")
    price(guarded, "draw", counts="sketch")
    assert "the seal bills page.render" in refused(lambda: price(guarded, "draw", counts="page.render"))
    price(guarded, "page.render", counts="sketch")
    assert "the seal bills page.render" in refused(lambda: price(guarded, "page.render", counts=""))


def test_usage_moves_between_seal_and_guard_at_window_boundary(guarded: Guarded) -> None:
    """No window is billed by both, and none has to be left out but the one that it passes in."""
    guarded.fleet.clock.at_ms = T0 + 10 * WINDOW_MS + 7
    meter(guarded, "page.render", "render")
    guarded.later(2 * WINDOW_MS)
    by = guarded.fleet.by
    guarded.write(lambda c: end_feature(c, "render", by))
    text = refused(lambda: price(guarded, "page.render"))
    assert "in windows until 2026-01-01T01:05:00Z" in text and "Try again after 2026-01-01T01:05:00Z" in text, text
    guarded.later(WINDOW_MS)
    price(guarded, "page.render")
    guarded.limit("page.render", None)
    assert guarded.consume("page.render").charged_micro == MICRO
    guarded.later(2 * WINDOW_MS)
    price(guarded, "page.render", 0)
    now = guarded.now - guarded.now % WINDOW_MS
    for window in (now, now - WINDOW_MS):
        assert "the guard charges" in refused(lambda window=window: meter(guarded, "page.render", "render", window))  # type: ignore[misc]
    meter(guarded, "page.render", "render")


def test_guard_metric_counting_unknown_usage_is_refused_unless_new(guarded: Guarded) -> None:
    meter(guarded, "page.render", "render")
    for slip in ("page.rendr", "rendr"):
        with pytest.raises(UnknownId):
            guarded.write(
                lambda c, slip=slip: set_metric(c, "look", Change(counts=slip), guarded.fleet.by, new=False)  # type: ignore[misc]
            )
    guarded.write(lambda c: set_metric(c, "look", Change(counts="to.come"), guarded.fleet.by))


@pytest.mark.both_databases
def test_type_moved_from_seal_to_guard_in_a_window_is_not_billed_twice(guarded: Guarded) -> None:
    """Another type goes on to the feature; the type's own event, which nothing mapped any more, was taken back."""
    fleet = guarded.fleet
    for event_type in ("page.one", "page.two"):
        meter(guarded, event_type, "render")
    guarded.write(lambda c: end_feature(c, "render", fleet.by))
    meter(guarded, "page.two", "render")
    guarded.later(WINDOW_MS)
    now = fleet.clock.at_ms
    events = [UsageEvent("app", one, one, "acme", 5, now) for one in ("page.one", "page.two")]
    guarded.write(lambda c: take(c, events, now))
    guarded.write(lambda c: withdraw(c, [sample_id_of("app", "page.one")], fleet.by))
    price(guarded, "page.one")
    guarded.limit("page.one", 10)
    assert guarded.consume("page.one", 5).charged_micro == 5 * MICRO
    fleet.assign("acme", from_ms=T0)
    fleet.tick_windows(3)
    assert fleet.rows("SELECT sealed_qty FROM pushes WHERE feature = 'render'") == [(5,)]


def test_double_billing_proof_does_not_share_mapping_with_seal(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shared fragment takes the older of two mappings of one start. The proof finds the feature by itself."""
    guarded = Guarded(engine)
    fleet = guarded.fleet
    start = guarded.now - guarded.now % WINDOW_MS + WINDOW_MS
    for feature in ("draft", "render"):
        meter(guarded, "page.one", feature, start)
    assert fleet.rows("SELECT COUNT(*), COUNT(DISTINCT start_ms) FROM mappings WHERE memory_mb > 16777216") == [(2, 1)]
    fleet.assign("acme", from_ms=T0)
    guarded.later(WINDOW_MS)
    now = fleet.clock.at_ms
    guarded.write(lambda c: take(c, [UsageEvent("app", "e-1", "page.one", "acme", 5, now)], now))
    guarded.limit("idea", 10)
    assert guarded.consume("idea").charged_micro == MICRO
    fleet.tick_windows(3)
    assert fleet.rows("SELECT feature, sealed_qty FROM pushes") == [("render", 5)]
    fleet.write("DROP TRIGGER guard_metrics_no_update")
    fleet.write("UPDATE guard_metrics SET counts = 'page.one' WHERE metric = 'idea'")
    wrong = sql._words()["feature_of_meter", ""].replace("mapping_id DESC", "mapping_id")
    monkeypatch.setitem(sql._words(), ("feature_of_meter", ""), wrong)
    monkeypatch.setattr(questions.GUARD, "_ready", {})
    found = [one.text for one in verified(fleet).breaches if one.feature == "render"]
    assert found == ["k2 was charged 1000000 for page.one as idea, but 5 was sealed as render, too"]
