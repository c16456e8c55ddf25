"""`drawdown demo --serve`: the month that it makes, and the process that shows it."""

from __future__ import annotations

import math
import os
import random
import signal
import socket
import sys
import time
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from rich.console import Console

from drawdown.cli.demo import serve
from drawdown.cli.demo import story as plot
from drawdown.cli.demo.cast import DAYS
from drawdown.cli.demo.story import MOST_TICKS, Calendar, live, story
from drawdown.cli.main import run
from drawdown.providers.protocol import HOUR_MS
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import connect, read
from drawdown.schema.units import DAY_MS, window_of
from drawdown.server.http import listen
from drawdown.worker.orgs.lists import OrgFilter, list_orgs
from drawdown.worker.verify.verify import verify
from tests import fork_server
from tests.acceptance.commands import PROJECT, environment
from tests.cases import cases
from tests.demo_life import YEARS_MS, Month
from tests.patience import PATIENT_S
from tests.whole import WHOLE, share

MOMENT = 1_772_442_900_000
"""2026-03-02T09:15Z: most of its month lies in February. As a window's begin it is the month's last moment, too: the
tick of the server that was begun settles nothing more, whoever reads meanwhile."""
WITHIN_A_WEEK = OrgFilter(runs_out_by_ms=MOMENT + 7 * DAY_MS)
SHORT = 1
SAME = (
    "SELECT id, org_id, ts, interval_s, ingested_at FROM usage_samples ORDER BY id",
    "SELECT key, state, sealed_qty, sent_qty, customer_id FROM pushes ORDER BY key",
    "SELECT key, kind, from_account, to_account, amount_micro, at_ms, ts FROM ledger_entries ORDER BY key",
    "SELECT reservation, state, amount_micro, drawn_micro, accepted_ms, ended_ms FROM reservations ORDER BY 1",
    "SELECT use_key, decision, rule, amount, charged_micro, at_ms FROM guard_uses ORDER BY 1",
    "SELECT org_id, is_halted, halted_at, balance_micro, halt_reason FROM orgs ORDER BY 1",
    "SELECT action, target, at_ms, actor, reason FROM operator_actions ORDER BY at_ms, target, action",
    "SELECT org_id, cell_id, halted_at, acked_at_ms FROM halts ORDER BY 1, 2, 3",
)
ACTIONS = 6
"""Which of them are what people did."""
PLACES = (
    ("/console/", ("made up",)),
    ("/console/orgs", ("acme", "hooli", "&lt;b&gt;Bobby&lt;/b&gt;")),
    ("/console/org?id=acme&tab=usage", ("acme",)),
)
"""Pages, and what stands there."""
MOST_STATEMENTS_TO_OPEN = 3_000
MOST_STATEMENTS_A_TICK = 400
"""Of a tick of the demo, with what happened before it."""


SHORTER = f"""
from functools import partial
from drawdown.cli.demo import serve, story
story.HALF_HOUR_MS = {4 * HOUR_MS}
serve.live = partial(serve.live, days={SHORT})
"""
"""The month's last day, with few ticks. `make test-whole` serves the month; `python -m tests.demo_life` judges some."""


def started(folder: Path, *, before: str = share(SHORTER, whole=""), **env: str) -> fork_server.Started:
    """The process, with its own folder for what is temporary."""
    (folder / "tmp").mkdir()
    other = {**environment(f"sqlite:///{folder}/not-the-demo.db"), "TMPDIR": str(folder / "tmp"), **env}
    words = ["--at", str(MOMENT), "demo", "--serve", "--no-open"]
    with (folder / "complaints").open("w") as err:
        return fork_server.Started(words, env=other, cwd=PROJECT, err=err, before=before)


def left(folder: Path) -> list[str]:
    """What is left of it."""
    return [path.name for path in (folder / "tmp").iterdir() if path.name.startswith("drawdown-demo")]


def rows_of(engine: sa.Engine) -> list[list[tuple[Any, ...]]]:
    return read(engine, lambda c: [[tuple(row) for row in c.execute(sa.text(text))] for text in SAME])


