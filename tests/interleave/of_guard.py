"""The guard: uses of one small limit, holds of it that end, grow and are over, beside what changes the limit and puts
counters right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import sqlalchemy as sa

from drawdown.events.envelope import UsageEvent
from drawdown.guard.periods import start_of
from drawdown.schema.audit import By
from drawdown.schema.database import write
from drawdown.schema.errors import DatabaseBusy
from drawdown.schema.units import DAY_MS, MINUTE_MS
from drawdown.worker.checks import checks
from drawdown.worker.features.actions import map_event
from drawdown.worker.guard import overrides as guard_overrides
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard import use as guard
from drawdown.worker.guard.counters import State
from drawdown.worker.guard.emission import Emission
from drawdown.worker.guard.lists import Drift
from drawdown.worker.guard.overrides import Terms
from drawdown.worker.guard.terms import Change, PlanLimit
from drawdown.worker.guard.use import Answer, Ask, Wish, own_name
from drawdown.worker.sources.events.store import take
from drawdown.worker.sources.events.types import Bringer, meters
from drawdown.worker.wallets import actions as credit
from tests.interleave.party import Act, Party, plain
from tests.interleave.stage import NOW, Stage

BEE: Final = "bee"
"""A customer with twenty micro-credits, which may use ten sparks a month, at one each: one was used, two are held, and
four are held by a use that is over."""
MOST: Final = 10
_WHO: Final = ("somebody", "explored")
TURN: Final = start_of("month", NOW)
"""No counter is that of what was used before it and after it."""


def begin(stage: Stage) -> None:
    """What every case finds."""
    hour_ago = By(NOW - 61 * MINUTE_MS, *_WHO)

    def work(connection: sa.Connection) -> None:
        credit.grant(connection, BEE, 20, hour_ago, key=BEE, plan=None, new=True)
        guard_terms.set_metric(connection, "spark", Change(price_micro=1, phase=3), hour_ago)
        guard_terms.set_limit(connection, PlanLimit("spark", "*", "month", MOST), hour_ago)
        guard.consume(connection, "bee-used", Wish(BEE, "spark", 1), hour_ago)
        guard.reserve(connection, "bee-over", Wish(BEE, "spark", 4), hour_ago)
        guard.reserve(connection, "bee-going", Wish(BEE, "spark", 2, for_ms=DAY_MS), hour_ago)
        guard_terms.set_metric(connection, "gloom", Change(price_micro=1, phase=3, fails_open=True), hour_ago)
        guard_terms.set_limit(connection, PlanLimit("gloom", "*", "month", 1), hour_ago)
        terms = Terms("spark", "org", BEE, "day", 9, NOW + DAY_MS)
        guard_overrides.add(connection, terms, hour_ago, asked=True)
        meters(connection, ["glow.done"], hour_ago.now_ms)
        early = By(TURN - DAY_MS, *_WHO)
        guard_terms.set_metric(connection, "shine", Change(phase=3), early)
        guard_terms.set_limit(connection, PlanLimit("shine", "*", "month", MOST), early)

    write(stage.engine, work)


def _never_beyond(stage: Stage) -> Iterator[str]:
    """Counters are sums of uses; nothing but what was settled late brings them above the limit; each is paid for."""
    for used, lines, late in stage.rows(
        "SELECT c.used, (SELECT COALESCE(SUM(u.amount), 0) FROM guard_uses u WHERE u.org_id = c.org_id "
        "AND u.metric = c.metric), "
        "(SELECT COALESCE(SUM(u.amount), 0) FROM guard_uses u WHERE u.use_key = 'bee-over' AND u.state = 'settled') "
        "FROM guard_counters c WHERE c.org_id = 'bee' AND c.period = 'month' AND c.metric = 'spark'"
    ):
        if used != lines or int(str(used)) - int(str(late)) > MOST:
            yield f"bee's counter says {used}, its uses come to {lines}, {late} of them late, of {MOST}"
    ((charged, drawn),) = stage.rows(
        "SELECT (SELECT COALESCE(SUM(charged_micro), 0) FROM guard_uses WHERE org_id = 'bee'), "
        "(SELECT COALESCE(SUM(drawn_micro), 0) FROM reservations WHERE org_id = 'bee')"
    )
    if charged != drawn:
        yield f"bee's uses were charged {charged}, its runs have drawn {drawn}"


def _use(work: Callable[..., Answer], key: str, amount: int) -> Callable[[Stage, sa.Connection], object]:
    return lambda s, c: work(c, key, Wish(BEE, "spark", amount), s.by)


def _own(key: str, amount: int, org_id: str = BEE) -> Callable[[Stage, sa.Connection], object]:
    """By a key that is bound to the organisation."""
    return lambda s, c: guard.take(c, Ask(key, Wish(org_id, "spark", amount), s.by, own=True))


def _shines(at_ms: int, own: bool) -> Callable[[Stage, sa.Connection], object]:
    """One use by one key, as a server's clock has it."""
    return lambda s, c: guard.take(c, Ask("bee-turn", Wish(BEE, "shine", 3), By(at_ms, *_WHO), own=own))


