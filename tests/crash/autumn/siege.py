"""The siege of Autumn: two workers and a reconcile bill at a credit system that fails in every way it knows, and are
killed. Then people do what they are asked, time passes, and the judge compares.

Guarantee: the service is the judge's own and outlives every worker. Nobody tells a worker what was lost.
"""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from drawdown.schema.audit import By
from drawdown.schema.database import connect, write
from drawdown.schema.migrate import upgrade
from drawdown.worker.engine.effects import CLOCKS_APART_MS
from drawdown.worker.features.actions import install_defaults
from drawdown.worker.orgs.assignments import assign
from tests.acceptance.drain import Process, SharedClock
from tests.acceptance.tables import number, rows
from tests.crash.autumn.judge import Verdict, cost_of, judge
from tests.crash.autumn.mischief import Mischief, add_by_hand
from tests.crash.autumn.retelling import retell
from tests.crash.autumn.setting import (
    AT_MS,
    FROM_MS,
    LARGE,
    Sample,
    Setting,
    Struck,
    emulated,
    make,
)
from tests.crash.billers import HOUR_MS, LATENCY_MS, LATER, MINUTE_MS, Blockade
from tests.crash.nursery import Nursery
from tests.crash.toll import Toll
from tests.emulators.serve import autumn_lines, serving_in_thread
from tests.sqlite_databases import migrated

UNSENT = "SELECT COUNT(*) FROM pushes WHERE state = 'due' AND attempts = 0"
UNSETTLED = "SELECT COUNT(*) FROM pushes WHERE state IN ('due', 'queued')"
DOUBTED = """
SELECT key, customer_id, COALESCE(wire_key, key), feature, sent_qty FROM pushes WHERE state = 'in_doubt'
"""
UNDECIDED = "SELECT DISTINCT customer_id FROM pushes WHERE state IN ('in_doubt', 'queued', 'due')"
DOUBTS = "SELECT COUNT(*) FROM pushes WHERE state = 'in_doubt'"
STAND_STILL_S, RESTS_S = 600.0, 20.0
HEALING: Final = (*LATER, *(6 * HOUR_MS,) * 4)
"""Jumps between ticks: past backoffs, past lags, past the life of a key."""
NIGHTS: Final = 12
UNDONE, DOUBLED = "lost with their store", "drawn twice"
ORDERS_S: Final = 5.0
"""What is done to the service is done before time jumps: so long a call is waited for that comes before."""


@dataclass
class Found:
    """What a siege came to."""

    toll: Toll
    verdict: Verdict
    pushes: int
    samples: int
    customers: int
    sent_again: int
    calls: int
    struck: Counter[str]
    billing_calls: int
    said: Counter[str]
    came_about: Counter[str]
    doubted: Fraction
    beside: dict[str, Fraction]
    took_s: float
    healed_s: float


class Pooled(Blockade):
    """Two workers and a reconcile at one Autumn."""

    ROLES: Sequence[str] = ("drainer-a", "drainer-b", "nightly")

    def __init__(self, *given: Any, setting: Setting, **more: Any) -> None:
        super().__init__(*given, **more)
        self.setting = setting
        self.mischief = Mischief(self.nursery.url, self.autumn, setting, self.clock, len(setting.parts) - 2)

    @property
    def autumn(self) -> Struck:
        found = self.billers["autumn"]
        assert isinstance(found, Struck)
        return found

    def insert(self, engine: sa.Engine, part: Sequence[Any]) -> None:
        insert(engine, part)

    def between(self, at: int) -> None:
        self.mischief.begin(at)
        autumn, until = self.autumn, time.monotonic() + ORDERS_S
        while (autumn.orders or autumn.loses) and time.monotonic() < until:
            time.sleep(0.005)
        self.mischief.deliver()
        self.mischief.outage(at)

    def while_faulty(self) -> None:
        """Each push is tried once before the service gets well."""
        self.autumn.key_store = self.autumn.balance_store = "up"
        url, windows, least = self.nursery.url, self.setting.windows(), 2**62
        since = rested = time.monotonic()
        while left := (
            max(0, windows - number(url, SEALED))
            + number(url, UNSENT)
            + max(0, windows - self.autumn.calls["track"])  # some are claimed, and on their way
        ):
            if left < least:
                least, since = left, time.monotonic()
                rested = since
            standing_s = time.monotonic() - since
            assert standing_s < STAND_STILL_S, f"workers stand still with {left} left"
            self.watch()
            if time.monotonic() - rested > RESTS_S:
                self.clock.jump(MINUTE_MS)  # some were refused for too many calls, and wait
                rested = time.monotonic()  # a tick has time to send before the next jump, on a busy machine, too
            time.sleep(1)

    def before_the_end(self, made: Any) -> None:
        self.struck = Counter(self.autumn.faults.counts)
        self.came_about = Counter(self.autumn.came_about)
        self.came_about[UNDONE] += len(self.autumn.account.store.undone_charges)
        self.came_about[DOUBLED] += len(self.autumn.doubles)
        calls = self.autumn.calls - self.autumn.in_peace
        self.calls = calls.total(), calls["track"]


