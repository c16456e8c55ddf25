"""Each action of the console: its dry run changes nothing, its deed is done once, by who may, and as the command line
would do it; what is wrong keeps the form."""

from __future__ import annotations

import html
import json
import re
import shlex
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
import sqlalchemy as sa

from drawdown.schema.audit import By
from drawdown.schema.database import connect, read, write
from drawdown.schema.declare import MAX_NUMBER, Size, WrongField
from drawdown.schema.errors import AnswerLost
from drawdown.schema.tables.whole import metadata
from drawdown.schema.units import DAY_MS, MICRO, WINDOW_MS
from drawdown.server.console import action_forms
from drawdown.server.console.action import MAX_REASON_CHARS, Action, Doing
from drawdown.server.console.pages import ACTIONS
from drawdown.server.console.screens.money.wallet_acts import GRANT
from drawdown.server.console.screens.oncall import backfills as backfills_page
from drawdown.server.http import threads
from drawdown.worker.access import idempotency as console_acts
from drawdown.worker.access import people as console_users
from drawdown.worker.access import sessions as console_sessions
from drawdown.worker.features import actions as features
from drawdown.worker.guard import overrides as guard_overrides
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard.overrides import Terms
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.topup import actions as topups
from drawdown.worker.usage import backfills
from drawdown.worker.wallets import actions as credit
from tests.acceptance.commands import drawdown
from tests.fake_payments import CAN
from tests.fake_provider import FakeProvider, capabilities
from tests.integration.topping import TERMS
from tests.server.acts import EXAMPLES, money, oncall
from tests.server.acts.example import Example
from tests.server.console_home import ANN, KIM, STORED, VIC, Home, as_read, secret
from tests.world import T0

OWN: Final = ("console_acts", "console_sessions", "console_users")
"""What the console keeps for itself."""
CASES: Final = [pytest.param(action, EXAMPLES[action.name], id=action.name) for action in ACTIONS]
REASON: Final = "as they asked"
ON_SQLITE: Final = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""Where the command line does the same beside it, in a copy of the database's file."""


def session_of(action: Action) -> int:
    return KIM if action.role == "admin" else ANN


TABLES: Final = [table.name for table in metadata.sorted_tables if table.name not in OWN]


def rows_of(connection: sa.Connection) -> dict[str, tuple[list[str], Sequence[Any]]]:
    """Each table's columns and rows as they are kept, but for what the console keeps for itself. The driver is asked:
    with SQLAlchemy, a hundred empty tables cost as much as a page."""
    cursor = connection.connection.cursor()
    found = {}
    for name in TABLES:
        cursor.execute(f'SELECT * FROM "{name}"')
        found[name] = [column[0] for column in cursor.description], cursor.fetchall()
    return found


def dump(engine: sa.Engine) -> dict[str, list[str]]:
    return read(engine, lambda c: {name: sorted(map(repr, rows)) for name, (_, rows) in rows_of(c).items()})


def path_of(action: Action) -> str:
    return f"/console/act/{action.name}"


def filled(example: Example, **more: str) -> dict[str, str]:
    return {**example.values, "reason": REASON, **more}


def hidden(page: httpx.Response) -> dict[str, str]:
    """The form of a dry run's page, as a browser would send it; it says all in hidden fields."""
    assert page.status_code in (200, 400, 409), page.text
    found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.text)
    return {name: html.unescape(value) for name, value in found} | {"step": "do"}


def look(home: Home, action: Action, example: Example) -> httpx.Response:
    return home.send(path_of(action), filled(example, step="look"), session_of(action))


def test_console_actions_have_unique_names_and_examples() -> None:
    names = [action.name for action in ACTIONS]
    assert sorted(names) == sorted(EXAMPLES) and len(set(names)) == len(names)
    for action in ACTIONS:
        fields = {field.name for field in action.fields}
        example = EXAMPLES[action.name]
        assert not fields & {"key", "seen", "step", "typed"}, "the form itself has these"
        assert set(example.values) <= fields and set(example.wrong) <= fields, action.name


