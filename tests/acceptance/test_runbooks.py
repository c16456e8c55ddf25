"""Each runbook's state made for real, over sockets, and exactly its commands run: billed exactly, proven clean."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import sqlalchemy as sa

from drawdown.providers.http import Call, HttpResult
from drawdown.providers.kit.emulator import Emulator
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import connect, write
from drawdown.schema.typed.parsing import show_time
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from drawdown.worker.hooks.deliver import WAITS
from drawdown.worker.hooks.hook_settings import endpoint_secret
from tests import leftovers
from tests.acceptance.commands import must
from tests.acceptance.runbooks import RUNBOOKS, Home, steps
from tests.acceptance.tables import number, rows
from tests.contract.sockets import free_port
from tests.emulators.cell import CellEmulator
from tests.emulators.product import ProductEmulator
from tests.emulators.serve import autumn_lines, cell_lines, home_autumn, home_stripe, serving_in_thread, stripe_lines
from tests.sqlite_databases import migrated, named_anew
from tests.world import T0

FEATURE = "compute_4gb"
HOOK_ROOT = "root-secret-of-the-hooks"
HOUR_MS = 60 * MINUTE_MS
BILLED = "SELECT feature, SUM(quantity) FROM ledger_entries WHERE kind = 'usage' GROUP BY 1 ORDER BY 1"


@dataclass
class Door:
    """A service's address, which outlives the service."""

    behind: Emulator | None = None

    def handle(self, call: Call, now_ms: int) -> HttpResult:
        assert self.behind is not None
        return self.behind.handle(call, now_ms)


@dataclass(frozen=True)
class Street:
    """Addresses of a Stripe, an Autumn and a cell, and their clock."""

    clock: FixedClock
    doors: tuple[Door, Door, Door]
    env: Mapping[str, str]


@pytest.fixture(scope="module")
def street() -> Iterator[Street]:
    clock, doors = FixedClock(T0), (Door(), Door(), Door())
    with ExitStack() as stack:
        stripe, autumn, cell = (stack.enter_context(serving_in_thread(one, clock)) for one in doors)
        lines = [*stripe_lines(home_stripe(), stripe), *autumn_lines(home_autumn(T0), autumn), *cell_lines(cell)]
        yield Street(clock, doors, dict(line.split("=", 1) for line in lines))


@cache
def _initialised() -> bytes:
    """A database after `drawdown init`."""
    folder = leftovers.folder("dd-runbooks-")
    url = migrated(f"sqlite:///{folder}/home.db")
    must(url, "init", at=show_time(T0))
    return (folder / "home.db").read_bytes()


@pytest.fixture
def home(street: Street, tmp_path: Path) -> Home:
    stripe, autumn, cell = home_stripe(), home_autumn(T0), CellEmulator()
    services: tuple[Emulator, ...] = (stripe, autumn, cell)
    street.clock.at_ms = T0
    for door, behind in zip(street.doors, services, strict=True):
        door.behind = behind
    (tmp_path / "home.db").write_bytes(named_anew(_initialised()))
    env = {**street.env, "DRAWDOWN_STATE_DIR": str(tmp_path / "state")}
    return Home(f"sqlite:///{tmp_path}/home.db", tmp_path, street.clock, env, autumn, stripe, cell)


def test_runbooks_are_listed_and_each_section_is_run() -> None:
    names = {path.stem for path in RUNBOOKS.glob("*.md")} - {"README"}
    assert set(re.findall(r"\]\(([^)]+)\.md\)", (RUNBOOKS / "README.md").read_text(encoding="utf-8"))) == names
    followed = re.findall(r'follow\("([^"]+)", "([^"]+)"', Path(__file__).read_text(encoding="utf-8"))
    for name in names:
        text = (RUNBOOKS / f"{name}.md").read_text(encoding="utf-8")
        assert "**Never**" in text and "In money" in text and "**It is over**" in text, name
        assert len(text.splitlines()) <= 90, f"{name} is longer than a page"
        headings = {step.heading for step in steps(name)}
        untried = [one for one in headings if not any(name == n and one.startswith(begin) for n, begin in followed)]
        assert headings and not untried, (name, untried)


def away(home: Home) -> dict[str, str]:
    """Nobody listens where Autumn was."""
    before = dict(home.env)
    home.env["DRAWDOWN_AUTUMN_URL"] = f"http://127.0.0.1:{free_port()}"
    return before


def test_runbook_provider_down_hour_bills_all_usage(home: Home) -> None:
    home.run("org", "assign", "--new", "alice", "bob", "--provider", "autumn", "--from", show_time(T0))
    home.use("alice", 60, ts=T0)
    home.tick()
    values, env = {"PROVIDER": "autumn"}, away(home)
    for _ in range(3):
        home.use("bob", 61)
        home.tick(75, 20 * MINUTE_MS)
    home.follow("provider-down-hour", "While", values)
    home.env = env
    home.follow("provider-down-hour", "When", values)
    assert home.at_autumn() == 60 + 3 * 61
    home.clean()


