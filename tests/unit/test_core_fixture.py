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

from drawdown.events.envelope import Unfit, UsageEvent, as_json, envelope_schema
from drawdown.events.privacy.leaves import read_reports
from drawdown.events.privacy.rules import RULES
from drawdown.events.privacy.scan import scan
from drawdown.events.summary import LEAST, SHAPE, OrgUse, grouped
from tests.cases import cases
from tests.unit.core_fixture import (
    EXAMPLES,
    FIXTURE,
    FIXTURE_FILE,
    IMAGE_EVENTS,
    LAGO_EVENTS,
    PACKAGE,
    ROOT,
    SCHEMA,
    STRIPE_EVENTS,
    WORKFLOW_EVENTS,
    adapter,
    mapped_by,
)

TEXT: Final = FIXTURE_FILE.read_text(encoding="utf-8").lower()
ACCEPTS: Final = [*FIXTURE["event"]["accepts"], *FIXTURE["replay"]["deliveries"], FIXTURE["replay"]["changed"]]
REFUSES: Final = FIXTURE["event"]["refuses"]
PRODUCTS: Final = {"image_conversion": IMAGE_EVENTS, "workflow": WORKFLOW_EVENTS}
ADAPTERS: Final = {**PRODUCTS, "lago_events": LAGO_EVENTS, "stripe_meter_events": STRIPE_EVENTS}
"""Of products, and of the shapes of others' doors."""


def test_core_fixture_names_target_and_stages() -> None:
    assert FIXTURE["fixture"] == "usage-event-ledger"
    assert FIXTURE["target"] == "cloudflare-saas-core/packages/usage-ledger"
    assert FIXTURE["stages"] == ["event", "replay", "ops_summary", "privacy_boundary"]
    assert all(FIXTURE[stage] for stage in FIXTURE["stages"])


def test_core_fixture_separates_validators_from_adapters() -> None:
    assert set(FIXTURE["core"]["validators"]) == set(FIXTURE["stages"])
    assert set(FIXTURE["core"]["owns"]) & set(FIXTURE["adapters"]["own"]) == set()
    assert "validators" not in FIXTURE["adapters"] and "adapters" not in FIXTURE["core"]
    for path in PACKAGE.rglob("*.py"):
        assert "examples" not in path.read_text(encoding="utf-8"), "the core knows no adapter"


def test_core_fixture_does_not_contain_product_names() -> None:
    """Neither those of the adapters nor what they call things."""
    names = {"image", "pixel", "conver", "workflow", "upscale", "sandbox", "drawdown", "autumn", "stripe", "studio"}
    for name in PRODUCTS:
        module = adapter(name)
        names |= {*module.KINDS, *module.KINDS.values()}
    names |= {adapter(name).SOURCE for name in ADAPTERS}
    text = TEXT.replace("image_base64", "")  # the name of a private field
    assert [name for name in names if name.lower() in text] == []


def test_core_fixture_does_not_contain_keys_tokens_or_actor_ids() -> None:
    ((_, report),) = read_reports(FIXTURE_FILE.read_bytes())
    assert scan(report).findings == ()
    markers = {needle for one in RULES for needle in one.needles if needle.endswith("_") and len(needle) > 3}
    assert [marker for marker in sorted(markers) if marker in TEXT] == []
    assert "://" not in TEXT and "actor:" not in TEXT and "user_" not in TEXT


def test_scanner_private_field_in_core_fixture_is_found() -> None:
    """Else the test before could not fail."""
    for private in ("org_id", "event_id"):
        changed = json.loads(json.dumps(FIXTURE))
        changed["event"]["accepts"][0][private] = "acme"
        assert scan(changed).count == 1


def test_envelope_schema_equals_core_fixture_schema() -> None:
    assert envelope_schema() == SCHEMA
    Draft202012Validator.check_schema(SCHEMA)
    fields = {"occurred_at" if name == "occurred_ms" else name for name in UsageEvent.__dataclass_fields__}
    assert set(SCHEMA["properties"]) == fields


@cases("event", ACCEPTS)
def test_core_fixture_accepted_event_fits_envelope(event: dict[str, Any]) -> None:
    assert Draft202012Validator(SCHEMA).is_valid(event)
    said = {"occurred_ms": 1_769_860_800_000, **{name: v for name, v in event.items() if name != "occurred_at"}}
    made = UsageEvent(**said)
    assert as_json(made) == {**as_json(made), **{name: v for name, v in event.items() if v not in (None, {})}}


@cases("case", REFUSES)
def test_core_fixture_refused_event_has_a_single_schema_error(case: dict[str, Any]) -> None:
    assert len(list(Draft202012Validator(SCHEMA).iter_errors(case["event"]))) == 1
    assert any(Draft202012Validator(SCHEMA).is_valid(one) for one in ACCEPTS)


def test_envelope_refuses_events_that_schema_refuses() -> None:
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
def test_ajv_accepts_and_refuses_as_schema_does() -> None:
    adapted = [as_json(made) for name, sent in ADAPTERS.items() for one in sent if (made := mapped_by(name)(one))]
    fit, unfit = [*ACCEPTS, *adapted], [case["event"] for case in REFUSES]
    assert ajv([*fit, *unfit]) == [True] * len(fit) + [False] * len(unfit)


