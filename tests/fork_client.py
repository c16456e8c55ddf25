"""Asks a process that has read the program to fork a command: all that a shell's `drawdown` reads in tests.

Guarantee: little more of the standard library than sockets and JSON is read; the shell blocks of the pages are some
two hundred commands.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import NoReturn


def stand_in(place: str) -> NoReturn:
    """Be the command, until it ends."""
    sys.exit(ask(place, [sys.argv[1:], dict(os.environ), os.getcwd()], [0, 1, 2], None))  # noqa: PTH109


def ask(place: str, asked: Sequence[object], files: list[int], timeout_s: float | None) -> int:
    """Have a command forked that has these files as its stdin, stdout and stderr; its exit status.

    Errors: TimeoutError, after which it is killed.
    """
    with sent(place, asked, files) as line:
        answers = line.makefile("r")
        pid = int(answers.readline())
        line.settimeout(timeout_s)
        try:
            return int(answers.readline())
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            raise


def sent(place: str, asked: Sequence[object], files: list[int]) -> socket.socket:
    """Where the command's pid is said, and then its exit status, a line each."""
    text, line = json.dumps(asked).encode(), socket.socket(socket.AF_UNIX)
    line.connect(place)
    socket.send_fds(line, [b"f"], files)
    line.sendall(len(text).to_bytes(4, "big") + text)
    return line
