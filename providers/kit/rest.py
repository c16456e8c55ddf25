"""A client for providers of a JSON API under one key.

Guarantee: only the service's own words prove "it does not exist" and "the key is refused", because a gateway also sends
404 and 401. Objects that are read to judge a push are cached for at most KEPT_MS.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeAlias
from urllib.parse import urlencode

from drawdown.providers.http import PUSH_ANSWER_BYTES, READ_TIMEOUT_S, Answer, Call, Http, HttpResult
from drawdown.providers.kit.answers import (
    KEY_WAIT_MS,
    backoff_ms,
    bearer,
    json_object,
    path_of,
    quoted,
    read_object,
    shared_outcome,
)
from drawdown.providers.protocol import Absent, Outcome, ReadFailed, RetryAt
from drawdown.schema.clock import Clock
from drawdown.schema.text import NEEDS_YOU
from drawdown.schema.units import MINUTE_MS

KEPT_MS: Final = MINUTE_MS
"""Milliseconds for which Drawdown caches an object from a provider."""
MAX_KEPT: Final = 10_000
"""Cached objects of a provider. Above the limit, the cache starts empty again."""

REFUSED: Final = (401, 403)
"""Statuses of a refused key."""

ErrorOf: TypeAlias = Callable[[int, Mapping[str, object]], str | None]
NamesAbsence: TypeAlias = Callable[[Sequence[str], Mapping[str, object]], bool]
ReadResult: TypeAlias = Mapping[str, object] | Absent | ReadFailed


class KeyRefused(ReadFailed):
    """The result of a read that failed because the service refuses the key."""


class Rest:
    """A client of a JSON API.

    `error_of` returns an error in the service's own words, by status and body, or None if another host sent it.
    `names_absence` returns True if the service's 404 means that the object of this path does not exist, by its body.
    Omit it if the service does not have a code for this, and returns no own error for an unknown route.
    """

    def __init__(
        self,
        http: Http,
        clock: Clock,
        url: str,
        key: str | None,
        error_of: ErrorOf,
        names_absence: NamesAbsence = lambda _path, _body: True,
    ) -> None:
        self._http, self._clock, self._url, self._key, self._error_of = http, clock, url, key, error_of
        self._names_absence = names_absence
        self._kept: dict[str, tuple[int, Mapping[str, object]]] = {}

    async def get(self, *path: str, **query: str) -> ReadResult:
        """Read one object. Return Absent if the service answers that it does not exist."""
        return self._read(await self._http.send(self._call(path, query)), path)

    async def get_cached(self, *path: str, **query: str) -> ReadResult:
        """Read one object, or return it from the cache if it was read within KEPT_MS."""
        call, now_ms = self._call(path, query), self._clock.now_ms()
        read_ms, found = self._kept.get(call.url, (0, None))
        if found is not None and abs(now_ms - read_ms) < KEPT_MS:
            return found
        told = self._read(await self._http.send(call), path)
        self._kept.pop(call.url, None)
        if isinstance(told, Mapping):
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            self._kept[call.url] = (now_ms, told)
        return told

    async def array(self, *path: str, **query: str) -> list[Mapping[str, object]] | ReadFailed:
        """Read the objects of a JSON array, for a service that answers an array.

        ReadFailed also if the service answers that the array does not exist.
        """
        result = await self._http.send(self._call(path, query))
        if isinstance(result, Answer) and result.status == 200 and result.body.lstrip()[:1] == b"[":
            result = replace(result, body=b'{"items":' + result.body + b"}")
        found = self._read(result, path)
        if isinstance(found, Absent):
            return ReadFailed("HTTP 404: the service does not have this list")
        items = found.get("items") if isinstance(found, Mapping) else None
        if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
            return found if isinstance(found, ReadFailed) else ReadFailed("HTTP 200 without a list of objects")
        return items

    async def post(self, path: str, body: object, attempt: int) -> Outcome | Answer:
        """Send a push.

        Return its outcome if HTTP or a refused key proves it. Otherwise return the response, and your provider must
        judge it.
        """
        call = Call(
            "POST",
            self._url + path,
            bearer(self._key or ""),
            json.dumps(body).encode(),
            most_bytes=PUSH_ANSWER_BYTES,
        )
        now_ms = self._clock.now_ms()
        answer = shared_outcome(await self._http.send(call), attempt, now_ms)
        if isinstance(answer, Answer) and answer.status in REFUSED and (said := self.read_error(answer)) is not None:
            return RetryAt(now_ms + KEY_WAIT_MS, f"the key is refused: {said}", by_person=True)
        return answer

    def retry_later(self, failed: ReadFailed, attempt: int, what: str) -> RetryAt:
        """Return RetryAt for an unsent push, because a read that it needs failed."""
        by_person = isinstance(failed, KeyRefused) or failed.reason.startswith(NEEDS_YOU)
        at_ms = self._clock.now_ms() + (KEY_WAIT_MS if by_person else backoff_ms(attempt))
        reason = f"{what} cannot be read: {failed.reason.removeprefix(NEEDS_YOU)}"
        return RetryAt(at_ms, reason, too_many=failed.too_many, by_person=by_person)

    def not_sent(self, why: str) -> RetryAt:
        """Return RetryAt for a push that is not sent until a person changes a setting."""
        return RetryAt(self._clock.now_ms() + KEY_WAIT_MS, f"not sent: {why}", by_person=True)

    def read_error(self, answer: Answer) -> str | None:
        """Return an error in the service's own words, in one line without the key.

        Return None if another host sent it.
        """
        said = self._error_of(answer.status, json_object(answer.body) or {})
        return None if said is None else quoted(f"HTTP {answer.status} {said}", self._key)

    def _call(self, path: tuple[str, ...], query: Mapping[str, str]) -> Call:
        asked = f"?{urlencode(query)}" if query else ""
        return Call("GET", self._url + path_of(*path) + asked, bearer(self._key or ""), timeout_s=READ_TIMEOUT_S)

    def _read(self, result: HttpResult, path: Sequence[str]) -> ReadResult:
        if isinstance(result, Answer) and result.status >= 400 and (said := self.read_error(result)) is not None:
            if result.status in REFUSED:
                return KeyRefused(said)
            if result.status == 404 and self._names_absence(path, json_object(result.body) or {}):
                return Absent()
            return ReadFailed(said, too_many=result.status == 429)
        return read_object(result)