def test_runbook_provider_down_day_bills_all_usage_once(home: Home) -> None:
    """Answers are lost for an hour, some of them after they were applied; then nobody can connect."""
    home.run("org", "assign", "--new", "alice", "bob", "--provider", "autumn", "--from", show_time(T0))
    home.autumn.faults.rates = {"request_lost": 0.5, "answer_lost": 0.5}
    for turn in range(4):
        home.clock.at_ms += 2 * WINDOW_MS
        home.use(("alice", "bob")[turn % 2], 60 + turn)
        home.tick(75)
    env = away(home)
    day = show_time(T0)[:10]
    values = {"PROVIDER": "autumn", "ORG": "bob", "DAY": day, "NEXT_DAY": show_time(T0 + 3 * DAY_MS)[:10]}
    home.follow("provider-down-day", "While", values)
    home.clock.at_ms += 22 * HOUR_MS
    home.use("alice", 600)
    home.tick(75)
    home.env, home.autumn.faults.rates = env, {}
    home.follow("provider-down-day", "When", values, wait_ms=4 * HOUR_MS)
    home.clock.at_ms += DAY_MS
    home.follow("provider-down-day", "A day later", values)
    assert home.at_autumn() == sum(home.used.values())
    assert home.autumn.doubles == []
    home.clean()


def test_runbook_provider_down_36_days_bills_old_usage_by_hand(home: Home) -> None:
    home.run("org", "assign", "--new", "bob", "--provider", "stripe", "--customer", "cus_bob", "--from", show_time(T0))
    env = dict(home.env)
    home.env["DRAWDOWN_STRIPE_URL"] = f"http://127.0.0.1:{free_port()}"
    home.use("bob", 60, ts=T0)
    home.tick(75)
    home.clock.at_ms += 36 * DAY_MS
    home.use("bob", 7)
    home.clock.at_ms += WINDOW_MS
    home.env = env
    values = {"PROVIDER": "stripe", "INVOICE_ITEM": "ii_1", "ORG": "bob", "COUNT": "1"}
    home.follow("provider-down-36-days", "Let the", values)
    assert rows(home.url, "SELECT window_ms FROM pushes WHERE state = 'rejected'") == [(T0,)]
    home.follow("provider-down-36-days", "Bill old usage by hand", values)
    assert home.stripe.charged("cus_bob", FEATURE) == 7, "the other 60 stand on the invoice"
    home.clock.at_ms += DAY_MS
    home.run("reconcile", "--provider", "stripe", "--from", show_time(T0), "--correct", "--reason", "nightly")
    assert rows(home.url, f"SELECT state, by_hand FROM pushes WHERE window_ms = {T0}") == [("accepted", 1)]
    home.clean()


def test_runbook_pushes_rejected_retries_after_fix(home: Home) -> None:
    """A feature that is gone over there, until somebody makes it again."""
    home.run("org", "assign", "--new", "alice", "--provider", "autumn", "--from", show_time(T0))
    gone = home.autumn.account.features.pop(FEATURE)
    home.use("alice", 60, ts=T0)
    home.tick(1)
    values = {
        "PROVIDER": "autumn", "FEATURE": FEATURE, "ERROR": "feature_not_found", "COUNT": "1", "REASON": "made again",
    }  # fmt: skip
    home.follow("pushes-rejected", "See why", values)
    home.autumn.account.features[FEATURE] = gone
    home.follow("pushes-rejected", "Fix the cause, and send again", values)
    assert home.at_autumn() == 60 and rows(home.url, "SELECT state, revision FROM pushes ORDER BY revision") == [
        ("voided", 0), ("accepted", 1)
    ]  # fmt: skip
    home.clean()


def test_runbook_pushes_in_doubt_resolves_both_outcomes(home: Home) -> None:
    """Autumn charged bob and its answer was lost; it queued alice's push and dropped it."""
    home.run("org", "assign", "--new", "alice", "bob", "--provider", "autumn", "--from", show_time(T0))
    home.run("provider", "rate", "autumn", FEATURE, "--micro", "4000")
    values = {"PROVIDER": "autumn", "COUNT": "1", "EVIDENCE": "ticket 7"}

    def in_doubt(org: str, fault: str) -> None:
        home.use(org, 60, ts=T0)
        home.autumn.faults.rates = {fault: 1.0}
        home.tick(75)
        home.autumn.faults.rates = {}
        execute(home, "UPDATE pushes SET state = 'in_doubt', last_error = 'nothing shows it' WHERE state = 'queued'")
        home.clock.at_ms += 10 * MINUTE_MS
        said = " ".join(home.follow("pushes-in-doubt", "See how much", values).split())
        assert "1 push of 1 organisation in doubt at autumn, 0.24 credits" in said and "worth 0.24 credits" in said

    in_doubt("bob", "answer_lost")
    home.follow("pushes-in-doubt", "The provider has", values)
    in_doubt("alice", "queued_dropped")
    home.follow("pushes-in-doubt", "The provider does not", values)
    assert home.at_autumn() == 120 and home.autumn.doubles == []
    home.clean()


