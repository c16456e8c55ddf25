"""The judge of a demo's month asks what both databases take."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from drawdown.cli.demo.story import Calendar
from tests import demo_life
from tests.demo_life import Month
from tests.world import T0, Fleet


@pytest.mark.both_databases
def test_demo_month_without_refusals_is_reported(engine: sa.Engine) -> None:
    Fleet(engine)
    month = Month(engine.url.render_as_string(hide_password=False), Calendar(T0))
    assert "the guard refused nothing" in list(demo_life._rules(month))
