"""A canary in every secret there is: found in no log, answer, error, metric, database or file, whatever goes wrong.

Guarantee: real processes, each log at DEBUG; services that say back whatever they were sent; each secret holds a canary
of its own, so that a find names it. What follows from a secret (a signature) is not the secret.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
import sqlalchemy as sa
from joserfc import jwt
from joserfc.jwk import OctKey

from drawdown.cli.settings import Settings
from drawdown.providers.http import Answer, Call, HttpResult
from drawdown.providers.kit.emulator import Emulator
from drawdown.schema.clock import SystemClock
from drawdown.schema.database import connect
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import MINUTE_MS
from drawdown.server.http.signing import Signed, signature
from drawdown.worker.hooks.hook_settings import endpoint_secret
from tests.acceptance.commands import Ended, drawdown
from tests.emulators.autumn import AutumnEmulator
from tests.emulators.cell import CellEmulator
from tests.emulators.product import ProductEmulator
from tests.emulators.serve import home_autumn, home_stripe, serving_in_thread
from tests.emulators.stripe import StripeEmulator
from tests.server.test_process import serving

CANARY = "canary7f3a9c"
PASSWORD = f"db-{CANARY}-password"
HEARTBEAT = f"ping-{CANARY}-url"
ADMIN = (f"admin-{CANARY}-new", f"admin-{CANARY}-old")
SECRETS = {
    "DRAWDOWN_ADMIN_SECRETS": ",".join(ADMIN),
    "DRAWDOWN_CRON_SECRET": f"cron-{CANARY}-0123456789",
    "DRAWDOWN_CELL_SECRET": f"cell-{CANARY}-0123456789",
    "DRAWDOWN_CELL_SECRETS": f"cell-1=cell-1-{CANARY}-new,cell-1-{CANARY}-old;cell-9=cell-9-{CANARY}-only",
    "DRAWDOWN_HOOK_SECRET": f"hook-{CANARY}-0123456789",
    "DRAWDOWN_CONSOLE_PROXY_SECRET": f"proxy-{CANARY}-0123456789",
    "DRAWDOWN_CONSOLE_OIDC_CLIENT_SECRET": f"oidc-{CANARY}-0123456789",
    "DRAWDOWN_MY_SECRET": f"my-{CANARY}-01234567890123456789,my-{CANARY}-old-0123456789012345",
    "DRAWDOWN_AUTUMN_SECRET_KEY": f"am_sk_test_{CANARY}",
    "DRAWDOWN_AUTUMN_WEBHOOK_SECRETS": f"whsec_{CANARY}AAAAAAAAAAAAAAAAAAAA,whsec_{CANARY}BBBBBBBBBBBBBBBBBBBB",
    "DRAWDOWN_STRIPE_SECRET_KEY": f"sk_test_{CANARY}",
    "DRAWDOWN_STRIPE_WEBHOOK_SECRETS": f"whsec_{CANARY}_old,whsec_{CANARY}_new",
}


@dataclass
class Echo:
    """A service, or, while `status` is set, something before it that says back all it was sent, with that status."""

    behind: Emulator
    status: int | None = None
    said_back: int = 0
    told: dict[str, Any] = field(default_factory=dict)
    """What is answered at an address, whatever else is asked."""

    def handle(self, call: Call, now_ms: int) -> HttpResult:
        path = urlsplit(call.url).path
        if path in self.told:
            return Answer(200, {"content-type": "application/json"}, json.dumps(self.told[path]).encode())
        if self.status is None:
            return self.behind.handle(call, now_ms)
        self.said_back += 1
        said = f"{call.method} {call.url} {dict(call.headers)} {call.body.decode(errors='replace')}"
        text = json.dumps({"error": {"message": said, "code": said, "type": said}, "message": said, "code": said})
        return Answer(self.status, {"content-type": "application/json", "x-said": CANARY}, text.encode())


@dataclass
class Home:
    """A database and its services, and all that was ever said."""

    url: str
    env: dict[str, str]
    folder: Path
    autumn: Echo
    stripe: Echo
    cell: Echo
    product: Echo
    said: dict[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, status: int | None = None, env: Mapping[str, str] | None = None) -> Ended:
        done = drawdown(self.url, *arguments, env={**self.env, **(env or {})}, cwd=self.folder)
        self.said[f"{len(self.said)}: {arguments[0]} {sorted(env or {})}"] = done.out + done.err
        assert "Traceback" not in done.err, done.err
        assert status is None or done.status == status, done
        return done

    def fail_with(self, status: int | None) -> None:
        for one in (self.autumn, self.stripe, self.cell, self.product):
            one.status = status


@pytest.fixture
def home(postgres_url: str, tmp_path: Path) -> Iterator[Home]:
    url = sa.make_url(postgres_url).set(password=PASSWORD)  # the tests' server believes any
    now = SystemClock().now_ms()
    stripe: StripeEmulator = home_stripe()
    autumn: AutumnEmulator = home_autumn(now - 60 * MINUTE_MS)
    stripe.secret_key, stripe.webhook_secret = SECRETS["DRAWDOWN_STRIPE_SECRET_KEY"], f"whsec_{CANARY}_new"
    autumn.secret_key = SECRETS["DRAWDOWN_AUTUMN_SECRET_KEY"]
    product = ProductEmulator([endpoint_secret(SECRETS["DRAWDOWN_HOOK_SECRET"], "app", 1)])
    parts = Echo(autumn), Echo(stripe), Echo(CellEmulator(secret=f"cell-1-{CANARY}-old")), Echo(product)
    with (
        serving_in_thread(parts[0]) as autumn_url,
        serving_in_thread(parts[1]) as stripe_url,
        serving_in_thread(parts[2]) as cell_url,
        serving_in_thread(parts[3]) as product_url,
    ):
        env = {
            **SECRETS,
            "DRAWDOWN_AUTUMN_URL": autumn_url,
            "DRAWDOWN_STRIPE_URL": stripe_url,
            "DRAWDOWN_CELL_ORIGINS": cell_url,
            "DRAWDOWN_HOOK_ORIGINS": product_url,
            "DRAWDOWN_CONSOLE_URL": "https://drawdown.test",
            "DRAWDOWN_CONSOLE_PROXY_HEADER": "X-Forwarded-User",
            "DRAWDOWN_CONSOLE_OIDC_ISSUER": product_url,
            "DRAWDOWN_CONSOLE_OIDC_CLIENT_ID": "drawdown",
            "DRAWDOWN_LOG_LEVEL": "DEBUG",
            "DRAWDOWN_STATE_DIR": str(tmp_path / "state"),
        }
        yield Home(url.render_as_string(hide_password=False), env, tmp_path, *parts)


def test_canary_list_covers_each_secret_setting() -> None:
    """A setting that is added later is added here, too."""
    named = {f"DRAWDOWN_{name}".upper() for name in Settings.model_fields if "secret" in name}
    of_providers = {
        f"DRAWDOWN_{name}_{what}" for name in ("AUTUMN", "STRIPE") for what in ("SECRET_KEY", "WEBHOOK_SECRETS")
    }
    assert set(SECRETS) == named | of_providers


def test_secrets_are_absent_from_output_logs_files_and_database(home: Home) -> None:
    use(home)
    for status in (401, 500, None):
        home.fail_with(status)
        ask(home)
    assert min(one.said_back for one in (home.autumn, home.stripe, home.cell, home.product)) > 1
    serve(home)
    wrong(home)
    found = {what: text for what, text in home.said.items() if CANARY in text}
    assert found == {}
    assert kept(home) == []


def use(home: Home) -> None:
    """Three organisations with usage, one at each biller; one of them has no credit, and a sandbox on a cell."""
    now = SystemClock().now_ms()
    lines = ["id,org_id,sandbox_id,cell_id,memory_mb,interval_s,ts"]
    for number in range(12):
        at = show_time(now - 60 * MINUTE_MS + number * 5 * MINUTE_MS)
        lines += [f"{org}-{number},{org},box-{org},cell-1,4096,60,{at}" for org in ("alice", "bob", "broke")]
    (home.folder / "samples.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    start = show_time(now // 86_400_000 * 86_400_000 - 86_400_000)
    home.run("init", status=0)
    for org, provider, customer in (
        ("alice", "autumn", "alice"), ("bob", "stripe", "cus_bob"), ("broke", "embedded", "broke"),
    ):  # fmt: skip
        said = ("--from", start, "--customer", customer, "--unchecked", "--reason", "r")
        home.run("org", "assign", "--new", org, "--provider", provider, *said)
    home.run("import", "samples.csv", status=0)
    home.run("cell", "set", "--new", "cell-1", home.env["DRAWDOWN_CELL_ORIGINS"], status=0)
    home.run("hook", "set", "--new", "app", f"{home.env['DRAWDOWN_HOOK_ORIGINS']}/in", status=0)
    engine = connect(home.url)
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) "
                "VALUES ('box-broke', 'broke', 'cell-1', 'running')"
            )
        )
    engine.dispose()


def ask(home: Home) -> None:
    """Everything that reaches a service or a cell, while they answer well or say back what they were sent."""
    for name in ("autumn", "stripe"):
        home.run("provider", "check", name)
    beat = f"{home.env['DRAWDOWN_STRIPE_URL']}/{HEARTBEAT}"
    home.run("tick", "--metrics-file", str(home.folder / "metrics.prom"), "--heartbeat-url", beat)
    home.run("watch", "--once")
    home.run("hook", "test", "app")
    home.run("reconcile")
    for command in (("status",), ("push", "list"), ("org", "show", "alice"), ("hook", "messages")):
        home.run(*command)


def serve(home: Home) -> None:
    """Requests with secrets in them, right and wrong."""
    with serving(home.url, home.env, home.folder / "serve.log") as (url, process):
        client = httpx.Client(base_url=url)

        def send(method: str, path: str, body: bytes = b"", **headers: str) -> int:
            answer = client.request(method, path, content=body, headers=headers)
            home.said[f"{len(home.said)}: {method} {path.partition('?')[0]}"] = answer.text + str(answer.headers)
            return answer.status_code

        body, headers = admin(url, "/admin/orgs/alice/override", {"actor": "a", "reason": "r", "max_concurrent": 3})
        assert send("POST", "/admin/orgs/alice/override", body, **headers) == 200
        assert send("POST", "/admin/orgs/alice/override", body, **{**headers, "x-signature": ADMIN[0]}) == 401
        stripe: Any = home.stripe.behind
        found, raw = stripe.customer_webhook("customer.updated", "cus_bob", SystemClock().now_ms())
        assert send("POST", "/webhooks/stripe", raw, **found) == 200
        for name in ("stripe", "autumn"):
            assert send("POST", f"/webhooks/{name}", raw + b" ", **found) == 400
        for token, status in ((SECRETS["DRAWDOWN_CRON_SECRET"], 200), (f"{CANARY}?", 401)):
            assert send("POST", "/cron/tick", authorization=f"Bearer {token}") == status
        for path in ("/v1/gate/alice", "/v1/gate/broke", "/readyz", "/healthz", "/metrics", "/openapi.json"):
            assert send("GET", path) == 200, path
        assert send("GET", f"/nowhere?{CANARY}") == 404
        signs_in(home, send, url)
        process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 0
        assert process.stdout is not None
        home.said["serve's stdout"] = process.stdout.read()
    log = (home.folder / "serve.log").read_text()
    assert "tick_finished" in log and '"stopped"' in log and "Traceback" not in log
    home.said["serve's log"] = log


def signs_in(home: Home, send: Callable[..., int], url: str) -> None:
    """Through an issuer that says back all it was sent, the console's secret with it; and by links, right and wrong."""
    issuer = home.env["DRAWDOWN_CONSOLE_OIDC_ISSUER"]
    own = {"issuer": issuer, "authorization_endpoint": f"{issuer}/a", "token_endpoint": f"{issuer}/t"}
    home.product.told["/.well-known/openid-configuration"] = {**own, "jwks_uri": f"{issuer}/j"}
    there = httpx.get(f"{url}/console/oidc")
    assert there.status_code == 303, there.text
    state = dict(parse_qsl(urlsplit(there.headers["location"]).query))["state"]
    kept, said_back = there.headers["set-cookie"].partition(";")[0], home.product.said_back
    for status in (200, 400):
        home.product.status = status
        assert send("GET", f"/console/oidc/back?code=c&state={state}", cookie=kept) == 502
    assert home.product.said_back == said_back + 2
    home.product.status = None
    claims = {"aud": "https://drawdown.test", "org": "alice", "jti": "1", "exp": SystemClock().now_ms() // 1000 + 60}
    secret = SECRETS["DRAWDOWN_MY_SECRET"].partition(",")[0]
    token = jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(secret))
    for one, wanted in ((token, 303), (token, 403), (secret, 403), (f"{token}x", 403)):
        assert send("GET", f"/my/enter?token={one}") == wanted


