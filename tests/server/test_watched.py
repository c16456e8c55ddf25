"""Health, metrics, the description of the routes, limits, and what is left for those who watch a cron."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from openapi_spec_validator import validate

from drawdown.providers.http import NotSent
from drawdown.schema.units import MINUTE_MS, WINDOW_MS
from drawdown.server.app import Server
from drawdown.server.http.callers import TokenBuckets
from drawdown.server.metrics import render
from drawdown.server.settings import ServerSettings
from drawdown.worker.engine import runner
from drawdown.worker.watch import Watcher, watch
from tests.server.house import Caller, House, described, served
from tests.world import T0


def value(text: str, name: str) -> float | None:
    """A metric's value by its name and labels; None where there is none."""
    found = [line for line in text.splitlines() if line.rpartition(" ")[0] == f"drawdown_{name}"]
    return float(found[0].rpartition(" ")[2]) if found else None


@pytest.mark.both_databases
def test_metrics_equal_table_contents(house: House) -> None:
    fleet = house.fleet
    house.customer("acme", 100)
    house.customer("spent")
    fleet.write("INSERT INTO cells (cell_id, url) VALUES ('cell-1', 'http://cell'), ('cell-2', 'http://other')")
    fleet.write(
        "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES ('box', 'spent', 'cell-1', 'running')"
    )
    fleet.sample("acme", T0)
    fleet.sample("nobody", T0)
    fleet.cells.failing.add("cell-1")
    fleet.tick(T0 + 2 * WINDOW_MS)
    text = render(fleet.engine, T0 + 2 * WINDOW_MS).decode()
    for name, expected in {
        "database_up": 1,
        "history_doubted": 0,
        'watermark_lag_seconds{of="pack"}': 300,
        'pending_seconds{reason="unknown_org"}': 60,
        'pending_seconds{reason="no_mapping"}': 0,
        'outbox_pushes{provider="autumn",state="due"}': 0,
        'outbox_pushes{provider="autumn",state="in_doubt"}': 0,
        'provider_attempts{outcome="accepted",provider="autumn"}': 1,
        'provider_attempt_seconds_bucket{le="0.05",outcome="accepted",provider="autumn"}': 1,
        'provider_attempt_seconds_bucket{le="+Inf",outcome="accepted",provider="autumn"}': 1,
        'provider_reads_total{outcome="read",provider="autumn"}': 2,
        "halts_due": 1,
        'orgs_halted{reason="credits_exhausted"}': 1,
        'orgs_halted{reason="estimate"}': 0,
        "watch_last_round_timestamp_seconds": None,
        "watch_rounds_total": 0,
        "wrong_estimates_total": 0,
        "orgs_stopped": 0,
        'tick_last_exit_status{shard="0-255"}': 75,
        'tick_last_success_timestamp_seconds{shard="0-255"}': (T0 + 2 * WINDOW_MS) / 1000,
        'cell_samples{cell="cell-1"}': 2,
        'cell_samples{cell="cell-2"}': 0,
    }.items():
        assert value(text, name) == expected, f"{name}\n{text}"
    fleet.write("UPDATE incarnation SET doubted_ms = 1, doubted_reason = 'x'")
    assert value(render(fleet.engine, T0).decode(), "history_doubted") == 1


def test_metrics_of_due_push_report_count_age_and_quantity(lone: House) -> None:
    lone.customer("acme", 100)
    lone.fleet.sample("acme", T0)
    lone.autumn.faults.rates = {"rate_limited": 1.0, "connection_refused": 1.0}
    lone.fleet.tick(T0 + 2 * WINDOW_MS)
    text = render(lone.fleet.engine, T0 + 3 * WINDOW_MS).decode()
    assert value(text, 'outbox_pushes{provider="autumn",state="due"}') == 1, text
    assert value(text, 'outbox_oldest_age_seconds{provider="autumn",state="due"}') == 300
    ((feature, quantity),) = lone.fleet.rows("SELECT feature, sealed_qty FROM pushes")
    assert quantity and value(text, f'open_quantity{{feature="{feature}",provider="autumn"}}') == quantity, text