def lived_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[Any, ...]]]:
    """A month that is made in this process, in bounded work; what it has."""
    statements = 0

    def counted(*_: object) -> None:
        nonlocal statements
        statements += 1

    folder.mkdir()
    if not WHOLE:
        monkeypatch.setattr(plot, "HALF_HOUR_MS", 4 * HOUR_MS)  # what is the same with fewer ticks is with more
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", f"sqlite:///{folder}/nobody-s.db")
    days = share(SHORT, whole=DAYS)
    sa.event.listen(sa.Engine, "before_cursor_execute", counted)
    try:
        stage = live(folder, folder / "a.db", FixedClock(MOMENT), Console(), Console(), days)
        stage.close()
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", counted)
    assert statements < MOST_STATEMENTS_TO_OPEN + MOST_STATEMENTS_A_TICK * stage.done["ticks"]
    listed = stage.app.read(lambda c: list_orgs(c, OrgFilter(), MOMENT)).orgs
    burning = {one.org_id for one in listed if one.used_a_minute_micro and one.runs_out_ms is not None}
    assert {"acme", "umbrella"} <= burning, "what is used now is known, and when it ends"
    soon = stage.app.read(lambda c: list_orgs(c, WITHIN_A_WEEK, MOMENT)).orgs
    ends = {one.org_id for one in listed if (one.runs_out_ms or math.inf) <= MOMENT + 7 * DAY_MS}
    assert {one.org_id for one in soon} == ends != set(), "the watch has looked before anybody does"
    at_stripe = [one.used_a_minute_micro for one in listed if one.billing_provider == "stripe"]
    assert at_stripe and 0 not in at_stripe, "it has no price"
    assert stage.app.read(verify).breaches == []
    assert stage.done["ticks"] == len(Calendar(window_of(MOMENT), days).ticks())
    assert stage.clock.now_ms() == MOMENT
    return rows_of(stage.app.engine)


def test_demo_serve_month_is_reproducible_and_removed_on_sigterm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = {"DRAWDOWN_STRIPE_SECRET_KEY": "sk_live_1", "DRAWDOWN_STRIPE_URL": "http://127.0.0.1:9"}
    process = started(tmp_path, **foreign)
    try:
        here = lived_here(tmp_path / "here", monkeypatch)
        line = process.stdout.readline()
        url = httpx.URL(line.strip())
        assert (url.scheme, url.host) == ("http", "127.0.0.1"), (tmp_path / "complaints").read_text()
        (made,) = (tmp_path / "tmp").glob("drawdown-demo-*/demo.db")
        there = connect(f"sqlite:///{made}")
        rows = rows_of(there)
        there.dispose()
        rows[ACTIONS] = [row for row in rows[ACTIONS] if row[0] != "console_user_add"]  # of whoever looks at it
        assert rows == here and all(rows[:5])
        client = httpx.Client(timeout=PATIENT_S)
        assert client.get(url.join("/readyz")).status_code == 200
        let_in = client.get(url)
        assert (let_in.status_code, let_in.headers["location"]) == (303, "/console/")
        session = let_in.headers["set-cookie"].partition(";")[0]
        for place, shown in PLACES:
            page = client.get(url.join(place), headers={"Cookie": session})
            assert page.status_code == 200, place
            assert all(text in page.text for text in shown), place
        ours = {"Cookie": session, "sec-fetch-site": "same-origin"}
        own = client.post(url.join("/console/own"), data={"org": "acme"}, headers=ours)
        assert (own.status_code, own.headers["location"]) == (303, "/my/usage")
        theirs = client.get(url.join("/my/usage"), headers={"Cookie": own.headers["set-cookie"].partition(";")[0]})
        assert theirs.status_code == 200 and "<bdi>acme</bdi>" in theirs.text
        gate: dict[str, Any] = client.get(url.join("/v1/gate/hooli")).json()
        assert not WHOLE or (gate["allowed"], gate["reason"]) == (False, "credits_exhausted")
        month = Month(f"sqlite:///{made}", Calendar(window_of(MOMENT), share(SHORT, whole=DAYS)))
        assert month.wrong(is_whole=WHOLE) == []
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait(60)
    assert (process.stdout.read(), (tmp_path / "complaints").read_text()) == ("", "")
    assert left(tmp_path) == []
    assert not (tmp_path / "not-the-demo.db").exists()


