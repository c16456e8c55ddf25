"""Look-ups as steps ask for them: in portions, or all at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog

from drawdown.providers.protocol import LookupResult, PushRequest, ReadFailed
from drawdown.schema.text import in_short
from drawdown.worker.engine.effects import LookUp, Over, Steps, never

log = structlog.get_logger()


def look_up_all(provider: str, requests: Sequence[PushRequest], over: Over = never) -> Steps[Sequence[LookupResult]]:
    """The results of all of them, in order; once time is `over`, that they were not read."""
    looking, found = LookUp(provider, requests, over), dict[int, LookupResult]()
    while len(found) < len(requests):
        found.update((yield from fetch_lookups(looking, [n for n in range(len(requests)) if n not in found])))
    return [found[place] for place in range(len(requests))]


def fetch_lookups(looking: LookUp, left: Sequence[int]) -> Steps[Mapping[int, LookupResult]]:
    """The next results, by place."""
    try:
        found: Mapping[int, LookupResult] = yield looking
        assert found and found.keys() <= set(left), f"{looking.provider} answered {list(found)} of {left}"
    except Exception as error:  # it has told us nothing: what cannot be read is not absent
        log.exception("provider_failed", provider=looking.provider, first_key=looking.requests[left[0]].key)
        return dict.fromkeys(left, ReadFailed(in_short(error)))
    return found
