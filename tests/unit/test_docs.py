"""The rules and invariants that ship agree with the code, both ways."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from drawdown.worker.verify.findings import FINDINGS
from drawdown.worker.verify.findings import INVARIANTS as NAMED
from drawdown.worker.verify.questions import STATEMENTS
from tests.unit.test_rooms import MAY_IMPORT

ROOT: Final = Path(__file__).resolve().parents[2]
RULES: Final = (ROOT / "docs" / "rules.md").read_text(encoding="utf-8")
INVARIANTS: Final = (ROOT / "docs" / "invariants.md").read_text(encoding="utf-8")
LAYERS: Final = ("cli", "server", "worker", "providers", "guard", "ledger", "events", "schema")
CITED: Final = re.compile(r"(?<![\w#&.'\"-])([SPR][0-9]{1,2})(?![\w'\"])")
PACKAGES: Final = (ROOT / "docs" / "reference" / "packages.md").read_text(encoding="utf-8")
CONTRIBUTING: Final = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TESTS: Final = sorted(set(re.findall(r"`(tests/[^`]+\.py)::(\w+)`", RULES)))


def cited() -> set[str]:
    """Rules that a comment, a docstring, a message or a guard of the database names."""
    files = [path for layer in LAYERS for kind in ("*.py", "*.sql") for path in (ROOT / layer).rglob(kind)]
    return {rule for path in files for rule in CITED.findall(path.read_text(encoding="utf-8"))}


def test_rules_page_equals_rules_cited_in_code() -> None:
    assert set(re.findall(r"^### (\w+)$", RULES, re.M)) == cited()


def test_rules_page_names_existing_tests() -> None:
    texts = {file: (ROOT / file).read_text(encoding="utf-8") for file in dict(TESTS)}
    assert [one for one in TESTS if f"def {one[1]}(" not in texts[one[0]]] == []


def test_rules_page_names_prevention_and_tests_of_each_rule() -> None:
    for part in re.split(r"^### ", RULES, flags=re.M)[1:]:
        assert "- Prevents: " in part and "- Held by: `tests/" in part, part.splitlines()[0]


def test_invariants_page_findings_equal_findings_of_verify() -> None:
    parts = re.split(r"^## ([0-9]+)\. ", INVARIANTS, flags=re.M)[1:]
    said = {
        int(number): set(re.findall(r"`([a-z_]+)`", text.split("Findings:")[1]))
        for number, text in zip(parts[::2], parts[1::2], strict=True)
    }
    numbers = {of for of, _ in FINDINGS.values()}
    assert said == {number: {name for name, (of, _) in FINDINGS.items() if of == number} for number in numbers}


def test_invariants_page_names_equal_names_in_code() -> None:
    """The console and `drawdown proof` tell them."""
    said = dict(re.findall(r"^## ([0-9]+)\. (.+)$", INVARIANTS, flags=re.M))
    assert {str(number): name for number, (name, _) in NAMED.items()} == said


def test_verify_findings_each_occur_in_a_statement() -> None:
    texts = "\n".join(sql.text(name, "sqlite") for sql, names in STATEMENTS for name in names)
    assert {name for name in FINDINGS if f"'{name}'" not in texts} == set()


def test_packages_page_equals_allowed_imports_and_existing_tests() -> None:
    rows = re.findall(r"^\| `worker/([a-z]+)(?:\.py)?` \| [^|]+ \| ([^|]+) \| ([^|]+) \|$", PACKAGES, re.M)
    said = {room: set() if below == "no other package" else set(below.split(", ")) for room, below, _ in rows}
    assert said == MAY_IMPORT
    assert [one for *_, tests in rows for one in re.findall(r"`([^`]+)`", tests) if not (ROOT / one).exists()] == []


def test_contributing_page_paths_exist() -> None:
    assert [one for one in re.findall(r"`([a-z]+/[\w/.-]+)`", CONTRIBUTING) if not (ROOT / one).exists()] == []