@pytest.fixture
def home(home_engine: sa.Engine) -> Home:
    return Home(home_engine, copied=True)


PRIVATE: Final = ("hash", "actor", "ended_by", "via", "id", "arrival", "decided_by")


def facts(engine: sa.Engine) -> dict[str, list[str]]:
    """All there is, but for who did it and through what."""

    def work(connection: sa.Connection) -> dict[str, list[str]]:
        return {
            table: sorted(
                repr({name: value for name, value in zip(names, row, strict=True) if name not in PRIVATE})
                for row in rows
            )
            for table, (names, rows) in rows_of(connection).items()
        }

    return read(engine, work)


def require_refusals(home: Home, action: Action, example: Example) -> None:
    """Of whoever may not; and of what is wrong, which keeps the form."""
    path, mine = path_of(action), session_of(action)
    lesser = ANN if action.role == "admin" else VIC
    assert home.get(path, session=lesser)[0].status_code == 403
    for step in ("look", "do"):
        assert home.send(path, filled(example, step=step), lesser).status_code == 403
    for name, value in example.wrong.items():
        answer = home.send(path, filled(example, step="look") | {name: value}, mine)
        assert answer.status_code in (400, 404, 409), (name, answer.status_code)
        assert 'role="alert"' in answer.text and "The dry run does not change anything" in answer.text, name
        assert REASON in answer.text, "what was filled in stays"
    for field in action.fields:
        if not field.optional:
            answer = home.send(path, filled(example, step="look") | {field.name: ""}, mine)
            assert answer.status_code in (400, 404), field.name


@ON_SQLITE
@pytest.mark.parametrize(("action", "example"), CASES)
def test_console_action_after_dry_run_runs_once(home: Home, tmp_path: Path, action: Action, example: Example) -> None:
    example.prepare(home)
    before = dump(home.engine)
    (form,) = home.get(path_of(action), session=session_of(action))
    assert form.status_code == 200 and ">Dry run</button>" in form.text
    require_refusals(home, action, example)
    page = look(home, action, example)
    assert page.status_code == 200, page.text
    assert dump(home.engine) == before, "nothing that is refused changes anything, nor does a dry run"
    other = copied(home, tmp_path / "two.db")
    sent = hidden(page)
    done = home.send(path_of(action), sent, session_of(action))
    after = dump(home.engine)
    assert after != before
    if example.secret:
        assert done.status_code == 200 and "shows the secret once" in done.text
    again = home.send(path_of(action), sent, session_of(action))
    assert again.status_code == 303 and dump(home.engine) == after, "sent twice, it is done once"
    (said,) = home.get(again.headers["location"], session=session_of(action))
    assert said.status_code == 200 and f"Done: {action.title}" in html.unescape(said.text)
    assert "<p><bdi>:" not in said.text, "it says of what"
    deeds = f"SELECT DISTINCT actor, via FROM operator_actions WHERE reason = '{REASON}'"
    ended = f"SELECT ended_by, 'console' FROM reservations WHERE ended_reason = '{REASON}'"  # a run keeps it itself
    (deed,) = home.fleet.rows(f"{deeds} UNION {ended}")
    assert deed == (f"console:{'kim' if action.role == 'admin' else 'ann'}", "console")
    foreign = home.get(again.headers["location"], session=ANN if action.role == "admin" else KIM)[0]
    assert foreign.status_code == 404, "what a form did is told to its own person"
    if not example.secret:  # each makes one of its own
        require_the_same(home, page, other)


def copied(home: Home, path: Path) -> str:
    """The URL of a copy of its database."""
    with closing(sqlite3.connect(str(home.engine.url.database))) as source, closing(sqlite3.connect(path)) as target:
        source.backup(target)
    return f"sqlite:///{path}"


