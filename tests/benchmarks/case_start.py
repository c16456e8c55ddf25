"""A command that has nothing to do, beside a Python that imports the same libraries: what of its start is ours."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from typing import Final

import sqlalchemy as sa

from tests.benchmarks.databases import Databases, url_of
from tests.benchmarks.measure import Result, compared

LIBRARIES: Final = "import sqlalchemy, typer, pydantic_settings, structlog, rich.console"
COMMAND: Final = "from drawdown.cli.main import main; main()"
GOALS: Final = {"status": 1.25, "tick": 1.6}


def run(databases: Databases, kind: str, runs: int) -> list[Result]:
    """Each by the user time of its process."""
    engine = databases.new(kind)
    found = [_one(engine, kind, command, goal, runs) for command, goal in GOALS.items()]
    databases.drop(engine)
    return found


def _one(engine: sa.Engine, kind: str, command: str, goal: float, runs: int) -> Result:
    given = {"DRAWDOWN_DATABASE_URL": url_of(engine.url), "DRAWDOWN_LOG_LEVEL": "ERROR"}
    return Result(
        case=f"start_{command}",
        database=kind,
        compares=f"`drawdown {command}` on an empty database, beside importing the libraries that every command uses",
        figures=compared(
            partial(_user_s, (COMMAND, command), given),
            partial(_user_s, (LIBRARIES,), given),
            runs,
            goal=goal,
            what=(f"drawdown {command}", "libraries"),
        ),
        baseline=LIBRARIES,
        totals={"commands": runs},
    )


def _user_s(arguments: Sequence[str], given: dict[str, str]) -> float:
    """The user time of one Python that runs this; one that has compiled what it imports, by the run that warms up."""
    environment = {**os.environ, **given, "PYTHONDONTWRITEBYTECODE": ""}
    with subprocess.Popen([sys.executable, "-c", *arguments], env=environment, stdout=subprocess.DEVNULL) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode in (0, 75), arguments  # nothing has ticked yet where status asks
    return used.ru_utime