def test_metrics_of_provider_attempt_duration_are_histogram(lone: House) -> None:
    """Of nine pushes, one was never answered, and two of those that were took longer than a second."""
    engine, now = lone.fleet.engine, T0 + WINDOW_MS
    took = [20, 50, 51, 900, 1_000, 1_001, 99_000, 30_000, None]
    lone.fleet.write("INSERT INTO orgs (org_id) VALUES ('acme')")
    for number, ms in enumerate(took):
        values = {"n": number, "at": now, "end": None if ms is None else now + ms, "said": ms and "accepted"}
        key = "(window_ms, org_id, feature, revision, "
        lone.fleet.write(
            f"INSERT INTO pushes {key}provider, customer_id, sealed_qty, sent_qty, key, sealed_at_ms, seal_id, state, "
            "due_at_ms) VALUES (0, 'acme', 'compute', :n, 'autumn', 'acme', 1, 1, 'k' || :n, 0, 0, 'accepted', 0)",
            {"n": number},
        )
        lone.fleet.write(
            f"INSERT INTO attempts {key}attempt, started_ms, owner, sent_qty, finished_ms, outcome) "
            "VALUES (0, 'acme', 'compute', :n, 1, :at, 'w', 1, :end, :said)",
            values,
        )
    text = render(engine, now).decode()
    of = 'outcome="accepted",provider="autumn"'
    for limit, count in {"0.05": 2, "0.1": 3, "1.0": 5, "2.5": 6, "10.0": 6, "30.0": 7, "+Inf": 8}.items():
        assert value(text, f'provider_attempt_seconds_bucket{{le="{limit}",{of}}}') == count, text
    assert value(text, f"provider_attempt_seconds_gsum{{{of}}}") == sum(ms or 0 for ms in took) / 1000
    assert value(text, 'provider_attempts{outcome="unanswered",provider="autumn"}') == 1
    later = render(engine, now + WINDOW_MS + 1).decode()
    assert value(later, f"provider_attempts{{{of}}}") is None, "of the last five minutes"


def test_metrics_of_watch_rounds_and_provider_reads_are_counted(house: House) -> None:
    """A round; a provider that cannot be read, and one that knows no such customer; a figure that proved wrong."""
    fleet = house.fleet
    house.customer("acme", 100)
    fleet.assign("nobody", provider="autumn", from_ms=T0)
    fleet.tick(T0 + 1000)
    house.autumn_line.cut = NotSent("refused")
    fleet.write("UPDATE orgs SET projection_due_ms = 1 WHERE org_id = 'acme'")
    fleet.tick(T0 + 2000)
    fleet.write(
        "INSERT INTO projections (org_id, read_ms, at_ms, is_halted, reason) "
        "VALUES ('acme', 1, 1, FALSE, 'estimate_wrong')"
    )
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    runner.run(watch(fleet.context(), Watcher()), world)
    text = render(fleet.engine, T0 + 62_000).decode()
    for name, expected in {
        'provider_reads_total{outcome="read",provider="autumn"}': 1,
        'provider_reads_total{outcome="no_customer",provider="autumn"}': 1,
        'provider_reads_total{outcome="failed",provider="autumn"}': 2,
        'orgs_unread{provider="autumn"}': 2,
        'orgs_unread_oldest_age_seconds{provider="autumn"}': 61,
        "watch_last_round_timestamp_seconds": (T0 + 2000) / 1000,
        "watch_rounds_total": 1,
        "wrong_estimates_total": 1,
    }.items():
        assert value(text, name) == expected, f"{name}\n{text}"


def test_readiness_with_doubted_history_or_wrong_schema_is_unavailable(house: House) -> None:
    async def work(caller: Caller) -> None:
        assert (await caller.get("/readyz")).json() == {"status": "ok"}
        house.fleet.write("UPDATE incarnation SET doubted_ms = 1, doubted_reason = 'x'")
        answer = await caller.get("/readyz")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "history_doubted")
        house.fleet.write("UPDATE alembic_version SET version_num = '9999'")
        assert (await caller.get("/readyz")).json()["error"]["code"] == "database"
        assert (await caller.get("/healthz")).json() == {"status": "ok"}
        assert (await caller.get("/metrics")).headers["content-type"].startswith("text/plain; version=0.0.4")

    served(house, work)