def require_the_same(home: Home, page: httpx.Response, other: str) -> None:
    """The command that a dry run shows does, at a copy from before, what the form did."""
    command = html.unescape(re.findall(r"On the command line: <code><bdi[^>]*>(.*?)</bdi>", page.text, re.DOTALL)[0])
    at = datetime.fromtimestamp(home.now / 1000, UTC).isoformat()
    ended = drawdown(other, *shlex.split(command)[1:], at=at)
    assert ended.status == 0, ended
    second = connect(other)
    here, there = facts(home.engine), facts(second)
    assert {name: rows for name, rows in here.items() if rows != there[name]} == {}
    second.dispose()


@pytest.mark.parametrize(
    ("action", "example"), [case for case in CASES if cast(Example, case.values[1]).meanwhile is not None]
)
def test_console_action_data_changed_since_dry_run_is_refused_once(
    home: Home, action: Action, example: Example
) -> None:
    assert example.meanwhile is not None
    example.prepare(home)
    sent = hidden(look(home, action, example))
    example.meanwhile(home)
    before = dump(home.engine)
    answer = home.send(path_of(action), sent, session_of(action))
    assert answer.status_code == 409 and "changed since the dry run" in answer.text, answer.text
    assert dump(home.engine) == before
    decided = home.send(path_of(action), hidden(answer), session_of(action))
    assert decided.status_code in (200, 303), "whoever decides again may"


def test_console_action_cross_site_form_is_refused(home: Home) -> None:
    before = dump(home.engine)
    for name, session in (("halt", ANN), ("key-create", KIM)):
        for step in ("look", "do"):
            cross, form = {"sec-fetch-site": "cross-site"}, filled(EXAMPLES[name], step=step)
            assert home.send(f"/console/act/{name}", form, session, **cross).status_code == 403
    assert dump(home.engine) == before


def test_console_action_overlong_reason_is_refused_with_form(home: Home) -> None:
    answer = grant_of(home, "1", reason="x" * (MAX_REASON_CHARS + 1))
    assert (
        answer.status_code == 400
        and 'role="alert"' in answer.text
        and "The dry run does not change anything" in answer.text
    )


@pytest.mark.parametrize("name", ["grant", "event-withdraw"])
def test_console_action_after_session_ended_preserves_form_values(home: Home, name: str) -> None:
    """One line, and several."""
    path, wanted = f"/console/act/{name}", filled(EXAMPLES[name])
    answer = home.send(path, wanted | {"step": "look"}, None)
    assert answer.status_code == 401
    place = html.unescape(re.findall(r'name="next" value="([^"]*)"', answer.text)[0])
    assert urlsplit(place).path == path
    kept = dict(parse_qsl(urlsplit(place).query))
    assert kept == wanted
    (form,) = home.get(place, session=KIM)
    assert all(html.escape(line) in form.text for value in kept.values() for line in value.splitlines())


def grant_of(home: Home, amount: str, session: int = ANN, **more: str) -> httpx.Response:
    form = {"id": "acme", "amount": amount, "kind": "purchased", "reason": REASON, "step": "look", **more}
    return home.send("/console/act/grant", form, session)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("grant", {"id": "acme", "amount": "2500.5", "kind": "purchased"}),
        ("execution-release", {"execution": "r-1", "incurred": "2500.5"}),
        ("settlement-reverse", {"execution": "r-1", "amount": "2500.5"}),
        ("person-role", {"name": "bob", "role": "operator", "limit": "2500.5"}),
    ],
)
def test_console_action_large_amount_is_repeated_in_command(home: Home, name: str, values: dict[str, str]) -> None:
    action = next(one for one in ACTIONS if one.name == name)
    assert "2500.50" in action.command(Doing(console_users.Person("kim", "admin"), home.fleet.by, values))


def test_settlement_reversal_and_topup_resolve_amount_has_size(home: Home) -> None:
    def sized(name: str, **values: str) -> Size:
        action = next(one for one in ACTIONS if one.name == name)
        doing = Doing(console_users.Person("kim", "admin"), home.fleet.by, values)
        return read(home.engine, lambda c: action.size(c, doing))

    money.owes(home)
    left = home.fleet.one("SELECT net_micro FROM settlements WHERE reservation = 'render-1'")
    assert sized("settlement-reverse", execution="render-1", amount="").taken_micro == left
    money.in_doubt(home)
    topup = {"topup": "topup:acme:1", "became": "absent"}
    assert sized("topup-resolve", **topup, payment="").micro == 0
    paid = sized("topup-resolve", **topup | {"became": "paid"}, payment="pi_1").micro
    assert paid > 0 and paid == home.fleet.one("SELECT credits_micro FROM topups WHERE topup = 'topup:acme:1'")


