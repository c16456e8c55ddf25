"""A real server over a database where acme is billed for renders, and a key for a program."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from drawdown.schema.units import WINDOW_MS
from tests.acceptance.commands import drawdown
from tests.server.test_process import serving
from tests.sqlite_databases import migrated

SCOPES: Final = ("events:write", "samples:write", "usage:read", "ledger:read")
FROM_DAY: Final = "2026-02-01"
RENDERS: Final = (f"feature map-event page.render render --unit units --from {FROM_DAY} --new --reason billed",)
AT_MS: Final = 1_770_076_800_000
"""An event's time: midnight of 3 February 2026."""
TO_MS: Final = AT_MS + WINDOW_MS


def prepared(database: str, scopes: Sequence[str] = SCOPES, words: Sequence[str] = RENDERS) -> str:
    """The key. `words`: what is said besides."""
    migrated(database)
    for line in (
        "init",
        "ledger grant acme 100 --new --reason first",
        f"org assign acme --provider embedded --from {FROM_DAY} --new --reason billed",
        *words,
    ):
        done = drawdown(database, *line.split())
        assert done.status == 0, line + done.out + done.err
    asked = [word for scope in scopes for word in ("--scope", scope)]
    done = drawdown(database, "key", "create", "app", *asked, "--quiet")
    assert done.status == 0, done.err
    return done.out.strip()


@contextmanager
def open_shop(
    database: str, folder: Path, scopes: Sequence[str] = SCOPES, words: Sequence[str] = RENDERS
) -> Iterator[tuple[str, str]]:
    """URL and key."""
    key = prepared(database, scopes, words)
    with serving(database, {}, folder / "log") as (url, _process):
        yield url, key
    assert "Traceback" not in (folder / "log").read_text()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
