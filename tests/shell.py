"""A script for a shell whose `drawdown` is done in this process: that takes a third of the CPU of a forked one.

Guarantee: the shell reads the script, and gives each command its arguments, its environment and its folder. The
command's stdout, stderr and exit status come back to the shell. stdin is empty.
"""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests import in_process

LONGEST_S: Final = 300
"""What one command may take."""
FUNCTION: Final = """
drawdown() {
    local status
    printf '%s\\0' "$@" > "$DD_LINE/arguments"
    env -0 > "$DD_LINE/environment"
    pwd > "$DD_LINE/asked"
    read -r status < "$DD_LINE/answer"
    cat "$DD_LINE/out"
    cat "$DD_LINE/err" >&2
    return "$status"
}
"""


def run(script: str, *, cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a script to its end."""
    with tempfile.TemporaryDirectory(prefix="dd-shell-") as made, tempfile.TemporaryFile() as out, \
            tempfile.TemporaryFile() as err:  # fmt: skip
        line = Path(made)
        for name in ("asked", "answer"):
            os.mkfifo(line / name)
        process = subprocess.Popen(
            ["bash", "-c", FUNCTION + script], cwd=cwd, env={**env, "DD_LINE": made}, stdin=subprocess.DEVNULL,
            stdout=out, stderr=err,
        )  # fmt: skip
        _serve(line, process.pid)
        status = process.wait()
        texts = [(file.seek(0), file.read().decode())[1] for file in (out, err)]
        return subprocess.CompletedProcess(script, status, *texts)


def _serve(line: Path, pid: int) -> None:
    """Do what is asked, until the shell ends."""
    ended = os.pidfd_open(pid)
    # Opened to read and to write: `asked` does not end with one writer, and `answer` waits for no shell that ended.
    asked, answer = (os.open(line / name, os.O_RDWR) for name in ("asked", "answer"))
    try:
        while asked in (ready := select.select([asked, ended], [], [])[0]) or ended not in ready:
            status = _do(line, os.read(asked, 4096).decode().rstrip("\n"))
            os.write(answer, f"{status}\n".encode())
    finally:
        for one in (asked, answer, ended):
            os.close(one)


def _do(line: Path, folder: str) -> int:
    arguments = (line / "arguments").read_text().split("\0")[:-1]
    pairs = (one.partition("=") for one in (line / "environment").read_text().split("\0")[:-1])
    environment = {name: value for name, _, value in pairs}
    done = in_process.run(arguments, env=environment, cwd=Path(folder), timeout_s=LONGEST_S)
    (line / "out").write_bytes(done.stdout)
    (line / "err").write_bytes(done.stderr)
    return done.returncode
