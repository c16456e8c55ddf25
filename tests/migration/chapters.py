"""What a database was told at each version, and what the program of today has to find of it, and to refuse."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from drawdown.worker.sources.events.keys import sample_id_of
from tests.migration.past import Past, Rows
from tests.world import T0

WAIT_MS: Final = 720_000


@dataclass(frozen=True)
class Chapter:
    """`kept`: queries that find at the end what they found then. `later`: what may be said at the end, before what is
    `refused` there: each statement, and a part of why."""

    version: str
    told: tuple[str, ...]
    kept: tuple[str, ...] = ()
    found: dict[str, Rows] = field(default_factory=dict)
    later: tuple[str, ...] = ()
    refused: dict[str, str] = field(default_factory=dict)
    refused_then: dict[str, str] = field(default_factory=dict)


PUSHES: Final = Chapter(
    "0001",
    (
        "INSERT INTO buckets (id, watermark_ms, cursor, sweep_began_ms, sweep_next_ms) VALUES (7, 0, 0, 0, 0)",
        "INSERT INTO orgs (org_id, bucket, billing_provider) VALUES ('acme', 7, 'embedded')",
        "INSERT INTO assignments (org_id, start_ms, provider, customer_id, at_ms, actor, reason) "
        "VALUES ('acme', 0, 'embedded', 'acme', 0, 'a', 'r')",
        *(
            "INSERT INTO pushes (window_ms, org_id, feature, revision, provider, customer_id, sealed_qty, sent_qty, "
            "key, sealed_at_ms, seal_id, state, due_at_ms, attempts) VALUES "
            f"({T0}, 'acme', 'compute', {number}, 'embedded', 'acme', 60, 60, 'k{number}', 0, 1, '{state}', 0, 1)"
            for number, state in enumerate(("accepted", "due", "in_doubt", "rejected"))
        ),
        f"INSERT INTO voids VALUES ({T0}, 'acme', 'compute', 3, 0, 'rejected', 'no rate', 'a', 'r')",
        f"UPDATE pushes SET state = 'voided' WHERE revision = 3 AND window_ms = {T0}",
        "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
        f"VALUES ('one', 'acme', 'box', 'cell-1', 1024, 60, {T0}, {T0})",
        f"INSERT INTO pending_usage VALUES ({T0}, 'acme', 77, 'no_mapping', 60, 1)",
    ),
    found={
        "SELECT revision, state, lookups, wire_key FROM pushes ORDER BY 1": [
            (0, "accepted", 0, None), (1, "due", 0, None), (2, "in_doubt", 0, None), (3, "voided", 0, None),
        ],
        "SELECT evidence FROM voids": [("no rate",)],
        "SELECT reason, seconds FROM pending_usage": [("no_mapping", 60)],
    },
    refused={
        "UPDATE pushes SET sealed_qty = 1": "S3",
        "UPDATE pushes SET state = 'due' WHERE state = 'in_doubt'": "P2",
        "UPDATE pushes SET state = 'voided' WHERE state = 'due'": "P5",
        "DELETE FROM voids": "append-only",
        "DELETE FROM pushes": "S3",
        "UPDATE assignments SET customer_id = 'other'": "P4",
    },
)  # fmt: skip
GRANT: Final = "INSERT INTO ledger_entries (key, kind, from_account, to_account, amount_micro, "
GRANTED: Final = GRANT + "ts, at_ms, actor, reason) VALUES "
OF_WALLETS: Final = "('wallet:acme', 'wallet:b:c')"
WALLETS: Final = Chapter(
    "0018",
    (
        "INSERT INTO ledger_accounts (account_id, kind, balance_micro, plan) VALUES "
        "('wallet:acme', 'wallet', 70, 'team'), ('wallet:b:c', 'wallet', 5, NULL), "
        "('source:grants', 'source', -105, NULL), ('revenue:x', 'revenue', 30, NULL)",
        GRANTED + f"('grant:one', 'grant', 'source:grants', 'wallet:acme', 100, {T0}, {T0}, 'ann', 'paid'), "
        f"('grant:two', 'grant', 'source:grants', 'wallet:acme', 10, {T0 + 1}, {T0 + 1}, 'ann', 'paid'), "
        f"('grant:minus', 'grant', 'source:grants', 'wallet:acme', -10, {T0 + 2}, {T0 + 2}, 'ann', 'a slip'), "
        f"('grant:other', 'grant', 'source:grants', 'wallet:b:c', 5, {T0 + 3}, {T0 + 3}, 'bob', 'a gift')",
        GRANT + "feature, quantity, ts, at_ms, actor, reason) VALUES "
        f"('u', 'usage', 'wallet:acme', 'revenue:x', 30, 'x', 30, {T0}, {T0 + 9}, 'drawdown', 'usage')",
    ),
    kept=(
        "SELECT key, kind, from_account, to_account, amount_micro, feature, quantity, ts, at_ms, actor, reason "
        f"FROM ledger_entries WHERE to_account IN {OF_WALLETS} OR from_account IN {OF_WALLETS} ORDER BY key",
    ),
    found={
        "SELECT account_id FROM ledger_accounts WHERE account_id IN ('source:grants', 'revenue:x')": [],
        "SELECT account_id, balance_micro, plan, held_micro, next_due_ms, lots_ended_ms, deferred_micro "
        f"FROM ledger_accounts WHERE account_id IN {OF_WALLETS} ORDER BY 1": [
            ("wallet:acme", 70, "team", 0, 0, None, 0),
            ("wallet:b:c", 5, None, 0, None, None, 0),
        ],
        "SELECT * FROM ledger_lots WHERE customer_id IN ('acme', 'b:c') ORDER BY lot": [
            ("grant:one", "acme", "purchased", 100, 50, T0, None, None, T0, "ann", "paid", None),
            ("grant:other", "b:c", "purchased", 5, 50, T0 + 3, None, None, T0 + 3, "bob", "a gift", None),
            ("grant:two", "acme", "purchased", 10, 50, T0 + 1, None, None, T0 + 1, "ann", "paid", None),
        ],
        "SELECT customer_id, number, plan, since_ms FROM plan_stays": [("acme", 1, "team", 0)],
    },
    refused=dict.fromkeys(
        (
            "UPDATE ledger_lots SET amount_micro = 1",
            "DELETE FROM ledger_lots",
            "DELETE FROM ledger_entries",
            "UPDATE plan_stays SET plan = 'x'",
            "DELETE FROM plan_stays",
        ),
        "append-only",
    ),
)
RUN: Final = (
    "INSERT INTO reservations (reservation, org_id, customer_id, amount_micro, drawn_micro, state, overage, "
    "accepted_ms, expires_ms, ended_ms, fingerprint, actor, reason{more}) VALUES "
    f"('{{key}}', 'acme', 'runner', {{amount}}, {{drawn}}, '{{state}}', 'charge', {T0}, {T0 + 60_000}, {{end}}, 'f', "
    "'ann', 'r'{values})"
)


def _run(key: str, amount: int, drawn: int, state: str, end: str, more: str = "", values: str = "") -> str:
    return RUN.format(key=key, amount=amount, drawn=drawn, state=state, end=end, more=more, values=values)


def _key(letter: str, name: str, scopes: str, more: str = "", values: str = "") -> str:
    columns = f"INSERT INTO api_keys (key_sha256, name, scopes, created_ms, actor, reason{more}) VALUES "
    return columns + f"('{letter * 64}', '{name}', '{scopes}', {T0}, 'ann', 'new'{values})"


RUNS: Final = Chapter(
    "0025",
    (
        _key("a", "app", "guard"),
        "INSERT INTO ledger_accounts (account_id, balance_micro, held_micro, next_due_ms) "
        f"VALUES ('wallet:runner', 90, 40, {T0 + 60_000})",
        _run("going", 50, 10, "held", "NULL"),
        _run("off", 9, 0, "released", str(T0 + 5)),
    ),
    kept=(
        "SELECT reservation, org_id, customer_id, amount_micro, drawn_micro, state, overage, accepted_ms, expires_ms, "
        "ended_ms, fingerprint, actor, reason, supplier FROM reservations ORDER BY 1",
    ),
    found={
        "SELECT settled_by, metered_before_micro, metered_to_ms, payer_number, hold FROM reservations": [
            ("receipt", 0, None, None, "wallet")
        ]
        * 2,
    },
    later=(
        "INSERT INTO pools VALUES ('p', 1, 'ann', 'a test')",
        "INSERT INTO payers VALUES ('p', 'acme', 1, true, 5, 1, 1, 'ann', 'a test')",
        "INSERT INTO run_usage VALUES ('going', 'final', 'x', 1, 1, 1, 'a', 'r')",
    ),
    refused={
        "UPDATE reservations SET settled_by = 'metering'": "who charges",
        "UPDATE reservations SET hold = 'local'": "never changes",
        "UPDATE reservations SET payer_number = 1": "keeps its payer",
        "UPDATE run_usage SET quantity = 1": "append-only",
        "DELETE FROM run_usage": "append-only",
        "UPDATE payers SET allowed = false": "append-only",
        "DELETE FROM payers": "append-only",
        "UPDATE pools SET pool = 'q'": "append-only",
        "DELETE FROM pools": "append-only",
        **{
            _run("new", 5, 0, "held", "NULL", f", hold, {name}", f", 'local', {value}"): "reservations_hold"
            for name, value in (("settled_by", "'metering'"), ("payer_number", 1))
        },
    },
)
THEIRS: Final = "INSERT INTO reservation_sandboxes VALUES ('theirs', 'one', 'globex', TRUE)"
BOXES: Final = Chapter(
    "0030",
    ("INSERT INTO reservation_sandboxes VALUES ('going', 'one', 'acme', TRUE), ('off', 'two', 'acme', FALSE)",),
    found={
        "SELECT reservation, sandbox_id, org_id, is_open FROM reservation_sandboxes ORDER BY 1": [
            ("going", "one", "acme", True),
            ("off", "two", "acme", False),
        ]
    },
    later=(THEIRS,),
    refused={
        "INSERT INTO reservation_sandboxes VALUES ('new', 'one', 'acme', TRUE)": "(?i)unique",
        "DELETE FROM reservation_sandboxes": "keeps its sandboxes",
        "UPDATE reservation_sandboxes SET sandbox_id = 'three'": "keeps its sandboxes",
        "UPDATE reservation_sandboxes SET is_open = TRUE": "keeps its sandboxes",
    },
    refused_then={THEIRS: "(?i)unique"},
)
LOTS_OVER: Final = Chapter(
    "0030",
    (
        "INSERT INTO ledger_accounts (account_id, balance_micro, held_micro, next_due_ms, lots_ended_ms, "
        f"deferred_micro) VALUES ('wallet:over', 60, 0, {T0 + 5 + WAIT_MS}, NULL, 0), "
        f"('wallet:late', 7, 0, {T0 + 99}, NULL, 0), ('wallet:done', 4, 4, {T0 + 60_000}, {T0 + 1}, 4)",
        "INSERT INTO ledger_lots (lot, customer_id, kind, amount_micro, begins_ms, expires_ms, at_ms, actor, reason) "
        f"VALUES ('grant:over', 'over', 'bonus', 50, {T0}, {T0 + 5}, {T0}, 'ann', 'a gift'), "
        f"('grant:bought', 'over', 'purchased', 10, {T0}, NULL, {T0}, 'ann', 'paid'), "
        f"('grant:late', 'late', 'bonus', 7, {T0}, {T0 + 999_999}, {T0}, 'ann', 'a gift'), "
        f"('grant:done', 'done', 'bonus', 4, {T0}, {T0 + 1}, {T0}, 'ann', 'a gift')",
        GRANTED + f"('grant:over', 'grant', 'source:grants', 'wallet:over', 50, {T0}, {T0}, 'ann', 'a gift'), "
        f"('grant:bought', 'grant', 'source:grants', 'wallet:over', 10, {T0}, {T0}, 'ann', 'paid'), "
        f"('grant:late', 'grant', 'source:grants', 'wallet:late', 7, {T0}, {T0}, 'ann', 'a gift'), "
        f"('grant:done', 'grant', 'source:grants', 'wallet:done', 4, {T0}, {T0}, 'ann', 'a gift')",
    ),
    kept=("SELECT lot, customer_id, amount_micro, expires_ms FROM ledger_lots ORDER BY 1",),
    found={
        "SELECT account_id, balance_micro, over_micro, next_due_ms, lots_over_ms FROM ledger_accounts "
        "WHERE account_id IN ('wallet:over', 'wallet:late', 'wallet:done') ORDER BY 1": [
            ("wallet:done", 4, 0, 0, T0 + 1),
            ("wallet:late", 7, 0, T0 + 99, None),
            ("wallet:over", 60, 0, T0 + 5, None),
        ]
    },
    refused={"UPDATE ledger_accounts SET over_micro = -1": "ledger_accounts_over"},
)
KEYS: Final = Chapter("0034", (_key("b", "old", "samples:write"),))
BOUND: Final = Chapter(
    "0036",
    (_key("c", "host", "samples:write", ", cell_id", ", 'cell-1'"),),
    refused=dict.fromkeys(
        (f"UPDATE api_keys SET {one}" for one in ("cell_id = NULL", "cell_id = 'cell-2'", "org_id = 'acme'")),
        "API key",
    ),
)


def _events() -> tuple[str, ...]:
    """Three by their claims, two of them withdrawn, of which one is gone; and one that is staged."""
    told = [
        "INSERT INTO event_types VALUES ('page.render', 16777217, 0)",
        "INSERT INTO backfills (backfill, org_id, from_ms, to_ms, state, at_ms, actor, reason) "
        f"VALUES ('june', 'nova', {T0}, {T0 + 300_000}, 'open', {T0}, 'ann', 'r')",
        "INSERT INTO backfill_events (backfill, sample_id, source, event_id, event_type, quantity, ts, properties) "
        f"VALUES ('june', '{sample_id_of('app', 'staged')}', 'app', 'staged', 'page.render', 3, {T0 + 1}, '{{}}')",
    ]
    for event_id, ts in (("a", T0 + 1), ("b", T0 + 1), ("gone", T0 - 1)):
        name = sample_id_of("app", event_id)
        told += [
            "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
            f"VALUES ('{name}', 'nova', 'event:page.render', 'events', 16777217, 3, {ts}, {T0 + 2})",
            "INSERT INTO usage_events (sample_id, source, event_id, event_type, org_id, quantity, ts, properties, "
            f"ingested_ms) VALUES ('{name}', 'app', '{event_id}', 'page.render', 'nova', 3, {ts}, '{{}}', {T0 + 2})",
        ]
        if event_id != "a":
            told.append(
                "INSERT INTO withdrawals (sample_id, org_id, ts, memory_mb, interval_s, at_ms, actor, reason) "
                f"VALUES ('{name}', 'nova', {ts}, 16777217, 3, {T0}, 'ann', 'r')"
            )
    org = f"INSERT INTO orgs (org_id, bucket, floor_ms) VALUES ('nova', 7, {T0})"
    return (*told, org, f"DELETE FROM usage_samples WHERE ts < {T0}")


EVENTS: Final = Chapter(
    "0038",
    (
        "INSERT INTO guard_metrics (metric, number, price_micro, per_units, phase, warn_ppm, fails_open, at_ms, actor, "
        f"reason) VALUES ('idea', 1, 5, 2, 3, 9, TRUE, {T0}, 'ann', 'r')",
        *_events(),
    ),
    kept=("SELECT * FROM usage_events ORDER BY 1",),
    found={"SELECT sample_id FROM backfill_events": [(sample_id_of("app", "staged", "nova"),)]},
    refused={
        "UPDATE guard_metrics SET counts = 'x'": "append-only",
        "UPDATE backfill_events SET quantity = 9": "S7",
    },
)
FILES: Final = Chapter(
    "0060",
    (
        "INSERT INTO batch_sources VALUES ('in', '/srv', 1, NULL, 'a', 'r')",
        "INSERT INTO batches VALUES ('b1', '', 'u.csv', '/x/u.csv', 1, 0, 1, 1, 1, 1, 1, NULL, 'a', 'r')",
        "INSERT INTO batch_files VALUES ('in', 'a.csv', '', 1, 1, 'refused', 'broken', 1)",
        "INSERT INTO batch_files VALUES ('', 'u.csv', 'b1', 1, 1, 'taken', '', 1)",
    ),
    found={
        "SELECT name, path, outcome, readings FROM batch_files ORDER BY name": [
            ("a.csv", "/srv/a.csv", "refused", 0),
            ("u.csv", "/x/u.csv", "taken", 0),
        ]
    },
)
CHAPTERS: Final = (PUSHES, WALLETS, RUNS, BOXES, LOTS_OVER, KEYS, BOUND, EVENTS, FILES)


def told_at_each_version(past: Past) -> None:
    """Go up through all of them. Errors: AssertionError where something that was told is another by then."""
    kept: dict[str, Rows] = {}
    for chapter in CHAPTERS:
        past.up(chapter.version)
        past.say(*chapter.told)
        kept |= past.found(chapter.kept)
        assert past.wrongly_taken(chapter.refused_then) == {}, chapter.version
    past.up()
    assert past.found(kept) == kept
