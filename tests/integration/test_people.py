"""What people do with commands: repeat them, replace what they said, take it back, look at what was done and used."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa

from drawdown.cli.main import run
from drawdown.ledger import accounts
from drawdown.providers.protocol import CustomerState
from drawdown.schema import audit
from drawdown.schema.database import read, write
from drawdown.schema.declare import Invocation
from drawdown.schema.errors import Refused, UnknownId, UsageError
from drawdown.schema.text import no_formula
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.worker.access.audit import AuditFilter, list_audit
from drawdown.worker.engine import runner
from drawdown.worker.halts import cells
from drawdown.worker.halts import lists as views_cells
from drawdown.worker.jobs import assign_action
from drawdown.worker.orgs import actions as orgs
from drawdown.worker.orgs import flips
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.orgs.lists import START, STATES, OrgFilter, OrgPage, OrgRow, Place, every_org, list_orgs
from drawdown.worker.provider import actions as providers
from drawdown.worker.sources.samples.quarantine import QuarantineFilter, list_quarantined
from drawdown.worker.status.backlog import quarantined
from drawdown.worker.status.status import org_status, status
from drawdown.worker.topup import actions as topups
from drawdown.worker.usage import quarantined as samples
from drawdown.worker.usage import withdrawals
from drawdown.worker.usage.lists import BY, OF_SAMPLES, UsageReport, read_usage
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import tiers
from tests.fake_payments import CAN
from tests.fake_provider import FakeProvider, capabilities
from tests.integration.topping import TERMS
from tests.world import T0, Fleet

T = TypeVar("T")


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    made = Fleet(engine, extra={"fake": FakeProvider(capabilities())})
    made.extra["fake"].states["acme-inc"] = CustomerState(100, None, 5)  # type: ignore[attr-defined]
    return made


def do(fleet: Fleet, work: Callable[[sa.Connection], T]) -> T:
    return write(fleet.engine, work)


def flip(fleet: Fleet, *wishes: flips.Wish, **terms: Any) -> list[flips.Flip]:
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    return runner.run(flips.flip(fleet.context(), list(wishes), flips.FlipOptions(**terms), fleet.by), world)


def test_assign_without_provider_and_customer_keeps_both(fleet: Fleet) -> None:
    do(fleet, lambda c: assign(c, ["acme"], "fake", fleet.by, customer_id="acme-inc", from_ms=T0))
    assert read(fleet.engine, lambda c: flips.kept_provider(c, ["acme"], new=False)) == "fake"
    (done,) = flip(fleet, flips.Wish("acme"), provider="fake")
    assert (done.already, done.customer_id) == (True, "acme-inc")
    fleet.assign("globex", from_ms=T0)
    with pytest.raises(UsageError, match=r"acme \(fake\), globex \(embedded\)"):
        read(fleet.engine, lambda c: flips.kept_provider(c, ["acme", "globex"], new=False))
    assert fleet.rows("SELECT provider, customer_id FROM assignments WHERE org_id = 'acme'") == [("fake", "acme-inc")]


@pytest.mark.parametrize("provider", ["embedded", "fake"])
def test_assign_before_scheduled_start_at_same_provider_begins_now(fleet: Fleet, provider: str) -> None:
    fleet.sample("acme-inc", T0 + 1)
    flip(fleet, flips.Wish("acme-inc"), provider=provider, from_ms=T0 + DAY_MS)
    (done,) = flip(fleet, flips.Wish("acme-inc"), provider=provider)
    assert (done.already, done.start_ms, done.resolved_s) == (False, T0, 60)
    for from_ms in (None, T0 + WINDOW_MS, T0 + 2 * DAY_MS):
        (again,) = flip(fleet, flips.Wish("acme-inc"), provider=provider, from_ms=from_ms)
        assert (again.already, again.start_ms) == (True, None)
    starts = fleet.rows("SELECT start_ms, end_ms FROM assignments ORDER BY start_ms")
    assert starts == [(T0, T0 + DAY_MS), (T0 + DAY_MS, None)]


def test_assign_before_scheduled_move_to_same_provider_is_refused(fleet: Fleet) -> None:
    fleet.assign("acme-inc", from_ms=T0)
    flip(fleet, flips.Wish("acme-inc"), provider="fake", from_ms=T0 + DAY_MS)
    fleet.clock.at_ms += 1
    with pytest.raises(Refused, match="already has a later assignment"):
        flip(fleet, flips.Wish("acme-inc"), provider="fake")
    (failed,) = flip(fleet, flips.Wish("acme-inc", line=2), provider="fake", each_alone=True)
    assert not failed.already and "already has a later assignment" in str(failed.problem)


def test_assign_over_http_before_scheduled_start_begins_now(fleet: Fleet) -> None:
    fleet.sample("acme", T0 + 1)

    def assign_here(from_ms: int | None) -> assign_action.OrgAssigned:
        invocation = Invocation(fleet.by, "key", "subject")
        return do(fleet, lambda c: assign_action._assign(c, invocation, "acme", provider="embedded", from_ms=from_ms))

    assert assign_here(T0 + DAY_MS).start_ms == T0 + DAY_MS
    made = assign_here(None)
    assert (made.already, made.start_ms, made.waited.resolved_s) == (False, T0, 60)
    again = assign_here(None)
    assert (again.already, again.start_ms) == (True, T0)


def test_assign_over_http_and_in_file_names_topups_that_stop(
    fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a file, also for an organisation beyond those that the answer lists."""
    names = [f"org-{number:02}" for number in range(55)]
    fleet.assign("acme", *names, from_ms=T0)
    for org in ("acme", names[-1]):
        do(fleet, lambda c, org=org: topups.set_terms(c, org, TERMS, CAN, fleet.by, new=True))  # type: ignore[misc]
    fleet.clock.at_ms = T0 + 1
    invocation, other = Invocation(fleet.by, "key", "subject"), "acme-inc"
    made = do(
        fleet, lambda c: assign_action._assign(c, invocation, "acme", customer_id=other, allow_halt=True, new=True)
    )
    note = (
        "the wallet acme does not pay for an organisation from then on: its automatic top-ups pause. Usage before then "
        "can still put it in debt, which `drawdown status` shows"
    )
    assert made.note == note and assign_action._sentence(made).endswith(f"on; {note}")
    file = tmp_path / "flips.csv"
    file.write_text("\n".join(["org_id,customer_id", *(f"{org},{org}-inc" for org in names)]))
    url = fleet.engine.url.render_as_string(hide_password=False)
    at = ["--database-url", url, "--at", str(T0 + 1)]
    assert run([*at, "org", "assign", "--file", str(file), "--provider", "embedded", "--new", "--allow-halt"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("pause") == 1 and "the wallet org-54 does not pay for an organisation" in said


def assignments_of(fleet: Fleet, org: str) -> list[tuple[object, ...]]:
    text = "SELECT start_ms, end_ms, provider, customer_id FROM assignments WHERE org_id = :org ORDER BY start_ms"
    return fleet.rows(text, org=org)


@pytest.mark.parametrize("moved", [True, False])
def test_customer_of_scheduled_assignment_named_again_changes_nothing(fleet: Fleet, moved: bool) -> None:
    """Also for the command that made the assignment, and for a file, with and without --from."""
    if moved:
        fleet.assign("acme", from_ms=T0)
        fleet.clock.at_ms += 1
    begins_ms, provider = T0 + DAY_MS, "fake"
    do(fleet, lambda c: assign(c, ["acme"], provider, fleet.by, customer_id="", from_ms=begins_ms))
    (done,) = flip(fleet, flips.Wish("acme", "acme-inc"), provider=provider, new=True)
    assert (done.start_ms, done.note) == (begins_ms, "it was already assigned to fake, and now has a customer there")
    stood, acts = assignments_of(fleet, "acme"), len(read(fleet.engine, lambda c: list_audit(c, AuditFilter())).actions)
    assert stood[-1] == (begins_ms, None, provider, "acme-inc") and len(stood) == 1 + moved
    for from_ms in (None, begins_ms, begins_ms + DAY_MS):
        for each_alone in (False, True):
            wish = flips.Wish("acme", "acme-inc", line=2 if each_alone else None)
            (again,) = flip(fleet, wish, provider=provider, from_ms=from_ms, each_alone=each_alone)
            assert (again.already, again.start_ms, again.problem) == (True, None, None)
            assert again.note == (
                "it is assigned so from 2026-01-02T00:00:00Z on. To begin at another time, first cancel that with "
                "`drawdown org assign acme --undo`"
            )
    assert assignments_of(fleet, "acme") == stood
    assert len(read(fleet.engine, lambda c: list_audit(c, AuditFilter())).actions) == acts


def test_assign_command_repeated_without_start_tells_scheduled_one(
    fleet: Fleet, capsys: pytest.CaptureFixture[str]
) -> None:
    url = fleet.engine.url.render_as_string(hide_password=False)
    command = ["--database-url", url, "--at", str(T0 + 1), "org", "assign", "acme", "--customer", "inc", "--new"]
    assert run([*command, "--from", "2026-01-02"]) == 0
    capsys.readouterr()
    assert run(command) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "1 was already assigned to it" in said and "acme: it is assigned so from 2026-01-02T00:00:00Z on" in said


def test_customer_named_twice_at_once_for_scheduled_assignment_is_once(fleet: Fleet) -> None:
    do(fleet, lambda c: assign(c, ["acme"], "fake", fleet.by, customer_id="", from_ms=T0 + DAY_MS))
    options = flips.FlipOptions("fake", new=True)
    wishes = [flips.Wish("acme", "acme-inc")]
    planned = [flips.Flip("acme", "acme-inc", was="fake", customer_was="")]
    work = partial(flips._assign, in_ledger=(), wishes=wishes, planned=planned, options=options, by=fleet.by, shown={})
    for already in (False, True):
        (done,) = do(fleet, work)
        assert done.already is already
    assert assignments_of(fleet, "acme") == [(T0 + DAY_MS, None, "fake", "acme-inc")]


def test_customer_from_before_assignment_without_one_is_refused(fleet: Fleet) -> None:
    """Otherwise the customer would apply from a later time than requested, and a repetition from the earlier time."""
    do(fleet, lambda c: assign(c, ["acme"], "fake", fleet.by, customer_id="", from_ms=T0 + DAY_MS))
    for _ in range(2):
        with pytest.raises(Refused, match="without a customer, from 2026-01-02T00:00:00Z on"):
            flip(fleet, flips.Wish("acme", "acme-inc"), provider="fake", from_ms=T0 + WINDOW_MS, new=True)
    assert assignments_of(fleet, "acme") == [(T0 + DAY_MS, None, "fake", "")]


def test_customer_applies_to_all_latest_assignments_without_one(fleet: Fleet) -> None:
    for from_ms in (T0 + DAY_MS, T0):
        do(fleet, lambda c, at=from_ms: assign(c, ["acme"], "fake", fleet.by, customer_id="", from_ms=at))  # type: ignore[misc]
    (done,) = flip(fleet, flips.Wish("acme", "acme-inc"), provider="fake", new=True)
    assert done.start_ms == T0
    assert [row[-1] for row in assignments_of(fleet, "acme")] == ["acme-inc", "acme-inc"]
    assert read(fleet.engine, verify).breaches == []


def test_assign_before_later_assignment_tells_when_it_ends(fleet: Fleet) -> None:
    flip(fleet, flips.Wish("newco"), provider="embedded", from_ms=T0 + DAY_MS, new=True)
    (done,) = flip(fleet, flips.Wish("newco", "acme-inc"), provider="fake", new=True)
    assert (done.start_ms, done.note) == (
        T0,
        "it ends at 2026-01-02T00:00:00Z, when the later assignment to embedded as newco begins",
    )


@pytest.mark.parametrize("dry_run", [True, False])
def test_assign_away_from_wallet_names_tiers_and_topups_that_stop(fleet: Fleet, dry_run: bool) -> None:
    fleet.assign("acme", from_ms=T0)
    do(fleet, lambda c: credit.set_plan_limit(c, "team", 5, fleet.by))
    do(fleet, lambda c: credit.grant(c, "acme", 100, fleet.by, key="g", plan="team"))
    do(fleet, lambda c: tiers.set_tier(c, "pro", tiers.Change(9, 30), fleet.by))
    do(fleet, lambda c: tiers.buy(c, "acme", "pro", fleet.by))
    do(fleet, lambda c: topups.set_terms(c, "acme", TERMS, CAN, fleet.by, new=True))
    wish = flips.Wish("acme")
    (done,) = flip(fleet, wish, provider="fake", from_ms=T0 + DAY_MS, dry_run=dry_run, unchecked=True)
    assert done.problem is None and done.note == (
        "the wallet acme does not pay for an organisation from then on: its tiers end with their paid month (pro) and "
        "its automatic top-ups pause. Usage before then can still put it in debt, which `drawdown status` shows"
    )


def test_second_org_override_keeps_unspecified_fields(fleet: Fleet) -> None:
    fleet.assign("acme", from_ms=T0)
    until = T0 + DAY_MS
    do(fleet, lambda c: orgs.override(c, "acme", fleet.by, halted=False, until_ms=until))
    done = do(fleet, lambda c: orgs.override(c, "acme", fleet.by, max_concurrent=50))
    assert done.was == orgs.Override(None, False, until)
    assert done.now == orgs.Override(50, False, until)
    later = do(fleet, lambda c: orgs.override(c, "acme", fleet.by, until_ms=until + 1))
    assert later.now == orgs.Override(50, False, until + 1)
    fleet.clock.at_ms = until + 2
    fresh = do(fleet, lambda c: orgs.override(c, "acme", fleet.by, max_concurrent=3))
    assert (fresh.was, fresh.now) == (orgs.Override(), orgs.Override(3, None, None)), (
        "what ran out is not taken up again"
    )
    assert do(fleet, lambda c: orgs.end_override(c, "acme", fleet.by)).now == orgs.Override()
    with pytest.raises(UsageError, match="does not have an org override"):
        do(fleet, lambda c: orgs.override(c, "acme", fleet.by, until_ms=until + DAY_MS))


def test_many_orgs_are_halted_together_or_not_with_prior_state_reported(fleet: Fleet) -> None:
    fleet.assign("acme", "globex", from_ms=T0)
    with pytest.raises(UnknownId, match="did you mean globex"):
        do(fleet, lambda c: orgs.halt(c, ["acme", "globexx"], fleet.by))
    assert fleet.one("SELECT COUNT(*) FROM orgs WHERE operator_halt") == 0
    done = do(fleet, lambda c: orgs.halt(c, ["globex", "acme", "acme"], fleet.by))
    assert [(one.org_id, one.before, one.was_halted, one.is_halted) for one in done] == [
        ("acme", False, False, True),
        ("globex", False, False, True),
    ]
    assert all(one.before for one in do(fleet, lambda c: orgs.halt(c, ["acme"], fleet.by)))
    undone = do(fleet, lambda c: orgs.halt(c, ["acme"], fleet.by, undo=True))
    assert (undone[0].before, undone[0].was_halted) == (True, True)
    assert fleet.rows("SELECT org_id FROM orgs WHERE operator_halt") == [("globex",)]


def test_command_returns_replaced_value(fleet: Fleet) -> None:
    by = fleet.by
    assert do(fleet, lambda c: credit.set_plan_limit(c, "team", 5, by)) is None
    assert do(fleet, lambda c: credit.set_plan_limit(c, "team", 9, by)) == 5
    assert do(fleet, lambda c: cells.set_cell(c, "cell-1", "http://a:1", by, new=True)) is None
    assert do(fleet, lambda c: cells.set_cell(c, "cell-1", "http://b:1", by, new=False)) == "http://a:1"
    assert do(fleet, lambda c: providers.pause(c, "fake", by)) is None
    assert do(fleet, lambda c: providers.pause(c, "fake", by)) == (T0, "a test")


def test_removal_of_cell_with_sandboxes_is_refused(fleet: Fleet) -> None:
    do(fleet, lambda c: cells.set_cell(c, "cell-1", "http://a:1", fleet.by, new=True))
    fleet.write(
        "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES ('b', 'acme', 'cell-1', 'hibernated')"
    )
    with pytest.raises(Refused, match="1 sandbox still runs there"):
        do(fleet, lambda c: cells.remove_cell(c, "cell-1", fleet.by))
    fleet.write("UPDATE sandboxes SET state = 'stopped'")
    assert do(fleet, lambda c: cells.remove_cell(c, "cell-1", fleet.by)) == "http://a:1"
    assert read(fleet.engine, views_cells.list_cells) == []


def test_audit_actions_are_listed_by_page_and_filter(fleet: Fleet) -> None:
    fleet.assign("acme", "globex", from_ms=T0)
    do(fleet, lambda c: orgs.halt(c, ["acme"], audit.By(T0 + 5, "alice", "abuse", "http")))

    def listed(**chosen: Any) -> list[tuple[str, str, str, str]]:
        page = read(fleet.engine, lambda c: list_audit(c, AuditFilter(**chosen)))
        return [(one.actor, one.action, one.target, one.via) for one in page.actions]

    assert (
        listed(actor="alice") == listed(via="http") == listed(from_ms=T0 + 5) == [("alice", "org_halt", "acme", "http")]
    )
    assert [what for _, what, _, _ in listed(target="acme")] == ["org_halt", "org_assign"]
    everything, before, pages = listed(), 0, []
    for _ in range(len(everything) + 1):
        page = read(fleet.engine, lambda c, at=before: list_audit(c, AuditFilter(), before=at, most=2))  # type: ignore[misc]
        pages += [(one.actor, one.action, one.target, one.via) for one in page.actions]
        if page.next_before is None:
            break
        before = page.next_before
    assert pages == everything
    with pytest.raises(UnknownId, match="did you mean alice"):
        listed(actor="alcie")


def test_orgs_are_listed_by_page_in_each_order(fleet: Fleet) -> None:
    fleet.assign(*(f"org-{n}" for n in range(7)), from_ms=T0)
    for n in range(0, 6, 2):
        fleet.write(
            "UPDATE orgs SET balance_micro = :b, plan = :p WHERE org_id = :o", {"b": n % 4, "p": "x", "o": f"org-{n}"}
        )
    fleet.write(f"UPDATE orgs SET is_halted = true, halted_at = {T0} WHERE org_id IN ('org-1', 'org-5')")

    now = fleet.clock.at_ms

    def pages(sort: str, most: int) -> list[str]:
        found, after = [], START
        for _ in range(9):
            page = read(fleet.engine, lambda c: list_orgs(c, OrgFilter(), now, sort=sort, after=after, most=most))  # noqa: B023
            found += [one.org_id for one in page.orgs]
            if page.following is None:
                return found
            after = page.following
        raise AssertionError("it never ends")

    whole = {sort: pages(sort, 100) for sort in ("name", "balance", "halted", "plan", "end")}
    for sort, listed in whole.items():
        assert sorted(listed) == [f"org-{n}" for n in range(7)], sort
        assert pages(sort, 2) == pages(sort, 3) == listed, sort
    assert whole["balance"][:3] == ["org-0", "org-4", "org-2"]
    assert set(whole["halted"][:2]) == {"org-1", "org-5"}


@pytest.mark.both_databases
def test_orgs_are_listed_under_each_own_state(fleet: Fleet) -> None:
    """By the same words in `status`, and once each in a whole list, by the gravest."""
    now = fleet.clock.at_ms
    fleet.assign("runs", "empty", "broken", "both", from_ms=T0)
    fleet.assign("later", from_ms=now + DAY_MS)
    fleet.write("INSERT INTO orgs (org_id, bucket) VALUES ('new', 7)")
    for org in ("empty", "both"):
        fleet.write("UPDATE orgs SET is_halted = true, halted_at = :at WHERE org_id = :org", {"at": T0, "org": org})
    for org in ("broken", "both"):
        fleet.write("UPDATE orgs SET stopped_at_ms = :at WHERE org_id = :org", {"at": T0 + 1, "org": org})

    def listed(state: str) -> list[OrgRow]:
        return read(fleet.engine, lambda c: list_orgs(c, OrgFilter(state=state), now)).orgs

    assert {state: [one.org_id for one in listed(state)] for state in ("", *STATES)} == {
        "": ["both", "broken", "empty", "later", "new", "runs"],
        "active": ["runs"],
        "halted": ["both", "empty"],
        "stopped": ["both", "broken"],
        "scheduled": ["later"],
        "unassigned": ["new"],
    }
    since = {one.org_id: (one.state, one.since_ms) for one in listed("")}
    assert since == {
        "both": ("stopped", T0 + 1),
        "broken": ("stopped", T0 + 1),
        "empty": ("halted", T0),
        "later": ("scheduled", None),
        "new": ("unassigned", None),
        "runs": ("active", None),
    }
    whole = read(fleet.engine, lambda c: list(every_org(c, OrgFilter(), now, "name")))
    assert whole == listed("")
    standing = read(fleet.engine, lambda c: status(c, now)).standing
    assert (standing.halted, standing.unassigned) == (2, 1)
    with pytest.raises(UsageError, match="expected active, halted"):
        listed("gone")


def test_org_list_by_end_continues_after_last_org_changed(fleet: Fleet) -> None:
    now = fleet.clock.at_ms
    fleet.assign(*(f"org-{n}" for n in range(5)), from_ms=T0)
    for n in range(5):
        fleet.write("UPDATE orgs SET runs_out_ms = :at WHERE org_id = :org", {"at": now + n, "org": f"org-{n}"})
    within = OrgFilter(runs_out_by_ms=now + DAY_MS)

    def page(after: Place) -> OrgPage:
        return read(fleet.engine, lambda c: list_orgs(c, within, now, sort="end", after=after, most=2))

    first = page(START)
    fleet.write("UPDATE orgs SET runs_out_ms = NULL WHERE org_id = 'org-1'")
    assert first.following == Place("org-1", now + 1)
    second = page(first.following)
    assert [one.org_id for one in (*first.orgs, *second.orgs)] == ["org-0", "org-1", "org-2", "org-3"]


def test_org_search_treats_wildcards_as_text(fleet: Fleet) -> None:
    fleet.assign("a_b", "axb", "a%b", from_ms=T0)
    for text, names in (("a_b", ["a_b"]), ("%", ["a%b"]), ("b", ["a%b", "a_b", "axb"]), ("!", [])):
        page = read(fleet.engine, lambda c, text=text: list_orgs(c, OrgFilter(search=text), fleet.clock.at_ms))  # type: ignore[misc]
        assert [one.org_id for one in page.orgs] == names


def use(fleet: Fleet) -> None:
    """Two days, two features, a size without one, a withdrawn sample and one that is quarantined."""
    fleet.assign("acme", from_ms=T0)
    do(fleet, lambda c: credit.grant(c, "acme", 10**12, fleet.by, key="paid", plan=None))
    for n in range(4):
        fleet.sample("acme", T0 + n * WINDOW_MS, 60, 1024)
        fleet.sample("acme", T0 + DAY_MS + n * WINDOW_MS, 50, 4096)
    fleet.sample("acme", T0 + 7, 40, 77)
    fleet.sample("acme", T0 + 8, -1)
    fleet.sample("globex", T0 + 8, 60)
    wrong = fleet.sample("acme", T0 + 9, 30, 1024)
    fleet.tick(T0 + DAY_MS + 2 * WINDOW_MS + 120_000, accept_clock=True)
    do(fleet, lambda c: withdrawals.withdraw(c, [wrong], fleet.by))


def test_usage_report_adds_up_to_samples_and_sealed_quantities(fleet: Fleet) -> None:
    use(fleet)
    for by in BY:
        _adds_up(fleet, by)


def _adds_up(fleet: Fleet, by: str) -> None:
    found = read(fleet.engine, lambda c: read_usage(c, "acme", T0, T0 + 2 * DAY_MS, by))
    used = {
        feature: sum(one.used for one in found.rows if one.feature == feature)
        for feature in ("compute_1gb", "compute_4gb", "")
    }
    assert used == {"compute_1gb": 240, "compute_4gb": 200, "": 40}
    sealed = sum(one.sealed or 0 for one in found.rows)
    assert sealed == (
        0 if by in OF_SAMPLES else fleet.one("SELECT SUM(sealed_qty) FROM pushes WHERE state <> 'voided'")
    )
    if by == "day":
        assert {one.group for one in found.rows} == {"2026-01-01", "2026-01-02"}
    if by == "sandbox":
        assert {one.group for one in found.rows} == {"box"}
    if by in ("project", "subject"):
        assert {one.group for one in found.rows} == {""}, "no sample of a sandbox says one"


def test_usage_report_of_pruned_windows_shows_sealed_quantities(fleet: Fleet) -> None:
    def shown(by: str) -> UsageReport:
        return read(fleet.engine, lambda c: read_usage(c, "acme", T0, T0 + 2 * DAY_MS, by))

    use(fleet)
    fleet.tick(T0 + DAY_MS + 5 * WINDOW_MS)
    shown_before = {by: shown(by) for by in BY}
    fleet.write(f"DELETE FROM pending_usage WHERE window_ms < {T0 + 2 * WINDOW_MS}")
    fleet.write(f"UPDATE orgs SET floor_ms = {T0 + 2 * WINDOW_MS} WHERE org_id = 'acme'")
    for by, before in shown_before.items():
        after = shown(by)
        assert (before.pruned, after.pruned) == (False, True), by
        for feature in ("compute_1gb", "compute_4gb"):
            assert sum(one.used for one in after.rows if one.feature == feature) == sum(
                one.used for one in before.rows if one.feature == feature
            )


def test_csv_export_escapes_spreadsheet_formulas() -> None:
    for text in ("=1+1", "+1", "-1", "@x", "'x", "\uff1d1+1", "\uff0b1", "\uff0d1", "\uff20x"):
        out = io.StringIO()
        csv.writer(out).writerow([no_formula(text)])
        assert next(csv.reader([out.getvalue()]))[0].startswith("'")
    assert [no_formula(text) for text in ("\tx", "\rx")] == [r"\tx", r"\rx"], "told as what they are"
    assert no_formula("acme") == "acme" and no_formula("a;b-1=2 +3") == "a;b-1=2 +3"
    assert no_formula('a;=1+1;"-2; @x') == "a;'=1+1;\"'-2; '@x", "where a semicolon parts the cells"


def broken(fleet: Fleet) -> None:
    """Hosts that write other units than milliseconds."""
    fleet.assign("acme", from_ms=T0)
    do(fleet, lambda c: credit.grant(c, "acme", 10**12, fleet.by, key="paid", plan=None))
    fleet.clock.at_ms = T0 + WINDOW_MS
    rows = [("in-s", T0 // 1000), ("in-us", (T0 + 60_000) * 1000), ("negative", T0 + 1)]
    for name, ts in rows:
        fleet.write(
            "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
            "VALUES (:id, 'acme', 'box', 'c', 1024, :s, :ts, :now)",
            {"id": name, "s": -1 if name == "negative" else 60, "ts": ts, "now": fleet.clock.at_ms},
        )


def test_quarantined_samples_are_listed_fixed_and_billed_once(fleet: Fleet) -> None:
    broken(fleet)
    fleet.tick(T0 + 2 * WINDOW_MS)
    now, chosen = fleet.clock.at_ms, QuarantineFilter(org="acme")
    page = read(fleet.engine, lambda c: list_quarantined(c, chosen, now))
    assert [(one.sample_id, one.meant_ms, one.meant_as) for one in page.samples] == [
        ("in-s", T0, "s"),
        ("in-us", T0 + 60_000, "us"),
        ("negative", None, None),
    ]
    first = read(fleet.engine, lambda c: list_quarantined(c, chosen, now, most=2))
    rest = read(fleet.engine, lambda c: list_quarantined(c, chosen, now, after=first.next_after or "", most=2))
    assert [one.sample_id for one in rest.samples] == ["negative"] and rest.next_after is None
    done = do(fleet, lambda c: samples.fix(c, chosen, fleet.by))
    assert [(one.sample_id, one.new_id) for one in done if one.new_id] == [
        ("in-s", "in-s:fixed"),
        ("in-us", "in-us:fixed"),
    ]
    assert read(fleet.engine, quarantined) == {"interval_negative": 1}
    assert not any(one.new_id for one in do(fleet, lambda c: samples.fix(c, chosen, fleet.by)))
    fleet.tick(T0 + 3 * WINDOW_MS)
    assert fleet.one("SELECT SUM(sealed_qty) FROM pushes WHERE state = 'accepted'") == 120
    assert do(fleet, lambda c: samples.dismiss(c, chosen, fleet.by)) == ["negative"]
    assert read(fleet.engine, quarantined) == {}
    do(fleet, lambda c: samples.undo_dismiss(c, ["negative"], fleet.by))
    assert read(fleet.engine, quarantined) == {"interval_negative": 1}
    with pytest.raises(Refused, match="is not dismissed"):
        do(fleet, lambda c: samples.undo_dismiss(c, ["in-s"], fleet.by))
    assert read(fleet.engine, verify).breaches == []


def test_quarantined_sample_with_existing_copy_is_not_fixed(fleet: Fleet) -> None:
    broken(fleet)
    fleet.sample("acme", T0, 60, sample_id="entered-by-hand")
    done = {one.sample_id: one for one in do(fleet, lambda c: samples.fix(c, QuarantineFilter(org="acme"), fleet.by))}
    assert done["in-s"].why_not == "its sandbox already has a sample of that time: entered-by-hand"
    assert done["in-us"].new_id is not None
    assert "interval_negative" in (done["negative"].why_not or "")
    wrong = do(fleet, lambda c: samples.fix(c, QuarantineFilter(ids=("in-s",)), fleet.by, unit="ns"))
    assert "before the year 2000" in (wrong[0].why_not or "")


def test_usage_waiting_at_first_assignment_is_reported_before_any_tick(fleet: Fleet) -> None:
    fleet.sample("acme", T0 + 1)
    fleet.sample("acme", T0 + WINDOW_MS + 1)
    fleet.sample("acme", T0 + 2, memory_mb=77)
    (done,) = do(fleet, lambda c: assign(c, ["acme"], "embedded", fleet.by, from_ms=T0 + WINDOW_MS))
    assert (done.waited.resolved_s, done.waited.before_start_s) == (60, 60)
    (again,) = do(fleet, lambda c: assign(c, ["acme"], "none", fleet.by, from_ms=T0 + 2 * WINDOW_MS))
    assert (again.waited.resolved_s, again.waited.before_start_s) == (0, 60), "what embedded bills waits for nobody"


def test_push_accepted_in_millisecond_of_read_is_not_subtracted_twice(fleet: Fleet) -> None:
    """A clock that stands still, as with --at and in the demo."""
    fleet.assign("acme", from_ms=T0)
    do(fleet, lambda c: credit.grant(c, "acme", 10_000, fleet.by, key="paid", plan=None))
    fleet.sample("acme", T0 + 1, 60)
    fleet.tick_windows(2)
    left = read(fleet.engine, lambda c: accounts.read_wallets(c, ["acme"])["acme"].balance_micro)
    assert left == 10_000 - 60 * 100
    shown = read(fleet.engine, lambda c: org_status(c, "acme", fleet.clock.at_ms)).credit
    assert shown is not None
    assert (shown.unaccepted_micro, shown.effective_micro) == (0, left)
    assert json.dumps(asdict(shown))
