"""A cut-over: what it does is printed with its time, and usage that nobody billed in between can be billed."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from drawdown.cli.app import App
from drawdown.cli.nouns import pushes as commands
from drawdown.cli.settings import Settings
from drawdown.providers.protocol import Absent, CannotTell, FoundPush, ReadFailed, RetryAt, Unknown
from drawdown.providers.registry import Registry
from drawdown.schema.clock import utc
from drawdown.schema.database import read, write
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.worker.engine import runner
from drawdown.worker.engine.effects import Steps
from drawdown.worker.provider import actions as providers
from drawdown.worker.provider.actions import Shadow, accept, bill_shadow, cut_over, set_rate
from drawdown.worker.push.actions import require_lost
from drawdown.worker.push.rows import find_pushes
from drawdown.worker.status.status import status
from tests.fake_provider import FakeProvider, capabilities
from tests.integration.reconciling import FEATURE, KEY, billed, charged, clean, settle
from tests.world import T0, Fleet

NEVER = 9_000_000_000_000_000 // WINDOW_MS * WINDOW_MS


def in_shadow(engine: sa.Engine, windows: int = 6) -> tuple[Fleet, FakeProvider]:
    """Windows are sealed in shadow, a minute each; then the settings name a cut-over two windows after the first."""
    provider = FakeProvider(capabilities(live_from_ms=NEVER))
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", provider="fake")
    for number in range(windows):
        fleet.sample("acme", T0 + number * WINDOW_MS + 1)
    fleet.tick(T0 + windows * WINDOW_MS)
    provider.capabilities = replace(provider.capabilities, live_from_ms=T0 + 2 * WINDOW_MS)
    return fleet, provider


def test_cut_over_accept_reports_unbilled_usage_for_bill_shadow(engine: sa.Engine) -> None:
    fleet, provider = in_shadow(engine)
    before = read(engine, lambda c: cut_over(c, "fake", provider.capabilities, fleet.clock.at_ms))
    accept(lambda work, **_: write(engine, work), "fake", provider.capabilities, fleet.by)
    after = read(engine, lambda c: cut_over(c, "fake", provider.capabilities, fleet.clock.at_ms))
    assert before == after
    assert after.live_from_ms is not None and after.live_from_ms > T0 + 5 * WINDOW_MS
    assert after.since_ms == T0 + 2 * WINDOW_MS
    sealed = int(str(fleet.one("SELECT COUNT(*) FROM pushes WHERE state = 'shadow'")))
    assert after.unbilled == [Shadow(FEATURE, 60 * (sealed - 2), 1, T0 + 2 * WINDOW_MS)]
    assert after.unsealed_s == 60 * (6 - sealed)
    assert str(after.worth) == f"{60 * (sealed - 2)} {FEATURE} without a rate"
    write(engine, lambda c: set_rate(c, "fake", FEATURE, (5_000, 1), fleet.by, from_ms=None, tells=False))
    priced = read(engine, lambda c: cut_over(c, "fake", provider.capabilities, fleet.clock.at_ms))
    assert priced.worth.credits_micro == {"credits": 60 * (sealed - 2) * 5_000}
    assert write(engine, lambda c: bill_shadow(c, "fake", T0 + 2 * WINDOW_MS, fleet.by)) == sealed - 2
    fleet.tick_windows(2)
    assert charged(provider) == 60 * 4, "the first two were billed by another system"
    assert read(engine, lambda c: cut_over(c, "fake", provider.capabilities, fleet.clock.at_ms)).unbilled == []
    clean(fleet)


def test_status_shadow_provider_is_shown_with_start_and_end(engine: sa.Engine) -> None:
    fleet, provider = in_shadow(engine)
    fleet.clock.at_ms += 1  # inside a window: on its edge a provider that is accepted is live at once
    now = fleet.clock.at_ms
    (found,) = read(engine, lambda c: status(c, now)).standing.shadow
    assert str(found) == (
        f"fake is in shadow since {utc(T0)}, until its cut-over is accepted. "
        "Drawdown seals and compares its usage, but does not send it"
    )
    accept(lambda work, **_: write(engine, work), "fake", provider.capabilities, fleet.by)
    (found,) = read(engine, lambda c: status(c, now)).standing.shadow
    assert f"until {utc(found.live_from_ms)}. " in str(found)
    assert read(engine, lambda c: status(c, found.live_from_ms)).standing.shadow == []


def test_bill_shadow_of_shadow_provider_or_without_usage_is_refused(engine: sa.Engine) -> None:
    fleet, provider = in_shadow(engine)
    with pytest.raises(Refused, match="cannot bill shadow usage at fake: it is not live yet"):
        write(engine, lambda c: bill_shadow(c, "fake", T0, fleet.by))
    accept(lambda work, **_: write(engine, work), "fake", provider.capabilities, fleet.by)
    fleet.clock.at_ms += WINDOW_MS
    with pytest.raises(UsageError, match="a five-minute window"):
        write(engine, lambda c: bill_shadow(c, "fake", T0 + 1, fleet.by))
    with pytest.raises(Refused, match="does not have shadow usage since"):
        write(engine, lambda c: bill_shadow(c, "fake", T0 + 99 * WINDOW_MS, fleet.by))


def test_bill_shadow_beyond_limit_is_refused(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet, provider = in_shadow(engine)
    accept(lambda work, **_: write(engine, work), "fake", provider.capabilities, fleet.by)
    monkeypatch.setattr(providers, "MAX_SHADOW_BILLED", 1)
    with pytest.raises(Refused, match="Pass a later --from"):
        write(engine, lambda c: bill_shadow(c, "fake", T0, fleet.by))


def ask(fleet: Fleet, provider: FakeProvider, later_ms: int = 0) -> None:
    rows = list(read(fleet.engine, lambda c: find_pushes(c, [KEY])).values())
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    runner.run(require_lost(rows, {"fake": provider.capabilities}, {}, {}, fleet.clock.at_ms + later_ms), world)


def test_void_lost_of_push_found_at_provider_is_refused(engine: sa.Engine) -> None:
    fleet, provider = billed(engine)
    with pytest.raises(Refused, match=r"fake has it, and charged 60\. A void would bill its usage twice"):
        ask(fleet, provider)
    with pytest.raises(Refused, match="may not show it before"):
        ask(fleet, provider, later_ms=-(10**7))
    for answer, match in ((ReadFailed("503"), r"is unavailable \(503\)"), (FoundPush(0), ""), (Absent(), "")):
        provider.lookups[KEY] = answer
        if match:
            with pytest.raises(Refused, match=match):
                ask(fleet, provider)
        else:
            ask(fleet, provider)


@pytest.mark.parametrize(
    "answer", [CannotTell("two events", may_have=True), CannotTell("the sum differs", 90), CannotTell("no meter")]
)
def test_void_lost_with_inconclusive_lookup_is_refused_if_charge_shown(engine: sa.Engine, answer: CannotTell) -> None:
    """Without a sign of the push, the person who saw the provider's console decides."""
    fleet, provider = billed(engine)
    provider.lookups[KEY] = answer
    if answer.reason == "no meter":
        ask(fleet, provider)
        return
    with pytest.raises(Refused, match=rf"cannot void {KEY}: fake may have charged it \({answer.reason}\)\. If the"):
        ask(fleet, provider)


