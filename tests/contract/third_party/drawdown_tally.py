"""Bills with Tally, a service made up to show how a provider is written: it charges a key once, for good."""

import hmac
import json
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from urllib.parse import quote

from drawdown.providers import protocol as p
from drawdown.providers.http import Answer, Call, HttpResult, NotSent


class Tally:
    """One account, by DRAWDOWN_TALLY_KEY, _URL and _WEBHOOK_SECRETS. Keys are kept for good, duplicates are proof."""

    def __init__(self, setup: p.Setup) -> None:
        self.name, self._clock, self._http = setup.name, setup.clock, setup.http
        key, self._url = setup.settings.get("key"), setup.settings.get("url", "https://tally.invalid")
        self.capabilities = p.Capabilities(key_retention_ms=None, duplicate_proves_delivery=True, lookup_lag_ms=0)
        self._headers = {"authorization": f"Bearer {key}"}
        self._secrets = [one for one in setup.settings.get("webhook_secrets", "").split(",") if one]
        self.dormant = None if key else "DRAWDOWN_TALLY_KEY is not set"

    async def push(self, batch: Sequence[p.PushRequest]) -> Sequence[p.Outcome]:
        return [await self._charge(one) for one in batch]

    async def _charge(self, push: p.PushRequest) -> p.Outcome:
        asked = {"customer": push.customer_id, "meter": push.feature, "amount": push.quantity, "at": push.ts}
        result = await self._send("POST", "/charges", json.dumps({"key": push.key, **asked}).encode())
        if not isinstance(result, Answer):
            return self._later("30", result.reason) if isinstance(result, NotSent) else p.Unknown(result.reason)
        told = _told(result.body)
        if result.status == 429 or (result.status == 401 and isinstance(told.get("error"), str)):  # 401: Tally's own
            return self._later(result.headers.get("retry-after", ""), f"HTTP {result.status}")
        if result.status in (201, 409) and (told.get("key"), told.get("charged")) == (push.key, push.quantity):
            return p.Accepted() if result.status == 201 else p.Duplicate()
        if result.status == 409 and told.get("key") == push.key:  # with other content: a lookup adopts what is there
            return p.Queued(self._clock.now_ms())
        if (result.status in (400, 404) or told.get("charged") == 0) and isinstance(told.get("error"), str):
            return p.Rejected(f"Tally says {told['error']}"[:200])
        return p.Unknown(f"HTTP {result.status}: the outcome is unknown")

    def _later(self, when: str, reason: str) -> p.RetryAt:
        now_ms = self._clock.now_ms()
        try:
            at_ms = int(parsedate_to_datetime(when).timestamp() * 1000)
        except (ValueError, TypeError, OverflowError):
            at_ms = now_ms + (int(when[:9]) if when.isdecimal() else 30) * 1000
        return p.RetryAt(max(now_ms + 1_000, min(at_ms, now_ms + 900_000)), reason)

    async def customers(self, customer_ids: Sequence[str]) -> Mapping[str, p.CustomerRead]:
        credit = {one: await self._read("customers", one, "credit") for one in customer_ids}
        failed = {one: told for one, told in credit.items() if isinstance(told, p.ReadFailed)}
        states = {one: p.CustomerState(told, None, None) for one, told in credit.items() if isinstance(told, int)}
        return {**dict.fromkeys(customer_ids, p.NoCustomer()), **failed, **states}

    async def lookup(self, request: p.PushRequest) -> p.LookupResult:
        told = await self._read("charges", request.key, "charged")
        return p.FoundPush(told) if isinstance(told, int) else told

    async def totals(self, customer_id: str, from_ms: int, to_ms: int) -> p.ReadFailed:
        return p.ReadFailed("Tally has no totals")

    async def drawn(self, customer_id: str) -> p.ReadFailed:
        return p.ReadFailed("Tally's balances do not say it")

    async def notices(self, headers: Mapping[str, str], body: bytes, now_ms: int) -> Sequence[p.Notice]:
        at, _, given = headers.get("tally-signature", "").partition(".")
        macs = [hmac.new(one.encode(), at.encode() + b"." + body, "sha256").hexdigest() for one in self._secrets]
        signed = any(hmac.compare_digest(one.encode(), given.encode()) for one in macs)
        if not signed or abs(now_ms - int(at)) > 300_000:
            raise p.WebhookRefused("not signed by Tally within five minutes")
        who = _told(body).get("customer")
        return [p.CustomerChanged(who)] if isinstance(who, str) else []

    async def check(self, features: Sequence[str], customer_ids: Sequence[str]) -> Sequence[str]:
        probe = await self._read("customers", "drawdown-check", "credit")
        key = {"key": probe} if isinstance(probe, p.ReadFailed) else {}
        units = {f"meter {one}": await self._read("meters", one, "unit") for one in features}
        credit = {f"customer {one}": await self._read("customers", one, "credit") for one in customer_ids}
        return [f"{what}: {told}" for what, told in {**key, **units, **credit}.items() if not isinstance(told, int)]

    async def _read(self, what: str, name: str, field: str) -> int | p.Absent | p.ReadFailed:
        result = await self._send("GET", f"/{what}/{quote(name, safe='')}")
        if not isinstance(result, Answer):
            return p.ReadFailed(f"{what}: {result.reason}")
        match result.status, _told(result.body):
            case 200, {"id": str(said), **told} if said == name and type(told.get(field)) is int:
                return int(str(told[field]))
            case 404, {"error": error} if error == f"no such {what}":
                return p.Absent()
        return p.ReadFailed(f"{what}: HTTP {result.status}, and not what Tally says")

    async def _send(self, method: str, path: str, body: bytes = b"") -> HttpResult:
        return await self._http.send(Call(method, self._url + path, self._headers, body))


def _told(body: bytes) -> dict[str, object]:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}
