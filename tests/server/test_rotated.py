"""Secrets in files that are rotated under a real `serve`: taken without a restart, and a bad file harms nothing."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import httpx
import sqlalchemy as sa

from drawdown.providers.http import Call, HttpResult
from drawdown.schema.clock import SystemClock
from drawdown.schema.database import connect
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import DAY_MS
from drawdown.server.http.signing import Signed, signature
from tests import fork_server
from tests.acceptance.commands import PROJECT, drawdown, environment
from tests.emulators.autumn import AutumnEmulator
from tests.emulators.serve import HANGS_S, home_autumn, serving_in_thread
from tests.official import Webhook
from tests.server.house import SVIX
from tests.server.test_process import serving
from tests.sqlite_databases import migrated

SETTINGS = ("ADMIN_SECRETS", "CRON_SECRET", "AUTUMN_SECRET_KEY", "AUTUMN_WEBHOOK_SECRETS")
SOON = "from drawdown.server import app; app.RENEWED_EVERY_S = 0.1"
"""It looks at its files every 5 s else."""
WEBHOOK = dict(zip(("one", "two"), SVIX, strict=True))


@dataclass
class Noting:
    """A service that notes by which key it was called."""

    behind: AutumnEmulator
    keys: list[str] = field(default_factory=list)

    def handle(self, call: Call, now_ms: int) -> HttpResult:
        headers = {name.lower(): text for name, text in call.headers.items()}
        self.keys.append(headers.get("authorization", "").removeprefix("Bearer "))
        return self.behind.handle(call, now_ms)


def put(folder: Path, generation: str) -> dict[str, str]:
    """Files of one generation of secrets, each put in its place in one moment; what names them."""
    for name in SETTINGS:
        text = WEBHOOK.get(generation, "") if name == "AUTUMN_WEBHOOK_SECRETS" else f"am_sk_{name.lower()}_{generation}"
        (folder / "new").write_text(f"{text}\n" if generation else "")
        (folder / "new").replace(folder / name)
    return {f"DRAWDOWN_{name}_FILE": str(folder / name) for name in SETTINGS}


def wait_for(what: Callable[[], bool]) -> None:
    ends = time.monotonic() + HANGS_S
    while not what():
        assert time.monotonic() < ends
        time.sleep(0.1)


def order(url: str, path: str, body: dict[str, object], generation: str) -> int:
    raw, stamp = json.dumps({"actor": "a", "reason": "r", **body}).encode(), str(SystemClock().now_ms() // 1000)
    of = Signed("POST", url.removeprefix("http://"), path.encode(), b"", raw)
    headers = {"x-timestamp": stamp, "x-signature": signature(f"am_sk_admin_secrets_{generation}", stamp, of)}
    return httpx.post(f"{url}{path}", content=raw, headers={**headers, "content-type": "application/json"}).status_code


def webhook(url: str, generation: str) -> int:
    """Has acme's customer read again, where it is believed."""
    now, raw = SystemClock().now_ms(), b'{"type": "billing.updated", "data": {"customer_id": "acme"}}'
    stamp, event = datetime.fromtimestamp(now // 1000, UTC), f"msg_{generation}_{now}"
    proof = Webhook(WEBHOOK[generation]).sign(event, stamp, raw.decode())
    headers = {"svix-id": event, "svix-timestamp": str(now // 1000), "svix-signature": proof}
    return httpx.post(f"{url}/webhooks/autumn", content=raw, headers=headers).status_code


def test_serve_reloads_rotated_secret_files_and_ignores_empty_files(tmp_path: Path) -> None:
    database, log = f"sqlite:///{tmp_path}/served.db", tmp_path / "log"
    assert drawdown(migrated(database), "init").status == 0
    autumn = Noting(home_autumn(SystemClock().now_ms()))
    autumn.behind.secret_key = "am_sk_autumn_secret_key_one"
    with serving_in_thread(autumn) as autumn_url:
        env = {**put(tmp_path, "one"), "DRAWDOWN_AUTUMN_URL": autumn_url}
        start, path = show_time(SystemClock().now_ms() // DAY_MS * DAY_MS - DAY_MS), "/admin/orgs/acme/override"
        assign = ("org", "assign", "--new", "acme", "--provider", "autumn", "--unchecked", "--from", start)
        assert drawdown(database, *assign, env=env).status == 0
        with serving(database, env, log, before=SOON) as (url, _process):
            assert order(url, path, {"max_concurrent": 2}, "two") == 401
            assert order(url, path, {"max_concurrent": 2}, "one") == 200
            assert webhook(url, "one") == 200
            wait_for(lambda: autumn.keys != [])
            assert set(autumn.keys) == {"am_sk_autumn_secret_key_one"}
            put(tmp_path, "two")
            autumn.behind.secret_key = "am_sk_autumn_secret_key_two"
            numbers = iter(range(3, 10**6))
            wait_for(lambda: order(url, path, {"max_concurrent": next(numbers)}, "two") == 200)
            assert order(url, path, {"max_concurrent": 1}, "one") == 401
            assert webhook(url, "one") == 400
            assert webhook(url, "two") == 200
            wait_for(lambda: autumn.keys[-1] == "am_sk_autumn_secret_key_two")
            put(tmp_path, "")
            wait_for(lambda: log.read_text().count("settings_file_bad") == len(SETTINGS))
            assert order(url, path, {"max_concurrent": 1}, "two") == 200
            assert webhook(url, "two") == 200
            cron = httpx.post(f"{url}/cron/tick", headers={"authorization": "Bearer am_sk_cron_secret_two"})
            assert cron.status_code == 200
    said = log.read_text()
    assert "Traceback" not in said and "am_sk" not in said and "whsec" not in said


def test_watch_and_run_reload_changed_cell_secret_file(tmp_path: Path) -> None:
    """With its next round; and `run` by the same way."""
    database, log, file = f"sqlite:///{tmp_path}/watched.db", tmp_path / "log", tmp_path / "secret"
    assert drawdown(migrated(database), "init").status == 0
    file.write_text("one")
    env = {**environment(database), "DRAWDOWN_LOG_LEVEL": "INFO", "DRAWDOWN_CELL_SECRET_FILE": str(file)}
    for command in (("watch", "--every", "1"), ("run", "--every", "3600")):
        with log.open("w") as err:
            process = fork_server.Started(command, env=env, cwd=PROJECT, err=err)
            try:
                assert process.stdout.readline(), log.read_text()
                (tmp_path / "new").write_text(f"another for {command[0]}")
                (tmp_path / "new").replace(file)
                wait_for(lambda: "settings_file_taken" in log.read_text())
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(HANGS_S)


def test_new_database_connection_uses_rotated_login(postgres_url: str) -> None:
    first = connect(postgres_url)
    with first.begin() as connection:
        connection.execute(sa.text("DROP ROLE IF EXISTS rotated_login"))
        connection.execute(sa.text("CREATE ROLE rotated_login LOGIN"))
    url = sa.make_url(postgres_url)
    latest = [postgres_url]
    engine = connect(postgres_url, lambda: latest[-1])
    who = sa.text("SELECT current_user")
    with engine.begin() as connection:
        assert connection.execute(who).scalar_one() == url.username
        latest.append(url.set(username="rotated_login", password="p").render_as_string(hide_password=False))
        with engine.begin() as another:
            assert another.execute(who).scalar_one() == "rotated_login"
        assert connection.execute(who).scalar_one() == url.username, "what is open stays open"
    engine.dispose()
    with first.begin() as connection:
        connection.execute(sa.text("DROP ROLE rotated_login"))
    first.dispose()
