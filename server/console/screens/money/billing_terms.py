"""When a wallet is halted, called low, or filled; and how it is filled by itself."""

from __future__ import annotations

from drawdown.server.console.frame import figures
from drawdown.server.console.frame.parts import Cell, Link, Table, act
from drawdown.server.console.screens.money import cells
from drawdown.worker.wallets.accounts import Account
from drawdown.worker.wallets.lists import BillingTerms


def thresholds(terms: BillingTerms, account: Account, customer: str, *, is_here: bool) -> Table:
    """At which credit something happens, and whether it has. `is_here`: whether a balance is kept here."""
    available = account.available_micro if is_here else None
    balance = available if terms.billing_provider is None or terms.read_micro is None else terms.read_micro
    halted = Cell("halted", "state", "bad") if terms.is_halted else Cell("open")
    low = terms.low_micro
    rows = [
        (Cell("Halted"), cells.credits(None if balance is None else 0), cells.credits(balance, narrow=False), halted,
         Cell(_halt_said(terms), "id", narrow=False)),
        (Cell("Low credit"), cells.credits(low), cells.credits(None if low is None else balance, narrow=False),
         _reached(low, balance),
         Cell("a message is sent, once an episode" if low is not None else "nobody is told: no level is set",
              narrow=False)),
        (Cell("Automatic top-up"), cells.credits(terms.threshold_micro),
         cells.credits(None if terms.mode is None else available, narrow=False), state_of(terms),
         Cell(_fill_said(terms), narrow=False)),
    ]  # fmt: skip
    heads = ("Threshold", "#At or below", "#Now", "State", "What happens")
    return Table("Thresholds", heads, rows, "", cells.command("ledger", "billing", customer))


def _halt_said(terms: BillingTerms) -> str:
    if terms.is_halted:
        above = f"; it goes on above {figures.credits(terms.resume_above_micro)}" if terms.resume_above_micro else ""
        return f"{terms.halt_reason or 'its sandboxes are stopped'}{above}"
    return "its sandboxes are stopped, by what is left once its use and its holds are taken off"


def _fill_said(terms: BillingTerms) -> str:
    if terms.mode is None:
        return "it is not filled by itself"
    if terms.stopped_ms is not None or terms.mode == "stopped":
        return "nothing, until a person starts it"
    if terms.blocked_ms is not None:
        return "nothing, until there is another card, or a paid invoice"
    return "the wallet is filled" if terms.mode == "live" else "what would be charged is written down"


def _reached(level: int | None, balance: int | None) -> Cell:
    if level is None or balance is None:
        return Cell("none")
    return Cell("low", "state", "warn") if balance <= level else Cell("above")


def state_of(terms: BillingTerms) -> Cell:
    """Of an automatic top-up: armed, paused, stopped by itself, or all of them by the kill switch."""
    if terms.mode is None:
        return Cell("none")
    if terms.stopped_ms is not None:
        return Cell("all are stopped", "state", "bad")
    if terms.blocked_ms is not None:
        return Cell("stopped itself", "state", "bad")
    if terms.mode == "stopped":
        return Cell("paused", "state", "warn")
    return Cell("armed" if terms.mode == "live" else "shadow: nobody is charged", "state")


def pause(terms: BillingTerms, customer: str) -> list[Link]:
    """What may be done to a top-up from here; what asks the payment service is ordered."""
    if terms.mode is None:
        return []
    found = [] if terms.mode == "live" else [act("Start top-up", "topup-start", id=customer)]
    if terms.mode == "stopped":
        return [*found, act("Try top-up out", "topup-shadow", id=customer)]
    other_card = terms.blocked_ms is not None or terms.declines
    found += [act("Go on with another card", "topup-arm", id=customer)] if other_card else []
    return [*found, act("Pause top-up", "topup-stop", id=customer)]


def top_up(terms: BillingTerms, customer: str, now_ms: int) -> Table:
    """How a wallet is filled by itself."""
    title, heads = "Automatic top-up", ("Term", "As it is")
    if terms.mode is None:
        fill = "--below 5 --amount 20 --price 100 --currency usd --customer CUSTOMER_THERE --most 10000"
        return Table(title, heads, [], "It has none.", f"{cells.command('topup', 'set', customer)} {fill}")
    by = f"by {figures.exact(terms.amount_micro)}, as often as it takes"
    if terms.fill_to_micro is not None:
        by = f"up to {figures.exact(terms.fill_to_micro)}"
    facts = [
        (Cell("State"), state_of(terms)),
        (Cell("At or below, credits"), Cell(figures.exact(terms.threshold_micro))),
        (Cell("It is filled, credits"), Cell(by)),
        (Cell("A credit costs"), Cell(cells.money(terms.price_minor, terms.currency))),
        (Cell("One charge is at most"), Cell(cells.money(terms.most_minor, terms.currency))),
        (Cell("At most"), Cell(f"{figures.count(terms.max_day)} a day, {figures.count(terms.max_month)} in 30 days")),
        (Cell("Charged at"), Cell(f"{terms.service} as {terms.service_customer}", "id")),
        (Cell("Declines, one after another"), Cell(figures.count(terms.declines))),
    ]
    if terms.wait_until_ms is not None and terms.wait_until_ms > now_ms:
        facts.append((Cell("A decline is waited out until, UTC"), cells.time(terms.wait_until_ms)))
    if terms.blocked_ms is not None:
        why = f"{figures.time(terms.blocked_ms)}: {terms.blocked_reason}"
        facts.append((Cell("Stopped itself, UTC"), Cell(why, "id")))
    if terms.stopped_ms is not None:
        why = f"{figures.time(terms.stopped_ms)} by {terms.stopped_by}: {terms.stopped_reason}"
        facts.append((Cell("All were stopped, UTC"), Cell(why, "id")))
    start = terms.mode == "stopped" or terms.blocked_ms is not None
    verb = "arm" if terms.blocked_ms is not None else "start"
    note = (
        "Another card, or a start, asks the payment service first: it is ordered, and a tick does it." if start else ""
    )
    return Table(title, heads, facts, "", cells.command("topup", verb if start else "show", customer), note=note)