def _shone_once(stage: Stage) -> Iterator[str]:
    """One use, that one month counts."""
    uses = stage.rows("SELECT amount FROM guard_uses WHERE metric = 'shine'")
    counted = stage.rows("SELECT used FROM guard_counters WHERE metric = 'shine' AND period = 'month' AND used > 0")
    if uses != [(3,)] or counted != [(3,)]:
        yield f"bee-turn was used {len(uses)} times, and its months count {counted}"


def _together(*asked: tuple[str, int, bool]) -> Callable[[Stage, sa.Connection], object]:
    """Several in one transaction: some are refused, and hold up none."""
    states: tuple[State, State] = ("used", "held")

    def work(stage: Stage, connection: sa.Connection) -> object:
        asks = [
            Ask(key, Wish(BEE, "spark", amount), stage.by, states[at % 2], own=own)
            for at, (key, amount, own) in enumerate(asked)
        ]
        return guard.take_all(connection, asks)

    return work


def _one_use_of_a_key(stage: Stage) -> Iterator[str]:
    """A key is one use of an organisation, whichever API key it comes by."""
    yield from _never_beyond(stage)
    names = f"('bee-1', '{own_name(BEE, 'bee-1')}')"
    ((uses,),) = stage.rows(f"SELECT COUNT(*) FROM guard_uses WHERE org_id = 'bee' AND use_key IN {names}")
    if int(str(uses)) > 1:
        yield f"bee-1 was used {uses} times"


def _off(stage: Stage) -> list[Drift]:
    """A counter that is as it should be by now: what is looked at may have been fixed meanwhile."""
    return [Drift(BEE, "spark", "month", start_of("month", stage.by.now_ms), 8, 7, 3)]


def _counted_once(stage: Stage) -> Iterator[str]:
    """What was let through counts once, beyond its limit."""
    found = stage.rows("SELECT used, uses FROM guard_counters WHERE metric = 'gloom' AND period = 'month'")
    if found and found != [(4, 1)]:
        yield f"what was let through is counted as {found}"


def _asked_once(stage: Stage) -> Iterator[str]:
    """The same is asked for once."""
    ((asked,),) = stage.rows("SELECT COUNT(*) FROM guard_overrides WHERE reach = 'plan' AND target = 'free'")
    if asked != 1:
        yield f"one override was asked for, and {asked} are there"


def _let_through(stage: Stage, connection: sa.Connection) -> object:
    return guard.let_through(connection, "bee-fail-open", Wish(BEE, "gloom", 4), stage.by, "used")


