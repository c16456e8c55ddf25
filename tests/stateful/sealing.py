"""A machine that does to one database, in any order, all that sealing has to bear.

Guarantee: after every step the product's tables say what the model says: what is sealed, what is pending, how far the
watermark, cursor and floor are, and that revisions have no gaps and sent and carried make sealed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from drawdown.providers.protocol import Capabilities
from drawdown.schema.database import read, write
from drawdown.schema.errors import Refused, UsageError
from drawdown.schema.migrate import bucket_of
from drawdown.schema.units import DAY_MS, GRACE_MS, LATE_HORIZON_MS, MINUTE_MS, WINDOW_MS, horizon, window_of
from drawdown.worker.catalog.terms import take_new_terms
from drawdown.worker.engine.shard import Shard
from drawdown.worker.features.actions import map_size
from drawdown.worker.push import actions as pushes
from drawdown.worker.seal import seal
from drawdown.worker.seal.seal import SealRequest
from drawdown.worker.usage import withdrawals
from drawdown.worker.usage.prune import prune
from drawdown.worker.verify.verify import verify
from tests.sqlite_databases import fresh
from tests.stateful.sealing_model import Meaning, Model, Sample
from tests.world import T0, Fleet

BILLERS = {
    "whole": Capabilities(None, True),
    "minutes": Capabilities(None, True, unit=60, negatives=False),
}
ALL, LOW, HIGH = Shard(0, 255), Shard(0, 127), Shard(128, 255)
ORGS = ("acme", "bolt", "cog", "dove", "stranger")
SIZES = (1024, 4096, 3000, 500)
DEFAULTS = [Meaning(True, gb * 1024, f"compute_{gb}gb", False, 0) for gb in (1, 4, 8, 16, 32, 64)]
MAPPINGS = [
    Meaning(True, 3000, "three", False, 0),
    Meaning(False, 600, "tiny", True, 0),
    Meaning(True, 500, "half", False, 0),
    Meaning(False, None, "rest", True, 0),
    Meaning(True, 1024, "gigabyte", True, 0),
]
NOT_VOIDED = "FROM pushes p WHERE p.state <> 'voided' AND NOT EXISTS (SELECT 1 FROM voids v WHERE v.org_id = p.org_id "
NOT_VOIDED += "AND v.window_ms = p.window_ms AND v.feature = p.feature AND v.revision = p.revision)"

orgs = st.sampled_from(ORGS)
shards = st.sampled_from((ALL, ALL, LOW, HIGH))
back = st.one_of(
    st.integers(0, 3 * WINDOW_MS),
    st.sampled_from([0, 1, WINDOW_MS - 1, WINDOW_MS, WINDOW_MS + GRACE_MS, DAY_MS, 20 * DAY_MS, 36 * DAY_MS]),
)


class Sealing(RuleBasedStateMachine):
    """One database in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = fresh()
        self.fleet = Fleet(self.engine)
        self.fleet.clock.at_ms = T0 + 40 * DAY_MS
        self.model = Model(meanings=list(DEFAULTS))
        self.bad = 0
        self.marks: list[tuple[object, ...]] = []
        write(self.engine, lambda c: take_new_terms(c, BILLERS))

    def teardown(self) -> None:
        self.engine.dispose()

    @property
    def now(self) -> int:
        return self.fleet.clock.at_ms

    def request(self, shard: Shard, behind: int = 0) -> SealRequest:
        return SealRequest(shard, horizon(self.now) - behind * WINDOW_MS, self.now, BILLERS)

    @staticmethod
    def of(shard: Shard) -> list[str]:
        return [org for org in ORGS if shard.lo <= bucket_of(org) <= shard.hi]

    @staticmethod
    def refused(work: Callable[[], object]) -> bool:
        try:
            work()
        except (Refused, UsageError):
            return True
        return False

    @initialize(first=st.sampled_from(["whole", "minutes"]))
    def begin(self, first: str) -> None:
        """Two are billed already, and have used something."""
        for org in ("acme", "bolt"):
            self.assign(org, first, 38 * DAY_MS)
            self.sample(org, 1024, 61, 0)
        self.sample("cog", 3000, 60, 0)
        self.tick(3 * WINDOW_MS)

    @rule(step=st.sampled_from([WINDOW_MS, WINDOW_MS, 4 * WINDOW_MS, 36 * DAY_MS]))
    def tick(self, step: int) -> None:
        """Time goes by, and all is well."""
        self.time_goes_by(step)
        self.seal(ALL, 0)
        self.deliver()

    # Usage

    @rule(org=orgs, size=st.sampled_from(SIZES), seconds=st.sampled_from([0, 1, 59, 60, 61, 3600]), ago=back)
    def sample(self, org: str, size: int, seconds: int, ago: int) -> None:
        ts = self.now - ago
        name = self.fleet.sample(org, ts, seconds, size)
        if ts >= self.model.floor.get(org, 0):
            self.model.samples[name] = Sample(org, ts, size, seconds)

    @rule(org=orgs, bad=st.sampled_from(["negative", "future", "endless", "old"]))
    def bad_sample(self, org: str, bad: str) -> None:
        self.bad += 1
        ts = {"future": self.now + DAY_MS, "old": 1_700_000_000}.get(bad, self.now)
        self.fleet.write(
            "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
            "VALUES (:id, :org, 'box', 'cell-1', 1024, :seconds, :ts, :now)",
            {
                "id": f"bad-{self.bad}",
                "org": org,
                "seconds": {"negative": -5, "endless": 10**9}.get(bad, 60),
                "ts": ts,
                "now": self.now,
            },
        )

    @precondition(lambda self: self.model.samples)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.samples)))
        write(self.engine, lambda c: withdrawals.withdraw(c, [name], self.fleet.by))
        del self.model.samples[name]

    @rule(step=st.sampled_from([1, MINUTE_MS, WINDOW_MS, WINDOW_MS, 4 * WINDOW_MS, DAY_MS, 36 * DAY_MS]))
    def time_goes_by(self, step: int) -> None:
        self.fleet.clock.at_ms += step

    # Sealing

    @rule(shard=shards, behind=st.sampled_from([0, 0, 0, 0, 1, 7]))
    def seal(self, shard: Shard, behind: int) -> None:
        """`behind`: another machine, whose clock is."""
        request = self.request(shard, behind)
        write(self.engine, lambda c: seal.seal(c, request))
        self.model.settle(self.of(shard), 0, request.horizon_ms, pending=True)
        for org in self.of(shard):
            self.model.watermark[org] = max(self.model.watermark.get(org, 0), request.horizon_ms)

    @rule(shard=shards, ago=back, length=st.sampled_from([WINDOW_MS, DAY_MS, 40 * DAY_MS]), dry=st.booleans())
    def replay(self, shard: Shard, ago: int, length: int, dry: bool) -> None:
        request, start = self.request(shard), window_of(self.now - ago - length)
        end = start + window_of(length)
        owed = sum(self.model.owed([org], start, min(end, self.model.watermark.get(org, 0))) for org in self.of(shard))
        done = write(self.engine, lambda c: seal.seal_range(c, request, start, end), rollback=dry)
        assert done.pushes == owed, "a replay finds what is owed, and nothing where nothing changed"
        if not dry:
            for org in self.of(shard):
                self.model.settle([org], start, min(end, self.model.watermark.get(org, 0)), pending=False)

    @rule(shard=shards)
    def sweep(self, shard: Shard) -> None:
        """To its end: a new round over the whole horizon, or what an unfinished one had left."""
        request = self.request(shard)
        lowest, began, left_at = self.sweep_marks(shard)
        while write(self.engine, lambda c: seal.sweep(c, request)) is not None:
            pass
        _, now_began, _ = self.sweep_marks(shard)
        start = left_at if now_began == began else min(lowest, request.horizon_ms) - LATE_HORIZON_MS
        for org in self.of(shard):
            end = min(lowest, window_of(now_began), request.horizon_ms)
            self.model.settle([org], start, end, pending=False)

    def sweep_marks(self, shard: Shard) -> tuple[int, int, int]:
        (found,) = self.fleet.rows(
            "SELECT MIN(watermark_ms), MIN(sweep_began_ms), MIN(sweep_next_ms) FROM buckets "
            "WHERE id BETWEEN :lo AND :hi",
            lo=shard.lo,
            hi=shard.hi,
        )
        lowest, began, left_at = (int(str(value)) for value in found)
        return lowest, began, left_at

    # Who bills, and as what

    @rule(org=st.sampled_from(ORGS[:4]), biller=st.sampled_from(["whole", "minutes", "legacy", "none"]), ago=back)
    def assign(self, org: str, biller: str, ago: int) -> None:
        start = window_of(self.now - ago) + WINDOW_MS
        known = self.model.billers.setdefault(org, [])
        late = bool(known) and any(begun < start for begun, _ in known) and start < self.model.watermark.get(org, 0)
        if self.refused(lambda: self.fleet.assign(org, provider=biller, from_ms=start)):
            assert known or start < self.model.floor.get(org, 0), "a first assignment may begin at any time"
            return
        assert not late, "no window that is sealed gets another biller"
        known.append((start, biller))

    @rule(meaning=st.sampled_from(MAPPINGS), ago=back)
    def map_size(self, meaning: Meaning, ago: int) -> None:
        start = window_of(self.now - ago) + WINDOW_MS
        made = replace(meaning, start=start)
        if not self.refused(
            lambda: write(
                self.engine,
                lambda c: map_size(
                    c,
                    made.feature,
                    self.fleet.by,
                    kind="exact" if made.exact else "up_to",
                    memory_mb=made.size,
                    unit="mb_s" if made.factor_is_size else "s",
                    from_ms=start,
                    confirmed=True,
                ),
            )
        ):
            self.model.meanings.append(made)

    # What becomes of pushes

    @rule()
    def deliver(self) -> None:
        """All that is due is accepted, with an attempt on record."""
        self.fleet.write(
            "INSERT INTO attempts (window_ms, org_id, feature, revision, attempt, started_ms, finished_ms, owner, "
            "sent_qty, outcome) SELECT window_ms, org_id, feature, revision, 1, :now, :now, 'w', sent_qty, 'accepted' "
            "FROM pushes WHERE state = 'due'",
            {"now": self.now},
        )
        self.fleet.write(
            "UPDATE pushes SET state = 'accepted', attempts = 1, first_attempt_ms = :now, settled_ms = :now "
            "WHERE state = 'due'",
            {"now": self.now},
        )

    @rule(data=st.data())
    def reject_and_void(self, data: st.DataObject) -> None:
        due = self.fleet.rows(
            "SELECT key, org_id, window_ms, feature, sealed_qty FROM pushes WHERE state = 'due' ORDER BY 1"
        )
        if not due:
            return
        key, org, window, feature, quantity = data.draw(st.sampled_from(due))
        self.fleet.write(
            "UPDATE pushes SET state = 'rejected', last_error = 'not sent: a test' WHERE key = :key", {"key": key}
        )
        write(self.engine, lambda c: pushes.void(c, [str(key)], self.fleet.by, "it was never sent"))
        place = (str(org), int(str(window)), str(feature))
        self.model.sealed[place] = self.model.sealed.get(place, 0) - int(str(quantity))

    @rule(older=st.sampled_from([35, 36, 37, 50]))
    def prune(self, older: int) -> None:
        before = self.now - older * DAY_MS
        prune(partial(write, self.engine), before, self.fleet.by)
        for org, floor in self.fleet.rows("SELECT org_id, floor_ms FROM orgs"):
            name, to = str(org), int(str(floor))
            if to > self.model.floor.get(name, 0):
                assert to <= min(before, self.model.watermark.get(name, 0)), "the floor passed the watermark"
                assert self.model.owed([name], 0, to) == 0, "the floor passed what is still owed"
                waiting = [key for key, (seconds, _) in self.model.pending.items() if seconds]
                assert all(key[0] != name or key[1] >= to for key in waiting), "... or pending"
                self.model.close(name, to)

    # What must hold after every step

    @invariant()
    def sealed_and_pending_are_what_the_model_says(self) -> None:
        sealed = {
            (str(org), int(str(window)), str(feature)): int(str(quantity))
            for org, window, feature, quantity in self.fleet.rows(
                f"SELECT org_id, window_ms, feature, SUM(sealed_qty) {NOT_VOIDED} GROUP BY 1, 2, 3"
            )
        }
        assert self.above(sealed) == self.above(self.model.sealed), "sealed is not what the model says"
        pending = {
            (str(org), int(str(window)), int(str(size))): (int(str(seconds)), int(str(count)))
            for org, window, size, seconds, count in self.fleet.rows(
                "SELECT org_id, window_ms, memory_mb, seconds, samples FROM pending_usage"
            )
        }
        assert self.above(pending) == self.above(self.model.pending), "pending is not what the model says"

    def above(self, found: dict) -> dict:  # type: ignore[type-arg]
        """What lies at or above the floor, and is not nothing."""
        return {key: value for key, value in found.items() if value and key[1] >= self.model.floor.get(key[0], 0)}

    @invariant()
    def marks_only_grow(self) -> None:
        marks = self.fleet.rows("SELECT watermark_ms, cursor FROM buckets ORDER BY id")
        for before, after in zip(self.marks or marks, marks, strict=True):
            assert all(int(str(new)) >= int(str(old)) for old, new in zip(before, after, strict=True)), "a mark fell"
        self.marks = marks
        for org in ORGS:
            assert marks[bucket_of(org)][0] == self.model.watermark.get(org, 0), "the watermark is another one"

    @invariant()
    def revisions_have_no_gaps_and_billers_no_doubt(self) -> None:
        gaps = "SELECT org_id FROM pushes GROUP BY window_ms, org_id, feature HAVING MAX(revision) <> COUNT(*) - 1"
        assert self.fleet.rows(gaps) == [], "a revision is missing"
        for org, window, provider in self.fleet.rows("SELECT DISTINCT org_id, window_ms, provider FROM pushes"):
            assert provider == self.model.biller(str(org), int(str(window))), "billed by another"
        sums: dict[object, int] = {}
        for *place, rest in self.fleet.rows(
            f"SELECT org_id, provider, feature, SUM(sealed_qty - sent_qty) {NOT_VOIDED} GROUP BY 1, 2, 3"
        ):
            sums[tuple(place)] = int(str(rest))
        for *place, carry in self.fleet.rows("SELECT org_id, provider, feature, carry_qty FROM carries"):
            assert sums.pop(tuple(place), 0) == carry, "the carry is not sealed less sent"
        assert not any(sums.values()), "a carry is missing"

    @invariant()
    def verify_agrees(self) -> None:
        found = read(self.engine, verify).breaches
        assert found == [], f"verify: {found}"
