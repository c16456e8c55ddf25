"""Five tasks of somebody who never saw the console: each takes six clicks from the overview, without JavaScript."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest
from playwright.sync_api import expect

from drawdown.providers.protocol import HOUR_MS
from tests.browser.conftest import Visitor
from tests.browser.sites import BIDI, HOSTILE, NOW, Site
from tests.whole import share

pytestmark = pytest.mark.xdist_group("browser")
MOST_CLICKS: Final = 6


class Walk:
    """A visitor, and how often something was clicked since the overview."""

    def __init__(self, visitor: Visitor) -> None:
        self.page, self.clicks = visitor.page, 0
        visitor.page.set_viewport_size({"width": 1280, "height": 800})
        visitor.go("/console/")

    def click(self, name: str, role: str = "link", within: str = "body") -> None:
        self.page.locator(within).get_by_role(role, name=name).first.click()  # type: ignore[arg-type]
        self.clicks += 1

    def reads(self, *words: str) -> None:
        for word in words:
            expect(self.page.locator("main")).to_contain_text(word)


def who_runs_out_today(walk: Walk) -> None:
    walk.click("Out of credit within 24 h")
    walk.reads("The list begins with the organisation that runs out first")
    assert walk.page.locator("tbody td:first-child").all_inner_texts() == ["acme"]


def why_acme_was_charged(walk: Walk) -> None:
    """0.72 at one o'clock of a day: for which sandbox, how long."""
    walk.click("Organisations")
    walk.click("acme")
    walk.click("2026-01-08", within="#ledger")
    walk.page.locator("tr.inner tr", has_text="2026-01-08 01:00").filter(has_text="0.72").get_by_role("link").click()
    walk.clicks += 1
    walk.reads("0.72", "Samples of compute_4gb, window 2026-01-08 01:00", "box", "1,800", "accepted")


def give_initech_credit(walk: Walk) -> None:
    walk.click("Organisations")
    walk.click("initech")
    walk.click("Give credit")
    walk.page.get_by_label("Credits").fill("25")
    walk.page.get_by_label("Kind").select_option("bonus")
    walk.clicks += 1
    walk.page.get_by_label("Reason").fill("they asked")
    assert "(optional)" in walk.page.get_by_text("Expires").inner_text()
    walk.click("Dry run", "button")
    walk.reads("Dry run: Give credit (initech)", "Halts its organisations")
    walk.click("Give credit", "button")
    walk.reads("initech: 25.00 credits given")


def which_cells_were_told_of_a_halt(walk: Walk) -> None:
    walk.click("Organisations")
    walk.click(BIDI.partition("-")[2])
    walk.click("Halts", within=".tabs")
    walk.reads("cell-1", "due", "down")


def what_waits_at_a_provider_and_why(walk: Walk) -> None:
    walk.click("1 push of 1 organisation at embedded")
    walk.reads("in doubt", "acme", HOSTILE)


TASKS: Final = (
    why_acme_was_charged, what_waits_at_a_provider_and_why, who_runs_out_today, give_initech_credit,
    which_cells_were_told_of_a_halt,
)  # fmt: skip


@pytest.mark.parametrize("task", share(TASKS[:1], whole=TASKS), ids=lambda task: task.__name__)
def test_browser_task_by_new_user_takes_few_clicks_without_javascript(
    live: Site, visit: Callable[..., Visitor], task: Callable[[Walk], None]
) -> None:
    ends = {"end": NOW + 3 * HOUR_MS}
    live.fleet.write("UPDATE orgs SET runs_out_ms = :end WHERE org_id = 'acme'", ends)
    walk = Walk(visit(live, "admin", java_script_enabled=False))
    task(walk)
    assert walk.clicks <= MOST_CLICKS
