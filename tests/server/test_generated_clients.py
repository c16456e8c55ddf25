"""Clients that tools generate from /openapi.json: each model has a name of its own, and what is generated imports.

The tools are not installed here: a test that needs one is skipped, unless OPENAPI_PYTHON_CLIENT, or SCHEMATHESIS, names
the program.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from drawdown.worker.access.keys import SCOPES
from tests.acceptance.commands import drawdown
from tests.server.house import House, described
from tests.server.test_process import serving
from tests.sqlite_databases import migrated

GENERATOR: Final = shutil.which(os.environ.get("OPENAPI_PYTHON_CLIENT", "openapi-python-client"))
FUZZER: Final = shutil.which(os.environ.get("SCHEMATHESIS", "schemathesis"))
MOST_S: Final = 600


def test_openapi_model_and_operation_names_are_unique(lone: House) -> None:
    """Two of one name get the names of their modules, and a generator leaves one of them out."""
    schemas = described(lone.server)["components"]["schemas"]
    assert [name for name in schemas if "__" in name] == []
    titles = [schema.get("title", name) for name, schema in schemas.items()]
    assert len(set(titles)) == len(titles)
    ids = [one["operationId"] for path in described(lone.server)["paths"].values() for one in path.values()]
    assert len(set(ids)) == len(ids)


@pytest.mark.skipif(GENERATOR is None, reason="openapi-python-client is not on this machine")
def test_generated_python_client_imports_all_modules(lone: House, tmp_path: Path) -> None:
    """Lines of JSON are the one body that the generator does not know; it says so, and leaves nothing else out."""
    assert GENERATOR is not None
    place = tmp_path / "openapi.json"
    place.write_text(json.dumps(described(lone.server)), encoding="utf-8")
    words = [GENERATOR, "generate", "--path", str(place), "--output-path", str(tmp_path / "made")]
    env = {**os.environ, "PATH": os.pathsep.join((str(Path(GENERATOR).parent), os.environ["PATH"]))}
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=MOST_S)
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "Unable to" not in said and "Cannot parse" not in said, said[-3000:]
    assert said.count("WARNING") == said.count("Unsupported content type application/x-ndjson")
    python = Path(GENERATOR).parent / "python"
    walk = (
        "import importlib, pkgutil, drawdown_client as made\n"
        "names = [one.name for one in pkgutil.walk_packages(made.__path__, 'drawdown_client.')]\n"
        "[importlib.import_module(name) for name in names]\n"
        "print(len(names))\n"
    )
    runs = str(python) if python.exists() else sys.executable
    found = subprocess.run([runs, "-c", walk], cwd=tmp_path / "made", capture_output=True, text=True, timeout=MOST_S)
    assert found.returncode == 0 and int(found.stdout) > len(described(lone.server)["paths"]), found.stderr[-3000:]


@pytest.mark.skipif(FUZZER is None, reason="schemathesis is not on this machine")
def test_openapi_fuzzed_requests_do_not_cause_server_error(tmp_path: Path) -> None:
    """503 is an answer of its own: without a secret, /admin and /cron give it."""
    assert FUZZER is not None
    database = f"sqlite:///{tmp_path}/drawdown.db"
    assert drawdown(migrated(database), "init").status == 0
    scopes = [word for scope in SCOPES for word in ("--scope", scope)]
    key = drawdown(database, "key", "create", "fuzz", "--gives", "50", *scopes, "--quiet").out.strip()
    with serving(database, {}, tmp_path / "log") as (url, _process):
        words = [
            FUZZER, "run", f"{url}/openapi.json", "-H", f"Authorization: Bearer {key}", "--checks",
            "not_a_server_error", "--phases", "examples,coverage,fuzzing", "--max-examples", "4", "--no-color",
                "--request-timeout", "60",
        ]  # fmt: skip
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=MOST_S)
    assert "Traceback" not in (tmp_path / "log").read_text()
    print(done.stdout[-3000:])
    assert "Operations:" in done.stdout and "[500]" not in done.stdout, done.stdout[-5000:]
