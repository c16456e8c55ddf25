"""What a test process leaves behind however it ends: nothing, its PostgreSQL server neither."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.commands import PROJECT
from tests.leftovers import command_line

WITHIN_S = 120.0
HOLDS_A_FOLDER = """
import signal, time
from tests import leftovers
print(leftovers.folder("dd-left-"), flush=True)
time.sleep(600)
"""
HOLDS_A_SERVER = """
import time
from tests.postgres_server import Server
server = Server()
print(server.url.split("host=")[1], flush=True)
time.sleep(600)
"""


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + WITHIN_S
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


def held(code: str) -> tuple[subprocess.Popen[str], Path]:
    """A process in a group of its own, as a terminal's is, and its folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    assert folder.is_dir() and folder.name.startswith("dd-")
    return process, folder


@pytest.mark.parametrize("number", [None, signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_temporary_folder_is_removed_after_process_ends(number: signal.Signals | None) -> None:
    process, folder = held(HOLDS_A_FOLDER.replace("600", "600" if number else "0"))
    if number is not None:
        os.killpg(process.pid, number)
    process.communicate()
    wait_for(lambda: not folder.exists())


def test_postgres_server_is_stopped_after_process_is_killed() -> None:
    process, folder = held(HOLDS_A_SERVER)
    postmaster = int((folder / "data" / "postmaster.pid").read_text().split()[0])
    assert str(folder) in command_line(postmaster)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    wait_for(lambda: str(folder) not in command_line(postmaster) and not folder.exists())
