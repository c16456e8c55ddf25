"""The pages that are made from the code are as the code makes them now."""

from __future__ import annotations

import re
from typing import Final

import pytest

from tests import reference

DEPLOY: Final = reference.DOCS.parent / "ops" / "deploy"


@pytest.mark.parametrize("page", reference.PAGES)
def test_reference_page_equals_generated_text(page: str) -> None:
    made = reference.PAGES[page]()
    assert (reference.DOCS / page).read_text(encoding="utf-8") == made, "run `make docs`"


def test_reference_lists_every_metric_of_alerts_and_dashboard() -> None:
    listed = set(re.findall(r"^\| `(\w+)`", reference.metrics(), re.M))
    read = [(DEPLOY / file).read_text(encoding="utf-8") for file in ("prometheus/alerts.yaml", "grafana/drawdown.json")]
    named = set(re.findall(r"\bdrawdown_\w+", "".join(read)))
    assert len(named) > 40
    assert {re.sub("_bucket$", "", name) for name in named} - listed == set()
