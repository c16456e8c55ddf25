"""Batches: files that are taken, by people and ticks at once; one that is withdrawn."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import sqlalchemy as sa

from drawdown.schema.database import write
from drawdown.schema.errors import Refused
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.worker.batches import folders, sources
from drawdown.worker.batches.file_sums import Sums, add_up
from drawdown.worker.batches.files import FoundFile, found_file
from drawdown.worker.batches.query_source import Question
from drawdown.worker.batches.sources import begin_reading, end_reading, forget_gone
from drawdown.worker.batches.take import WITHDRAWN_AT_ONCE, TakenFile, accept, meet_types, take, withdraw_some
from tests.interleave.party import Act, Party, plain
from tests.interleave.stage import ASKED, FLIP, NOW, T0, Stage

HEADER: Final = "org_id,ts,memory_mb,interval_s\n"
FRESH: Final = "".join(f"acme,{NOW - windows * WINDOW_MS},1024,60\n" for windows in range(1, 5))
LATE: Final = f"{HEADER}acme,{T0},1024,60\nacme,{FLIP},1024,60\nlater,{T0},4096,7\n{FRESH}"
OTHER: Final = f"{HEADER}acme,{T0},1024,50\n"
EVENTS: Final = f"org_id,ts,event_type,quantity\nacme,{T0},page.new,1\n"
PRICED: Final = f"org_id,ts,event_type,quantity\nacme,{NOW - 1},glow.done,3\n"
SOURCE: Final = "exports"
QUESTION: Final = Question("SELECT :from_ms, :until_ms", ASKED, DAY_MS, 0)


@cache
def _folder() -> Path:
    made = TemporaryDirectory(prefix="drawdown-batches-")
    atexit.register(made.cleanup)
    return Path(made.name)


@cache
def _sums(name: str, text: str) -> Sums:
    made = add_up(_file(name, text), NOW)
    atexit.register(_sums.cache_clear)  # what DuckDB holds at a process's end it complains of
    atexit.register(made.close)
    return made


def _file(name: str, text: str) -> FoundFile:
    path = _folder() / str(len(text)) / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return found_file(path)


def _takes(text: str, name: str = "u.csv") -> Callable[[Stage, sa.Connection], TakenFile]:
    return lambda stage, connection: take(connection, _sums(name, text), SOURCE, stage.by)


def _in_once(stage: Stage) -> Iterator[str]:
    """Whoever came first: of one name one batch stands, and it is there whole."""
    for name, batches in stage.rows(
        "SELECT name, COUNT(*) FROM batches WHERE withdrawn_ms IS NULL GROUP BY name HAVING COUNT(*) > 1"
    ):
        yield f"{batches} batches stand under {name}"
    for (name,) in stage.rows(
        "SELECT f.name FROM batch_files f WHERE f.outcome = 'conflict' AND f.modified_ns >= 0 AND NOT EXISTS ("
        "SELECT 1 FROM batches b WHERE b.name = f.name AND b.withdrawn_ms IS NULL)"
    ):
        yield f"{name} is in conflict with nothing, and never looked at again"
    if not stage.rows("SELECT 1 FROM batches"):
        yield "no batch was taken"


def _withdraws(what: str, at_most: int = WITHDRAWN_AT_ONCE) -> Party:
    def ready(stage: Stage) -> Act:
        batch = write(stage.engine, partial(_takes(LATE), stage)).batch
        return Act(lambda engine: write(engine, lambda c: withdraw_some(c, batch, stage.by, "", at_most)))

    return Party(f"cli.declared:run batch withdraw{what}", ready)


def _takes_what_may_be_charged(stage: Stage) -> Act:
    sums = _sums("glow.csv", PRICED)
    write(stage.engine, lambda c: meet_types(c, sums, NOW))
    return Act(lambda engine: write(engine, lambda c: take(c, sums, SOURCE, stage.by)))


def _not_charged_too(stage: Stage) -> Iterator[str]:
    if stage.rows(
        "SELECT 1 FROM batches b WHERE b.name = 'glow.csv' AND b.withdrawn_ms IS NULL "
        "AND EXISTS (SELECT 1 FROM guard_metrics WHERE metric = 'glow.done' AND price_micro > 0) "
        "AND NOT EXISTS (SELECT 1 FROM mappings WHERE feature = 'glow')"
    ):
        yield "the guard charges for glow.done, and a batch of it went in, which nothing will ever bill"


def _refused(stage: Stage, connection: sa.Connection) -> None:
    taken = TakenFile(SOURCE, "bad.csv", "", "refused", said="broken")
    folders._note(connection, file=_file("bad.csv", "x"), taken=taken, now_ms=stage.clock.now_ms())


def _accepts(stage: Stage, connection: sa.Connection) -> None:
    take(connection, _sums("u.csv", LATE), SOURCE, stage.by)
    longer = take(connection, _sums("longer.csv", f"{LATE}acme,{NOW - 7},1024,9\n"), SOURCE, stage.by)
    with suppress(Refused):  # the other was withdrawn meanwhile, and this one is taken
        accept(connection, longer.batch, stage.by)


def _begins(stage: Stage, connection: sa.Connection) -> None:
    begin_reading(connection, SOURCE, _file("u.csv", LATE), stage.clock.now_ms())


def _fails(stage: Stage, connection: sa.Connection) -> None:
    _begins(stage, connection)
    end_reading(connection, SOURCE, _file("u.csv", LATE), "no room", stage.clock.now_ms())


def _moved_away(stage: Stage, connection: sa.Connection) -> None:
    _refused(stage, connection)
    forget_gone(connection, SOURCE, ())


def _paused(stage: Stage, connection: sa.Connection) -> None:
    sources.add_source(connection, SOURCE, _folder(), stage.by)
    sources.pause_source(connection, SOURCE, stage.by)


def _removed(stage: Stage, connection: sa.Connection) -> None:
    sources.add_source(connection, SOURCE, _folder(), stage.by)
    with suppress(Refused):  # it took something meanwhile
        sources.remove_source(connection, SOURCE, stage.by)


def _asks_from(stage: Stage, connection: sa.Connection) -> None:
    sources.add_query(connection, ASKED, QUESTION, stage.by, NOW - 3 * DAY_MS)


def _due(stage: Stage, connection: sa.Connection) -> None:
    _asks_from(stage, connection)
    sources.due_periods(connection, ASKED, QUESTION, NOW)


def _adds(source: str, folder: str) -> Callable[[Stage, sa.Connection], object]:
    def work(stage: Stage, connection: sa.Connection) -> object:
        path = _folder() / folder
        path.mkdir(exist_ok=True)
        return sources.add_source(connection, source, path, stage.by)

    return work


def _adds_a_query(text: str) -> Callable[[Stage, sa.Connection], object]:
    asked = replace(QUESTION, query=text)
    return lambda stage, connection: sources.add_query(connection, "new-query", asked, stage.by)


def _added_once(stage: Stage) -> Iterator[str]:
    """What is on record as added is there, and no folder has two names."""
    ((there, folders, said),) = stage.rows(
        "SELECT (SELECT COUNT(*) FROM batch_sources), (SELECT COUNT(DISTINCT folder) FROM batch_sources), "
        "(SELECT COUNT(*) FROM operator_actions WHERE action = 'source_add')"
    )
    removed = len(stage.rows("SELECT 1 FROM operator_actions WHERE action = 'source_remove'"))
    if there != folders or there != said - removed:
        yield f"{there} sources of {folders} folders are there; on record {said} were added, and {removed} removed"


def _asked_from_there(stage: Stage) -> Iterator[str]:
    """No tick passes over a period that nothing became of."""
    ((next_ms,),) = stage.rows(f"SELECT next_ms FROM batch_sources WHERE source = '{ASKED}'")
    if int(str(next_ms)) > NOW - 2 * DAY_MS:
        yield f"the periods before {next_ms} were passed over"


BATCHES: Final = (
    plain("take_batch", _takes(LATE), _in_once),
    plain("take_batch the same by another name", _takes(LATE, "v.csv"), _in_once),
    plain("take_batch of that name, with other content", _takes(OTHER), _in_once),
    Party("take_batch what may be charged", _takes_what_may_be_charged, _not_charged_too),
    plain("meet_types", lambda s, c: meet_types(c, _sums("events.csv", EVENTS), NOW)),
    plain("cli.nouns.batches:_take", _takes(LATE), _in_once),
    _withdraws(""),
    _withdraws(" a portion of it", at_most=2),
    plain("cli.declared:run batch accept", _accepts),
    plain("note_file", _refused),
    plain("begin_reading", _begins),
    plain("end_reading", _fails),
    plain("forget_gone", _moved_away),
    plain("cli.nouns.batch_sources:add", lambda s, c: sources.add_source(c, SOURCE, _folder(), s.by)),
    plain("cli.nouns.batch_sources:add a new one", _adds("new", "x"), _added_once),
    plain("cli.nouns.batch_sources:add a new one with another folder", _adds("new", "y"), _added_once),
    plain("cli.nouns.batch_sources:add the new one's folder as another", _adds("newer", "x"), _added_once),
    plain("cli.nouns.batch_sources:add a query", _asks_from),
    plain("cli.nouns.batch_sources:add a query that is new", _adds_a_query("SELECT :from_ms, :until_ms"), _added_once),
    plain(
        "cli.nouns.batch_sources:add a query of that name", _adds_a_query("SELECT 1, :from_ms, :until_ms"), _added_once
    ),
    plain("cli.declared:run source pause", _paused),
    plain("cli.declared:run source remove", _removed),
    plain("due_periods", _due, _asked_from_there),
)
