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

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "http-api.md").read_text(encoding="utf-8")
EVENTS = (DOCS / "events.md").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page shows curl")
def test_the_calls_that_the_pages_show_are_answered(tmp_path: Path) -> None:
    block, events = (re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)[0] for page in (PAGE, EVENTS))
    database = f"sqlite:///{tmp_path}/drawdown.db"
    for words in ("init", "ledger grant acme 100 --new --reason first", "org assign acme --provider embedded --new"):
        assert drawdown(database, *words.split()).status == 0
    with serving(database, {}, tmp_path / "log") as (url, _process):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = environment(database, {"URL": url, "PATH": path})
        done = subprocess.run(
            ["bash", "-ec", f"{block}\n{events}"], cwd=tmp_path, env=env, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for said in ('"allowed":true', '"key":"builds/7"', '"drawn":1e-06', '"available":95.999999', '"next":"',
                 '"status":"pending"', '"code":"not_whole"', '"what":"site"',
                 '"feature":"render","unit":"units","used":3,"sealed":3', '"rule":"limit:*:day"'):  # fmt: skip
        assert said in done.stdout.replace(" ", ""), done.stdout
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_each_code_that_a_program_is_told_stands_on_the_page() -> None:
    part = PAGE.partition("## Programs")[2].partition("\n## ")[0]
    said = set(re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\| `[0-9`, ]+ \| ([^|]+) \|", part, re.MULTILINE))))
    assert said == set(programs.CODES)
