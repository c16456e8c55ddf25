"""Folders of a test process that are gone when it is, with the PostgreSQL servers in them.

Guarantee: also after Ctrl-C, SIGTERM and SIGKILL. A guard in a session of its own hears that its pipe closed; it ends
the servers whose data lies in these folders, known by their pid files and command lines, and removes the folders.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

SERVER_ENDS_S: Final = 30.0
MEMORY: Final = Path("/dev/shm")
"""Where a server's files cost no wait for a disk: no test loses the machine's power."""
ROOM: Final = 8 << 30
"""Bytes. All test processes together were seen to take 5 GB of it at once."""
_guards: Final[list[subprocess.Popen[str]]] = []
made: Final[list[Path]] = []
"""All folders of this process."""


def _has_room(place: Path) -> bool:
    try:
        return os.access(place, os.W_OK) and shutil.disk_usage(place).free >= ROOM
    except OSError:
        return False


def folder(prefix: str, *, on_disk: bool = False) -> Path:
    """A new one, in the guard's care; `on_disk` where it will not fit into memory."""
    new = Path(tempfile.mkdtemp(prefix=prefix, dir=MEMORY if not on_disk and _has_room(MEMORY) else None))
    made.append(new)
    if not _guards:
        quiet = subprocess.DEVNULL  # else whoever reads this process's output would wait for the guard
        command = [sys.executable, __file__]
        _guards.append(
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, text=True, start_new_session=True
            )
        )
    told = _guards[0].stdin
    assert told is not None
    told.write(f"{new}\n")
    told.flush()
    return new


def guard() -> None:
    """Take folders, a line each, until whoever names them is gone; then clean up."""
    for place in map(Path, sys.stdin.read().splitlines()):
        for file in place.rglob("postmaster.pid"):
            with suppress(OSError, ValueError, IndexError):
                end(int(file.read_text().split()[0]), place)
        shutil.rmtree(place, ignore_errors=True)


def end(pid: int, place: Path) -> None:
    """End a server: at once, without a checkpoint; where that takes too long, by SIGKILL."""
    for number in (signal.SIGQUIT, signal.SIGKILL):
        until = time.monotonic() + SERVER_ENDS_S
        while time.monotonic() < until and str(place) in command_line(pid):  # another may have its number
            os.kill(pid, number)
            time.sleep(0.1)


def command_line(pid: int) -> str:
    """Of a process; empty where there is none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:  # it is gone, or this is no Linux
        if Path("/proc/self/cmdline").exists():
            return ""
    return subprocess.run(["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True).stdout


if __name__ == "__main__":
    guard()