def test_runbook_wrong_rate_or_mapping_corrects_charges(home: Home) -> None:
    home.run("org", "assign", "--new", "dave", "--provider", "embedded", "--from", show_time(T0))
    home.run("ledger", "grant", "dave", "100", "--reason", "paid")
    home.use("dave", 100, ts=T0)
    home.use("dave", 30, ts=T0, memory_mb=3000)
    home.tick()
    values = {
        "CUSTOMER": "dave", "FEATURE": "compute_4gb", "RATE": "200", "AMOUNT": "0.02", "GRANT_KEY": "correction-1",
        "FROM": show_time(T0), "RIGHT_FEATURE": "compute_small", "WRONG_SIZE": "4096",
    }  # fmt: skip
    home.follow("wrong-rate-or-mapping", "A wrong rate in", values)
    wallet = "SELECT balance_micro FROM ledger_accounts WHERE account_id = 'wallet:dave'"
    assert number(home.url, wallet) == 100_000_000 - 100 * 400 + 20_000
    home.run("ledger", "rate", "compute_3gb", "--micro-credits", "300", "--new")
    home.follow("wrong-rate-or-mapping", "A size without", {**values, "FEATURE": "compute_3gb", "SIZE": "3000"})
    past_events(home, "dave", {"e-1": 3, "e-2": 4})
    home.run("ledger", "rate", "page_view", "--micro-credits", "10", "--new")
    of_type = {**values, "EVENT_TYPE": "page.view", "EVENT_FEATURE": "page_view"}
    home.follow("wrong-rate-or-mapping", "An event type", of_type)
    home.run("ledger", "rate", "compute_small", "--micro-credits", "50", "--new")
    home.follow("wrong-rate-or-mapping", "A size with the wrong", values)
    home.clock.at_ms += 3 * WINDOW_MS
    home.use("dave", 10)
    home.tick()
    found = rows(home.url, "SELECT feature, amount_micro FROM ledger_entries WHERE kind = 'usage' ORDER BY 1")
    assert found == [("compute_3gb", 9000), ("compute_4gb", 40_000), ("compute_small", 500), ("page_view", 70)]
    home.clean()


def event_file(home: Home, events: dict[str, int], name: str = "events.jsonl") -> str:
    """Of pages that were viewed in the first window."""
    said = {"source": "app", "event_type": "page.view", "occurred_at": T0}
    lines = [json.dumps({**said, "event_id": event_id, "quantity": used}) for event_id, used in events.items()]
    file = home.folder / name
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(file)


def hash_in(said: str) -> str:
    found = re.search(r"--hash (\w+)", said)
    assert found is not None, said
    return found[1]


def past_events(home: Home, org: str, events: dict[str, int]) -> None:
    """By a backfill."""
    home.clock.at_ms = max(home.clock.at_ms, T0 + WINDOW_MS)
    home.used[org] = home.used.get(org, 0) + sum(events.values())
    window = ("--from", show_time(T0), "--to", show_time(T0 + WINDOW_MS))
    home.run("backfill", "open", "past", "--org", org, *window)
    home.run("backfill", "stage", "past", event_file(home, events))
    home.run("backfill", "close", "past", "--hash", hash_in(home.run("backfill", "show", "past").out))


def views_have_a_feature(home: Home) -> None:
    window = ("--from", show_time(T0), "--yes", "--new")
    home.run("feature", "map-event", "page.view", "page_view", "--unit", "units", *window)
    home.run("ledger", "rate", "page_view", "--micro-credits", "10", "--new")


def broke(home: Home) -> None:
    """`erin` has a sandbox and no credit."""
    home.run("org", "assign", "--new", "erin", "--provider", "embedded", "--from", show_time(T0), "--allow-halt")
    insert = "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES ('box', 'erin', 'cell-1', 'running')"
    execute(home, insert)
    home.use("erin", 100, ts=T0)


def execute(home: Home, text: str) -> None:
    engine = connect(home.url)
    write(engine, lambda c: c.execute(sa.text(text)))
    engine.dispose()


def test_runbook_tick_missing_bills_usage_after_restart(home: Home) -> None:
    home.run("org", "assign", "--new", "alice", "--provider", "autumn", "--from", show_time(T0))
    home.use("alice", 60, ts=T0)
    home.tick()
    home.clock.at_ms += 20 * MINUTE_MS
    home.use("alice", 61)
    assert "no tick for" in home.follow("tick-missing", "See why", {})
    home.clock.at_ms += 2 * WINDOW_MS
    home.follow("tick-missing", "Once the cause is fixed", {})
    assert home.at_autumn() == 121
    home.clean()


