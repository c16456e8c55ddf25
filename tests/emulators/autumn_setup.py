"""What is set up at the emulated Autumn over HTTP: features, plans, customers, balances.

Guarantee: ids that the recorded server refused are refused with its words.
"""

from __future__ import annotations

from tests.emulators.autumn_call import Ask, Refused, bad
from tests.emulators.autumn_state import ONE_OFF, Json, Number


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
    return 200, found.shown(ask.account.env, ask.version)


def make_feature(ask: Ask) -> tuple[int, Json]:
    made = ask.account.add_feature(
        ask.text("feature_id"), kind=ask.text("type"), title=ask.text("name"),
        consumable=ask.body.get("consumable") is True,
    )  # fmt: skip
    return 200, made.shown()


def make_plan(ask: Ask) -> tuple[int, Json]:
    grants: dict[str, tuple[Number, str | None]] = {}
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
    customer = ask.known_customer(ask.text("customer_id"))
    if ask.header_key:
        ask.account.claims[ask.header_key] = ask.now_ms + ask.account.key_retention_ms
    feature = ask.text("feature_id")
    more, remaining, usage = (ask.body.get(name) for name in ("add_to_balance", "remaining", "usage"))
    if isinstance(more, int | float):
        ask.account.add_to_balance(customer.name, feature, more)
    elif isinstance(remaining, int | float):
        ask.account.set_remaining(customer.name, feature, remaining)
    elif isinstance(usage, int | float):
        for one in customer.grants.get(feature, [])[:1]:
            ask.account.set_remaining(customer.name, feature, one.granted - usage)
    return 200, {"success": True}


def make_balance(ask: Ask) -> tuple[int, Json]:
    amount = ask.body.get("included_grant", 0)
    assert isinstance(amount, int | float)
    ask.account.grant(ask.text("customer_id"), ask.text("feature_id"), amount, ask.now_ms, interval=ONE_OFF)
    return 200, {"success": True}


def attach(ask: Ask) -> tuple[int, Json]:
    message = (
        "There is no Stripe account linked to this organization. Please connect it here: "
        "https://app.useautumn.com/sandbox/dev?tab=stripe"
    )
    raise Refused(400, "invalid_request", message)
