"""The acceptance fixture of the package, its schema, and the adapters that are examples."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from drawdown import events
from drawdown.events.envelope import UsageEvent

ROOT: Final = Path(__file__).resolve().parents[2]
PACKAGE: Final = Path(str(events.__file__)).parent
FIXTURE_FILE: Final = PACKAGE / "usage-event-ledger.core-fixture.json"
FIXTURE: Final[dict[str, Any]] = json.loads(FIXTURE_FILE.read_text(encoding="utf-8"))
SCHEMA: Final[dict[str, Any]] = json.loads((PACKAGE / "usage-event.schema.json").read_text(encoding="utf-8"))
EXAMPLES: Final = ROOT / "docs" / "examples"


def adapter(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def mapped_by(name: str) -> Callable[[Mapping[str, object]], UsageEvent | None]:
    made: Callable[[Mapping[str, object]], UsageEvent | None] = adapter(name).usage_event
    return made


IMAGE_EVENTS: Final[tuple[dict[str, object], ...]] = (
    {"kind": "conversion.finished", "job": "j-1", "studio": "north", "megapixels": "12.192", "to": "webp",
     "finished": "2026-01-31T12:00:00.250+00:00", "plan": "Studio"},
    {"kind": "upscale.finished", "job": "j-1", "studio": "north", "megapixels": 48, "finished": "2026-01-31T12:00:01Z"},
    {"kind": "conversion.started", "job": "j-2", "studio": "north"},
)  # fmt: skip
LAGO_EVENTS: Final[tuple[dict[str, object], ...]] = (
    {"transaction_id": "t-1", "external_subscription_id": "sub_1234567890", "code": "storage", "timestamp": 1650893379,
     "properties": {"gb": 10.5, "region": "eu"}},
    {"transaction_id": "t-2", "external_subscription_id": "sub_1234567890", "code": "storage",
     "timestamp": "1650893379.348", "properties": {"gb": "0.001"}},
    {"transaction_id": "t-1", "external_subscription_id": "sub_1234567890", "code": "api_calls",
     "timestamp": "2022-04-29T08:59:51.123Z"},
)  # fmt: skip
"""As its reference shows them."""
STRIPE_EVENTS: Final[tuple[dict[str, object], ...]] = (
    {"event_name": "ai_search_api", "identifier": "identifier_123", "timestamp": 1680210639,
     "payload": {"value": "25", "stripe_customer_id": "cus_NciAYcXfLnqBoz"}},
    {"event_name": "ai_search_api", "identifier": "identifier_124", "timestamp": "2024-06-01T12:00:00.000Z",
     "payload": {"value": "1", "stripe_customer_id": "cus_NciAYcXfLnqBoz", "model": "small"}},
)  # fmt: skip
"""Of v1, and of v2."""
WORKFLOW_EVENTS: Final[tuple[dict[str, object], ...]] = (
    {"name": "StepSucceeded", "run": "r-1", "step": "fetch", "team": "north", "ran_ms": 1500,
     "ended_ms": 1_769_860_800_250, "tier": 1, "flow": "nightly"},
    {"name": "AgentAnswered", "run": "r-1", "step": "sum-up", "team": "north", "tokens": 812,
     "ended_ms": 1_769_860_801_000},
    {"name": "RunQueued", "run": "r-2", "step": "", "team": "north", "ended_ms": 1_769_860_802_000},
)  # fmt: skip