def test_runbook_cell_gone_delivers_halt_to_moved_cell(home: Home) -> None:
    moved = home.env["DRAWDOWN_CELL_ORIGINS"]
    gone = f"http://127.0.0.1:{free_port()}"
    home.env["DRAWDOWN_CELL_ORIGINS"] = f"{gone},{moved}"
    home.run("cell", "set", "--new", "cell-1", gone)
    broke(home)
    home.tick(75)
    home.clock.at_ms += HOUR_MS
    home.follow("cell-gone", "Find the cell and its organisations", {})
    home.clock.at_ms += HOUR_MS
    home.follow("cell-gone", "The cell was moved", {"CELL": "cell-1", "URL": moved})
    assert home.cell.acknowledged["erin"] >= 1
    home.clean()


def test_runbook_watch_stopped_clears_alert(home: Home) -> None:
    execute(home, f"UPDATE watch_state SET rounds = 1, round_ms = {home.clock.at_ms}")  # as a watch writes it
    home.tick()
    home.follow("watch-stopped", "See why", {})
    assert "a watch" in home.run("doctor", status=None).out
    assert "the watch stopped" not in home.follow("watch-stopped", "Restart the watch", {})
    home.clock.at_ms += 2 * DAY_MS
    assert "the watch stopped" not in home.run("status", status=1).out, "whoever gave it up is not reminded for ever"


def halted(home: Home) -> list[object]:
    return [org for (org,) in rows(home.url, "SELECT org_id FROM orgs WHERE is_halted ORDER BY 1")]


def test_runbook_halted_customer_paid_resumes_org(home: Home) -> None:
    """`erin` drew on the embedded ledger, `alice` on Autumn; `bob` pays nobody for now."""
    home.run("cell", "set", "--new", "cell-1", home.env["DRAWDOWN_CELL_ORIGINS"])
    broke(home)
    home.autumn.account.add_plan("tiny", {FEATURE: (60, None)})
    home.autumn.account.add_customer("dave", T0)
    home.autumn.account.attach("dave", "tiny", T0)
    home.run("org", "assign", "--new", "dave", "--provider", "autumn", "--from", show_time(T0))
    home.use("dave", 60, ts=T0)
    home.tick()
    execute(home, "UPDATE sandboxes SET state = 'stopped'")
    assert halted(home) == ["dave", "erin"]
    values = {"ORG": "erin", "CUSTOMER": "erin", "AMOUNT": "5", "INVOICE": "inv-7"}
    home.follow("halted-customer-paid", "See why", values)
    home.follow("halted-customer-paid", "The payment is not", values)
    assert halted(home) == ["dave"]
    assert number(home.url, "SELECT SUM(amount_micro) FROM ledger_entries WHERE kind = 'grant'") == 5_000_000
    home.autumn.account.grant("dave", FEATURE, 3600, home.clock.at_ms)  # and its webhook never comes
    home.follow("halted-customer-paid", "The payment is at", {"ORG": "dave"})
    assert halted(home) == []
    home.use("dave", 3600)
    home.tick()
    assert halted(home) == ["dave"]
    values = {"ORG": "dave", "TOMORROW": show_time(home.clock.at_ms + DAY_MS)}
    home.follow("halted-customer-paid", "The customer must run at once", values)
    assert halted(home) == []
    home.clean()


def test_runbook_dying_card_charges_new_card_once(home: Home) -> None:
    """At Stripe, over sockets."""
    books = home.stripe.payments
    books.put_in("cus_alice", "stolen")
    home.run("ledger", "grant", "alice", "1", "--new")
    at = ("--below", "5", "--amount", "20", "--price", "100", "--currency", "usd", "--most", "10000")
    home.run("topup", "set", "alice", *at, "--customer", "cus_alice")
    home.tick()
    values = {"WALLET": "alice"}
    assert "stolen_card" in home.follow("dying-card", "See why", values)
    assert books.taken == []
    books.put_in("cus_alice")
    home.follow("dying-card", "The customer has", values)
    assert [one.charge_id for one in books.taken] == ["topup:alice:2"]
    home.run("ledger", "grant", "alice", "--", "-20")
    books.script.append("other_amount")
    home.tick()
    doubted = {**values, "TOPUP": "topup:alice:3", "PAYMENT": books.taken[-1].payment_id}
    assert "topup:alice:3" in home.follow("dying-card", "A charge is", doubted)
    home.follow("dying-card", "Stop everything", values)
    home.tick()
    assert books.doubles() == [] and len(books.taken) == 2
    home.clean()