SEALED = "SELECT COUNT(*) FROM (SELECT DISTINCT org_id, window_ms, feature FROM pushes) p"


def insert(engine: sa.Engine, part: Sequence[Sample]) -> None:
    """As a host's own program would."""
    text = sa.text(
        "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
        "VALUES (:name, :org, :org, 'cell-1', :memory_mb, :seconds, :ts, :ts)"
    )
    values = [{**vars(one), "memory_mb": one.memory_mb} for one in part]
    with engine.begin() as connection:
        if values:
            connection.execute(text, values)


@dataclass
class Healing:
    """Time passes, nothing fails, and people do what they are asked."""

    url: str
    operator: Process
    clock: SharedClock
    autumn: Struck
    setting: Setting
    said: Counter[str] = field(default_factory=Counter)
    doubted: Fraction = Fraction(0)
    """Credits of pushes in doubt, that a person was asked about."""
    told_beside: dict[str, Fraction] = field(default_factory=dict)
    standing: list[dict[str, Any]] = field(default_factory=list)
    """Lines that reconcile tells each night: nothing but a console tells more."""
    last_night: list[dict[str, Any]] = field(default_factory=list)
    """All lines of the last night: one that is told again word for word changes nothing."""
    told: list[dict[str, Any]] = field(default_factory=list)
    """All lines of all nights."""
    made_up: dict[str, Fraction] = field(default_factory=lambda: defaultdict(Fraction))
    """Credits that a person charged by hand, or gave back, as they were told."""
    unsure: dict[str, Fraction] = field(default_factory=lambda: defaultdict(Fraction))
    """By how much more that may have been, as was told with it."""

    def begin_in_peace(self) -> None:
        """The first part is billed, and compared: what is lost later can be told from what was never known."""
        rates, self.autumn.faults.rates = self.autumn.faults.rates, {}
        engine = connect(self.url)
        insert(engine, self.setting.parts[0])
        engine.dispose()
        self.operator.ready()
        self._settle()
        self.clock.jump(HOUR_MS)
        assert not self.operator.do("reconcile")["unread"]
        self.said.clear()
        self.autumn.in_peace = Counter(self.autumn.calls)
        self.autumn.faults.rates = rates

    def heal(self) -> None:
        """Errors: AssertionError where it comes to no end."""
        self._until_quiet()
        self._judge_before_people()
        self._pay()
        for _ in range(NIGHTS):
            decided = self._decide() + self._make_up()
            if self._until_quiet() and not decided:
                return
        raise AssertionError(f"people are asked again and again: {self.standing[:5]}")

    def beside(self) -> dict[str, Fraction]:
        """Credits by which balances differ of whose customers events leave something open, as reconcile tells them."""
        return {
            one["customer_id"]: Fraction(one["theirs"] - one["ours"], one["scale"])
            for one in self.standing
            if one["standing"] and one["theirs"] != one["ours"]
        }

    def retold(self, found: Verdict) -> str:
        """Why the siege failed, with what happened to the customers."""
        names = [*found.silent, *found.unexplained]
        return f"{found.wrong}\n{retell(self.url, self.autumn.history, self.told, names)}"

    def _note_unsure(self) -> None:
        """What is told of a balance each night is all of it, and as uncertain as the last night said."""
        for one in self.standing:
            if one["standing"]:
                self.unsure[one["customer_id"]] = Fraction(one["unsure"], one["scale"])

    def _settle(self) -> None:
        for step in HEALING:
            if not self._tick(step) and not number(self.url, UNSETTLED):
                return
        for _ in range(NIGHTS):
            if not self._tick(MINUTE_MS):
                return
        raise AssertionError("each tick seals, voids or adopts something")

    def _tick(self, jump_ms: int) -> bool:
        """Whether something is sealed, or will be by the next tick: what was voided, or adopted at less."""
        self.clock.jump(jump_ms)
        report = self.operator.do("tick")
        assert report["failures"] == [], report["failures"]
        for name in ("looked_up", "voided", "adopted"):
            self.said[name.replace("_", " ")] += report[name]
        return any(report[name] for name in ("sealed", "voided", "adopted"))

    def _until_quiet(self) -> bool:
        """Night after night, until a comparison changes nothing; whether the first did not."""
        for night in range(NIGHTS):
            self._settle()
            self.clock.jump(HOUR_MS + CLOCKS_APART_MS)
            found = self.operator.do("reconcile")
            assert not found["unread"], found["reasons"]
            lines = [one for one in found["differing"] if one["corrected"] or one["balance"] > one["standing"]]
            changed = [one for one in lines if one not in self.last_night]
            self.standing = [one for one in found["differing"] if one not in changed]
            self.last_night = found["differing"]
            self.told += found["differing"]
            for line in changed:
                whole = abs(line["ours"] - line["theirs"]) == line["corrected"]
                kind = "balance" if line["balance"] else "day"
                self.said[f"{kind} {line['verdict']}, {'corrected' if whole else 'told'}"] += 1
            # What is in doubt holds up the others of its customer: one balance tells of all.
            waits = not number(self.url, DOUBTS) and (found["waiting"] or number(self.url, UNSETTLED))
            if not (changed or waits):
                return night == 0
        raise AssertionError(f"reconcile comes to no end: {changed[:5]}, {found['waiting']} lines wait")

    def _judge_before_people(self) -> None:
        """What is in doubt, and what no event shows, is told with its amount. Of all others the books agree by now."""
        doubted = rows(self.url, DOUBTED)
        undecided = frozenset(str(customer) for (customer,) in rows(self.url, UNDECIDED))
        days = [one for one in self.standing if not one["standing"]]
        self.said["in doubt"] = len(doubted)
        self.said["customers with pushes in doubt"] = len(undecided)
        self.said["days that events leave open"] = len(days)
        self.said["customers with such days"] = len({one["customer_id"] for one in days})
        for _, _, _, feature, quantity in doubted:
            self.doubted += int(str(quantity)) * cost_of(str(feature))
        self.told_beside = self.beside()
        self._note_unsure()
        found = judge(self.url, self.setting, self.autumn, self.told_beside, self.made_up, self.unsure, undecided)
        assert found.wrong is None, f"before a person decided anything: {self.retold(found)}"

    def _pay(self) -> None:
        """Whose grants are used up gets a last large one, and so does every other one with a spend limit."""
        limited = [one for one in self.setting.customers if one.manner == "limited"][::2]
        exact = [one for one in self.setting.customers if one.manner == "exact"]
        for one in (*limited, *exact):
            self.autumn.top_up(one.name, "last", Decimal(LARGE))

    def _make_up(self) -> int:
        """A person charges by hand, or gives back, what reconcile tells each night, and knows no more than that."""
        beside = self.beside()
        self._note_unsure()
        for customer, amount in beside.items():
            self.autumn.orders.append(add_by_hand(self.autumn, customer, amount))
            self.made_up[customer] += amount
            self.said["made up for by the amount told"] += 1
        return len(beside)

    def _decide(self) -> int:
        """A person compares what is in doubt with the console, and resolves it."""
        decided = 0
        for key, _customer, wire_key, *_ in rows(self.url, DOUBTED):
            charged = self.autumn.charged_under(str(wire_key)) is not None
            done = self.operator.do("decide", key, charged)
            self.said[f"resolved, {'charged' if charged else 'not charged'}"] += not done["waits"]
            decided += not done["waits"]
        return decided


