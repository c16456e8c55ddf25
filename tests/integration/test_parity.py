"""Parity: totals of cells beside samples, by organisation and day; unknown is not zero."""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.cli.main import run as drawdown
from drawdown.schema.database import read, write
from drawdown.schema.units import DAY_MS, SECOND_MS
from drawdown.worker.engine import runner
from drawdown.worker.engine.effects import ReadCells, Transaction, UsageAnswer, UsageRequest
from drawdown.worker.parity import parity
from drawdown.worker.parity.lists import parity_figures
from drawdown.worker.parity.parity import CELLS_AT_ONCE, SETTLING_MS, Checked, check_cells, check_totals, days_due
from drawdown.worker.parity.totals import Days, day_text, read_file
from drawdown.worker.usage.withdrawals import withdraw
from tests.acceptance import gentd26, openb
from tests.acceptance.commands import must
from tests.sqlite_databases import migrated
from tests.whole import share
from tests.world import T0, Fleet

DAY = "2026-01-01"
AFTER = T0 + DAY_MS + SETTLING_MS


class Asked:
    """Cells that answer as told, by (cell, day)."""

    def __init__(self, answers: dict[str, object]) -> None:
        self.answers = answers
        self.asked: list[UsageRequest] = []

    async def read(self, requests: Any) -> list[UsageAnswer]:
        self.asked += requests
        return [self._one(request) for request in requests]

    def _one(self, request: UsageRequest) -> UsageAnswer:
        usage = self.answers.get(request.cell_id)
        if usage is None or isinstance(usage, str):
            return UsageAnswer(error=usage or "no connection")
        said = {"cell_id": request.cell_id, "day": request.day, "usage": usage}
        return UsageAnswer(json.dumps(said).encode())


def asked(fleet: Fleet, answers: dict[str, object], *days: int, tolerance: int = 70) -> Checked:
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock, usage=Asked(answers))
    return runner.run(check_cells(days or [T0], tolerance, fleet.clock), world)


def compared(fleet: Fleet, totals: Days, tolerance: int = 70) -> Checked:
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    return runner.run(check_totals(totals, tolerance, fleet.clock), world)


def register(fleet: Fleet, *cells: str) -> None:
    for cell in cells:
        fleet.write("INSERT INTO cells (cell_id, url) VALUES (:cell, :url)", {"cell": cell, "url": f"http://{cell}"})


def told(found: Checked) -> list[tuple[object, ...]]:
    return [(line.cell_id, line.org_id, line.ours, line.theirs, line.ppm, line.verdict) for line in found.lines]


def kept(fleet: Fleet) -> list[tuple[object, ...]]:
    return fleet.rows("SELECT cell_id, org_id, ours_s, theirs_s, off_s, ppm, verdict FROM parity_checks ORDER BY 1, 2")


def of(org: str, seconds: int, memory_mb: int | None = None) -> dict[str, object]:
    return {"org_id": org, "seconds": seconds, **({} if memory_mb is None else {"memory_mb": memory_mb})}


@pytest.fixture
def busy(engine: sa.Engine) -> Fleet:
    """Organisations with use on one day, at cell-1: acme has 120 s of 1 GB and 60 s of 4 GB, globex 10,000 s."""
    fleet = Fleet(engine)
    fleet.sample("acme", T0, 60)
    fleet.sample("acme", T0 + DAY_MS - 1, 60)
    fleet.sample("acme", T0 + 5, 60, memory_mb=4096)
    fleet.sample("globex", T0 + 7, 10_000)
    fleet.sample("acme", T0 - 1, 7)
    fleet.sample("acme", T0 + DAY_MS, 7)
    fleet.clock.at_ms = AFTER
    return fleet


@pytest.mark.both_databases
def test_equal_cell_totals_are_compared_and_stored(busy: Fleet) -> None:
    register(busy, "cell-1")
    usage = [of("acme", 120, 1024), of("acme", 60, 4096), of("globex", 10_000)]
    found = asked(busy, {"cell-1": usage})
    assert (found.compared, found.differing, found.unknown, found.exit_status) == (2, 0, 0, 0)
    assert found.lines == []
    assert kept(busy) == [
        ("cell-1", "", 10_180, 10_180, 0, 0, "compared"),
        ("cell-1", "acme", 180, 180, 0, 0, "equal"),
        ("cell-1", "globex", 10_000, 10_000, 0, 0, "equal"),
    ]