def test_runbook_holds_that_leak_settles_and_releases_reservations(home: Home) -> None:
    """A product crashed: two of its runs hold credit, one expired, and nobody has let it go."""
    home.run("ledger", "grant", "alice", "20")
    for run in ("crashed", "idle"):
        home.run("execution", "accept", run, "--org", "alice", "--estimate", "8")
    home.run("execution", "accept", "old", "--org", "alice", "--estimate", "4", "--for", "5m")
    home.clock.at_ms += 30 * MINUTE_MS
    values = {
        "ORG": "alice", "CUSTOMER": "alice", "RUN": "crashed", "OTHER_RUN": "idle", "EXPIRED_RUN": "old", "AMOUNT": "3",
    }  # fmt: skip
    assert number(home.url, "SELECT held_micro FROM ledger_accounts WHERE account_id = 'wallet:alice'") == 20_000_000
    assert "16.00 reserved" in home.follow("holds-that-leak", "Find the reservations", values)
    home.follow("holds-that-leak", "An execution is finished", values)
    assert "old" in home.follow("holds-that-leak", "An expired execution did work", {**values, "AMOUNT": "2"})
    home.run("execution", "accept", "older", "--org", "alice", "--estimate", "4", "--for", "5m")
    home.clock.at_ms += HOUR_MS
    home.follow("holds-that-leak", "Expired rows stay", values)
    assert rows(
        home.url, "SELECT balance_micro, held_micro FROM ledger_accounts WHERE account_id = 'wallet:alice'"
    ) == [(15_000_000, 0)]
    assert rows(home.url, "SELECT reservation FROM reservations WHERE state = 'expired'") == [("older",)]
    home.clean()


def test_runbook_suppliers_dispute_refunds_and_releases_settlement(home: Home) -> None:
    home.run("ledger", "grant", "alice", "20")
    home.run("supplier", "set", "pixel", "--share", "70", "--new")
    for run in ("render-1", "render-2"):
        home.run("execution", "accept", run, "--org", "alice", "--estimate", "8", "--supplier", "pixel")
        home.run("execution", "settle", run, "--actual", "6")
    values = {
        "RUN": "render-1", "SUPPLIER": "pixel", "CUSTOMER": "alice", "AMOUNT": "1.40", "TICKET": "ticket-7",
        "GIVEN_BACK": "2",
    }  # fmt: skip
    assert "render-2" in home.follow("suppliers-dispute", "Stop the release", values)
    home.clock.at_ms += 40 * DAY_MS
    home.run("settlement", "payout", "pixel", "--dry-run", status=1)
    home.follow("suppliers-dispute", "The customer is", values)
    home.follow("suppliers-dispute", "Release the rest", values)
    assert number(home.url, "SELECT balance_micro FROM ledger_accounts WHERE account_id = 'wallet:alice'") == 10_000_000
    home.run("supplier", "set", "pixel", "--threshold", "1")
    listed = home.run("settlement", "list", "--supplier", "pixel").out
    assert "2.80" in listed and "4.20" in listed and "eligible" in listed
    home.clean()


def test_runbook_doubled_usage_refunds_excess(home: Home) -> None:
    home.run("org", "assign", "--new", "alice", "--provider", "autumn", "--from", show_time(T0))
    home.use("alice", 60, ts=T0)
    wrong = home.use("alice", 60, ts=T0, billed=False)
    home.tick()
    assert home.at_autumn() == 120
    home.clock.at_ms += HOUR_MS
    day = show_time(T0)[:10]
    values = {
        "ORG": "alice", "KEY": f"usage:alice:{T0}:{FEATURE}", "FROM": show_time(T0), "SAMPLES": wrong,
        "UNTIL": show_time(T0 + WINDOW_MS), "DAY": day, "NEXT_DAY": show_time(T0 + DAY_MS)[:10],
    }  # fmt: skip
    assert wrong in home.follow("doubled-usage", "Look", values)
    home.follow("doubled-usage", "Refund the excess", values)
    assert home.at_autumn() == 60
    home.clean()


def test_runbook_cells_differ_imports_lost_samples(home: Home) -> None:
    """A host's samples of one organisation were lost on their way; its cell counted them."""
    home.run("cell", "set", "--new", "cell-1", home.env["DRAWDOWN_CELL_ORIGINS"])
    home.run("org", "assign", "--new", "alice", "bob", "--provider", "embedded", "--from", show_time(T0))
    home.use("alice", 60, ts=T0)
    home.cell.counted[show_time(T0)[:10]] = [
        {"org_id": org, "memory_mb": 4096, "seconds": 60} for org in ("alice", "bob")
    ]
    home.clock.at_ms = T0 + DAY_MS + HOUR_MS
    home.run("tick")
    lost = home.folder / "lost.csv"
    head = "id,org_id,sandbox_id,cell_id,memory_mb,interval_s,ts"
    lost.write_text(f"{head}\nlost-1,bob,box,cell-1,4096,60,{show_time(T0)}\n", encoding="utf-8")
    days = {"DAY": show_time(T0)[:10], "NEXT_DAY": show_time(T0 + DAY_MS)[:10]}
    values = {"ORG": "bob", "FILE": str(lost), **days}
    home.follow("cells-differ", "Look", values)
    home.follow("cells-differ", "Fix", values)
    home.used["bob"] = 60
    home.clean()


