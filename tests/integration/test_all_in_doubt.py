"""Pushes in doubt as one line with one amount and one command: what it resolves, leaves, and shows beforehand."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from drawdown.cli.main import run
from drawdown.providers.protocol import Duplicate, RetryAt, Unknown
from drawdown.schema.database import read, write
from drawdown.schema.errors import Refused
from drawdown.schema.locks import lock_buckets
from drawdown.schema.units import DAY_MS, MINUTE_MS, WINDOW_MS
from drawdown.worker.push import actions as doubted_pushes
from drawdown.worker.push.actions import Chosen, DoubtFilter, resolve_all
from drawdown.worker.verdict.rates import Prices, Quantity
from drawdown.worker.verify.verify import verify
from tests.fake_provider import FakeProvider, capabilities
from tests.integration.test_status import text
from tests.world import T0, Fleet

ORGS = ("acme", "globex")
WINDOWS = 3
SIZES = {1024: "compute_1gb", 4096: "compute_4gb"}
ALL = ("push", "resolve-all", "--provider", "fake")
SHOWN = ("--evidence", "their console")


def _keys() -> list[str]:
    return [
        f"usage:{org}:{T0 + number * WINDOW_MS}:{feature}"
        for org in ORGS
        for number in range(WINDOWS)
        for feature in SIZES.values()
    ]


@dataclass
class Lab:
    fleet: Fleet
    out: pytest.CaptureFixture[str]
    provider: FakeProvider = field(default_factory=lambda: FakeProvider(capabilities()))

    def command(self, *words: str, status: int = 0) -> str:
        """Run a command at the fleet's time; what it printed."""
        url = self.fleet.engine.url.render_as_string(hide_password=False)
        self.out.readouterr()
        assert run(["--database-url", url, "--at", str(self.fleet.clock.at_ms), *words]) == status, (
            self.out.readouterr()
        )
        printed = self.out.readouterr()
        return " ".join((printed.out + printed.err).split())

    def as_json(self, *words: str, status: int = 0) -> Any:
        url = self.fleet.engine.url.render_as_string(hide_password=False)
        self.out.readouterr()
        at = ["--database-url", url, "--json", "--at", str(self.fleet.clock.at_ms)]
        assert run([*at, *words]) == status
        return json.loads(self.out.readouterr().out)

    @property
    def states(self) -> dict[str, int]:
        return dict(self.fleet.rows("SELECT state, COUNT(*) FROM pushes GROUP BY 1"))  # type: ignore[arg-type]

    def everything(self) -> Mapping[str, list[tuple[object, ...]]]:
        """Each row of each table."""
        with self.fleet.engine.connect() as connection:
            names = sa.inspect(connection).get_table_names()
            return {
                name: sorted((tuple(row) for row in connection.execute(sa.text(f"SELECT * FROM {name}"))), key=repr)
                for name in names
            }

    def rate(self, feature: str, micro: int, balance: str, per_quantity: int = 1, from_ms: int = 0) -> None:
        """As a tick keeps the cost that a provider tells."""
        self.fleet.write(
            "INSERT INTO provider_rates "
            "(provider, feature, start_ms, micro, per_quantity, at_ms, actor, reason, balance) "
            "VALUES ('fake', :feature, :from_ms, :micro, :per_quantity, 0, 'drawdown', 'told', :balance)",
            {"feature": feature, "from_ms": from_ms, "micro": micro, "per_quantity": per_quantity, "balance": balance},
        )


@pytest.fixture
def lab(engine: sa.Engine, capsys: pytest.CaptureFixture[str]) -> Lab:
    """12 pushes in doubt of two organisations: 60 s of one feature and 120 s of another in each of three windows."""
    provider = FakeProvider(capabilities())
    provider.answers = dict.fromkeys(_keys(), Duplicate())
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign(*ORGS, provider="fake")
    for org in ORGS:
        for number in range(WINDOWS):
            for size in SIZES:
                fleet.sample(org, T0 + number * WINDOW_MS + 1, 60 if size == 1024 else 120, size)
    fleet.tick_windows(WINDOWS + 1)
    made = Lab(fleet, capsys, provider)
    assert made.states == {"in_doubt": 12}
    return made


def _clean(lab: Lab) -> None:
    assert read(lab.fleet.engine, verify).breaches == []


