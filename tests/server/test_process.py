"""The command as others meet it: a process that listens, answers and ends cleanly."""

from __future__ import annotations

import json
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from drawdown.cli.nouns.tick import beat, write_metrics
from drawdown.schema.clock import SystemClock
from drawdown.schema.database import connect
from drawdown.schema.errors import DatabaseBusy
from drawdown.server.http.signing import Signed, signature
from tests import fork_server
from tests.acceptance.commands import PROJECT, SCRIPT, drawdown, environment
from tests.emulators.autumn import AutumnEmulator
from tests.emulators.serve import serving_in_thread
from tests.emulators.stripe import StripeEmulator
from tests.patience import PATIENT_S
from tests.sqlite_databases import migrated
from tests.whole import share

FRESH = (str(SCRIPT),)
HURRIED = "from drawdown.server.http import connection; connection.PATIENCE_S = 0.5"
"""Its patience is 15 s else."""
CANARY = "canary7f3a9c"
SECRETS = {
    "DRAWDOWN_ADMIN_SECRETS": f"admin-{CANARY}-1,admin-{CANARY}-2",
    "DRAWDOWN_CRON_SECRET": f"cron-{CANARY}-0123456789",
    "DRAWDOWN_CELL_SECRET": f"cell-{CANARY}-0123456789",
    "DRAWDOWN_AUTUMN_SECRET_KEY": f"am_sk_test_{CANARY}",
    "DRAWDOWN_AUTUMN_WEBHOOK_SECRETS": f"whsec_{CANARY}AAAAAAAAAAAAAAAAAAAA",
    "DRAWDOWN_STRIPE_SECRET_KEY": f"sk_test_{CANARY}",
    "DRAWDOWN_STRIPE_WEBHOOK_SECRETS": f"whsec_{CANARY}",
}


@contextmanager
def serving(
    url: str, env: dict[str, str], log: Path, *options: str, program: Sequence[str] = (), before: str = ""
) -> Iterator[tuple[str, subprocess.Popen[str] | fork_server.Started]]:
    """`drawdown serve` on a free port: its URL and process; one of a fresh `program`, where that matters. `before`:
    Python that a forked one runs first."""
    words, settings = ["--json", "serve", "--port", "0", *options], {"DRAWDOWN_LOG_LEVEL": "DEBUG", **env}
    with log.open("w") as err:
        process: subprocess.Popen[str] | fork_server.Started
        if program:
            process = subprocess.Popen(
                [*program, *words],
                env=environment(url, settings), cwd=PROJECT, stdout=subprocess.PIPE, stderr=err, text=True,
            )  # fmt: skip
        else:
            process = fork_server.Started(words, env=environment(url, settings), cwd=PROJECT, err=err, before=before)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, log.read_text()
            yield json.loads(line)["url"], process
        finally:
            process.kill()
            process.wait(300)