def test_runbook_items_refused_bills_missing_items(home: Home) -> None:
    """A host's samples and a product's events were refused at the door; both still have them."""
    home.run("org", "assign", "--new", "dave", "--provider", "embedded", "--from", show_time(T0))
    home.run("ledger", "grant", "dave", "100", "--reason", "paid")
    past_events(home, "dave", {"e-1": 3})
    views_have_a_feature(home)
    home.run("key", "create", "site", "--scope", "events:write")
    lost = home.folder / "lost.csv"
    head = "id,org_id,sandbox_id,cell_id,memory_mb,interval_s,ts"
    lost.write_text(f"{head}\nlost-1,dave,box,cell-1,4096,60,{show_time(T0)}\n", encoding="utf-8")
    home.clock.at_ms += DAY_MS
    values = {
        "KEY_NAME": "site", "ORG": "dave", "FROM": show_time(T0), "UNTIL": show_time(T0 + DAY_MS), "FILE": str(lost),
        "BACKFILL": "refused", "EVENTS": event_file(home, {"e-1": 3, "e-2": 4, "e-3": 5}),
    }  # fmt: skip
    assert "e-1" in home.follow("items-refused", "Find the sender and the missing items", values)
    home.follow("items-refused", "The items are recent", values)
    shown = home.follow("items-refused", "The items are old", values)
    home.follow("items-refused", "Close the backfill", {**values, "HASH": hash_in(shown)})
    found = rows(home.url, BILLED)
    assert found == [(FEATURE, 60), ("page_view", 12)]
    home.used["dave"] = 72
    home.clean()


def test_runbook_backfill_left_open_closes_or_reverts_backfill(home: Home) -> None:
    home.run("org", "assign", "--new", "dave", "erin", "--provider", "embedded", "--from", show_time(T0))
    home.run("ledger", "grant", "dave", "100", "--reason", "paid")
    window = ("--from", show_time(T0), "--to", show_time(T0 + WINDOW_MS))
    home.clock.at_ms += WINDOW_MS
    for org in ("dave", "erin"):
        home.run("backfill", "open", f"of-{org}", "--org", org, *window)
    home.run("backfill", "stage", "of-dave", event_file(home, {"e-1": 3}))
    home.run("backfill", "overdue")
    home.clock.at_ms += 8 * DAY_MS
    views_have_a_feature(home)
    values = {"BACKFILL": "of-dave", "OTHER_BACKFILL": "of-erin", "ORG": "dave"}
    shown = home.follow("backfill-left-open", "Look", values)
    home.follow("backfill-left-open", "The backfill is right", {**values, "HASH": hash_in(shown)})
    assert number(home.url, "SELECT SUM(amount_micro) FROM ledger_entries WHERE kind = 'usage'") == 30
    home.used["dave"] = 3
    home.follow("backfill-left-open", "The backfill is wrong, or unknown", values)
    home.clean()


def test_runbook_guard_repairs_counter_and_reviews_limit_overrides(home: Home) -> None:
    """Somebody wrote to a counter, a limit is small, credit of one cannot be known, and a person asked for more."""
    home.run("ledger", "grant", "dave", "100", "--reason", "paid")
    home.run("org", "assign", "--new", "alice", "--provider", "autumn", "--from", show_time(T0))
    home.run("guard", "set", "idea", "--credits", "1", "--phase", "3", "--fail", "open", "--new")
    home.run("limit", "set", "idea", "2", "--per", "month")
    for key in ("idea-1", "idea-2"):
        home.run("guard", "consume", key, "idea", "--org", "dave")
    home.run("guard", "consume", "idea-3", "idea", "--org", "dave", status=1)
    home.run("guard", "consume", "idea-4", "idea", "--org", "alice")
    home.run("override", "ask", "idea", "50", "--per", "day", "--org", "dave", "--expires", "+7d")
    values = {"METRIC": "idea", "ORG": "dave", "AMOUNT": "9", "NUMBER": "1", "UNKNOWN": "alice"}
    home.tick()
    said = home.follow("guard", "See the uses", values)
    assert "idea-2" in said and "1 of 4 blocked" in said
    execute(home, "UPDATE guard_counters SET used = 7 WHERE org_id = 'dave' AND period = 'month'")
    home.follow("guard", "A counter", values)
    home.follow("guard", "The guard blocks too much", values)
    home.run("guard", "set", "idea", "--phase", "3")
    home.follow("guard", "Uses are allowed without credit", values)
    home.follow("guard", "A limit override", values)
    found = rows(home.url, "SELECT number, state FROM guard_overrides ORDER BY 1")
    assert found == [(1, "in_force"), (2, "in_force")]
    assert number(home.url, "SELECT used FROM guard_counters WHERE org_id = 'dave' AND period = 'month'") == 2


