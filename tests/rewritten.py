"""Compile what a first run of all tests reads, each process its share. Else each compiles all of it, for half a minute.

Guarantee: the files are those that pytest and Python write themselves, of sources that changed. A process compiles what
another one has not written yet. Without processes beside this one, nothing is done here.
"""

from __future__ import annotations

import compileall
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from _pytest.assertion import rewrite

ROOT: Final = Path(__file__).resolve().parents[1]
TESTS: Final = "test_*.py"
HEADER: Final = struct.Struct("<8xLL")
"""Of a file that pytest wrote: of which time and size its source was."""
U32: Final = 0xFFFF_FFFF


def compile_share(config: pytest.Config) -> None:
    """Compile the share of this process of xdist."""
    worker: dict[str, Any] | None = getattr(config, "workerinput", None)
    if worker is None or sys.dont_write_bytecode:
        return
    number, count = int(worker["workerid"].removeprefix("gw")), int(worker["workercount"])
    for source in sorted(_tests(config))[number::count]:
        _rewrite(source, config)
    for source in sorted(_others(config))[number::count]:
        compileall.compile_file(source, quiet=2)


def _folders(config: pytest.Config) -> list[Path]:
    return [folder for folder in map(Path, config.args) if folder.is_dir()]


def _tests(config: pytest.Config) -> Iterator[Path]:
    for folder in _folders(config):
        yield from folder.absolute().rglob(TESTS)


def _others(config: pytest.Config) -> Iterator[Path]:
    """What most tests import: the product, by the links that it is imported by."""
    for folder in (ROOT / "drawdown").iterdir() if _folders(config) else ():
        yield from folder.rglob("*.py")


def _rewrite(source: Path, config: pytest.Config) -> None:
    pyc = rewrite.get_cache_dir(source) / (source.stem + rewrite.PYC_TAIL)
    if not _is_fresh(source, pyc) and rewrite.try_makedirs(pyc.parent):
        stat, code = rewrite._rewrite_test(source, config)
        rewrite._write_pyc(config.stash[rewrite.assertstate_key], code, stat, pyc)


def _is_fresh(source: Path, pyc: Path) -> bool:
    try:
        with pyc.open("rb") as written:
            head = written.read(HEADER.size)
    except OSError:
        return False
    stat = source.stat()
    return len(head) == HEADER.size and HEADER.unpack(head) == (int(stat.st_mtime) & U32, stat.st_size & U32)
