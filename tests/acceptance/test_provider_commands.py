"""Autumn and Stripe from the command line, as a new user meets them: over real sockets, with emulators behind."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from drawdown.schema.clock import SystemClock
from drawdown.schema.units import WINDOW_MS, window_of
from tests.acceptance.commands import Ended, drawdown
from tests.acceptance.tables import number, rows
from tests.emulators.autumn import AutumnEmulator
from tests.emulators.serve import autumn_lines, home_autumn, home_stripe, serving_in_thread, stripe_lines
from tests.emulators.stripe import StripeEmulator
from tests.sqlite_databases import migrated

WINDOW = window_of(SystemClock().now_ms()) - 3 * WINDOW_MS
"""A window that can be sealed by now. The emulators and the commands go by the machine's clock here."""
CANARIES = ("sk_test_home", "whsec_home", "am_sk_")


@dataclass(frozen=True)
class Home:
    """A database, both services, and the settings that lead to them."""

    url: str
    env: dict[str, str]
    stripe: StripeEmulator
    autumn: AutumnEmulator

    def run(
        self, *arguments: str, status: int = 0, stdin: bytes | None = None, env: Mapping[str, str] | None = None
    ) -> Ended:
        found = drawdown(self.url, *arguments, env={**self.env, **(env or {})}, stdin=stdin)
        assert found.status == status, (arguments, found)
        said = found.out + found.err
        assert not [one for one in CANARIES if one in said], "a secret was printed"
        return found


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    url = f"sqlite:///{tmp_path}/home.db"
    stripe, autumn = home_stripe(), home_autumn(SystemClock().now_ms())
    with serving_in_thread(stripe) as stripe_url, serving_in_thread(autumn) as autumn_url:
        lines = [*stripe_lines(stripe, stripe_url), *autumn_lines(autumn, autumn_url)]
        made = Home(url, dict(line.split("=", 1) for line in lines), stripe, autumn)
        migrated(url)
        made.run("init")
        samples = tmp_path / "samples.csv"
        people = ("alice", "bob", "carol")
        moment = datetime.fromtimestamp(WINDOW // 1000 + 1, UTC).isoformat()
        text = [f"{one}-1,{one},box,cell-1,4096,60,{moment}" for one in people]
        samples.write_text("\n".join(["id,org_id,sandbox_id,cell_id,memory_mb,interval_s,ts", *text]) + "\n")
        made.run("import", str(samples))
        yield made


def test_usage_at_autumn_and_stripe_is_checked_billed_and_verified(home: Home) -> None:
    states = {one["provider"]: one["state"] for one in home.run("provider", "list", "--json").json["providers"]}
    ready = {name for name, state in states.items() if state == "ready"}
    assert ready == {"autumn", "embedded", "stripe"} and set(states.values()) <= {"ready", "dormant"}
    start = str(WINDOW)
    home.run("org", "assign", "alice", "--provider", "autumn", "--from", start)
    home.run("org", "assign", "bob", "--provider", "stripe", "--customer", "cus_bob", "--from", start)
    for name in ("autumn", "stripe"):
        checked = home.run("provider", "check", name, "--json").json
        assert (checked["problems"], checked["customers"], len(checked["features"])) == ([], 1, 6)
    home.run("tick")
    assert sum(home.autumn.charged_by().values()) == 60
    assert home.stripe.charged("cus_bob", "compute_4gb") == 60
    waits = home.run("reconcile", "--json").json["reconcile"]
    assert (waits["compared"], waits["waiting"]) == (0, 2), "fresher than the providers' lag"
    assert rows(home.url, "SELECT org_id, reason, seconds FROM pending_usage") == [("carol", "unknown_org", 60)]
    home.run("verify")


def test_push_refused_by_stripe_webhook_is_rejected_and_retried(home: Home, tmp_path: Path) -> None:
    home.run("org", "assign", "bob", "--provider", "stripe", "--customer", "cus_bob", "--from", str(WINDOW))
    home.stripe.faults.rates = {"late_rejection": 1.0}
    home.run("tick")
    home.stripe.faults.rates = {}
    assert number(home.url, "SELECT COUNT(*) FROM pushes WHERE state = 'accepted'") == 1
    ((headers, body),) = home.stripe.webhooks(SystemClock().now_ms() + 3_600_000) or [({}, b"")]
    headers, body = home.stripe.signed(json.loads(body), SystemClock().now_ms())
    given = [part for name, value in headers.items() for part in ("--header", f"{name}: {value}")]
    forged = home.run(
        "provider", "webhook", "stripe", "-", "--header", "Stripe-Signature: t=1,v1=00", stdin=body, status=1
    )
    assert "webhook" in forged.err.lower() or "signature" in forged.err.lower()
    assert number(home.url, "SELECT COUNT(*) FROM pushes WHERE state = 'accepted'") == 1
    for _ in range(2):
        home.run("provider", "webhook", "stripe", "-", *given, stdin=body)
    assert number(home.url, "SELECT COUNT(*) FROM pushes WHERE state = 'rejected'") == 1
    home.run("tick", status=1)
    home.run("push", "retry", "--provider", "stripe", "--state", "rejected", "--reason", "the meter is back")
    home.run("tick")
    assert home.stripe.charged("cus_bob", "compute_4gb") == 60
    home.run("verify")


WRONG: Final[tuple[tuple[tuple[str, ...], int, str], ...]] = (
    (("org", "assign", "bob", "--provider", "stripe", "--customer", "cus_nobody"), 1, "does not exist at Stripe"),
    (("org", "assign", "dave", "--provider", "autumn", "--new"), 1, "the customer dave does not exist at autumn"),
    (("org", "assign", "bob", "--provider", "strip"), 2, "unknown provider strip; did you mean stripe?"),
    (("provider", "check", "nosuch"), 2, "unknown provider nosuch"),
    (("provider", "pause", "legacy"), 1, "does not bill usage here"),
    (("provider", "pause", "stripe", "--undo"), 1, "not paused"),
)


def test_invalid_provider_commands_are_refused_and_do_not_change_data(home: Home) -> None:
    said = {arguments: home.run(*arguments, status=status).err for arguments, status, _ in WRONG}
    assert [arguments for arguments, _, text in WRONG if text not in said[arguments]] == []
    assert number(home.url, "SELECT COUNT(*) FROM assignments") == 0


def test_invalid_stripe_setting_disables_stripe_only(home: Home) -> None:
    start = str(WINDOW)
    home.run("org", "assign", "alice", "--provider", "autumn", "--from", start)
    home.run("org", "assign", "bob", "--provider", "stripe", "--customer", "cus_bob", "--from", start)
    wrong = {"DRAWDOWN_STRIPE_SECRET_KEY": "sk_test home"}
    listed = home.run("provider", "list", "--json", env=wrong).json["providers"]
    (stripe,) = [one for one in listed if one["provider"] == "stripe"]
    assert stripe["state"] == "broken" and "DRAWDOWN_STRIPE_SECRET_KEY" in stripe["why"]
    said = home.run("tick", "--json", status=1, env=wrong).json["tick"]
    assert "DRAWDOWN_STRIPE_SECRET_KEY" in said["problems"][0]
    assert rows(home.url, "SELECT provider, state FROM pushes") == [("autumn", "accepted")]
    assert ("bob", "no_provider", 60) in rows(home.url, "SELECT org_id, reason, seconds FROM pending_usage")
    assert "DRAWDOWN_STRIPE_SECRET_KEY" in home.run("provider", "check", "stripe", status=1, env=wrong).err
    home.run("tick")
    assert home.stripe.charged("cus_bob", "compute_4gb") == 60


def test_changed_meter_setting_is_refused_until_accepted(home: Home) -> None:
    """A meter renamed: what was billed at the old one must be neither missed there nor billed again here."""
    home.run("org", "assign", "bob", "--provider", "stripe", "--customer", "cus_bob", "--from", str(WINDOW))
    home.run("tick")
    renamed = {"DRAWDOWN_STRIPE_METERS": "compute_4gb=compute_8gb"}
    said = home.run("tick", "--json", status=1, env=renamed).json["tick"]
    assert "names was {}" in said["problems"][0] and "drawdown provider accept stripe" in said["problems"][0]
    assert home.run("reconcile", "--json", status=1, env=renamed).json["reconcile"]["unusable"] == ["stripe"]
    for more in (["--dry-run"], ["--reason", "renamed over there"]):
        shown = home.run("provider", "accept", "stripe", *more, env=renamed).out
        assert "changed settings: " in shown and "names was {}, is {'compute_4gb': 'compute_8gb'}" in shown
    home.run("tick", env=renamed)
    later = home.run("reconcile", "--correct", "--json", env=renamed).json["reconcile"]
    assert (later["other_terms"], later["differing"]) == (1, [])
    assert (home.stripe.charged("cus_bob", "compute_4gb"), home.stripe.charged("cus_bob", "compute_8gb")) == (60, 0)
    home.run("verify")


def test_provider_check_reports_missing_feature_customer_and_bad_key(home: Home) -> None:
    found = home.run(
        "provider", "check", "stripe", "--feature", "compute_9gb", "--customer", "cus_nobody", "--json", status=1
    ).json
    assert len(found["problems"]) == 2
    assert "compute_9gb" in found["problems"][0] and "cus_nobody" in found["problems"][1]
    key = {"DRAWDOWN_AUTUMN_SECRET_KEY": "am_sk_test_anotherkey0000000000"}
    assert "DRAWDOWN_AUTUMN_SECRET_KEY" in home.run("provider", "check", "autumn", status=1, env=key).out


def test_secrets_are_absent_from_database_file(home: Home, tmp_path: Path) -> None:
    home.run("org", "assign", "bob", "--provider", "stripe", "--customer", "cus_bob", "--from", str(WINDOW))
    home.stripe.faults.rates = {"error_500_before": 1.0}
    home.run("tick", status=75)
    home.run("tick", status=75, env={"DRAWDOWN_STRIPE_SECRET_KEY": "sk_test_homeless"})
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("home.db*"))
    assert b"usage:bob" in stored
    assert not [one for one in CANARIES if one.encode() in stored]