def test_operator_grant_above_own_limit_is_refused(home: Home) -> None:
    assert grant_of(home, "100").status_code == 200
    refused = grant_of(home, "100.000001")
    assert refused.status_code == 403 and "may give at most 100 credits in one action" in refused.text
    sent = hidden(grant_of(home, "100")) | {"amount": "101"}
    assert home.send("/console/act/grant", sent).status_code == 403, "whatever the dry run was of"
    assert grant_of(home, "5000", KIM).status_code == 200, "an admin may"
    write(home.engine, lambda c: console_users.set_role(c, "ann", "operator", home.fleet.by, grant_limit_micro=None))
    assert grant_of(home, "0.01").status_code == 403, "whom no limit was given gives nothing"


def _events_at_five(home: Home) -> None:
    """Two events that come to 30 credits, billed by the ledger."""
    EXAMPLES["event-withdraw"].prepare(home)


def _rejected_push(home: Home) -> None:
    EXAMPLES["push-void"].prepare(home)


@pytest.mark.parametrize("lookup", [True, False])
def test_accepted_push_that_can_be_looked_up_is_not_voided_by_form(home: Home, lookup: bool) -> None:
    """The console asks no provider, so the command does it: it looks the push up first (P5)."""
    home.fleet.extra = {"fake": FakeProvider(capabilities(lookup_lag_ms=0 if lookup else None))}
    home.fleet.assign("initech", provider="fake")
    home.fleet.sample("initech", home.now + 3 * WINDOW_MS + 1)
    home.fleet.tick_windows(6)
    home.now = home.fleet.clock.at_ms
    key, state = home.fleet.rows("SELECT key, state FROM pushes WHERE provider = 'fake'")[0]
    assert state == "accepted"
    form = {"keys": str(key), "evidence": "a ticket", "although": "yes", "reason": REASON, "step": "look"}
    answer = home.send("/console/act/push-void", form, KIM)
    assert answer.status_code == (409 if lookup else 200), answer.text
    command = f"drawdown push void-lost {key} --evidence 'a ticket'"
    assert (f"the console does not look it up at fake. Run {command}" in as_read(answer.text)) == lookup


def _priced_metric(home: Home) -> None:
    change = guard_terms.Change(phase=1, price_micro=MICRO)
    write(home.engine, lambda c: guard_terms.set_metric(c, "look", change, home.fleet.by))


def _asked_override(home: Home) -> None:
    _priced_metric(home)
    terms = Terms("look", "org", "acme", "month", 50, home.now + DAY_MS)
    write(home.engine, lambda c: guard_overrides.add(c, terms, home.fleet.by, asked=True))