@pytest.mark.parametrize(("before", "later_ms"), [("due", 2 * WINDOW_MS), ("in_doubt", DAY_MS)])
def test_void_lost_of_push_accepted_meanwhile_is_refused(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, before: str, later_ms: int
) -> None:
    """A tick accepts it between the command's read and its write: the command did not look it up (P5)."""
    provider = FakeProvider(capabilities(lookup_lag_ms=0, key_retention_ms=DAY_MS, duplicate_proves_delivery=False))
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", provider="fake")
    fleet.sample("acme", T0 + 1)
    provider.answers[KEY] = RetryAt(T0, "busy") if before == "due" else Unknown("cut")
    provider.lookups[KEY] = CannotTell("not shown yet")
    fleet.tick_windows(2)
    for _ in range(40):
        if fleet.one("SELECT state FROM pushes") != before:
            fleet.tick(fleet.clock.at_ms + 24 * WINDOW_MS)
    assert fleet.one("SELECT state FROM pushes") == before
    app = App(Settings(), fleet.clock)
    app._engine, app._registry = engine, Registry(fleet.providers)

    def after_a_tick(steps: Steps[None], world: runner.World) -> None:
        if before == "in_doubt":
            provider.charged[KEY] = provider.seen[0]
        provider.answers.clear()
        provider.lookups.clear()
        fleet.tick(fleet.clock.at_ms + later_ms)
        assert fleet.one("SELECT state FROM pushes") == "accepted"
        runner.run(steps, world)

    monkeypatch.setattr(commands, "run", after_a_tick)
    said = SimpleNamespace(obj=app)
    with pytest.raises(Refused, match=f"cannot void {KEY}: it was accepted after the command read it. Run"):
        commands.void_lost(said, [KEY], evidence="their console", dry_run=False, actor="ann", reason="lost")  # type: ignore[arg-type]
    fleet.tick_windows(2)
    assert charged(provider) == 60
    clean(fleet)


def test_provider_key_of_different_mode_is_reported_and_not_billed(engine: sa.Engine) -> None:
    provider = FakeProvider(capabilities())
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", provider="fake")
    fleet.sample("acme", T0 + 1)
    fleet.tick(T0 + 2 * WINDOW_MS)
    provider.capabilities = replace(provider.capabilities, mode="live")
    assert fleet.tick_windows(1).problems == [], "its mode is learned"
    provider.capabilities = replace(provider.capabilities, mode="test")
    fleet.sample("acme", T0 + 3 * WINDOW_MS + 1)
    problems = fleet.tick_windows(3).problems
    assert any("mode was live, is test" in problem for problem in problems), problems
    assert charged(provider) == 60
    provider.capabilities = replace(provider.capabilities, mode="")
    assert fleet.tick_windows(1).problems == [], "of a machine without a key nothing is known"
    provider.capabilities = replace(provider.capabilities, mode="live")
    settle(fleet)
    assert charged(provider) == 120
