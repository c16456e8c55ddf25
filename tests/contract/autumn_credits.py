"""The recorded wire of a running Autumn with a credit system, and providers that are answered with it.

Guarantee: bodies are the recorded ones, bytes of numbers included. The recording lies beside the project and is read at
run time; without it, tests of the mark `data` are skipped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

from drawdown.providers.autumn import AutumnProvider
from drawdown.providers.http import Answer, Call, HttpResult
from drawdown.providers.protocol import Cost, PushRequest
from tests.acceptance.gentd26 import DATA
from tests.contract.autumn_setup import Stub, built, done
from tests.emulators.autumn import SECRET_KEY

FILE = DATA / "autumn_credits_wire.md"
needs_recording = [
    pytest.mark.data,
    pytest.mark.skipif(not FILE.exists(), reason="needs the recording beside the project (../shared/data)"),
]

SIZES = (1, 2, 4, 8, 16, 32, 64)
COSTS = [Cost(f"compute_{size}gb", "credits", Decimal(size) / 10_000) for size in SIZES]
FEATURES = {
    "list": [
        *({"id": f"compute_{size}gb", "type": "metered", "consumable": True} for size in SIZES),
        {
            "id": "credits",
            "type": "credit_system",
            "consumable": True,
            "credit_schema": [
                {"metered_feature_id": f"compute_{size}gb", "credit_cost": size / 10_000} for size in SIZES
            ],
        },
    ]
}
"""The account of the recording, for tests that do not need the recording itself."""

B = {"unlimited": False, "overage_allowed": False, "max_purchase": None, "next_reset_at": None}
RESET = {"interval": "one_off", "resets_at": None}
O = {"plan_id": None, "prepaid_grant": 0, "unlimited": False, "reset": RESET, "price": None, "expires_at": None}  # noqa: E741
D = {"plan_id": None, "reset": RESET}
C: dict[str, object] = {
    "fingerprint": None, "stripe_id": None, "env": "sandbox", "metadata": {}, "send_email_receipts": False,
    "subscriptions": [], "purchases": [], "licenses": [], "flags": {}, "config": {},
}  # fmt: skip


@dataclass(frozen=True)
class Recorded:
    """One call: its place, what was asked and answered. Of a webhook, `body` is what was posted."""

    name: str
    title: str
    route: str
    version: str
    asked: Mapping[str, Any]
    status: int
    body: Any

    @property
    def answer(self) -> Answer:
        return Answer(self.status, {}, json.dumps(self.body).encode())

    @property
    def push(self) -> PushRequest:
        """The push that this charge would be."""
        asked = self.asked
        key = str(asked.get("idempotency_key", "k"))
        return PushRequest(key, asked["customer_id"], asked["feature_id"], asked["value"], 1_795_799_371_925, 1)


def expand(x: Any) -> Any:
    """A shortened body as it was, by the rule that the recording gives."""
    if isinstance(x, list):
        return [expand(v) for v in x]
    if not isinstance(x, dict):
        return x
    x = {k: expand(v) for k, v in x.items()}
    for tag, rest in (("@b", B), ("@o", O), ("@d", D), ("@c", C)):
        if x.pop(tag, None):
            x.update(rest)
    if isinstance(x.get("balances"), dict):
        x["balances"] = {k: x["balance"] if v == "@balance" else v for k, v in x["balances"].items()}
    return x


def recorded() -> dict[str, Recorded]:
    """Every recorded call by its place, such as C12; empty without the recording."""
    found: dict[str, Recorded] = {}
    if FILE.exists():
        for section in re.split(r"^### ", FILE.read_text(), flags=re.MULTILINE)[1:]:
            call = _call(section.split("\n## ")[0], found)
            found[call.name] = call
    return found


def _call(section: str, found: Mapping[str, Recorded]) -> Recorded:
    name, title = section.partition("\n")[0].split(". ", 1)
    route = re.search(r"`POST /v1/(\S+)`  x-api-version: ([0-9.]+)", section)
    blocks = re.findall(r"```json\n(.*?)\n```", section, flags=re.DOTALL)
    status = re.search(r"^Answer (\d+)", section, flags=re.MULTILINE)
    same = re.search(r"body identical to (\w+)", section)
    bodies = [json.loads(block) for block in blocks] if status is None or "json" in section else []
    if status is None:  # a webhook
        return Recorded(name, title, "", "", {}, 0, bodies[-1])
    body = found[same[1]].body if same else expand(bodies[1]) if len(bodies) > 1 else None
    assert route is not None, name
    return Recorded(name, title, route[1], route[2], bodies[0], int(status[1]), body)


CALLS = recorded()


def account(
    answer: HttpResult | Callable[[Call], HttpResult], features: object = FEATURES
) -> Callable[[Call], HttpResult]:
    """Answers the question for features, and everything else with one answer."""

    def answered(call: Call) -> HttpResult:
        if call.url.endswith("features.list"):
            return features if isinstance(features, Answer) else Answer(200, {}, json.dumps(features).encode())
        return answer(call) if callable(answer) else answer

    return answered


def provider(
    answer: HttpResult | Callable[[Call], HttpResult],
    features: object = FEATURES,
    *,
    known: tuple[Cost, ...] = (),
    **settings: str,
) -> AutumnProvider:
    """One that was asked for costs, as a tick does first."""
    found = built(Stub(account(answer, features)), {"secret_key": SECRET_KEY, **settings})
    done(found.costs(known))
    return found


def calls(route: str) -> Iterator[Recorded]:
    return (call for call in CALLS.values() if call.route == route)
