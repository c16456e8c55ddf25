"""`tick` and `watch` under attack: the most memory that their processes ever hold, for each kind of attack.

The attackers: a provider and a cell that answer as none should, and a host whose samples name what nobody registered.
Memory is measured, never time; a whole run has a deadline.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa

from drawdown.providers import autumn
from drawdown.providers.kit.emulator import Direct
from drawdown.providers.protocol import Setup
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import connect, write
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.orgs.assignments import assign
from tests import leftovers
from tests.acceptance.commands import PROJECT, SCRIPT, environment
from tests.contract import sockets
from tests.contract.sockets import Manner, Seen
from tests.emulators.autumn import AutumnEmulator
from tests.server.test_memory import LIMIT_MB, peak_mb
from tests.sqlite_databases import fresh, named_anew
from tests.whole import share
from tests.world import T0, Copied, Fleet

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells a process's greatest memory")

ORGS: Final = 300
"""More than calls are under way at once."""
FEATURE: Final = "compute_1gb"
DEADLINE_S: Final = 5
LONG_S: Final = 120.0
FEWEST: Final = 8
"""Requests that an attack has to answer to be one."""
STRANGERS: Final = share(10_000, whole=400_000)
"""Cells that one host's samples name."""
_NAMED = json.dumps({"id": "x", "subscriptions": [{"plan_id": "p" * 3_000_000}], "balances": {}}).encode()
_BALANCES = {f"f{n}": {"feature_id": f"f{n}", "granted": 1, "remaining": 1, "usage": 0} for n in range(30_000)}
MANNERS: Final[dict[str, Manner]] = {
    "100 Continue for ever": sockets.over_and_over(b"HTTP/1.1 100 Continue\r\n\r\n"),
    "the largest answer": sockets.answering(sockets.body_of(b'"' + b"x" * 4_194_000 + b'"')),
    "a name of three million characters": sockets.answering(sockets.body_of(_NAMED)),
    "a great many balances": sockets.answering(sockets.body_of(json.dumps({"balances": _BALANCES}).encode())),
    "an answer without end": sockets.endless,
    "a head without end": sockets.over_and_over(b"x: %s\r\n" % (b"a" * 1000), b"HTTP/1.1 200 OK\r\n"),
    "an answer that unpacks to 64 MB": sockets.answering(sockets.BOMB),
    "crumbs": sockets.crumbs,
}
TRIED = [("tick", name) for name in MANNERS] + [("watch", name) for name in MANNERS]
EVERY_DAY = [("watch", "the largest answer")]
"""Of a tick, `make test` attacks by a host."""


