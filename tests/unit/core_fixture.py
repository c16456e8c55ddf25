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
WORKFLOW_EVENTS: Final[tuple[dict[str, object], ...]] = (
    {"name": "StepSucceeded", "run": "r-1", "step": "fetch", "team": "north", "ran_ms": 1500,
     "ended_ms": 1_769_860_800_250, "tier": 1, "flow": "nightly"},
    {"name": "AgentAnswered", "run": "r-1", "step": "sum-up", "team": "north", "tokens": 812,
     "ended_ms": 1_769_860_801_000},
    {"name": "RunQueued", "run": "r-2", "step": "", "team": "north", "ended_ms": 1_769_860_802_000},
)  # fmt: skip
