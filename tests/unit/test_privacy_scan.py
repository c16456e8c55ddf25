"""A scan tells the place and the rule, never the value; what cannot be looked through is not public."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from typing import Any

import pytest

from drawdown.events.privacy import leaves, scan
from drawdown.events.privacy.scan import Finding, NotPublic, require_public
from drawdown.events.privacy.shapes import (
    COMMIT,
    DAY,
    FLAG,
    LABEL,
    LEAST_KEY_BYTES,
    NUMBER,
    REFERENCE,
    REFERENCE_,
    TIME,
    Rows,
    Shape,
    outside,
    reference,
    word,
)
from drawdown.schema.errors import UsageError
from tests.cases import cases

SHAPE: Shape = {
    "report": word("usage"),
    "made_at": TIME,
    "commit": COMMIT,
    "complete": FLAG,
    "rows": Rows({"plan": LABEL, "day": DAY, "subject": REFERENCE_, "events": NUMBER}),
}
GOOD = {
    "report": "usage",
    "made_at": "2026-01-31T12:00:00Z",
    "commit": "9f2c1d7",
    "complete": True,
    "rows": [{"plan": "pro-100", "day": "2026-01-31", "subject": "ref_0123456789ab", "events": 7}],
}


def found(text: str | bytes) -> list[tuple[str, str]]:
    content = text.encode() if isinstance(text, str) else text
    return [(one.path, one.rule) for _, report in leaves.read_reports(content) for one in scan.scan(report).findings]


def test_scan_finding_names_place_and_rule() -> None:
    report = {"rows": [{"plan": "free"}, {"plan": "alice@example.com"}], "note": "cus_9"}
    assert scan.scan(report).findings == (Finding("$.rows[1].plan", "email"), Finding("$.note", "customer_id"))


def test_scan_private_key_is_masked_in_places() -> None:
    report = {"plans": {"alice@example.com": {"note": "cus_9"}, "free plan": {"note": "cus_8"}}}
    assert scan.scan(report).findings == (
        Finding("$.plans.<key 1>", "email"),
        Finding("$.plans.<key 1>.note", "customer_id"),
        Finding("$.plans.<key 2>.note", "customer_id"),
    )
    assert scan.scan({"by_owner": {"acme": 1}}).findings == (Finding("$.by_owner.<key 1>", "raw_owner_id"),)


def test_scan_duplicate_key_checks_both_values() -> None:
    assert found('{"plan": "cus_9", "plan": "free"}') == [("$.plan", "duplicate_key"), ("$.plan", "customer_id")]
    assert found('{"plan": "free", "pl\\u0061n": "free"}') == [("$.plan", "duplicate_key")]


@cases(
    "text",
    [
        r'{"note": "cus\u005f9"}',
        r'{"note": "cus\\u005f9"}',
        '{"note": "cus%5F9"}',
        '{"note": "cus%255F9"}',
        '{"note": "CUS_9"}',
        '{"note": "cus&#95;9"}',
        '{"note": "\uff43\uff55\uff53\uff3f\uff19"}',
        '{"note": "cus\u200b_9"}',
        r'{"note": "{\"a\": \"cus_9\"}"}',
        r'{"note": "[\"cus_\\u0039\"]"}',
        '{"note": "%7B%22a%22%3A%22cus_9%22%7D"}',
        '{"note": "Y3VzdG9tZXIgd2FzIGN1c185"}',
    ],
)
def test_scan_hidden_text_is_decoded_and_found(text: str) -> None:
    assert "customer_id" in {rule for _, rule in found(text)}


def test_scan_private_field_in_json_text_is_found() -> None:
    assert found(json.dumps({"note": json.dumps({"actor": {"id": 7}})})) == [("$.note<json>.actor.id", "raw_actor_id")]


def test_scan_number_equals_same_number_as_text() -> None:
    ids = {"1234567"}
    for value in ("1234567", "1234567.0", "1.234567e6", '"1234567"', '"no. 1234567."'):
        ((_, report),) = leaves.read_reports(f'{{"count": {value}}}'.encode())
        assert scan.scan(report, known_ids=lambda _: ids).findings == (Finding("$.count", "known_id"),), value


def test_scan_card_number_as_number_is_found() -> None:
    card = "4111111111111111"
    for value in (card, f"-{card}", f"{card}.0", "4.111111111111111e15", "378282246310005"):
        assert found(f'{{"n": [{value}]}}') == [("$.n[0]", "card_number")], value
    for value in ("4111111111111112", f"0.{card}", f"{card}.5", "41111", "1767225600000", "1" * 400):
        assert found(f'{{"n": [{value}]}}') == [], value
    for name in ("quantity", "Quantities", "total_events", "byte_count", "credits", "cost_micro"):
        assert found(f'{{"{name}": {card}}}') == [], name
    assert scan.scan({"n": int(card)}, shape={"n": NUMBER}).findings == ()


def test_scan_number_longer_than_text_limit_is_found() -> None:
    for value in ("9" * leaves.MAX_TEXT_CHARS + "9", "1." + "9" * leaves.MAX_TEXT_CHARS):
        assert found(f'{{"n": {value}}}') == [("$.n", "long_text")]
    assert found(f'{{"n": {"9" * leaves.MAX_TEXT_CHARS}}}') == []


def test_scan_many_combining_marks_are_not_normalised(monkeypatch: pytest.MonkeyPatch) -> None:
    normalised: list[str] = []
    real = unicodedata.normalize

    def normalize(form: Any, text: str) -> str:
        normalised.append(text)
        return real(form, text)

    monkeypatch.setattr(unicodedata, "normalize", normalize)
    for marks in ("\u0345\u0316", "\uff9e\u0f73", "\u0344"):
        text = "a" + marks * (leaves.MAX_MARKS + 1)
        assert {one.rule for one in scan.scan([text]).findings} == {"many_readings"}
        assert {one.rule for one in scan.scan({text: 1}).findings} == {"many_readings"}
        assert {one.rule for one in scan.scan([text.replace("a", "%41")]).findings} == {"many_readings"}
    assert [text for text in normalised if len(text) > leaves.MAX_MARKS] == []
    assert scan.scan(["a" + "\u0300" * leaves.MAX_MARKS + "b\u0300", "\ud55c\uae00"]).findings == ()


def test_scan_long_field_name_is_cut_before_normalising() -> None:
    leaves.bare.cache_clear()
    assert len(leaves.bare("a" * (2 * leaves.MAX_TEXT_CHARS))) == leaves.MAX_TEXT_CHARS


def test_scan_marks_table_covers_characters_that_decompose_to_marks() -> None:
    """Of this Unicode: by its own tables."""
    others = (one for one in map(chr, range(0x110000)) if not unicodedata.combining(one))
    begins = {one for one in others if unicodedata.combining(unicodedata.normalize("NFKD", one)[:1] or "a")}
    assert begins == leaves._MARKS


def test_scan_known_id_is_found_as_whole_word_in_any_case() -> None:
    def known_ids(words: frozenset[str]) -> set[str]:
        return {"acme", "Globex Inc", "1200", "ab"} & words

    places = {"a": "acme", "b": "ACME", "c": "https://x.example/acme?x=1", "d": "Globex Inc", "e": "of acme."}
    innocent = {"f": "acmeville", "g": 1200, "h": "1200", "i": "ab", "j": "free"}
    got = {one.path for one in scan.scan({**places, **innocent}, known_ids=known_ids).findings}
    assert got == {f"$.{name}" for name in places}
    assert scan.scan({"acme": 1}, known_ids=known_ids).findings == (Finding("$.<key 1>", "known_id"),)


def test_scan_configured_secret_is_found_anywhere() -> None:
    secrets = ("correct horse", "abc")
    found_ = scan.scan({"a": "xxCORRECT horsexx", "b": "correct%20horse", "c": "abc"}, secrets=secrets).findings
    assert found_ == (Finding("$.a", "configured_secret"), Finding("$.b", "configured_secret"))


def test_scan_python_objects_are_scanned_as_json() -> None:
    @dataclass(frozen=True)
    class Row:
        plan: str
        owner_id: str | None = None

    assert scan.scan([Row("free"), Row("team", "acme")]).findings == (Finding("$[1].owner_id", "raw_owner_id"),)
    for wrong in ({"a": b"x"}, {1: "a"}, [object()]):
        with pytest.raises(UsageError):
            scan.scan(wrong)


def test_scan_json_lines_are_separate_reports() -> None:
    content = b'{"plan": "free"}\n\n{"plan": "cus_9"}\r\n'
    assert [number for number, _ in leaves.read_reports(content)] == [1, 3]
    assert [number for number, _ in leaves.read_reports(b'{\n"plan":\n"free"\n}')] == [None]
    assert found(content) == [("$.plan", "customer_id")]


@cases(
    ("content", "code"),
    [
        (b"", "bad_json"),
        (b"{", "bad_json"),
        (b'{"a": 1}\n{"a"', "bad_json"),
        (b'{"a": NaN}', "bad_json"),
        (b"plain text", "bad_json"),
        (b'{"a": "\xff"}', "bad_encoding"),
        (b"[" * 100_000, "report_too_deep"),
        (b" " * (leaves.MAX_REPORT_BYTES + 1), "report_too_large"),
    ],
)
def test_scan_unreadable_report_is_refused_without_its_content(content: bytes, code: str) -> None:
    with pytest.raises(UsageError) as refused:
        leaves.read_reports(content)
    assert refused.value.code == code and "plain" not in str(refused.value)


def test_scan_report_too_deep_long_or_large_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaves, "MAX_LEAVES", 1_000)  # of 200,000 each look takes a second
    deep: object = "cus_9"
    for _ in range(leaves.MAX_DEPTH + 1):
        deep = [deep]
    assert {one.rule for one in scan.scan(deep).findings} == {"too_deep"}
    assert scan.scan(["a " * leaves.MAX_TEXT_CHARS]).findings == (Finding("$[0]", "long_text"),)
    for many in ([1] * leaves.MAX_LEAVES, [[1] * (leaves.MAX_LEAVES // 2)] * 3):
        assert [one.rule for one in scan.scan(many).findings] == ["too_large"]
    assert scan.scan([1] * (leaves.MAX_LEAVES - 1)).findings == ()
    (found,) = scan.scan({"a": "[" * 4_000 + "]" * 4_000}).findings
    assert found.rule == "too_deep" and found.path.startswith("$.a"), "how deep a parser goes differs with Python"


def test_scan_counts_all_findings_and_lists_first() -> None:
    result = scan.scan(["cus_9"] * (scan.MAX_FINDINGS + 5))
    assert (len(result.findings), result.count) == (scan.MAX_FINDINGS, scan.MAX_FINDINGS + 5)


def test_scan_readings_of_text_are_bounded() -> None:
    hostile = "&amp;" * 30 + "%25" * 30 + "\\\\u0041" * 30 + "QUJDREVGR0hJSktMTU5PUA== " * 100 + "ﷺ" * 9_000
    found_ = leaves.readings(hostile)
    assert len(found_) == leaves.MAX_READINGS and max(map(len, found_)) == leaves.MAX_TEXT_CHARS
    assert scan.scan([hostile]).findings[0] == Finding("$[0]", "long_text"), "and what lies beyond is not public"
    runs = " ".join(["QUJDREVGR0hJSktMTU5P"] * leaves.MAX_RUNS + ["Y3VzdG9tZXIgd2FzIGN1c185"] * 9)
    assert leaves.look(runs) == ([runs, "ABCDEFGHIJKLMNO", "\n".join(["customer was cus_9"] * 9)], True)


@cases(
    "report",
    [
        {"a " * leaves.MAX_TEXT_CHARS + "end": 1},
        ["ﷺ" * 600 + "\uff43\uff55\uff53\uff3f9"],
        ["%" + "25" * leaves.MAX_READINGS + "41"],
    ],
)
def test_scan_text_beyond_limits_is_found(report: object) -> None:
    assert {one.rule for one in scan.scan(report).findings} & {"long_text", "many_readings"}


def test_scan_of_report_with_many_readings_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way to read a text of JSON has its own ways to read what stands in it: twelve, and twelve of each."""
    monkeypatch.setattr(leaves, "MAX_DECODED_CHARS", 40_000)
    text = "%" + "25" * 60 + "41"
    for _ in range(5):
        text = json.dumps([text])
    found_ = list(leaves.leaves_of([text]))
    assert len(text) < 200 and len(found_) < 40_000 / leaves.LEAST_DECODED_CHARS * 2
    last = found_[-1]
    assert isinstance(last, leaves.Trouble) and last.rule == "too_large"


