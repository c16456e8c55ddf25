"""Commands, each a process of its own, forked from one that has read the program: reading it anew takes most of a
command's time.

Guarantee: arguments, environment, folder, stdin, stdout, stderr and exit status are the command's own, and it ends as a
Python process ends. What the interpreter itself takes from the environment (`ONLY_FRESH`) is left to a fresh process.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import math
import os
import pkgutil
import select
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, Final, NoReturn, cast

from tests import fork_client, installed

ONLY_FRESH: Final = ("PYTHON", "LC_", "LANG", "LD_", "MALLOC_", "HOME", "VIRTUAL_ENV")
_parents: Final[list[tuple[subprocess.Popen[bytes], Path]]] = []
ROOT: Final = Path(__file__).resolve().parents[1]
PROGRAM: Final = str(Path(sys.executable).with_name("drawdown"))
COMMAND: Final = "drawdown.cli.main"


def run(
    arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path, stdin: bytes | None = None, timeout_s: float
) -> subprocess.CompletedProcess[bytes]:
    """Run `drawdown ARGUMENTS` to its end. Errors: subprocess.TimeoutExpired, after which it is gone."""
    if differs(env, ONLY_FRESH):
        return _fresh(arguments, env=env, cwd=cwd, stdin=stdin, timeout_s=timeout_s)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, _given(stdin) as given:
        asked = [list(arguments), dict(env), str(cwd)]
        try:
            status = fork_client.ask(str(_parent()), asked, [given.fileno(), out.fileno(), err.fileno()], timeout_s)
        except TimeoutError:
            raise subprocess.TimeoutExpired("drawdown", timeout_s) from None
        return subprocess.CompletedProcess(list(arguments), status, _all(out), _all(err))


def differs(env: Mapping[str, str], beginnings: tuple[str, ...]) -> bool:
    """Whether it has other values than this process of what begins with these."""
    names = {name for name in env.keys() | os.environ.keys() if name.startswith(beginnings)}
    return any(env.get(name) != os.environ.get(name) for name in names)


class Started:
    """A command that goes on, or the `main` of another module; what `subprocess.Popen` tells of a process, this tells
    of it."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        err: IO[Any],
        before: str = "",
        module: str = COMMAND,
    ) -> None:
        """`before`: Python that the process runs first, to shorten a wait of the program."""
        assert not differs(env, ONLY_FRESH)
        (given, written_in), (read, written) = os.pipe(), os.pipe()
        asked = [list(arguments), dict(env), str(cwd), before, module]
        self._line = fork_client.sent(str(_parent()), asked, [given, written, err.fileno()])
        for end in (given, written):
            os.close(end)
        self.stdin: IO[str] = os.fdopen(written_in, "w")
        """A command reads nothing: for it, this is closed."""
        if module == COMMAND:
            self.stdin.close()
        self.stdout: IO[str] = os.fdopen(read, "r")
        self._answers = b""
        while b"\n" not in self._answers:
            self._hear(None)
        pid, _, self._answers = self._answers.partition(b"\n")
        self.pid, self.returncode = int(pid), None if b"\n" not in self._answers else int(self._answers)

    def _hear(self, timeout_s: float | None) -> None:
        self._line.settimeout(timeout_s)
        found = self._line.recv(64)
        assert found, "whoever forks commands is gone"
        self._answers += found

    def poll(self) -> int | None:
        """Its exit status, once it has ended."""
        with suppress(BlockingIOError):
            while self.returncode is None:
                self._hear(0)
                if b"\n" in self._answers:
                    self.returncode = int(self._answers)
        return self.returncode

    def wait(self, timeout_s: float | None = None) -> int:
        """Errors: subprocess.TimeoutExpired."""
        until = math.inf if timeout_s is None else time.monotonic() + timeout_s
        while self.poll() is None:
            left = until - time.monotonic()
            if left <= 0:
                raise subprocess.TimeoutExpired("drawdown", timeout_s or 0)
            select.select([self._line], [], [], None if left == math.inf else left)
        self._line.close()
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Only to a process that is known to be there."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def program(folder: Path) -> Path:
    """A folder with a `drawdown` for shells: what it is asked is done in a process that is forked, too."""
    file = folder / "drawdown"
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom tests.fork_client import stand_in\n"
        f"stand_in({str(_parent())!r})"
    )
    file.write_text(f"#!{sys.executable} -SE\n{code}\n")
    file.chmod(0o755)
    return folder