def admin(url: str, path: str, order: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
    body, stamp = json.dumps(order).encode(), str(SystemClock().now_ms() // 1000)
    proof = signature(ADMIN[1], stamp, Signed("POST", url.removeprefix("http://"), path.encode(), b"", body))
    return body, {"x-timestamp": stamp, "x-signature": proof, "content-type": "application/json"}


def wrong(home: Home) -> None:
    """Settings that make no sense, and databases that are not there."""
    for name, text in {
        "DRAWDOWN_CELL_SECRETS": f"cell-1:{CANARY}",
        "DRAWDOWN_AUTUMN_SECRET_KEY": f"sk_{CANARY}\n",
        "DRAWDOWN_STRIPE_SECRET_KEY": f"pk_{CANARY}",
        "DRAWDOWN_STRIPE_WEBHOOK_SECRETS": f"{CANARY},,",
        "DRAWDOWN_AUTUMN_WEBHOOK_SECRETS": f"whsec_{CANARY}!",
        "DRAWDOWN_CELL_ORIGINS": f"http://user:{CANARY}@127.0.0.1:1/",
        "DRAWDOWN_HOOK_ORIGINS": f"http://user:{CANARY}@127.0.0.1:1/",
        "DRAWDOWN_HOOK_SECRET": f"{CANARY},,",
        "DRAWDOWN_AUTUMN_URL": f"http://user:{CANARY}@127.0.0.1:1/",
    }.items():
        for command in ("doctor", "tick") if "AUTUMN" in name else ("doctor",):
            home.run(command, env={name: text})
    for url in (
        f"postgresql://postgres:{PASSWORD}@127.0.0.1:1/none",
        f"postgresql://postgres:{PASSWORD}@127.0.0.1:no/none",
        f"oracle://postgres:{PASSWORD}@127.0.0.1/none",
        f"postgresql://postgres:{PASSWORD}@[::1/none",
    ):
        ways: tuple[tuple[tuple[str, ...], dict[str, str]], ...] = (
            (("status",), {"DRAWDOWN_DATABASE_URL": url}),
            (("status", "--database-url", url), {}),
        )
        for arguments, env in ways:
            assert home.run(*arguments, env=env).status in (1, 2, 75), url


def kept(home: Home) -> list[str]:
    """Where a canary lies: in which file, or in which table."""
    found = [str(one) for one in home.folder.rglob("*") if one.is_file() and CANARY.encode() in one.read_bytes()]
    engine = connect(home.url)
    with engine.connect() as connection:
        tables = sa.inspect(connection).get_table_names()
        assert len(tables) > 30
        for table in tables:
            rows = connection.execute(sa.text(f'SELECT * FROM "{table}"'))
            found += [f"{table}: {row}" for row in rows if CANARY in repr(tuple(row))]
    engine.dispose()
    return found
