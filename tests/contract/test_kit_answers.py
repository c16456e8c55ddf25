"""What the kit concludes from any service's answer."""

from __future__ import annotations

from decimal import Decimal

from drawdown.providers.http import Answer, NoAnswer, NotSent
from drawdown.providers.kit.answers import (
    MAX_QUOTED_CHARS,
    MAX_RETRY_MS,
    MIN_RETRY_MS,
    json_object,
    number,
    quoted,
    read_object,
    retry_after_ms,
    shared_outcome,
)
from drawdown.providers.protocol import ReadFailed, RetryAt, Unknown
from tests.cases import cases

NOW_MS = 1_767_225_600_000


def test_shared_outcome_retries_only_unsent_and_429() -> None:
    assert isinstance(shared_outcome(NotSent("refused"), 1, NOW_MS), RetryAt)
    assert isinstance(shared_outcome(NoAnswer("cut"), 1, NOW_MS), Unknown)
    throttled = shared_outcome(Answer(429, {"retry-after": "7"}, b""), 1, NOW_MS)
    assert isinstance(throttled, RetryAt) and throttled.too_many and throttled.at_ms == NOW_MS + 7_000
    for status in (200, 401, 409, 500, 503):
        assert isinstance(shared_outcome(Answer(status, {}, b""), 1, NOW_MS), Answer)


@cases(
    ("text", "wait_ms"),
    [
        ("7", 7_000),
        ("0", MIN_RETRY_MS),
        ("31536000", MAX_RETRY_MS),
        ("9" * 400, MAX_RETRY_MS),
        ("Thu, 01 Jan 2026 00:01:00 GMT", 60_000),
        ("Mon, 01 Jan 0001 00:00:00 +2359", MIN_RETRY_MS),
        ("soon", None),
        ("-5", None),
        ("", None),
    ],
)
def test_retry_after_header_is_clamped_or_ignored(text: str, wait_ms: int | None) -> None:
    assert retry_after_ms({"retry-after": text}, NOW_MS) == wait_ms


def test_json_numbers_are_exact_and_invalid_json_is_rejected() -> None:
    found = json_object(b'{"a": 0.1, "b": 12345678901234567890}')
    assert found == {"a": Decimal("0.1"), "b": 12345678901234567890}
    for body in (b"", b"[]", b"null", b'{"a": NaN}', b'{"a": 1e9999999999999999999}', b"[" * 100_000, b'{"\xff": 1}'):
        assert json_object(body) is None, body[:20]
    assert (number("12.50"), number(7), number(Decimal("0.5"))) == (Decimal("12.50"), Decimal(7), Decimal("0.5"))
    for value in (True, None, "1e9", "x", [1], "", Decimal("NaN")):
        assert number(value) is None, value


def test_read_object_returns_object_or_failed_read() -> None:
    assert read_object(Answer(200, {}, b'{"a": 1}')) == {"a": 1}
    assert read_object(Answer(429, {}, b"")) == ReadFailed("HTTP 429: too many calls", too_many=True)
    for result in (NotSent("refused"), NoAnswer("cut"), Answer(200, {}, b"<html>"), Answer(500, {}, b"{}")):
        assert isinstance(read_object(result), ReadFailed)


def test_quoted_message_is_short_single_line_without_secret() -> None:
    told = quoted("no\nkey sk_canary " + "x" * 500, "sk_canary", None)
    assert "sk_canary" not in told and "\n" not in told and len(told) <= MAX_QUOTED_CHARS + 1
