"""`drawdown hook`: endpoints, secrets that are shown and never kept, tries, levels, lists and replays."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.cli.main import run
from drawdown.schema import database
from drawdown.schema.database import read
from drawdown.worker.hooks.deliver import WAITS
from drawdown.worker.hooks.hook_settings import endpoint_secret
from tests.contract.sockets import free_port
from tests.emulators.product import ProductEmulator
from tests.emulators.serve import serving_in_thread
from tests.integration.losing import lost
from tests.world import Fleet

ROOT = "canary-root-of-the-hooks"
Told = Callable[..., dict[str, Any]]


@pytest.fixture
def fleet(engine: sa.Engine, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    made = Fleet(engine)
    made.assign("acme", provider="none")
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", database_url)
    monkeypatch.setenv("DRAWDOWN_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("DRAWDOWN_HOOK_SECRET", ROOT)
    return made


@pytest.fixture
def product(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ProductEmulator, str]]:
    made = ProductEmulator([endpoint_secret(ROOT, "app", 1)])
    with serving_in_thread(made, fleet.clock) as url:
        monkeypatch.setenv("DRAWDOWN_HOOK_ORIGINS", url)
        yield made, f"{url}/in"


@pytest.fixture
def told(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> Told:
    """What a command says as JSON, at the fleet's time."""

    def one(*words: str, status: int = 0) -> dict[str, Any]:
        capsys.readouterr()
        found = run(["--json", "--at", str(fleet.clock.at_ms), "hook", *words])
        said = capsys.readouterr()
        assert found == status, said
        return json.loads(said.out) if said.out else {"error": said.err}

    return one


def test_hook_endpoint_is_set_tested_listed_and_ended(
    fleet: Fleet, product: tuple[ProductEmulator, str], told: Told
) -> None:
    emulator, url = product
    made = told("set", "app", url, "--new")
    assert made["secret"] == endpoint_secret(ROOT, "app", 1) == told("secret", "app")["secret"]
    assert made["allowed"] and len(made["events"]) == 11 and made["was_url"] is None
    assert told("test", "app")["message"]["state"] == "delivered"
    assert len(emulator.taken) == 1
    again = told("set", "app", url, "--event", "balance.low")
    assert again["secret"] is None and again["events"] == ["balance.low"] and again["was_url"] == url
    (row,) = told("list")["endpoints"]
    assert (row["name"], row["due"], row["failed"], row["allowed"]) == ("app", 0, 0, True)
    assert told("end", "app") == {"name": "app", "changed": True, "untold": 0}
    assert told("end", "app")["changed"] is False
    assert "has ended" in told("secret", "app", status=1)["error"]
    assert "has ended" in told("set", "app", url, "--new", status=1)["error"]