def test_runbook_vendor_drift_sets_cost_and_reimports_bill(home: Home) -> None:
    """From the third day on each costs half as much again; one file is not right."""
    home.run("org", "assign", "--new", "dave", "--provider", "embedded", "--from", show_time(T0))
    home.run("ledger", "grant", "dave", "100", "--reason", "paid")
    home.clock.at_ms += 8 * DAY_MS
    for day in range(6):
        home.use("dave", 3600, ts=T0 + day * DAY_MS)
    home.tick()
    at = "--vendor cloud --service vm --unit hour --units 1 --per 3600 --currency USD --cost 4 --from"
    home.run("vendor", "set", FEATURE, *at.split(), show_time(T0)[:10])

    def bill(*dollars: int) -> str:
        file = home.folder / f"bill-{dollars[-1]}.csv"
        lines = [f"{show_time(T0 + day * DAY_MS)[:10]},cloud,vm,{amount},USD" for day, amount in enumerate(dollars)]
        file.write_text("\n".join(["day,vendor,service,amount,currency", *lines]) + "\n", encoding="utf-8")
        return str(file)

    home.run("vendor", "import", bill(4, 4, 6, 6, 6, 6))
    values = {
        "FEATURE": FEATURE, "VENDOR": "cloud", "SERVICE": "vm", "UNIT": "hour", "COST": "6", "QUANTITY": "3600",
        "DAY": show_time(T0 + 2 * DAY_MS)[:10],
    }  # fmt: skip
    home.follow("vendor-drift", "Look", values)
    home.follow("vendor-drift", "The vendor's price", values)
    home.run("vendor", "import", bill(4, 4, 6, 6, 9, 9))
    home.run("vendor", "drift", "--keep", status=1)
    home.follow("vendor-drift", "A bill was wrong, or is now complete", {**values, "FILE": bill(4, 4, 6, 6, 6, 7)})
    assert rows(home.url, "SELECT check_name, off, alerts FROM checks") == [("vendors", 1, 0)]
    home.clean()


def test_runbook_guard_let_through_is_refused_after_fix(home: Home) -> None:
    home.run("org", "assign", "--new", "alice", "--provider", "embedded", "--from", show_time(T0))
    home.run("ledger", "grant", "alice", "20")
    home.run("guard", "set", "login", "--credits", "1", "--phase", "3", "--fail", "open", "--new")
    home.run("limit", "set", "login", "1")
    home.run("guard", "consume", "l-1", "login", "2", "--org", "alice", "--let-through")
    values = {"METRIC": "login", "ORG": "alice", "USE_KEY": "l-2", "QUANTITY": "2"}
    home.follow("guard-fail-open", "Look", values)
    home.follow("guard-fail-open", "Fix", values)
    home.run("guard", "consume", "l-3", "login", "--org", "alice", "--let-through", status=1)


def test_runbook_months_end_bills_late_usage_and_reconciles(home: Home) -> None:
    home.run("org", "assign", "--new", "alice", "--provider", "autumn", "--from", show_time(T0))
    home.run("org", "assign", "--new", "bob", "--provider", "stripe", "--customer", "cus_bob", "--from", show_time(T0))
    month_ms = 31 * DAY_MS
    for org in ("alice", "bob"):
        home.use(org, 60, ts=T0)
    home.tick()
    home.clock.at_ms = T0 + month_ms
    for org, seconds, ts in (("alice", 1, T0 + month_ms - 1000), ("bob", 10, T0 + month_ms)):
        home.use(org, seconds, ts=ts)
    home.tick()
    home.clock.at_ms += DAY_MS
    home.use("bob", 100, ts=T0 + month_ms - 1000)  # late, for the month that ended
    values = {"FROM": show_time(T0)[:10], "UNTIL": show_time(T0 + month_ms)[:10]}
    home.follow("months-end", "Check that all usage is billed", values)
    home.clock.at_ms += DAY_MS
    home.follow("months-end", "Compare with every provider", values)
    assert (home.at_autumn(), home.stripe.charged("cus_bob", FEATURE)) == (61, 170)
    home.clean()


