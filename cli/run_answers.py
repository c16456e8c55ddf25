"""What commands on runs answer with."""

from __future__ import annotations

from drawdown.cli.app import App
from drawdown.cli.parsing import in_credits, show_credits
from drawdown.cli.rendering import show
from drawdown.ledger.accounts import Wallet
from drawdown.ledger.runs.reservations import Reservation
from drawdown.worker.commands import executions


def said_of(run: Reservation) -> dict[str, object]:
    kept = {name: value for name, value in vars(run).items() if name != "fingerprint"}
    return {
        **kept,
        "payer": run.customer_id,
        "sandboxes": run.named,
        **credits_of(reserved=run.amount_micro, drawn=run.drawn_micro, held=run.left_micro),
    }


def credits_of(**micro: int | None) -> dict[str, object]:
    return {name: None if value is None else in_credits(value) for name, value in micro.items()}


def show_settled(app: App, done: executions.Settled, said: str) -> None:
    drawn = done.drawn
    if drawn.reservation.settled_by == "metering":
        _show_metered(app, done, said)
        return
    line = f"{said}; {show_credits(drawn.charged_micro)} credits were charged"
    if drawn.repeated:
        line = f"{said} before, at {show_credits(drawn.reservation.drawn_micro)} credits: nothing was charged"
    if drawn.written_off_micro:
        line += f", {show_credits(drawn.written_off_micro)} above the hold were not"
    more = credits_of(charged=drawn.charged_micro, written_off=drawn.written_off_micro)
    show_with_wallet(app, drawn.reservation, done.wallet, line, repeated=drawn.repeated, **more)


def _show_metered(app: App, done: executions.Settled, said: str) -> None:
    found = done.drawn.reservation
    again = " before" if done.drawn.repeated else ""
    line = f"{said}{again}; metering had charged {show_credits(found.drawn_micro)} credits, and charges what is to come"
    show_with_wallet(
        app, found, done.wallet, line, repeated=done.drawn.repeated, **credits_of(charged=0, written_off=0)
    )


def show_with_wallet(app: App, run: Reservation, wallet: Wallet, line: str, **more: object) -> None:
    there = (
        f"{run.customer_id}: {show_credits(wallet.available_micro)} available, {show_credits(wallet.held_micro)} held"
    )
    result = {**said_of(run), **more, **credits_of(available=wallet.available_micro, balance=wallet.balance_micro)}
    show(app, result, [line, there])