PUSH: Final = {"keys": oncall.KEY, "evidence": "a ticket"}
MAKE: Final = {"metric": "look", "reach": "org", "id": "acme", "per": "day", "lasts": "until", "expires": "+7d"}
OVERRIDE: Final = {"org": "acme", "max_concurrent": "3", "until": "+30d", "undo": "no"}
ASSIGN: Final = {"id": "initech", "halts": "no", "new": "no"}
SIZED: Final = {
    "events withdrawn": ("event-withdraw", {"source": "shop", "event": "o-1\no-2"}, 30 * MICRO, _events_at_five),
    "one event": ("event-withdraw", {"source": "shop", "event": "o-1"}, 15 * MICRO, _events_at_five),
    "a push voided": ("push-void", {**PUSH, "although": "no"}, 6_000, _rejected_push),
    "a push resolved": ("push-resolve", {**PUSH, "outcome": "absent"}, 6_000, _rejected_push),
    "an override approved": ("override-approve", {"number": "1"}, 50 * MICRO, _asked_override),
    "an override made": ("override-make", {**MAKE, "amount": "70"}, 70 * MICRO, _priced_metric),
    "an override without an end": ("override-make", {**MAKE, "amount": "none"}, None, _priced_metric),
    "an override of many": ("override-make", {**MAKE, "reach": "pattern", "id": "ac*", "amount": "1"}, None,
                            _priced_metric),
    "a run given up": ("execution-release", {"execution": "run-1", "incurred": ""}, MICRO,
                       EXAMPLES["execution-release"].prepare),
    "a run at half its hold": ("execution-release", {"execution": "run-1", "incurred": "0.5"}, MICRO // 2,
                               EXAMPLES["execution-release"].prepare),
    "never halted": ("org-override", {**OVERRIDE, "never_halt": "yes"}, None, lambda _home: None),
    "halted as before": ("org-override", {**OVERRIDE, "never_halt": "no"}, 0, lambda _home: None),
    "billed by nobody": ("assign", {**ASSIGN, "provider": "none"}, None, EXAMPLES["assign"].prepare),
    "billed here": ("assign", {**ASSIGN, "provider": "embedded"}, 0, EXAMPLES["assign"].prepare),
}  # fmt: skip


@pytest.mark.parametrize(("name", "values", "micro", "prepare"), SIZED.values(), ids=SIZED)
def test_console_action_giving_credit_is_limited_by_its_size(
    home: Home, name: str, values: dict[str, str], micro: int | None, prepare: Callable[[Home], object]
) -> None:
    """`micro` None: nothing bounds it, and an admin alone may. An operator needs just that limit, and no less."""
    prepare(home)

    def looked(limit: int | None, session: int = ANN) -> int:
        by = home.fleet.by
        write(home.engine, lambda c: console_users.set_role(c, "ann", "operator", by, grant_limit_micro=limit))
        return home.send(f"/console/act/{name}", {**values, "reason": REASON, "step": "look"}, session).status_code

    assert looked(None, KIM) == 200
    if micro is None:
        assert looked(10**15) == 403
        return
    assert looked(micro) == 200
    assert (looked(micro - 1) if micro else 403) == 403


def test_assign_form_without_credit_here_requires_permission_to_halt(home: Home) -> None:
    home.fleet.extra = {"fake": FakeProvider(capabilities())}
    home.fleet.assign("initech", provider="fake", from_ms=T0)
    form = {**ASSIGN, "provider": "embedded", "reason": REASON, "step": "look"}
    answer = home.send("/console/act/assign", form, KIM)
    assert answer.status_code == 400 and "initech does not have credit here" in answer.text
    assert home.send("/console/act/assign", {**form, "halts": "yes"}, KIM).status_code == 200
    write(home.engine, lambda c: credit.grant(c, "initech", MICRO, home.fleet.by, key="halts", plan=None))
    assert home.send("/console/act/assign", form, KIM).status_code == 200


@pytest.mark.parametrize("name", ["assign", "assign-remote"])
def test_assign_form_tells_that_topups_of_former_wallet_pause(home: Home, name: str) -> None:
    home.fleet.assign("initech", provider="autumn")  # so that the provider is known
    write(home.engine, lambda c: topups.set_terms(c, "acme", TERMS, CAN, home.fleet.by, new=True))
    to = {"assign": {"provider": "embedded", "customer": "acme-inc"}, "assign-remote": {"provider": "autumn"}}[name]
    form = {**ASSIGN, "id": "acme", "new": "yes", "halts": "yes", "reason": REASON, "step": "look", **to}
    answer = home.send(f"/console/act/{name}", form, KIM)
    note = "acme: the wallet acme does not pay for an organisation from then on: its automatic top-ups pause"
    assert answer.status_code == 200 and note in html.unescape(answer.text)