def _billed_once(stage: Stage) -> Iterator[str]:
    """Of a metric that costs something and the mapping of what it counts, one is there."""
    ((priced, mapped),) = stage.rows(
        "SELECT (SELECT COUNT(*) FROM guard_metrics WHERE metric = 'glow.done' AND price_micro > 0), "
        "(SELECT COUNT(*) FROM mappings WHERE feature = 'glow')"
    )
    if priced and mapped:
        yield "the guard charges for glow.done, and the seal bills it as glow"
    ((waits,),) = stage.rows("SELECT COUNT(*) FROM usage_events WHERE event_id = 'glow-1'")
    if priced and waits and not mapped:
        yield "the guard charges for glow.done, and an event of it went in, which nothing will ever bill"


GLOW: Final = UsageEvent("app", "glow-1", "glow.done", "acme", 3, NOW - 1)


def _sends_again(engine: sa.Engine) -> None:
    """What a sender does that is told to try again, for a price was set this moment. Where the connection was lost,
    whoever cuts it sends again."""
    try:
        write(engine, lambda c: take(c, [GLOW], NOW))
    except DatabaseBusy as error:
        if "just set a price" not in str(error):
            raise
        write(engine, lambda c: take(c, [GLOW], NOW))


def _emits(key: str, amount: int, event_type: str) -> Callable[[Stage, sa.Connection], object]:
    """A use whose event has one key, whichever use it is."""
    event = UsageEvent("/guard", "bee-event", event_type, BEE, 3, NOW - 1)
    emission = Emission(event, True, False, Bringer(key_name="app"))
    return lambda s, c: guard.consume(c, key, Wish(BEE, "spark", amount), s.by, emission)


def _billed_with_its_use(stage: Stage) -> Iterator[str]:
    """What emits an event is counted with it, or not at all; and nothing is charged at once and emitted."""
    yield from _never_beyond(stage)
    ((used, events, priced, mapped),) = stage.rows(
        "SELECT (SELECT COUNT(*) FROM guard_uses WHERE use_key LIKE 'bee-emits%'), "
        "(SELECT COUNT(*) FROM usage_events WHERE event_id = 'bee-event'), "
        "(SELECT COUNT(*) FROM guard_metrics WHERE metric = 'glow.done' AND price_micro > 0), "
        "(SELECT COUNT(*) FROM mappings WHERE feature = 'glow')"
    )
    if bool(used) != bool(events):
        yield f"{used} uses of bee's emit an event, and {events} are there"
    waits = stage.rows("SELECT 1 FROM usage_events WHERE event_id = 'bee-event' AND event_type = 'glow.done'")
    if priced and waits and not mapped:
        yield "the guard charges for glow.done, and a use emitted an event of it, which nothing will ever bill"


def _emits_again(stage: Stage) -> Act:
    """As `_sends_again`."""

    def work(engine: sa.Engine) -> None:
        use = _emits("bee-emits-3", 1, "glow.done")
        try:
            write(engine, lambda c: use(stage, c))
        except DatabaseBusy as error:
            if "just set a price" not in str(error):
                raise
            write(engine, lambda c: use(stage, c))

    return Act(work)


