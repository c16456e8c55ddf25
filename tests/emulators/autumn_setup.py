"""What is set up at the emulated Autumn over HTTP: features, plans, customers, balances.

Guarantee: ids that the recorded server refused are refused with its words.
"""

from __future__ import annotations

from decimal import Decimal

from tests.emulators.autumn_call import Ask, Refused, bad
from tests.emulators.autumn_numbers import ONE_OFF, Given, Json


def check_customer_id(ask: Ask) -> None:
    name = ask.body.get("customer_id", ask.body.get("id"))
    if name is None and not ask.body.get("email"):
        raise Refused(400, "invalid_request", "Either customer ID or email is required")
    allowed = "Use only letters, numbers, underscores, hyphens, and colons."
    for one in str(name):
        if one == " ":
            raise bad(f"customer_id: cannot contain spaces. {allowed}")
        if not (one.isascii() and one.isalnum()) and one not in "_-:":
            raise bad(f"customer_id: cannot contain '{one}'. {allowed}")


def make_customer(ask: Ask) -> tuple[int, Json]:
    name = ask.body.get("customer_id", ask.body.get("id"))
    found = ask.account.customer(str(name), ask.now_ms)
    if found is None:
        title, email = ask.body.get("name"), ask.body.get("email")
        found = ask.account.add_customer(
            str(name), ask.now_ms, title if isinstance(title, str) else None, str(email) if email else None
        )
    _set_controls(ask, found.name)
    return 200, found.shown(ask.account.env, ask.version, ask.now_ms)


def update_customer(ask: Ask) -> tuple[int, Json]:
    """Name, email and billing controls; the answer is the customer (B2-3)."""
    found = ask.known_customer(ask.text("customer_id"))
    title, email = ask.body.get("name", found.title), ask.body.get("email", found.email)
    found.title, found.email = title if title is None else str(title), email if email is None else str(email)
    _set_controls(ask, found.name)
    return 200, found.shown(ask.account.env, ask.version, ask.now_ms)


def _set_controls(ask: Ask, customer_id: str) -> None:
    controls = ask.body.get("billing_controls")
    if isinstance(controls, dict):
        ask.account.control(customer_id, controls, ask.now_ms)


def make_feature(ask: Ask) -> tuple[int, Json]:
    made = ask.account.add_feature(
        ask.text("feature_id"), kind=ask.text("type"), title=ask.text("name"),
        consumable=ask.body.get("consumable") is True, credit_schema=_schema(ask.body.get("credit_schema")),
    )  # fmt: skip
    return 200, made.shown()


def _schema(given: object) -> dict[str, Given]:
    return {str(one["metered_feature_id"]): one["credit_cost"] for one in given} if isinstance(given, list) else {}


def make_plan(ask: Ask) -> tuple[int, Json]:
    grants: dict[str, tuple[Given, str | None]] = {}
    items = ask.body.get("items")
    for one in items if isinstance(items, list) else []:
        reset = one.get("reset")
        grants[one["feature_id"]] = (one.get("included", 0), reset["interval"] if reset else None)
    made = ask.account.add_plan(
        ask.text("plan_id"), grants, auto_enable=ask.body.get("auto_enable") is True, now_ms=ask.now_ms
    )
    made.title = ask.text("name")
    return 200, made.shown()


def update_balance(ask: Ask) -> tuple[int, Json]:
    """`remaining` counts where `add_to_balance` is given too (J21); an unknown balance is a success (J22)."""
    customer, account = ask.known_customer(ask.text("customer_id")), ask.account
    ask.claim_header()
    feature, named = ask.known_feature().name, ask.body.get("balance_id")
    given = named if isinstance(named, str) else None
    more, remaining, usage = (ask.number(name) for name in ("add_to_balance", "remaining", "usage"))
    if remaining is not None:
        account.set_remaining(customer.name, feature, remaining, given=given, now_ms=ask.now_ms)
    elif more is not None:
        account.add_to_balance(customer.name, feature, more, given=given, now_ms=ask.now_ms)
    elif usage is not None:
        for one in customer.grants.get(feature, [])[:1]:
            account.set_remaining(customer.name, feature, one.granted - usage, given=one.given, now_ms=ask.now_ms)
    return 200, {"success": True}


def make_balance(ask: Ask) -> tuple[int, Json]:
    """An id is taken for good, also by a balance that is used up (B2-16)."""
    customer, named, reset = (
        ask.known_customer(ask.text("customer_id")),
        ask.body.get("balance_id"),
        ask.body.get("reset"),
    )
    given, ends = named if isinstance(named, str) else None, ask.body.get("expires_at")
    held = [one for grants in customer.grants.values() for one in grants] + customer.spent
    if given is not None and any(one.given == given for one in held):
        raise Refused(409, "invalid_request", f"balance_id '{given}' is already in use for this customer")
    ask.claim_header()
    ask.account.grant(
        customer.name, ask.known_feature().name, ask.number("included_grant") or 0, ask.now_ms, given=given,
        interval=str(reset["interval"]) if isinstance(reset, dict) else ONE_OFF,
        expires_at=int(ends) if isinstance(ends, int | Decimal) else None,
    )  # fmt: skip
    return 200, {"success": True}


def attach(ask: Ask) -> tuple[int, Json]:
    message = (
        "There is no Stripe account linked to this organization. Please connect it here: "
        "https://app.useautumn.com/sandbox/dev?tab=stripe"
    )
    raise Refused(400, "invalid_request", message)