def test_assign_form_without_customer_keeps_present_one(home: Home) -> None:
    write(home.engine, lambda c: assign(c, ["initech"], "embedded", home.fleet.by, customer_id="init", from_ms=T0))
    form = {**ASSIGN, "provider": "embedded", "reason": REASON, "step": "look"}
    answer = home.send("/console/act/assign", form, KIM)
    assert answer.status_code == 200 and "0 assigned to embedded; 1 already assigned to it" in answer.text
    two = home.send("/console/act/assign", {**form, "id": "initech\nacme", "customer": "init"}, KIM)
    assert two.status_code == 400 and "a customer applies to a single organisation, not to 2" in two.text


def test_backfill_revert_size_equals_value_of_its_events(home: Home) -> None:
    EXAMPLES["backfill-revert"].prepare(home)
    by = home.fleet.by
    write(home.engine, lambda c: features.map_event(c, "page.render", "renders", by, new=True))
    write(home.engine, lambda c: credit.set_rate(c, "renders", MICRO, 1, by, from_ms=T0, new=True))
    shown = read(home.engine, lambda c: backfills.diff(c, "june"))
    write(home.engine, lambda c: backfills.close(c, "june", shown.hash, by))
    home.fleet.tick_windows(1)
    action = next(one for one in ACTIONS if one.name == "backfill-revert")
    doing = Doing(console_users.Person("ann", "operator"), by, {"backfill": "june"})
    assert read(home.engine, lambda c: action.size(c, doing)) == Size(micro=3 * MICRO)


