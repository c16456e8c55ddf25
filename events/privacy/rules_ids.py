"""Rules for ids: of customers and payments, of people and what they own, of runs, and ids of known forms."""

from __future__ import annotations

import re
from typing import Final

from drawdown.events.privacy.rule import rule
from drawdown.events.privacy.rules_secrets import DIGIT, MIXED

_END: Final = r"(?![a-z0-9])"
_BEGIN: Final = r"(?<![a-z0-9])"
_SPAN: Final = rf"(?!\d{{1,4}}(?:d|h|m|w|y|s|k|x|days?|th){_END}|[qhvp]\d{{1,2}}{_END})"
"""No length of time, quarter, version or quantile: `user_30d`, `user_p99`."""
_SOME: Final = rf"(?:\d{{1,20}}{_END}|{DIGIT}[a-z0-9]{{6}}|{_SPAN}{DIGIT}(?=\d{{0,40}}[a-z])[a-z0-9]{{3}})"
"""A number, or letters and digits, behind `user_` and the like."""
_AFTER_DASH: Final = rf"(?:\d{{5,20}}{_END}|{DIGIT}[a-z0-9]{{8}})"
"""The same behind `user-`: `user-2026` may be a label."""
_RAW: Final = r"(?:raw|private|secret|real|test|live|internal)[_-][a-z0-9]"
"""Behind `user_` and the like, words by which ids are told from labels."""
_SCOPE: Final = r"(?!(?:read|write|admin|manage|list|create|delete|any|all|none|other|redacted|ref_)\b|ref_)"


def _owned(*words: str) -> tuple[str, ...]:
    """Patterns of an id behind the word for whose it is."""
    names = "|".join(words)
    return (
        rf"{_BEGIN}(?:{names})(?:[_-]?id)?[_#]{_SOME}",
        rf"{_BEGIN}(?:{names})(?:[_-]?id)?-{_AFTER_DASH}",
        rf"{_BEGIN}(?:{names})[_-]{_RAW}",
        rf"{_BEGIN}(?:{names}):{_SCOPE}[^\s\"',;:}}\])]",
        rf"{_BEGIN}(?:{names})[_-]?id[\"']?\s{{0,3}}[:=]\s{{0,3}}[\"']?{_SCOPE}[^\s\"',;}}\])*<\[]",
        rf"\b(?:{names})s?/{_SCOPE}(?=[^\s/\"'\d]{{0,80}}\d)[^\s/\"']{{4}}",
    )


def _mixed(found: str) -> bool:
    """Whether digits and letters are mixed as no word or number has them."""
    digits = sum(map(str.isdigit, found))
    return digits >= 2 and len(found) - digits >= 2 and not re.fullmatch(r"[a-z]+\d+|\d+[a-z]+", found.lower())


def _any_mixed(found: str) -> bool:
    return any(map(str.isdigit, found)) and any(map(str.isalpha, found))


def _is_run(found: str) -> bool:
    """Not the date of a batch, and no plain number of few digits."""
    tail = re.split(r"[_:-]", found)[-1]
    return not re.fullmatch(r"20\d{6}", tail)


OPAQUE_KEYS: Final = (
    "commit revision rev tree head gitsha sha sha1 sha256 digest hash checksum fingerprint contenthash basecommit "
    "headcommit"
)
"""Fields of commits and checksums."""