@pytest.mark.parametrize("outcome", ["accepted", "absent"])
def test_resolve_all_pushes_are_resolved_and_recorded(lab: Lab, outcome: str) -> None:
    said = lab.command(*ALL, "--outcome", outcome, *SHOWN, "--actor", "ann", "--reason", "ticket 7")
    assert said.startswith("12 of 12 pushes in doubt, of 2 organisations: ")
    action, state = {"accepted": ("push_resolve", "accepted"), "absent": ("push_void", "voided")}[outcome]
    assert lab.states == {state: 12}
    recorded = lab.fleet.rows(
        "SELECT target, actor, reason, details FROM operator_actions WHERE action = :action ORDER BY 1", action=action
    )
    assert [row[0] for row in recorded] == sorted(_keys())
    assert {(row[1], row[2], json.loads(str(row[3]))["evidence"]) for row in recorded} == {
        ("ann", "ticket 7", "their console")
    }
    before = lab.everything()
    assert lab.command(*ALL, "--outcome", outcome, *SHOWN) == "no push in doubt matches; nothing was changed"
    assert lab.everything() == before, "repeated, it changes nothing"
    lab.provider.answers.clear()
    lab.fleet.tick_windows(2)
    billed = lab.fleet.one("SELECT SUM(sent_qty) FROM pushes WHERE state = 'accepted'")
    assert billed == 2 * WINDOWS * 180, "what was voided is owed again, and billed once"
    _clean(lab)


