"""What the answer to a charge at Autumn says is left of its customer's credit."""

from __future__ import annotations

import json

import pytest

from drawdown.providers.http import Answer, Call
from drawdown.providers.protocol import Accepted, Left
from tests.contract.autumn_setup import Stub, built, made, no, one, push, said
from tests.emulators.autumn import SECRET_KEY

MICRO = 10**6
BALANCE: dict[str, object] = {"feature_id": "compute", "granted": 100, "remaining": 93, "usage": 7}
FEATURES = {
    "list": [
        {"id": "compute", "type": "metered", "consumable": True},
        {"id": "seats", "type": "metered", "consumable": False},
        {"id": "credits", "type": "credit_system", "consumable": True},
    ]
}


def left(
    balance: object, *, of: str = "compute", listed: object = FEATURES, **settings: str
) -> tuple[Left | None, int]:
    """What one charge of 7 says is left, and how many calls it took."""
    deductions = [{"balance_id": "b", "feature_id": of, "plan_id": "p", "reset": None, "value": 7}]
    charged = said(200, {"customer_id": "cus_1", "value": 7, "balance": balance, "deductions": deductions})

    def answer(call: Call) -> Answer:
        return charged if call.url.endswith("/track") else said(200, listed)

    http = Stub(answer)
    outcome = one(built(http, {"secret_key": SECRET_KEY, **settings}))
    assert isinstance(outcome, Accepted)
    return outcome.left, len(http.sent)


@pytest.mark.parametrize(
    ("balance", "settings", "found"),
    [
        (BALANCE, {"balance_feature": "compute"}, Left(93 * MICRO, 7 * MICRO)),
        (BALANCE, {}, Left(93 * MICRO, 7 * MICRO, "compute")),  # others may decide, too
        (BALANCE, {"balance_feature": "credits"}, None),  # another one decides
        (BALANCE, {"concurrency_feature": "compute"}, None),
        ({**BALANCE, "unlimited": True}, {}, Left(None, 7 * MICRO)),
        ({**BALANCE, "overage_allowed": True}, {"balance_feature": "compute"}, Left(None, 7 * MICRO)),
        ({**BALANCE, "remaining": "93"}, {}, None),
        ({**BALANCE, "unlimited": "no"}, {}, None),
        ({**BALANCE, "feature_id": 7}, {}, None),
    ],
)
def test_it_is_the_whole_only_where_that_balance_alone_decides(
    balance: object, settings: dict[str, str], found: Left | None
) -> None:
    assert left(balance, **settings)[0] == found


def test_credits_that_a_charge_took_are_of_the_balance_it_shows() -> None:
    shown = {**BALANCE, "feature_id": "credits"}
    assert left(shown, of="credits", balance_feature="credits") == (Left(93 * MICRO, 7 * MICRO), 1)


def test_what_is_held_and_not_used_up_decides_nothing() -> None:
    assert left({**BALANCE, "feature_id": "seats"}, of="compute")[0] is None


def test_the_features_are_listed_once_and_not_for_each_charge() -> None:
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
    assert [outcome.left for outcome in outcomes if isinstance(outcome, Accepted)] == [None, None, None]
    assert len(listed) == 1, "where the list cannot be read, charges go on, and it is not asked for again at once"
