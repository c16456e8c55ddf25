"""JSON lines: whatever a line holds, it is a sample or a reason, and numbers stay as exact as they were written."""

from __future__ import annotations

from drawdown.worker.sources.samples.rows import BadRow
from tests.cases import cases
from tests.unit.reading import changed, outcomes, records


@cases(
    ("line", "found"),
    [
        (changed(), "s1"),
        (changed(extra={"a": [1, None]}, cpu_count=0.5), "s1"),
        (changed(id=17), "17"),
        (changed(interval_s=32.0), "s1"),
        (changed(interval_s="32.0"), "s1"),
        (changed(interval_s=12.5), "interval_fractional"),
        (changed(interval_s=None), "interval_missing"),
        (changed(interval_s=True), "interval_not_a_number"),
        (changed(interval_s=float("nan")), "interval_not_a_number"),
        (changed(interval_s=float("inf")), "interval_not_a_number"),
        (changed(interval_s=[60]), "interval_not_a_number"),
        (changed(memory_mb={}), "memory_not_a_number"),
        (changed(memory_mb=False), "memory_not_a_number"),
        (changed(ts=1731689870), "ts_unreadable"),
        (changed(ts=True), "ts_unreadable"),
        (changed(org_id=True), "bad_org_id"),
        (changed(org_id=["o"]), "bad_org_id"),
        (changed(org_id=None), "bad_org_id"),
        (changed(org_id="a\u0000b"), "bad_org_id"),
        (changed(org_id="\ud800"), "bad_org_id"),
        ("{}", "bad_id"),
        ("[]", "not_an_object"),
        ("17", "not_an_object"),
        ("null", "not_an_object"),
        ('"text"', "not_an_object"),
        ("{", "not_json"),
        ("id=s1", "not_json"),
        (changed()[:-1], "not_json"),
        (changed() + changed(), "not_json"),
        ("[" * 100_000, "not_json"),
        (changed()[:-1] + ', "interval_s": 60}', "duplicate_keys"),
        (changed(interval_s=60)[:-1] + ', "x": 1e999999}', "s1"),
        (changed().replace("60,", "1e999999,"), "interval_over_a_day"),
        (changed().replace("60,", "9" * 90 + ","), "interval_over_a_day"),
        (changed().replace("60,", "9" * 100_000 + ","), "interval_not_a_number"),
    ],
)
def test_json_line_is_read_or_rejected_with_reason(line: str, found: str) -> None:
    assert outcomes(f"{line}\n{changed(id='s2')}\n", "u.jsonl") == {1: found, 2: "s2"}


def test_json_row_not_in_utf8_is_rejected_alone() -> None:
    data = (
        changed().encode() + b"\n" + changed(id="caf_").encode().replace(b"_", b"\xe9") + b"\n\n" + changed().encode()
    )
    assert outcomes(data, "u.ndjson") == {1: "s1", 2: "not_utf8", 4: "s1"}


def test_json_rejected_field_is_named_by_our_column() -> None:
    ((_, _, bad),) = records('{"who": true, "id": "x"}\n', "u.jsonl", columns={"org_id": "who", "sandbox_id": "who"})
    assert isinstance(bad, BadRow)
    assert (bad.column, bad.reason, bad.text) == ("org_id", "bad_org_id", "true")


def test_json_ids_from_line_numbers_are_used() -> None:
    data = "\n" + changed() + "\n"
    assert outcomes(data, "u.jsonl", id_from_line=True) == {2: "u:2"}