@contextmanager
def site(manner: Manner) -> Iterator[Seen]:
    """A service of such manners, in a thread, and what reaches it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    context = sockets.serving(manner)
    try:
        seen = asyncio.run_coroutine_threadsafe(context.__aenter__(), loop).result(LONG_S)
        where = urlsplit(seen.url)
        seen.url = f"{where.scheme}://{where.netloc}"
        yield seen
    finally:
        asyncio.run_coroutine_threadsafe(context.__aexit__(None, None, None), loop).result(LONG_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(LONG_S)
        loop.close()


@cache
def _attacked() -> tuple[bytes, int]:
    """Organisations at Autumn, each with usage to send; half of them are halted, and their cell is to be told: the
    content of their database, and the time."""
    file = leftovers.folder("dd-attacked-") / "drawdown.db"
    engine = fresh(file)
    emulator, made = AutumnEmulator(lists_per_s=10**9), Fleet(engine)
    emulator.account.add_feature(FEATURE)
    orgs = [f"org-{number}" for number in range(ORGS)]
    for number, org in enumerate(orgs):
        emulator.account.add_customer(org, T0)
        emulator.account.grant(org, FEATURE, number % 2 * 600, T0)
    settings = {"secret_key": emulator.secret_key, "url": "https://billing.test"}
    provider = autumn.build(Setup("autumn", settings, made.clock, Direct(emulator, made.clock), engine))
    # Seconds of this clock are not the machine's: rates a second would only make the test slow.
    provider.capabilities = replace(provider.capabilities, calls_per_s=None, reads_per_s=None, lookups_per_s=None)
    made.extra = {"autumn": provider}
    write(engine, lambda c: [assign(c, [org], "autumn", made.by, customer_id=org, from_ms=T0) for org in orgs])
    used(made, T0, "SELECT org_id, 'cell-1' AS cell_id FROM orgs")
    made.cells.failing.add("cell-1")
    boxes = "SELECT 'box-' || org_id, org_id, 'cell-1', 'running' FROM orgs"
    made.write(f"INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) {boxes}")
    made.tick_windows(2)
    assert made.one("SELECT COUNT(*) FROM orgs WHERE is_halted") == ORGS // 2
    used(made, T0 + WINDOW_MS, "SELECT org_id, 'cell-1' AS cell_id FROM orgs")
    engine.dispose()
    return file.read_bytes(), made.clock.at_ms


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    content, at_ms = _attacked()
    (tmp_path / "drawdown.db").write_bytes(named_anew(content))
    return Copied(connect(f"sqlite:///{tmp_path}/drawdown.db"), FixedClock(at_ms))


def used(fleet: Fleet, ts: int, rows: str) -> None:
    """A sample of a minute for each row of (organisation, cell)."""
    fleet.write(
        "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
        f"SELECT org_id || cell_id || '-{ts}', org_id, 'box', cell_id, 1024, 60, {ts} + 1, {fleet.clock.at_ms} "
        f"FROM ({rows}) r"
    )


def most_mb(fleet: Fleet, url: str, *command: str) -> int:
    """The most memory of a command's process, whose provider and cell listen at `url`. Its end has no traceback."""
    at = str(fleet.clock.at_ms + 2 * WINDOW_MS)
    fleet.engine.dispose()
    env = {
        **environment(fleet.engine.url.render_as_string(hide_password=False)),
        "DRAWDOWN_AUTUMN_SECRET_KEY": "am_sk_test_memory",
        "DRAWDOWN_AUTUMN_URL": url,
        "DRAWDOWN_CELL_ORIGINS": url,
        "DRAWDOWN_CELL_SECRET": "a-root-secret-of-the-cells",
    }
    begun = [str(SCRIPT), "--at", at, *command]
    process = subprocess.Popen(begun, env=env, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    most, until = 0, time.monotonic() + LONG_S
    try:
        while process.poll() is None:
            assert time.monotonic() < until, "it has a deadline"
            with suppress(OSError, StopIteration):  # it is ending
                most = max(most, peak_mb(process.pid))
            time.sleep(0.02)
    finally:
        process.kill()
    _, err = process.communicate()
    assert b"Traceback" not in err, err
    assert process.returncode in (0, 1, 75), err
    return most


COMMANDS: Final = {"tick": ("tick", "--deadline", str(DEADLINE_S)), "watch": ("watch", "--once")}


@pytest.mark.parametrize(("command", "manner"), share(EVERY_DAY, whole=TRIED))
def test_memory_under_each_hostile_answer_stays_below_limit(fleet: Fleet, command: str, manner: str) -> None:
    with site(MANNERS[manner]) as seen:
        cell = "INSERT INTO cells (cell_id, url) VALUES ('cell-1', :url)"
        write(fleet.engine, lambda c: c.execute(sa.text(cell), {"url": seen.url}))
        most = most_mb(fleet, seen.url, *COMMANDS[command])
    print(f"\n{command}, {manner}: {most} MB, {seen.connections} connections, {len(seen.requests)} requests")
    assert len(seen.requests) >= FEWEST
    assert 0 < most < LIMIT_MB


def test_memory_with_many_unknown_cells_stays_below_limit(fleet: Fleet, tmp_path: Path) -> None:
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {STRANGERS})"
    strangers = f"{numbers} SELECT 'org-' || (i % {ORGS}) AS org_id, 'stranger-' || i AS cell_id FROM n"
    used(fleet, T0 + WINDOW_MS, strangers)
    metrics = tmp_path / "metrics"
    with site(sockets.close_at_once) as seen:
        most = most_mb(fleet, seen.url, *COMMANDS["tick"], "--metrics-file", str(metrics))
    print(f"\ntick, {STRANGERS} cells: {most} MB")
    assert 0 < most < LIMIT_MB
    assert "stranger-" not in metrics.read_text() and len(metrics.read_text()) < 100_000
