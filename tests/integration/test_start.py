"""What a command costs before it does anything: the modules it imports, and the files of statements it reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import sqlalchemy as sa

OTHERS = ("aiohappyeyeballs", "alembic", "apscheduler", "fastapi", "httptools", "prometheus_client",
          "rich.progress", "starlette", "uvicorn", "drawdown.providers.http.client", "drawdown.schema.tables.orgs",
          "drawdown.server.metrics", "drawdown.server.services", "drawdown.worker.batches.sources",
          "drawdown.worker.halts.cell_client", "drawdown.worker.jobs", "drawdown.worker.replay",
          "drawdown.worker.watch")  # fmt: skip
"""What serves or calls over HTTP, describes tables, repeats or draws: none of it is for a tick with nothing to do."""
OF_A_TICK = ("drawdown.ledger.wallet", "drawdown.providers.protocol", "drawdown.providers.registry",
             "drawdown.worker.engine.effects", "drawdown.worker.engine.runner", "drawdown.worker.verdict.org_row",
             "drawdown.worker.verdict.effective_balance")  # fmt: skip
"""What bills, its words, and what runs a tick: not for a look at everything."""
POSTGRESQL = ("psycopg", "sqlalchemy.dialects.postgresql")
LOOK = """
import atexit, gc, json, sys
from drawdown.cli.main import main
from drawdown.schema.sql import Queries

def look():
    searches, left = gc.get_stats()[2]["collections"], len(gc.get_objects())
    gc.unfreeze()  # what is frozen is not listed
    files = [one for one in gc.get_objects() if isinstance(one, Queries)]
    read = ["pieces" in vars(one) for one in files]
    print(json.dumps([sorted(sys.modules), sum(read), len(read), searches, left]), file=sys.stderr)

atexit.register(look)
main()
"""


@pytest.mark.parametrize("command", ["status", "tick"])
def test_command_does_not_import_modules_of_other_commands(command: str, engine: sa.Engine, database_url: str) -> None:
    given = {"DRAWDOWN_DATABASE_URL": database_url, "DRAWDOWN_LOG_LEVEL": "ERROR"}
    done = subprocess.run(
        [sys.executable, "-c", LOOK, command], env={**os.environ, **given}, capture_output=True, text=True
    )
    assert done.returncode in (0, 75) and done.stdout  # nothing has ticked yet where status asks
    modules, read, files, searches, left = json.loads(done.stderr)
    unwanted = OTHERS if engine.dialect.name == "postgresql" else (*OTHERS, *POSTGRESQL)
    assert {"sqlalchemy", "drawdown.schema.sql"} <= set(modules)
    assert set(unwanted) & set(modules) == set()
    assert command == "tick" or set(OF_A_TICK) & set(modules) == set()
    assert 0 < read < files / (2 if command == "tick" else 1)  # a look imports little that it does not read
    assert not searches, "nobody looks for garbage among all that is imported"
    assert left < 2_000, "nor at the end among what ends with the process"
