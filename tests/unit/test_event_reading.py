"""Items out of bodies: each for itself, whatever stands beside it."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drawdown.events import body_items, cloudevents
from drawdown.events.body_items import (
    MAX_DEPTH,
    MAX_ITEM_BYTES,
    MOST_ITEMS,
    Unreadable,
    array,
    is_array,
    one,
    read_lines,
)
from drawdown.events.envelope import Unfit
from tests.cases import cases
from tests.whole import share

SCALARS: Final = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.text(max_size=20)
VALUES: Final = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3))
OBJECTS: Final = st.dictionaries(st.text(max_size=5), VALUES, max_size=4)
DEEP: Final = b'{"a":' * 2_000 + b"1" + b"}" * 2_000


MIB: Final = 1 << 20


def codes(found: Any) -> list[object]:
    return [item.code if isinstance(item, Unfit) else item for item in found]


@settings(max_examples=share(30, whole=200))
@given(st.lists(OBJECTS, max_size=6), st.booleans(), st.sampled_from(["", " ", "\n\t "]))
def test_json_array_body_is_read_as_by_json_loads(items: list[object], plain: bool, blank: str) -> None:
    body = f"{blank}{json.dumps(items, ensure_ascii=plain, indent=blank or None)}{blank}"
    sent = body.encode(errors="surrogatepass")
    expected = json.loads(body)
    try:
        sent.decode()
    except UnicodeDecodeError:
        expected = ["not_json" if _is_broken(item, plain) else item for item in expected]
    assert codes(array(sent)) == expected


def _is_broken(item: object, plain: bool) -> bool:
    text = json.dumps(item, ensure_ascii=plain)
    return any("\ud800" <= character <= "\udfff" for character in text)


@settings(max_examples=share(100, whole=300))
@given(st.binary(max_size=60) | st.text('[]{},:"\\ a1e.-\n', max_size=60).map(str.encode))
def test_random_bytes_body_is_rejected_or_read_as_json(body: bytes) -> None:
    for read in (array, read_lines, lambda b: iter([one(b)])):
        try:
            found = list(read(body))
        except Unreadable as error:
            assert error.code in ("not_json", "too_large")
            continue
        if read is array and not any(isinstance(item, Unfit) for item in found):
            assert found == json.loads(body, parse_float=Decimal)


BAD: Final[dict[str, tuple[bytes, str]]] = {
    "cut": (b'{"a": 1', "not_json"),
    "no value": (b'{"a": }', "not_json"),
    "a word": (b"nonsense", "not_json"),
    "nothing": (b" ", "not_json"),
    "two at once": (b'{"a": 1} {"a": 2}', "not_json"),
    "brackets that do not match": (b'{"a": [1}', "not_json"),
    "no UTF-8": (b'{"a": "\xff"}', "not_json"),
    "NaN": (b'{"a": NaN}', "not_json"),
    "infinity": (b'{"a": -Infinity}', "not_json"),
    "a line's end in a text": (b'{"a": "x\ny"}', "not_json"),
    "an exponent beyond all": (b'{"a": 1e99999999999999999999}', "not_json"),
    "a name twice": (b'{"a": 1, "a": 1}', "duplicate_keys"),
    "a name twice within": (b'{"b": [{"a": 1, "\\u0061": 2}]}', "duplicate_keys"),
    "a number": (b"3", "not_an_object"),
    "a text with signs": (b'"],[{"', "not_an_object"),
    "an array": (b"[{}]", "not_an_object"),
    "null": (b"null", "not_an_object"),
    "deep": (DEEP, "too_deep"),
    "large": (b'{"a": "' + b"x" * MAX_ITEM_BYTES + b'"}', "too_large"),
    "large and deep": (b'{"a":' * 9_000 + b"1" + b"}" * 9_000, "too_large"),
}  # fmt: skip


@cases("name", BAD)
def test_invalid_item_in_body_does_not_reject_other_items(name: str) -> None:
    item, code = BAD[name]
    if name not in ("cut", "brackets that do not match"):  # in an array, their ends cannot be told
        assert codes(array(b'[{"n": 1}, ' + item + b' , {"n": 2}]')) == [{"n": 1}, code, {"n": 2}]
        assert codes(array(b"[" + item + b"]")) == ([] if not item.strip() else [code])
    if b"\n" not in item and item.strip():
        assert codes(read_lines(b'{"n": 1}\n' + item + b'\n\n{"n": 2}\n')) == [{"n": 1}, code, "empty_line", {"n": 2}]
    if code == "not_json":
        with pytest.raises(Unreadable):
            one(item)
    else:
        assert codes([one(item)]) == [code]


@cases(
    "body",
    [b"", b" ", b"{}", b"[", b"[{}", b"[{},", b"[{}]x", b"[{}]]", b'[{"a": "]', b"[{}}", b'[{"a": "\\', b"[,", b"3"],
)
def test_incomplete_or_missing_array_is_rejected(body: bytes) -> None:
    with pytest.raises(Unreadable) as found:
        list(array(body))
    assert found.value.code == "not_json"


def test_extra_comma_in_array_is_an_invalid_item() -> None:
    assert codes(array(b"[{},]")) == [{}, "not_json"]
    assert codes(array(b"[,{}]")) == ["not_json", {}]
    assert codes(array(b" [ ] ")) == []


def test_body_numbers_are_exact() -> None:
    assert list(array(b'[{"a": 0.1, "b": 3.0, "c": 1e400, "d": 123456789012345678901}]')) == [
        {"a": Decimal("0.1"), "b": Decimal("3.0"), "c": Decimal("1e400"), "d": 123456789012345678901}
    ]


@cases("sign", [b"", b"-"])
@cases(("field", "code"), [("quantity", "bad_quantity"), ("occurred_at", "bad_time"), ("p", "bad_number")])
def test_number_with_5000_digits_is_rejected_with_code(sign: bytes, field: str, code: str) -> None:
    said = {"source": "/w", "event_id": "x", "event_type": "t", "quantity": 1, "occurred_at": 1_767_225_600_000}
    fields = {name: json.dumps(value).encode() for name, value in said.items()}
    long = sign + b"9" * 5_000
    fields |= {"properties": b'{"n":' + long + b"}"} if field == "p" else {field: long}
    item = b"{" + b",".join(b'"%s":%s' % (name.encode(), value) for name, value in fields.items()) + b"}"
    for body, kind in ((item, cloudevents.JSON), (b"[%s]" % item, cloudevents.JSON), (item, cloudevents.LINES)):
        (found,) = cloudevents.parse_events(body, kind, {}, "acme", 1_767_225_600_000)
        assert isinstance(found, Unfit) and found.code == code


def test_body_items_and_item_size_are_bounded() -> None:
    assert len(list(array(b"[" + b",".join([b"{}"] * MOST_ITEMS) + b"]"))) == MOST_ITEMS
    for body, read in (
        (b"[" + b",".join([b"{}"] * (MOST_ITEMS + 1)) + b"]", array),
        (b"{}\n" * (MOST_ITEMS + 1), read_lines),
    ):
        with pytest.raises(Unreadable) as found:
            list(read(body))
        assert found.value.code == "too_large"
    full = b'{"a": "' + b"x" * (MAX_ITEM_BYTES - 9) + b'"}'
    assert len(full) == MAX_ITEM_BYTES
    for read in (array, read_lines):
        (item,) = read(b"[" + full + b"]" if read is array else full)
        assert isinstance(item, dict)
        (item,) = read(b"[" + full.replace(b"x", b"xx", 1) + b"]" if read is array else full.replace(b"x", b"xx", 1))
        assert isinstance(item, Unfit) and item.code == "too_large"
    assert body_items.MAX_DEPTH == MAX_DEPTH and is_array(b" \n[") and not is_array(b"{}") and not is_array(b"")


def test_skipped_tokens_of_body_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tokens in items that are too large: to look at each took a hundred times as long as to read them."""
    wrong, fit = b'{"a":[' + b"{}," * MAX_ITEM_BYTES + b"{}]}", b'{"n": 1}'
    tokens = len(list(body_items._TOKENS.finditer(wrong + b",")))
    assert 3 * tokens < body_items.MOST_PASSED_OVER, "some are passed over as ever"
    assert codes(array(b"[%s, %s, %s]" % (wrong, fit, wrong))) == ["too_large", {"n": 1}, "too_large"]
    monkeypatch.setattr(body_items, "MOST_PASSED_OVER", 2 * tokens)
    assert codes(array(b"[%s, %s, %s]" % (wrong, fit, wrong))) == ["too_large", {"n": 1}, "too_large"]
    with pytest.raises(Unreadable, match="Send fewer") as found:
        list(array(b"[%s, %s, %s, {]" % (wrong, fit, wrong)))
    assert found.value.code == "too_large"


@cases(
    "bomb",
    [b"[" * MIB, b"[" + b"[]" * MIB, b'[{"a":"' + b'\\"' * MIB, b"[[" + b'"\\' * MIB,
     b'[{"a":"' + b"\\" * (MIB + 1), b"[[" + b'" ' * MIB, b"\n" * MIB, b"[" + b"," * 2_000],
)  # fmt: skip
def test_hostile_body_is_read_in_linear_time(bomb: bytes) -> None:
    """Each would take an hour, were any byte of it looked at again for each of the others."""
    for read in (array, read_lines):
        try:
            assert len(list(read(bomb))) <= MOST_ITEMS
        except Unreadable as error:
            assert error.code in ("not_json", "too_large")


@cases("filler", ["a", "ü", "1"])
def test_item_longer_than_first_kilobyte_is_read_in_full(filler: str) -> None:
    for length in range(500, 1_040):
        value: object = int(filler * length) if filler == "1" else filler * length
        items = [{"a": value}, value, {"b": filler, "c": [value]}]
        body = json.dumps(items, ensure_ascii=False).encode()
        first, second, third = body_items.array(body)
        assert (first, third) == (items[0], items[2])
        assert isinstance(second, Unfit) and second.code == "not_an_object"
