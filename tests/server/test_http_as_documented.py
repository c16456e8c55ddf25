"""What docs/http-api.md shows a program do works as it is shown, against a server that runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from drawdown.server.api import programs
from tests.acceptance.commands import drawdown, environment
from tests.server.test_process import serving
from tests.server.test_samples import BAD

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "http-api.md").read_text(encoding="utf-8")
EVENTS = (DOCS / "events.md").read_text(encoding="utf-8")


def answered(page: str, folder: Path, *before: str) -> str:
    """What the first block of a page prints, on a database that was just made."""
    block = re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)[0]
    database = f"sqlite:///{folder}/drawdown.db"
    for words in ("init", *before):
        assert drawdown(database, *words.split()).status == 0
    with serving(database, {}, folder / "log") as (url, _process):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = environment(database, {"URL": url, "PATH": path})
        done = subprocess.run(["bash", "-ec", block], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Traceback" not in (folder / "log").read_text()
    return done.stdout.replace(" ", "")


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page shows curl")
def test_the_calls_that_the_page_shows_are_answered(tmp_path: Path) -> None:
    there = ("ledger grant acme 100 --new --reason first", "org assign acme --provider embedded --new")
    told = answered(PAGE, tmp_path, *there)
    for said in ('"allowed":true', '"key":"builds/7"', '"drawn":1e-06', '"available":95.999999', '"next":"',
                 '"status":"pending"', '"code":"not_whole"', '"what":"site"'):  # fmt: skip
        assert said in told, told


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page shows curl")
def test_the_first_event_is_billed_as_the_page_shows(tmp_path: Path) -> None:
    told = answered(EVENTS, tmp_path)
    for said in (
        '"status":"accepted"',
        '"feature":"render","unit":"units","used":3,"sealed":3',
        '"rule":"limit:*:day"',
    ):
        assert said in told, told


def test_each_code_of_a_sample_stands_on_the_page() -> None:
    """Those of events beside it, as far as both have them."""
    rows = re.findall(r"^\| invalid \| ([^|]+) \| (.*)\|$", PAGE, re.MULTILINE)
    said = {code for codes, _ in rows for code in re.findall(r"`([a-z_0-9]+)`", codes)}
    of_samples = [codes for codes, what in rows if what.startswith("of samples")]
    own = set(re.findall(r"`([a-z_0-9]+)`", "".join(of_samples)))
    assert len(of_samples) == 4
    assert {code for _, code, _ in BAD} <= said
    assert own <= {code for _, code, _ in BAD}, "each is one that a sample is answered with"


def test_each_code_that_a_program_is_told_stands_on_the_page() -> None:
    part = PAGE.partition("## Programs")[2].partition("\n## ")[0]
    said = set(re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\| `[0-9`, ]+ \| ([^|]+) \|", part, re.MULTILINE))))
    assert said == set(programs.CODES)
