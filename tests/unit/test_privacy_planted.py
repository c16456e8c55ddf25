"""Planted secrets and ids of all classes are found, however hidden; reports that are clean have no finding."""

from __future__ import annotations

import json
import random
from typing import Final

from drawdown.events.privacy.leaves import read_reports
from drawdown.events.privacy.scan import scan
from tests.unit.planting import CLASSES, HIDINGS, clean_report
from tests.whole import share

PLANTED: Final = share(400, whole=2_000)
CLEAN: Final = share(300, whole=10_000)
CLASS_NAMES: Final = sorted(CLASSES)


def test_scanner_planted_secret_is_found_and_not_shown() -> None:
    stream, missed, said = random.Random(13), [], []
    seen: set[tuple[str, str]] = set()
    for number in range(PLANTED):
        name, hiding = CLASS_NAMES[number % len(CLASSES)], stream.choice(sorted(HIDINGS))
        value = CLASSES[name](stream)
        report = clean_report(stream)
        place = stream.choice(("note", "title", "rows"))
        hidden = HIDINGS[hiding](value)
        report[place] = [*report["rows"], hidden] if place == "rows" else hidden
        ((_, read),) = read_reports(json.dumps(report).encode())
        found = scan(read)
        seen.add((name, hiding))
        if not found.count:
            missed.append((name, hiding, value))
        said += [(value, one.path) for one in found.findings if value in one.path]
    assert missed == [] and said == []
    assert {name for name, _ in seen} == set(CLASSES) and {hiding for _, hiding in seen} == set(HIDINGS)


def test_scanner_clean_reports_have_empty_findings() -> None:
    stream = random.Random(31)
    wrong = [
        (report, found) for report in (clean_report(stream) for _ in range(CLEAN)) if (found := scan(report)).count
    ]
    assert wrong[:3] == []
