"""Organisations moved among three billers while they use, while samples come late and others are withdrawn.

Each second is billed once, by whoever was in force at its window: what the three charged, by their own account, is
compared with what plain Python makes of the samples and the assignments.
"""

from __future__ import annotations

import asyncio
import csv
import random
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.cli.nouns.orgs import read_flips
from drawdown.providers import autumn, stripe
from drawdown.providers.kit.emulator import Direct, FaultPlan
from drawdown.providers.protocol import CustomerRead, CustomerState, Provider, ReadFailed, Setup
from drawdown.schema.audit import By
from drawdown.schema.database import connect, read, write
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.migrate import upgrade
from drawdown.schema.units import MINUTE_MS, WINDOW_MS, next_window
from drawdown.worker.engine import runner
from drawdown.worker.engine.effects import Steps, Transaction
from drawdown.worker.orgs import assignments, flips
from drawdown.worker.orgs.flips import Flip, FlipOptions, Wish, flip
from drawdown.worker.usage import withdrawals
from drawdown.worker.verdict.project import ORGS_A_ROUND
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets import actions as credit
from tests.acceptance.commands import drawdown, must, one_clear_line
from tests.emulators.autumn import AutumnEmulator
from tests.emulators.stripe import StripeEmulator
from tests.fake_provider import FakeProvider, capabilities
from tests.whole import share
from tests.world import T0, Fleet

FEATURE = "compute_1gb"
BILLERS = ("embedded", "autumn", "stripe")
ORGS = [f"org-{number:04}" for number in range(share(60, whole=2_000))]
CHUNK, OVER = share((12, 5), whole=(flips.CHUNK, 57))
"""How many are moved in one transaction, and how many more stand in a file."""
ROUNDS = 8
CREDIT = 10**9

Billed = dict[tuple[str, str, int], int]
"""Seconds by (biller, customer, window)."""


def customer_of(org: str, biller: str) -> str:
    return f"cus_{org}" if biller == "stripe" else org


