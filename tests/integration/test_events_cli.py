"""Usage events at the command line: mapped, listed, shown, withdrawn, and seen in what an organisation used."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.cli.main import run
from drawdown.schema.database import read, write
from drawdown.schema.errors import UsageError
from drawdown.schema.units import MAX_KEY_TYPES, MAX_MEMORY_MB, MAX_ORG_TYPES, WINDOW_MS
from drawdown.worker.features import actions as features
from drawdown.worker.sources.events.store import sample_id_of
from drawdown.worker.status.status import status
from drawdown.worker.status.system_state import Status
from drawdown.worker.usage.intake import MOST_LISTED, NEAR_TYPES, ShortOfTypes, list_events
from tests.integration.telling_events import RENDER, clean, event, mapped, statuses, told
from tests.world import T0, Fleet

NOW = T0 + 2 * WINDOW_MS


class Shell:
    """Runs commands against a fleet's database."""

    def __init__(self, fleet: Fleet, url: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.fleet, self._url, self._capsys = fleet, url, capsys

    def __call__(self, words: str, status: int = 0) -> str:
        code = run(["--database-url", self._url, "--at", str(self.fleet.clock.at_ms), *words.split()])
        said = self._capsys.readouterr()
        assert code == status, said.out + said.err
        return said.out + said.err

    def json(self, words: str) -> Any:
        code = run(["--database-url", self._url, "--at", str(self.fleet.clock.at_ms), "--json", *words.split()])
        said = self._capsys.readouterr()
        assert code == 0, said.err
        return json.loads(said.out)


@pytest.fixture
def shell(engine: sa.Engine, database_url: str, capsys: pytest.CaptureFixture[str]) -> Shell:
    return begun(engine, database_url, capsys)


def begun(engine: sa.Engine, database_url: str, capsys: pytest.CaptureFixture[str]) -> Shell:
    """One for a fleet of acme's."""
    fleet = Fleet(engine)
    fleet.assign("acme", from_ms=T0)
    fleet.clock.at_ms = T0 + 10
    return Shell(fleet, database_url, capsys)


def test_map_event_before_first_event_applies_to_all_usage(shell: Shell) -> None:
    """Whenever it is used, also in windows that are sealed by then: nothing of it had no feature there."""
    shell.fleet.clock.at_ms = T0 + 2 * WINDOW_MS
    shell.fleet.tick(T0 + 2 * WINDOW_MS)
    said = shell("feature map-event page.render render")
    assert "mapped page.render to render for all its usage; before: no feature" in said
    assert "earlier usage stays" not in said
    actions = shell.fleet.one("SELECT COUNT(*) FROM operator_actions")
    for more in ("", " --unit units", " --yes", " --from 1970-01-01"):
        again = shell(f"feature map-event page.render render{more}")
        assert again == "page.render is already mapped to render, for all its usage; nothing was changed\n"
    assert shell.json("feature map-event page.render render")["mapped"]["again"] is True
    assert "1,024 MB: already mapped to compute_1gb, for all its usage; nothing was changed" in shell(
        "feature map compute_1gb --memory-mb 1024"
    )
    assert shell.fleet.one("SELECT COUNT(*) FROM operator_actions") == actions
    assert (
        statuses(told(shell.fleet, event("a", 3), event("b", 4, occurred_ms=T0 + WINDOW_MS)))
        == [("accepted", None)] * 2
    )
    shell.fleet.rate("render", 2)
    shell.fleet.tick(T0 + 3 * WINDOW_MS)
    assert [push[1:] for push in shell.fleet.pushes()] == [
        (T0, "render", 0, 3, "accepted"),
        (T0 + WINDOW_MS, "render", 0, 4, "accepted"),
    ]
    clean(shell.fleet)


def test_map_event_after_lost_history_applies_from_next_window(shell: Shell) -> None:
    shell.fleet.write(
        "INSERT INTO losses (number, from_ms, until_ms, at_ms, seal_id, found, actor, reason) "
        f"VALUES (1, 0, {T0}, {T0}, 0, 'x', 'test', 'a test')"
    )
    assert "mapped page.render to render from 2026-01-01T00:05:00Z;" in shell("feature map-event page.render render")


def test_map_event_of_used_type_applies_from_next_window(shell: Shell) -> None:
    answer = told(shell.fleet, event("a", 3), event("b", 4, occurred_ms=T0 + 11))[0]
    assert "`drawdown feature map-event page.render FEATURE --from 2026-01-01T00:00:00Z`" in str(answer.message)
    said = shell("feature map-event page.render render --unit units")
    assert "mapped page.render to render from 2026-01-01T00:05:00Z; before: no feature" in said
    assert "earlier usage stays without a feature. To bill it, too, pass an earlier window" in said
    shell.fleet.clock.at_ms = T0 + WINDOW_MS
    told(shell.fleet, event("c", 5, occurred_ms=T0 + WINDOW_MS))
    shell.fleet.rate("render", 2)
    shell.fleet.tick(T0 + 3 * WINDOW_MS)
    assert shell.fleet.pushes() == [("acme", T0 + WINDOW_MS, "render", 0, 5, "accepted")]
    listed = shell("feature list")
    assert "page.render" in listed
    assert str(16_777_217) not in listed.replace(",", "")
    found = shell.json("feature list")
    assert found["event_types"] == [
        {"event_type": RENDER, "feature": "render", "unit": "units", "start_ms": T0 + WINDOW_MS, "end_ms": None,
         "value": None}
    ]  # fmt: skip
    assert found["events_without_feature"] == [
        {"event_type": RENDER, "units": 7, "events": 2, "orgs": 1, "metric": None}
    ]
    assert found["without_feature"] == []
    assert all(row["hi"] <= 16_777_216 for row in found["mapping"])
    assert "7 units of page.render" in shell("status acme", 75)
    assert "no provider bills 7 units of usage yet (no_mapping)" in shell("status", 75)
    assert "units of events pending (no_mapping)" in shell("tick", 0)
    said = shell(f"feature map-event page.render render --from {T0} --dry-run")
    assert "mapped page.render" in said
    assert "7 units in 1 window without a feature" in said
    shell(f"feature map-event page.render render --from {T0} --yes --reason late")
    shell.fleet.tick_windows(1)
    assert [row[4] for row in shell.fleet.pushes()] == [7, 5]
    said = shell("feature end render")
    assert "for 1 size or event type: the event type page.render" in said
    clean(shell.fleet)


def test_usage_command_shows_event_units(shell: Shell) -> None:
    mapped(shell.fleet)
    told(shell.fleet, event("a", 3), event("b", 4, event_type="page.view"))
    shell.fleet.sample("acme", T0 + 1, 60)
    shell.fleet.sample("acme", T0 + 1, 50, memory_mb=77)
    shell.fleet.tick(NOW)
    found = shell.json(f"usage acme --from {T0} --to {NOW}")
    rows = {(row["feature"], row["unit"]): (row["used"], row["sealed"]) for row in found["usage"]["rows"]}
    assert rows == {
        ("compute_1gb", "s"): (60, 60), ("render", "units"): (3, 3), ("", "s"): (50, 0), ("", "units"): (4, 0),
    }  # fmt: skip
    assert found["used"] == {"s": 110, "units": 7}
    boxes = {row["group"] for row in shell.json(f"usage acme --from {T0} --to {NOW} --by sandbox")["usage"]["rows"]}
    assert boxes == {"box", "event:page.render", "event:page.view"}
    key = f"push show usage:acme:{T0}:render"
    assert shell.json(key)["samples_in_force_qty"] == 3
    assert [one["event_type"] for one in shell.json(key)["samples"]] == ["page.render"]
    assert "page.render" in shell(key) and "16777217" not in shell(key), "a meter is no size"
    listed = f"sample list --org acme --from {T0} --to {NOW}"
    assert "page.view" in shell(listed) and "16777" not in shell(listed) and "1024" in shell(listed)
    types = {one["memory_mb"]: one["event_type"] for one in shell.json(listed)["samples"]}
    assert {size: kind for size, kind in types.items() if len(size) < 8} == {"1024": None, "77": None}


def test_org_assign_dry_run_shows_seconds_and_units_separately(shell: Shell) -> None:
    fleet = shell.fleet
    mapped(fleet)
    told(fleet, event("a", 3, org_id="late"), event("b", 9, org_id="late", occurred_ms=T0 + WINDOW_MS))
    fleet.sample("late", T0 + 1, 60)
    fleet.tick(T0 + 3 * WINDOW_MS)
    line = f"org assign late --provider embedded --dry-run --from {T0 + WINDOW_MS}"
    (flip,) = shell.json(line)["assigned"]
    names = ("resolved_s", "resolved_units", "before_start_s", "before_start_units")
    assert tuple(flip[name] for name in names) == (0, 9, 60, 3)
    said = shell(line)
    assert "0 s, 9 units" in said and "60 s, 3 units" in said


def test_bidirectional_marks_in_ids_are_stored_and_shown_as_escapes(shell: Shell) -> None:
    """An id is opaque, an organisation's and an event's alike."""
    mapped(shell.fleet)
    marked = "e\u202e1"
    assert statuses(told(shell.fleet, event(marked, 3), event("e1", 4))) == [("accepted", None)] * 2
    line = f"event list --org acme --from {T0} --to {NOW}"
    said = shell(line)
    assert "\u202e" not in said and r"e\u202e1" in said
    assert {one["event_id"] for one in shell.json(line)["events"]} == {
        marked,
        "e1",
    }


def test_event_list_is_paged_and_event_show_is_complete(shell: Shell) -> None:
    mapped(shell.fleet)
    told(shell.fleet, *(event(f"e-{number}", number, occurred_ms=T0 + number // 2) for number in range(7)))
    told(shell.fleet, event("whole", 9, occurred_ms=T0 + 9, subject="u-1", project="site", properties={"a": "b"}))
    shell.fleet.sample("acme", T0 + 1)
    seen: list[str] = []
    words = f"--from {T0}"
    same = [shell.json(f"event list --org acme {words} --to {T0 + 100} --most 3")]
    for _ in range(2):  # the same --from goes on
        after = same[-1]["next"]
        same.append(shell.json(f"event list --org acme {words} --to {T0 + 100} --most 3 --after {after}"))
    assert len({row["event_id"] for page in same for row in page["events"]}) == 8
    for _ in range(9):
        page = shell.json(f"event list --org acme {words} --to {T0 + 100} --most 3")
        seen += [row["event_id"] for row in page["events"]]
        assert page["events"] == sorted(page["events"], key=lambda row: (row["at_ms"], row["sample_id"]))
        if page["next"] is None:
            break
        words = f"--from {T0} --after {page['next']}"
    assert sorted(seen) == sorted({*(f"e-{number}" for number in range(7)), "whole"})
    plain = shell(f"event list --org acme --from {T0} --most 2")
    assert "more rows exist: --after event:" in plain
    shown = shell.json("event show app whole")
    assert shown == {
        "source": "app", "event_id": "whole", "event_type": RENDER, "org_id": "acme", "quantity": 9, "at_ms": T0 + 9,
        "subject": "u-1", "project": "site", "plan": None, "properties": {"a": "b"}, "ingested_ms": T0 + 10,
        "sample_id": sample_id_of("app", "whole"), "withdrawn": False, "withdrawn_reason": None,
        "feature": "render",
    }  # fmt: skip
    assert "u-1" in shell("event show app whole")
    with pytest.raises(UsageError, match="10,000"):
        write(shell.fleet.engine, lambda c: list_events(c, "acme", T0, NOW, most=MOST_LISTED + 1))


def test_event_withdrawn_by_key_or_sample_is_not_billed(shell: Shell) -> None:
    mapped(shell.fleet)
    told(shell.fleet, event("a", 3), event("b", 4), event("c", 5))
    assert "nothing was changed" in shell("event withdraw app a --dry-run")
    said = shell("event withdraw app a a --reason twice")
    assert "1 withdrawn. The next tick refunds" in said
    shell(f"sample withdraw {sample_id_of('app', 'b')} --reason twice")
    listed = {
        row["event_id"]: row["withdrawn_reason"] for row in shell.json(f"event list --org acme --from {T0}")["events"]
    }
    assert listed == {"a": "twice", "b": "twice", "c": None}
    shell.fleet.tick(NOW)
    assert [row[4] for row in shell.fleet.pushes()] == [5]


def test_feature_end_before_start_leaves_current_feature(shell: Shell) -> None:
    """The one of now is not what anybody asked to end, and goes on; of sizes, too."""
    later = f"--from {T0 + 10 * WINDOW_MS}"
    shell("feature map-event mail.sent mail_a")
    shell(f"feature map-event mail.sent mail_b {later} --new")
    shell(f"feature map compute_big --memory-mb 1024 {later} --new")
    for name in ("mail_b", "compute_big"):
        said = shell(f"feature end {name}")
        assert f"{name} ends at 2026-01-01T00:50:00Z, for 1 size or event type" in said and "Map the sizes" in said, (
            said
        )
    found = shell.json("feature list")
    kept = [(one["feature"], one["start_ms"], one["end_ms"]) for one in found["event_types"]]
    assert kept == [("mail_a", 0, T0 + 10 * WINDOW_MS)]
    assert "compute_big" not in {one["feature"] for one in found["mapping"]}
    assert "; unchanged" in shell("feature end mail_b") and "Map the sizes" in shell("feature end mail_b")
    assert "cannot end the feature mail_b: " in shell("feature end mail_b --from 2026-02-01", 1)
    shell(f"feature map-event mail.sent mail_a {later}")
    assert [one["end_ms"] for one in shell.json("feature list")["event_types"]] == [None]


def test_feature_end_names_each_selector_also_when_repeated(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "MOST_FACTS", 2)
    for selector in ("--up-to 3000", "--rest", "--memory-mb 9", f"--memory-mb 8 --from {T0 + 10 * WINDOW_MS}"):
        shell(f"feature map big {selector} --new")
    lines = [
        "big ends at 2026-01-01T00:05:00Z, for 3 sizes or event types: up to 3000 MB, all larger sizes and 1 more",
        "big ends at 2026-01-01T00:50:00Z, for 1 size or event type: exact 8 MB",
    ]
    for again, dry_run in ((False, True), (False, False), (True, True), (True, False)):
        said = shell("feature end big" + " --dry-run" * dry_run)
        assert all(line in said for line in lines) and ("; unchanged" in said) is again, said
    shell.fleet.tick(T0 + 20 * WINDOW_MS)
    said = shell(f"feature end compute_1gb --from {T0}", 1)
    assert "end the feature compute_1gb: 1024 MB is mapped to it in sealed windows from 2026-01-01T00:00:00Z" in said


def test_feature_end_with_later_mapping_ends_both(shell: Shell) -> None:
    shell("feature map-event page.render render")
    shell(f"feature map-event page.render render --from {T0 + 10 * WINDOW_MS}")
    said = shell(f"feature end render --from {T0 + 2 * WINDOW_MS}")
    assert "ends at 2026-01-01T00:10:00Z, for 1" in said and "ends at 2026-01-01T00:50:00Z, for 1" in said, said
    assert [one["end_ms"] for one in shell.json("feature list")["event_types"]] == [T0 + 2 * WINDOW_MS]
    assert "from 2026-01-01T00:05:00Z; nothing was changed" not in shell("feature map-event page.render render")


def _brought(fleet: Fleet, whose: str, above: int, count: int) -> None:
    fleet.write(
        f"INSERT INTO event_types (event_type, meter, first_seen_ms, {whose}) WITH RECURSIVE n (i) AS (SELECT 1 UNION "
        f"ALL SELECT i + 1 FROM n WHERE i < {count}) SELECT 't' || ({above} + i), {MAX_MEMORY_MB + above} + i, 0, "
        "'site' FROM n"
    )


def _status(fleet: Fleet) -> Status:
    return read(fleet.engine, lambda c: status(c, fleet.clock.at_ms))


@pytest.mark.parametrize("whose", ["key_name", "source", "org_id"])
def test_event_type_limit_reached_is_reported_by_status_and_doctor(shell: Shell, whose: str) -> None:
    most = MAX_ORG_TYPES if whose == "org_id" else MAX_KEY_TYPES
    shell.fleet.tick(T0 + 2 * WINDOW_MS)
    _brought(shell.fleet, whose, 0, most - 1)
    assert _status(shell.fleet).standing.short_of_types == []
    assert "event types, its limit" not in shell("doctor", status=1)
    _brought(shell.fleet, whose, most - 1, 1)
    kind = {"key_name": "key", "source": "source", "org_id": "organisation"}[whose]
    found = _status(shell.fleet)
    assert found.standing.short_of_types == [ShortOfTypes(kind, "site", most)]
    said = f"the {kind} site added {most:,} event types"
    assert (found.headline.verdict, said in found.headline.reason) == ("behind", True)
    assert said in " ".join(shell("status", status=75).split())
    assert said in " ".join(shell("doctor", status=1).split())


def test_database_near_event_type_limit_is_reported(shell: Shell) -> None:
    for at in range(9):
        _brought(shell.fleet, "org_id", at * 1_000, 1_000)
    assert ShortOfTypes("database", "", NEAR_TYPES) in _status(shell.fleet).standing.short_of_types
