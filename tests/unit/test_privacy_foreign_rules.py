"""Rules in the form of gitleaks' file are used beside our own, on RE2."""

from __future__ import annotations

import builtins
from typing import Any

import pytest

from drawdown.events.privacy import rules
from drawdown.events.privacy.rules import entropy_of, rules_of
from drawdown.events.privacy.scan import Finding, scan
from drawdown.schema.errors import UsageError
from tests.cases import cases

RULES = rb"""
title = "rules"
[allowlist]
regexes = ['''.*''']

[[rules]]
id = "acme-key"
regex = '''(?i)\b(acme_[a-z]{8})(?:[\x60'"\s;]|$)'''
entropy = 2.5
keywords = ["ACME_"]

[[rules]]
id = "second-group"
regex = '''(id|ref)=([0-9]{4})'''
secretGroup = 2
entropy = 1

[[rules]]
id = "a-path"
path = '''\.p12$'''
"""


def test_foreign_rule_requires_entropy_of_match() -> None:
    others = rules_of(RULES)
    assert [one.name for one in others] == ["acme-key", "second-group"]
    report = [
        "acme_qwertyui",
        "ACME_QWERTYUI",
        "acme_aaaaaaaa",
        "other_qwertyui",
        "id=1234",
        "ref=1111",
        "acme%5Fqwertyui",
    ]
    found = [
        Finding(f"$[{place}]", rule)
        for place, rule in ((0, "acme-key"), (1, "acme-key"), (4, "second-group"), (6, "acme-key"))
    ]
    assert list(scan(report, others=others).findings) == found
    assert scan({"acme_qwertyui": 1}, others=others).findings == (Finding("$.<key 1>", "acme-key"),)


def test_entropy_is_counted_in_bits_per_character() -> None:
    assert entropy_of("") == 0 and 0 < entropy_of("aaaa") < 0.001
    assert entropy_of("abcd") == 2 and entropy_of("aabb") == 1


@cases(
    ("content", "says"),
    [
        (b"rules = [", "expected TOML"),
        (b"\xff", "expected TOML"),
        (b"title = 'x'", "missing [[rules]]"),
        (b"rules = [1]", "missing [[rules]]"),
        (b"[[rules]]\nid = 'a'\npath = 'b'", "expected at least one rule with a regex"),
        (b"[[rules]]\nregex = 'a'", "invalid rule 1"),
        (b"[[rules]]\nid = 'a'\nregex = '(a'", "invalid rule 1"),
        (b"[[rules]]\nid = 'a'\nregex = 'a(?=b)'", "invalid rule 1"),
        *((b"[[rules]]\nid = 'a'\nregex = '(a)'\n" + wrong, "invalid rule 1") for wrong in (
            b"entropy = 'high'", b"entropy = nan", b"entropy = inf", b"entropy = -1", b"entropy = true",
            b"entropy = 21", b"entropy = 1" + b"0" * 400, b"keywords = 'zq'", b"keywords = [1]", b"secretGroup = 2",
            b"secretGroup = -1", b"secretGroup = 1.0", b"secretGroup = true", b"secretGroup = " + b"9" * 30,
        )),
        (b"[[rules]]\nid = 1\nregex = 'a'", "invalid rule 1"),
        (b"[[rules]]\nid = 'a'\nregex = 1", "invalid rule 1"),
    ],
)  # fmt: skip
def test_foreign_rules_invalid_file_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(UsageError) as refused:
        rules_of(content)
    assert says in str(refused.value) and refused.value.code == "bad_rules"


def test_foreign_rules_count_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MAX_RULES", 2)
    with pytest.raises(UsageError, match="at most 2"):
        rules_of(RULES)


def test_foreign_rule_above_memory_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    large = b"[[rules]]\nid = 'a'\nregex = '((a{100}){100}){10}'"
    assert rules.RE2_MEMORY_BYTES > 10**6
    monkeypatch.setattr(rules, "RE2_MEMORY_BYTES", 10_000)
    with pytest.raises(UsageError):
        rules_of(large)


def test_foreign_rules_without_re2_error_names_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *given: Any, **named: Any) -> Any:
        if name == "re2":
            raise ImportError(name)
        return real(name, *given, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"drawdown\[privacy\]"):
        rules_of(RULES)
