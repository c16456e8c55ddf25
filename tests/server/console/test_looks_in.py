"""Somebody of the console's looks at what an organisation's own people see: by their own name, and in a demo alone."""

from __future__ import annotations

from typing import Any, Final

import httpx
import pytest
import sqlalchemy as sa

from drawdown.schema.database import write
from drawdown.server.console.session_auth import COOKIE
from drawdown.server.settings import MySettings
from drawdown.worker.access import people as console_users
from tests.server.console_home import OURS, VIC, Home, secret

OWN: Final = "/console/own"
BUTTON: Final = "Show the customer's page"


@pytest.fixture
def home(home_engine: sa.Engine) -> Home:
    made = Home(home_engine, copied=True, my=MySettings(secrets=("0" * 32,)))
    write(made.engine, lambda c: console_users.mark_demo(c, made.now))
    return made


def test_demo_customer_view_audits_console_actor_and_links_back(home: Home) -> None:
    (page,) = home.get("/console/org?id=acme", session=VIC)
    assert BUTTON in page.text and f'action="{OWN}"' in page.text and "/my/enter" not in page.text

    async def work(client: httpx.AsyncClient, _: Any) -> str:
        client.cookies.set(COOKIE, secret(VIC), domain="drawdown.internal")
        answer = await client.post(OWN, data={"org": "acme"}, headers=OURS)
        assert (answer.status_code, answer.headers["location"]) == (303, "/my/usage")
        return (await client.get("/my/usage")).text

    seen = home.ask(work)
    assert "<bdi>console:vic</bdi>" in seen and 'href="/console/org?id=acme">Back to the console' in seen
    told = home.fleet.rows("SELECT actor, target, via, reason FROM operator_actions WHERE action = 'my_enter'")
    assert told == [("console:vic", "acme", "my", "opened from the console")]


def test_demo_customer_view_invalid_request_is_refused(home: Home) -> None:
    tried: tuple[tuple[str, int | None, dict[str, str], int], ...] = (
        ("acme", None, OURS, 401),
        ("acme", VIC, {"sec-fetch-site": "cross-site"}, 403),
        ("acmee", VIC, OURS, 404),
        ("", VIC, OURS, 400),
        ("a\0", VIC, OURS, 400),
    )
    for org, session, headers, status in tried:
        answer = home.send(OWN, {"org": org}, session, **headers)
        assert answer.status_code == status, (org, answer.text)
    assert home.fleet.one("SELECT COUNT(*) FROM my_sessions") == 0


def test_demo_customer_view_outside_demo_is_not_found(home: Home) -> None:
    home.fleet.write("DELETE FROM console_marks")
    assert BUTTON not in home.get("/console/org?id=acme")[0].text
    assert home.send(OWN, {"org": "acme"}).status_code == 404