def test_runbook_database_restored_bills_lost_history_once(home: Home) -> None:
    """Both providers have pushes, late samples and a withdrawal that the backup knows nothing of; the ledger a run
    and a batch that was handed over."""
    home.clock.at_ms = T0 - 2 * DAY_MS
    for line in (
        "ledger grant carol 300 --new", "supplier set pixel --share 70 --hold 1d --threshold 1 --clawbacks --new",
        "execution accept r-1 --org carol --estimate 10 --supplier pixel", "execution settle r-1 --actual 10",
    ):  # fmt: skip
        home.run(*line.split())
    home.clock.at_ms = T0
    home.run("org", "assign", "--new", "alice", "--provider", "autumn", "--from", show_time(T0))
    home.run("org", "assign", "--new", "bob", "--provider", "stripe", "--customer", "cus_bob", "--from", show_time(T0))
    for org, seconds in (("alice", 60), ("bob", 600)):
        home.use(org, seconds, ts=T0)
        home.use(org, 2 * seconds, ts=T0 + WINDOW_MS)
    wrong = [home.use(org, 7, ts=T0 + WINDOW_MS, billed=False) for org in ("alice", "bob")]
    home.tick(later_ms=3 * WINDOW_MS)
    with closing(sqlite3.connect(home.folder / "home.db")) as connection:
        connection.execute(f"VACUUM INTO '{home.folder}/kept.db'")
    since = home.clock.at_ms
    for org in ("alice", "bob"):
        home.use(org, 11, ts=T0)  # late
        home.use(org, 40, ts=since)
    wrong.append(home.use("alice", 5, ts=since, billed=False))
    home.tick()
    home.run("sample", "withdraw", *wrong, "--reason", "counted twice")
    home.tick()
    handed_over = ("settlement", "payout", "pixel", "--period", show_time(T0)[:7], "--expect", "7")
    home.run(*handed_over)
    again_run = ("execution", "accept", "r-2", "--org", "carol", "--estimate", "4", "--supplier", "pixel")
    home.run(*again_run)
    home.run("execution", "settle", "r-2", "--actual", "3")
    billed = {"autumn": home.at_autumn(), "stripe": home.stripe.charged("cus_bob", FEATURE)}
    assert billed == {"autumn": 231, "stripe": 1851}
    for suffix in ("-wal", "-shm"):
        Path(f"{home.folder}/home.db{suffix}").unlink(missing_ok=True)
    shutil.copyfile(home.folder / "kept.db", home.folder / "home.db")
    assert "history was lost" in home.run(*handed_over, status=1).err, "at once, not only after a tick"
    assert "Drawdown cannot verify the lost part" in home.run("verify", status=1).out
    home.use("bob", 50)  # since then, and nobody was billed for it
    home.tick(status=1)
    assert "history was lost" in home.run(*handed_over, status=1).err
    assert "Drawdown cannot verify the lost part" in home.run("verify", status=1).out
    assert number(home.url, "SELECT COUNT(*) FROM pushes") == 4, "nothing is sealed meanwhile"

    again = home.folder / "again.csv"
    kept = [path.read_text(encoding="utf-8").splitlines() for path in sorted(home.folder.glob("samples-*.csv"))]
    again.write_text("\n".join([kept[0][0], *(lines[1] for lines in kept)]) + "\n", encoding="utf-8")
    values = {
        "FILE": str(again), "SAMPLES": " ".join(wrong), "SINCE": show_time(since), "DAY": show_time(T0)[:10],
        "RUN": "r-2", "ORG": "carol", "ESTIMATE": "4", "ACTUAL": "3", "SUPPLIER": "pixel", "MONTH": show_time(T0)[:7],
        "TOTAL": "7",
    }  # fmt: skip
    home.follow("database-restored", "Before", values)
    home.follow("database-restored", "Recover", values, wait_ms=2 * HOUR_MS)
    home.follow("database-restored", "Repeat the lost work of the ledger", values)
    assert rows(home.url, "SELECT payout, total_micro FROM payouts") == [(f"payout:pixel:{values['MONTH']}", 7_000_000)]
    home.clock.at_ms += DAY_MS
    home.follow("database-restored", "When", values)
    assert (home.at_autumn(), home.stripe.charged("cus_bob", FEATURE)) == (231, 1901)
    assert home.autumn.doubles == []
    home.clean()


def test_runbook_webhooks_not_taken_delivers_after_fix(home: Home) -> None:
    product = ProductEmulator([endpoint_secret(HOOK_ROOT, "app", 1)], status=500)
    with serving_in_thread(product, home.clock) as url:
        home.env |= {"DRAWDOWN_HOOK_ORIGINS": url, "DRAWDOWN_HOOK_SECRET": HOOK_ROOT}
        home.run("hook", "set", "app", f"{url}/in", "--new")
        home.run("org", "assign", "--new", "alice", "--provider", "none", "--from", show_time(T0))
        home.run("org", "halt", "alice", "--reason", "abuse")
        for wait_ms in (0, *WAITS):
            home.tick(later_ms=wait_ms)
        values = {"ENDPOINT": "app", "URL": f"{url}/elsewhere"}
        assert "failed" in home.follow("webhooks-not-taken", "See why", values)
        product.status = 204
        home.follow("webhooks-not-taken", "Your product answers", values)
        assert len(product.taken) == 2, "the halt, and what a person tried"
        home.follow("webhooks-not-taken", "The endpoint was moved", values)
        product.secrets = [endpoint_secret(HOOK_ROOT, "app", 2)]
        home.follow("webhooks-not-taken", "The endpoint's secret", values)
        home.run("hook", "test", "app")
    home.clean()
