"""`drawdown privacy scan` and `drawdown event summary`, beside a database and without one."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.cli import settings
from drawdown.cli.main import global_options_first, run
from drawdown.events.privacy import leaves
from drawdown.schema.database import read, write
from drawdown.schema.tables.whole import metadata
from drawdown.schema.units import DAY_MS
from drawdown.worker.usage import privacy as views
from tests.integration.telling_events import event, told, withdrawn
from tests.world import T0, Fleet

NOW = T0 + 3 * DAY_MS
Said = pytest.CaptureFixture[str]


@pytest.fixture
def fleet(engine: sa.Engine, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", database_url)
    monkeypatch.setenv("DRAWDOWN_STATE_DIR", str(tmp_path / "state"))
    made = Fleet(engine)
    made.clock.at_ms = NOW
    yield made


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No database anywhere near."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", "sqlite:///none-here.db")


def written(name: str, content: object) -> str:
    Path(name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return name


def scanned(*words: str) -> int:
    return run(global_options_first(["privacy", "scan", *words]))


@pytest.mark.parametrize("content", [b"{", b"", b"{}\n{", b"\xff"])
def test_invalid_report_does_not_hide_finding_in_second_file(alone: None, capsys: Said, content: bytes) -> None:
    good = written("a.json", {"note": "alice@example.com"})
    Path("b.json").write_bytes(content)
    for names in ((good, "b.json"), ("b.json", good)):
        assert scanned(*names) == 2
        said = capsys.readouterr().out
        assert "a.json: $.note: email" in said and "\nb.json: " in said


def test_unreadable_file_does_not_hide_finding_in_second_file(alone: None, capsys: Said) -> None:
    assert scanned(written("a.json", {"note": "alice@example.com"}), "nosuch.json") == 2
    out = capsys.readouterr().out
    assert "a.json: $.note: email\n" in out and "nosuch.json cannot be read: No such file" in out


def test_privacy_finding_shows_path_and_rule_with_status_1(alone: None, capsys: Said) -> None:
    assert scanned(written("a.json", {"rows": [{"note": "alice@example.com"}], "bob@example.com": 1})) == 1
    out = capsys.readouterr().out
    assert "a.json: $.rows[0].note: email\n" in out and "a.json: $.<key 2>: email\n" in out
    assert "alice" not in out and "bob" not in out and "1 report: 2 findings" in out
    assert "run `drawdown privacy rules`" in out
    assert run(["privacy", "rules"]) == 0
    assert "email an email address" in " ".join(capsys.readouterr().out.split())
    assert scanned(written("b.json", {"rows": []})) == 0 and "privacy rules" not in capsys.readouterr().out
    assert not Path("none-here.db").exists()


def test_privacy_scan_status_is_0_for_clean_and_2_for_invalid_file(alone: None, capsys: Said) -> None:
    assert scanned(written("clean.json", {"plan": "free", "events": 12})) == 0
    assert "did not compare the reports with the ids of a database: " in capsys.readouterr().out
    for name, content in (("bad.json", "{"), ("empty.json", ""), ("text.json", "cus_9")):
        assert scanned(written(name, content)) == 2
        said = capsys.readouterr()
        assert said.out == "" and f"{name}: the report is not valid JSON" in said.err and "cus_9" not in said.err
    assert scanned("missing.json") == 2 and "missing.json cannot be read: No such file" in capsys.readouterr().err
    assert scanned(".") == 2


def test_privacy_scan_json_is_single_object(alone: None, capsys: Said) -> None:
    lines = written("a.jsonl", '{"plan": "free"}\n{"plan": "cus_9"}\n')
    assert scanned(lines, "--json") == 1
    assert json.loads(capsys.readouterr().out) == {
        "database": False,
        "files": [
            {"file": "a.jsonl", "reports": 2, "count": 1,
             "findings": [{"path": "line 2: $.plan", "rule": "customer_id"}]}
        ],
        "unread": [],
    }  # fmt: skip


def test_privacy_scan_reads_standard_input(alone: None, monkeypatch: pytest.MonkeyPatch, capsys: Said) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"ip": "10.0.0.1"}')))
    assert scanned("-") == 1
    assert "-: $.ip: ip_address" in capsys.readouterr().out


def test_too_large_report_is_rejected(alone: None, monkeypatch: pytest.MonkeyPatch, capsys: Said) -> None:
    monkeypatch.setattr("drawdown.cli.nouns.privacy.MAX_REPORT_BYTES", 100)
    monkeypatch.setattr(leaves, "MAX_REPORT_BYTES", 100)
    assert scanned(written("large.json", "[" + "1," * 100 + "1]")) == 2
    assert "at most" in capsys.readouterr().err


def test_report_with_shape_option_rejects_unknown_field(alone: None, capsys: Said) -> None:
    name = written("a.json", {"report": "usage-summary", "acme": 1})
    assert scanned(name) == 0 and scanned(name, "--shape", "usage-summary") == 1
    assert "$.<key 2>: unknown_field" in capsys.readouterr().out
    assert scanned(name, "--shape", "other") == 2
    assert "expected one of usage-summary" in capsys.readouterr().err


@pytest.mark.both_databases
def test_database_ids_in_report_are_found(fleet: Fleet, capsys: Said) -> None:
    fleet.assign("acme", "wayne enterprises", from_ms=T0)
    fleet.sample("globex", T0 + 1, sample_id="first-sample")
    fleet.write("INSERT INTO ledger_accounts (account_id) VALUES ('wallet:initech')")
    told(fleet, event("first-event", subject="reader seven"))
    private = [
        "acme",
        "Acme",
        "of acme.",
        "wayne enterprises",
        "first-sample",
        "initech",
        "first-event",
        "reader seven",
    ]
    public = ["free", "page.render", "compute_1gb", "acmeville"]
    assert scanned(written("a.json", [*private, *public])) == 1
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if "known_id" in line] == [
        f"a.json: $[{number}]: known_id" for number in range(len(private))
    ]
    assert "did not compare" not in out


OF_ITS_OWN_MAKING = (
    ("cells", "cell_id"), ("guard_uses", "use_key"), ("settlement_reversals", "reversal"), ("payouts", "payout"),
    ("batches", "batch"), ("hook_messages", "message_id"), ("topups", "topup"), ("reservations", "reservation"),
    ("usage_samples", "id"), ("usage_events", "event_id"), ("sandboxes", "sandbox_id"), ("usage_events", "subject"),
    ("usage_events", "project"), ("reservations", "subject"), ("reservations", "project"), ("reservations", "supplier"),
    ("backfill_events", "event_id"), ("backfill_events", "subject"), ("backfill_events", "project"),
    ("ledger_lots", "lot"), ("pools", "pool"), ("topups", "payment_id"), ("topup_terms", "customer_id"),
    ("topup_terms", "service_customer"), ("webhooks", "event_id"), ("console_users", "name"), ("my_sessions", "person"),
    ("usage_samples", "sandbox_id"), ("reservation_sandboxes", "sandbox_id"), ("supplier_terms", "supplier"),
    ("topups", "service_customer"), ("run_blocks", "name"),
)  # fmt: skip


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_database_id_of_each_kind_is_found(fleet: Fleet) -> None:
    """A row with the id alone; what else the table asks for is filled in, and its rules are no matter here."""
    numbers, an_id, its_beginning = (sa.Integer, sa.Boolean), "k-0123-Of-Its-Kind", "k-0123"

    def work(connection: sa.Connection) -> list[tuple[str, str]]:
        connection.exec_driver_sql("PRAGMA ignore_check_constraints = ON")
        for (name,) in connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").all():
            connection.exec_driver_sql(f"DROP TRIGGER {name}")
        wrong = []
        for table, column in OF_ITS_OWN_MAKING:
            made = metadata.tables[table]
            values = {one.name: 1 if isinstance(one.type, numbers) else "x" for one in made.columns if not one.nullable}
            values |= {"kind": "project"} if table == "run_blocks" else {}  # a blocked action is a public word
            row = connection.begin_nested()
            connection.execute(sa.insert(made), {**values, column: an_id})
            if set(views.known_ids(connection, frozenset((an_id, its_beginning)))) != {an_id}:
                wrong.append((table, column))
            row.rollback()
        return wrong

    assert write(fleet.engine, work, rollback=True) == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_known_ids_are_looked_up_in_portions(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.assign("acme", "zorg", from_ms=T0)
    monkeypatch.setattr(views, "WORDS_AT_ONCE", 2)
    words = frozenset(("acme", "b", "c", "d", "zorg", "bad\x00word"))
    assert read(fleet.engine, lambda c: views.known_ids(c, words)) == {"acme", "zorg"}


def test_configured_secrets_are_found(alone: None, monkeypatch: pytest.MonkeyPatch, capsys: Said) -> None:
    monkeypatch.setenv("DRAWDOWN_CRON_SECRET", "tick tock tick")
    monkeypatch.setenv("DRAWDOWN_ADMIN_SECRETS", "first of two,second of two")
    monkeypatch.setenv("DRAWDOWN_CELL_SECRETS", "cell-1=only for it;*=for the others")
    monkeypatch.setenv("DRAWDOWN_STRIPE_SECRET_KEY", "by no known pattern")
    texts = ["tick tock tick", "a second of two b", "only for it", "for the others", "By no KNOWN pattern", "cell-1"]
    assert scanned(written("a.json", texts)) == 1
    lines = capsys.readouterr().out.splitlines()[:-1]  # the last one sums up, and names a folder that is called as this
    found = [line.split(": ")[1] for line in lines if "configured_secret" in line]
    assert found == [f"$[{number}]" for number in range(5)]
    assert "first of two" in settings.load().secrets()


def summary(*words: str) -> int:
    return run(global_options_first(["--at", str(NOW), "event", "summary", "--from", "2026-01-01", *words]))


def of_many(fleet: Fleet, orgs: int, plan: str | None = "free", kind: str = "page.render", **more: Any) -> None:
    events = [
        event(f"{kind}-{plan}-{number}", 3, org_id=f"org{number:03}", plan_key=plan, event_type=kind, **more)
        for number in range(orgs)
    ]
    assert all(one.status != "invalid" for one in told(fleet, *events))


def test_event_summary_omits_groups_below_five(fleet: Fleet, capsys: Said) -> None:
    of_many(fleet, 6)
    of_many(fleet, 5, "team", occurred_ms=T0 + DAY_MS)
    of_many(fleet, 2, "pro")
    withdrawn(fleet, "page.render-free-5")
    assert summary("--to", "2026-01-03", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report == {
        "report": "usage-summary", "made_at": "2026-01-04T00:00:00Z", "from": "2026-01-01", "to": "2026-01-03",
        "least": 5, "withheld": True,
        "rows": [
            {"plan": "free", "kind": "page.render", "day": "2026-01-01", "events": 5, "quantity": 15},
            {"plan": "team", "kind": "page.render", "day": "2026-01-02", "events": 5, "quantity": 15},
        ],
    }  # fmt: skip
    assert scanned(written("may.json", report), "--shape", "usage-summary") == 0
    capsys.readouterr()
    assert summary() == 0
    assert "some usage is skipped" in capsys.readouterr().out


def test_event_summary_with_private_label_is_refused(fleet: Fleet, capsys: Said) -> None:
    of_many(fleet, 5, "alice@example.com")
    assert summary() == 1
    said = capsys.readouterr()
    assert said.out == "" and "$.rows[0].plan: email" in said.err and "alice" not in said.err


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_event_summary_with_invalid_range_is_refused(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, capsys: Said
) -> None:
    of_many(fleet, 6)
    for words, says in (
        (("--to", "2026-01-01T12:00"), "whole days"),
        (("--to", "2026-01-01"), "--to must be later than --from"),
        (("--to", "2027-02-06"), "longer than 400 days"),
    ):
        assert summary(*words) == 2
        said = capsys.readouterr().err
        assert says in said and ("later" in said) == ("later" in says)
    monkeypatch.setattr(views, "MAX_USES", 5)
    assert summary() == 2
    assert "Choose a shorter range" in capsys.readouterr().err


def test_privacy_scan_applies_rules_file(alone: None, monkeypatch: pytest.MonkeyPatch, capsys: Said) -> None:
    rules = written("rules.toml", "[[rules]]\nid = 'acme-key'\nregex = 'acme_[a-z]{8}'\n")
    report = written("a.json", {"note": "acme_qwertyui"})
    assert scanned(report) == 0 and scanned(report, "--rules", rules) == 1
    assert "a.json: $.note: acme-key" in capsys.readouterr().out
    assert scanned(report, "--rules", report) == 2
    assert "a.json: invalid rules: expected TOML" in capsys.readouterr().err
    monkeypatch.setattr("drawdown.cli.nouns.privacy.MAX_RULES_FILE_BYTES", 10)
    assert scanned(report, "--rules", rules) == 2
    assert "expected at most 10 bytes" in capsys.readouterr().err