def in_credits(
    folder: Path, url: str, *, pushes: int, kills: int, seed: int, no_kill: bool = False, planted: str = ""
) -> Found:
    """Errors: AssertionError where a difference is silent or unexplained, or something is left open."""
    dice = random.Random(seed)
    setting = make(pushes, kills + 2, dice)
    clock, autumn = SharedClock(folder / "clock", AT_MS), emulated(setting, seed, AT_MS - HOUR_MS)
    (folder / "provider").write_text("autumn")
    set_up(url, setting, clock.now_ms())
    began = time.monotonic()
    with serving_in_thread(autumn, clock, latency_ms=LATENCY_MS) as address:
        env = dict(line.split("=", 1) for line in autumn_lines(autumn, address))
        env |= {"CRASH_PLANTED": planted}
        operator = Process(url, folder, env)
        healing = Healing(url, operator, clock, autumn, setting)
        try:
            healing.begin_in_peace()
            with closing(Nursery(folder, url, env, work=Pooled.WORK)) as nursery:
                siege = Pooled(nursery, dice, {"autumn": autumn}, clock, no_kill=no_kill, setting=setting)
                toll = siege.besiege(replace(setting, parts=setting.parts[1:]))  # type: ignore[arg-type]
            took = time.monotonic() - began
            healing.heal()
            breaches = operator.do("verify")
        finally:
            operator.end()
    verdict = judge(url, setting, autumn, healing.beside(), healing.made_up, healing.unsure)
    assert verdict.wrong is None, healing.retold(verdict)
    assert breaches == []
    return Found(
        toll=toll,
        verdict=verdict,
        pushes=number(url, "SELECT COUNT(*) FROM pushes"),
        samples=setting.samples,
        customers=len(setting.customers),
        sent_again=number(url, "SELECT COUNT(*) FROM pushes WHERE attempts > 1"),
        calls=siege.calls[0],
        billing_calls=siege.calls[1],
        struck=siege.struck,
        said=healing.said,
        came_about=siege.came_about,
        doubted=healing.doubted,
        beside=healing.told_beside,
        took_s=took,
        healed_s=time.monotonic() - began - took,
    )


def set_up(url: str, setting: Setting, now_ms: int) -> None:
    engine, by = connect(migrated(url)), By(now_ms, "test", "the siege")
    upgrade(engine)
    write(engine, lambda c: install_defaults(c, by))

    def assign_all(connection: sa.Connection) -> None:
        for one in setting.customers:
            assign(connection, [one.name], "autumn", by, customer_id=one.name, from_ms=FROM_MS)

    write(engine, assign_all)
    engine.dispose()
