"""Each version leaves what was there as it is, and can be gone back from for as long as nothing would be lost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import pytest
import sqlalchemy as sa

from tests.migration.past import Past, Rows
from tests.world import T0

pytestmark = pytest.mark.xdist_group("migration")


@dataclass(frozen=True)
class Step:
    """Up and down again, twice. `told` before; `kept`: queries that always find the same; then, of the higher version:
    what is `found` and has an `index`, what `works` and what is `refused`. `stays`: what is said to a lower version
    while that works, and what ends it. `last`: at the end, what cannot be gone back from, and why."""

    lower: str
    higher: str
    told: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    found: dict[str, Rows] = field(default_factory=dict)
    works: tuple[str, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)
    indexes: dict[str, set[str]] = field(default_factory=dict)
    stays: tuple[str, str] | None = None
    back: dict[str, Rows] = field(default_factory=dict)
    last: tuple[tuple[str, ...], str] | None = None
    times: int = 2


ORDER: Final = (
    "INSERT INTO orders (kind, asked, state, at_ms, via, actor, reason) VALUES ('{}', '', 'waiting', 1, 'c', 'a', 'r')"
)
ORDERS_KEPT: Final = dict.fromkeys((ORDER.format("other"), "DELETE FROM orders", "UPDATE orders SET reason = 'o'"), "")
KEY: Final = "INSERT INTO api_keys (key_sha256, name, scopes, created_ms, actor, reason{}) VALUES "
USE: Final = (
    "INSERT INTO guard_uses (use_key, org_id, metric, number, month_ms, metric_number, asked, amount, state, decision, "
    "would, rule, enforced, degraded, charged_micro, forgone_micro, fingerprint, at_ms, actor, reason) VALUES "
    "('{}', 'acme', 'look', 1, 0, 1, 3, 3, 'used', 'allow', 'allow', 'r', FALSE, {}, 0, 0, 'f', 5, 'ann', 'r')"
)
SESSION: Final = (
    "INSERT INTO my_sessions (session_sha256, link_sha256, org_id, person, began_ms) "
    f"VALUES ('{{}}', '{'b' * 64}', 'acme', NULL, 1)"
)
SPENDER: Final = (
    "INSERT INTO high_spenders (place, customer_id, used_micro, from_ms, at_ms) VALUES ({}, 'acme', 5, 0, 1)"
)
STEPS: Final = (
    Step(
        "0035",
        "0036",
        works=(KEY.format("") + f"('{'a' * 64}', 'old', 'guard', 0, 'ann', 'new')",),
        back={"SELECT name, org_id FROM api_keys": [("old", None)]},
        last=((KEY.format(", cell_id") + f"('{'b' * 64}', 'host', 'guard', 0, 'ann', 'new', 'cell-1')",), ""),
        times=1,
    ),
    Step(
        "0036",
        "0037",
        told=("INSERT INTO cells (cell_id, url) VALUES ('cell-1', 'http://cell-1')",),
        kept=("SELECT url FROM cells", "SELECT name FROM api_keys ORDER BY 1"),
        works=("INSERT INTO vendor_imports VALUES ('a file', 1, 5, 'ann', 'r')",),
        refused={"DELETE FROM vendor_imports": "append-only"},
    ),
    Step(
        "0038",
        "0042",
        told=(USE.format("lit", "FALSE"), USE.format("dark", "TRUE")),
        kept=("SELECT use_key, degraded FROM guard_uses ORDER BY 1",),
        found={"SELECT use_key FROM guard_uses WHERE degraded AND metric = 'look'": [("dark",)]},
        works=("INSERT INTO checks VALUES ('guard', 5, 2, 1)",),
    ),
    Step(
        "0042",
        "0044",
        kept=("SELECT url FROM cells",),
        works=(
            "INSERT INTO console_users (name, role, created_ms, actor, reason) VALUES ('ann', 'viewer', 1, 'a', 'r')",
        ),
        refused={
            "DELETE FROM console_users": "person of the console",
            "UPDATE console_users SET name = 'bob'": "person of the console|one person's",
        },
    ),
    Step(
        "0045",
        "0046",
        told=(
            "INSERT INTO buckets (id, watermark_ms, cursor, sweep_began_ms, sweep_next_ms) VALUES (7, 0, 0, 0, 0)",
            "INSERT INTO orgs (org_id, bucket, balance_micro, watch_due_ms) VALUES ('acme', 7, 7, 9)",
            f"INSERT INTO console_sessions VALUES ('{'c' * 64}', 'ann', 1, 1)",
        ),
        kept=("SELECT org_id, bucket, billing_provider, balance_micro, watch_due_ms FROM orgs",),
        found={"SELECT runs_out_ms FROM orgs": [(None,)]},
        works=("UPDATE orgs SET runs_out_ms = 5",),
    ),
    Step(
        "0046",
        "0049",
        kept=("SELECT name FROM console_sessions",),
        works=(SESSION.format("a" * 64), "UPDATE my_sessions SET ended_ms = 2"),
        refused=dict.fromkeys(
            (
                SESSION.format("d" * 64),
                "UPDATE my_sessions SET ended_ms = 2",
                "UPDATE my_sessions SET org_id = 'wayne'",
            ),
            "",
        ),
    ),
    Step(
        "0049",
        "0051",
        told=("INSERT INTO ledger_accounts (account_id, balance_micro) VALUES ('wallet:acme', -5)",),
        kept=("SELECT account_id, balance_micro FROM ledger_accounts",),
        works=(SPENDER.format(1),),
        refused={SPENDER.format(0): "high_spenders_sane"},
    ),
    Step(
        "0051",
        "0052",
        told=(
            "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES ('box', 'acme', 'cell-1', 'running')",
        ),
        kept=("SELECT cell_id FROM sandboxes",),
        indexes={
            "pushes": {"pushes_for_people"},
            "reservations": {"reservations_by_accepted"},
            "sandboxes": {"sandboxes_running"},
        },
    ),
    Step(
        "0052",
        "0054",
        told=(
            "INSERT INTO event_types (event_type, meter, first_seen_ms) VALUES ('order', 16777217, 1)",
            "INSERT INTO usage_events (sample_id, source, event_id, event_type, org_id, quantity, ts, properties, "
            "ingested_ms) VALUES ('s', 'app', 'e', 'order', 'acme', 1, 5, '{}', 7)",
        ),
        kept=("SELECT ingested_ms FROM usage_events",),
        works=(
            "INSERT INTO proofs (at_ms, took_ms, breaches, by_invariant, checked, open, newest_action, actor, reason) "
            "VALUES (1, 2, 0, '', '', '', '', 'a', 'r')",
        ),
        refused=dict.fromkeys(("DELETE FROM proofs", "UPDATE proofs SET breaches = 9"), "stays on record as it was"),
    ),
    Step(
        "0054",
        "0055",
        told=(
            "INSERT INTO replays (scope, from_ms, to_ms, next_ms, worker, started_ms, lease_ms, actor, reason) "
            "VALUES ('{}', 0, 300000, 0, 'w', 1, 2, 'a', 'r')",
        ),
        found={"SELECT order_id FROM replays": [(None,)]},
        works=(ORDER.format("replay"),),
        refused={one: "" for one in ORDERS_KEPT if "other" not in one},
        stays=("an order waits", "UPDATE orders SET state = 'cancelled', ended_ms = 2"),
    ),
    Step(
        "0056",
        "0057",
        told=("INSERT INTO halts (org_id, cell_id, halted_at, due_at_ms) VALUES ('acme', 'cell-1', 7, 7)",),
        kept=("SELECT halted_at FROM halts",),
        indexes={"halts": {"halts_by_time"}},
    ),
    Step(
        "0057",
        "0058",
        told=(ORDER.format("replay"),),
        refused=ORDERS_KEPT,
        last=((ORDER.format("assign"),), "would forget"),
    ),
    Step(
        "0058",
        "0059",
        works=tuple(
            f"INSERT INTO orgs (org_id, projection_due_ms, read_by_ms) VALUES ('{org}', {due}, {turn})"
            for org, due, turn in (
                ("asked", "5", "NULL"), ("far", "NULL", "9"), ("both", "5", "9"), ("none", "NULL", "NULL"),
            )
        ),
        back={
            "SELECT org_id, projection_due_ms, projection_asks FROM orgs WHERE org_id <> 'acme' ORDER BY org_id": [
                ("asked", 5, 0), ("both", 5, 0), ("far", 9, 1), ("none", None, 0),
            ]
        },
        times=1,
    ),
    Step("0060", "0066", indexes={"orders": {"orders_failed"}, "pushes": {"pushes_unsent"}}),
    Step("0072", "0073", refused=ORDERS_KEPT, last=((ORDER.format("topup"), ORDER.format("correct")), "would forget")),
)  # fmt: skip


def test_what_comes_beside_what_there_was_may_go_again_while_nothing_is_lost(past: Past) -> None:
    for step in STEPS:
        past.up(step.lower)
        past.say(*step.told)
        kept = past.found(step.kept)
        for _ in range(step.times):
            past.up(step.higher)
            of_it = f"{step.lower} to {step.higher}"
            assert past.found({**kept, **step.found}) == {**kept, **step.found}, of_it
            assert all(those <= past.indexes(table) for table, those in step.indexes.items()), of_it
            past.say(*step.works)
            assert past.wrongly_taken(step.refused) == {}, of_it
            if step.stays is not None:
                with pytest.raises(NotImplementedError, match=step.stays[0]):
                    past.down(step.lower)
                past.say(step.stays[1])
            past.down(step.lower)
            assert past.found({**kept, **step.back}) == {**kept, **step.back}, of_it
            assert not any(those & past.indexes(table) for table, those in step.indexes.items()), of_it
        if step.last is not None:
            past.up(step.higher)
            past.say(*step.last[0])
            with pytest.raises(NotImplementedError, match=step.last[1]):
                past.down(step.lower)
    past.up()
    assert "refused_attempts" in {one["name"] for one in sa.inspect(past.engine).get_columns("pushes")}
    assert past.indexes("orders") == {"orders_failed", "orders_open"}


SIZES: Final = (
    "INSERT INTO buckets (id, watermark_ms, cursor, sweep_began_ms, sweep_next_ms) VALUES (7, 0, 0, 0, 0)",
    "INSERT INTO orgs (org_id, bucket, billing_provider) VALUES ('acme', 7, 'embedded')",
    "INSERT INTO assignments (org_id, start_ms, provider, customer_id, at_ms, actor, reason) "
    "VALUES ('acme', 0, 'embedded', 'acme', 0, 'a', 'r')",
    "INSERT INTO mappings (kind, memory_mb, feature, unit, start_ms, at_ms, actor, reason) "
    f"VALUES ('exact', 1024, 'one', 's', 0, 0, 'a', 'r'), ('up_to', NULL, 'rest', 'mb_s', {T0}, 0, 'a', 'r')",
    "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) VALUES "
    + ", ".join(
        f"('{name}', 'acme', 'box', 'cell-1', {size}, {seconds}, {T0}, {T0})"
        for name, size, seconds in (
            ("good", 1024, 86_400), ("long", 1024, 86_401), ("large", 16_777_217, 60), ("gone", 1024, 1),
        )
    ),
    f"UPDATE buckets SET watermark_ms = {T0 + 300_000}",
    f"UPDATE orgs SET floor_ms = {T0 + 300_000}",
    "DELETE FROM usage_samples WHERE id = 'gone'",
)  # fmt: skip
KEPT: Final = (
    "SELECT arrival, id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at, problem "
    "FROM usage_samples WHERE id <> 'event:1' ORDER BY id"
)
PROBLEM: Final = "SELECT problem FROM usage_samples WHERE id = 'event:1'"
EVENT_SAMPLE: Final = (
    "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
    f"VALUES ('event:1', 'acme', 'event:page.render', 'events', 16777217, 1000000000000, {T0}, {T0})"
)
OF_EVENT: Final = "INSERT INTO mappings (kind, memory_mb, feature, unit, start_ms, at_ms, actor, reason) VALUES "
REFUSED: Final = {
    f"{OF_EVENT} ('exact', 16777217, 'x', 's', 0, 0, 'a', 'r')": "mappings_meter",
    f"{OF_EVENT} ('exact', 16777216, 'x', 'units', 0, 0, 'a', 'r')": "mappings_meter",
    f"{OF_EVENT} ('up_to', 16777217, 'x', 'units', 0, 0, 'a', 'r')": "mappings_meter",
    f"{OF_EVENT} ('up_to', NULL, 'x', 'units', 0, 0, 'a', 'r')": "mappings_meter",
    f"{OF_EVENT} ('exact', 1, 'x', 'pieces', 0, 0, 'a', 'r')": "mappings_unit",
    "UPDATE mappings SET feature = 'x'": "append-only",
    "UPDATE usage_samples SET interval_s = 1": "S7",
    "INSERT INTO event_types VALUES ('x', 16777216, 0)": "event_types_meters",
    "INSERT INTO event_types VALUES ('x', 16787217, 0)": "event_types_meters",
}
MAPPED: Final = (
    "SELECT mapping_id, kind, memory_mb, feature, unit, start_ms, at_ms, actor, reason FROM mappings ORDER BY 1"
)
HUNG_ON: Final = {
    "postgresql": "SELECT tgname::text FROM pg_trigger WHERE tgrelid IN ('usage_samples'::regclass, "
    "'mappings'::regclass) UNION ALL SELECT indexname FROM pg_indexes WHERE tablename IN ('usage_samples', 'mappings')",
    "sqlite": "SELECT name FROM sqlite_master WHERE type IN ('index', 'trigger') "
    "AND tbl_name IN ('usage_samples', 'mappings')",
}


def test_samples_and_mappings_of_0033_may_speak_of_meters_until_an_event_type_is_known(past: Past) -> None:
    past.up("0033")
    past.say(*SIZES)
    before, hung = past.found((KEPT, MAPPED)), {*past.rows(HUNG_ON[past.kind])}
    assert [row[-1] for row in before[KEPT]] == [None, "memory_out_of_bounds", "interval_over_a_day"]
    past.up("0034")
    assert past.found(before) == before
    assert {*past.rows(HUNG_ON[past.kind])} == hung | {("events_go_with_samples",), ("mappings_by_size",)}
    past.say(EVENT_SAMPLE)
    assert past.rows(PROBLEM) == [(None,)]
    if past.kind == "sqlite":
        arrival = past.rows("SELECT arrival FROM usage_samples WHERE id = 'event:1'")
        assert arrival == [(5,)], "no number is given again"
    assert past.wrongly_taken(REFUSED) == {}
    past.down("0033")
    assert {*past.rows(HUNG_ON[past.kind])} == hung and past.found(before) == before
    assert past.rows(PROBLEM) == [("memory_out_of_bounds",)]
    past.up("0034")
    past.say("INSERT INTO event_types VALUES ('page.render', 16777217, 0)")
    with pytest.raises(NotImplementedError, match="backup"):
        past.down("0033")


@pytest.mark.parametrize("past", ["postgresql"], indirect=True)
def test_what_a_host_said_of_a_meter_before_0074_stays_and_what_it_says_since_is_kept_apart(past: Past) -> None:
    row = "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) VALUES "
    host = "a_host_of_0073"

    def told(name: str, *, by_host: bool = True) -> None:
        text = f"{row} ('{name}', 'acme', 'box', 'events', 16777217, 60, {T0}, {T0})"
        past.say(*(f"SET ROLE {host}", text, "RESET ROLE") if by_host else (text,))

    past.up("0073")
    past.say(f"CREATE ROLE {host}", f"GRANT SELECT, INSERT ON usage_samples TO {host}")
    told("before")
    past.up("0074")
    told("since")
    told("own", by_host=False)
    past.down("0073")
    told("again")
    assert dict(past.rows("SELECT id, cell_id FROM usage_samples")) == {
        "again": "events", "before": "events", "own": "events", "since": "a host, of events",
    }  # fmt: skip
    past.up()
    past.say(f"DROP OWNED BY {host}", f"DROP ROLE {host}")
