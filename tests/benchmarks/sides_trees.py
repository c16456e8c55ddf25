"""The two trees that are measured side by side: this one, and that of an older commit with an environment of its own.

Guarantee: a figure is of the tree that it names: each answer says which files it ran. The older tree is a worktree in a
temporary folder, and is taken out of the repository again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
SCRIPT: Final = Path(__file__).with_name("sides_script.py")
PACKAGES: Final = ("cli", "events", "guard", "ledger", "providers", "schema", "server", "worker")
Found = dict[str, float]


class Failed(RuntimeError):
    """What a tree's process wrote before it ended badly."""


@dataclass(frozen=True)
class Tree:
    """One commit's files, the Python they are run by, and what comes first on its path."""

    name: str
    folder: Path
    python: Path
    path: Sequence[Path]
    said: str = ""
    """Where its libraries come from."""

    def measure(self, what: str, **options: object) -> Found:
        """One figure of `sides_script`, in a process of its own."""
        done = self._run("-P", str(SCRIPT), what, json.dumps(options))
        found = json.loads(done.splitlines()[-1])
        ran = Path(found.pop("tree"))
        if not ran.is_relative_to(self.folder.resolve()):
            raise Failed(f"{self.name}: {ran} was run, which is none of {self.folder}")
        return {name: float(number) for name, number in found.items()}

    def simulate(self, seeds: int, ticks: int) -> str:
        """What `make simulate` prints."""
        asked = ["--seeds", str(seeds), "--ticks", str(ticks), "--start", "0", "--jobs", "1"]
        return self._run("-m", "tests.simulation.run", *asked)

    def user_s(self, command: str, given: Mapping[str, str]) -> float:
        """The user time of one command."""
        asked = [str(self.python), "-c", "from drawdown.cli.main import main; main()", command]
        with subprocess.Popen(
            asked, cwd=self.folder, env={**self.environment, **given}, stdout=subprocess.DEVNULL
        ) as process:
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in (0, 75):  # nothing has ticked yet where status asks
            raise Failed(f"{self.name}: {command} ended with {process.returncode}")
        return used.ru_utime

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join(str(folder) for folder in self.path)
        return {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": ""}

    def _run(self, *arguments: str) -> str:
        asked = [str(self.python), *arguments]
        done = subprocess.run(asked, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failed(f"{self.name}: {arguments[:3]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
        return done.stdout


def present() -> Tree:
    """This tree, by the Python that runs this."""
    return Tree("after", ROOT, Path(sys.executable), (ROOT,), "the environment that runs this")


@contextmanager
def older(ref: str) -> Iterator[Tree]:
    """The tree of a commit, for as long as this lasts."""
    with tempfile.TemporaryDirectory(prefix="drawdown-sides-") as made:
        folder = Path(made) / "tree"
        _git("worktree", "add", "--quiet", "--detach", str(folder), ref)
        try:
            yield _installed(folder, Path(made)) or borrowed(folder, Path(made))
        finally:
            _git("worktree", "remove", "--force", str(folder))


def _installed(folder: Path, beside: Path) -> Tree | None:
    """With the libraries that the commit's own files ask for; None where they cannot be had here."""
    environment, began = beside / "environment", time.perf_counter()
    python = environment / "bin" / "python"
    for command in (
        [sys.executable, "-m", "venv", str(environment)],
        [str(python), "-m", "pip", "install", "--quiet", "--editable", f"{folder}[test]"],
        [str(python), "-c", "import drawdown.worker.tick, tests.benchmarks"],
    ):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"the older commit's install failed: {done.stderr.strip()[-400:]}", file=sys.stderr)
            return None
    return Tree(
        "before", folder, python, (folder,), f"installed from its own files in {time.perf_counter() - began:.0f} s"
    )


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


def _git(*arguments: str) -> None:
    subprocess.run(["git", "-C", str(ROOT), *arguments], check=True)