def _fresh(
    arguments: Sequence[str], *, env: Mapping[str, str], cwd: Path, stdin: bytes | None, timeout_s: float
) -> subprocess.CompletedProcess[bytes]:
    with _given(stdin) as given:
        return subprocess.run(
            [PROGRAM, *arguments], env=env, cwd=cwd, capture_output=True, timeout=timeout_s, stdin=given
        )


def _given(stdin: bytes | None) -> IO[bytes]:
    if stdin is None:
        return Path(os.devnull).open("rb")
    file = tempfile.TemporaryFile()  # noqa: SIM115
    file.write(stdin)
    file.seek(0)
    return file


def _all(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _parent() -> Path:
    """Where the process listens that commands are forked from; started by the first, gone with this process."""
    if not _parents:
        place = Path(tempfile.mkdtemp(prefix="dd-fork-")) / "line"
        command = [sys.executable, "-m", "tests.fork_server", str(place)]
        made = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert made.stdout is not None
        assert made.stdout.readline() == b"ready\n"
        _parents.append((made, place))
    return _parents[0][1]


def serve(place: Path) -> None:
    """Fork a process a line, until stdin ends."""
    import drawdown

    for module in pkgutil.walk_packages(drawdown.__path__, "drawdown."):
        if "migrations" not in module.name:
            importlib.import_module(module.name)
    importlib.import_module("uvicorn.loops.auto")
    from drawdown.cli.main import program
    from drawdown.cli.tree import walk

    assert [*walk(program())], "each command is built once"
    installed.share()
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ended, told = socket.socketpair()
    for end in (ended, told):
        end.setblocking(False)
    signal.set_wakeup_fd(told.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    lines: dict[int, socket.socket] = {}
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as either:
        listener.bind(str(place))
        listener.listen(64)
        os.write(1, b"ready\n")
        for each in (listener, ended, 0):
            either.register(each, selectors.EVENT_READ)
        while 0 not in (ready := [key.fileobj for key, _ in either.select()]):
            if ended in ready:
                ended.recv(4096)
                _tell_ends(lines)
            if listener in ready:
                line, _ = listener.accept()
                with suppress(OSError, EOFError):  # whoever asked may be gone
                    lines[_forked(line, [listener, ended, told, *lines.values()], either)] = line
    place.unlink()
    place.parent.rmdir()


@cache
def _describe() -> None:
    """Make the models of all operations: most of what a server does before it listens."""
    from drawdown.server.api import declared
    from drawdown.server.declarations import DECLARED

    declared.Operations(cast(Any, None), cast(Any, None), DECLARED).routes()


def _forked(line: socket.socket, ours: list[socket.socket], either: selectors.BaseSelector) -> int:
    """The process of a command, which has nothing of ours open; it is said to whoever asked for it."""
    _, files, _, _ = socket.recv_fds(line, 1, 3)
    asked = json.loads(_read(line, int.from_bytes(_read(line, 4))))
    if "serve" in asked[0]:
        _describe()
    pid = os.fork()
    if pid == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        either.close()
        for one in (line, *ours):
            one.close()
        _become(files, *asked)
    for file in files:
        os.close(file)
    line.sendall(f"{pid}\n".encode())
    return pid


def _tell_ends(lines: dict[int, socket.socket]) -> None:
    """Say to whoever waits how each command ended that has."""
    for pid in [*lines]:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            with lines.pop(pid) as line, suppress(OSError):  # whoever asked may be gone
                line.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _read(line: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        part = line.recv(count - len(found))
        if not part:
            raise EOFError
        found += part
    return found


def _become(
    files: Sequence[int], arguments: list[str], env: dict[str, str], cwd: str, before: str = "", module: str = COMMAND
) -> NoReturn:
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    os.chdir(cwd)
    streams: dict[str, Any] = {
        "stdin": open(0, closefd=False),  # noqa: SIM115
        "stdout": open(1, "w", closefd=False),  # noqa: SIM115
        "stderr": open(2, "w", errors="backslashreplace", buffering=1, closefd=False),  # noqa: SIM115
    }
    for name, stream in streams.items():
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.argv = [PROGRAM, *arguments]
    exec(before, {})
    try:
        sys.exit(importlib.import_module(module).main())
    except SystemExit as ended:
        _end(ended.code or 0)
        raise


def _end(code: object) -> None:
    """End as Python does, but for taking apart, object by object, all that was read before the fork: that would copy
    the whole program's memory. Returns where what was printed cannot be written: Python itself is to say so."""
    if not isinstance(code, int):
        return
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code & 0xFF)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
