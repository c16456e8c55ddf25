"""A backlog of a day delays nobody's halt, no other customer's newest usage, and no other provider."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import pytest
import sqlalchemy as sa

from drawdown.cli.nouns.tick import report_lines
from drawdown.providers.protocol import Accepted, CustomerRead, CustomerState, Outcome, PushRequest, ReadFailed, RetryAt
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import write
from drawdown.schema.units import SECOND_MS, WINDOW_MS
from drawdown.server.metrics import render
from drawdown.worker.catalog.balance_parts import note_shown_parts
from drawdown.worker.engine.context import LEASE_MS, Context
from drawdown.worker.engine.effects import HaltRequest, Push, Transaction
from drawdown.worker.engine.fair_queue import AT_ONCE, READ_TRIES, NotBegun
from drawdown.worker.engine.shard import Shard
from drawdown.worker.push.claim import LONGEST_DUE, Claim, Claimed, claim_due, claim_size, longest_due
from drawdown.worker.push.outcome import Settlement, settle
from drawdown.worker.push.push import SPELL_MS, push
from drawdown.worker.push.push import _settle as settle_claim
from drawdown.worker.verdict.answers import SQL as ANSWERS
from drawdown.worker.verdict.answers import ClaimAnswers, ClaimedAt, ask_after_push
from tests.benchmarks.databases import tidy
from tests.fake_provider import FakeProvider, capabilities
from tests.integration.plans import explained, sequential
from tests.prepaid import Moving
from tests.world import T0, Cells, Fleet

GROWING = {"orgs", "pushes", "attempts", "assignments"}
OTHERS = 200
BACKLOG = 2_000
FAST = capabilities(batch_size=1, in_flight=64)
A_CLAIM = claim_size(FAST)


def owed(fleet: Fleet, orgs: int, windows: int, *, name: str, newest_ms: int = T0) -> None:
    """Pushes of so many organisations, of the windows up to one; each was due when its window began."""
    whose = [{"org": f"{name}-{number}", "bucket": number % 256} for number in range(orgs)]
    rows = [
        {"org": one["org"], "window": window, "key": f"usage:{one['org']}:{window}:compute"}
        for one in whose
        for window in range(newest_ms - (windows - 1) * WINDOW_MS, newest_ms + 1, WINDOW_MS)
    ]

    def work(connection: sa.Connection) -> None:
        insert = "INSERT INTO orgs (org_id, bucket, billing_provider) VALUES (:org, :bucket, 'fake')"
        connection.execute(sa.text(insert), whose)
        insert = (
            "INSERT INTO pushes (window_ms, org_id, feature, revision, provider, customer_id, sealed_qty, sent_qty, "
            "key, sealed_at_ms, seal_id, state, due_at_ms) "
            f"VALUES (:window, :org, 'compute', 0, 'fake', :org, 60, 60, :key, {T0}, 0, 'due', :window)"
        )
        connection.execute(sa.text(insert), rows)

    write(fleet.engine, work)


def claims(fleet: Fleet, count: int, worker: str = "w") -> Iterator[Claim]:
    """So many claims, none of which is settled."""
    for number in range(count):
        yield write(
            fleet.engine,
            lambda connection, number=number: claim_due(  # type: ignore[misc]
                connection,
                provider="fake",
                claim=f"{worker}/{number}",
                now=T0 + SECOND_MS,
                capabilities=FAST,
                shard=Shard(),
                witness=None,
            ),
        )


def test_claim_with_backlog_takes_newest_first_and_some_oldest(engine: sa.Engine) -> None:
    fleet = Fleet(engine)
    owed(fleet, 1, BACKLOG, name="big", newest_ms=T0 - WINDOW_MS)
    owed(fleet, OTHERS, 1, name="org")
    fleet.write("UPDATE orgs SET runs_out_ms = 7 WHERE org_id = 'org-9'")
    found = [claim.pushes for claim in claims(fleet, 3)]
    assert [len(pushes) for pushes in found] == [A_CLAIM] * 3
    of_big = [sorted(push.window_ms for push in pushes if push.org_id == "big-0") for pushes in found]
    left = OTHERS - (A_CLAIM - LONGEST_DUE)
    assert [len(windows) for windows in of_big] == [LONGEST_DUE, A_CLAIM - left, A_CLAIM]
    oldest, newest = T0 - BACKLOG * WINDOW_MS, T0 - WINDOW_MS
    assert of_big[0] == [oldest + age * WINDOW_MS for age in range(LONGEST_DUE)]
    assert of_big[1][LONGEST_DUE:] == [
        newest - age * WINDOW_MS for age in reversed(range(A_CLAIM - left - LONGEST_DUE))
    ]
    assert fleet.one("SELECT COUNT(*) FROM attempts") == 3 * A_CLAIM, "each is on record before it is sent"
    assert [pushes[0].org_id for pushes in found if any(push.org_id == "org-9" for push in pushes)] == ["org-9"], (
        "whose credit ends soonest begins"
    )


def test_claim_takes_some_attempted_pushes_beside_newest(engine: sa.Engine) -> None:
    fleet = Fleet(engine)
    owed(fleet, 1, 60, name="again", newest_ms=T0 - WINDOW_MS)
    fleet.write(f"UPDATE pushes SET attempts = 1, first_attempt_ms = {T0}")
    owed(fleet, OTHERS, 2, name="org")
    again = [sum(push.org_id == "again-0" for push in claim.pushes) for claim in claims(fleet, 5)]
    assert again == [LONGEST_DUE, LONGEST_DUE, LONGEST_DUE, 60 - 3 * LONGEST_DUE, 0]


def settled(
    engine: sa.Engine, found: Sequence[Claimed], ends: Sequence[Settlement], claim: str, ask: partial[None]
) -> None:
    """What became of a claim is written."""
    note = partial(note_shown_parts, provider="fake", shown={})
    what = partial(
        settle_claim,
        batch=found,
        settled=ends,
        claim=claim,
        now=T0,
        in_ledger=False,
        witness=None,
        ask=ask,
        note=note,
    )
    write(engine, what)


def ask_nobody(_connection: sa.Connection, *, now_ms: int) -> None:
    """Of whom there is no need."""
    assert now_ms == T0


def test_claimed_push_not_begun_is_claimed_before_backlog(engine: sa.Engine) -> None:
    fleet = Fleet(engine)
    owed(fleet, 1, BACKLOG, name="big", newest_ms=T0 - WINDOW_MS)
    owed(fleet, A_CLAIM - LONGEST_DUE, 1, name="org")
    for attempt in range(2):
        found = next(claims(fleet, 1, f"spell-{attempt}")).pushes
        assert sum(push.org_id != "big-0" for push in found) == A_CLAIM - LONGEST_DUE
        ends = [settle(NotBegun(T0, "over"), attempt + 1, T0, FAST) for _ in found]
        settled(engine, found, ends, f"spell-{attempt}/0", partial(ask_nobody))


def test_tick_with_single_push_batches_sends_all(engine: sa.Engine) -> None:
    fake = FakeProvider(capabilities(batch_size=1))
    fleet = Fleet(engine, extra={"fake": fake})
    owed(fleet, 3, 4, name="org")
    fleet.write("UPDATE pushes SET attempts = 1 WHERE org_id = 'org-1'")
    fleet.tick(T0 + SECOND_MS)
    assert len(fake.charged) == 12


@pytest.mark.parametrize("known", ["empty", "full"])
def test_claim_uses_index_for_due_pushes(engine: sa.Engine, known: str) -> None:
    """By statistics of when nothing was due, or of now."""
    fleet = Fleet(engine)
    if known == "empty":
        tidy(engine)
    owed(fleet, 100, 50, name="big")
    if known == "full":
        tidy(engine)
    with explained(engine) as plans:
        list(claims(fleet, 1))
    found = {text: plan for text, plan in plans.items() if "attempts = pushes.attempts + 1" in text}
    assert len(found) == 2, "of those that wait longest, and of the newest"
    for text, plan in found.items():
        index = "pushes_unsent" if "window_ms DESC" in text else "pushes_open"
        assert "Seq Scan on pushes" not in plan, plan
        if engine.dialect.name == "postgresql":
            assert index in plan and "Sort" not in plan, plan
        else:
            assert index in how(engine, text), how(engine, text)
            assert "TEMP B-TREE" not in how(engine, text), how(engine, text)


@pytest.mark.parametrize("known", ["empty", "full"])
def test_claim_answers_are_written_without_table_scan(engine: sa.Engine, known: str) -> None:
    """PostgreSQL thinks little of reading a table whole: all 20,000 organisations, twice, for the 128 of a portion."""
    fleet = Fleet(engine)
    if known == "empty":
        tidy(engine)
    owed(fleet, 3_000, 1, name="org")
    before = "SELECT window_ms, org_id, feature, revision, 9, 1, '', 60 FROM pushes"
    columns = "window_ms, org_id, feature, revision, attempt, started_ms, owner, sent_qty"
    fleet.write(f"INSERT INTO attempts ({columns}) {before}")
    columns = "org_id, start_ms, provider, customer_id, at_ms, actor, reason"
    fleet.write(f"INSERT INTO assignments ({columns}) SELECT org_id, 0, 'fake', org_id, 0, '', '' FROM orgs")
    if known == "full":
        tidy(engine)
    found, outcomes = next(claims(fleet, 1)).pushes, [Accepted()] * A_CLAIM
    asked = partial(ask_after_push, lane=ClaimedAt("fake", FAST, T0), answers=ClaimAnswers(found).take(found, outcomes))
    with explained(engine) as plans:
        settled(engine, found, [settle(outcome, 1, T0, FAST) for outcome in outcomes], "w/0", asked)
    assert {text: plan for text, plan in plans.items() if sequential(plan) & GROWING} == {}
    assert {text: plan for text, plan in plans.items() if "Materialize" in plan} == {}, "of all whom it bills, for each"
    assert fleet.one("SELECT COUNT(*) FROM orgs WHERE projection_due_ms IS NOT NULL") == A_CLAIM


@pytest.mark.parametrize("known", ["empty", "full"])
def test_unsure_pushes_are_found_without_scan_of_settled_pushes(engine: sa.Engine, known: str) -> None:
    """By statistics of when there were no pushes, or of now: each portion of answers asks for it."""
    fleet = Fleet(engine)
    if known == "empty":
        tidy(engine)
    owed(fleet, 100, 50, name="big")
    fleet.write("UPDATE pushes SET state = 'accepted', first_attempt_ms = 1")
    owed(fleet, 20, 2, name="open", newest_ms=T0 - WINDOW_MS)
    if known == "full":
        tidy(engine)
    list(claims(fleet, 1))
    values = {"org_ids": ["big-1", "open-1"], "provider": "fake", "claimed_ms": T0 + 2 * SECOND_MS}
    with explained(engine) as plans, engine.connect() as connection:
        assert ANSWERS.run(connection, "unsure", values).scalars().all() == ["open-1"]
    ((text, plan),) = plans.items()
    assert "Seq Scan on pushes" not in plan, plan
    assert "pushes_open" in (plan if engine.dialect.name == "postgresql" else how(engine, text)), plan


def how(engine: sa.Engine, text: str) -> str:
    with engine.connect() as connection:
        rows = connection.connection.cursor().execute(f"EXPLAIN QUERY PLAN {text}", [0] * text.count("?")).fetchall()
    return "\n".join(str(row) for row in rows)


class TimedCells(Cells):
    """Cells that know when they were first told of an organisation."""

    def __init__(self, clock: Moving) -> None:
        super().__init__()
        self.clock, self.told = clock, dict[str, int]()

    async def send(self, halts: Sequence[HaltRequest]) -> list[str | None]:
        for halt in halts:
            self.told.setdefault(halt.org_id, self.clock.at_ms)
        return await super().send(halts)


@dataclass
class Slow(FakeProvider):
    """Each call takes a second of the clock's time."""

    clock: Moving = field(default_factory=lambda: Moving(T0))
    others: FakeProvider | None = None
    charged_by_others: list[int] = field(default_factory=list)

    async def push(self, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        await asyncio.sleep(0)
        self.clock.at_ms += SECOND_MS
        if self.others is not None:
            self.charged_by_others.append(len(self.others.charged))
        return await super().push(batch)


def test_backlog_at_provider_does_not_delay_other_provider_or_halt(engine: sa.Engine) -> None:
    """It takes all the time there is; meanwhile one's credit is found gone, and one that nobody bills is halted."""
    clock = Moving(T0)
    other = FakeProvider(capabilities(), name="other")
    slow = Slow(capabilities(batch_size=1), name="fake", clock=clock, others=other)
    slow.states["poor"] = CustomerState(0, None, None)
    fleet = Fleet(engine, clock, TimedCells(clock), {"fake": slow, "other": other})
    fleet.write("INSERT INTO cells (cell_id, url) VALUES ('cell-1', 'http://cell-1')")
    for org, provider in (("poor", "fake"), ("quick", "other"), ("free", "none")):
        fleet.assign(org, provider=provider, from_ms=T0)
        fleet.sample(org, T0 + 1)
        columns = "(sandbox_id, org_id, cell_id, state)"
        fleet.write(f"INSERT INTO sandboxes {columns} VALUES ('box-{org}', '{org}', 'cell-1', 'running')")
    owed(fleet, 1, 400, name="big")
    fleet.write("UPDATE orgs SET operator_halt = true, is_halted = true, halted_at = 1 WHERE org_id = 'free'")
    began = T0 + 2 * WINDOW_MS
    report = fleet.tick(began, deadline_ms=began + 240 * SECOND_MS)
    assert 100 < len(slow.seen) < 200, "for five eighths of the time"
    assert report.left.due > 200
    assert slow.charged_by_others[SPELL_MS // SECOND_MS] == 1, "the other provider's was sent meanwhile"
    assert isinstance(fleet.cells, TimedCells)
    assert {org: (at - began) // SPELL_MS for org, at in fleet.cells.told.items()} == {"poor": 1, "free": 1}


@dataclass
class OneIsSlow(FakeProvider):
    """Each call for one customer takes two seconds of the clock's time."""

    clock: Moving = field(default_factory=lambda: Moving(T0))
    last_ms: int = 0

    async def push(self, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        await asyncio.sleep(0)
        if batch[0].customer_id == "slow-0":
            self.clock.at_ms += 2 * SECOND_MS
            await asyncio.sleep(0.005)
        return await super().push(batch)


@pytest.mark.parametrize("in_flight", [64, 1_024])
def test_slow_customer_delays_verdicts_by_single_spell(engine: sa.Engine, in_flight: int) -> None:
    """It has a whole claim of pushes, which would take two minutes; what is not begun goes on in the next spell."""
    clock = Moving(T0)
    slow = OneIsSlow(capabilities(batch_size=1, in_flight=in_flight), name="fake", clock=clock)
    slow.states["poor"] = CustomerState(0, None, None)
    fleet = Fleet(engine, clock, TimedCells(clock), {"fake": slow})
    fleet.write("INSERT INTO cells (cell_id, url) VALUES ('cell-1', 'http://cell-1')")
    fleet.assign("poor", provider="fake", from_ms=T0)
    fleet.sample("poor", T0 + 1)
    columns = "(sandbox_id, org_id, cell_id, state)"
    fleet.write(f"INSERT INTO sandboxes {columns} VALUES ('box-poor', 'poor', 'cell-1', 'running')")
    owed(fleet, 1, 60, name="slow")
    began = T0 + 2 * WINDOW_MS
    report = fleet.tick(began, deadline_ms=began + 240 * SECOND_MS)
    assert isinstance(fleet.cells, TimedCells)
    assert fleet.cells.told["poor"] - began <= SPELL_MS + 2 * AT_ONCE * 2 * SECOND_MS, "and its last calls"
    assert (report.accepted, report.left.due) == (61, 0) and len(slow.seen) == len(slow.charged) == 61
    assert fleet.rows("SELECT DISTINCT outcome FROM attempts WHERE outcome <> 'accepted'") == [("retry",)]


def test_push_not_begun_does_not_count_as_provider_failure(engine: sa.Engine) -> None:
    fleet, clock = Fleet(engine), FixedClock(T0 + SECOND_MS)
    owed(fleet, 3, 1, name="org")
    for answer, failures in ((NotBegun(T0, "later"), 0), (RetryAt(T0, "503"), 5)):
        context = Context("w", clock, {"fake": FAST})
        steps, answered, rounds = push(context, "fake"), None, 0
        with suppress(StopIteration):
            while rounds < 6:
                match steps.send(answered):
                    case Transaction(_, work):
                        answered = write(engine, work)
                    case Push(_, batch):
                        answered, rounds = dict.fromkeys(range(len(batch)), answer), rounds + 1
                clock.at_ms += SECOND_MS
        assert context.breaker("fake").failures == failures
        clock.at_ms += LEASE_MS


def test_throttled_customers_do_not_block_due_customers(engine: sa.Engine) -> None:
    fake = FakeProvider(FAST)
    fleet = Fleet(engine, extra={"fake": fake})
    owed(fleet, 16, 8, name="busy")
    owed(fleet, OTHERS, 2, name="org", newest_ms=T0 - WINDOW_MS)
    for (key,) in fleet.rows("SELECT key FROM pushes WHERE org_id LIKE 'busy%'"):
        fake.answers[str(key)] = RetryAt(T0 + 29 * SECOND_MS, "429", too_many=True)
    report = fleet.tick(T0 + SECOND_MS, stopping=lambda: len(fake.charged) == 2 * OTHERS)
    assert report.accepted == 2 * OTHERS
    assert len(fake.seen) == 2 * OTHERS + 16, "each is asked once"


class Narrow(FakeProvider):
    """Takes fewer calls at once than it declares; the others are turned away."""

    under_way = 0

    async def push(self, batch: Sequence[PushRequest]) -> Sequence[Outcome]:
        self.under_way += 1
        try:
            taken = self.under_way <= 8
            await asyncio.sleep(0.001)
            return await super().push(batch) if taken else [RetryAt(T0, "429: slow down", too_many=True) for _ in batch]
        finally:
            self.under_way -= 1


def test_lowered_provider_limit_is_reported_and_each_push_charged_once(engine: sa.Engine) -> None:
    narrow = Narrow(FAST)
    fleet = Fleet(engine, extra={"fake": narrow})
    owed(fleet, 3 * OTHERS, 1, name="org")
    report = fleet.tick(T0 + SECOND_MS)
    (at_once,) = report.calls_cut.values()
    assert (
        at_once <= 8
        and f"fake limited the rate of calls, so Drawdown lowered its concurrent calls to {at_once}"
        in report_lines(report)
    )
    assert report.accepted == len(narrow.seen) == len(narrow.charged) > OTHERS
    told = b'drawdown_calls_cut_to{provider="fake"} %d.0' % at_once
    assert told in render(engine, fleet.clock.at_ms)
    for _ in range(20):
        report = fleet.tick(fleet.clock.at_ms + WINDOW_MS)
    assert len(narrow.seen) == len(narrow.charged) == 3 * OTHERS
    assert report.exit_status == 0
    assert b"drawdown_calls_cut_to{" not in render(engine, fleet.clock.at_ms)


def that_uses(engine: sa.Engine, provider: FakeProvider) -> Fleet:
    """OTHERS organisations of a provider, each of which used something and was never read."""
    fleet = Fleet(engine, extra={"fake": provider})
    orgs = [f"org-{number}" for number in range(OTHERS)]
    fleet.assign(*orgs, provider="fake", from_ms=T0)
    for org in orgs:
        fleet.sample(org, T0 + 1)
    return fleet


class FewReads(FakeProvider):
    """Takes fewer reads at once than are made; the others are turned away."""

    under_way = 0

    async def customers(self, customer_ids: Sequence[str]) -> Mapping[str, CustomerRead]:
        self.under_way += 1
        try:
            taken = self.under_way <= 8
            await asyncio.sleep(0.001)
            told = await super().customers(customer_ids)
            return told if taken else dict.fromkeys(told, ReadFailed("429: slow down", too_many=True))
        finally:
            self.under_way -= 1


def test_throttled_reads_are_reported_and_all_customers_are_read(engine: sa.Engine) -> None:
    few = FewReads(FAST)
    fleet = that_uses(engine, few)
    report = fleet.tick(T0 + 2 * WINDOW_MS)
    at_once = report.calls_cut["fake"]
    assert at_once <= 8 and report.projected >= OTHERS * 9 // 10, (
        "who was turned away is asked for again in the same tick"
    )
    assert f"fake limited the rate of calls, so Drawdown lowered its concurrent calls to {at_once}" in report_lines(
        report
    )
    left = "SELECT COUNT(*) FROM orgs WHERE projection_read_ms IS NULL"
    for _ in range(3):  # more is tried at once now and then, and who is turned away twice is left to the next tick
        if fleet.one(left):
            fleet.tick(fleet.clock.at_ms + WINDOW_MS)
    assert fleet.one(left) == 0


def test_customer_always_throttled_is_read_twice_then_left_to_next_tick(
    engine: sa.Engine,
) -> None:
    class OneAway(FakeProvider):
        asked = 0

        async def customers(self, customer_ids: Sequence[str]) -> Mapping[str, CustomerRead]:
            told = dict(await super().customers(customer_ids))
            if "org-7" in told:
                self.asked += 1
                told["org-7"] = ReadFailed("429: slow down", too_many=True)
            return told

    provider = OneAway(FAST)
    fleet = that_uses(engine, provider)
    report = fleet.tick(T0 + 2 * WINDOW_MS)
    assert (report.projected, provider.asked, report.calls_cut) == (OTHERS - 1, 2, {})


def test_throttled_reads_of_all_customers_are_retried_within_limit(engine: sa.Engine) -> None:
    asked = Counter[str]()

    class AllAway(FakeProvider):
        async def customers(self, customer_ids: Sequence[str]) -> Mapping[str, CustomerRead]:
            asked.update(customer_ids)
            return dict.fromkeys(customer_ids, ReadFailed("429: slow down", too_many=True))

    fleet = that_uses(engine, AllAway(FAST))
    report = fleet.tick(T0 + 2 * WINDOW_MS)
    assert (report.projected, report.calls_cut) == (0, {"fake": 1}) and len(asked) == OTHERS
    assert max(asked.values()) <= READ_TRIES and sum(asked.values()) <= 2 * OTHERS, (
        "each once, and those of six cuts again"
    )


def test_claim_of_single_push_takes_oldest_in_a_quarter_of_claims() -> None:
    """Or a push that was sent once would wait for as long as new ones come."""
    oldest = sum(longest_due(1, f"host/{number}") for number in range(400))
    assert 60 < oldest < 140 and {longest_due(3, "host/1"), longest_due(3, "host/2"), longest_due(3, "host/3")} <= {
        0,
        1,
    }
    assert (longest_due(4, "host/1"), longest_due(1_000, "host/1")) == (1, LONGEST_DUE)
