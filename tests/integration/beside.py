"""One transaction that is open while another one begins: what the second sees of the first, and what each is told."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import Final

import sqlalchemy as sa

from drawdown.schema.database import write

Work = Callable[[sa.Connection], object]
LOOK_S: Final = 0.01
LOOKS: Final = 50
BLOCKED: Final = sa.text(
    "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
)


def beside(engine: sa.Engine, first: Work, second: Work) -> tuple[object, object]:
    """What both answered, or the error of each. The first has done all of its work, and commits once the second waits
    for it, or is over. On SQLite the second begins when the first has committed."""
    said: list[object] = []

    def run() -> None:
        said.append(_said(lambda: write(engine, second)))

    thread = Thread(target=run)
    with engine.connect() as connection, connection.begin():
        answer = _said(lambda: first(connection))
        thread.start()
        _over_or_blocked(engine, thread)
    thread.join(60)
    assert said, "the second one never ended"
    return answer, said[0]


def _said(work: Callable[[], object]) -> object:
    try:
        return work()
    except Exception as error:
        return error


def _over_or_blocked(engine: sa.Engine, thread: Thread) -> None:
    if engine.dialect.name != "postgresql":
        return
    with engine.connect() as watch:
        for _ in range(LOOKS):
            thread.join(LOOK_S)
            if not thread.is_alive() or watch.execute(BLOCKED).scalar_one():
                return