def test_demo_serve_sigterm_during_setup_removes_files(tmp_path: Path) -> None:
    process = started(tmp_path)
    try:
        until = time.monotonic() + 60
        while not list((tmp_path / "tmp").glob("drawdown-demo-*/demo.db")) and time.monotonic() < until:
            time.sleep(0.05)
        assert left(tmp_path)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 75
    finally:
        process.kill()
        process.wait(60)
    assert process.stdout.read() == "" and "stopped" in (tmp_path / "complaints").read_text()
    assert left(tmp_path) == []


def test_demo_serve_sigterm_after_url_is_printed_cleans_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody tells it to end the moment its line is there."""
    cleared: list[str] = []
    for name, instead in (
        ("live", lambda *_, **__: SimpleNamespace(app=None, close=lambda: cleared.append("away"))),
        ("let_in", lambda *_: "URL"), ("_going_on", lambda _: nullcontext()), ("services_of", lambda _: None),
        ("Server", lambda _: None), ("show", lambda *_: os.kill(os.getpid(), signal.SIGTERM)),
        ("listen", SimpleNamespace(bind=listen.bind, serve=lambda *_: pytest.fail("it went on"))),
    ):  # fmt: skip
        monkeypatch.setattr(serve, name, instead)
    app: Any = SimpleNamespace(err=None, out=None, clock=None)
    serve.serve(app, None, 0, browser=False)
    assert cleared == ["away"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_inside_finalizer_still_stops_demo(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    """Python drops what a signal raises there, so that only the flag knows of it."""
    dropped: list[Any] = []

    class Told:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)

    def interrupted(*_: object, told: Any) -> SimpleNamespace:
        told(1, 2, 0)
        Told()
        told(2, 2, 0)
        return SimpleNamespace(app=None, close=lambda: None)

    monkeypatch.setattr(sys, "unraisablehook", dropped.append)
    monkeypatch.setattr(serve, "live", interrupted)
    app: Any = SimpleNamespace(err=None, out=None, clock=None)
    with pytest.raises(serve.Ended):
        serve.serve(app, None, 0, browser=False)
    assert [one.exc_type for one in dropped] == [KeyboardInterrupt]


def test_demo_calendar_tick_and_action_counts_are_bounded(tmp_path: Path) -> None:
    """So is the time it takes, on a machine that is known: nothing here is timed."""
    chance, folder = random.Random(5), tmp_path
    for _ in range(200):
        calendar = Calendar(window_of(chance.randrange(*YEARS_MS)))
        ticks = calendar.ticks()
        assert len(ticks) <= MOST_TICKS
        assert calendar.charged_ms in ticks
        assert (ticks[-1], max(late - soon for soon, late in pairwise(ticks))) == (
            calendar.now_ms,
            DAY_MS // 3,
        )
    stage: Any = folder  # acts take it, and are not done here
    acts = story(stage, calendar)
    assert calendar.now_ms - calendar.start_ms == DAYS * DAY_MS
    assert 800 < len(acts) < 1_200
    assert acts == sorted(acts, key=lambda act: act.at_ms)


@cases(
    ("options", "said"),
    [
        (["--port", "8080"], "--port applies only to --serve"),
        (["--serve", "--no-open", "--file", "mine.db"], "cannot overwrite mine.db:"),
        (["--file", "mine"], "cannot overwrite mine-wal:"),
        (["--serve", "--no-open", "--port", "TAKEN"], "cannot listen"),
        (["--serve", "--no-open", "--port", "70000"], "65535"),
    ],
)
def test_demo_invalid_options_are_refused_before_files_are_created(
    options: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = [str(taken.getsockname()[1]) if option == "TAKEN" else option for option in options]
        Path("mine.db").write_text("mine")
        Path("mine-wal").write_text("of a database that is away")
        assert run(["demo", *options]) == 2
    assert said in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine-wal", "mine.db"]
    assert Path("mine.db").read_text() == "mine"