class Billers:
    """A fleet with Autumn and Stripe beside the embedded ledger."""

    def __init__(self, engine: sa.Engine, names: Sequence[str], rates: Mapping[str, float] | None = None) -> None:
        self.fleet = Fleet(engine)
        clock = self.fleet.clock
        self.autumn = AutumnEmulator(FaultPlan(1, rates or {}), lists_per_s=10**9)
        self.stripe = StripeEmulator(FaultPlan(2, rates or {}))
        self.autumn.account.add_feature(FEATURE)
        self.stripe.add_meter(FEATURE)
        for org in names:
            self.autumn.account.add_customer(org, T0)
            self.autumn.account.grant(org, FEATURE, CREDIT, T0)
            self.stripe.add_customer(customer_of(org, "stripe"))
        made: dict[str, Provider] = {}
        for name, emulator, build in (("autumn", self.autumn, autumn.build), ("stripe", self.stripe, stripe.build)):
            settings = {"secret_key": emulator.secret_key, "url": "https://billing.test"}
            made[name] = build(Setup(name, settings, clock, Direct(emulator, clock), engine))
            # Seconds of this clock are not the machine's: rates a second would only make the test slow.
            made[name].capabilities = replace(
                made[name].capabilities, calls_per_s=None, reads_per_s=None, lookups_per_s=None
            )
        self.fleet.extra = made

    def credit(self, names: Sequence[str]) -> None:
        """Wallets of the embedded ledger."""

        def all_of_them(connection: sa.Connection) -> None:
            for org in names:
                credit.grant(connection, org, 10**15, By(T0, "t", "t"), key=org, plan=None)

        write(self.fleet.engine, all_of_them)

    def do(self, steps: Steps[Any]) -> Any:
        fleet = self.fleet
        return runner.run(steps, runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock))

    def flip(self, wishes: Sequence[Wish], provider: str, **terms: Any) -> list[Flip]:
        done: list[Flip] = self.do(flip(self.fleet.context(), wishes, FlipOptions(provider, **terms), self.fleet.by))
        return done

    def charged(self) -> Billed:
        """What each biller charged, by its own account."""
        found: Billed = defaultdict(int)
        ledger = "SELECT SUBSTR(from_account, 8), ts, quantity FROM ledger_entries WHERE kind = 'usage'"
        for customer, ts, seconds in self.fleet.rows(ledger):
            found["embedded", str(customer), int(str(ts)) // WINDOW_MS * WINDOW_MS] += int(str(seconds))
        for (customer, _, ts), seconds in self.autumn.charged_by().items():
            found["autumn", customer, ts // WINDOW_MS * WINDOW_MS] += int(seconds)
        for (customer, _, ts_s), seconds in self.stripe.charged_by().items():
            found["stripe", customer, ts_s * 1000 // WINDOW_MS * WINDOW_MS] += int(seconds)
        return {place: seconds for place, seconds in found.items() if seconds}


@dataclass
class Oracle:
    """Samples and assignments, in plain Python."""

    samples: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    withdrawn: set[str] = field(default_factory=set)
    billers: dict[str, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))
    """By organisation: the biller from each start on."""

    def biller(self, org: str, at_ms: int) -> str:
        starts = sorted(self.billers[org])
        return self.billers[org][starts[bisect_right(starts, at_ms) - 1]]

    def expected(self) -> Billed:
        found: Billed = defaultdict(int)
        for name, (org, ts, seconds) in self.samples.items():
            if name not in self.withdrawn:
                window = ts // WINDOW_MS * WINDOW_MS
                biller = self.biller(org, window)
                found[biller, customer_of(org, biller), window] += seconds
        return {place: seconds for place, seconds in found.items() if seconds}


@dataclass
class Story:
    """What happens to many organisations in eight ticks."""

    billers: Billers
    folder: Path
    dice: random.Random
    orgs: Sequence[str]
    oracle: Oracle = field(default_factory=Oracle)
    count: Counter[str] = field(default_factory=Counter)

    @property
    def fleet(self) -> Fleet:
        return self.billers.fleet

    def begin(self) -> None:
        self.billers.credit(self.orgs)
        chosen = {org: self.dice.choice(BILLERS) for org in self.orgs}

        def assign_all(connection: sa.Connection) -> None:
            for org, biller in chosen.items():
                customer = customer_of(org, biller)
                assignments.assign(connection, [org], biller, self.fleet.by, customer_id=customer, from_ms=T0)

        write(self.fleet.engine, assign_all)
        for org, biller in chosen.items():
            self.oracle.billers[org][T0] = biller

    def use(self) -> None:
        """Usage of the last windows, and some that comes late."""
        now = self.fleet.clock.at_ms
        made = []
        for org in self.dice.sample(self.orgs, len(self.orgs) * 9 // 20):
            late = self.dice.random() < 0.3
            ts = self.dice.randrange(T0 if late else max(T0, now - 2 * WINDOW_MS), now)
            name = f"s{len(self.oracle.samples)}"
            self.oracle.samples[name] = (org, ts, self.dice.randrange(1, 300))
            made.append(name)
        text = sa.text(
            "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
            "VALUES (:id, :org, 'box', 'cell-1', 1024, :seconds, :ts, :now)"
        )
        rows = [
            {"id": name, "org": org, "ts": ts, "seconds": seconds, "now": now}
            for name in made
            for org, ts, seconds in [self.oracle.samples[name]]
        ]
        write(self.fleet.engine, lambda c: c.execute(text, rows))

    def withdraw(self) -> None:
        names = self.dice.sample(sorted(set(self.oracle.samples) - self.oracle.withdrawn), len(self.orgs) // 12)
        write(self.fleet.engine, lambda c: withdrawals.withdraw(c, names, self.fleet.by))
        self.oracle.withdrawn.update(names)

    def moved(self, done: Sequence[Flip], biller: str, start: int) -> None:
        for one in done:
            if one.start_ms is None:
                assert one.already or "a later assignment" in str(one.problem) or "that starts at" in str(one.problem)
                self.count["already there" if one.already else "one was scheduled"] += 1
                continue
            assert one.start_ms == start and one.problem is None
            self.oracle.billers[one.org_id][start] = biller
            self.count["flipped"] += 1

    def flip_some(self) -> None:
        """At random: some from the next window on, some later."""
        each = len(self.orgs) * 3 // 100
        chosen = self.dice.sample(self.orgs, 6 * each)
        for number, biller in enumerate(BILLERS * 2):
            wishes = [Wish(org, customer_of(org, biller)) for org in chosen[number * each : (number + 1) * each]]
            soon = next_window(self.fleet.clock.at_ms)
            start = soon + (number >= 3) * self.dice.randrange(1, 9) * WINDOW_MS
            done = self.billers.flip(wishes, biller, from_ms=start if number >= 3 else None, each_alone=True)
            self.moved(done, biller, start)

    def scheduled(self) -> dict[str, int]:
        """Flips that have not begun: organisation to the start of its last one."""
        last = {org: max(starts) for org, starts in self.oracle.billers.items()}
        return {org: start for org, start in last.items() if start > self.fleet.clock.at_ms}

    def cancel_some(self) -> None:
        coming = self.scheduled()
        for org in self.dice.sample(sorted(coming), len(coming) // 4):
            write(self.fleet.engine, lambda c, org=org: assignments.cancel(c, org, self.fleet.by))  # type: ignore[misc]
            del self.oracle.billers[org][coming[org]]
            self.count["cancelled"] += 1

    def flip_from_a_file(self, biller: str) -> None:
        """A file of two chunks and a line that cannot be: interrupted after the first chunk, and given again."""
        file = self.folder / f"flips-{biller}.csv"
        coming = self.scheduled()
        free = [org for org in self.orgs if org not in coming and self._latest(org) != biller]
        chosen = self.dice.sample(free, CHUNK + OVER)
        with file.open("w", newline="") as out:
            writer = csv.writer(out)
            writer.writerow(("org_id", "customer_id"))
            writer.writerows((org, customer_of(org, biller)) for org in chosen)
            writer.writerow(("org-new", chosen[0] if biller == "embedded" else "nobody"))
        wishes, terms = read_flips(file), FlipOptions(biller, each_alone=True)
        steps = flip(self.fleet.context(), wishes, terms, self.fleet.by)
        self.billers.do(_broken_off(steps))
        before = self._assignments()
        done = self.billers.flip(wishes, biller, each_alone=True)
        assert [one.already for one in done] == [True] * CHUNK + [False] * (OVER + 1), "what was done stays done"
        assert self._assignments() - before == OVER
        assert done[-1].line == CHUNK + OVER + 2 and done[-1].problem is not None and done[-1].start_ms is None
        start = next_window(self.fleet.clock.at_ms)
        self.moved([replace(one, already=False, start_ms=start) for one in done[:-1]], biller, start)
        again = self.billers.flip(wishes, biller, each_alone=True)
        assert sum(one.already for one in again) == CHUNK + OVER
        self.count["from a file"] += CHUNK + OVER

    def _latest(self, org: str) -> str:
        return self.oracle.billers[org][max(self.oracle.billers[org])]

    def _assignments(self) -> int:
        return int(str(self.fleet.one("SELECT COUNT(*) FROM assignments")))

    def shown_are_in_force(self) -> None:
        shown = {str(org): str(biller) for org, biller in self.fleet.rows("SELECT org_id, billing_provider FROM orgs")}
        shown.pop("org-new", None)
        assert shown == {org: self.oracle.biller(org, self.fleet.clock.at_ms) for org in self.orgs}


def _broken_off(steps: Steps[Any]) -> Steps[None]:
    """The same steps, but the process dies once the first chunk is committed."""
    effect = next(steps)
    while True:
        answer = yield effect
        if isinstance(effect, Transaction) and effect.name == "assign":
            steps.close()
            return
        effect = steps.send(answer)


def test_orgs_reassigned_at_random_are_billed_once_by_provider_in_force(
    engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flips, "CHUNK", CHUNK)
    story = Story(Billers(engine, ORGS, {"throttled": 0.05, "answer_lost": 0.03}), tmp_path, random.Random(1), ORGS)
    fleet = story.fleet
    story.begin()
    fleet.clock.at_ms += WINDOW_MS
    for number in range(ROUNDS):
        fleet.clock.at_ms += story.dice.randrange(1, 4) * WINDOW_MS + story.dice.randrange(WINDOW_MS)
        story.use()
        story.flip_some()
        if number:
            story.withdraw()
            story.cancel_some()
        if number in (2, 4, 6):
            story.flip_from_a_file(BILLERS[number // 2 - 1])
        fleet.tick()
        story.shown_are_in_force()
    for step in (WINDOW_MS, WINDOW_MS, 60 * MINUTE_MS, 60 * MINUTE_MS):
        report = fleet.tick(fleet.clock.at_ms + step)
    assert report.exit_status == 0, report
    story.shown_are_in_force()

    expected, charged = story.oracle.expected(), story.billers.charged()
    wrong = {place for place in expected.keys() | charged.keys() if expected.get(place) != charged.get(place)}
    assert not wrong, f"{len(wrong)}: {[(one, expected.get(one), charged.get(one)) for one in sorted(wrong)[:5]]}"
    assert story.billers.autumn.doubles == [] and story.billers.stripe.doubles == []
    assert read(engine, verify).breaches == []
    by_biller = Counter(dict.fromkeys(BILLERS, 0))
    for (biller, _, _), seconds in expected.items():
        by_biller[biller] += seconds
    assert min(by_biller.values()) > 10 * len(ORGS) and min(story.count.values()) > share(2, whole=20), (
        by_biller,
        story.count,
    )
    corrections_made = fleet.one("SELECT COUNT(*) FROM pushes WHERE sealed_qty < 0")
    print(f"\n{dict(story.count)}; seconds {dict(by_biller)}; {corrections_made} corrections")


# Refusals: each names what is wrong, and changes nothing.


@pytest.fixture
def billers(engine: sa.Engine) -> Billers:
    """Two organisations at the embedded ledger, with usage that was sealed."""
    made = Billers(engine, ["acme", "bolt"])
    made.credit(["acme", "bolt"])
    made.fleet.assign("acme", "bolt", from_ms=T0)
    made.fleet.sample("acme", T0 + 1)
    made.fleet.tick(T0 + 3 * WINDOW_MS)
    return made


def unchanged(billers: Billers) -> list[list[tuple[object, ...]]]:
    tables = ("assignments ORDER BY org_id, start_ms", "operator_actions ORDER BY 1", "orgs ORDER BY org_id")
    return [billers.fleet.rows(f"SELECT * FROM {table}") for table in tables]


def refused(billers: Billers, says: str, wishes: Sequence[Wish], provider: str, **terms: Any) -> None:
    before = unchanged(billers)
    with pytest.raises(Refused, match=says):
        billers.flip(wishes, provider, **terms)
    assert unchanged(billers) == before
    (told, *_) = billers.flip(wishes, provider, dry_run=True, **terms)
    assert told.problem is not None and unchanged(billers) == before, "a dry run says it, too"


def test_assignment_from_sealed_window_is_refused(billers: Billers) -> None:
    refused(billers, "acme: windows up to .* are sealed", [Wish("acme")], "autumn", from_ms=T0 + WINDOW_MS)


def test_assignment_to_customer_of_another_org_is_refused(billers: Billers) -> None:
    billers.flip([Wish("bolt")], "autumn")
    says = "the customer bolt at autumn belongs to the organisation bolt"
    refused(billers, says, [Wish("acme", "bolt")], "autumn")


@pytest.mark.parametrize(
    ("provider", "says"),
    [
        ("autumn", "acme: the customer ghost does not exist at autumn.*--unchecked"),
        ("stripe", "acme: .*ghost.*the customer does not exist at Stripe.*--unchecked"),
    ],
)
def test_assignment_to_missing_customer_is_refused(billers: Billers, provider: str, says: str) -> None:
    refused(billers, says, [Wish("acme", "ghost")], provider)
    two = [Wish("acme", "ghost"), Wish("bolt", "cus_bolt" if provider == "stripe" else "bolt")]
    refused(billers, says, two, provider)


def test_assignment_that_would_halt_needs_allow_halt(billers: Billers) -> None:
    for grant in billers.autumn.account.customers["acme"].grants[FEATURE]:
        grant.balance = 0
    refused(billers, "acme: the customer acme does not have credit at autumn.*--allow-halt", [Wish("acme")], "autumn")
    (done,) = billers.flip([Wish("acme")], "autumn", allow_halt=True)
    assert done.start_ms is not None and "the assignment halts the organisation when it takes effect" in str(done.note)
    billers.fleet.tick_windows(2)
    halted = "SELECT org_id, billing_provider, is_halted, halt_reason FROM orgs WHERE is_halted"
    assert [tuple(row) for row in billers.fleet.rows(halted)] == [("acme", "autumn", True, "credits_exhausted")]


def test_assignment_to_customer_without_credit_needs_allow_halt(billers: Billers) -> None:
    billers.flip([Wish("acme")], "autumn")
    billers.fleet.tick_windows(2)
    for grant in billers.autumn.account.customers["bolt"].grants[FEATURE]:
        grant.balance = 0
    refused(
        billers,
        "acme: the customer bolt does not have credit at autumn.*--allow-halt",
        [Wish("acme", "bolt")],
        "autumn",
    )
    (done,) = billers.flip([Wish("acme", "bolt")], "autumn", allow_halt=True)
    assert done.start_ms is not None and "the assignment halts the organisation when it takes effect" in str(done.note)


def test_assignment_with_unreadable_provider_needs_unchecked(billers: Billers) -> None:
    billers.autumn.balance_store = "down"
    refused(billers, "cannot read acme at autumn .*--unchecked", [Wish("acme")], "autumn")
    (done,) = billers.flip([Wish("acme")], "autumn", unchecked=True)
    assert done.problem is None and done.start_ms is not None


def test_assignment_problem_refuses_named_orgs_and_skips_line_of_file(billers: Billers) -> None:
    wishes = [Wish("acme", line=2), Wish("bolt", "ghost", line=3)]
    refused(billers, "bolt: the customer ghost does not exist at autumn", wishes[::-1], "autumn")
    done = billers.flip(wishes, "autumn", each_alone=True)
    assert [one.problem is None for one in done] == [True, False]
    assert billers.fleet.one("SELECT COUNT(*) FROM assignments WHERE provider = 'autumn'") == 1


def test_assignment_of_more_orgs_than_chunk_by_name_is_refused(billers: Billers) -> None:
    with pytest.raises(UsageError, match=r"Name at most 200, or pass --file"):
        billers.flip([Wish(f"org-{number}") for number in range(flips.CHUNK + 1)], "autumn", new=True)
    assert billers.fleet.one("SELECT COUNT(*) FROM assignments WHERE provider = 'autumn'") == 0


def test_assign_unassigned_covers_more_orgs_than_chunk(billers: Billers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flips, "CHUNK", 4)
    fleet = billers.fleet
    for number in range(flips.CHUNK + 5):
        fleet.sample(f"new-{number}", fleet.clock.at_ms - 1)
    url = fleet.engine.url.render_as_string(hide_password=False)
    must(url, "org", "assign", "--unassigned", "--provider", "embedded", at=str(fleet.clock.at_ms))
    assert fleet.one("SELECT COUNT(*) FROM assignments WHERE org_id LIKE 'new-%'") == flips.CHUNK + 5


def test_second_assignment_before_first_begins_is_refused(billers: Billers) -> None:
    later = billers.fleet.clock.at_ms + 4 * WINDOW_MS
    billers.flip([Wish("acme")], "autumn", from_ms=later)
    refused(billers, "acme already has a later assignment", [Wish("acme", "cus_acme")], "stripe")
    write(billers.fleet.engine, lambda c: assignments.cancel(c, "acme", billers.fleet.by))
    with pytest.raises(Refused, match="it has already begun, or does not exist"):
        write(billers.fleet.engine, lambda c: assignments.cancel(c, "acme", billers.fleet.by))
    assert billers.flip([Wish("acme", "cus_acme")], "stripe")[0].start_ms is not None


def test_assignment_to_same_provider_at_later_time_does_not_add_row(billers: Billers) -> None:
    before = unchanged(billers)
    for windows in (2, 4):
        (told,) = billers.flip([Wish("acme")], "embedded", from_ms=billers.fleet.clock.at_ms + windows * WINDOW_MS)
        assert told.already and told.start_ms is None
    assert unchanged(billers) == before


def test_unknown_provider_is_refused_with_available_names(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/drawdown.db"
    made = connect(url)
    upgrade(made)
    made.dispose()
    line = one_clear_line(drawdown(url, "org", "assign", "acme", "--provider", "nobody", at=str(T0)), 1, 2)
    assert "unknown provider nobody" in line and "autumn" in line and "stripe" in line


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("org,customer\nacme,acme\n", "missing column org_id"),
        ("org_id,customer_id\nacme,a\nacme,b\n", "line 3: acme is already in line 2"),
        ("org_id,customer_id\n\x07,a\n", "line 2: invalid org_id"),
        ("", "missing column org_id"),
        ("org_id,customer_id\n", "the file does not name an organisation"),
    ],
)
def test_invalid_assignment_file_is_refused_with_line(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "flips.csv"
    file.write_text(text)
    with pytest.raises(Exception, match=says):
        read_flips(file)


class Slow(FakeProvider):
    """Reads of customers take a while; how many were on their way together is kept."""

    on_their_way = most = 0

    async def customers(self, customer_ids: Sequence[str]) -> Mapping[str, CustomerRead]:
        self.on_their_way += 1
        self.most = max(self.most, self.on_their_way)
        await asyncio.sleep(0.01)
        self.on_their_way -= 1
        gone = ReadFailed("503")
        return {one: gone if one == "org-0007" else CustomerState(None, None, 5) for one in customer_ids}


@pytest.mark.parametrize(("in_flight", "together"), [(1, 1), (8, 8), (256, ORGS_A_ROUND)])
def test_customer_states_after_assignment_are_read_in_parallel(
    engine: sa.Engine, in_flight: int, together: int
) -> None:
    provider, count = Slow(capabilities(batch_size=1, in_flight=in_flight)), together + 10
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign(*(f"org-{number:04}" for number in range(count)), provider="fake")
    report = fleet.tick(T0 + WINDOW_MS)
    assert provider.most == together
    assert (report.projected, report.left.projections_due) == (count - 1, 1)
    assert fleet.one("SELECT COUNT(*) FROM orgs WHERE max_concurrent_sandboxes = 5") == count - 1
