"""Pages of rules: what they show is what the command line's functions say; nonsense, roles, hostile texts, what they
cost."""

from __future__ import annotations

import csv
import html
import io
import re
from typing import Final
from urllib.parse import quote_plus

import pytest
import sqlalchemy as sa

from drawdown.schema.database import read, write
from drawdown.server.console.frame import figures
from drawdown.server.console.screens.rules import audit as audit_page
from drawdown.server.console.screens.rules import events as events_page
from drawdown.server.console.screens.rules import limits as limits_page
from drawdown.worker.access.audit import AuditEntry, AuditFilter, list_audit
from drawdown.worker.checks import proofs
from drawdown.worker.guard import overrides as guard_overrides
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard.overrides import Terms
from drawdown.worker.guard.terms import Change
from tests.integration.verifying import tamper
from tests.server.console_home import ANN, KIM, VIC, Home, says
from tests.server.lived import lived
from tests.server.ruled import SOURCE, key, rule
from tests.server.test_console_budget import statements
from tests.world import T0

HOSTILE: Final = "<b onmouseover=alert(1)>\"&'/../?x=1#"
EVENT: Final = "/console/event?source=shop&id=order-1"
PATHS: Final = (
    "/console/limits", "/console/limits?metric=look&span=30d", "/console/events", EVENT, "/console/keys",
    "/console/proof", "/console/audit", "/console/audit?actor=test&via=program&from=2020-01-01&to=%2B1d",
    "/console/org?id=acme&tab=limits", "/console/org?id=acme&tab=raw", "/console/org?id=acme&tab=raw&table=guard_uses",
    "/console/events?why=interval_negative&source=shop&type=order&org=acme",
)  # fmt: skip


def ruled(engine: sa.Engine) -> Home:
    found = Home(engine)
    rule(found.fleet, hostile=HOSTILE)
    found.now = found.fleet.clock.at_ms
    return found


@pytest.fixture
def home(engine: sa.Engine) -> Home:
    return lived(engine, ruled)


def page(home: Home, path: str, session: int = ANN) -> str:
    """What a page says, without its tags: cells are parted by |."""
    (answer,) = home.get(path, session=session)
    assert answer.status_code == 200, (path, answer.text)
    text = answer.text[answer.text.index("<main") :]
    return html.unescape(re.sub(r"[|\s]*\|[|\s]*", "|", re.sub(r"<[^>]+>", "|", text)))


@pytest.mark.both_databases
def test_rules_pages_show_figures_of_command_line(home: Home) -> None:
    limits = page(home, "/console/limits", KIM)
    assert (
        "|Requested limit overrides|1|" in limits
        and f"|1|Approve|Refuse|look|acme|day|50|{figures.time(home.now)[:4]}" in limits
    )
    assert "|look|blocks all|60.0 % of 5|60.0 % of 5|60.0 % of 5|" in limits
    assert "|peek|warns|0.0 % of 5|" in limits and "|peek|Set|1 warns|0|3|1|1|" in limits
    assert "|acme|look|3|3|" in limits and "|look|every other plan, and no plan|day|5|" in limits
    assert "|Requested limit overrides|0|none open|" in page(home, "/console/limits?metric=peek", KIM)
    assert "|Requested limit overrides|1|" in page(home, "/console/limits?metric=look", KIM)
    mine = page(home, "/console/org?id=acme&tab=limits")
    assert "|look|day|5|4|1, low|" in mine and "|peek|day|5|13|used up|" in mine
    assert "|look|limit|3|9|blocked|" in mine and "|peek|limit|3|9|would be in phase 3|" in mine
    events = page(home, "/console/events")
    assert "|shop|order|3|3|1|" in events and "|Quarantined|2|" in events and "|id conflict|1|" in events
    assert f"|{HOSTILE}|missing|events|7|" in events
    assert "|bad-sample|" in page(home, "/console/events?why=interval_negative")
    keys = page(home, "/console/keys", KIM)
    assert "|shop|Rotate|End|events:write|acme|source /shop|good|" in keys and "|ends in 1 d|" in keys
    assert "|old|Rotate|End|guard|any|good|" in keys
    assert "|console:tom, ended|" in keys and "|test, ended|" not in keys, "a key does not end with who made it"
    assert "ddk_" not in keys.replace("ddk_…", "") and key(1) not in keys
    proven = page(home, "/console/proof")
    (run,) = read(home.engine, proofs.list_runs).runs
    assert "|15 of 15|" in proven and f"|{sum(run.checked.values())}|by the last full proof|" in proven
    raw = page(home, "/console/org?id=acme&tab=raw&table=guard_uses")
    assert "|look-0|acme|look|" in raw and "fingerprint" not in raw


