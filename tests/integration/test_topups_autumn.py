"""Top-ups with Autumn behind them: the worker's own steps against the emulated account."""

from __future__ import annotations

import random

import pytest
import sqlalchemy as sa

from drawdown.cli.app import App
from drawdown.cli.main import run
from drawdown.providers.autumn.payments import MAX_NAMED, AutumnPayments, build
from drawdown.providers.kit.emulator import Direct, FaultPlan
from drawdown.providers.payments.registry import PaymentServices
from drawdown.providers.protocol import Setup
from drawdown.schema.clock import FixedClock
from drawdown.schema.database import connect
from drawdown.schema.migrate import upgrade
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS
from drawdown.worker.engine import runner
from drawdown.worker.engine.context import Context
from drawdown.worker.topup import actions as said
from drawdown.worker.topup.fill import fill
from tests.emulators.autumn import SECRET_KEY, AutumnEmulator
from tests.emulators.autumn_payments import ATTACH_FAULTS, Books
from tests.integration.topping import Purses
from tests.whole import share
from tests.world import T0, Cells

URL = "sqlite:///{}/drawdown.db"


class Account:
    """An Autumn account whose customer cus_acme has a good card, and the wallets that it fills."""

    def __init__(self, engine: sa.Engine, seed: int = 0, share: float = 0.0) -> None:
        self.purses = Purses(engine)
        self.books = Books(cards={"cus_acme": "good"})
        rates = dict.fromkeys(ATTACH_FAULTS, share / len(ATTACH_FAULTS)) | {"reads_fail": share}
        self.autumn = AutumnEmulator(faults=FaultPlan(seed, rates), books=self.books)
        self.autumn.account.add_customer("cus_acme", T0)
        self.service = made(self.autumn, self.purses.clock, engine)
        self.purses.set(service="autumn")

    def fill(self, later_ms: int = 0) -> None:
        self.purses.later(later_ms)
        can = {"autumn": self.service.capabilities}
        world = runner.World(self.purses.engine, {}, Cells(), self.purses.clock, payments={"autumn": self.service})
        runner.run(fill(Context("w", self.purses.clock, {}, payments=can)), world)


def made(autumn: AutumnEmulator, clock: FixedClock, engine: sa.Engine) -> AutumnPayments:
    settings = {"secret_key": SECRET_KEY, "topup_plan": "topup", "topup_feature": "cents"}
    return build(Setup("autumn", settings, clock, Direct(autumn, clock), engine))


def test_autumn_topup_is_charged_once(engine: sa.Engine) -> None:
    account = Account(engine)
    for _ in range(3):
        account.fill(MINUTE_MS)
    assert (account.purses.credits(), len(account.books.taken)) == (20, 1)
    assert account.purses.topups() == [("topup:acme:1", "credited")]


@pytest.mark.parametrize("fault", ["answer_lost", "unnoted", "request_lost"])
def test_autumn_topup_in_doubt_waits_for_resolve(engine: sa.Engine, fault: str) -> None:
    account = Account(engine)
    account.autumn.faults.rates = {fault: 1.0}
    account.fill()
    account.autumn.faults.rates = {}
    for _ in range(20):
        account.fill(DAY_MS)
    assert account.autumn.calls["billing.attach"] == 1
    assert account.purses.topups() == [("topup:acme:1", "in_doubt")]
    purses, was_taken = account.purses, bool(account.books.taken)
    payment = account.books.taken[0].payment_id if was_taken else None
    purses.write(lambda c: said.resolve(c, "topup:acme:1", payment, "their dashboard at Stripe", purses.by))
    for _ in range(3):
        account.fill(MINUTE_MS)
    assert (len(account.books.taken), account.books.doubles(), purses.credits()) == (1, [], 20)


def test_autumn_topup_in_doubt_stores_all_listed_invoices(engine: sa.Engine) -> None:
    account = Account(engine)
    account.autumn.faults.rates = {"answer_lost": 1.0}
    account.fill()
    account.books.invoices *= 7
    account.fill(DAY_MS)
    ((evidence,),) = account.purses.rows("SELECT evidence FROM topups")
    assert evidence.count("in_1 paid 2000 usd") == MAX_NAMED and evidence.endswith(" and 2 more")


@pytest.mark.both_databases
def test_autumn_customer_with_own_topup_is_blocked_and_not_charged(engine: sa.Engine) -> None:
    account = Account(engine)
    account.books.fills_itself["cus_acme"] = True
    for _ in range(3):
        account.fill(DAY_MS)
    assert account.books.taken == []
    assert account.purses.topups() == [("topup:acme:1", "given_up")]
    ((blocked,),) = account.purses.rows("SELECT blocked_reason FROM topup_terms")
    assert "tops up this customer itself" in blocked