@pytest.fixture
def database(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/served.db"
    assert drawdown(migrated(url), "init").status == 0
    return url


def signed(url: str, path: str, order: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
    body, stamp = json.dumps(order).encode(), str(SystemClock().now_ms() // 1000)
    host = url.removeprefix("http://")
    proof = signature(f"admin-{CANARY}-2", stamp, Signed("POST", host, path.encode(), b"", body))
    return body, {"x-timestamp": stamp, "x-signature": proof, "content-type": "application/json"}


BEFORE_IT_LISTENS = """
import os, signal
from drawdown.server.http import listen
listen._keep_what_is_loaded = lambda: os.kill(os.getpid(), signal.SIGTERM)
"""


def test_serve_sigterm_before_listening_exits_cleanly(database: str, tmp_path: Path) -> None:
    with serving(database, {"DRAWDOWN_LOG_LEVEL": "CRITICAL"}, tmp_path / "log", before=BEFORE_IT_LISTENS) as (_, told):
        assert told.wait(60) == 0
    assert (tmp_path / "log").read_text() == ""


def test_serve_answers_all_endpoints_and_exits_cleanly_on_sigterm(database: str, tmp_path: Path) -> None:
    autumn, stripe = AutumnEmulator(), StripeEmulator(secret_key=SECRETS["DRAWDOWN_STRIPE_SECRET_KEY"])
    stripe.webhook_secret = SECRETS["DRAWDOWN_STRIPE_WEBHOOK_SECRETS"]
    said: list[str] = []
    with serving_in_thread(autumn) as autumn_url, serving_in_thread(stripe) as stripe_url:
        env = {**SECRETS, "DRAWDOWN_AUTUMN_URL": autumn_url, "DRAWDOWN_STRIPE_URL": stripe_url}
        with serving(database, env, tmp_path / "log") as (url, process):
            client = httpx.Client(base_url=url, timeout=PATIENT_S)

            def ask(method: str, path: str, body: bytes = b"", **headers: str) -> int:
                answer = client.request(method, path, content=body, headers=headers)
                said.append(answer.text + str(answer.headers))
                assert answer.headers["x-content-type-options"] == "nosniff" and "server" not in answer.headers
                return answer.status_code

            order = {"actor": "a", "reason": "r", "provider": "autumn", "unchecked": True, "new": True}
            path = "/admin/orgs/a%2Fb%20c/provider"  # the path's own bytes are signed
            body, headers = signed(url, path, order)
            assert ask("POST", path, body, **headers) == 200, said[-1]
            assert ask("POST", path, body, **headers) == 409
            assert ask("POST", path, body, **{**headers, "x-signature": "0" * 64}) == 401
            found, raw = stripe.customer_webhook("customer.updated", "cus_1", SystemClock().now_ms())
            assert ask("POST", "/webhooks/stripe", raw, **found) == 200, said[-1]
            assert ask("POST", "/webhooks/stripe", raw + b" ", **found) == 400
            assert ask("POST", "/webhooks/autumn", raw, **found) == 400
            assert ask("GET", "/v1/gate/a%2Fb%20c") == 200
            for token, status in ((SECRETS["DRAWDOWN_CRON_SECRET"], 200), (f"{CANARY}?", 401)):
                assert ask("POST", "/cron/tick", authorization=f"Bearer {token}") == status, said[-1]
            for name in ("/readyz", "/healthz", "/metrics", "/openapi.json"):
                assert ask("GET", name) == 200, name
            assert ask("GET", f"/nowhere?{CANARY}") == 404
            process.send_signal(signal.SIGTERM)
            assert process.wait(300) == 0
            assert process.stdout is not None
            assert process.stdout.read() == ""
    log = (tmp_path / "log").read_text()
    assert "tick_finished" in log and '"stopped"' in log and "Traceback" not in log


def test_serve_endless_head_and_invalid_http_are_closed(database: str, tmp_path: Path) -> None:
    with serving(database, {}, tmp_path / "log", before=share(HURRIED, whole="")) as (url, _process):
        address = ("127.0.0.1", httpx.URL(url).port or 0)
        with socket.create_connection(address) as slow, socket.create_connection(address) as odd:
            slow.sendall(b"GET /healthz HTTP/1.1\r\nX: ")
            odd.sendall(b"\x16\x03\x01 no http\r\n\r\n")
            assert b"400" in odd.recv(1000)
            assert httpx.get(f"{url}/healthz", timeout=PATIENT_S).status_code == 200
            slow.settimeout(30)
            assert slow.recv(1000) == b"", "it is given up"


def test_serve_on_port_in_use_reports_single_line(database: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = drawdown(database, "serve", "--port", str(taken.getsockname()[1]))
    assert done.status == 2 and "cannot listen" in done.err and len(done.err.splitlines()) == 1


def test_tick_metrics_file_is_written_also_after_failure(database: str, tmp_path: Path) -> None:
    file = tmp_path / "drawdown.prom"
    assert drawdown(database, "tick", "--metrics-file", str(file)).status == 0
    assert 'drawdown_tick_last_exit_status{shard="0-255"} 0.0' in file.read_text()
    assert drawdown(f"sqlite:///{tmp_path}/none.db", "tick", "--metrics-file", str(file)).status == 1
    assert file.read_text().splitlines()[-1] == "drawdown_database_up 0.0"
    assert [one.name for one in tmp_path.glob("*.prom*")] == ["drawdown.prom"]
    assert drawdown(database, "tick", "--metrics-file", str(tmp_path / "no" / "folder.prom")).status == 0


def test_tick_metrics_file_failed_write_does_not_leave_temporary_file(database: str, tmp_path: Path) -> None:
    """A file would be left there each five minutes."""
    place = tmp_path / "metrics"
    folder, full = place / "folder.prom", place / "full.prom"
    folder.mkdir(parents=True)
    assert drawdown(database, "tick", "--metrics-file", str(folder)).status == 0
    assert list(place.iterdir()) == [folder]
    app: Any = SimpleNamespace(engine=connect(database), clock=SystemClock())
    bounds = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, bounds[1]))  # as a disk that is full
    try:
        write_metrics(app, full)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, bounds)
        app.engine.dispose()
    assert list(place.iterdir()) == [folder]


def test_tick_heartbeat_is_sent_after_success_and_does_not_fail_tick(database: str) -> None:
    stripe = StripeEmulator()
    with serving_in_thread(stripe) as url:
        done = drawdown(
            database, "tick", "--heartbeat-url", f"{url}/ping/{CANARY}", env={"DRAWDOWN_LOG_LEVEL": "DEBUG"}
        )
        assert (done.status, stripe.calls[f"GET /ping/{CANARY}"]) == (0, 1)
        assert "heartbeat_failed" in done.err and CANARY not in done.err, "the emulator knows no such path"
        failed = drawdown(f"{database}.none", "tick", "--heartbeat-url", f"{url}/ping/{CANARY}")
        assert (failed.status, stripe.calls[f"GET /ping/{CANARY}"]) == (1, 1)
    for odd in (f"{url}/gone/{CANARY}", "no url", "ftp://x/", ""):
        assert drawdown(database, "tick", "--heartbeat-url", odd).status == 0, odd


def test_heartbeat_without_database_is_logged_and_does_not_fail_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database went away after the tick."""

    def world() -> None:
        raise DatabaseBusy("the database does not answer")

    app: Any = SimpleNamespace(world=world)
    logged: list[tuple[str, str]] = []
    log = SimpleNamespace(warning=lambda event, kind: logged.append((event, kind)))
    monkeypatch.setattr("drawdown.cli.nouns.tick.log", log)
    beat(app, "http://127.0.0.1/ping")
    assert logged == [("heartbeat_failed", "DatabaseBusy")]
