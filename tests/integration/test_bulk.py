"""Many pushes settled by a person at once: as if one by one, in a few statements, all of them or none."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest
import sqlalchemy as sa

from drawdown.cli.app import App
from drawdown.cli.main import run
from drawdown.providers.protocol import Duplicate, Rejected, Unknown
from drawdown.schema.database import read, write
from drawdown.schema.errors import AnswerLost, DrawdownError, Refused, UnknownId
from drawdown.schema.locks import lock_buckets
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.worker.push import actions as pushes
from drawdown.worker.push import lists as views
from drawdown.worker.push import void
from drawdown.worker.push.rows import find_pushes
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets.actions import grant
from tests.fake_provider import FakeProvider, capabilities
from tests.world import T0, Fleet

WINDOWS = 120
TABLES = {
    "pushes": "window_ms, org_id, feature, revision, state, due_at_ms, settled_ms",
    "voids": "window_ms, org_id, feature, revision, at_ms, evidence_kind, evidence, actor, reason",
    "carries": "org_id, provider, customer_id, feature, carry_qty",
    "dirty_windows": "org_id, window_ms",
    "operator_actions": "target, action, details, at_ms, actor, reason",
    "ledger_entries": "key, from_account, amount_micro, quantity, at_ms",
    "ledger_accounts": "account_id, balance_micro",
}
Keys = Sequence[str]


def keys(org: str, *, part: int, of: int = 3) -> list[str]:
    return [f"usage:{org}:{T0 + number * WINDOW_MS}:compute_1gb" for number in range(WINDOWS) if number % of == part]


def provider_of(orgs: Keys) -> FakeProvider:
    """It sells whole minutes and keeps no balance: what is left over is carried, what is used is drawn from a wallet.
    Of each three windows one is charged, one rejected, and one in doubt."""
    made = FakeProvider(capabilities(unit=60, negatives=False, balance_in_ledger=True))
    for org in orgs:
        made.answers |= dict.fromkeys(keys(org, part=1), Rejected("no such meter"))
        made.answers |= dict.fromkeys(keys(org, part=2), Duplicate())
    return made


@pytest.fixture
def fleet(engine: sa.Engine) -> Fleet:
    orgs = ("acme", "globex")
    made = Fleet(engine, extra={"fake": provider_of(orgs)})
    made.assign(*orgs, provider="fake")
    rows = [(org, number) for org in orgs for number in range(WINDOWS)]
    insert = sa.text(
        "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
        "VALUES (:id, :org, 'box', 'cell-1', 1024, :seconds, :ts, :ts)"
    )
    samples = [
        {"id": f"{org}-{number}", "org": org, "seconds": 61 + number * 7 % 50, "ts": T0 + number * WINDOW_MS}
        for org, number in rows
    ]
    write(engine, lambda c: c.execute(insert, samples))
    for org in orgs:
        write(engine, lambda c, org=org: grant(c, org, 10**9, made.by, key=org, plan=None))  # type: ignore[misc]
    made.tick_windows(WINDOWS + 1)
    assert made.rows("SELECT state, COUNT(*) FROM pushes GROUP BY 1 ORDER BY 1") == [
        ("accepted", 80),
        ("in_doubt", 80),
        ("rejected", 80),
    ]
    return made


def tables(connection: sa.Connection) -> dict[str, list[tuple[object, ...]]]:
    return {
        name: [tuple(row) for row in connection.execute(sa.text(f"SELECT {columns} FROM {name} ORDER BY {columns}"))]
        for name, columns in TABLES.items()
    }


def absent(connection: sa.Connection, chosen: Keys, fleet: Fleet) -> None:
    """As when a provider turns out not to have what it took."""
    lock_buckets(connection)
    rows = list(find_pushes(connection, chosen).values())
    void.void_many(connection, rows, fleet.by, ["looked up"] * len(rows), "absent", answered=False)


SETTLED: dict[str, Callable[[sa.Connection, Keys, Fleet], object]] = {
    "retry": lambda c, chosen, fleet: pushes.retry(c, chosen, fleet.by),
    "void": lambda c, chosen, fleet: pushes.void(c, chosen, fleet.by, "not in their console"),
    "resolve": lambda c, chosen, fleet: pushes.resolve_accepted(c, chosen, fleet.by, "in their console"),
    "absent": absent,
}
PART = {"retry": 1, "void": 2, "resolve": 2, "absent": 0}


@pytest.mark.parametrize("how", SETTLED)
def test_bulk_settle_equals_settling_pushes_singly(fleet: Fleet, how: str) -> None:
    chosen = keys("acme", part=PART[how]) + keys("globex", part=PART[how])

    def settled(connection: sa.Connection, *, together: bool) -> dict[str, list[tuple[object, ...]]]:
        for some in [chosen] if together else [[key] for key in chosen]:
            SETTLED[how](connection, some, fleet)
        return tables(connection)

    before = read(fleet.engine, tables)
    singly = write(fleet.engine, lambda c: settled(c, together=False), rollback=True)
    assert read(fleet.engine, tables) == before
    assert write(fleet.engine, lambda c: settled(c, together=True)) == singly
    assert len(singly["operator_actions"]) == len(before["operator_actions"]) + len(chosen)
    moved = {name for name in TABLES if singly[name] != before[name]}
    wallets, voided = {"ledger_entries", "ledger_accounts"}, {"voids", "carries", "dirty_windows"}
    assert (
        moved
        == {"pushes", "operator_actions"}
        | {
            "retry": voided,
            "void": voided,
            "resolve": wallets,
            "absent": wallets | voided,
        }[how]
    )
    assert read(fleet.engine, verify).breaches == []
    fleet.extra["fake"].answers.clear()  # type: ignore[attr-defined]
    fleet.tick_windows(1)
    assert fleet.one("SELECT COUNT(*) FROM pushes WHERE state = 'due'") == 0
    assert read(fleet.engine, verify).breaches == []


@pytest.mark.parametrize(
    ("how", "part", "other", "text"),
    [
        ("retry", 1, 2, "is in_doubt, and you can send a push again only if it is due or rejected"),
        ("void", 2, 0, "is accepted, and you can void a push only if it is rejected or in doubt"),
        ("resolve", 2, 0, "is accepted, and you can resolve a push only if it is in doubt"),
    ],
)
def test_bulk_settle_with_unfit_push_leaves_all_pushes_unchanged(
    fleet: Fleet, how: str, part: int, other: int, text: str
) -> None:
    before = read(fleet.engine, tables)
    odds: list[tuple[str, type[DrawdownError], str]] = [
        (keys("globex", part=other)[7], Refused, text),
        ("usage:nobody:0:compute_1gb", UnknownId, "unknown push"),
    ]
    for odd, error, said in odds:
        chosen = [*keys("acme", part=part), odd, *keys("globex", part=part)]
        with pytest.raises(error, match=rf"{odd}.*\. Drawdown did not change any of the 81 pushes") as refused:
            write(fleet.engine, lambda c, chosen=chosen: SETTLED[how](c, chosen, fleet))  # type: ignore[misc]
        assert said in str(refused.value)
        assert read(fleet.engine, tables) == before


@pytest.mark.both_databases
def test_bulk_void_with_unanswered_attempt_is_refused(engine: sa.Engine) -> None:
    fleet = Fleet(engine, extra={"fake": (provider := FakeProvider(capabilities()))})
    fleet.assign("acme", provider="fake")
    chosen = [f"usage:acme:{T0 + number * WINDOW_MS}:compute_1gb" for number in range(3)]
    for number in range(3):
        fleet.sample("acme", T0 + number * WINDOW_MS)
    provider.answers.update({key: Rejected("no") for key in chosen})
    provider.answers[chosen[1]] = Unknown("cut")
    fleet.tick_windows(4)
    provider.answers[chosen[1]] = Rejected("no")
    fleet.tick_windows(1)
    before = read(engine, tables)
    for how in ("void", "retry"):
        with pytest.raises(
            Refused,
            match=rf"^cannot void {chosen[1]}: an unanswered attempt .* Void it in 55 minutes. Drawdown did not change",
        ):
            write(engine, lambda c, how=how: SETTLED[how](c, chosen, fleet))  # type: ignore[misc]
    assert read(engine, tables) == before
    fleet.clock.at_ms += 55 * 60_000
    assert write(engine, lambda c: pushes.void(c, chosen * 2, fleet.by, "not there")) == chosen


@pytest.mark.parametrize("how", ["void", "retry"])
def test_queued_push_void_or_retry_before_lookup_is_refused(engine: sa.Engine, how: str) -> None:
    can_look_up = capabilities(duplicate_proves_delivery=False, lookup_lag_ms=DAY_MS)
    fleet = Fleet(engine, extra={"fake": (provider := FakeProvider(can_look_up))})
    fleet.assign("acme", provider="fake")
    fleet.sample("acme", T0)
    key = f"usage:acme:{T0}:compute_1gb"
    provider.answers[key] = Unknown("cut")
    fleet.tick_windows(2)
    assert fleet.one("SELECT state FROM pushes") == "queued"
    with pytest.raises(Refused, match=rf"{key} is queued, .* wait until ticks have looked it up. See `drawdown push"):
        write(engine, lambda c: SETTLED[how](c, [key], fleet))


def test_push_list_pages_continue_and_sums_cover_all(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    url = ["--database-url", fleet.engine.url.render_as_string(hide_password=False).replace("+psycopg", "")]
    rejected = ["--provider", "fake", "--state", "rejected"]
    given = ["push", "list", *rejected, "--most", "5"]
    assert run([*url, "--json", *given]) == 0
    found = json.loads(capsys.readouterr().out)
    assert run([*url, *given]) == 0
    assert f"more rows exist: --after {found['next']}" in capsys.readouterr().out
    assert run([*url, "--json", *given, "--after", found["next"]]) == 0
    second = json.loads(capsys.readouterr().out)
    assert len(found["pushes"]) == 5 and not [one for one in second["pushes"] if one in found["pushes"]]
    assert run([*url, "--json", "push", "sums", *rejected]) == 0
    sums = json.loads(capsys.readouterr().out)["sums"]
    true = fleet.rows("SELECT COUNT(*), SUM(sent_qty) FROM pushes WHERE state = 'rejected'")
    assert [(sum(s["pushes"] for s in sums), sum(s["quantity"] for s in sums))] == true
    assert run([*url, "push", "sums", *rejected]) == 0
    assert "80 pushes in all" in capsys.readouterr().out


def test_push_list_page_at_scan_limit_names_next_page(
    fleet: Fleet, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "MOST_LOOKED_AT", 3)
    url = ["--database-url", fleet.engine.url.render_as_string(hide_password=False).replace("+psycopg", "")]
    given = ["push", "list", "--state", "any", "--feature", "compute_1gb"]
    assert run([*url, "--json", *given]) == 0
    found = json.loads(capsys.readouterr().out)
    assert run([*url, *given]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"more rows exist: --after {found['next']}" in said and found["pushes"]
    assert "the page reached its limit, and the next one continues" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "--state gone",
            "invalid --state 'gone': expected open, due, queued, in_doubt, rejected, awaiting_credit, accepted",
        ),
        ("--why", "open pushes do not wait for this reason"),
        ("--after 1", "Start at the first page"),
    ],
)
def test_push_list_with_invalid_filter_is_refused(
    fleet: Fleet, capsys: pytest.CaptureFixture[str], words: str, said: str
) -> None:
    url = ["--database-url", fleet.engine.url.render_as_string(hide_password=False).replace("+psycopg", "")]
    given = ["--why", "no such thing"] if words == "--why" else words.split()
    assert run([*url, "push", "list", *given]) == 2
    assert said in capsys.readouterr().err


def test_push_retry_after_lost_commit_explains_refused_repeat(
    fleet: Fleet, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--database-url", fleet.engine.url.render_as_string(hide_password=False).replace("+psycopg", "")]
    words += ["--at", str(fleet.clock.at_ms), "push", "retry", *keys("acme", part=1)]
    kept = App.write

    def cut(app: App, work: Callable[[sa.Connection], object], **given: bool) -> object:
        kept(app, work, **given)
        raise AnswerLost("cut")

    with monkeypatch.context() as patched:
        patched.setattr(App, "write", cut)
        assert run(words) == 75
    assert (
        "If Drawdown refuses it because a push is voided or accepted, that push is settled" in capsys.readouterr().err
    )
    assert run(words) == 1
    said = capsys.readouterr().err
    assert "is voided, and " in said and "Drawdown did not change any of the 40 pushes" in said


def test_push_bulk_command_is_atomic(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    url = ["--database-url", fleet.engine.url.render_as_string(hide_password=False).replace("+psycopg", "")]
    url += ["--at", str(fleet.clock.at_ms)]
    odd = keys("acme", part=0)[0]
    assert run([*url, "push", "void", *keys("acme", part=1), odd, "--evidence", "seen"]) == 1
    assert f"{odd} is accepted" in (said := capsys.readouterr().err)
    assert "Drawdown did not change any of the 41 pushes" in said
    assert fleet.one("SELECT COUNT(*) FROM voids") == 0
    given = ["push", "retry", "--provider", "fake", "--error", "no such meter"]
    assert run([*url, *given, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "80 pushes: the next tick sends them again, all in one transaction" in told and "--expect 80" in told
    assert told.startswith("dry run: nothing was changed")
    assert "no push matches" not in told and told.split("Pushes that match")[1].split()[:2] == ["80", "0"]
    assert run([*url, *given, "--expect", "79"]) == 1
    assert "expected 79, but found 80" in capsys.readouterr().err
    assert fleet.one("SELECT COUNT(*) FROM voids") == 0
    assert run([*url, *given]) == 0
    assert "80 pushes: the next tick sends them again, all in one transaction" in capsys.readouterr().out
    assert fleet.one("SELECT COUNT(*) FROM voids") == 80