@pytest.mark.parametrize("seed", share((0,), whole=(0, 1, 2, 3)))
def test_autumn_topup_under_faults_is_not_charged_twice(engine: sa.Engine, seed: int) -> None:
    account = Account(engine, seed, share=0.4)
    purses, rng = account.purses, random.Random(seed)
    for _ in range(120):
        purses.use(rng.randrange(40) * MICRO)
        account.fill(rng.randrange(DAY_MS))
        for (topup,) in purses.rows("SELECT topup FROM topups WHERE state = 'in_doubt'"):
            if rng.random() < 0.3:  # a person looks at Stripe's dashboard, where our id stands
                paid = next((one.payment_id for one in account.books.taken if one.charge_id == topup), None)
                purses.write(lambda c, t=topup, p=paid: said.resolve(c, t, p, "seen", purses.by))  # type: ignore[misc]
        for (customer,) in purses.rows("SELECT customer_id FROM topup_terms WHERE blocked_ms IS NOT NULL"):
            purses.write(lambda c, who=customer: said.resume(c, who, purses.by))  # type: ignore[misc]
    credited = {row[0] for row in purses.rows("SELECT topup FROM topups WHERE state = 'credited'")}
    doubtful = {row[0] for row in purses.rows("SELECT topup FROM topups WHERE state IN ('in_doubt', 'sending')")}
    taken = {one.charge_id for one in account.books.taken}
    assert account.books.doubles() == []
    assert credited <= taken <= credited | doubtful
    assert len(credited) > 5


def test_topup_start_or_resume_is_refused_if_autumn_tops_up(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = URL.format(tmp_path)
    engine = connect(url)
    upgrade(engine)
    account = Account(engine)
    services = PaymentServices({"autumn": account.service})
    monkeypatch.setattr(App, "payments", property(lambda _: services))

    def said_by(words: str) -> tuple[int, str]:
        status = run(["--database-url", url, "--at", "2026-01-01T00:00:00Z", *words.split()])
        done = capsys.readouterr()
        return status, done.out + done.err

    setting = "topup set acme --below 5 --amount 20 --price 100 --currency usd --customer cus_acme --most 10000 --new"
    account.books.fills_itself["cus_acme"] = True
    for words in (f"{setting} --service autumn", "topup resume acme", "topup start acme"):
        status, text = said_by(words)
        assert (status, "itself (credits)" in text) == (1, True), text
    assert said_by(f"{setting} --service autumn --shadow")[0] == 0, "a shadow charges nobody"
    assert said_by("topup start acme --shadow")[0] == 0
    status, text = said_by("topup start acme")
    assert (status, "itself (credits)" in text) == (1, True), "what was tried out is asked of before it charges, too"
    account.books.fills_itself["cus_acme"] = False
    assert said_by(f"{setting} --service autumn")[0] == 0
    for _ in range(2):
        assert said_by("topup resume acme")[0] == 0
    assert (len(account.books.taken), account.books.doubles()) == (1, [])


def test_topup_set_and_stop_name_charge_that_may_still_be_paid(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = URL.format(tmp_path)
    engine = connect(url)
    upgrade(engine)
    account = Account(engine)
    services = PaymentServices({"autumn": account.service})
    monkeypatch.setattr(App, "payments", property(lambda _: services))
    account.autumn.faults.rates = {"answer_lost": 1.0}
    account.fill()
    account.autumn.faults.rates = {}
    setting = "set acme --below 5 --amount 10 --price 100 --currency usd --customer cus_acme --most 10000 --new"
    for words in (f"{setting} --service autumn", "start acme --shadow", "stop acme"):
        status = run(["--database-url", url, "--at", "2026-01-01T00:00:00Z", "topup", *words.split()])
        done = capsys.readouterr()
        line = "the charge of topup:acme:1 may still be paid and credited. Run `drawdown topup show topup:acme:1`"
        assert (status, line in done.out) == (0, True), (words, done)


def test_topup_start_and_resume_queue_only_if_allowed(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = URL.format(tmp_path)
    engine = connect(url)
    upgrade(engine)
    account = Account(engine)
    services = PaymentServices({"autumn": account.service})
    monkeypatch.setattr(App, "payments", property(lambda _: services))
    for words, status, told in (
        ("resume acme --queue", 1, "cannot resume the top-ups of acme: a declined"),
        ("start acme --queue", 1, "top-ups of acme are already live"),
        ("stop acme --undo", 2, "--undo needs --all"),
        ("start acme --shadow --queue", 2, "either --shadow or --queue"),
        ("stop acme", 0, "acme: stopped"),
        ("resume acme --queue", 1, "top-ups of acme are stopped"),
        ("start acme --queue", 0, "queued as job 1. The next tick starts the job"),
        ("start acme --queue", 1, "the same job is already queued: job 1"),
    ):
        ended = run(["--database-url", url, "--at", "2026-01-01T00:00:00Z", "topup", *words.split()])
        done = capsys.readouterr()
        assert (ended, told in done.out + done.err) == (status, True), (words, done)
    assert account.purses.rows("SELECT mode FROM topup_terms") == [("stopped",)], "a tick does it"
