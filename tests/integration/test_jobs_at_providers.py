"""Jobs at Autumn and Stripe, by their emulators: an organisation moves, and changed settings are used, by ticks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sqlalchemy as sa

from drawdown.cli.main import run
from drawdown.providers import stripe
from drawdown.providers.kit.emulator import Direct
from drawdown.providers.protocol import Setup
from drawdown.schema.database import read, write
from drawdown.schema.units import WINDOW_MS
from drawdown.worker.jobs.job_payloads import AcceptJob, AssignJob
from drawdown.worker.orgs.flips import Wish
from drawdown.worker.provider import actions as providers
from drawdown.worker.verify.verify import verify
from tests.acceptance.test_flips import FEATURE, Billers, customer_of
from tests.integration.test_jobs import job, listed
from tests.world import T0


@pytest.fixture
def home(engine: sa.Engine) -> Billers:
    made = Billers(engine, ["acme"])
    made.credit(["acme"])
    made.fleet.assign("acme", from_ms=T0)
    return made


def use(home: Billers) -> None:
    """A minute in the window that begins next, and what the tick after it does."""
    home.fleet.sample("acme", home.fleet.clock.at_ms + WINDOW_MS + 1)
    home.fleet.tick_windows(3)


def test_org_moved_by_assign_jobs_is_billed_once_per_window(home: Billers) -> None:
    fleet = home.fleet
    use(home)
    for name in ("autumn", "stripe"):
        job(fleet, AssignJob("acme", name, customer_of("acme", name)))
        assert fleet.tick_windows(1).jobs_ended == 1
        assert (listed(fleet)[0].state, f"is billed by {name} as" in listed(fleet)[0].result) == ("done", True)
        use(home)
    by_biller = {biller: seconds for (biller, _, _), seconds in home.charged().items()}
    assert by_biller == {"embedded": 60, "autumn": 60, "stripe": 60}
    for name, said in (
        ("autumn", "the customer cus_of_nobody does not exist at autumn"),
        ("stripe", "the customer does not exist at Stripe"),
    ):
        job(fleet, AssignJob("acme", name, "cus_of_nobody"))
        report = fleet.tick_windows(1)
        assert (report.jobs_ended, listed(fleet)[0].state) == (1, "failed")
        assert said in report.problems[0]
    assert read(fleet.engine, verify).breaches == []


def test_changed_stripe_meter_is_used_after_accept_job(home: Billers) -> None:
    """Of Stripe: no setting of Autumn's changes what is sent. What waited unsent goes to the new meter, once."""
    fleet = home.fleet
    fleet.tick_windows(2)
    home.flip([Wish("acme", "cus_acme")], "stripe")
    write(fleet.engine, lambda c: providers.pause(c, "stripe", fleet.by))
    use(home)
    home.stripe.add_meter("vm_minutes")
    settings = {"secret_key": home.stripe.secret_key, "url": "https://billing.test"}
    changed = {**settings, "meters": f"{FEATURE}=vm_minutes/60"}
    made = stripe.build(Setup("stripe", changed, fleet.clock, Direct(home.stripe, fleet.clock), fleet.engine))
    fleet.extra = {**fleet.extra, "stripe": made}
    job(fleet, AcceptJob("stripe", providers.terms_of(made.capabilities)))
    assert fleet.tick_windows(1).jobs_ended == 1
    assert listed(fleet)[0].state == "done"
    write(fleet.engine, lambda c: providers.resume(c, "stripe", fleet.by))
    fleet.tick_windows(1)
    assert (home.stripe.charged("cus_acme", FEATURE), home.stripe.charged("cus_acme", "vm_minutes")) == (0, 1)
    assert read(fleet.engine, verify).breaches == []


def test_queue_option_places_replay_accept_and_assign_jobs(
    home: Billers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DRAWDOWN_STRIPE_SECRET_KEY", home.stripe.secret_key)
    monkeypatch.setenv("DRAWDOWN_STRIPE_METERS", f"{FEATURE}=vm_minutes/60")
    use(home)
    url = home.fleet.engine.url.render_as_string(hide_password=False).replace("+psycopg", "")
    line = ["--database-url", url, "--at", str(home.fleet.clock.at_ms), "--json"]
    to_stripe = ["--provider", "stripe", "--customer", "cus_acme"]
    for number, given in enumerate((
        ["replay", "--all", "--from", "2026-01-01", "--to", "2026-01-01T00:10:00Z"],
        ["provider", "accept", "stripe"],
        ["org", "assign", "acme", *to_stripe],
    )):  # fmt: skip
        later = [*line, *given, "--queue", "--actor", "ann", "--reason", "they asked"]
        assert run(later) == 0
        assert json.loads(capsys.readouterr().out)["job"] == number + 1
        assert (run(later), run([*later, "--dry-run"])) == (1, 2)
        said = capsys.readouterr().err
        assert "the same job is already queued" in said and "specify either" in said
    assert run([*line, "org", "assign", "acme", "globex", "--provider", "stripe", "--queue"]) == 2
    assert [(one.kind, one.state, one.actor, one.reason) for one in listed(home.fleet)] == [
        (kind, "waiting", "ann", "they asked") for kind in ("assign", "accept", "replay")
    ]
    assert run([*line, "org", "assign", "acme", *to_stripe, "--queue", "--unchecked"]) == 2
    file = tmp_path / "flips.csv"
    file.write_text("org_id,customer_id\nacme,cus_of_file\n")
    assert run([*line, "org", "assign", "--file", str(file), "--provider", "stripe", "--queue"]) == 0
    assert "cus_of_file" in str(home.fleet.one("SELECT payload FROM jobs ORDER BY job_id DESC LIMIT 1"))