@cases(
    "text",
    [
        "cus_Nffr\U000e0061FeUfNV2Hib", "cus_Nffr\u034fFeUfNV2Hib", "cus_Nffr\u3164FeUfNV2Hib",
        "cus_Nffr\x85FeUfNV2Hib",
        "".join(f"\\{ord(one):03o}" for one in "cus_9"), "".join(f"\\U{ord(one):08x}" for one in "cus_9"),
        "\u0661\u0669\u0662.\u0661\u0666\u0668.\u0661.\u0661", '"ann miller"@example.com',
    ],
)  # fmt: skip
def test_scan_id_with_invisible_characters_is_found(text: str) -> None:
    assert scan.scan([text]).count == 1, text


def test_report_with_its_shape_is_public() -> None:
    require_public(GOOD, SHAPE)
    ((_, read),) = leaves.read_reports(json.dumps(GOOD).encode())
    require_public(read, SHAPE)


@cases(
    ("change", "path", "rule"),
    [
        ({"more": 1}, "$.<key 6>", "unknown_field"),
        ({"report": "other"}, "$.report", "not_of_its_class"),
        ({"made_at": "2026-01-31"}, "$.made_at", "not_of_its_class"),
        ({"made_at": "2026-13-31T12:00:00Z"}, "$.made_at", "not_of_its_class"),
        ({"made_at": "2026-01-31T12:00:00+01:00"}, "$.made_at", "not_of_its_class"),
        ({"commit": "HEAD"}, "$.commit", "not_of_its_class"),
        ({"complete": 1}, "$.complete", "not_of_its_class"),
        ({"rows": {}}, "$.rows", "not_of_its_class"),
        ({"rows": [{}]}, "$.rows[0]", "missing_field"),
        ({"rows": [GOOD["rows"][0] | {"plan": "free\n"}]}, "$.rows[0].plan", "not_of_its_class"),  # type: ignore[index]
        ({"rows": [GOOD["rows"][0] | {"plan": "x" * 65}]}, "$.rows[0].plan", "not_of_its_class"),  # type: ignore[index]
        ({"rows": [GOOD["rows"][0] | {"plan": "org_42"}]}, "$.rows[0].plan", "raw_account_id"),  # type: ignore[index]
        ({"rows": [GOOD["rows"][0] | {"subject": "acme"}]}, "$.rows[0].subject", "not_of_its_class"),  # type: ignore[index]
        ({"rows": [GOOD["rows"][0] | {"events": "7"}]}, "$.rows[0].events", "not_of_its_class"),  # type: ignore[index]
        ({"rows": [GOOD["rows"][0] | {"events": True}]}, "$.rows[0].events", "not_of_its_class"),  # type: ignore[index]
    ],
)
def test_report_outside_its_shape_is_refused(change: dict[str, object], path: str, rule: str) -> None:
    with pytest.raises(NotPublic) as refused:
        require_public(GOOD | change, SHAPE)
    assert Finding(path, rule) in refused.value.scan.findings
    assert f"{path}: {rule}" in str(refused.value) and refused.value.code == "not_public"