def test_event_page_links_to_its_push_and_ledger_entry(home: Home) -> None:
    (answer,) = home.get(EVENT)
    (push,) = home.fleet.rows("SELECT key FROM pushes WHERE feature = 'orders' AND revision = 0")
    (moved,) = home.fleet.rows(f"SELECT amount_micro FROM ledger_entries WHERE key = '{push[0]}'")
    assert f"{figures.MINUS}{int(str(moved[0])) / 10**6:.2f}" in answer.text
    places = [html.unescape(one) for one in re.findall(r'href="([^"]+)"', answer.text)]
    ledger = next(one for one in places if one.endswith("#ledger"))
    assert any(one.startswith("/console/push?key=usage") for one in places)
    assert quote_plus(str(push[0])) in home.get(ledger)[0].text, "the entry stands in its day, and leads to it"
    assert "event-withdraw" in answer.text and "event-withdraw" not in home.get(EVENT, session=VIC)[0].text
    assert "Withdrawn: a test" in page(home, "/console/event?source=shop&id=order-2&org=acme")


def test_audit_page_tampered_chain_is_shown_broken(home: Home) -> None:
    whole = page(home, "/console/audit")
    assert "|Actions shown|whole|" in whole and "differs from the record" not in whole
    tamper(home.fleet, "UPDATE operator_actions SET actor = 'Bob' WHERE action = 'key_end'")
    broken = page(home, "/console/audit?action=key_end")
    assert "|Actions shown|broken|" in broken and "|key end: differs from the record|" in broken
    newest = "(SELECT MAX(action_id) FROM operator_actions)"
    tamper(home.fleet, f"DELETE FROM operator_actions WHERE action_id = {newest}")
    assert "|Actions shown|broken|" in page(home, "/console/audit"), "the last one was taken out"


def test_audit_and_event_files_contain_exactly_filtered_rows(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_page, "FILE_ACTIONS", 3)
    monkeypatch.setattr(events_page, "FILE_EVENTS", 2)
    deeds = read(home.engine, lambda c: list_audit(c, AuditFilter(action="key_create"), most=99)).actions
    audit, events = home.get("/console/audit.csv?action=key_create", f"/console/events.csv?source={SOURCE}&type=order")
    rows = list(csv.DictReader(io.StringIO(audit.text)))
    assert [(row["number"], row["target"]) for row in rows] == [(str(one.action_id), one.target) for one in deeds]
    sold = list(csv.DictReader(io.StringIO(events.text)))
    assert {(row["event"], row["quantity"], row["state"]) for row in sold} == {
        ("order-1", "1", "kept"), ("order-2", "2", "withdrawn"), ("order-3", "3", "kept"),
    }  # fmt: skip


