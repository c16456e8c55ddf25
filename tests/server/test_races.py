"""32 clients at once, at two servers of one database: half of them with one key, half with keys of their own."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import pytest

from drawdown.schema.database import read, write
from drawdown.schema.units import MICRO
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard.terms import Change, PlanLimit
from drawdown.worker.verify.verify import verify
from tests.server.house import Caller, House
from tests.server.program import Program, give, key_of, make_key

CLIENTS: Final = 32
KEYS: Final = ["same" if number % 2 else f"own-{number}" for number in range(CLIENTS)]
Requests = Sequence[tuple[dict[str, Any], dict[str, str]]]
DIFFERENT: Final = len(set(KEYS))
ROUNDS: Final = 2
FIRST: Final = 100
"""Credits that acme has before."""


def at_once(house: House, path: str, requests: Requests) -> list[Any]:
    """All of them at once, each client at one of two servers; the answers, in order."""
    other = house.another()

    async def work() -> list[Any]:
        callers = [Caller(house), Caller(house, other)]
        try:
            return list(
                await asyncio.gather(
                    *(
                        callers[number // 2 % 2].send(
                            "POST",
                            path,
                            json.dumps(body).encode(),
                            Program(callers[0], key_of("app")).headers(**headers),
                        )
                        for number, (body, headers) in enumerate(requests)
                    )
                )
            )
        finally:
            await asyncio.to_thread(other.close)

    answers = asyncio.run(work())
    assert read(house.fleet.engine, verify).breaches == []
    return answers


@pytest.mark.both_databases
def test_concurrent_grants_count_once_per_idempotency_key(house: House) -> None:
    give(house, "acme", FIRST)
    make_key(house, "app", "ledger:write", gives_micro=100 * MICRO)
    for number in range(ROUNDS):
        requests: Requests = [
            ({"amount": 1.5, "kind": "bonus"}, {"idempotency-key": f"{number}:{key}"}) for key in KEYS
        ]
        answers = at_once(house, "/v1/wallets/acme/grants", requests)
        assert {one.status_code for one in answers} == {200}, [one.text for one in answers]
        assert len({one.text for one, key in zip(answers, KEYS, strict=True) if key == "same"}) == 1
        assert len({one.json()["key"] for one in answers}) == DIFFERENT
        expected = FIRST * MICRO + (number + 1) * DIFFERENT * 1_500_000
        assert house.fleet.one("SELECT balance_micro FROM ledger_accounts WHERE account_id = 'wallet:acme'") == expected


@pytest.mark.both_databases
def test_concurrent_consumes_count_once_per_key_and_stop_at_limit(house: House) -> None:
    """Three units each, a credit a unit: the limit has room for 13 of the 17 keys."""
    give(house, "acme", FIRST)
    make_key(house, "app", "guard", org="acme")
    by = house.fleet.by
    write(house.fleet.engine, lambda c: guard_terms.set_metric(c, "idea", Change(price_micro=MICRO, phase=3), by))
    write(house.fleet.engine, lambda c: guard_terms.set_limit(c, PlanLimit("idea", "*", "month", 40), by))
    requests: Requests = [({"key": key, "org_id": "acme", "metric": "idea", "quantity": 3}, {}) for key in KEYS]
    answers = [one.json() for one in at_once(house, "/v1/guard/consume", requests)]
    allowed = {key for key, one in zip(KEYS, answers, strict=True) if one["decision"] != "block"}
    assert len(allowed) == 13
    same = [one for key, one in zip(KEYS, answers, strict=True) if key == "same"]
    assert len({one["decision"] for one in same}) == 1
    repeated = Counter(one["repeated"] for one in same)
    assert repeated[True] == (len(same) - 1 if "same" in allowed else 0)
    assert house.fleet.rows("SELECT used, uses FROM guard_counters WHERE period = 'month'") == [(39, 13)]
    spent = FIRST - 39
    assert (
        house.fleet.one("SELECT balance_micro FROM ledger_accounts WHERE account_id = 'wallet:acme'") == spent * MICRO
    )
