"""Usage events out of files of JSON lines: the envelope, or CloudEvents, one on each line.

Guarantee: each line that is not blank gives one event, or one reason why not, under its number. A file says when each
was used: what has no time would be another event each time that it is read.
"""

from __future__ import annotations

from collections.abc import Iterator

from drawdown.events import cloudevents
from drawdown.events.envelope import Unfit, UsageEvent
from drawdown.events.reading import Unreadable
from drawdown.worker.sources.samples.lines import Lines, is_blank


def read_events(lines: Lines, org_id: str, now_ms: int) -> Iterator[tuple[int, UsageEvent | Unfit]]:
    """The events of one organisation, with the numbers of their lines. Errors: DrawdownError where the file cannot be
    read to its end."""
    for number, raw in lines:
        if not is_blank(raw):
            yield number, _of_line(raw, org_id, now_ms)


def _of_line(raw: bytes, org_id: str, now_ms: int) -> UsageEvent | Unfit:
    try:
        for found in cloudevents.given(raw, cloudevents.LINES, {}, org_id, now_ms):
            if isinstance(found, Unfit):
                mine = found.code == "foreign_org"
                return Unfit(found.code, f"these are events of {org_id}", found.at) if mine else found
            return found.event if found.has_time else Unfit("no_time", "say when it was used", "time")
    except Unreadable as error:
        return Unfit(error.code, str(error))
    return Unfit("not_json", "the line is no JSON object")
