"""The way into the demo: the mark that all of it is made up, and a link that signs in.

Guarantee: such a link lets nobody in where the mark is not; and the mark is set on the database that the demo made.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import sqlalchemy as sa
from pydantic import SecretStr

from drawdown.cli.app import new_link
from drawdown.cli.demo.stage import DemoApp
from drawdown.schema.audit import By
from drawdown.schema.errors import UsageError
from drawdown.schema.units import MICRO
from drawdown.server.tokens import jwts
from drawdown.worker.access import people as console_users

PERSON: Final = "you"
GRANT_LIMIT: Final = 100
"""Credits that this person may grant at once."""


def let_in(app: DemoApp, root: str) -> str:
    """A URL that signs in to the console at `root`, as an admin. There, the page of an organisation links to what its
    own people see."""
    app.settings.console_url = root
    with suppress(UsageError):  # without the library, customers' own pages are not in the demo
        jwts.require_library()
        app.settings.my_secret = SecretStr(new_link())
    now, link = app.clock.now_ms(), new_link()
    by = By(now, "the demo", "whoever looks at it", "cli")

    def begin(connection: sa.Connection) -> None:
        console_users.mark_demo(connection, now)
        console_users.add(connection, PERSON, "admin", link, by, grant_limit_micro=GRANT_LIMIT * MICRO)

    app.write(begin)
    return f"{root}/console/enter?token={link}"
