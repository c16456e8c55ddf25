"""OpenMeter, Lago and Polar keep the protocol, against emulators of what they document. Each is built on the kit."""

from __future__ import annotations

import base64
from abc import abstractmethod
from collections.abc import Mapping
from datetime import UTC, datetime

import sqlalchemy as sa
from standardwebhooks import Webhook

from drawdown.providers import lago, openmeter, polar
from drawdown.providers.conformance import Bench, ProviderConformance, Unsupported, Wire
from drawdown.providers.conformance.bench import Secret
from drawdown.providers.kit.emulator import Direct, Emulator
from drawdown.providers.protocol import HOUR_MS, Provider, PushRequest, Setup
from drawdown.schema.clock import FixedClock
from drawdown.schema.units import DAY_MS
from tests.emulators.lago import LagoEmulator
from tests.emulators.openmeter import OpenMeterEmulator
from tests.emulators.polar import PolarEmulator
from tests.world import T0

KEY = "kit_key_canary_0123456789"
TEXTS: Mapping[Secret, str] = {name: f"{name}-canary-0123456789" for name in ("current", "previous", "strange")}
WHSEC: Mapping[Secret, str] = {
    name: f"whsec_{base64.b64encode(text.encode()).decode()}" for name, text in TEXTS.items()
}
GRANTED = 10**18


def signed_by(secret: str, body: bytes, now_ms: int) -> Mapping[str, str]:
    """As `standardwebhooks` signs, at a moment of ours."""
    at = datetime.fromtimestamp(now_ms // 1000, UTC)
    try:
        signature = Webhook(secret).sign("msg_1", at, body.decode())
    except UnicodeDecodeError:
        signature = "v1,AAAA"
    return {"webhook-id": "msg_1", "webhook-timestamp": str(now_ms // 1000), "webhook-signature": signature}


class KitBench(Bench):
    customer, unknown_customer = "c-1", "c-2"
    feature, unknown_feature = "compute", "nosuch"
    secrets = (KEY, *TEXTS.values(), *WHSEC.values())

    def __init__(self) -> None:
        self.clock = FixedClock(T0)
        self.wire = self._wire = Wire(Direct(self._served(), self.clock))
        self.provider = self._with_key(KEY)

    @abstractmethod
    def _served(self) -> Emulator:
        """The service, with `c-1` who has enough."""

    @abstractmethod
    def _with_key(self, key: str) -> Provider:
        """The provider on it."""

    def _setup(self, name: str, settings: Mapping[str, str]) -> Setup:
        given = {key: text for key, text in settings.items() if text}
        return Setup(name, given, self.clock, self._wire, sa.create_engine("sqlite://"))

    def late_refusal(self, request: PushRequest) -> tuple[Mapping[str, str], bytes]:
        raise Unsupported("customer and meter are read before the push, and what was stored stays")

    def with_bad_key(self) -> Provider:
        return self._with_key("kit_key_of_before_0123")

    def without_key(self) -> Provider:
        return self._with_key("")


class LagoBench(KitBench):
    def _served(self) -> Emulator:
        self.service = LagoEmulator(KEY)
        self.service.add_metric("compute")
        self.service.add_subscription("c-1", T0 - 500 * DAY_MS)
        self.service.add_subscription("c-ended", T0 - 500 * DAY_MS, status="terminated")
        self.service.add_wallet("cust_of_c-1", "12.5")
        return self.service

    def _with_key(self, key: str) -> Provider:
        return lago.build(self._setup("lago", {"api_key": key}))

    def charged(self, request: PushRequest) -> int | None:
        found = self.service.events.get((request.customer_id, request.key))
        return None if found is None else int(str(found.properties["amount"]))

    def charged_total(self, customer_id: str, feature: str) -> int:
        return int(self.service.charged(customer_id, feature))

    def charging_nothing(self) -> str:
        return "c-ended"

    def change_of(self, customer_id: str) -> bytes:
        raise Unsupported("Lago's HMAC signature has no time: no webhook is taken")

    def signed(self, body: bytes, secret: Secret) -> Mapping[str, str]:
        raise Unsupported("Lago's HMAC signature has no time: no webhook is taken")


class PolarBench(KitBench):
    def _served(self) -> Emulator:
        self.service = PolarEmulator(KEY)
        self.meter = self.service.add_meter("compute")
        self.service.add_customer("c-1", compute=GRANTED)
        return self.service

    def _with_key(self, key: str) -> Provider:
        hooks = f"{TEXTS['current']}, {TEXTS['previous']}"
        settings = {"access_token": key, "balance_meter": self.meter, "webhook_secrets": hooks}
        return polar.build(self._setup("polar", settings))

    def charged(self, request: PushRequest) -> int | None:
        found = self.service.events.get(request.key)
        metadata = found["metadata"] if found else None
        return int(metadata["units"]) if isinstance(metadata, dict) else None

    def charged_total(self, customer_id: str, feature: str) -> int:
        return self.service.consumed(customer_id, feature)

    def charging_nothing(self) -> str:
        return "c-2"  # Polar stores events of strangers, and counts them once the customer exists

    def change_of(self, customer_id: str) -> bytes:
        return self.service.state_changed(customer_id, self.clock.now_ms())

    def signed(self, body: bytes, secret: Secret) -> Mapping[str, str]:
        return signed_by(base64.b64encode(TEXTS[secret].encode()).decode(), body, self.clock.now_ms())


class OpenMeterBench(KitBench):
    tells_duplicates = False

    def _served(self) -> Emulator:
        self.service = OpenMeterEmulator(KEY, keeps_ids_ms=24 * HOUR_MS)
        self.service.add_meter("compute")
        self.service.add_customer("c-1")
        self.service.add_customer("c-other", ["other-subject"])
        self.service.grants["c-1", "compute"] = GRANTED
        return self.service

    def _with_key(self, key: str) -> Provider:
        hooks = f"{WHSEC['current']},{WHSEC['previous']}"
        settings = {"api_key": key, "dedupe_h": "24", "balance_feature": "compute", "webhook_secrets": hooks}
        return openmeter.build(self._setup("openmeter", settings))

    def charged(self, request: PushRequest) -> int | None:
        found = [one["data"] for one in self.service.events if one["id"] == request.key]
        return sum(int(str(one["units"])) for one in found if isinstance(one, dict)) if found else None

    def charged_total(self, customer_id: str, feature: str) -> int:
        return int(self.service.counted(customer_id, feature))

    def charging_nothing(self) -> str:
        return "c-other"

    def change_of(self, customer_id: str) -> bytes:
        return self.service.threshold(customer_id, self.clock.now_ms())

    def signed(self, body: bytes, secret: Secret) -> Mapping[str, str]:
        return signed_by(WHSEC[secret], body, self.clock.now_ms())


class TestLago(ProviderConformance):
    def make_bench(self) -> Bench:
        return LagoBench()


class TestPolar(ProviderConformance):
    def make_bench(self) -> Bench:
        return PolarBench()


class TestOpenMeter(ProviderConformance):
    def make_bench(self) -> Bench:
        return OpenMeterBench()
