"""Each action is linked from a page, for a role that may do it, and for nobody else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

import pytest
import sqlalchemy as sa

from drawdown.server.console.pages import ACTIONS, PAGES
from tests.server.acts import EXAMPLES
from tests.server.console_home import ANN, KIM, VIC, Home
from tests.server.filled import Filled
from tests.server.test_console_budget import places

pytestmark = pytest.mark.xdist_group("filled")
LINK: Final = re.compile(r'href="/console/act/([a-z-]+)[?"]')
SHOWN: Final = [
    *(path for path in places() if "org-001" not in path),
    *(page.path + also for page in PAGES for also in page.also),
]
ELSEWHERE: Final[Mapping[str, str]] = {
    "feature-map": "/console/pending",
    "job-cancel": "/console/jobs",
    "provider-pause": "/console/providers",
    "push-resolve": "/console/pushes?state=rejected",
    "push-retry": "/console/pushes?state=rejected",
    "settlement-payout": "/console/settlements",
    "settlement-freeze": "/console/settlement?key=render-1",
    "topup-resume": "/console/billing?id=acme",
    "topup-shadow": "/console/billing?id=acme",
    "topup-start": "/console/billing?id=acme",
    "topup-start-all": "/console/billing",
}
"""What is linked only where its own example prepares it: by that page."""
ROLES: Final = {"viewer": VIC, "operator": ANN, "admin": KIM}


@pytest.fixture
def filled(filled_engine: sa.Engine) -> Home:
    return Filled(filled_engine, copied=True)


@pytest.fixture
def home(home_engine: sa.Engine) -> Home:
    return Home(home_engine, copied=True)


def linked(home: Home, paths: Iterable[str], role: str) -> set[str]:
    """Actions to which these pages lead somebody of a role."""
    found: set[str] = set()
    asked = [path for path in paths if role == "admin" or path != "/console/people"]
    for path, answer in zip(asked, home.get(*asked, session=ROLES[role]), strict=True):
        assert answer.status_code == 200, (path, answer.text)
        found |= set(LINK.findall(answer.text))
    return found


def test_console_pages_link_each_role_to_its_permitted_actions(filled: Home) -> None:
    """What no page of this life leads to, one of another does."""
    everything = {one.name for one in ACTIONS} - set(ELSEWHERE)
    assert everything - linked(filled, SHOWN, "admin") == set()
    assert linked(filled, SHOWN, "operator") & everything == {
        one.name for one in ACTIONS if one.role == "operator" and one.name in everything
    }
    assert linked(filled, SHOWN, "viewer") == set()


@pytest.mark.parametrize("name", ELSEWHERE)
def test_action_once_possible_is_linked_for_its_role_only(home: Home, name: str) -> None:
    action = next(one for one in ACTIONS if one.name == name)
    EXAMPLES[name].prepare(home)
    assert name in linked(home, [ELSEWHERE[name]], action.role)
    lesser = "operator" if action.role == "admin" else "viewer"
    assert name not in linked(home, [ELSEWHERE[name]], lesser)