def test_backfill_page_large_and_closed_does_not_offer_comparison(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    EXAMPLES["backfill-revert"].prepare(home)
    shown = read(home.engine, lambda c: backfills.diff(c, "june"))
    monkeypatch.setattr(backfills_page, "MOST_COMPARED", 0)
    assert "too large to compare" in home.get("/console/backfill?key=june")[0].text
    write(home.engine, lambda c: backfills.close(c, "june", shown.hash, home.fleet.by))
    (answer,) = home.get("/console/backfill?key=june")
    assert answer.status_code == 200 and "too large to compare" not in answer.text


def test_large_grant_requires_typed_confirmation(home: Home) -> None:
    assert "Type " not in grant_of(home, "1000", KIM).text
    page = grant_of(home, "2500.50", KIM)
    assert "Type 2500.5 to confirm" in page.text
    sent = hidden(page)
    for wrong in ({}, {"typed": ""}, {"typed": "2500"}, {"typed": "1e400"}, {"typed": "nan"}):
        answer = home.send("/console/act/grant", sent | wrong, KIM)
        assert answer.status_code == 400 and "expected the number 2500.5" in answer.text
    assert home.send("/console/act/grant", sent | {"typed": " 2,500.50 "}, KIM).status_code == 303


def test_typed_confirmation_is_required_for_many_rows() -> None:
    assert action_forms.to_type(Size(rows=action_forms.TYPED_ROWS)) is None
    assert action_forms.to_type(Size(rows=action_forms.TYPED_ROWS + 1)) == action_forms.TYPED_ROWS + 1
    assert action_forms.to_type(Size(micro=action_forms.TYPED_MICRO)) is None


def test_console_form_expired_or_foreign_key_is_refused(home: Home) -> None:
    sent = hidden(grant_of(home, "1"))
    for key in ("", "x", "0" * 13 + "-" + secret(1), f"{home.now + 2 * console_acts.SKEW_MS:013}-{secret(1)}"):
        answer = home.send("/console/act/grant", sent | {"key": key})
        assert answer.status_code == 409 and "has expired, was not created here, or belongs" in answer.text
    home.fleet.clock.at_ms += console_sessions.LIFE_MS
    write(home.engine, lambda c: console_sessions.begin(c, "ann", STORED, secret(8), "x", home.fleet.clock.at_ms))
    assert home.send("/console/act/grant", sent, 8).status_code == 409


@pytest.mark.both_databases
def test_console_form_key_is_bound_to_action_and_person_and_expires(home: Home) -> None:
    sent = hidden(grant_of(home, "1"))
    assert home.send("/console/act/grant", sent).status_code == 303
    other = hidden(home.send("/console/act/halt", {"id": "acme", "reason": REASON, "step": "look"}))
    assert home.send("/console/act/halt", other | {"key": sent["key"]}).status_code == 409, "another action's"
    assert home.send("/console/act/grant", sent, KIM).status_code == 409, "another person's"
    now = home.now + 2 * console_sessions.LIFE_MS
    person = console_users.Person("ann", "operator")
    write(home.engine, lambda c: console_acts.claim(c, console_acts.new_key(now, secret(2)), person, "halt", now))
    assert len(home.fleet.rows("SELECT 1 FROM console_acts")) == 1


def test_console_form_invalid_step_or_key_is_handled(home: Home) -> None:
    assert home.send("/console/act/grant", {"id": "acme", "step": "leap"}).status_code == 400
    assert grant_of(home, "1", key="\x00").status_code == 200, "a key that is none is replaced by one"
    assert home.get("/console/acted?key=nonsense")[0].status_code == 404
    (form,) = home.get("/console/act/grant?id=%3Cb%3E&amount=25")
    assert "<b>" not in form.text and 'value="25"' in form.text


SLOW: Final = {
    "postgresql": "SELECT pg_sleep(30)",
    "sqlite": "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT COUNT(*) FROM n",
}


@pytest.mark.both_databases
def test_console_action_too_slow_is_rolled_back_and_can_be_retried(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = hidden(grant_of(home, "1"))
    before = dump(home.engine)
    kept = console_acts.keep

    def slowly(connection: sa.Connection, key: str, said: str, place: str) -> None:
        kept(connection, key, said, place)
        connection.execute(sa.text(SLOW[connection.dialect.name]))

    monkeypatch.setattr(action_forms, "WITHIN_S", 0.3)
    monkeypatch.setattr(console_acts, "keep", slowly)
    assert home.send("/console/act/grant", sent).status_code == 503
    assert dump(home.engine) == before
    monkeypatch.undo()
    assert home.send("/console/act/grant", sent).status_code == 303, "it was not done, so it may be done now"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("key-create", ("drawdown key rotate shop", "drawdown key end shop")),
        ("person-add", ("drawdown console user reset bob",)),
        ("grant", (action_forms.ONCE,)),
    ],
)
def test_console_action_lost_answer_names_next_command(
    home: Home, monkeypatch: pytest.MonkeyPatch, name: str, told: tuple[str, ...]
) -> None:
    """It was kept: the same form again says so, and the secret is nobody's."""
    values = {**EXAMPLES[name].values, "reason": REASON}
    sent = hidden(home.send(f"/console/act/{name}", values | {"step": "look"}, KIM))

    def cut(engine: sa.Engine, work: Callable[[sa.Connection], object], *, rollback: bool) -> object:
        write(engine, work, rollback=rollback)
        raise AnswerLost("cut")

    with monkeypatch.context() as patched:
        patched.setattr(threads, "write", cut)
        lost = home.send(f"/console/act/{name}", sent, KIM)
    page = as_read(lost.text)
    assert lost.status_code == 503 and "may or may not be stored" in page
    assert [words for words in told if words not in page] == []
    again = home.send(f"/console/act/{name}", sent, KIM)
    assert again.status_code == 303 and "ddk_" not in lost.text