def test_lost_rotation_answer_shows_how_to_check_for_a_new_secret(
    fleet: Fleet, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given again blindly, it would end the secret by which the product verifies."""
    told("set", "app", "https://app.example/in", "--new")
    with monkeypatch.context() as patch:
        patch.setattr(database, "_commit", lost)
        said = told("rotate", "app", status=75)["error"]
    assert "you can safely repeat the command" not in said and endpoint_secret(ROOT, "app", 2) not in said
    assert "the generation of the secret of app" in said and "`drawdown hook secret app`" in said
    assert [row["generation"] for row in told("list")["endpoints"]] == [2]
    assert told("secret", "app")["secret"] == endpoint_secret(ROOT, "app", 2)


def test_rotated_secret_is_shown_and_old_secret_signs_during_overlap(
    fleet: Fleet, product: tuple[ProductEmulator, str], told: Told
) -> None:
    emulator, url = product
    told("set", "app", url, "--new")
    done = told("rotate", "app", "--overlap", "2h")
    assert done["secret"] == endpoint_secret(ROOT, "app", 2) != endpoint_secret(ROOT, "app", 1)
    assert done["old_until_ms"] == fleet.clock.at_ms + 7_200_000
    told("test", "app")
    fleet.clock.at_ms += 7_200_000
    told("test", "app", status=75)
    assert emulator.refused == {401: 1}, "the old secret signs no more"
    emulator.secrets = [done["secret"]]
    fleet.clock.at_ms += WAITS[0]
    told("test", "app")
    assert len(emulator.taken) == 3, "and what was refused meanwhile"


def test_failed_webhook_is_listed_shown_and_replayed(
    fleet: Fleet, product: tuple[ProductEmulator, str], told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator, url = product
    told("set", "app", url, "--new")
    emulator.status = 500
    message = told("test", "app", status=75)["message"]
    for wait_ms in WAITS:
        fleet.clock.at_ms += wait_ms
        assert run(["--at", str(fleet.clock.at_ms), "tick", "--quiet"]) == 0
    (row,) = told("messages", "--state", "failed", "--endpoint", "app")["messages"]
    assert (row["message_id"], row["attempts"], row["last_error"]) == (
        message["message_id"],
        8,
        "the endpoint answered 500",
    )
    assert told("messages", "--org", "acme")["messages"] == []
    shown = told("show", row["message_id"])
    assert json.loads(shown["body"])["type"] == "endpoint.test" and shown["deliveries"] == [row]
    assert told("replay", "--failed", "--endpoint", "app") == {
        "message_id": None, "endpoints": ["app"], "replayed": 1, "remaining": 0,
    }  # fmt: skip
    emulator.status = 200
    assert run(["--at", str(fleet.clock.at_ms), "watch", "--once"]) == 0
    assert told("show", row["message_id"])["deliveries"][0]["state"] == "delivered"
    assert told("replay", row["message_id"])["endpoints"] == ["app"]
    assert told("messages", "--state", "due")["messages"][0]["replays"] == 2
    for words in ((), ("msg_x", "--failed"), ("--failed",)):
        assert run(["hook", "replay", *words]) == 2
    assert "specify either a message" in capsys.readouterr().err


def test_low_balance_levels_are_set_listed_and_disabled(fleet: Fleet, told: Told) -> None:
    assert told("low", "5") == {
        "org_id": None, "low": 5, "low_micro": 5_000_000, "was": None, "was_micro": None, "was_set": False,
    }  # fmt: skip
    told("low", "12.50", "--org", "acme")
    assert told("low", "--never", "--org", "acme")["was_micro"] == 12_500_000
    found = told("levels")["levels"]
    assert [(row["org_id"], row["low"]) for row in found] == [("", 5), ("acme", None)]
    for words in ((), ("5", "--never")):
        assert run(["hook", "low", *words]) == 2


def test_endpoint_that_cannot_be_called_reports_missing_setting(
    fleet: Fleet, told: Told, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"http://127.0.0.1:{free_port()}/in"
    assert told("set", "app", url, "--new")["allowed"] is False
    assert run(["hook", "set", "app", url]) == 0
    assert "Add its origin to DRAWDOWN_HOOK_ORIGINS" in capsys.readouterr().out
    assert "Add the origin of its URL to DRAWDOWN_HOOK_ORIGINS" in told("test", "app", status=2)["error"]
    run(["doctor"])
    assert f"endpoint app at {url}" in capsys.readouterr().out
    monkeypatch.setenv("DRAWDOWN_HOOK_ORIGINS", url.removesuffix("/in"))
    assert told("test", "app", status=75)["message"]["last_error"] == "no connection (ECONNREFUSED)"
    monkeypatch.delenv("DRAWDOWN_HOOK_SECRET")
    assert "DRAWDOWN_HOOK_SECRET" in told("secret", "app", status=2)["error"]
    assert "DRAWDOWN_HOOK_SECRET" in told("rotate", "app", status=2)["error"]
    assert fleet.rows("SELECT generation FROM hook_endpoints") == [(1,)]
    assert run(["hook", "set", "app", url]) == 0
    assert "and set DRAWDOWN_HOOK_SECRET, where not done yet" in capsys.readouterr().out, "its origin is there"
    assert told("set", "other", url, "--new")["secret"] is None
    monkeypatch.setenv("DRAWDOWN_HOOK_ORIGINS", "https://app.example/in")
    assert "DRAWDOWN_HOOK_ORIGINS" in told("list", status=2)["error"]


def test_webhook_secret_is_not_stored_or_printed(
    fleet: Fleet,
    product: tuple[ProductEmulator, str],
    told: Told,
    capsys: pytest.CaptureFixture[str],
    engine: sa.Engine,
) -> None:
    _, url = product
    told("set", "app", url, "--new")
    told("rotate", "app")
    told("test", "app")
    for words in ("hook list", "hook messages", "audit list", "doctor --json"):
        run(words.split())
    said = capsys.readouterr()
    everything = repr(
        [read(engine, lambda c, t=table: c.execute(sa.text(f"SELECT * FROM {t}")).all())  # type: ignore[misc]
         for table in sa.inspect(engine).get_table_names()]
    )  # fmt: skip
    assert "canary" not in everything + said.out + said.err and "whsec_" not in everything + said.out + said.err
    assert {row[0] for row in fleet.rows("SELECT action FROM operator_actions WHERE target = 'app'")} == {
        "hook_set", "hook_rotate", "hook_test"}  # fmt: skip
