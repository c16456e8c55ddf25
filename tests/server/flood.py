"""Webhooks that nobody sent, and some that were sent often: by the hundred thousand, against one server.

python -m tests.server.flood --forged 100000 --repeats 10000: prints what came of them; exit status 1 if one was taken,
an error escaped, or the database changed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from typing import Final

import structlog

from drawdown.schema.database import connect
from drawdown.schema.migrate import upgrade
from drawdown.schema.units import MINUTE_MS
from tests.server.house import FOREIGN, Caller, House

AT_ONCE: Final = 16
KINDS: Final = (
    "foreign", "stale", "future", "altered", "cut", "unsigned", "other id", "noise", "deep", "no utf-8", "wrong biller",
    "long header", "nobody", "truncated signature", "of the other scheme", "odd length",
)  # fmt: skip
Sent = tuple[str, bytes, dict[str, str]]


def forged(house: House, rng: random.Random) -> Sent:
    """One that no provider sent: its provider's name, body and headers."""
    now, kind = house.clock.at_ms, rng.choice(KINDS)
    org = rng.choice(("acme", "globex", "nobody"))
    if rng.random() < 0.5:
        name, (body, headers) = "autumn", house.autumn_hook(org, f"msg_{rng.random()}")
        signature = "svix-signature"
    else:
        name, signature = "stripe", "stripe-signature"
        headers, body = house.stripe.customer_webhook("customer.updated", org, now)
    match kind:
        case "foreign":
            headers = {**headers, **house.autumn_hook(org, headers.get("svix-id", "x"), secret=FOREIGN)[1]}
            headers["stripe-signature"] = f"t={now // 1000},v1={rng.randbytes(32).hex()}"
        case "stale" | "future":
            way = -1 if kind == "stale" else 1
            then = now + way * (5 * MINUTE_MS + rng.randrange(1000, 10**9))
            if name == "autumn":
                body, headers = house.autumn_hook(org, at_ms=then)
            else:
                headers, body = house.stripe.customer_webhook("customer.updated", org, then)
        case "altered":
            place = rng.randrange(len(body))
            body = body[:place] + bytes([body[place] ^ 1 << rng.randrange(7)]) + body[place + 1 :]
        case "cut":
            body = body[: rng.randrange(len(body))]
        case "unsigned":
            headers = {}
        case "other id":
            headers["svix-id"] = headers["stripe-signature"] = f"msg_{rng.random()}"
        case "noise":
            body = rng.randbytes(rng.randrange(2000))
        case "deep":
            body = b"[" * rng.randrange(20_000)
        case "no utf-8":
            body += b"\xff\xfe"
        case "wrong biller":
            name = "stripe" if name == "autumn" else "autumn"
        case "long header":
            headers[signature] = "v1,A " * 5_000 + headers[signature].replace("v1", "v9")
        case "nobody":
            name = rng.choice(("nobody", "legacy", "..%2fautumn", "embedded", "%00"))
        case "truncated signature":
            headers[signature] = headers[signature][: rng.randrange(len(headers[signature]) - 1)]
        case "of the other scheme":
            headers = {"webhook-id": "x", "webhook-timestamp": "1", "webhook-signature": "v1,"}
        case "odd length":
            headers["content-length"] = rng.choice(("-1", "9" * 40, "1e3", "2000000"))
    return name, body, headers


async def flood(house: House, count: int, repeats: int, seed: int) -> dict[str, object]:
    """Send them all; what came of them. The genuine one that is repeated is taken once, before."""
    rng, statuses = random.Random(seed), Counter[int]()
    caller = Caller(house)
    body, headers = house.autumn_hook("acme", "msg_genuine")
    assert (await caller.hook("autumn", body, headers)).json() == {"status": "done"}
    await caller.settled()
    before, calls = house.counts(), len(house.autumn_line.calls)
    again: Counter[str] = Counter()

    async def send(number: int) -> None:
        if number < count:
            statuses[(await caller.hook(*forged(house, rng))).status_code] += 1
        else:
            given: Mapping[str, str] = house.autumn_hook("acme", "msg_genuine", at_ms=house.clock.at_ms + number)[1]
            again[json.dumps((await caller.hook("autumn", body, given)).json())] += 1

    numbers = iter(rng.sample(range(count + repeats), count + repeats))

    async def work() -> None:
        for number in numbers:
            await send(number)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    await caller.settled()
    unchanged = house.counts() == before and len(house.autumn_line.calls) == calls
    await asyncio.to_thread(house.server.close)
    return {
        "forged": count,
        "accepted": sum(n for status, n in statuses.items() if status < 400),
        "unhandled": sum(n for status, n in statuses.items() if status >= 500),
        "statuses": {str(status): n for status, n in sorted(statuses.items())},
        "repeats": dict(again),
        "database_unchanged": unchanged,
    }


def well(found: Mapping[str, object], repeats: int) -> bool:
    """Nothing was taken, nothing escaped, nothing changed, and each repeat was known."""
    known = {'{"status": "repeated"}': repeats} if repeats else {}
    clean = (found["accepted"], found["unhandled"], found["database_unchanged"]) == (0, 0, True)
    return clean and found["repeats"] == known


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, standard in (("forged", 100_000), ("repeats", 10_000), ("seed", 1)):
        asked.add_argument(f"--{name}", type=int, default=standard)
    given = asked.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with tempfile.TemporaryDirectory() as folder:
        engine = connect(f"sqlite:///{folder}/flood.db")
        upgrade(engine)
        house = House(engine)
        house.customer("acme", 100)
        found = asyncio.run(flood(house, given.forged, given.repeats, given.seed))
        engine.dispose()
    print(json.dumps(found, indent=2))
    return 0 if well(found, given.repeats) else 1


if __name__ == "__main__":
    sys.exit(main())
