"""Payment services are built from the settings; one that cannot be is named, and disables only itself."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from drawdown.providers.payments import registry
from drawdown.providers.payments.protocol import PaymentService
from drawdown.providers.payments.registry import GROUP, PaymentServices
from drawdown.providers.protocol import Setup
from drawdown.schema.clock import FixedClock
from tests.cases import cases
from tests.contract.stripe_setup import Stub, said

STRIPE = EntryPoint("stripe", "drawdown.providers.stripe.payments:build", GROUP)


def loaded(settings: dict[str, str], *found: EntryPoint) -> PaymentServices:
    stub = Stub(lambda call: said(200, {}))
    return registry.load(settings, FixedClock(0), stub, sa.create_engine("sqlite://"), found or None)


def test_payment_services_without_key_are_dormant() -> None:
    assert loaded({}).dormant == ["autumn", "stripe"]
    assert loaded({"stripe_secret_key": "sk_test_1"}).dormant == ["autumn"]
    assert loaded({"stripe_payments_key": "rk_test_1"}).dormant == ["autumn"]
    bought = {"autumn_secret_key": "am_sk_test_12345678", "autumn_topup_plan": "topup"}
    assert loaded(bought).dormant == ["autumn", "stripe"], "a key that bills charges nobody yet"
    assert loaded({**bought, "autumn_topup_feature": "cents"}).dormant == ["stripe"]


def test_payment_service_own_key_wins_over_billing_key() -> None:
    found = loaded({"stripe_secret_key": "sk_test_1", "stripe_payments_key": "rk_test_2"}).services["stripe"]
    assert found._settings.secret_key == "rk_test_2"  # type: ignore[attr-defined]


@cases(
    ("entry", "settings"),
    [
        (STRIPE, {"stripe_payments_key": "pk_test_12345678"}),
        (STRIPE, {"stripe_payment_key": "sk_test_12345678"}),
        (EntryPoint("gone", "drawdown.providers.gone:build", GROUP), {}),
        (EntryPoint("other", "drawdown.providers.stripe.payments:build", GROUP), {}),
        (EntryPoint("nothing", "builtins:dict", GROUP), {}),
        (EntryPoint("Not a name", "drawdown.providers.stripe.payments:build", GROUP), {}),
    ],
)
def test_payment_service_that_is_unusable_disables_only_itself(entry: EntryPoint, settings: dict[str, str]) -> None:
    found = loaded(settings, entry)
    assert list(found.broken) == [entry.name] and not found.services
    assert "12345678" not in str(found.broken)


def test_payment_service_ignores_settings_of_longer_provider_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider `stripe_x` stopped charges at Stripe, because its settings were unknown there."""
    there = {"drawdown.providers": [EntryPoint("stripe_x", "builtins:dict", "drawdown.providers")]}
    monkeypatch.setattr("drawdown.providers.registry.entry_points", lambda group: there.get(group, []))
    found = loaded({"stripe_secret_key": "sk_test_1", "stripe_x_key": "k"}, STRIPE)
    assert not found.broken and not found.dormant


def quotes_its_key(setup: Setup) -> PaymentService:
    raise ValueError("x" * 280 + setup.settings["key"])


@cases("key", ["sk_canary_0123456789", "\x1bsk_canary", "sk_\ncanary_0123456789"])
def test_reason_of_broken_payment_service_shows_no_part_of_key(key: str) -> None:
    entry = EntryPoint("quotes", f"{__name__}:{quotes_its_key.__name__}", GROUP)
    reason = loaded({"quotes_key": key}, entry).broken["quotes"]
    assert "sk_" not in reason and "x…" in reason


def test_second_payment_service_of_same_name_is_listed_apart() -> None:
    """It was found first, so it got the key of ours, and ours was refused."""
    other, ours = EntryPoint("stripe", "builtins:dict", GROUP), EntryPoint(STRIPE.name, STRIPE.value, GROUP)
    vars(other)["dist"], vars(ours)["dist"] = SimpleNamespace(name="acme-pay"), SimpleNamespace(name="drawdown")
    for settings, broken in (({}, []), ({"stripe_payment_key": "sk_test_12345678"}, ["stripe"])):
        found = loaded(settings, other, ours)
        assert sorted(found.broken) == [*broken, "stripe of acme-pay"]
        assert found.broken["stripe of acme-pay"].startswith("ValueError: two installed packages provide stripe")
        assert list(found.services) == ([] if broken else ["stripe"])
