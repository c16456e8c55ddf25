"""The command line as other programs meet it: a process with arguments, an exit status, stdout and stderr."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import fork_server, in_process

PROJECT = Path(__file__).resolve().parents[2]
SCRIPT = Path(sys.executable).parent / "drawdown"
STATE = f"{tempfile.gettempdir()}/dd-state-{os.getuid()}"
"""Where these processes remember their databases, unless the environment says."""


@dataclass(frozen=True)
class Ended:
    """What a finished command left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


def environment(url: str | None, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment, without Drawdown settings of the machine's own; logs off, errors only."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DRAWDOWN_")}
    kept.setdefault("XDG_STATE_HOME", STATE)
    named = {} if url is None else {"DRAWDOWN_DATABASE_URL": url}
    return {**kept, "DRAWDOWN_LOG_LEVEL": "CRITICAL", "NO_COLOR": "1", **named, **(extra or {})}


def drawdown(
    url: str | None,
    *arguments: str,
    at: str | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    cwd: Path = PROJECT,
    timeout_s: float = 300,
    process: bool = False,
) -> Ended:
    """Run `drawdown ARGUMENTS` to its end, in this process or in a process of its own."""
    when = [] if at is None else ["--at", at]
    given = [*when, *arguments]
    run = fork_server.run if process else in_process.run
    done = run(given, env=environment(url, env), cwd=cwd, stdin=stdin, timeout_s=timeout_s)
    return Ended(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def must(url: str | None, *arguments: str, status: int = 0, at: str | None = None) -> dict[str, Any]:
    """Run a command that has to end with this status; returns its JSON."""
    done = drawdown(url, "--json", *arguments, at=at)
    assert done.status == status, f"{arguments}: exit status {done.status}\n{done.out[-2000:]}\n{done.err[-2000:]}"
    return done.json


def one_clear_line(done: Ended, *statuses: int) -> str:
    """What a failed command said: one line on stderr, the right exit status and no traceback."""
    assert "Traceback" not in done.out + done.err, done.err
    assert done.status in statuses, f"exit status {done.status}\n{done.out}\n{done.err}"
    lines = done.err.splitlines()
    assert len(lines) == 1, done.err
    assert lines[0].startswith("drawdown: ") and len(lines[0]) > len("drawdown: "), done.err
    return lines[0]
