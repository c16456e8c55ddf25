"""What docs/console.md shows works as it is shown, against a server that runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import httpx
import pytest

from drawdown.server.console.my import COOKIE
from tests.acceptance.commands import drawdown, environment
from tests.server.test_process import serving
from tests.sqlite_databases import migrated

DOCS: Final = Path(__file__).resolve().parents[2] / "docs"
OIDC, MY = re.findall(r"```bash\n(.*?)```", (DOCS / "console.md").read_text(encoding="utf-8"), flags=re.DOTALL)
SERVE: Final = "drawdown serve\n"


def shell(text: str, database: str, folder: Path, env: dict[str, str]) -> tuple[str, dict[str, str]]:
    """What it prints, and the environment that it leaves."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-ec", f"{text}\nenv -0 > left"],
        cwd=folder, env=environment(database, {**env, "PATH": path}), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    left = dict(one.split("=", 1) for one in (folder / "left").read_text().split("\0") if one)
    return done.stdout, {name: text for name, text in left.items() if name.startswith("DRAWDOWN_CONSOLE")} | {
        name: text for name, text in left.items() if name.startswith("DRAWDOWN_MY")
    }


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the page shows openssl")
def test_documented_oidc_and_customer_link_examples_work(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/drawdown.db"
    migrated(database)
    for words in ("init", "ledger grant acme 100 --new --reason first", "org assign acme --provider embedded --new"):
        assert drawdown(database, *words.split()).status == 0
    (tmp_path / "client-secret").write_text("between us\n")
    shutil.copy(DOCS / "examples" / "my_link.py", tmp_path)
    _, of_console = shell(OIDC.partition(SERVE)[0], database, tmp_path, {})
    before, _, after = MY.partition(SERVE)
    _, of_my = shell(before, database, tmp_path, {})
    assert after, "the page shows how a link is made"
    with serving(database, {**of_console, **of_my}, tmp_path / "log") as (url, _process):
        assert "Sign in with login.example.com" in httpx.get(f"{url}/console/sign-in").text
        said, _ = shell(after, database, tmp_path, of_my)
        link = said.strip()
        assert link.startswith("https://drawdown.internal/my/enter?token=")
        there = link.replace("https://drawdown.internal", url)
        answer = httpx.get(there)
        assert (answer.status_code, answer.headers["location"]) == (303, "/my/usage"), answer.text
        cookie = answer.headers["set-cookie"].partition(";")[0]
        assert cookie.startswith(f"{COOKIE}=")
        page = httpx.get(f"{url}/my/usage", headers={"cookie": cookie})
        assert page.status_code == 200 and "100.00" in page.text and "billing@example.com" in page.text
        assert httpx.get(there).status_code == 403, "once"
    assert "Traceback" not in (tmp_path / "log").read_text()
    listed = drawdown(database, "console", "user", "list")
    assert "ann@example.com" in listed.out and "my_enter" in drawdown(database, "audit", "list", "--via", "my").out