@cases("name", ADAPTERS)
def test_adapter_is_short_and_imports_only_envelope(name: str) -> None:
    text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert text.count("\n") < 100
    imported = {node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
    assert {one for one in imported if one and one.startswith("drawdown")} == {"drawdown.events.envelope"}


def test_adapters_of_two_products_map_to_envelope() -> None:
    made = {name: [mapped_by(name)(one) for one in sent] for name, sent in PRODUCTS.items()}
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


def test_adapters_of_lago_and_stripe_map_events_exactly() -> None:
    lago, stripe = ([mapped_by(name)(one) for one in ADAPTERS[name]] for name in ("lago_events", "stripe_meter_events"))
    told = [asdict(one) for one in (*lago, *stripe) if one is not None]
    assert all(Draft202012Validator(SCHEMA).is_valid(as_json(UsageEvent(**one))) for one in told)
    assert [(one["event_id"], one["event_type"], one["quantity"], one["occurred_ms"]) for one in told] == [
        ("sub_1234567890/t-1", "storage", 10_500, 1_650_893_379_000),
        ("sub_1234567890/t-2", "storage", 1, 1_650_893_379_348),
        ("sub_1234567890/t-1", "api_calls", 1, 1_651_222_791_123),
        ("identifier_123", "ai_search_api", 25, 1_680_210_639_000),
        ("identifier_124", "ai_search_api", 1, 1_717_243_200_000),
    ]
    assert [one["org_id"] for one in told] == ["acme"] * 5
    assert [one["properties"] for one in told] == [{"region": "eu"}, {}, {}, {}, {"model": "small"}]


LAGO, STRIPE = LAGO_EVENTS[0], STRIPE_EVENTS[0]


@cases(
    ("name", "sent", "code", "at"),
    [
        ("lago_events", {**LAGO, "code": "storag"}, "unknown_metric", "code"),
        ("lago_events", {**LAGO, "external_subscription_id": "x"}, "unknown_subscription", "external_subscription_id"),
        ("lago_events", {**LAGO, "properties": {"gb": "0.0001"}}, "bad_quantity", "properties.gb"),
        ("lago_events", {**LAGO, "properties": {"gb": "NaN"}}, "bad_quantity", "properties.gb"),
        ("lago_events", {**LAGO, "properties": {}}, "bad_quantity", "properties.gb"),
        ("lago_events", {**LAGO, "properties": {"gb": -1}}, "bad_quantity", "quantity"),
        ("lago_events", {**LAGO, "properties": [1]}, "wrong_type", "properties"),
        ("lago_events", {key: LAGO[key] for key in LAGO if key != "timestamp"}, "bad_time", "timestamp"),
        ("lago_events", {**LAGO, "timestamp": "1e999999"}, "bad_time", "timestamp"),
        ("lago_events", {**LAGO, "timestamp": "2022-13-29T08:59:51Z"}, "bad_time", "timestamp"),
        ("stripe_meter_events", {**STRIPE, "payload": "x"}, "wrong_type", "payload"),
        (
            "stripe_meter_events",
            {**STRIPE, "payload": {"value": "1"}},
            "unknown_customer",
            "payload.stripe_customer_id",
        ),
        ("stripe_meter_events", {**STRIPE, "identifier": ""}, "missing", "identifier"),
        ("stripe_meter_events", {**STRIPE, "timestamp": "soon"}, "bad_time", "timestamp"),
        ("stripe_meter_events", {**STRIPE, "timestamp": "2024-06-01T12:00:00"}, "bad_time", "timestamp"),
        ("lago_events", {**LAGO, "timestamp": "2024-06-01T12:00:00"}, "bad_time", "timestamp"),
        ("lago_events", {key: LAGO[key] for key in LAGO if key != "transaction_id"}, "missing", "transaction_id"),
        ("lago_events", {**LAGO, "transaction_id": None}, "missing", "transaction_id"),
        ("lago_events", {**LAGO, "properties": {"gb": f"1.{'0' * 30}1"}}, "bad_quantity", "properties.gb"),
        ("lago_events", {**LAGO, "properties": {"gb": "1e-1000030"}}, "bad_quantity", "properties.gb"),
        ("lago_events", {**LAGO, "properties": {"gb": "1_0"}}, "bad_quantity", "properties.gb"),
        ("lago_events", {**LAGO, "properties": {"gb": 10**5000}}, "bad_quantity", "properties.gb"),
        ("lago_events", {**LAGO, "properties": {"gb": True}}, "bad_quantity", "properties.gb"),
        ("lago_events", {**LAGO, "properties": {"gb": "1e999999"}}, "bad_quantity", "properties.gb"),
        (
            "stripe_meter_events",
            {**STRIPE, "payload": {"value": "1.5", "stripe_customer_id": "cus_NciAYcXfLnqBoz"}},
            "bad_quantity",
            "payload.value",
        ),
    ],
)
def test_adapter_invalid_event_is_refused_with_code_and_place(
    name: str, sent: dict[str, object], code: str, at: str
) -> None:
    with pytest.raises(Unfit) as refused:
        mapped_by(name)(sent)
    assert (refused.value.code, refused.value.at) == (code, at)


def test_core_fixture_ops_summary_equals_grouped_summary() -> None:
    uses = [
        OrgUse(one["org_id"], one.get("plan_key"), one["event_type"], one["occurred_at"][:10], 1, one["quantity"])
        for one in FIXTURE["replay"]["deliveries"]
    ]
    wanted = FIXTURE["ops_summary"]
    rows, withheld = grouped([*uses])
    assert ([asdict(row) for row in rows], withheld) == (wanted["rows"], wanted["withheld"]) and wanted[
        "least"
    ] == LEAST


def test_core_fixture_privacy_boundary_equals_scanner() -> None:
    boundary = FIXTURE["privacy_boundary"]
    for field in boundary["refuses_fields"]:
        assert scan({field: "a value"}).count == 1, field
    classes = {"public label", "redacted reference", "UTC time", "commit", "number"}
    assert set(boundary["allows"]) == classes and boundary["refuses_unknown_fields"] is True
    assert {one.rule for one in scan({"more": 1}, shape=SHAPE).findings} == {"unknown_field", "missing_field"}