def test_quarantined_samples_next_page_continues_after_invalid_id(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for sample_id in ("a\x01", "b" * 300, "c\x01"):
        home.fleet.sample("acme", T0, sample_id=sample_id)
    monkeypatch.setattr(events_page, "PAGE_QUARANTINED", 1)
    path, pages = "/console/events?why=bad_id", []
    while path:
        (answer,) = home.get(path)
        assert answer.status_code == 200, (path, answer.text[-400:])
        card = answer.text.partition("Quarantined: bad id")[2]
        pages.append(re.findall(r'data-head="Sample"[^>]*>(?:<[^>]+>)*(.)', card))
        following = re.search(r'rel="next" href="([^"]+)"', card)
        path = html.unescape(following[1]) if following else ""
    assert pages == [["a"], ["b"], ["c"]]


def test_limits_page_next_page_continues_after_last_override(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        terms = Terms("look", "pattern", f"p{number}*", "day", number, None)
        write(home.engine, lambda c, t=terms: guard_overrides.add(c, t, home.fleet.by, asked=False, permanent=True))  # type: ignore[misc]
    monkeypatch.setattr(limits_page, "PAGE_OVERRIDES", 2)
    path, seen = "/console/limits", []
    while path:
        (answer,) = home.get(path)
        seen += re.findall(r"<bdi>(p\d\*|ini\*)</bdi>", answer.text)
        following = re.search(r'rel="next" href="([^"]*behind[^"]*)"', answer.text)
        path = html.unescape(following[1]) if following else ""
    assert seen == ["ini*", "p0*", "p1*", "p2*", "p3*"]


NONSENSE: Final = [
    ("/console/limits?metric=lok", 400, "did you mean look?"),
    ("/console/limits?span=1y", 400, "invalid span '1y': expected 7d, 24h, 30d"),
    ("/console/limits?asked=-1", 400, "invalid asked '-1': expected a number of 0 or more"),
    ("/console/limits?behind=77", 400, "unknown limit override 77"),
    ("/console/limits?behind=" + "9" * 19, 400, "expected a whole number"),
    ("/console/events?source=shopp", 400, "did you mean shop?"),
    ("/console/events?type=ordr", 400, "did you mean order?"),
    ("/console/events?org=acmee", 400, "did you mean acme?"),
    ("/console/events?why=nothing", 400, "unknown reason nothing"),
    ("/console/events?before=x", 400, "invalid before 'x': expected a whole number"),
    ("/console/event?source=shop", 400, "missing id in the address"),
    ("/console/event?source=shop&id=order-9", 404, "unknown event"),
    (
        "/console/event?source=shop&id=order-1&org=nobody",
        404,
        "unknown event of this source order-1; did you mean order-3?",
    ),
    ("/console/keys?after=%00", 400, "invalid after: expected at most"),
    ("/console/proof?before=1e3", 400, "invalid before '1e3': expected a whole number"),
    ("/console/audit?actor=tset", 400, "did you mean test?"),
    ("/console/audit?action=key_mend", 400, "did you mean key_end?"),
    ("/console/audit?via=post", 400, "invalid via 'post': expected cli"),
    ("/console/audit?from=someday", 400, "from"),
    ("/console/org?id=acme&tab=raw&table=console_users", 400, "invalid table 'console_users': expected"),
    ("/console/org?id=acme&tab=raw&table=orgs%3B--", 400, "invalid table 'orgs;--': expected"),
    ("/console/audit.csv?actor=tset", 400, "did you mean test?"),
]


def test_rules_pages_invalid_parameters_are_refused_with_message(home: Home) -> None:
    for (place, status, words), answer in zip(NONSENSE, home.get(*(one for one, _, _ in NONSENSE)), strict=True):
        assert answer.status_code == status and says(answer.text, words), (place, answer.text[-400:])


def test_rules_pages_enforce_roles_and_escape_hostile_text(home: Home) -> None:
    assert [one.status_code for one in home.get("/console/people", session=ANN)] == [403]
    people = page(home, "/console/people", KIM)
    assert (
        "|ann|Change role|Reset|Revoke|operator|active|" in people
        and "|vic|Change role|Reset|Revoke|viewer|" in people
        and "token" not in people
    )
    answers = home.get("/console/people", *PATHS, session=KIM)
    for answer in answers:
        assert ("<b onmouseover" not in answer.text and "alert(1)&gt;" in answer.text) or HOSTILE not in answer.text
    assert sum("alert(1)&gt;" in answer.text for answer in answers) >= 5
    for path in PATHS:
        (seen,) = home.get(path, session=VIC)
        assert seen.status_code == 200 and "/console/act/" not in seen.text, "who may not act is shown no way to"


def test_rules_page_statement_count_is_bounded_at_twelve(home: Home) -> None:
    few = statements(home, PATHS)
    for number in range(6):
        write(home.engine, lambda c, n=number: guard_terms.set_metric(c, f"m{n}", Change(phase=2), home.fleet.by))  # type: ignore[misc]
    many = statements(home, PATHS)
    assert max(many.values()) <= 12 and all(count <= few[path] for path, count in many.items()), many


def test_audit_details_times_and_credits_are_formatted() -> None:
    details = {"ends_ms": 1796380200000, "grant_limit_micro": 100_000_000, "was": {"halted": None, "until_ms": None},
               "lease_ms": 60_000, "count": 1234, "provider": "stripe", "new": True, "gone": None}  # fmt: skip
    deed = AuditEntry(1, T0, "x", "y", details, "ann", "why", "cli")
    assert audit_page.details_of(deed) == (
        "ends 2026-12-04 10:30, grant limit 100.00 credits, was: nothing, lease ms 60,000, count 1,234, "
        "provider stripe, new true"
    )