ACTS: Final = "cli.nouns.guard"
GUARD: Final = (
    plain(f"{ACTS}:consume", _use(guard.consume, "bee-1", 4), _never_beyond),
    plain(f"{ACTS}:consume another", _use(guard.consume, "bee-2", 5), _never_beyond),
    plain(
        "server.api.request_batching:_alone with its event", _emits("bee-emits", 4, "bee.done"), _billed_with_its_use
    ),
    plain(
        "server.api.request_batching:_alone with the same event",
        _emits("bee-emits-2", 5, "bee.done"),
        _billed_with_its_use,
    ),
    Party(
        "server.api.request_batching:_alone with an event of what may be charged", _emits_again, _billed_with_its_use
    ),
    plain("server.api.request_batching:_alone the same as its own", _own("bee-1", 4), _one_use_of_a_key),
    plain(
        "server.api.request_batching:_alone another organisation's of the key", _own("bee-1", 1, "acme"), _never_beyond
    ),
    plain(
        "server.api.request_batching:_alone another organisation's of the key", _own("bee-1", 1, "acme"), _never_beyond
    ),
    plain(
        "server.api.request_batching:_decide uses",
        _together(("bee-1", 4, False), ("bee-4", 2, True), ("bee-5", 9, True), ("bee-1", 4, True)),
        _one_use_of_a_key,
    ),
    plain(
        "server.api.request_batching:_decide other uses",
        _together(("bee-4", 2, True), ("bee-1", 5, False)),
        _one_use_of_a_key,
    ),
    plain(f"{ACTS}:consume as a month ends", _shines(TURN - 1, False), _shone_once),
    plain("server.api.request_batching:_alone the same as the next begins", _shines(TURN + 1, True), _shone_once),
    plain(f"{ACTS}:reserve", _use(guard.reserve, "bee-3", 6), _never_beyond),
    plain(f"{ACTS}:settle", lambda s, c: guard.settle(c, "bee-going", 1, s.by), _never_beyond),
    plain(f"{ACTS}:settle what is over", lambda s, c: guard.settle(c, "bee-over", 1, s.by)),
    plain(f"{ACTS}:release", lambda s, c: guard.release(c, "bee-going", 0, s.by), _never_beyond),
    plain(f"{ACTS}:extend", lambda s, c: guard.extend(c, "bee-going", 6, None, s.by), _never_beyond),
    plain(
        "cli.declared:run guard set",
        lambda s, c: guard_terms.set_metric(c, "spark", Change(price_micro=2, phase=3), s.by),
    ),
    plain(
        "cli.declared:run guard set a new one", lambda s, c: guard_terms.set_metric(c, "glow", Change(phase=1), s.by)
    ),
    plain(
        "cli.declared:run guard set it otherwise", lambda s, c: guard_terms.set_metric(c, "glow", Change(phase=2), s.by)
    ),
    plain(
        "cli.declared:run guard set a price of what may be metered",
        lambda s, c: guard_terms.set_metric(c, "glow.done", Change(price_micro=1, phase=3), s.by),
        _billed_once,
    ),
    plain(
        "cli.declared:run feature map-event what may be charged",
        lambda s, c: map_event(c, "glow.done", "glow", s.by),
        _billed_once,
    ),
    Party("host takes events of what may be charged", lambda _: Act(_sends_again), _billed_once),
    plain("cli.nouns.guard:reconcile", lambda s, c: checks.put_right(c, _off(s), 0, s.by), _never_beyond),
    plain("server.api.cron:_guard", lambda s, c: checks.put_right(c, _off(s), 0, s.by), _never_beyond),
    plain(
        "cli.declared:run limit set", lambda s, c: guard_terms.set_limit(c, PlanLimit("spark", "*", "month", 8), s.by)
    ),
    plain(
        "cli.declared:run limit end",
        lambda s, c: guard_terms.set_limit(c, PlanLimit("spark", "*", "month", None), s.by, ended=True),
    ),
    plain(
        "cli.nouns.overrides:_add",
        lambda s, c: guard_overrides.add(c, Terms("spark", "plan", "free", "hour", 9, NOW + DAY_MS), s.by, asked=True),
        _asked_once,
    ),
    plain(
        "cli.nouns.overrides:_add one that counts",
        lambda s, c: guard_overrides.add(
            c, Terms("spark", "pattern", "be*", "hour", 9, NOW + DAY_MS), s.by, asked=False
        ),
    ),
    plain("server.api.fail_open:_written", _let_through, _counted_once),
    plain("server.api.fail_open:_record_now the same", _let_through, _counted_once),
    plain("server.api.guard:decide_override", lambda s, c: guard_overrides.decide(c, 1, "refuse", s.by)),
    plain("server.api.guard:_on", lambda s, c: guard.settle(c, "bee-going", 2, s.by), _never_beyond),
    plain("cli.declared:run override approve", lambda s, c: guard_overrides.decide(c, 1, "approve", s.by)),
    plain("cli.declared:run override refuse", lambda s, c: guard_overrides.decide(c, 1, "refuse", s.by)),
)
