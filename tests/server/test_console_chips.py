"""Each command that a page shows beside a table can be pasted into a shell: the command line reads it as it stands."""

from __future__ import annotations

import html
import re
import shlex
from typing import Any, Final

import pytest
import sqlalchemy as sa

from drawdown.cli.main import program
from drawdown.server.console.pages import PAGES
from tests.browser.sites import HOSTILE
from tests.server.console_home import KIM, Home
from tests.server.filled import Filled

pytestmark = pytest.mark.xdist_group("filled")
CHIP: Final = re.compile(
    r'(?:<p class="muted more">|<div class="empty">\n.*\n<p>|data-head="Next step">)<code>(.*?)</code>'
)
ODD: Final = (
    "/console/pushes?from=2026-01-05 13:10&to=2026-01-05 14:15&state=any",
    "/console/pushes?state=in_doubt",
    "/console/audit?from=2026-01-05 13:10&to=2026-01-09 13:10",
    "/console/audit?to=2026-01-01",
    "/console/limits?metric=builds",
    "/console/executions?state=expired&older=1h",
    "/console/events?org=acme&source=shop",
    "/console/halts?state=due",
    f"/console/pushes?org={HOSTILE}",
    f"/console/org?id={HOSTILE}&tab=pushes",
)


@pytest.fixture
def home(filled_engine: sa.Engine) -> Home:
    return Filled(filled_engine, copied=True)


def places() -> list[str]:
    found = []
    for page in PAGES:
        found += [f"{page.path}{page.example}&tab={tab}" for tab in page.tabs] or [page.path + page.example]
    return [*found, *ODD]


def read_as(text: str) -> None:
    """Errors: those of the shell's words, and of the command's options."""
    words = shlex.split(text)
    assert words[:1] == ["drawdown"], text
    command: Any = program()
    context, words = None, words[1:]
    while hasattr(command, "list_commands"):
        context = command.context_class(command, info_name="drawdown", parent=context)
        found = command.get_command(context, words[0])
        assert found is not None, text
        command, words = found, words[1:]
    command.make_context("drawdown", words)


def test_console_shown_commands_are_parsed_by_command_line(home: Home) -> None:
    seen, wrong = set[str](), []
    paths = places()
    for path, answer in zip(paths, home.get(*paths, session=KIM), strict=True):
        for chip in CHIP.findall(answer.text):
            text = html.unescape(re.sub(r"<[^>]+>", "", chip))
            if text.startswith("drawdown ") and text not in seen:
                seen.add(text)
                try:
                    read_as(text)
                except Exception as error:
                    wrong.append((path, text, repr(error)))
    assert not wrong, "\n".join(map(str, wrong))
    assert {"drawdown push list", "drawdown status"} <= seen
