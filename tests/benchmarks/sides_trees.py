"""The two trees that are measured side by side: this one, and that of an older commit with an environment of its own.

Guarantee: a figure is of the tree that it names: each answer says which files it ran. The older tree lies in a folder
of the caller's, and the repository knows nothing of it. A signal that ends this ends all that was begun, whose files
lie in that folder, too.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
SCRIPT: Final = Path(__file__).with_name("sides_script.py")
PACKAGES: Final = ("cli", "events", "guard", "ledger", "providers", "schema", "server", "worker")
BENCH_RUNS: Final = 3
"""Of each case of `make bench`, in one process."""
Found = dict[str, float]


class Failed(RuntimeError):
    """What a tree's process wrote before it ended badly."""

    def __init__(self, tree: str, said: str) -> None:
        super().__init__(f"{tree}: {said}")
        self.tree = tree


@dataclass(frozen=True)
class Tree:
    """One commit's files, the Python they are run by, and what comes first on its path."""

    name: str
    folder: Path
    python: Path
    path: Sequence[Path]
    said: str = ""
    """Its commit, and where its libraries come from."""
    scratch: Path | None = None
    """Where its temporary files lie; None: where those of this process do."""

    def measure(self, what: str, **options: object) -> Found:
        """One figure of `sides_script`, in a process of its own."""
        done = self._run("-P", str(SCRIPT), what, json.dumps(options))
        found = json.loads(done.splitlines()[-1])
        ran = Path(found.pop("tree"))
        if not ran.is_relative_to(self.folder.resolve()):
            raise Failed(self.name, f"{ran} was run, which is none of {self.folder}")
        return {name: float(number) for name, number in found.items()}

    def simulate(self, seeds: int, ticks: int) -> str:
        """What `make simulate` prints."""
        asked = ["--seeds", str(seeds), "--ticks", str(ticks), "--start", "0", "--jobs", "1"]
        return self._run("-m", "tests.simulation.run", *asked)

    def bench(self, case: str, kind: str, scale: float) -> list[dict[str, Any]]:
        """The results of one case of the tree's own `make bench`."""
        asked = ["--json", "--runs", str(BENCH_RUNS), "--scale", str(scale), "--only", case, "--database", kind]
        results: list[dict[str, Any]] = json.loads(self._run("-m", "tests.benchmarks.run", *asked))["results"]
        return results

    def user_s(self, command: str, given: Mapping[str, str]) -> float:
        """The user time of one command."""
        asked = [str(self.python), "-c", "from drawdown.cli.main import main; main()", command]
        with subprocess.Popen(
            asked, cwd=self.folder, env={**self.environment, **given}, stdout=subprocess.DEVNULL
        ) as process:
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in (0, 75):  # nothing has ticked yet where status asks
            raise Failed(self.name, f"{command} ended with {process.returncode}")
        return used.ru_utime

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join(str(folder) for folder in self.path)
        own = {} if self.scratch is None else {"TMPDIR": str(self.scratch)}
        return {**os.environ, **own, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": ""}

    def _run(self, *arguments: str) -> str:
        done = whole([str(self.python), *arguments], self.folder, self.environment)
        if done.returncode:
            raise Failed(self.name, f"{arguments[:3]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        return done.stdout


def present(beside: Path) -> Tree:
    """This tree, by the Python that runs this."""
    commit = _git("describe", "--always", "--dirty", "--exclude", "*").decode().strip()
    return Tree("after", ROOT, Path(sys.executable), (ROOT,), f"{commit}, the environment that runs this", beside)


def older(ref: str, beside: Path) -> Tree:
    """The files of a commit, in a folder of this one."""
    folder, commit = beside / "tree", _git("rev-parse", "--short", f"{ref}^{{commit}}").decode().strip()
    with tarfile.open(fileobj=io.BytesIO(_git("archive", commit))) as packed:
        packed.extractall(folder, filter="data")
    found = _installed(folder, beside) or borrowed(folder, beside)
    return replace(found, said=f"{commit}, {found.said}", scratch=beside)


def whole(
    asked: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A command with all that it prints. Whatever ends this before, ends the command and all that it began."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        asked, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as process:
        try:
            told = process.communicate()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return subprocess.CompletedProcess(asked, process.returncode, *told)


def _installed(folder: Path, beside: Path) -> Tree | None:
    """With the libraries that the commit's own files ask for; None where they cannot be had here."""
    environment, began = beside / "environment", time.perf_counter()
    python = environment / "bin" / "python"
    for command in (
        [sys.executable, "-m", "venv", str(environment)],
        [str(python), "-m", "pip", "install", "--quiet", "--upgrade", "pip>=25.1"],
        [str(python), "-m", "pip", "install", "--quiet", *_with_tests(folder)],
        [str(python), "-c", "import drawdown.worker.tick, tests.benchmarks"],
    ):
        done = whole(command, folder, {**os.environ, "TMPDIR": str(beside)})
        if done.returncode:
            print(f"the older commit's install failed: {done.stderr.strip()[-400:]}", file=sys.stderr)
            return None
    return Tree(
        "before",
        folder,
        python,
        (folder, folder / "client"),
        f"installed from its own files in {time.perf_counter() - began:.0f} s",
    )


def _with_tests(folder: Path) -> list[str]:
    """The tests' tools are a dependency group now, and were an extra."""
    project = folder / "pyproject.toml"
    if "[dependency-groups]" not in project.read_text(encoding="utf-8"):
        return ["--editable", f"{folder}[test]"]
    return ["--group", f"{project}:test", "--editable", str(folder)]


def borrowed(folder: Path, beside: Path) -> Tree:
    """With the libraries of the environment that runs this, and the commit's own files before them on the path."""
    path = beside / "path"
    if not (folder / "drawdown").is_dir():  # the commit's packages stood at the top alone
        (path / "drawdown").mkdir(parents=True)
        for package in PACKAGES:
            if (folder / package).is_dir():
                (path / "drawdown" / package).symlink_to(folder / package)
    return Tree(
        "before", folder, Path(sys.executable), (folder, path), "the libraries of the environment that runs this"
    )


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], stdout=subprocess.PIPE, check=True).stdout


def end_on_signals() -> None:
    """SIGTERM and SIGINT end this as an error does, with all that was begun; a second one does not break into that."""
    own = os.getpid()

    def told(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != own:  # a fork that has no handler of its own yet
            os._exit(128 + number)
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, signal.SIG_IGN)
        sys.exit(128 + number)

    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, told)
