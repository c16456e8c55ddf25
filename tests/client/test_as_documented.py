"""What docs/client.md shows works as it is shown, against a server that runs: Python, curl, Node and Go."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from drawdown_client import Client
from tests.acceptance.commands import drawdown
from tests.client.shop import AT_MS, RENDERS, SCOPES, TO_MS, free_port, open_shop

DOCS: Final = Path(__file__).resolve().parents[2] / "docs"
BLOCKS: Final = re.findall(r"```python\n(.*?)```", (DOCS / "client.md").read_text(encoding="utf-8"), flags=re.DOTALL)
HAS_GUARD: Final = importlib.util.find_spec("drawdown.server.api.guard") is not None
GUARDED: Final = (
    "guard set idea.create --credits 1 --phase 3 --new",
    "limit set idea.create 100",
    "guard set bandwidth --credits 1 --for 25000000 --phase 3 --new",
    "limit set bandwidth none",
    "guard set login.email --fail open --new",
    "limit set login.email 100 --per hour",
)
WHATS: Final = ("idea", "copy", "copied", "login")
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
    shown = (*SCOPES, "executions:write")
    scopes, words = ((*shown, "guard"), (*RENDERS, *GUARDED)) if HAS_GUARD else (shown, RENDERS)
    with open_shop(f"sqlite:///{tmp_path}/drawdown.db", tmp_path, scopes, words) as made:
        yield made


def test_documented_python_client_examples_work(
    shop: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
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
        assert client.balance("acme")["available"] == 94
    assert "request_override open {'method': 'POST'" in capsys.readouterr().out

    async def copy() -> int:
        return 1_000_000

    code = compile(loops, "client.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    asyncio.run(eval(code, {"url": url, "key": key, "copy": copy}))
    with Client(url, key) as client:
        assert client.balance("acme")["available"] == pytest.approx(93.96)


@pytest.mark.parametrize("program", PROGRAMS)
def test_documented_client_in_other_language_sends_events_once(
    shop: tuple[str, str], tmp_path: Path, program: list[str]
) -> None:
    """And it says so where its key is refused, at once."""
    url, key = shop

    def run(with_key: str, at: str = url) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "URL": at, "KEY": with_key, "GOCACHE": str(tmp_path / "go"), "GO111MODULE": "off"}
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
    if "curl" in (DOCS / "examples" / program[-1]).read_text(encoding="utf-8"):
        return  # curl does not read why a call was refused
    with away(url, "page.render", 1, 403) as at:
        done = run(key, at)
        assert done.returncode == 0 and done.stdout.count("duplicate") == 3, done.stdout + done.stderr
    with away(url, "page.render", 1, 413) as at:
        assert run(key, at).returncode != 0


@contextmanager
def away(url: str, metric: str, times: int, status: int) -> Iterator[str]:
    """The server behind a proxy, which hides the first answers about a metric behind a `status` of its own."""
    left = [times]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            names = ("Authorization", "Content-Type")
            answer = httpx.post(url + self.path, content=body, headers={name: self.headers[name] for name in names})
            fails = metric.encode() in body and left[0] > 0
            left[0] -= fails
            self.send_response(status if fails else answer.status_code)
            self.end_headers()
            self.wfile.write(b"" if fails else answer.content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as between:
        threading.Thread(target=between.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{between.server_port}"
        between.shutdown()


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not on this machine")
@pytest.mark.skipif(not HAS_GUARD, reason="this server has no guard")
@pytest.mark.parametrize("proxy_says", [503, 302])
def test_documented_node_guard_client_records_use_after_outage(
    shop: tuple[str, str], tmp_path: Path, proxy_says: int
) -> None:
    """It may ask again; without an answer it lets through what fails open, and tells of it once there is one."""
    url, key = shop

    def run(at: str, with_key: str = key) -> tuple[int, list[str], str]:
        env = {**os.environ, "URL": at, "KEY": with_key}
        done = subprocess.run(
            ["node", "guard.mjs"], cwd=DOCS / "examples", env=env, capture_output=True, text=True, timeout=300
        )
        return done.returncode, done.stdout.splitlines(), done.stderr

    status, said, wrong = run(f"http://127.0.0.1:{free_port()}")
    assert (status, said) == (1, ["login allow unreachable charged later"])
    assert wrong.count("has no response") == 3 and "not told yet: consume node-login-1" in wrong
    with away(url, "login.email", 4, proxy_says) as at:
        status, said, wrong = run(at)
    asked = ["check allow allowed charged 0", "idea allow allowed charged 1", "copy allow allowed charged 0"]
    assert (status, said, wrong) == (
        0, [*asked, "copied allow decided_before charged 1.25", "login allow unreachable charged later"], ""
    )  # fmt: skip
    assert run(url)[:2] == (0, [asked[0], *(f"{what} allow decided_before charged 0" for what in WHATS)])
    uses = drawdown(f"sqlite:///{tmp_path}/drawdown.db", "guard", "uses").out
    assert uses.count("node-login-1") == uses.count("node-idea-1") == uses.count("node-copy-1") == 1
    with Client(url, key) as client:
        assert client.balance("acme")["available"] == 97.75
    status, _, wrong = run(url, "ddk_" + "a" * 43)
    assert status != 0 and "unauthorized" in wrong
    with away(url, "login.email", 4, 403) as at:
        status, said, wrong = run(at)
    assert status != 0 and "]: 403" in wrong and not [line for line in said if line.startswith("login")]
