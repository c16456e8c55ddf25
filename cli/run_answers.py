"""What commands on runs answer with."""

from __future__ import annotations

import json

from drawdown.cli.app import App
from drawdown.cli.rendering import show
from drawdown.ledger.reservations import Reservation
from drawdown.schema.typed.parsing import in_credits, show_credits, show_time
from drawdown.worker.executions.request import Accepted, Preview, Settled


def said_of(run: Reservation) -> dict[str, object]:
    kept = {name: value for name, value in vars(run).items() if name != "fingerprint"}
    return {
        **kept,
        "payer": run.customer_id,
        "sandboxes": run.named,
        **credits_of(reserved=run.amount_micro, drawn=run.drawn_micro, held=run.left_micro),
    }


def told_of(run: Reservation) -> dict[str, object]:
    """The same for people, in HTTP's words."""
    own = ("reservation", "fingerprint", "estimate", "amount_micro", "drawn_micro", "sandboxes", "payer_number")
    used: dict[str, int] = {} if run.estimate is None else json.loads(run.estimate)
    return {
        "key": run.reservation,
        "use": " ".join(f"{feature}={quantity:,}" for feature, quantity in used.items()) or None,
        "reserved_micro": run.amount_micro,
        "drawn_micro": run.drawn_micro,
        "held_micro": run.left_micro,
        **{name: value for name, value in vars(run).items() if name not in own},
        "sandboxes": " ".join(run.named),
    }


def preview_of(found: Preview) -> str:
    """Of what a run's hold would be."""
    if found.hold == "wallet" and found.available_micro is None:
        return f"{found.customer_id}'s"
    if found.available_micro is None:
        return f"no bound ({found.hold}{read_at(found.balance_read_ms)})"
    return f"{show_credits(found.available_micro)} available ({found.hold}{read_at(found.balance_read_ms)})"


def credits_of(**micro: int | None) -> dict[str, object]:
    return {name: None if value is None else in_credits(value) for name, value in micro.items()}


def show_settled(app: App, done: Settled, said: str) -> None:
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
    show_with_wallet(app, drawn.reservation, done, line, repeated=drawn.repeated, **more)


def _show_metered(app: App, done: Settled, said: str) -> None:
    found = done.drawn.reservation
    again = " before" if done.drawn.repeated else ""
    line = f"{said}{again}; metering had charged {show_credits(found.drawn_micro)} credits, and charges what is to come"
    show_with_wallet(app, found, done, line, repeated=done.drawn.repeated, **credits_of(charged=0, written_off=0))


def show_with_wallet(app: App, run: Reservation, done: Accepted | Settled, line: str, **more: object) -> None:
    there, credits = "nothing bounds what is held: it is declared", credits_of(available=None, balance=None)
    if (wallet := done.wallet) is not None:
        there = f"{show_credits(wallet.available_micro)} available, {show_credits(wallet.held_micro)} reserved"
        credits = credits_of(available=wallet.available_micro, balance=wallet.balance_micro)
    result = {**said_of(run), **more, **credits, "balance_read_ms": done.balance_read_ms}
    show(app, result, [line, f"{run.customer_id}: {there}{read_at(done.balance_read_ms)}"])


def read_at(read_ms: int | None) -> str:
    """Of a balance that a provider keeps: how old it is."""
    return "" if read_ms is None else f", by the balance that was read {show_time(read_ms)}"
