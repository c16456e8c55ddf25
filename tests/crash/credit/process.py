"""What a process of a siege on credit does: a client has requests run, the ticker bills what they used besides."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from drawdown.cli.main import run
from tests.crash.credit.client import Client
from tests.crash.credit.planted import PLANTED
from tests.crash.credit.requests import Planned, requests
from tests.crash.credit.shared import Board
from tests.crash.observer import Observer
from tests.crash.process import TRY_AGAIN

TICKER = "ticker"


_made: list[Planned] = []


def prepare(folder: Path) -> None:
    """Read the requests, once for all that are forked."""
    told = json.loads((folder / "siege.json").read_text())
    _made[:] = requests(told["seed"], most=told["most"])


def work(role: str, number: int, folder: Path) -> int:
    """The whole life of one; returns its exit status."""
    observer = Observer(folder / f"{role}.{number}.log", folder / f"order.{role.split('-')[0]}")
    if (bug := os.environ.get("CRASH_PLANTED", "")) != "":
        PLANTED[bug]()
    observer.install()
    observer.note("ready")
    if role == TICKER:
        return _tick_on(folder, observer)
    return Client(int(role.split("-")[1]), folder, os.environ["DRAWDOWN_DATABASE_URL"], observer, _made).work()


def _tick_on(folder: Path, observer: Observer) -> int:
    board = Board(folder)
    while not (folder / "stop").exists():
        status = run(["--at", str(board.now_ms()), "tick"])
        observer.note(f"status {status}")
        if status not in (0, TRY_AGAIN):
            return status
        time.sleep(0.05)
    return 0