def test_openapi_description_is_valid_and_matches_routes(lone: House) -> None:
    async def work(caller: Caller) -> None:
        found = (await caller.client.get("/openapi.json")).json()
        validate(found)
        assert len(found["paths"]) > 42
        for path, method in (("/healthz", "POST"), ("/nowhere", "GET"), ("/v1/gate/acme", "DELETE"), ("/redoc", "GET")):
            assert (await caller.client.request(method, path)).status_code in (404, 405)
        for route, operations in found["paths"].items():
            for one in operations.values():
                done = "204" if route == "/api/v1/events" else "200"
                assert {done, "429", "default"} <= set(one["responses"]) or route == "/healthz"
                wanted = {part[1:-1] for part in route.split("/") if part.startswith("{")}
                parameters = one.get("parameters", [])
                assert {each["name"] for each in parameters if each["in"] == "path"} == wanted

    served(lone, work)


def undated(found: Mapping[str, Any]) -> dict[str, Any]:
    """Without the one moment that lies ahead of when it was made."""
    kept = copy.deepcopy(dict(found))
    asked = kept["paths"]["/v1/guard/overrides"]["post"]["requestBody"]["content"]["application/json"]
    del asked["example"]["ends_ms"]
    return kept


def test_openapi_description_is_independent_of_settings(lone: House) -> None:
    bare = Server(
        replace(
            lone.server.services,
            settings=ServerSettings(console_url="https://console.test"),
            console_engine=lone.fleet.engine,
        )
    )
    assert bare.routes.openapi() == lone.server.routes.openapi()
    assert undated(described(lone.server)) == undated(lone.server.routes.openapi())
    bare.close()


def test_caller_above_request_rate_is_limited_without_affecting_another(lone: House) -> None:
    lone.settings = ServerSettings(requests_per_s=5)
    lone.server = lone.another()

    async def work(caller: Caller) -> None:
        statuses = [(await caller.get("/readyz")).status_code for _ in range(12)]
        assert statuses == [200] * 10 + [429] * 2
        assert (await caller.get("/healthz")).status_code == 200
        assert (await Caller(lone, address="10.0.0.9").get("/readyz")).status_code == 200
        lone.clock.at_ms += 200
        assert [(await caller.get("/readyz")).status_code for _ in range(2)] == [200, 429]

    served(lone, work)


def test_rate_limit_callers_are_bounded() -> None:
    buckets = TokenBuckets(1, most_callers=100)
    for number in range(10_000):
        assert buckets.take(f"10.0.{number // 256}.{number % 256}", 0)
    assert len(buckets) == 100
    assert [buckets.take("a", 1_000), buckets.take("a", 0), buckets.take("a", 0)] == [True, True, False]


def test_internal_error_answer_omits_exception_text(lone: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(caller: Caller) -> None:
        def broken(*_given: object) -> None:
            raise RuntimeError("a secret of somebody's")

        monkeypatch.setattr("drawdown.server.api.health.require_ready", broken)
        monkeypatch.setattr("drawdown.worker.push.webhooks.apply_notices", broken)
        assert (await caller.get("/readyz")).status_code == 503
        answer = await caller.hook("autumn", *lone.autumn_hook("acme"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "failed")
        assert "secret" not in answer.text
        assert lone.fleet.rows("SELECT 1 FROM webhooks") == [], "it is sent again, so it must not be known"

    served(lone, work)


def test_request_body_that_stalls_times_out(lone: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drawdown.server.http.bodies.BODY_TIMEOUT_S", 0.05)

    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    async def work(caller: Caller) -> None:
        for path in ("/webhooks/autumn", "/admin/orgs/acme/override"):
            answer = await caller.send("POST", path, slow(), {"svix-signature": "v1,"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (408, "too_slow")

    served(lone, work)


def test_metrics_of_unregistered_cells_are_grouped_as_other(house: House) -> None:
    house.fleet.write("INSERT INTO cells (cell_id, url) VALUES ('cell-1', 'http://127.0.0.1:1')")
    for number in range(50):
        name = f"cell-x{number}" + "\x1b" * (10_000 if number == 7 else 0)
        house.fleet.write(
            "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
            "VALUES (:id, 'acme', 'b', :cell, 1024, 60, :ts, :ts)",
            {"id": f"x{number}", "cell": name, "ts": T0},
        )
    house.fleet.sample("acme", T0)
    text = render(house.fleet.engine, T0 + WINDOW_MS + 2 * MINUTE_MS).decode()
    lines = [line for line in text.splitlines() if line.startswith("drawdown_cell_samples{")]
    assert lines == ['drawdown_cell_samples{cell="cell-1"} 1.0', 'drawdown_cell_samples{cell="other"} 50.0']
    assert "x7" not in text