@pytest.mark.parametrize(
    ("theirs", "tolerance", "verdict", "ppm"),
    [
        (10_000, 0, "equal", 0),
        (10_001, 70, "differs", 100),
        (10_001, 100, "within", 100),
        (10_001, 99, "differs", 100),
        (9_999, 100, "within", 100),
        (9_999, 99, "differs", 100),
        (0, 999_999, "differs", 1_000_000),
        (20_000, 500_000, "within", 500_000),
        (20_000, 499_999, "differs", 500_000),
    ],
)
def test_parity_tolerance_is_exact(busy: Fleet, theirs: int, tolerance: int, verdict: str, ppm: int) -> None:
    register(busy, "cell-1")
    found = asked(busy, {"cell-1": [of("acme", 180), of("globex", theirs)]}, tolerance=tolerance)
    assert busy.rows("SELECT verdict, ppm FROM parity_checks WHERE org_id = 'globex'") == [(verdict, ppm)]
    assert found.exit_status == (1 if verdict == "differs" else 0)


def test_parity_compares_each_memory_size_separately(busy: Fleet) -> None:
    register(busy, "cell-1")
    found = asked(busy, {"cell-1": [of("acme", 60, 1024), of("acme", 120, 4096), of("globex", 10_000)]})
    assert told(found) == [("cell-1", "acme", 180, 180, 500_000, "differs")]
    assert (found.lines[0].off, found.exit_status) == (120, 1)
    assert found.lines[0].note == "1,024 MB: 120 here, 60 there; 4,096 MB: 60 here, 120 there"
    assert [(line.off, line.ppm) for line in found.cells] == [(120, 11_719)], "by the larger side of each size, too"


def test_parity_total_in_other_unit_is_reported_by_size(busy: Fleet) -> None:
    found = compared(busy, {(T0 - T0 % DAY_MS, "cell-1"): {"globex": {4: 10_000}}})
    one = next(line for line in found.lines if line.org_id == "globex")
    assert (one.ppm, one.note) == (1_000_000, "4 MB: 0 here, 10,000 there; 1,024 MB: 10,000 here, 0 there")
    assert found.cells[0].ppm == 1_000_000 and found.cells[0].off == 20_180


def test_org_known_to_single_side_is_reported_as_difference(busy: Fleet) -> None:
    register(busy, "cell-1")
    found = asked(busy, {"cell-1": [of("acme", 180), of("initech", 5)]})
    assert told(found) == [
        ("cell-1", "globex", 10_000, None, None, "only_here"),
        ("cell-1", "initech", None, 5, None, "only_there"),
    ]
    assert (found.differing, found.exit_status) == (2, 1)
    assert kept(busy)[0] == ("cell-1", "", 10_180, 185, 10_005, 982_327, "compared")


def test_zero_totals_are_equal_to_missing_totals(busy: Fleet) -> None:
    register(busy, "cell-1")
    busy.sample("umbrella", T0 + 9, 0)
    found = asked(busy, {"cell-1": [of("acme", 180), of("globex", 10_000), of("initech", 0)]})
    assert (found.lines, found.exit_status) == ([], 0)


def test_unreadable_cell_is_reported_as_unread(busy: Fleet) -> None:
    register(busy, "cell-0", "cell-1", "cell-2")
    answers: dict[str, object] = {"cell-1": [of("acme", 180), of("globex", 10_000)], "cell-2": "the cell answered 500"}
    found = asked(busy, answers)
    assert told(found) == [
        ("cell-0", "", None, None, None, "unread"),
        ("cell-2", "", None, None, None, "unread"),
    ]
    assert (found.compared, found.unread, found.unknown, found.exit_status) == (2, 2, 2, 75)
    answers["cell-0"] = answers["cell-2"] = []
    assert asked(busy, answers).exit_status == 0
    assert [row[6] for row in kept(busy) if not row[1]] == ["compared"] * 3


