"""How Tally is tried: the service itself, made up; the bench that tells the suite what it charged; the suite.

Copy it beside a provider of yours. The provider is found as Drawdown finds it, by the entry point of its package.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from urllib.parse import unquote

import sqlalchemy as sa

from drawdown.providers import registry
from drawdown.providers.conformance import Bench, ProviderConformance, Unsupported, Wire
from drawdown.providers.conformance.bench import Secret
from drawdown.providers.http import Answer, Call, HttpResult
from drawdown.providers.protocol import Provider, PushRequest
from drawdown.schema.clock import FixedClock

NOW_MS = 1_767_225_600_000
KEY = "tally_key_canary"
SECRETS: Mapping[Secret, str] = {"current": "hook_now", "previous": "hook_before", "strange": "hook_of_a_stranger"}


class Service:
    """Tally: charges a key once, for good. It takes the place of the network."""

    def __init__(self) -> None:
        self.charges: dict[str, dict[str, object]] = {}
        self.credit = {"c-1": 10**15, "c-idle": 0}
        self.meters = {"compute"}

    async def send(self, call: Call) -> HttpResult:
        status, body = self._answer(call)
        return Answer(status, {"content-type": "application/json"}, json.dumps(body).encode())

    async def close(self) -> None:
        """There is nothing to close."""

    def _answer(self, call: Call) -> tuple[int, dict[str, object]]:
        if call.headers.get("authorization") != f"Bearer {KEY}":
            return 401, {"error": f"no such key: {call.headers.get('authorization')}"}
        _, _, what, *rest = call.url.removeprefix("https:").split("/")[1:]
        if call.method == "POST":
            return self._charge(json.loads(call.body))
        name = unquote(rest[0])
        known = {"charges": name in self.charges, "customers": name in self.credit, "meters": name in self.meters}
        if not known[what]:
            return 404, {"error": f"no such {what}"}
        return 200, {"id": name, "unit": 1, "credit": self.credit.get(name), **self.charges.get(name, {})}

    def _charge(self, asked: dict[str, object]) -> tuple[int, dict[str, object]]:
        key, before = str(asked["key"]), self.charges.get(str(asked["key"]))
        if before is not None:
            same = before["asked"] == asked
            return 409, {"key": key, "charged": before["charged"], **({} if same else {"error": "other content"})}
        if asked["customer"] not in self.credit or asked["meter"] not in self.meters:
            return 404, {"error": "no such customer or meter"}
        if asked["customer"] == "c-idle":
            return 201, {"key": key, "charged": 0, "error": "the customer does not pay for this meter"}
        self.charges[key] = {"asked": asked, "charged": asked["amount"]}
        return 201, {"key": key, "charged": asked["amount"]}


class TallyBench(Bench):
    customer, unknown_customer = "c-1", "c-2"
    feature, unknown_feature = "compute", "nosuch"
    secrets = (KEY, *SECRETS.values())

    def __init__(self) -> None:
        self.clock = FixedClock(NOW_MS)
        self.service = Service()
        self.wire = self._wire = Wire(self.service)
        self.provider = self._with_key(KEY)

    def _with_key(self, key: str) -> Provider:
        hooks = f"{SECRETS['current']},{SECRETS['previous']}"
        settings = {"tally_key": key, "tally_webhook_secrets": hooks}
        found = registry.load(settings, self.clock, self._wire, sa.create_engine("sqlite://"))
        assert "tally" not in found.broken, found.broken
        return found.providers["tally"]

    def charged(self, request: PushRequest) -> int | None:
        found = self.service.charges.get(request.key)
        return None if found is None else int(str(found["charged"]))

    def charged_total(self, customer_id: str, feature: str) -> int:
        return sum(int(str(one["charged"])) for one in self.service.charges.values())

    def charging_nothing(self) -> str:
        return "c-idle"

    def change_of(self, customer_id: str) -> bytes:
        return json.dumps({"customer": customer_id}).encode()

    def signed(self, body: bytes, secret: Secret) -> Mapping[str, str]:
        at = str(self.clock.now_ms())
        mac = hmac.new(SECRETS[secret].encode(), at.encode() + b"." + body, "sha256").hexdigest()
        return {"tally-signature": f"{at}.{mac}", "content-type": "application/json"}

    def late_refusal(self, request: PushRequest) -> tuple[Mapping[str, str], bytes]:
        raise Unsupported("what Tally has accepted stays accepted")

    def with_bad_key(self) -> Provider:
        return self._with_key("tally_key_of_before")

    def without_key(self) -> Provider:
        return self._with_key("")


class TestTally(ProviderConformance):
    def make_bench(self) -> Bench:
        return TallyBench()
