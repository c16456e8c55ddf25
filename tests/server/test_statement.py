"""A month's statement over HTTP: what the command says, for a key that may read accounts."""

from __future__ import annotations

from typing import Final

import pytest

from drawdown.schema.units import DAY_MS, MICRO
from drawdown.server.api.accounts import StatementAnswer
from tests.server.house import Caller, House, served
from tests.server.program import Program, give, key_of, make_key, refused
from tests.world import T0

MONTH: Final = "/accounts/acme/statement?month=2026-01"


@pytest.mark.both_databases
def test_statement_of_month_over_http_sums_changes(house: House) -> None:
    give(house, "acme")
    make_key(house, "app")

    async def work(caller: Caller) -> None:
        program = Program(caller, key_of("app"))
        await program.accept("e-1", 6, project="site")
        await program.post("/e-1/settle", {"actual": 4.5})
        await program.accept("e-2", 2)
        answer = await program.get(MONTH)
        assert answer.status_code == 200, answer.text
        found = answer.json()
        StatementAnswer.model_validate(found)
        assert set(found) == set(StatementAnswer.model_fields)
        assert (found["opening"], found["closing_micro"], found["is_final"]) == (0, 95_500_000, False)
        assert [(one["section"], one["moved"]) for one in found["changes"]] == [("given", 100), ("executions", -4.5)]
        assert [(one["execution"], one["held"]) for one in found["held"]] == [("e-2", 2)]
        assert (found["org_id"], found["customer_id"], found["reserved"]) == ("acme", "acme", 2)
        house.clock.at_ms = T0 + 40 * DAY_MS
        assert (await program.get(MONTH)).json()["is_final"]
        span = (await program.get(f"/accounts/acme/statement?from_ms={T0}&to_ms={T0 + 1}&most=1")).json()
        assert span["closing_micro"] - span["opening_micro"] == sum(one["moved_micro"] for one in span["changes"])
        assert span["closing_micro"] == 95_500_000 == 95 * MICRO + MICRO // 2

    served(house, work)


def test_statement_with_invalid_range_or_foreign_org_is_refused(lone: House) -> None:
    give(lone, "acme")
    make_key(lone, "app")
    make_key(lone, "theirs", org="globex")

    async def work(caller: Caller) -> None:
        program = Program(caller, key_of("app"))
        for query in ("", "?month=2026-13", "?month=x", "?month=2026-01&from_ms=1", "?from_ms=2&to_ms=1", "?most=0",
                      "?month=2026-01&most=1001", "?month=2026-01&month=2026-02", "?month=2026-01&more=1"):  # fmt: skip
            answer = await program.get(f"/accounts/acme/statement{query}")
            assert refused(answer) == (422, "bad_value"), (query, answer.text)
            assert answer.json()["error"]["details"]["wrong"][0]["at"], query
        assert refused(await program.get("/accounts/acmee/statement?month=2026-01")) == (404, "unknown_org")
        theirs = Program(caller, key_of("theirs"))
        assert refused(await theirs.get(MONTH)) == (403, "foreign_org")

    served(lone, work)