def test_unregistered_cell_is_reported_as_unread(busy: Fleet) -> None:
    found = asked(busy, {})
    assert told(found) == [("cell-1", "", None, None, None, "unread")]
    assert "drawdown cell set" in (found.lines[0].note or "")


def test_usage_of_executions_is_excluded_from_parity(busy: Fleet) -> None:
    register(busy, "cell-1")
    busy.write(
        "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
        f"VALUES ('run:1', 'acme', 'r-1', 'runs', 1024, 500, {T0}, {T0})"
    )
    found = asked(busy, {"cell-1": [of("acme", 180), of("globex", 10_000)]})
    assert (found.lines, found.exit_status) == ([], 0)
    assert compared(busy, {(T0, ""): {"acme": {None: 180}, "globex": {None: 10_000}}}).exit_status == 0


def test_quarantined_sample_is_reported_as_parity_difference(busy: Fleet) -> None:
    register(busy, "cell-1")
    busy.sample("globex", T0 + 8, -5)
    found = asked(busy, {"cell-1": [of("acme", 180), of("globex", 10_060)]})
    assert told(found) == [("cell-1", "globex", 10_000, 10_060, 5_965, "differs")]
    assert "1 quarantined sample of that day" in (found.lines[0].note or "")


def test_withdrawn_usage_explains_only_equal_parity_difference(busy: Fleet) -> None:
    register(busy, "cell-1")
    wrong = busy.sample("globex", T0 + 8, 60)
    busy.assign("acme", "globex", from_ms=T0 - 300_000)
    busy.tick()
    write(busy.engine, lambda c: withdraw(c, [wrong], busy.by))
    same = [of("acme", 180)]
    found = asked(busy, {"cell-1": [*same, of("globex", 10_060, 1024)]})
    assert told(found) == [("cell-1", "globex", 10_000, 10_060, 5_965, "withdrawn")]
    assert (found.differing, found.exit_status) == (0, 0)
    assert asked(busy, {"cell-1": [*same, of("globex", 10_000, 1024)]}).lines == []
    assert asked(busy, {"cell-1": [*same, of("globex", 10_030, 1024)]}).exit_status == 1
    assert asked(busy, {"cell-1": [*same, of("globex", 10_120, 1024)]}).exit_status == 1


def test_pruned_day_is_reported_as_unknown(busy: Fleet) -> None:
    register(busy, "cell-1")
    busy.assign("acme", "globex", from_ms=T0 - 300_000)
    busy.tick()
    busy.write("UPDATE orgs SET floor_ms = :ms WHERE org_id = 'acme'", {"ms": T0 + 300_000})
    found = asked(busy, {"cell-1": [of("acme", 180), of("globex", 10_000)]})
    assert told(found) == [("cell-1", "acme", None, 180, None, "pruned")]
    assert (found.unknown, found.unread, found.exit_status) == (1, 0, 1)


