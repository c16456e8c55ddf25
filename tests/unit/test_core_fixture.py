"""The acceptance fixture holds what it is to hold, and nothing of any product; its schema is read alike elsewhere."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import pytest
from jsonschema import Draft202012Validator

from drawdown.events.envelope import Unfit, UsageEvent
from drawdown.events.envelope_schema import as_json, envelope_schema
from drawdown.events.privacy.documents import read_reports
from drawdown.events.privacy.rules import RULES
from drawdown.events.privacy.scan import scan
from drawdown.events.summary import LEAST, SHAPE, OrgUse, grouped
from tests.unit.core_fixture import (
    EXAMPLES,
    FIXTURE,
    FIXTURE_FILE,
    IMAGE_EVENTS,
    PACKAGE,
    ROOT,
    SCHEMA,
    WORKFLOW_EVENTS,
    adapter,
    mapped_by,
)

TEXT: Final = FIXTURE_FILE.read_text(encoding="utf-8").lower()
ACCEPTS: Final = [*FIXTURE["event"]["accepts"], *FIXTURE["replay"]["deliveries"], FIXTURE["replay"]["changed"]]
REFUSES: Final = FIXTURE["event"]["refuses"]
ADAPTERS: Final = {"image_conversion": IMAGE_EVENTS, "workflow": WORKFLOW_EVENTS}


def test_it_names_its_target_and_its_stages() -> None:
    assert FIXTURE["fixture"] == "usage-event-ledger"
    assert FIXTURE["target"] == "cloudflare-saas-core/packages/usage-ledger"
    assert FIXTURE["stages"] == ["event", "replay", "ops_summary", "privacy_boundary"]
    assert all(FIXTURE[stage] for stage in FIXTURE["stages"])


def test_adapters_are_kept_apart_from_the_validators_of_the_core() -> None:
    assert set(FIXTURE["core"]["validators"]) == set(FIXTURE["stages"])
    assert set(FIXTURE["core"]["owns"]) & set(FIXTURE["adapters"]["own"]) == set()
    assert "validators" not in FIXTURE["adapters"] and "adapters" not in FIXTURE["core"]
    for path in PACKAGE.rglob("*.py"):
        assert "examples" not in path.read_text(encoding="utf-8"), "the core knows no adapter"


def test_it_holds_no_products_name() -> None:
    """Neither those of the adapters nor what they call things."""
    names = {"image", "pixel", "conver", "workflow", "upscale", "sandbox", "drawdown", "autumn", "stripe", "studio"}
    for name in ADAPTERS:
        module = adapter(name)
        names |= {module.SOURCE, *module.KINDS, *module.KINDS.values()}
    text = TEXT.replace("image_base64", "")  # the name of a private field
    assert [name for name in names if name.lower() in text] == []


def test_it_holds_no_storage_key_token_or_actor_id() -> None:
    ((_, report),) = read_reports(FIXTURE_FILE.read_bytes())
    assert scan(report).findings == ()
    markers = {needle for one in RULES for needle in one.needles if needle.endswith("_") and len(needle) > 3}
    assert [marker for marker in sorted(markers) if marker in TEXT] == []
    assert "://" not in TEXT and "actor:" not in TEXT and "user_" not in TEXT


def test_the_scanner_would_see_a_private_one_in_it() -> None:
    """Else the test before could not fail."""
    for private in ("org_id", "event_id"):
        changed = json.loads(json.dumps(FIXTURE))
        changed["event"]["accepts"][0][private] = "acme"
        assert scan(changed).count == 1


def test_the_schema_is_the_envelopes() -> None:
    assert envelope_schema() == SCHEMA
    Draft202012Validator.check_schema(SCHEMA)
    fields = {"occurred_at" if name == "occurred_ms" else name for name in UsageEvent.__dataclass_fields__}
    assert set(SCHEMA["properties"]) == fields


@pytest.mark.parametrize("event", ACCEPTS, ids=lambda one: one["event_id"])
def test_an_event_that_is_accepted_is_one_of_the_envelope(event: dict[str, Any]) -> None:
    assert Draft202012Validator(SCHEMA).is_valid(event)
    said = {"occurred_ms": 1_769_860_800_000, **{name: v for name, v in event.items() if name != "occurred_at"}}
    made = UsageEvent(**said)
    assert as_json(made) == {**as_json(made), **{name: v for name, v in event.items() if v not in (None, {})}}


@pytest.mark.parametrize("case", REFUSES, ids=lambda one: one["why"])
def test_an_event_that_is_refused_is_refused_for_one_reason(case: dict[str, Any]) -> None:
    assert len(list(Draft202012Validator(SCHEMA).iter_errors(case["event"]))) == 1
    assert any(Draft202012Validator(SCHEMA).is_valid(one) for one in ACCEPTS)


def test_where_both_say_it_the_envelope_refuses_what_the_schema_does() -> None:
    for case in REFUSES:
        said = {"occurred_ms": 1_769_860_800_000, **{n: v for n, v in case["event"].items() if n != "occurred_at"}}
        texts = [name for name in ("source", "event_type") if not 1 <= len(str(said.get(name, "ok"))) <= 200]
        if texts or said.get("quantity") in (-1, 10**12 + 1) or "control" in case["why"] or "ends a" in case["why"]:
            with pytest.raises(Unfit):
                UsageEvent(**said)


NPM_S = 20
"""A service that is slow, or hangs, costs a run of all tests no more; the next one tries again."""


def ajv(events: list[dict[str, Any]]) -> list[bool]:
    """What Ajv says of each, in a program of another language."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("node and npm are not on this machine")
    home = ROOT / ".venv" / "ajv"
    if not (home / "node_modules" / "ajv" / "package.json").exists():
        home.mkdir(parents=True, exist_ok=True)
        get = [npm, "install", "--prefix", str(home), "--no-audit", "--no-fund", "--fetch-retries=0", "ajv@8"]
        with suppress(subprocess.TimeoutExpired):  # then it is as if npm said no
            subprocess.run(get, capture_output=True, text=True, timeout=NPM_S)
    if not (home / "node_modules" / "ajv" / "package.json").exists():
        pytest.skip("Ajv cannot be installed here: npm says no, or takes too long")
    script = Path(__file__).with_name("ajv.mjs")
    given = json.dumps({"schema": SCHEMA, "events": events})
    done = subprocess.run([node, str(script), str(home)], input=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    answers: list[bool] = json.loads(done.stdout)
    return answers


@pytest.mark.xdist_group("ajv")
def test_ajv_accepts_and_refuses_the_same() -> None:
    adapted = [as_json(made) for name, sent in ADAPTERS.items() for one in sent if (made := mapped_by(name)(one))]
    assert ajv([*ACCEPTS, *adapted]) == [True] * (len(ACCEPTS) + len(adapted))
    assert ajv([case["event"] for case in REFUSES]) == [False] * len(REFUSES)


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_is_short_and_knows_the_envelope_alone(name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert text.count("\n") < 100
    imported = {node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
    assert {one for one in imported if one and one.startswith("drawdown")} == {"drawdown.events.envelope"}


def test_two_products_come_into_one_envelope() -> None:
    made = {name: [mapped_by(name)(one) for one in sent] for name, sent in ADAPTERS.items()}
    images, steps = made["image_conversion"], made["workflow"]
    assert images[2] is None and steps[2] is None
    told = [asdict(one) for one in (*images, *steps) if one is not None]
    assert [one["event_type"] for one in told] == [
        "image.converted",
        "image.upscaled",
        "workflow.step",
        "workflow.agent_answer",
    ]
    assert [one["quantity"] for one in told] == [12_192, 48_000, 1_500, 812]
    assert [one["occurred_ms"] % 1_000 for one in told] == [250, 0, 250, 0]
    assert [one["plan_key"] for one in told] == ["team", "other", "pro", "free"]
    assert len({(one["source"], one["event_id"]) for one in told}) == 4
    assert all(Draft202012Validator(SCHEMA).is_valid(as_json(UsageEvent(**one))) for one in told)
    for wrong in ({**IMAGE_EVENTS[0], "megapixels": "1.00001"}, {**WORKFLOW_EVENTS[0], "ran_ms": 1.5}):
        with pytest.raises(Unfit):
            mapped_by("image_conversion" if "megapixels" in wrong else "workflow")(wrong)


def test_the_ops_summary_is_of_groups_of_five() -> None:
    uses = [
        OrgUse(one["org_id"], one.get("plan_key"), one["event_type"], one["occurred_at"][:10], 1, one["quantity"])
        for one in FIXTURE["replay"]["deliveries"]
    ]
    wanted = FIXTURE["ops_summary"]
    rows, withheld = grouped([*uses])
    assert ([asdict(row) for row in rows], withheld) == (wanted["rows"], wanted["withheld"]) and wanted[
        "least"
    ] == LEAST


def test_the_privacy_boundary_is_the_scanners() -> None:
    boundary = FIXTURE["privacy_boundary"]
    for field in boundary["refuses_fields"]:
        assert scan({field: "a value"}).count == 1, field
    classes = {"public label", "redacted reference", "UTC time", "commit", "number"}
    assert set(boundary["allows"]) == classes and boundary["refuses_unknown_fields"] is True
    assert {one.rule for one in scan({"more": 1}, shape=SHAPE).findings} == {"unknown_field", "missing_field"}
