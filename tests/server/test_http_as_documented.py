"""What docs/http-api.md shows a program do works as it is shown, against a server that runs."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import indent

import pytest

from drawdown.server.api import programs
from drawdown.server.api.codes import CALLS
from tests import fork_server
from tests.acceptance.commands import drawdown, environment
from tests.server.test_process import serving
from tests.server.test_samples import BAD
from tests.sqlite_databases import migrated

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGE = (DOCS / "http-api.md").read_text(encoding="utf-8")
CODES = (DOCS / "codes.md").read_text(encoding="utf-8")
EVENTS = (DOCS / "events.md").read_text(encoding="utf-8")


def answered(page: str, folder: Path, more: dict[str, str] | None = None) -> str:
    """What the first block of a page prints, on a database that was just made."""
    block = blocks(page, "bash")[0]
    database = f"sqlite:///{folder}/drawdown.db"
    assert drawdown(migrated(database), "init").status == 0
    with serving(database, more or {}, folder / "log") as (url, _process):
        env = environment(database, {"URL": url, "PATH": path_of(folder)})
        done = subprocess.run(["bash", "-ec", block], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Traceback" not in (folder / "log").read_text()
    return done.stdout.replace(" ", "")


def path_of(folder: Path) -> str:
    """Where the blocks' commands are found: `drawdown` is forked."""
    (folder / "bin").mkdir()
    return os.pathsep.join(
        (str(fork_server.program(folder / "bin")), str(Path(sys.executable).parent), os.environ["PATH"])
    )


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page shows curl")
def test_documented_http_api_calls_work(tmp_path: Path) -> None:
    told = answered(PAGE, tmp_path)
    for said in ('"allowed":true', '"key":"builds/7"', '"drawn":1e-06', '"available":95.999999', '"next":"',
                 '"status":"pending"', '"group":"site"'):  # fmt: skip
        assert said in told, told


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page shows curl")
def test_documented_sign_up_calls_work(tmp_path: Path) -> None:
    page = (DOCS / "sign-up.md").read_text(encoding="utf-8")
    whole = "\n".join(blocks(page, "bash"))
    hooks = {"DRAWDOWN_HOOK_SECRET": "s" * 40, "DRAWDOWN_HOOK_ORIGINS": "https://product.example"}
    told = answered(f"```bash\n{whole}\n```", tmp_path, hooks)
    for said in (
        '"provider":"embedded"', '"granted":10', '"scopes":["events:write","guard","usage:read"]',
        '"status":"accepted"', '"available":9.992', '"event_id":"page-1"',
        '"event":{"status":"accepted","source":"/guard","event_id":"export-1"', '"period":"20',
        '"org_id":"initech"', '"low":2',
        '"decision":"allow"', '"allowed":true,"secret":"whsec_', '"is_final":false',
    ):  # fmt: skip
        assert said in told, (said, told)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page shows curl")
def test_documented_event_calls_bill_first_event(tmp_path: Path) -> None:
    told = answered(EVENTS, tmp_path)
    for said in (
        '"status":"accepted"',
        '"feature":"render","unit":"units","used":3,"sealed":3',
        '"rule":"limit:*:day"',
    ):
        assert said in told, told


@pytest.mark.skipif(shutil.which("curl") is None, reason="the pages show curl")
def test_documented_pages_work_in_sequence_on_same_database(tmp_path: Path) -> None:
    """The first commands of the README, then events, the guard, HTTP and the Python client: as they are pasted, on one
    database. No page takes a key, a name or the credit that another one needs."""
    readme, guard, client = (
        (DOCS / name).read_text(encoding="utf-8") for name in ("../README.md", "guard.md", "client.md")
    )
    first = blocks(readme, "sh")[0]
    for line in ('export PATH="$PWD/.venv/bin:$PATH"', "export URL=http://127.0.0.1:8080"):
        assert line in first
    curls = blocks(guard, "shell")
    assert len(curls) == 3
    written = [
        *blocks(EVENTS, "bash")[:1],
        *blocks(guard, "sh"),
        *curls,
        *blocks(PAGE, "bash"),
        *blocks(client, "bash"),
    ]
    (tmp_path / "client.py").write_text(as_program(*blocks(client, "python")))
    path, database = path_of(tmp_path), f"sqlite:///{tmp_path}/drawdown.db"

    def run(script: str, **more: str) -> str:
        env = environment(database, {"PATH": path, **more})
        done = subprocess.run(["bash", "-ec", script], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    run(first)
    with serving(database, {}, tmp_path / "log") as (url, _process):
        said = run("\n".join([*written, f"{sys.executable} client.py"]), URL=url)
    assert '{"error"' not in said and "conflict" not in said and "warning" not in said.lower(), said
    assert "Traceback" not in (tmp_path / "log").read_text()


def blocks(page: str, kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", page, flags=re.DOTALL)


def as_program(usage: str, guard: str, loops: str) -> str:
    """The blocks of the client's page, with what the page says is there."""
    calls = f"def copy():\n    return 1_000_000\n\nwith Client(url, key) as client:\n{indent(guard, '    ')}"
    sleeps = f"import asyncio\n\nasync def copy():\n    return 1_000_000\n\nasync def main():\n{indent(loops, '    ')}"
    return f"{usage}\n{calls}\n{sleeps}\nasyncio.run(main())\n"


def test_documented_sample_codes_are_complete() -> None:
    """Those of events beside it, as far as both have them."""
    rows = re.findall(r"^\| invalid \| `([a-z_0-9]+)` \| (both|events|samples) \|", CODES, re.MULTILINE)
    of_samples = {code for code, whose in rows if whose != "events"}
    assert {code for _, code, _ in BAD} <= of_samples
    assert {code for code, whose in rows if whose == "samples"} <= {"foreign_cell", *(code for _, code, _ in BAD)}
    assert len(rows) == len(set(rows))


def test_declared_refusal_statuses_are_documented() -> None:
    assert len(programs.STATUSES) > 5
    assert {code for code, status in programs.STATUSES.items() if status not in CALLS[code].statuses} == set()


def test_codes_that_server_answers_are_documented() -> None:
    """Outside the console and `/my`, which answer errors with pages."""
    files = [path for path in (ROOT / "server").rglob("*.py") if "console" not in path.parts]
    calls = [node for path in files for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    raised = [one.args for one in calls if getattr(one.func, "id", "") == "ApiError" and len(one.args) > 1]
    told = {(code.value, ast.unparse(status)) for status, code, *_ in raised if isinstance(code, ast.Constant)}
    listed = {(code, str(status)) for code, one in CALLS.items() for status in one.statuses}
    assert len(told) > 30
    assert {one for one in told if one[1].isdigit()} <= listed and {code for code, _ in told} <= CALLS.keys()
