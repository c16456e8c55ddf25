"""Runs of organisations whose balance a provider keeps: held here, billed there as usage, once, on both databases."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from drawdown.cli.main import run
from drawdown.ledger.draws import Cost
from drawdown.ledger.reservations import Denied
from drawdown.schema.database import connect, write
from drawdown.schema.errors import UsageError
from drawdown.schema.migrate import upgrade
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS, WINDOW_MS
from drawdown.worker.engine import runner
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.provider import actions
from drawdown.worker.verdict import holds
from drawdown.worker.verdict.holds import expire_holds
from drawdown.worker.wallets import actions as credit
from drawdown.worker.watch import Watcher, watch
from tests.integration.remote import SECONDS, Far
from tests.world import T0

HOUR_MS = 60 * MINUTE_MS


def upgraded(url: str) -> sa.Engine:
    engine = connect(url)
    upgrade(engine)
    return engine


@pytest.fixture
def far(engine: sa.Engine) -> Far:
    return Far(engine)


def test_remote_execution_reserves_locally_and_is_billed_once(far: Far) -> None:
    accepted = far.accept("e-1")
    assert (accepted.reservation.hold, accepted.reservation.customer_id) == ("local", "acme")
    assert accepted.wallet is not None
    assert accepted.wallet.available_micro == 40 * MICRO
    assert accepted.balance_read_ms == T0 + WINDOW_MS
    settled = far.settle("e-1", 45)
    assert settled.wallet is not None
    assert (settled.drawn.charged_micro, settled.wallet.available_micro) == (45 * MICRO, 55 * MICRO)
    assert far.billed == 0, "nothing is sent but by the tick"
    for _ in range(3):
        far.fleet.tick_windows(2)
        assert far.billed == 45
    assert far.fleet.rows("SELECT quantity, amount_micro, number FROM run_usage") == [(45, 45 * MICRO, "final")]
    assert far.fleet.rows("SELECT COUNT(*) FROM ledger_accounts") == [(0,)], "no wallet is made of it"
    far.clean()


def test_remote_execution_repeated_calls_return_first_result(far: Far) -> None:
    for repeated in (False, True):
        assert far.accept("e-1").repeated is repeated
        assert far.draw("e-1", 1, 10).drawn.repeated is repeated
        assert far.draw("e-1", 2, 10).drawn.repeated is repeated
    for repeated in (False, True):
        assert far.settle("e-1", 45).drawn.repeated is repeated
    assert far.draw("e-1", 1, 10).drawn.repeated, "also once it has ended"
    assert far.fleet.rows("SELECT id FROM usage_samples ORDER BY id") == [
        ("run:e-1:d1:compute_4gb:0",),
        ("run:e-1:d2:compute_4gb:0",),
        ("run:e-1:final:compute_4gb:0",),
    ]
    far.fleet.tick_windows(2)
    assert far.billed == 45
    far.clean()


Act = Callable[[Far], object]
OTHER: dict[str, tuple[str, Act]] = {
    "another estimate": ("other_content", lambda far: far.accept("held", 7)),
    "another organisation": ("other_content", lambda far: far.accept("held", 60, org="other")),
    "a draw of another amount": ("other_content", lambda far: far.draw("held", 1, 2)),
    "less than was drawn": ("below_drawn", lambda far: far.settle("held", 2)),
    "a settlement at another use": ("other_content", lambda far: far.settle("settled", 3)),
    "a settlement after its release": ("ended", lambda far: far.settle("released", 1)),
    "a release after its settlement": ("ended", lambda far: far.release("settled")),
    "a draw after its settlement": ("ended", lambda far: far.draw("settled", 9, 1)),
    "more than there is": ("no_credit", lambda far: far.accept("new", 96)),
    "above a hold that refuses it": ("beyond_hold", lambda far: far.settle("refuses", 2)),
}


def test_remote_execution_repeat_with_other_content_is_denied(far: Far) -> None:
    far.accept("held", 4)
    far.draw("held", 1, 3)
    far.accept("settled", 4)
    far.settle("settled", 1)
    far.accept("released", 4)
    far.release("released")
    far.accept("refuses", 1, overage="refuse")
    before = far.fleet.rows("SELECT * FROM reservations ORDER BY 1"), far.fleet.rows("SELECT * FROM usage_samples")
    assert {name: far.denied(lambda: act(far)) for name, (_, act) in OTHER.items()} == {  # noqa: B023
        name: code for name, (code, _) in OTHER.items()
    }
    assert before == (
        far.fleet.rows("SELECT * FROM reservations ORDER BY 1"),
        far.fleet.rows("SELECT * FROM usage_samples"),
    )


@pytest.mark.both_databases
def test_remote_available_excludes_used_and_reserved_credit(far: Far) -> None:
    """Available: the balance by its last read, less what is sealed and not in it, not sealed yet, and held."""
    far.fleet.sample("acme", far.fleet.clock.at_ms, 20, 4096)
    assert far.available == 80
    far.accept("e-1", 50)
    assert far.available == 30
    assert far.denied(lambda: far.accept("e-2", 31)) == "no_credit"
    far.accept("e-2", 30)
    assert far.available == 0
    far.release("e-2")
    assert far.available == 30
    far.settle("e-1", 10)
    assert far.available == 70, "what it used is not sealed yet, and counted at once"
    far.fleet.clock.at_ms += 2 * WINDOW_MS
    far.says(70)
    far.fleet.tick()
    assert far.available == 70, "sealed, sent, and in the balance that was read"


def test_remote_available_excludes_usage_missing_in_lagging_balance(far: Far) -> None:
    """Also where nothing is held, and nothing was used since: a preview says what an acceptance goes by."""
    far.fleet.write("UPDATE orgs SET unconfirmed_micro = :unseen WHERE org_id = 'acme'", {"unseen": 45 * MICRO})
    assert far.available == 55
    preview = far.preview(Request("acme", quantities={SECONDS: 60}))
    assert (preview.allowed, preview.code) == (False, "no_credit")
    assert far.denied(lambda: far.accept("e-1", 60)) == "no_credit"


def test_expired_remote_reservation_is_not_counted_and_is_ended(far: Far) -> None:
    far.accept("e-1", 60, for_ms=MINUTE_MS)
    far.accept("e-2", 10)
    far.fleet.clock.at_ms += MINUTE_MS
    assert far.available == 90
    world = runner.World(far.fleet.engine, far.fleet.providers, far.fleet.cells, far.fleet.clock)
    assert runner.run(expire_holds(far.fleet.context()), world) == 0, "no wallet moved"
    assert far.fleet.rows("SELECT reservation, state FROM reservations ORDER BY 1") == [
        ("e-1", "expired"),
        ("e-2", "held"),
    ]
    assert far.settle("e-1", 30).drawn.charged_micro == 30 * MICRO, "late, and billed all the same"
    assert far.denied(lambda: far.draw("e-1", 1, 1)) == "ended"
    far.clean()


def test_expired_remote_reservations_are_ended_in_portions(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    for at in range(5):
        far.accept(f"e-{at}", 1, for_ms=MINUTE_MS)
    far.fleet.clock.at_ms += MINUTE_MS
    monkeypatch.setattr(holds, "MOST_OVER_AT_ONCE", 2)
    world = runner.World(far.fleet.engine, far.fleet.providers, far.fleet.cells, far.fleet.clock)
    runner.run(expire_holds(far.fleet.context(), sweeps=1), world)
    assert far.fleet.one("SELECT COUNT(*) FROM reservations WHERE state = 'expired'") == 2
    runner.run(expire_holds(far.fleet.context()), world)
    assert far.fleet.one("SELECT COUNT(*) FROM reservations WHERE state = 'expired'") == 5


def test_remote_execution_extend_beyond_available_is_denied(far: Far) -> None:
    far.accept("e-1", 60)

    def extend(to: int) -> executions.Accepted:
        return far.write(lambda c: executions.extend(c, "e-1", to * MICRO, HOUR_MS, far.fleet.by))

    assert extend(90).reservation.left_micro == 90 * MICRO
    assert far.denied(lambda: extend(101)) == "no_credit"
    assert extend(100).repeated is False
    assert extend(100).repeated is True
    assert far.available == 0


def test_remote_settlement_above_reservation_is_billed_in_full(far: Far) -> None:
    far.accept("e-1", 10)
    assert far.settle("e-1", 130).drawn.charged_micro == 130 * MICRO
    far.fleet.tick_windows(2)
    assert far.billed == 130


def test_remote_reservation_of_whole_balance_halts_until_released(far: Far) -> None:
    far.accept("e-1", 100)
    far.fleet.tick_windows(1)
    assert far.fleet.rows("SELECT is_halted, halt_reason FROM orgs WHERE org_id = 'acme'") == [(True, "reserved")]
    assert far.denied(lambda: far.accept("e-2", 1)) == "halted"
    far.release("e-1")
    far.fleet.tick_windows(1)
    assert far.fleet.one("SELECT is_halted FROM orgs WHERE org_id = 'acme'") == 0


def test_watch_deducts_remote_reservations_and_halts(far: Far) -> None:
    far.accept("e-1", 60)
    far.fleet.sample("acme", far.fleet.clock.at_ms, 45, 4096)
    world = runner.World(far.fleet.engine, far.fleet.providers, far.fleet.cells, far.fleet.clock)
    runner.run(watch(far.fleet.context(), Watcher()), world)
    assert far.fleet.one("SELECT is_halted FROM orgs WHERE org_id = 'acme'") == 1


REFUSED: dict[str, tuple[str, str, Request]] = {
    "credits": ("account", "needs_quantities", Request("acme", 6 * MICRO)),
    "no estimate": ("account", "needs_quantities", Request("acme")),
    "a cost that is written off": (
        "account",
        "needs_wallet",
        Request("acme", quantities={SECONDS: 1}, overage="cap"),
    ),
    "a supplier": ("account", "needs_wallet", Request("acme", quantities={SECONDS: 1}, supplier="pixel")),
    "its samples to settle it": (
        "account",
        "needs_wallet",
        Request("acme", quantities={SECONDS: 1}, settled_by="metering", sandboxes=("sb-1",)),
    ),
    "to pay for its sandboxes": (
        "account",
        "needs_wallet",
        Request("acme", quantities={SECONDS: 1}, settled_by="receipt", sandboxes=("sb-1",)),
    ),
    "more than there is": ("credits", "no_credit", Request("acme", quantities={SECONDS: 101})),
    "a feature without a rate": ("", "no_rate", Request("acme", quantities={"compute_1gb": 1})),
    "a balance that was never read": ("account", "balance_unknown", Request("new", quantities={SECONDS: 1})),
}


def test_remote_execution_refusals_name_step_and_code(far: Far) -> None:
    far.fleet.assign("new", provider="far")
    for name, (step, code, request) in REFUSED.items():
        found = far.preview(request)
        assert (found.allowed, found.step or "", found.code) == (False, step, code), name
        denied = far.denied(lambda: far.write(lambda c: executions.accept(c, "e-1", request, far.fleet.by)))  # noqa: B023
        assert denied == code, name
    assert far.fleet.rows("SELECT COUNT(*) FROM reservations") == [(0,)]


def test_remote_execution_with_zero_estimate_is_refused(far: Far) -> None:
    with pytest.raises(UsageError, match="expected more than 0"):
        far.accept("e-1", 0)


def test_remote_settlement_without_metered_quantities_is_denied(far: Far) -> None:
    far.accept("e-1")
    cost = Cost(6 * MICRO)
    assert (
        far.denied(lambda: far.write(lambda c: executions.settle(c, "e-1", cost, far.fleet.by))) == "needs_quantities"
    )
    far.write(lambda c: actions.set_rate(c, "far", "tokens", (1, 1), far.fleet.by, from_ms=T0, new=True))
    tokens = Cost(quantities={"tokens": 5})
    assert far.denied(lambda: far.write(lambda c: executions.settle(c, "e-1", tokens, far.fleet.by))) == "not_metered"
    assert far.settle("e-1", 0).drawn.charged_micro == 0, "of nothing, with a receipt"
    far.clean()


@pytest.mark.parametrize("unlimited", [True, False])
def test_remote_execution_without_balance_limit_is_declared(engine: sa.Engine, unlimited: bool) -> None:
    """A balance without an end; or a provider that bills afterwards, and a customer who was never given credit."""
    far = Far(engine, None)
    org = "acme" if unlimited else "post"
    if not unlimited:
        far.fleet.assign("post", provider="metered")
        far.fleet.tick_windows(1)
    found = far.preview(Request(org, quantities={SECONDS: 1_000_000}))
    assert (found.allowed, found.hold, found.available_micro) == (True, "declared", None)
    accepted = far.accept("e-1", 1_000_000, org=org)
    assert (accepted.reservation.hold, accepted.wallet) == ("declared", None)
    assert far.settle("e-1", 500_000).drawn.charged_micro == 500_000 * MICRO
    far.fleet.tick_windows(2)
    biller = far.far if unlimited else far.metered
    assert [push.quantity for push in biller.charged.values()] == [500_000]
    far.clean()


def test_concurrent_remote_executions_do_not_exceed_balance(database_url: str) -> None:
    far = Far(upgraded(database_url))

    def ask(number: int) -> bool:
        engine = connect(database_url)
        try:
            request = Request("acme", quantities={SECONDS: 30})
            write(engine, lambda c: executions.accept(c, f"e-{number}", request, far.fleet.by))
        except Denied as error:
            assert error.code == "no_credit"
            return False
        finally:
            engine.dispose()
        return True

    with ThreadPoolExecutor(8) as pool:
        accepted = sum(pool.map(ask, range(8)))
    assert accepted == 3
    assert far.available == 10


def test_concurrent_remote_settlements_are_billed_once(database_url: str) -> None:
    far = Far(upgraded(database_url))
    far.accept("e-1")

    def end(_: int) -> bool:
        engine = connect(database_url)
        try:
            cost = Cost(quantities={SECONDS: 45})
            return write(engine, lambda c: executions.settle(c, "e-1", cost, far.fleet.by)).drawn.repeated
        finally:
            engine.dispose()

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(end, range(4))) == [False, True, True, True]
    far.fleet.tick_windows(2)
    assert far.billed == 45
    far.clean()


def test_remote_execution_after_reassignment_is_billed_by_window_provider(far: Far) -> None:
    far.accept("e-1")
    far.write(lambda c: assign(c, ["acme"], "embedded", far.fleet.by))
    far.write(lambda c: credit.grant(c, "acme", 500 * MICRO, far.fleet.by, key="first", plan=None))
    far.fleet.tick_windows(2)
    far.settle("e-1", 45)
    far.fleet.tick_windows(2)
    assert far.billed == 0
    assert far.fleet.one("SELECT balance_micro FROM ledger_accounts WHERE account_id = 'wallet:acme'") == 455 * MICRO
    assert far.fleet.one("SELECT held_micro FROM ledger_accounts WHERE account_id = 'wallet:acme'") == 0
    far.clean()


def test_remote_execution_does_not_change_wallet_of_same_name(far: Far) -> None:
    """It was billed here before, and its wallet is still there."""
    far.accept("e-1", 60, for_ms=MINUTE_MS)
    far.write(lambda c: credit.grant(c, "acme", 5 * MICRO, far.fleet.by, key="first", plan=None))
    far.fleet.clock.at_ms += DAY_MS
    far.write(lambda c: c.execute(sa.text("UPDATE ledger_accounts SET next_due_ms = 1")))
    far.fleet.tick()
    assert far.fleet.rows("SELECT balance_micro, held_micro FROM ledger_accounts") == [(5 * MICRO, 0)]
    assert far.fleet.one("SELECT state FROM reservations") == "expired"
    far.clean()


def test_execution_key_of_remote_reservation_is_denied_for_wallet(far: Far) -> None:
    far.accept("e-1")
    far.fleet.assign("here")
    far.write(lambda c: credit.grant(c, "here", 100 * MICRO, far.fleet.by, key="first", plan=None))
    assert far.denied(lambda: far.accept("e-1", org="here")) == "other_content"


def test_sample_with_id_of_settlement_denies_that_settlement(far: Far) -> None:
    far.accept("e-1")
    far.fleet.sample("acme", far.fleet.clock.at_ms, 7, 4096, sample_id="run:e-1:final:compute_4gb:0", cell="runs")
    assert far.denied(lambda: far.settle("e-1", 45)) == "other_content"
    assert far.fleet.one("SELECT state FROM reservations") == "held"
    assert far.settle("e-1", 0).drawn.charged_micro == 0
    far.clean()


def test_remote_execution_with_key_of_200_characters_is_billed(far: Far) -> None:
    far.says(300_000)
    far.fleet.tick_windows(1)
    for length in (1, 190, 200):
        far.accept("k" * length)
        far.settle("k" * length, 90_000)
    kept = far.fleet.rows("SELECT SUM(interval_s), COUNT(*) FROM usage_samples WHERE problem IS NULL")
    assert kept == [(270_000, 6)]
    far.fleet.tick_windows(2)
    assert far.billed == 270_000
    far.clean()


def test_run_usage_rows_are_append_only(far: Far) -> None:
    far.accept("e-1")
    far.settle("e-1", 45)
    for statement in ("UPDATE run_usage SET quantity = 1", "DELETE FROM run_usage", "DELETE FROM run_samples",
                      "UPDATE reservations SET hold = 'wallet'"):  # fmt: skip
        with pytest.raises(DBAPIError, match=r"append-only|cannot change"):
            far.fleet.write(statement)


def test_execution_commands_show_balance_and_time_of_reading(far: Far, capsys: pytest.CaptureFixture[str]) -> None:
    url = far.fleet.engine.url.render_as_string(hide_password=False)
    at = ["--database-url", url, "--at", "2026-01-01T00:06:00Z", "--json"]
    outcomes = []
    for words in (
        "execution preview --org acme --use compute_4gb=60",
        "execution accept e-1 --org acme --use compute_4gb=60",
        "execution settle e-1 --use compute_4gb=45",
        "execution show e-1",
    ):
        assert run([*at, *words.split()]) == 0
        outcomes.append(json.loads(capsys.readouterr().out))
    preview, accepted, settled, shown = outcomes
    assert (preview["hold"], preview["available"], preview["balance_read_ms"]) == ("local", 100, T0 + WINDOW_MS)
    assert (accepted["hold"], accepted["available"], accepted["balance_read_ms"]) == ("local", 40, T0 + WINDOW_MS)
    assert (settled["charged"], settled["available"]) == (45, 55)
    assert (shown["execution"]["hold"], shown["entries"][0]["key"]) == ("local", "run:e-1:final:compute_4gb")
    assert run([*at[:-1], "execution", "show", "e-1"]) == 0
    assert run([*at[:-1], "execution", "preview", "--org", "acme", "--use", "compute_4gb=1"]) == 0
    assert "by the balance read at" in capsys.readouterr().out
