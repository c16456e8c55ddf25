"""What docs/client.md shows works as it is shown, against a server that runs: Python, curl, Node and Go."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from drawdown_client import Client
from tests.client.shop import AT_MS, RENDERS, SCOPES, TO_MS, open_shop

DOCS: Final = Path(__file__).resolve().parents[2] / "docs"
BLOCKS: Final = re.findall(r"```python\n(.*?)```", (DOCS / "client.md").read_text(encoding="utf-8"), flags=re.DOTALL)
HAS_GUARD: Final = importlib.util.find_spec("drawdown.server.api.guard") is not None
GUARDED: Final = (
    "guard set idea.create --credits 1 --phase 3 --new",
    "limit set idea.create 100",
    "guard set bandwidth --credits 1 --for 25000000 --phase 3 --new",
    "limit set bandwidth none",
)
PROGRAMS: Final = [
    pytest.param(
        words,
        id=words[0],
        marks=pytest.mark.skipif(shutil.which(needed) is None, reason=f"{needed} is not on this machine"),
    )
    for needed, words in (
        ("curl", ["bash", "send_events.sh"]),
        ("node", ["node", "send_events.mjs"]),
        ("go", ["go", "run", "send_events.go"]),
    )
]


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[tuple[str, str]]:
    scopes, words = ((*SCOPES, "guard"), (*RENDERS, *GUARDED)) if HAS_GUARD else (SCOPES, RENDERS)
    with open_shop(f"sqlite:///{tmp_path}/drawdown.db", tmp_path, scopes, words) as made:
        yield made


def test_python(shop: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    usage, guard, loops = BLOCKS
    url, key = shop
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("URL", url)
    monkeypatch.setenv("KEY", key)
    exec(usage, {})
    assert "'used': 3" in capsys.readouterr().out and (tmp_path / "web.spool").stat().st_size == 0
    if not HAS_GUARD:
        pytest.skip("this server has no guard")
    with Client(url, key) as client:
        exec(guard, {"client": client, "copy": lambda: 25_000_000})
        assert client.balance("acme")["available"] == 98
    assert "request_override open {'method': 'POST'" in capsys.readouterr().out

    async def copy() -> int:
        return 1_000_000

    code = compile(loops, "client.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    asyncio.run(eval(code, {"url": url, "key": key, "copy": copy}))
    with Client(url, key) as client:
        assert client.balance("acme")["available"] == pytest.approx(97.96)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_in_another_language_sends_and_may_send_again(
    shop: tuple[str, str], tmp_path: Path, program: list[str]
) -> None:
    """And it says so where its key is refused, at once."""
    url, key = shop

    def run(with_key: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "URL": url, "KEY": with_key, "GOCACHE": str(tmp_path / "go"), "GO111MODULE": "off"}
        return subprocess.run(
            program, cwd=DOCS / "examples", env=env, capture_output=True, text=True, timeout=300, check=False
        )

    for status in ("accepted", "duplicate"):
        done = run(key)
        assert done.returncode == 0 and done.stdout.count(status) == 3, done.stdout + done.stderr
    with Client(url, key) as client:
        found = client.usage("acme", AT_MS, TO_MS)["rows"]
    assert [(row["feature"], row["used"]) for row in found] == [("render", 6)]
    done = run("ddk_" + "a" * 43)
    assert done.returncode != 0 and "unauthorized" in done.stdout + done.stderr