@pytest.mark.both_databases
def test_parity_day_missed_or_unread_stays_due_for_a_week(busy: Fleet) -> None:
    register(busy, "cell-1")
    whole: dict[str, object] = {"cell-1": [of("acme", 180), of("globex", 10_000)]}

    def due(days: int) -> list[int]:
        found = read(busy.engine, lambda c: days_due(c, T0 + days * DAY_MS))
        return [(day - T0) // DAY_MS for day in found]

    assert due(1) == [0], "only yesterday, if cells were never called"
    assert compared(busy, {(T0, ""): {}}).differing
    assert due(3) == [2], "a file of totals does not call a cell"
    assert asked(busy, {"cell-1": 500}).unread == 1
    assert (due(1), due(3), due(7), due(8)) == ([0], [0, 1, 2], [*range(7)], [*range(1, 8)])
    busy.clock.at_ms = AFTER + 2 * DAY_MS
    asked(busy, whole, T0 + 2 * DAY_MS)
    assert (due(3), due(4)) == ([0, 1, 2], [0, 1, 3]), "a later day does not hide an earlier one"
    asked(busy, whole)
    assert due(4) == [1, 3]
    busy.write("DELETE FROM cells")
    assert due(4) == [3], "a cell that was removed is not asked"


@pytest.mark.parametrize("early_ms", [0, 1])
def test_day_is_compared_only_after_settling_time(busy: Fleet, early_ms: int) -> None:
    register(busy, "cell-1")
    busy.clock.at_ms = AFTER - early_ms
    for found in asked(busy, {}), compared(busy, {(T0, ""): {"acme": {None: 1}}}):
        assert found.waiting == ([DAY] if early_ms else [])
        assert bool(kept(busy)) is not bool(early_ms)
    if early_ms:
        assert (found.compared, found.exit_status) == (0, 75)


def test_parity_lines_of_earlier_check_are_superseded(busy: Fleet) -> None:
    register(busy, "cell-1")
    asked(busy, {"cell-1": [of("acme", 180), of("globex", 10_000), of("initech", 5)]})
    busy.clock.at_ms += 1000
    asked(busy, {"cell-1": [of("acme", 180), of("globex", 10_000)]})
    now = "SELECT p.org_id FROM parity_checks p JOIN parity_checks w ON w.org_id = '' AND w.cell_id = p.cell_id "
    found = busy.rows(now + "AND w.day_ms = p.day_ms AND w.at_ms = p.at_ms WHERE p.org_id <> '' ORDER BY 1")
    assert found == [("acme",), ("globex",)]


def test_late_older_parity_check_does_not_overwrite_newer(busy: Fleet) -> None:
    register(busy, "cell-1")
    asked(busy, {"cell-1": [of("acme", 180), of("globex", 10_000)]})
    busy.clock.at_ms -= 1
    busy.write("UPDATE parity_checks SET at_ms = at_ms + 10")
    asked(busy, {"cell-1": "down"})
    assert [row[6] for row in kept(busy)] == ["compared", "equal", "equal"]


MOST = 10
"""In place of `MAX_LINES`."""


def test_parity_lines_beyond_maximum_are_counted(busy: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity, "MAX_LINES", MOST)
    register(busy, "cell-1")
    found = asked(busy, {"cell-1": [of(f"org-{number}", 1) for number in range(MOST + 5)]})
    assert (len(found.lines), found.more, found.differing) == (MOST, 7, MOST + 7)
    assert len(kept(busy)) == MOST + 8, "all are on record"


class Log:
    """How often each event was told; of the last, what it said."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()

    def error(self, event: str, **said: object) -> None:
        self.events[event] += 1
        self.last = said

    warning = error


def test_parity_log_lines_are_limited_like_report(busy: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log()
    monkeypatch.setattr(parity, "log", log)
    monkeypatch.setattr(parity, "MAX_LINES", MOST)
    register(busy, "cell-1", "cell-2")
    strangers = [of(f"org-{number}", 1) for number in range(MOST + 5)]
    asked(busy, {"cell-1": strangers, "cell-2": strangers})
    assert log.events == {"parity_differs": MOST, "parity_more": 1}
    assert log.last == {"lines": MOST + 12}


def test_cells_are_read_in_small_groups(engine: sa.Engine) -> None:
    fleet = Fleet(engine)
    fleet.clock.at_ms = AFTER + DAY_MS
    names = [f"cell-{number:02}" for number in range(2 * CELLS_AT_ONCE + 1)]
    register(fleet, *names)
    steps = check_cells([T0, T0 + DAY_MS], 0, fleet.clock)
    batches = []
    effect = next(steps)
    with suppress(StopIteration):
        while True:
            if isinstance(effect, ReadCells):
                batches.append([request.cell_id for request in effect.requests])
                effect = steps.send([UsageAnswer(error="down")] * len(effect.requests))
            else:
                assert isinstance(effect, Transaction)
                effect = steps.send(write(engine, effect.work))
    assert [len(batch) for batch in batches] == [CELLS_AT_ONCE, CELLS_AT_ONCE, 1] * 2
    assert [name for batch in batches for name in batch] == names * 2


def test_parity_figures_show_last_check(busy: Fleet) -> None:
    register(busy, "cell-1", "cell-2")

    def figures(later_ms: int = 0) -> tuple[object, ...]:
        found = read(busy.engine, lambda c: parity_figures(c, T0 + later_ms))
        return found.differing, found.unread, found.checked_ms

    assert figures() == (0, 0, None)
    asked(busy, {"cell-1": [of("acme", 181), of("initech", 1)], "cell-2": "down"})
    assert figures() == (3, 1, AFTER)
    assert figures(1) == (0, 0, AFTER)
    busy.clock.at_ms += 1000
    asked(busy, {"cell-1": [of("acme", 180), of("globex", 10_000)], "cell-2": []})
    assert figures() == (0, 0, AFTER + 1000)


def totals_file(folder: Path, text: str) -> Path:
    made = folder / "totals.csv"
    made.write_text(text, encoding="utf-8")
    return made


def test_parity_check_command_compares_file(
    database_url: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    must(migrated(database_url), "init", at=DAY)
    samples = tmp_path / "samples.csv"
    samples.write_text(
        "id,org_id,sandbox_id,cell_id,memory_mb,interval_s,ts\n"
        "a,acme,box,cell-1,1024,60,2026-01-01T00:01:00Z\nb,acme,box,cell-2,1024,60,2026-01-01T00:02:00Z\n"
    )
    must(database_url, "import", str(samples), at="2026-01-02T01:00")
    line = ["--database-url", database_url, "--at", "2026-01-02T01:00", "--json", "parity", "check"]

    def checked(text: str, *more: str) -> tuple[int, dict[str, Any]]:
        status = drawdown([*line, str(totals_file(tmp_path, text)), *more])
        return status, json.loads(capfd.readouterr().out)["parity"]

    assert checked(f"day,org_id,seconds\n{DAY},acme,120\n")[0] == 0
    by_cell = f"day,cell_id,org_id,seconds\n{DAY},cell-1,acme,60\n{DAY},cell-2,acme,61\n"
    status, found = checked(by_cell)
    assert (status, found["exit_status"], found["differing"], found["lines"][0]["ppm"]) == (1, 1, 1, 16_394)
    assert checked(by_cell, "--tolerance", "2")[0] == 0
    assert checked(json.dumps({"day": DAY, "org_id": "acme", "memory_mb": 1024, "seconds": 120}) + "\n")[0] == 0
    for bad in (["--cells", "x.csv"], [], ["--cells", "--from", "2026-01-01T00:05"]):
        assert drawdown([*line, *bad]) == 2
    assert drawdown([*line, str(totals_file(tmp_path, f"day,org_id,seconds\n{DAY},acme,x\n"))]) == 2
    assert "line 2: invalid seconds 'x': expected a whole number" in capfd.readouterr().err


class TestRealDay:
    """The cell's own totals are taken from the trace by the csv module; ours are what the import made of it."""

    pytestmark = gentd26.needed()
    REQUESTS = share(2_000, whole=gentd26.SAMPLES)

    def test_real_trace_totals_equal_imported_samples(self, database_url: str, tmp_path: Path) -> None:
        url = database_url
        must(migrated(url), "init", at=gentd26.FROM)
        some = tmp_path / "requests.csv"
        with gentd26.FILE.open() as trace:
            some.write_text("".join(islice(trace, 1 + self.REQUESTS)))
        must(url, "import", str(some), "--id-from-line", *gentd26.MAPPED, at=gentd26.AT)
        sums: dict[tuple[int, str], int] = defaultdict(int)
        for _line, org, ts, seconds in islice(gentd26.moments(), self.REQUESTS):
            sums[ts - ts % DAY_MS, org] += seconds
        file = tmp_path / "totals.csv"
        with file.open("w", newline="") as out:
            writer = csv.writer(out)
            writer.writerow(("day", "cell_id", "org_id", "memory_mb", "seconds"))
            writer.writerows((day_text(day), "cell-1", org, 1024, seconds) for (day, org), seconds in sums.items())
        found = must(url, "parity", "check", str(file), at="2024-12-10")["parity"]
        assert (found["compared"], found["differing"], found["unknown"]) == (len(sums), 0, 0)
        used = share(sum(sums.values()), whole=gentd26.SECONDS)
        assert used > 0 and sum(cell["ours"] for cell in found["cells"]) == used
        assert sum(cell["theirs"] for cell in found["cells"]) == used
        assert len(read_file(str(file))) == len({day for day, _ in sums})


class TestDayOfACluster:
    """A day of openb, all of it: the cell's totals are of the pods' lives, ours of their samples, one a minute."""

    pytestmark = openb.needed()
    FROM_S = 148 * DAY_MS // SECOND_MS
    """The trace's day with the most pods."""
    DAY = (openb.EPOCH_S + FROM_S) * SECOND_MS

    def test_cluster_day_totals_are_equal_and_tolerance_is_exact(self, engine: sa.Engine) -> None:
        ran = [pod.within(self.FROM_S, self.FROM_S + DAY_MS // SECOND_MS) for pod in openb.pods(whole=True)]
        ran = [pod for pod in ran if pod.seconds > 0]
        assert (len(ran), sum(pod.seconds for pod in ran)) == (643, 3_536_107)
        of_orgs = Counter[str]()
        for pod in ran:
            of_orgs[pod.org] += pod.seconds
        few = {org for org, _ in of_orgs.most_common()[-share(2, whole=openb.ORGS) :]}
        ran = [pod for pod in ran if pod.org in few]
        all_s = sum(pod.seconds for pod in ran)
        fleet = Fleet(engine)
        fleet.clock.at_ms = self.DAY + 2 * DAY_MS
        sums: dict[str, dict[int | None, int]] = defaultdict(lambda: defaultdict(int))
        for pod in ran:
            sums[pod.org][pod.memory_mb] += pod.seconds
        exact: Days = {(self.DAY, "cell-1"): dict(sums)}
        assert set(sums) == few

        small = min(sums, key=lambda org: sum(sums[org].values()))
        lost = max((pod for pod in ran if pod.org == small), key=lambda pod: pod.seconds)
        at = lost.start_s + 7 * openb.MINUTE_S
        before, after = replace(lost, end_s=at), replace(lost, name="after", start_s=at + openb.MINUTE_S)
        openb.load(engine, [*(pod for pod in ran if pod is not lost), before, after], fleet.clock.at_ms)
        used = sum(sums[lost.org].values())
        line = ("cell-1", lost.org, used - 60, used, -(-60_000_000 // used), "differs")
        assert told(compared(fleet, exact)) == [line], "a minute of one pod"
        openb.load(engine, [replace(lost, name="found", start_s=at, end_s=at + openb.MINUTE_S)], fleet.clock.at_ms)
        found = compared(fleet, exact)
        assert (found.compared, found.differing, found.cells[0].off) == (len(few), 0, 0)
        assert found.cells[0].ours == found.cells[0].theirs == all_s

        found = compared(fleet, self._counted_more(sums, 0))
        assert (found.differing, found.exit_status) == (0, 0), "0.007 % is no difference"
        parts = fleet.rows("SELECT DISTINCT verdict, ppm FROM parity_checks WHERE org_id <> '' ORDER BY ppm")
        assert set(parts) <= {("within", 69), ("within", 70)} and parts, "whole seconds, rounded up"
        found = compared(fleet, self._counted_more(sums, 1))
        assert found.differing == len(few), "a second more is one"
        assert {line.ppm for line in found.lines} <= {71, 72}

    def _counted_more(self, sums: dict[str, dict[int | None, int]], seconds: int) -> Days:
        """The cell counts the most that may differ without a word, and so many seconds more, of each organisation."""
        totals = {org: dict(by_size) for org, by_size in sums.items()}
        for by_size in totals.values():
            by_size[min(by_size, key=str)] += sum(by_size.values()) * 70 // (1_000_000 - 70) + seconds
        return {(self.DAY, "cell-1"): totals}