def test_report_with_id_of_database_is_refused() -> None:
    with pytest.raises(NotPublic, match=r"\$\.rows\[0\]\.plan: known_id"):
        require_public(GOOD, SHAPE, known_ids=lambda words: {"pro-100"} & words)


def test_report_deeper_than_limit_is_refused() -> None:
    shape: object = NUMBER
    report: object = 1
    for _ in range(leaves.MAX_DEPTH + 10):
        shape, report = Rows(shape), [report]  # type: ignore[arg-type]
    assert list(outside(report, shape)) == []  # type: ignore[arg-type]
    with pytest.raises(NotPublic, match="too_deep"):
        require_public(report, shape)  # type: ignore[arg-type]


def test_reference_of_same_value_and_key_is_equal() -> None:
    key, other = b"k" * LEAST_KEY_BYTES, b"l" * LEAST_KEY_BYTES
    made = {reference(key, "org", "acme"), reference(key, "org", "acme")}
    assert len(made) == 1 and REFERENCE.fullmatch(made.pop())
    assert len({reference(k, kind, text) for k in (key, other) for kind in ("o", "org") for text in ("a", "rga")}) == 8
    assert scan.scan({"owner_id": reference(key, "org", "acme")}).findings == ()
    with pytest.raises(UsageError):
        reference(b"short", "org", "acme")
