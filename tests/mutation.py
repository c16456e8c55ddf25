"""`make mutation`: a module changed in one place after another; each change has to turn a test red. By Cosmic Ray.

    python -m tests.mutation [NAME]

NAME is one of MODULES, or none for all. It works on a copy of this tree. Exit status 1 where a change survived: its
place is printed. To look at it again, see the session that is named at the end, with `cr-report`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
NOT_COPIED: Final = (".git", ".venv", "build", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", "*.db*")
TIMEOUT_S: Final = 300.0
"""Of the tests of one change: one that never ends is noticed, too."""
ALIKE: Final = ("core/ReplaceBinaryOperator_BitOr_.*",)
"""Changes that change nothing: of the types in an annotation, which nobody evaluates."""


@dataclass(frozen=True)
class Module:
    """What is changed, and which tests judge it: the dearest last."""

    path: str
    tests: tuple[str, ...]


MODULES: Final = {
    "allocation": Module("ledger/allocation.py", ("tests/unit/test_allocation.py", "tests/stateful/test_lots.py")),
    "decide": Module("guard/decide.py", ("tests/unit/test_guard.py", "tests/integration/test_guard.py")),
    "outcome": Module("worker/push/outcome.py", ("tests/unit/test_decide.py", "tests/integration/test_providers.py")),
    "rules": Module("worker/verdict/rules.py", ("tests/unit/test_decide.py", "tests/unit/test_watch.py")),
    "seal": Module(
        "worker/seal",
        (
            "tests/integration/test_tick.py",
            "tests/integration/test_corrections.py",
            "tests/integration/test_interleavings.py",
            "tests/stateful/test_sealing.py",
        ),
    ),
}


def config(module: Module) -> str:
    """Of one session."""
    command = f"{sys.executable} -m pytest -x -q -n 0 -p no:cacheprovider {' '.join(module.tests)}"
    return f"""
[cosmic-ray]
module-path = "{module.path}"
timeout = {TIMEOUT_S}
excluded-modules = []
test-command = "{command}"

[cosmic-ray.distributor]
name = "local"

[cosmic-ray.filters.operators-filter]
exclude-operators = {list(ALIKE)}
"""


def changed(name: str, copy: Path) -> bool:
    """Change one module in all places; whether each change was noticed."""
    session, file = copy / "build" / f"{name}.sqlite", copy / "build" / f"{name}.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(config(MODULES[name]), encoding="utf-8")
    for command in (
        ["cosmic-ray", "init", file, session],
        ["cr-filter-operators", session, file],
        ["cosmic-ray", "baseline", file],
        ["cosmic-ray", "exec", file, session],
    ):
        _run(copy, *map(str, command))
    found = _run(copy, "cr-report", "--surviving-only", "--show-diff", str(session))
    print(f"{name}: {found}", flush=True)
    return "surviving mutants: 0 " in found


def _run(copy: Path, *command: str) -> str:
    """What it printed. The copy's own modules come first, and nothing compiled of a change is kept."""
    path = os.pathsep.join((str(copy), str(copy / "client"), os.environ.get("PYTHONPATH", "")))
    programs = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    env = {**os.environ, "PYTHONPATH": path, "PATH": programs, "PYTHONDONTWRITEBYTECODE": "1", "MAKEFLAGS": ""}
    return subprocess.run(command, cwd=copy, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> int:
    """Returns the exit status."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("name", nargs="?", choices=sorted(MODULES))
    name = asked.parse_args().name
    copy = Path(tempfile.mkdtemp(prefix="dd-mutation-")) / "tree"
    shutil.copytree(ROOT, copy, symlinks=True, ignore=shutil.ignore_patterns(*NOT_COPIED))
    noticed = [changed(one, copy) for one in ([name] if name else MODULES)]
    print(f"sessions: {copy / 'build'}")
    return int(not all(noticed))


if __name__ == "__main__":
    sys.exit(main())
