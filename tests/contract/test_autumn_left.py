"""What the answer to a charge at Autumn says is left of its customer's credit."""

from __future__ import annotations

import json

import pytest

from drawdown.providers.http import Answer, Call
from drawdown.providers.protocol import Accepted, ShownCredit
from tests.cases import cases
from tests.contract.autumn_credits import CALLS, needs_recording, provider
from tests.contract.autumn_setup import Stub, built, made, no, one, push, said
from tests.emulators.autumn import SECRET_KEY

MICRO = 10**6
BALANCE: dict[str, object] = {"feature_id": "compute", "granted": 100, "remaining": 93, "usage": 7}
FEATURES = {
    "list": [
        {"id": "compute", "type": "metered", "consumable": True},
        {"id": "seats", "type": "metered", "consumable": False},
        {"id": "other", "type": "metered", "consumable": True},
    ]
}


def left(
    balance: object, *, of: str = "compute", listed: object = FEATURES, **settings: str
) -> tuple[ShownCredit | None, int]:
    """What one charge of 7 says is left, and how many calls it took."""
    deductions = [{"balance_id": "b", "feature_id": of, "plan_id": "p", "reset": None, "value": 7}]
    charged = said(200, {"customer_id": "cus_1", "value": 7, "balance": balance, "deductions": deductions})

    def answer(call: Call) -> Answer:
        return charged if call.url.endswith("/track") else said(200, listed)

    http = Stub(answer)
    outcome = one(built(http, {"secret_key": SECRET_KEY, **settings}))
    assert isinstance(outcome, Accepted)
    return outcome.shown_credit, len(http.sent)


@cases(
    ("balance", "settings", "found"),
    [
        (BALANCE, {"balance_feature": "compute"}, ShownCredit(93 * MICRO, 7 * MICRO)),
        (BALANCE, {}, ShownCredit(93 * MICRO, 7 * MICRO, "compute")),  # others may decide, too
        (BALANCE, {"balance_feature": "credits"}, None),  # another one decides
        (BALANCE, {"concurrency_feature": "compute"}, None),
        ({**BALANCE, "unlimited": True}, {}, ShownCredit(None, 7 * MICRO)),
        ({**BALANCE, "overage_allowed": True}, {"balance_feature": "compute"}, ShownCredit(None, 7 * MICRO)),
        ({**BALANCE, "overage_allowed": True, "max_purchase": "5"}, {"balance_feature": "compute"}, None),
        ({"feature_id": "compute", "remaining": 93}, {}, ShownCredit(93 * MICRO, 7 * MICRO, "compute")),
        ({**BALANCE, "remaining": "93"}, {}, None),
        ({**BALANCE, "unlimited": "no"}, {}, None),
        ({**BALANCE, "feature_id": 7}, {}, None),
    ],
)
def test_shown_credit_is_whole_if_feature_alone_decides(
    balance: object, settings: dict[str, str], found: ShownCredit | None
) -> None:
    assert left(balance, **settings)[0] == found


CREDITS = {
    "list": [
        *FEATURES["list"],
        {
            "id": "credits",
            "type": "credit_system",
            "credit_schema": [{"metered_feature_id": "compute", "credit_cost": 1}],
        },
    ]
}


@cases("settings", [{}, {"balance_feature": "credits"}])
def test_shown_credit_in_credit_system_is_partial(settings: dict[str, str]) -> None:
    """It shows no limit, and not the balances that other features have of their own."""
    shown = {**BALANCE, "feature_id": "credits"}
    assert left(shown, of="credits", listed=CREDITS, **settings)[0] == ShownCredit(93 * MICRO, 7 * MICRO, "credits")
    for endless in ("unlimited", "overage_allowed"):
        assert left({**shown, endless: True}, of="credits", listed=CREDITS, **settings)[0] is None
    assert left(BALANCE, listed=CREDITS, **settings)[0] is None, "its own balance does not decide"


def test_shown_credit_of_own_units_among_systems_is_absent() -> None:
    """They are units, and the balance that was read is in credits."""
    schema = [{"metered_feature_id": "other", "credit_cost": 1}]
    gold = {"id": "gold", "type": "credit_system", "credit_schema": schema}
    listed = {"list": [*CREDITS["list"], gold]}
    assert left(BALANCE, listed=listed)[0] is None
    shown = {**BALANCE, "feature_id": "credits"}
    assert left(shown, of="credits", listed=listed)[0] == ShownCredit(93 * MICRO, 7 * MICRO, "credits")


RECORDED = {
    "C1": (99.6, 0.4), "C4": (0, 1280), "C8": (0, 0.64), "C9": (9.88, 0.12), "C11": (10.04, -0.16), "C33": (10, 0),
    "C34": (10, 0), "C26": (13.8, -4),
}  # fmt: skip


@cases("name", RECORDED)
@pytest.mark.data
@needs_recording[1]
def test_shown_credit_after_recorded_charge_matches_recording(name: str) -> None:
    call = CALLS[name]
    outcome = one(provider(call.answer), call.push)
    remaining, charged = (round(figure * MICRO) for figure in RECORDED[name])
    assert isinstance(outcome, Accepted) and outcome.shown_credit == ShownCredit(remaining, charged, "credits")


def test_shown_credit_for_seat_feature_is_absent() -> None:
    assert left({**BALANCE, "feature_id": "seats"}, of="compute")[0] is None


def test_features_list_that_fails_is_read_once_for_three_charges() -> None:
    listed: list[int] = []

    def answer(call: Call) -> Answer:
        if not call.url.endswith("/track"):
            listed.append(1)
            return said(200, FEATURES) if len(listed) > 1 else no(500, "internal_error")
        asked = json.loads(call.body)
        deductions = [{"balance_id": "b", "feature_id": "compute", "value": 7}]
        return said(
            200, {"customer_id": asked["customer_id"], "value": 7, "balance": BALANCE, "deductions": deductions}
        )

    provider = made(Stub(answer))
    outcomes = [one(provider, push(key=f"k{number}")) for number in range(3)]
    assert [outcome.shown_credit for outcome in outcomes if isinstance(outcome, Accepted)] == [None, None, None]
    assert len(listed) == 1, "where the list cannot be read, charges go on, and it is not asked for again at once"