IDS: Final = (
    rule("customer_id", "a customer of a payment service", rf"{_BEGIN}cus_[a-z0-9]", needles="cus_"),
    rule(
        "subscription_id",
        "a subscription of a payment service",
        rf"{_BEGIN}sub(?:_sched)?_(?:{DIGIT}[a-z0-9]{{1}}|{_RAW}|{MIXED})",
        needles="sub_",
    ),
    rule(
        "payment_id",
        "a payment, card or invoice of a payment service",
        rf"{_BEGIN}(?:pi|pm|ch|in|ii|il|evt|price|prod|seti|si|cs|txn|re|po|card|src|tok|ba|dp|promo|req|we|acct|mbur|plink|tr|py)_"
        rf"(?:(?:test_|live_)?(?:{DIGIT}[a-z0-9]{{8}}|{MIXED})|(?:test|live)_{DIGIT}[a-z0-9]{{3}})",
        needles="_",
    ),
    rule(
        "raw_actor_id",
        "who did something",
        *_owned("actor", "user", "usr", "member", "person", "viewer", "uid"),
        rf"{_BEGIN}(?:auth0|google-oauth2|github|windowslive|samlp)\|[^\s\"']{{4}}",
        needles="actor user usr member person viewer uid | auth0",
    ),
    rule(
        "raw_account_id",
        "an account, customer or organisation",
        *_owned("account", "acct", "acc", "customer", "cust", "org", "organi[sz]ation", "tenant", "wallet"),
        needles="acc cust org tenant wallet",
    ),
    rule("raw_workspace_id", "a workspace", *_owned("workspace", "wks", "wsp", "ws"), needles="workspace wks wsp ws"),
    rule(
        "raw_owner_id",
        "an owner or payer",
        *_owned("owner", "payer", "sponsor", "creator"),
        needles="owner payer sponsor creator",
    ),
    rule(
        "uuid",
        "a UUID",
        r"(?<![0-9a-f])[0-9a-f]{8}[-_:.][0-9a-f]{4}[-_:.][0-9a-f]{4}[-_:.][0-9a-f]{4}[-_:.][0-9a-f]{12}(?![0-9a-f])",
    ),
    rule("ulid", "a ULID", rf"{_BEGIN}[0-7][0-9A-HJKMNP-TV-Z]{{25}}{_END}", holds=_any_mixed),
    rule("ksuid", "a KSUID", rf"{_BEGIN}[0-9a-z]{{27}}{_END}", holds=_any_mixed),
    rule(
        "hex_id",
        "an id or key in hexadecimal digits",
        rf"{_BEGIN}(?:[0-9a-f]{{24}}|[0-9a-f]{{32}}|[0-9a-f]{{40}}|[0-9a-f]{{48}}|[0-9a-f]{{64}}|[0-9a-f]{{96}}|[0-9a-f]{{128}}){_END}",
        holds=_any_mixed,
        unless_key=OPAQUE_KEYS,
    ),
    rule(
        "opaque_token",
        "a token of letters and digits",
        rf"{_BEGIN}[a-z0-9]{{20,200}}",
        holds=_mixed,
        unless_key=OPAQUE_KEYS,
    ),
    rule(
        "execution_id",
        "a run at a provider",
        rf"{_BEGIN}(?:run|exec|execution|job|task|pred|prediction|req|request|inv|invocation|call|trace|span|thread|msg|resp|batch|gen|render|workflow|wf|"
        rf"wfr|step|asst|sess|session|sandbox|sbx|deploy|fal|modal|ap|fc|evt|event|conv)[_:-](?:{DIGIT}(?=\d{{0,40}}[a-z])[a-z0-9]{{6,64}}|\d{{7,20}}{_END}|{_RAW}|{MIXED})",
        r"\bfal[_-](?:req|request)[_-]\w{3}",
        r"\bchatcmpl-\w{4}",
        r"\bcmpl-\w{8}",
        holds=_is_run,
        needles="_ - :",
    ),
    rule(
        "execution_field",
        "an id of a run, a request or a session, with its name",
        rf"{_BEGIN}(?:run|execution|job|task|prediction|request|correlation|trace|span|session|sandbox|invocation|idempotency)[_-]?(?:id|key)[\"']?"
        rf"\s{{0,3}}[:=]\s{{0,3}}[\"']?{_SCOPE}[^\s\"',;}}\])*<\[]",
        needles="id key",
    ),
)
