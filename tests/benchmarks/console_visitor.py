"""Who looks at the console's pages: one visitor, or five people who click, in a process of their own.

    python -m tests.benchmarks.console_visitor PORT

prints `here`, clicks until its input ends, and prints how often it clicked.
"""

from __future__ import annotations

import http.client
import itertools
import re
import sys
import threading
from dataclasses import dataclass
from time import perf_counter
from typing import Final

from drawdown.server.console.page import Page
from drawdown.server.console.pages import PAGES
from drawdown.server.console.screens.customers import usage
from drawdown.server.console.screens.customers.orgs import WITHIN
from drawdown.server.console.session_auth import COOKIE
from drawdown.worker.orgs.lists import STATES
from tests.benchmarks.console_fleet import secret

PEOPLE: Final = 5
CLICKS_EVERY_S: Final = 2.0
"""Of each person: about as fast as anybody reads."""
ORG: Final = "org-0"


def paths() -> list[str]:
    """Every page, each of its tabs, and the filters that cost most."""
    found = []
    for page in (one for one in PAGES if one.example in ("", "?id=acme")):  # one push, or run, is not made here
        place = _place(page)
        joined = "&" if "?" in place else "?"
        found += [f"{place}{joined}tab={tab}" for tab in page.tabs] or [place]
    more = [f"state={state}" for state in STATES] + [f"within={one}" for one in WITHIN if one]
    more += ["provider=stripe", "plan=team", "search=999", "search=nobody", "after=org-5"]
    found += [f"/console/orgs?{one}" for one in more]
    found += [f"/console/org?id={ORG}&tab=usage&days={days}" for days in usage.DAYS]
    return list(dict.fromkeys([*found, f"/console/org?id={ORG}&tab=usage&day=2026-01-30"]))


def _place(page: Page) -> str:
    """Where it stands, of the organisation with the most."""
    return page.path + re.sub(r"\bid=[^&]+", f"id={ORG}", page.example)


@dataclass
class Visitor:
    """Somebody who is signed in, on one connection."""

    port: int

    def __post_init__(self) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def visit(self, path: str) -> tuple[float, int]:
        """Milliseconds that a page took, and its statements."""
        began = perf_counter()
        self._connection.request("GET", path, headers={"Cookie": f"{COOKIE}={secret(7)}"})
        answer = self._connection.getresponse()
        body = answer.read()
        took = (perf_counter() - began) * 1000
        assert answer.status == 200, (path, answer.status, re.sub(rb"<[^>]+>|\s+", b" ", body)[-300:])
        return took, int(answer.headers["x-statements"])

    def take(self, path: str) -> tuple[float, int]:
        """Seconds that a file took, and its lines."""
        began = perf_counter()
        self._connection.request("GET", path, headers={"Cookie": f"{COOKIE}={secret(7)}"})
        answer = self._connection.getresponse()
        assert answer.status == 200, path
        lines = 0
        while piece := answer.read(64 * 1024):
            lines += piece.count(b"\n")
        return perf_counter() - began, lines


def click(port: int, person: int, ending: threading.Event, clicks: list[int]) -> None:
    """One person: each on another page at another moment."""
    asked = paths()
    visitor, first = Visitor(port), person * len(asked) // PEOPLE
    if ending.wait(person * CLICKS_EVERY_S / PEOPLE):
        return
    for number in itertools.count(first):
        visitor.visit(asked[number % len(asked)])
        clicks[person] += 1
        if ending.wait(CLICKS_EVERY_S):
            return


def main() -> None:
    ending, clicks = threading.Event(), [0] * PEOPLE
    port = int(sys.argv[1])
    people = [threading.Thread(target=click, args=(port, person, ending, clicks)) for person in range(PEOPLE)]
    for one in people:
        one.start()
    print("here", flush=True)
    sys.stdin.read()
    ending.set()
    for one in people:
        one.join()
    print(sum(clicks))


if __name__ == "__main__":
    main()