def test_resolve_all_repeated_after_interruption_resolves_the_rest(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off after the second portion, the same command does the rest."""
    monkeypatch.setattr(doubted_pushes, "AT_ONCE", 5)
    sizes: list[int] = []
    fleet = lab.fleet

    class CutOffError(Exception):
        pass

    def transact(work: Any, /, *, rollback: bool = False) -> Any:
        if len(sizes) == 2 and not rollback:
            raise CutOffError
        done = write(fleet.engine, work, rollback=rollback)
        if not rollback:
            sizes.append(len(done.resolved_rows))
        return done

    with pytest.raises(CutOffError):
        resolve_all(transact, DoubtFilter(provider="fake"), "accepted", fleet.by, "their console")
    assert (sizes, lab.states) == ([5, 5], {"accepted": 10, "in_doubt": 2})
    sizes.clear()
    rest = resolve_all(transact, DoubtFilter(provider="fake"), "accepted", fleet.by, "their console")
    assert (rest.found, rest.pushes, sizes, lab.states) == (2, 2, [2], {"accepted": 12})
    _clean(lab)


def test_dry_run_shows_both_outcomes_in_credits_and_is_read_only(lab: Lab) -> None:
    lab.rate("compute_1gb", 10_000, "credits")
    before = lab.everything()
    said = lab.command(*ALL, "--dry-run")
    assert said.count("12 of 12 pushes in doubt, of 2 organisations: would be") == 2
    assert said.count("worth 3.60 credits and 720 compute_4gb without a rate") == 2
    assert "quantities: 360 compute_1gb, 720 compute_4gb" in said and said.endswith("nothing was changed")
    for outcome in ("accepted", "absent"):
        again = f"drawdown push resolve-all --provider fake --outcome {outcome} --evidence EVIDENCE --at-most 12"
        assert again in said
    found = lab.as_json(*ALL, "--outcome", "absent", "--dry-run")
    assert lab.everything() == before
    (one,) = found["outcomes"]
    assert (one["found"], one["pushes"], one["orgs"], one["stays"]) == (12, 12, 2, [])
    assert one["worth"] == {
        "quantities": {"compute_1gb": 360, "compute_4gb": 720},
        "credits_micro": {"credits": 3_600_000},
        "unpriced": {"compute_4gb": 720},
    }


def test_dry_run_with_filter_prints_equivalent_command(lab: Lab) -> None:
    narrowed = ("--org", "acme", "--from", "2026-01-01T00:05:00Z", "--to", "2026-01-01T00:10:00Z")
    said = lab.command(*ALL, *narrowed, "--outcome", "accepted", "--evidence", "it's there", "--dry-run")
    begin = said.index("drawdown push resolve")
    lab.command(*shlex.split(said[begin : said.index(" nothing was changed")])[1:])
    assert lab.fleet.rows("SELECT DISTINCT org_id, window_ms FROM pushes WHERE state = 'accepted'") == [
        ("acme", T0 + WINDOW_MS)
    ]
    assert lab.states == {"accepted": 2, "in_doubt": 10}


def test_worth_of_pushes_is_by_balance_and_lists_unpriced_features(lab: Lab) -> None:
    """A provider with two credit systems, a later rate, and more features than a line names."""
    lab.rate("compute_1gb", 10_000, "credits")
    lab.rate("compute_4gb", 500, "tokens")
    later = T0 + 2 * WINDOW_MS
    lab.rate("compute_1gb", 1, "credits", 3, later)
    used = [("compute_1gb", T0, 100), ("compute_1gb", later, 1), ("compute_1gb", later + 1, 1), ("compute_4gb", T0, 10)]
    used += [(f"other_{number}", T0, 1_000) for number in range(5)]
    worth = read(
        lab.fleet.engine, lambda c: Prices(c).worth(Quantity("fake", feature, ms, n) for feature, ms, n in used)
    )
    assert worth.credits_micro == {"credits": 1_000_001, "tokens": 5_000}, "each rate is rounded once"
    assert str(worth) == (
        "1.000001 credits and 0.005 credits of tokens and 1,000 other_0, 1,000 other_1, 1,000 other_2 "
        "and 2 more features without a rate"
    )


def test_filter_by_customer_feature_window_or_error_selects_pushes(lab: Lab) -> None:
    lab.fleet.write("UPDATE pushes SET last_error = 'odd one' WHERE org_id = 'globex' AND feature = 'compute_4gb'")
    for words, count in (
        (("--customer", "globex"), 6),
        (("--feature", "compute_1gb"), 6),
        (("--to", "2026-01-01T00:05:00Z"), 4),
        (("--error", "odd", "--from", "2026-01-01T00:10:00Z"), 1),
    ):
        (one,) = lab.as_json(*ALL, *words, "--outcome", "accepted", "--dry-run")["outcomes"]
        assert one["found"] == one["pushes"] == count, words


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("--org", "acmee", "--outcome", "accepted", *SHOWN), 2, "acme"),
        (("--customer", "acmee", "--outcome", "accepted", *SHOWN), 2, "acme"),
        (("--feature", "compute_1g", "--outcome", "accepted", *SHOWN), 2, "compute_1gb"),
        (
            ("--from", "2026-01-01T00:05:00Z", "--to", "2026-01-01", "--outcome", "accepted", *SHOWN),
            2,
            "must be later than",
        ),
        (("--outcome", "lost", *SHOWN), 2, "expected accepted or absent"),
        (SHOWN, 2, "Pass --outcome accepted or absent"),
        (
            (
                "--outcome",
                "accepted",
            ),
            2,
            "--evidence",
        ),
        (("--outcome", "accepted", *SHOWN, "--at-most", "11"), 1, "too many pushes in doubt: 12 exceed"),
    ],
)
def test_resolve_all_mistyped_command_is_refused(lab: Lab, words: tuple[str, ...], status: int, said: str) -> None:
    before = lab.everything()
    assert said in lab.command(*ALL, *words, status=status)
    assert lab.everything() == before


def test_resolve_all_push_that_may_arrive_stays_in_doubt(lab: Lab) -> None:
    """P5: an attempt of one was never answered, half an hour ago."""
    lab.fleet.write(
        "INSERT INTO attempts (window_ms, org_id, feature, revision, attempt, started_ms, owner, sent_qty) "
        "VALUES (:window, 'acme', 'compute_1gb', 0, 2, :ms, 'gone', 60)",
        {"window": T0, "ms": lab.fleet.clock.at_ms - 30 * MINUTE_MS},
    )
    lab.fleet.write(f"UPDATE pushes SET attempts = 2 WHERE key = '{_keys()[0]}'".replace(":", "\\:"))
    said = lab.command(*ALL, "--outcome", "absent", *SHOWN, status=75)
    assert "11 of 12 pushes in doubt" in said
    assert "1 stays in doubt, an attempt may still arrive. Run the same command in 30 minutes" in said
    assert lab.states == {"voided": 11, "in_doubt": 1}
    lab.fleet.clock.at_ms += 30 * MINUTE_MS
    assert "1 of 1 push in doubt" in lab.command(*ALL, "--outcome", "absent", *SHOWN)
    assert lab.states == {"voided": 12}


def test_resolve_all_push_below_floor_stays_until_accepted(lab: Lab) -> None:
    """S4: what is voided there would never be owed again."""
    lab.fleet.write("UPDATE orgs SET floor_ms = :ms WHERE org_id = 'acme'", {"ms": T0 + WINDOW_MS})
    (dry,) = lab.as_json(*ALL, "--outcome", "absent", "--dry-run", status=1)["outcomes"]
    assert [(one["reason"], one["pushes"]) for one in dry["stays"]] == [("below_floor", 2)]
    said = lab.command(*ALL, "--outcome", "absent", *SHOWN, status=1)
    assert "2 stay in doubt, below the floor of their organisations" in said and lab.states == {
        "voided": 10,
        "in_doubt": 2,
    }
    assert "2 of 2" in lab.command(*ALL, "--outcome", "accepted", *SHOWN) and lab.states == {
        "voided": 10,
        "accepted": 2,
    }


def test_resolve_all_push_in_doubt_after_start_is_not_resolved(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody saw it in the dry run: no more are resolved than were counted as the command began."""
    monkeypatch.setattr(doubted_pushes, "AT_ONCE", 4)
    fleet, begun = lab.fleet, False
    copied = "window_ms, org_id, feature, provider, customer_id, sealed_qty, sent_qty, sealed_at_ms, seal_id"

    def in_doubt_since(connection: sa.Connection) -> None:
        lock_buckets(connection)
        insert = (
            f"INSERT INTO pushes ({copied}, state, due_at_ms, revision, key) "
            f"SELECT {copied}, state, 0, 1, key || :suffix FROM pushes WHERE feature = 'compute_4gb'"
        )
        connection.execute(sa.text(insert), {"suffix": ":r1"})

    def transact(work: Any, /, *, rollback: bool = False) -> Any:
        nonlocal begun
        done = write(fleet.engine, work, rollback=rollback)
        if not begun:
            begun = True
            write(fleet.engine, in_doubt_since)
        return done

    done = resolve_all(transact, DoubtFilter(), "accepted", fleet.by, "their console")
    assert (done.found, done.pushes, lab.states) == (12, 12, {"accepted": 12, "in_doubt": 6})


@pytest.mark.both_databases
@pytest.mark.parametrize("error", ["no_meter", "100%", "!", "a%b_c!d"])
def test_push_error_filter_matches_its_text_literally(lab: Lab, error: str) -> None:
    fleet, key = lab.fleet, _keys()[0]
    fleet.write("UPDATE pushes SET last_error = 'no meter, 1000, axbxcxd'")
    fleet.write("UPDATE pushes SET last_error = :error WHERE key = :key", {"error": f"x {error} y", "key": key})
    chosen = Chosen(None, None, "", "", error)
    assert read(fleet.engine, lambda c: chosen.find(c, ["in_doubt"])) == [key]
    resolve_all(partial(write, fleet.engine), DoubtFilter(error=error), "accepted", fleet.by, "their console")
    assert fleet.rows("SELECT key FROM pushes WHERE state = 'accepted'") == [(key,)]


def test_resolve_all_above_at_most_is_refused(lab: Lab) -> None:
    with pytest.raises(Refused, match="too many pushes in doubt: 12 exceed"):
        resolve_all(
            lambda work, /, *, rollback=False: write(lab.fleet.engine, work, rollback=rollback),
            DoubtFilter(at_most=11), "absent", lab.fleet.by, "their console",
        )  # fmt: skip


def test_status_pushes_in_doubt_show_amount_and_command(lab: Lab) -> None:
    for feature in SIZES.values():
        lab.rate(feature, 10_000, "credits")
    said = " ".join(text(lab.fleet).split())
    assert "A PERSON IS NEEDED: 12 pushes of 2 organisations in doubt at fake, 10.80 credits: " in said
    assert said.count("in doubt: 12 pushes of 2 organisations, 10.80 credits, the oldest window since 20 min") == 1
    assert said.count("drawdown push resolve-all --provider fake --dry-run") == 2
    (one,) = lab.as_json("status", status=1)["unresolved"]
    assert (one["provider"], one["state"], one["pushes"], one["orgs"], one["oldest_window_ms"]) == (
        "fake", "in_doubt", 12, 2, T0,
    )  # fmt: skip
    assert one["worth"]["credits_micro"] == {"credits": 10_800_000} and one["looked_up_ms"] is None


def test_status_due_lookup_is_shown_for_next_tick(lab: Lab) -> None:
    now = lab.fleet.clock.at_ms
    lab.fleet.write("UPDATE pushes SET lookups = 1, due_at_ms = :ms", {"ms": now + 90 * MINUTE_MS + 1})
    assert "looked up again by 01:51 UTC" in " ".join(text(lab.fleet).split())
    lab.fleet.write("UPDATE pushes SET due_at_ms = :ms", {"ms": now})
    assert "looked up again by the next tick" in " ".join(text(lab.fleet).split())


@pytest.mark.both_databases
def test_status_queued_push_to_look_up_shows_lookup_deadline(engine: sa.Engine) -> None:
    """R2: until the service can no longer apply it; then it is voided, or a person decides."""
    provider = FakeProvider(capabilities(duplicate_proves_delivery=False, lookup_lag_ms=MINUTE_MS))
    fleet = Fleet(engine, extra={"fake": provider})
    fleet.assign("acme", "globex", provider="fake")
    fleet.sample("acme", T0 + 1)
    fleet.sample("globex", T0 + 1)
    provider.answers[f"usage:acme:{T0}:compute_1gb"] = Unknown("cut")
    assert fleet.tick_windows(2).applied_within_ms["fake"] == 60 * MINUTE_MS
    sent = fleet.clock.at_ms
    fleet.clock.at_ms += 5_000
    said = " ".join(text(fleet).split())
    assert "the queue drains" not in said and "drained at" not in said
    assert "next: wait until 2026-01-01T01:10:00Z while ticks look up pushes that may have arrived" in said
    assert "1 queued: looked up by 01:10 UTC at the latest. Afterwards you must resolve those in doubt" in said
    fleet.write("UPDATE ticks SET report = :report", {"report": json.dumps({"applied_within_ms": {"fake": DAY_MS}})})
    said = " ".join(text(fleet).split())
    assert "1 queued: looked up by 2026-01-02 00:10 UTC at the latest" in said, "and not at 00:10 of today"
    fleet.clock.at_ms = sent + DAY_MS
    said = " ".join(text(fleet).split())
    assert "at the latest" not in said and "until 2026" not in said
    assert "1 queued: ticks look them up again. You must resolve those still in doubt" in said


def test_status_drain_estimate_is_rounded_up_to_the_minute(lab: Lab) -> None:
    """A prediction of some seconds is rounded up: the minute of now has begun before it."""
    fleet, key = lab.fleet, f"usage:acme:{T0 + WINDOWS * 2 * WINDOW_MS}:compute_1gb"
    fleet.write("UPDATE pushes SET state = 'accepted'")
    lab.provider.answers[key] = RetryAt(T0 + 99 * WINDOW_MS, "busy")
    fleet.sample("acme", T0 + WINDOWS * 2 * WINDOW_MS + 1)
    fleet.tick(T0 + (WINDOWS * 2 + 2) * WINDOW_MS)
    fleet.write("UPDATE ticks SET report = :report", {"report": json.dumps({"accepted_at": {"fake": 100}})})
    fleet.clock.at_ms += 10_000
    now = fleet.clock.at_ms
    (one,) = lab.as_json("status", status=75)["providers"]
    assert now < one["drained_ms"] < now + 50_000
    assert "about 00:41 UTC" in " ".join(text(fleet).split())


def test_push_awaiting_credit_is_listed_apart_and_status_is_settled(lab: Lab) -> None:
    """It is a customer's debt: the halt stands, and no exit status changes."""
    lab.rate("compute_1gb", 10_000, "credits")
    lab.rate("compute_4gb", 10_000, "credits")
    fleet = lab.fleet
    fleet.write(
        "UPDATE pushes SET state = 'rejected', last_error = 'no credit', settled_ms = :now, due_at_ms = :later",
        {"now": fleet.clock.at_ms, "later": fleet.clock.at_ms + MINUTE_MS},
    )
    found = lab.as_json("status")
    assert (found["verdict"], found["needs_person"]) == ("settled", False)
    assert (found["left"]["rejected"], found["left"]["awaiting_credit"]) == (0, 12)
    said = " ".join(text(fleet).split())
    assert "ALL SETTLED: 12 pushes of 2 organisations wait for credit at fake" in said
    assert "12 pushes of 2 organisations, 10.80 credits, wait for credit: billed when the provider shows credit" in said
    fleet.write("UPDATE pushes SET due_at_ms = settled_ms WHERE key <> :key", {"key": _keys()[0]})
    said = " ".join(text(fleet).split())
    assert "1 push of 1 organisation, 0.60 credits, waits for credit" in said
    fleet.write("UPDATE pushes SET due_at_ms = :later", {"later": fleet.clock.at_ms + MINUTE_MS})
    lab.command("status", "acme")
    assert fleet.tick(fleet.clock.at_ms + MINUTE_MS).exit_status == 0
    listed = lab.as_json("push", "list", "--state", "awaiting_credit")
    assert len(listed["pushes"]) == 12
    assert lab.as_json("push", "sums", "--state", "rejected")["sums"] == []
    lab.command("push", "retry", "--state", "rejected", "--dry-run", status=1)
    fleet.write("UPDATE pushes SET due_at_ms = settled_ms WHERE org_id = 'acme'")
    assert lab.as_json("status", status=1)["left"]["rejected"] == 6
    lab.command("status", "acme", status=1)
    lab.command("status", "globex")


def test_push_refused_late_is_counted_as_rejected(lab: Lab) -> None:
    """Its time says when it may be voided: a person decides about it."""
    lab.fleet.write("UPDATE pushes SET state = 'rejected', settled_ms = 1, due_at_ms = 2, refused_attempts = 1")
    assert lab.as_json("status", status=1)["left"]["rejected"] == 12