@ON_SQLITE
def test_halt_preview_lists_cells_to_notify_also_on_command_line(home: Home) -> None:
    home.fleet.write("DELETE FROM sandboxes")
    for box in (("b1", "acme", "cell-2", "running"), ("b2", "acme", "cell-2", "running"),
                ("b3", "acme", "cell-1", "running"), ("b4", "acme", "cell-3", "stopped"),
                ("b5", "other", "cell-4", "running"), ("b6", "acme", "cell-5", "hibernated")):  # fmt: skip
        fields = dict(zip(("box", "org", "cell", "state"), box, strict=True))
        home.fleet.write(
            "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES (:box, :org, :cell, :state)", fields
        )
    looked = as_read(home.send("/console/act/halt", {"id": "acme", "reason": REASON, "step": "look"}).text)
    rows = [re.sub(r"<[^>]+>", "|", row) for row in re.findall(r"<tr>(.*?)</tr>", looked)]
    read_ = [[word for word in row.split("|") if word.strip()] for row in rows]
    assert ["acme", "running", "halted by an operator"] in read_ and ["Running sandboxes", "3", "0"] in read_
    notified = [["Cell", "Sandboxes"], ["cell-2", "2"], ["cell-1", "1"], ["cell-5", "0"]]
    assert read_[-4:] == notified, "and no other cell"
    assert "the same" not in looked and '<a class="cancel" href="/console/org?id=acme&tab=halts">Cancel<' in looked
    at = datetime.fromtimestamp(home.now / 1000, UTC).isoformat()
    halt = (str(home.engine.url), "org", "halt", "acme")
    told = "cell-1 (1 runs there), cell-2 (2 run there), cell-5 (0 run there)"
    assert f"cells to notify: {told}" in drawdown(*halt, "--dry-run", at=at).out
    assert json.loads(drawdown(halt[0], "--json", *halt[1:], at=at).out)["cells"] == {
        "cell-1": 1,
        "cell-2": 2,
        "cell-5": 0,
    }
    home.fleet.write("UPDATE sandboxes SET state = 'stopped' WHERE state = 'running'")
    assert "cells to notify: cell-5 (0 run there)" in drawdown(*halt, "--dry-run", at=at).out


def test_form_number_out_of_bounds_is_refused() -> None:
    def read_as(text: str) -> int | None:
        by = By(0, "ann", "why", "console")
        return Doing(console_users.Person("ann", "admin"), by, {"n": text}).number("n")

    assert (read_as(" 7 "), read_as(""), read_as(str(MAX_NUMBER))) == (7, None, MAX_NUMBER)
    for text in ("-1", "1.5", str(MAX_NUMBER + 1), "\u0661", "1" * 400, "1_0", "x"):
        with pytest.raises(WrongField):
            read_as(text)


def test_console_action_on_changed_state_is_refused_with_form(home: Home) -> None:
    example = EXAMPLES["push-retry"]
    action = next(one for one in ACTIONS if one.name == "push-retry")
    example.prepare(home)
    sent = hidden(look(home, action, example))
    oncall._somebody_retries(home)
    answer = home.send(path_of(action), sent)
    assert answer.status_code == 409 and "only if it is due or rejected" in answer.text
    assert ">Dry run</button>" in answer.text and REASON in answer.text


def test_console_form_too_long_to_preserve_after_sign_in_is_reported(home: Home) -> None:
    form = {"id": "\n".join(f"org-{number}" for number in range(900)), "reason": REASON, "step": "look"}
    answer = home.send("/console/act/halt", form, None)
    assert answer.status_code == 401 and "too long to keep" in answer.text and len(answer.text) < 10_000


@pytest.mark.both_databases
def test_concurrent_actions_from_same_dry_run_second_is_refused(home: Home) -> None:
    """On PostgreSQL the second waits for the first, and sees what that did; SQLite has one writer anyway."""
    person = console_users.Person("kim", "admin")
    by = By(home.now, person.actor, REASON, "console")
    values = {"id": "acme", "amount": "1", "kind": "purchased", "reason": REASON}
    pictures = []
    for number in (1, 2):
        doing = Doing(person, by, values, console_acts.new_key(home.now, secret(number)))
        seen = write(home.engine, lambda c, d=doing: action_forms.rehearse(c, GRANT, d).preview_hash, rollback=True)  # type: ignore[misc]
        pictures.append((doing, {"key": doing.key, "seen": seen}))
    claimed, may_end = threading.Event(), threading.Event()

    def first(connection: sa.Connection) -> None:
        action_forms.carry_out(connection, GRANT, *pictures[0])
        claimed.set()
        may_end.wait(5)

    def second() -> str:
        claimed.wait(5)
        try:
            write(home.engine, lambda c: action_forms.carry_out(c, GRANT, *pictures[1]))
        except action_forms.LookAgain:
            return "look again"
        return "done"

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(write, home.engine, first)
        two = pool.submit(second)
        claimed.wait(5)
        time.sleep(0.2)
        may_end.set()
        one.result()
        assert two.result() == "look again"
