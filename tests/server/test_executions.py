"""Runs over HTTP: what the command line does, each act once, every refusal with its code."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import quote

import httpx
import pytest

from drawdown.schema.database import read, write
from drawdown.schema.errors import AnswerLost, DatabaseBusy
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS
from drawdown.server.api import gate as gates
from drawdown.server.api import programs
from drawdown.server.api.executions import Executions
from drawdown.server.api.models import MOST_ROWS
from drawdown.worker.access import keys as api_keys
from drawdown.worker.access.keys import SCOPES
from drawdown.worker.features.actions import map_size
from drawdown.worker.guard import grouped
from drawdown.worker.orgs import actions as orgs
from drawdown.worker.verify.verify import verify
from drawdown.worker.wallets import pools
from drawdown.worker.wallets.actions import set_rate
from tests.server.house import Caller, House, served
from tests.server.program import RUNS, Program, give, key_of, make_key, refused, wrong_at

Work = Callable[[Program], Awaitable[None]]
HOUR_MS: Final = 60 * MINUTE_MS


def with_program(house: House, work: Work, **more: Any) -> None:
    """An organisation with 100 credits, and a program that may do all with runs."""
    give(house, "acme")
    make_key(house, "app", **more)

    async def whole(caller: Caller) -> None:
        await work(Program(caller, key_of("app")))

    served(house, whole)
    assert read(house.fleet.engine, verify).breaches == []


@pytest.mark.both_databases
def test_execution_preview_reserve_draw_extend_and_settle_update_wallet(house: House) -> None:
    async def work(program: Program) -> None:
        found = (await program.post("/preview", {"org_id": "acme", "estimate": 6})).json()
        assert (found["allowed"], found["amount"], found["available_micro"]) == (True, 6, 100 * MICRO)
        found = (await program.accept("e-1", 6.25, project="site", subject="ann", action="render")).json()
        assert (found["key"], found["state"], found["held_micro"]) == ("e-1", "held", 6_250_000)
        assert (found["available"], found["balance"], found["repeated"]) == (93.75, 100, False)
        found = (await program.post("/e-1/draws", {"number": 1, "credits": 0.000001})).json()
        assert (found["charged"], found["charged_micro"], found["drawn_micro"]) == (1e-06, 1, 1)
        found = (await program.post("/e-1/extend", {"to": 9, "for_ms": 2 * HOUR_MS})).json()
        assert (found["reserved"], found["held_micro"]) == (9, 9 * MICRO - 1)
        assert found["expires_ms"] == house.clock.at_ms + 2 * HOUR_MS
        found = (await program.post("/e-1/settle", {"actual": 4, "reason": "done"})).json()
        assert (found["state"], found["drawn"], found["charged_micro"]) == ("settled", 4, 4 * MICRO - 1)
        assert (found["available"], found["ended_by"], found["ended_reason"]) == (96, "key:app", "done")
        shown = (await program.get("/executions/e-1")).json()
        assert shown.items() >= {name: found[name] for name in ("key", "state", "drawn_micro", "project")}.items()
        assert [entry["amount_micro"] for entry in shown["entries"]] == [1, 4 * MICRO - 1]
        account = (await program.get("/accounts/acme")).json()
        assert (account["available"], account["reserved"], account["balance_micro"]) == (96, 0, 96 * MICRO)

    with_program(house, work)


def test_execution_by_bound_key_without_org_takes_org_of_key(house: House) -> None:
    give(house, "acme")
    make_key(house, "bound", *RUNS, org="acme")
    make_key(house, "any", *RUNS)

    async def work(caller: Caller) -> None:
        bound, free = Program(caller, key_of("bound")), Program(caller, key_of("any"))
        assert (await bound.post("/preview", {"estimate": 6})).json()["allowed"] is True
        assert (await bound.post("", {"key": "e-1", "estimate": 6})).json()["state"] == "held"
        assert (await bound.get("/executions/e-1")).json()["org_id"] == "acme"
        assert refused(await free.post("", {"key": "e-2", "estimate": 6})) == (422, "bad_value")

    served(house, work)


def test_execution_with_other_payer_needs_allowance_and_charges_payer(house: House) -> None:
    async def work(program: Program) -> None:
        give(house, "wayne")
        give(house, "globex")
        fleet = house.fleet
        answer = await program.accept("e-1", 6, payer="wayne")
        assert refused(answer) == (409, "payer_not_allowed")
        write(fleet.engine, lambda c: pools.allow(c, "wayne", "acme", fleet.by, limit_micro=10 * MICRO))
        asked = {"org_id": "acme", "estimate": 6, "payer": "globex"}
        reason = (await program.post("/preview", asked)).json()["reason"]
        assert "`POST /v1/payers/{payer}/orgs/{org_id}/allow`" in reason and "drawdown " not in reason, reason
        found = (await program.post("/preview", {"org_id": "acme", "estimate": 6, "payer": "wayne"})).json()
        assert (found["allowed"], found["customer_id"], found["available"]) == (True, "wayne", None)
        found = (await program.accept("e-1", 6, payer="wayne")).json()
        assert (found["customer_id"], found["sponsored"], found["available"]) == ("wayne", True, None)
        assert refused(await program.accept("e-2", 6, payer="wayne")) == (402, "payer_limit")
        assert refused(await program.accept("e-2", 6, payer="wayn")) == (422, "unknown_payer")
        found = (await program.post("/e-1/settle", {"actual": 4})).json()
        assert (found["charged"], found["balance_micro"]) == (4, None)
        account = (await program.get("/accounts/acme")).json()
        assert (account["customer_id"], account["balance"]) == ("acme", 100)
        assert account["payers"] == [
            {"payer": "wayne", "limit": 10, "limit_micro": 10 * MICRO, "spent": 4, "spent_micro": 4 * MICRO}
        ]
        assert (await program.get("/accounts/wayne")).json()["balance"] == 96

    with_program(house, work)


def test_execution_operations_repeated_do_not_change_wallet(house: House) -> None:
    async def work(program: Program) -> None:
        for repeated in (False, True):
            assert (await program.accept("e-1")).json()["repeated"] is repeated
        for repeated in (False, True):
            assert (await program.post("/e-1/draws", {"number": 1, "credits": 1})).json()["repeated"] is repeated
        for repeated in (False, True):
            assert (await program.post("/e-1/settle", {"actual": 4})).json()["repeated"] is repeated
        await program.accept("e-2")
        for repeated in (False, True):
            assert (await program.post("/e-2/release", {"incurred": 1})).json()["repeated"] is repeated
        assert (await program.get("/accounts/acme")).json()["balance"] == 95

    with_program(house, work)


def test_ledger_entries_are_paged_to_first_entry(house: House) -> None:
    async def work(program: Program) -> None:
        await program.accept("e-1", 20)
        for number in range(7):
            house.clock.at_ms += number % 2  # several of one moment, too
            await program.post("/e-1/draws", {"number": number, "credits": 1})
        seen: list[str] = []
        after = ""
        while True:
            found = (await program.get(f"/accounts/acme/ledger?most=3{after}")).json()
            assert len(found["entries"]) <= 3
            seen += [entry["key"] for entry in found["entries"]]
            if found["next"] is None:
                break
            after = f"&after={quote(found['next'])}"
        assert len(seen) == len(set(seen)) == 8
        everything = (await program.get("/accounts/acme/ledger")).json()["entries"]
        assert [one["key"] for one in everything] == seen
        assert {one["moved_micro"] for one in everything} == {-MICRO, 100 * MICRO}
        assert wrong_at(await program.get("/accounts/acme/ledger?after=nothing")) == "after"

    with_program(house, work)


def test_expired_reservation_before_sweep_counts_as_available(lone: House) -> None:
    async def work(program: Program) -> None:
        await program.accept("e-1", 60)
        lone.clock.at_ms += HOUR_MS
        account = (await program.get("/accounts/acme")).json()
        assert (account["available"], account["reserved"]) == (100, 0)
        assert (await program.accept("e-2", 100)).status_code == 200
        assert (await program.post("/e-1/extend")).json()["error"]["code"] == "ended"

    with_program(lone, work)


def test_execution_list_is_filtered_by_label_and_state(lone: House) -> None:
    async def work(program: Program) -> None:
        for number, project in enumerate(("site", "site", "shop")):
            lone.clock.at_ms += 1
            await program.accept(f"e-{number}", 1, project=project)
        await program.post("/e-0/release")

        async def keys(query: str) -> list[str]:
            found = await program.get(f"/executions{query}")
            assert found.status_code == 200, found.text
            return [run["key"] for run in found.json()["executions"]]

        assert await keys("") == ["e-2", "e-1", "e-0"]
        assert await keys("?project=site") == ["e-1", "e-0"]
        assert await keys("?project=site&state=held&most=5") == ["e-1"]
        assert await keys("?state=held&state=released&org_id=acme&most=2") == ["e-2", "e-1"]
        assert refused(await program.get("/executions?org_id=acmee")) == (404, "unknown_org")
        for label in ("project=sitee", "subject=a", "action=a"):
            unknown = await program.get(f"/executions?{label}")
            assert refused(unknown) == (422, f"unknown_{label.partition('=')[0]}"), unknown.text

    with_program(lone, work)


def test_execution_key_with_special_characters_is_accepted_encoded(house: House) -> None:
    """Slashes, dots, what a shell or a browser would take for its own: it names a run, and no place."""
    keys = (
        "a/b",
        "../../etc/passwd",
        "e/draws",
        "e/settle/draws",
        "preview",
        "ü €",
        "x?y#z%2F",
        "'; DROP TABLE x",
        "&=",
    )

    async def work(program: Program) -> None:
        for key in keys:
            path = f"/{quote(key, safe='')}"
            assert (await program.accept(key, 1)).status_code == 200, key
            assert (await program.get(f"/executions{path}")).json()["key"] == key
            assert (await program.post(f"{path}/draws", {"number": 1, "credits": 0.5})).json()["key"] == key
            assert (await program.post(f"{path}/settle", {"actual": 1})).json()["drawn"] == 1, key

    with_program(house, work)
    assert house.fleet.one("SELECT COUNT(*) FROM reservations") == len(keys)


def test_execution_key_invalid_with_ended_api_key_is_unauthorized(house: House) -> None:
    async def work(program: Program) -> None:
        assert (await program.accept("e-1", 1)).status_code == 200
        write(house.fleet.engine, lambda c: api_keys.end(c, "app", house.fleet.by))
        for act, body in (("draws", {"number": 1, "credits": 1}), ("settle", {"actual": 1}), ("release", {})):
            assert refused(await program.post(f"/%00/{act}", body)) == (401, "unauthorized"), act

    with_program(house, work)


def test_execution_idempotency_key_header_is_execution_key(house: House) -> None:
    order = {"org_id": "acme", "estimate": 1}

    async def work(program: Program) -> None:
        assert refused(await program.post("", order)) == (400, "bad_request")
        assert (await program.post("", order, **{"idempotency-key": "k-1"})).json()["key"] == "k-1"
        again = await program.post("", {**order, "key": "k-1"}, **{"idempotency-key": "k-1"})
        assert (again.json()["key"], again.json()["repeated"]) == ("k-1", True)
        differs = await program.post("", {**order, "key": "k-2"}, **{"idempotency-key": "k-1"})
        assert refused(differs) == (400, "other_key")
        for odd in ("", "x" * 201, "a\tb"):
            assert refused(await program.post("", order, **{"idempotency-key": odd})) == (400, "bad_request"), odd
        body, headers = json.dumps(order).encode(), [*program.headers().items(), *[("idempotency-key", "k-3")] * 2]
        twice = await program.caller.client.request("POST", "/v1/executions", content=body, headers=headers)
        assert refused(twice) == (400, "bad_request")
        assert (await program.post("", order, **{"idempotency-key": "a b"})).json()["key"] == "a b", "as in the body"

    with_program(house, work)
    assert house.fleet.rows("SELECT reservation FROM reservations ORDER BY 1") == [("a b",), ("k-1",)]


Case = tuple[str, str, dict[str, Any], int, str, str | None]
REFUSED: Final[list[Case]] = [
    ("no credit", "", {"key": "n", "org_id": "acme", "estimate": 100}, 402, "no_credit", "credits"),
    ("other content", "", {"key": "going", "org_id": "acme", "estimate": 7}, 409, "other_content", None),
    ("no estimate", "", {"key": "n", "org_id": "acme"}, 422, "no_estimate", "plan"),
    ("no rate", "", {"key": "n", "org_id": "acme", "use": {"renders": 5}}, 409, "no_rate", None),
    ("an unknown feature", "", {"key": "n", "org_id": "acme", "use": {"tokns": 5}}, 422, "unknown_feature", None),
    ("an unknown organisation", "", {"key": "n", "org_id": "acmee", "estimate": 1}, 404, "unknown_org", None),
    ("a halted one", "", {"key": "n", "org_id": "still", "estimate": 1}, 409, "halted", "account_state"),
    ("one without a wallet", "", {"key": "n", "org_id": "poor", "estimate": 1}, 409, "no_wallet", "account"),
    ("two estimates", "", {"key": "n", "org_id": "acme", "estimate": 1, "use": {"tokens": 1}}, 422, "bad_value", None),
    ("nothing estimated", "", {"key": "n", "org_id": "acme", "estimate": 0}, 422, "bad_estimate", None),
    ("a negative estimate", "", {"key": "n", "org_id": "acme", "estimate": -1}, 422, "bad_estimate", None),
    ("an unknown run", "/goin/settle", {"actual": 1}, 404, "unknown_execution", None),
    ("a draw of another", "/going/draws", {"number": 1, "credits": 2}, 409, "other_content", None),
    ("a draw beyond the hold", "/tight/draws", {"number": 1, "credits": 2}, 409, "beyond_hold", None),
    ("less than was drawn", "/going/settle", {"actual": 0.5}, 409, "below_drawn", None),
    ("another unit", "/going/settle", {"use": {"tokens": 9}}, 409, "other_unit", None),
    ("a draw of what ended", "/gone/draws", {"number": 1, "credits": 1}, 409, "ended", None),
    ("a settle after release", "/gone/settle", {"actual": 1}, 409, "ended", None),
    ("an extension of what ended", "/gone/extend", {}, 409, "ended", None),
    ("an extension without room", "/going/extend", {"to": 1000}, 402, "no_credit", "credits"),
    ("no cost", "/going/settle", {}, 422, "bad_value", None),
    ("two costs", "/going/settle", {"actual": 1, "use": {"tokens": 1}}, 422, "bad_value", None),
]


def test_refused_execution_call_returns_code_and_does_not_change_wallet(house: House) -> None:
    by, engine = house.fleet.by, house.fleet.engine
    house.fleet.assign("still", "poor")
    house.fleet.tick(house.clock.at_ms)
    write(engine, lambda c: orgs.halt(c, ["still"], by))
    house.fleet.write("INSERT INTO ledger_accounts (account_id) VALUES ('wallet:still')")
    write(engine, lambda c: set_rate(c, "tokens", 1, 1, by, from_ms=None))
    write(engine, lambda c: map_size(c, "renders", by, kind="exact", memory_mb=7, unit="s"))

    def wallets() -> list[tuple[object, ...]]:
        return house.fleet.rows("SELECT account_id, balance_micro, held_micro FROM ledger_accounts ORDER BY 1")

    async def work(program: Program) -> None:
        assert (await program.accept("going", 6)).status_code == 200
        await program.post("/going/draws", {"number": 1, "credits": 1})
        await program.accept("tight", 1, overage="refuse")
        await program.accept("gone", 1)
        await program.post("/gone/release")
        before = wallets()
        for what, path, order, status, code, step in REFUSED:
            answer = await program.post(path, order)
            assert refused(answer) == (status, code), (what, answer.text)
            assert answer.json()["error"].get("details", {}).get("step") == step, what
            assert len(answer.json()["error"]["message"]) > 20 and program.caller.server._programs.denied[code] >= 1
            if not path and step is not None:
                told = (await program.post("/preview", {name: order[name] for name in order if name != "key"})).json()
                assert (told["allowed"], told["code"], told["step"]) == (False, code, step), what
        assert wallets() == before

    with_program(house, work)


AMOUNTS: Final = {
    "6": 6_000_000, "6.0": 6_000_000, "0.000001": 1, "1e1": 10_000_000, "5.5E-1": 550_000, "0.1": 100_000,
    "9.999999": 9_999_999, "1.000000000000": 1_000_000,
}  # fmt: skip
NO_AMOUNTS: Final = (
    "0.0000001", "1.0000000000000000000000000000000000001", "NaN", "Infinity", "-Infinity", "1e400", "1e999999999",
    "1e99999999999999999999", "1e-99999999999999999999", "1000000000.000001", "9" * 5_000, "9" * 4_000, "true", '"6"',
    "[6]", '{"a": 6}', "0x10", "+6", "06", "6.", "-0.5", "1_000", "0", "-0",
)  # fmt: skip


def test_execution_amount_is_exact_or_refused(lone: House) -> None:
    async def work(program: Program) -> None:
        async def send(number: int, text: str) -> httpx.Response:
            return await program.post(
                "", b'{"key": "e-%d", "org_id": "acme", "estimate": %s}' % (number, text.encode())
            )

        for number, (text, micro) in enumerate(AMOUNTS.items()):
            answer = await send(number, text)
            assert answer.json()["reserved_micro"] == micro, answer.text
        for number, text in enumerate(NO_AMOUNTS):
            answer = await send(100 + number, text)
            assert answer.status_code in (400, 422), (text[:30], answer.text)

    with_program(lone, work)
    assert lone.fleet.one("SELECT COUNT(*) FROM reservations") == len(AMOUNTS)


LABEL = {"key": "n", "org_id": "acme", "estimate": 1}
HOSTILE: Final[dict[str, tuple[bytes, int]]] = {
    "nothing": (b"", 400),
    "no object": (b"[]", 422),
    "null": (b"null", 422),
    "deep": (b'{"a":' * 9_000 + b"1" + b"}" * 9_000, 400),
    "deep lists": (b"[" * 60_000, 400),
    "a name twice": (b'{"key": "n", "org_id": "acme", "estimate": 1, "estimate": 2}', 400),
    "a name twice within": (b'{"key": "n", "org_id": "acme", "use": {"tokens": 1, "tokens": 2}}', 400),
    "another name": (json.dumps({**LABEL, "amount": 1}).encode(), 422),
    "no utf-8": (b'{"key": "\xff"}', 400),
    "utf-16": (json.dumps(LABEL).encode("utf-16"), 400),
    "a key of a number": (json.dumps({**LABEL, "key": 7}).encode(), 422),
    "a key without end": (json.dumps({**LABEL, "key": "x" * 201}).encode(), 422),
    "an empty key": (json.dumps({**LABEL, "key": ""}).encode(), 422),
    "half a character": (b'{"key": "\\ud800", "org_id": "acme", "estimate": 1}', 422),
    "a NUL": (json.dumps({**LABEL, "project": "a\u0000b"}).encode(), 422),
    "a line's end": (json.dumps({**LABEL, "subject": "a\r\nX-Evil: 1"}).encode(), 422),
    "a control of old": (json.dumps({**LABEL, "action": "a\u0085b"}).encode(), 422),
    "what was no utf-8": (json.dumps({**LABEL, "org_id": "\ufffd"}).encode(), 422),
    "a feature with a NUL": (json.dumps({"key": "n", "org_id": "acme", "use": {"a\u0000": 1}}).encode(), 422),
    "half a feature": (b'{"key": "n", "org_id": "acme", "use": {"\\udfff": 1}}', 422),
    "no features": (json.dumps({"key": "n", "org_id": "acme", "use": {}}).encode(), 422),
    "too many features": (
        json.dumps({"key": "n", "org_id": "acme", "use": {f"f{n}": 1 for n in range(101)}}).encode(),
        422,
    ),
    "a fraction of a unit": (b'{"key": "n", "org_id": "acme", "use": {"tokens": 1.5}}', 422),
    "a unit that is true": (b'{"key": "n", "org_id": "acme", "use": {"tokens": true}}', 422),
    "units beyond": (b'{"key": "n", "org_id": "acme", "use": {"tokens": 9007199254740992}}', 422),
    "another overage": (json.dumps({**LABEL, "overage": "all"}).encode(), 422),
    "a hold of a moment": (json.dumps({**LABEL, "for_ms": 1}).encode(), 422),
    "a hold for ever": (json.dumps({**LABEL, "for_ms": 31 * DAY_MS}).encode(), 422),
    "queued by a text": (json.dumps({**LABEL, "queued": "yes"}).encode(), 422),
    "a reason without end": (json.dumps({**LABEL, "reason": "r" * 1001}).encode(), 422),
    "large": (json.dumps({**LABEL, "reason": "r" * programs.MAX_BYTES}).encode(), 413),
}


def test_execution_malformed_body_is_refused_without_reservation(lone: House) -> None:
    async def work(program: Program) -> None:
        for what, (body, status) in HOSTILE.items():
            for path in ("", "/preview"):
                answer = await program.post(path, body)
                assert answer.status_code == status, (what, answer.text)
                assert len(answer.content) < 20_000
        plain = await program.post("", json.dumps(LABEL).encode(), **{"content-type": "text/plain"})
        assert refused(plain) == (415, "not_json")

    with_program(lone, work)
    assert lone.fleet.rows("SELECT 1 FROM reservations") == []


def test_execution_labels_with_unicode_marks_are_unchanged(house: House) -> None:
    """Printable or not for a terminal: JSON carries it, and it is compared by its bytes."""

    async def work(program: Program) -> None:
        for key in ("e\u202e1", "e1", "\u0435", "e\u0301", "\u00e9", "👩‍👩‍👧"):
            found = (await program.accept(key, 1, project=key)).json()
            assert (found["key"], found["project"], found["repeated"]) == (key, key, False)

    with_program(house, work)


QUERIES: Final = (
    "most=0", f"most={MOST_ROWS + 1}", "most=x", "most=1&most=2", "state=gone", "org_id=%00", "org_id=%ff",
    "org_id=a&org_id=b", "nothing=1", "project=" + "x" * 201, "org_id=",
    "after=x",
)  # fmt: skip


def test_execution_list_invalid_query_is_refused(lone: House) -> None:
    async def work(program: Program) -> None:
        for query in QUERIES:
            assert refused(await program.get(f"/executions?{query}")) == (422, "bad_value"), query

    with_program(lone, work)


PATHS: Final = (
    ("/executions/", 422), ("/executions/%00", 422), ("/executions/%ff", 422), ("/executions/" + "x" * 201, 422),
    ("/executions/none", 404), ("/accounts/none", 404), ("/accounts/", 422), ("/accounts/%0d%0aX-Evil:1", 422),
    ("/accounts//ledger", 422), ("/accounts/none/ledger", 404), ("/accounts/%ed%a0%80", 422),
)  # fmt: skip


def test_api_unknown_paths_and_methods_are_not_found(house: House) -> None:
    async def work(program: Program) -> None:
        for path, status in PATHS:
            answer = await program.get(path)
            assert answer.status_code == status, (path, answer.text)
            assert "x-evil" not in answer.headers
        for method, path in (("PUT", "/v1/executions/e"), ("DELETE", "/v1/executions"), ("POST", "/v1/accounts/acme"),
                             ("POST", "/v1/executions/e/burn"), ("POST", "/v1/executions/e")):  # fmt: skip
            answer = await program.caller.client.request(method, path, headers=program.headers())
            assert answer.status_code in (404, 405), path

    with_program(house, work)


def test_api_during_database_outage_returns_503_with_retry_after(lone: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_given: object, **_more: object) -> None:
        raise AnswerLost("a secret of the driver's")

    def away(*_given: object, **_more: object) -> None:
        raise DatabaseBusy("a secret of the driver's")

    async def work(program: Program) -> None:
        for how, code in ((lost, "answer_lost"), (away, "database")):
            monkeypatch.setattr(grouped, "do_all", how)
            answer = await program.accept("e-1")
            assert refused(answer) == (503, code)
            assert answer.headers["retry-after"] == "1" and "secret" not in answer.text
            assert any(one in answer.json()["error"]["message"] for one in ("again", "Retry-After"))
            monkeypatch.undo()
        assert (await program.accept("e-1")).json()["repeated"] is False
        lone.fleet.engine.dispose()
        monkeypatch.setattr("drawdown.schema.database._require_file", away)
        assert refused(await program.get("/accounts/acme")) == (503, "database"), "the key itself cannot be read"
        monkeypatch.undo()

    with_program(lone, work)


def test_api_hanging_database_times_out_and_gate_still_answers(lone: House, monkeypatch: pytest.MonkeyPatch) -> None:
    give(lone, "acme")
    make_key(lone, "app")
    monkeypatch.setattr(programs, "WITHIN_S", 0.3)
    monkeypatch.setattr(gates, "FRESH_WITHIN_S", 0.3)

    async def work(caller: Caller) -> None:
        program = Program(caller, key_of("app"))
        with lone.fleet.engine.begin():  # a writer that holds SQLite's one lock
            answer = await program.accept("e-1")
            assert refused(answer) == (503, "answer_lost") and "this is safe" in answer.text
            gate = await caller.get("/v1/gate/acme")
            assert gate.status_code == 200, "the gate has threads of its own"
        for _ in range(100):
            answer = await program.accept("e-1")
            if answer.status_code == 200:
                break
        assert answer.json()["repeated"] in (True, False)

    served(lone, work)
    assert lone.fleet.one("SELECT held_micro FROM ledger_accounts WHERE account_id = 'wallet:acme'") == 6 * MICRO


def test_api_key_above_request_rate_is_limited_without_affecting_other_key(
    lone: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "REQUESTS_PER_S", 3)
    lone.server.close()
    lone.server = lone.another()
    make_key(lone, "other")

    async def work(program: Program) -> None:
        answers = [await program.get("/accounts/acme") for _ in range(8)]
        assert [one.status_code for one in answers] == [200] * 6 + [429] * 2
        assert refused(answers[-1]) == (429, "too_many_requests") and answers[-1].headers["retry-after"] == "1"
        assert (await Program(program.caller, key_of("other")).get("/accounts/acme")).status_code == 200
        assert program.caller.server.refused["keys"] == 2
        lone.clock.at_ms += 1000
        assert (await program.get("/accounts/acme")).status_code == 200

    with_program(lone, work)


def test_refused_api_calls_are_counted_by_code_in_metrics(lone: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(program: Program) -> None:
        await program.accept("e-1", 1000)
        await program.accept("e-1", "no number")
        monkeypatch.setattr(programs, "CODES", ())
        await program.get("/executions/none")
        text = (await program.caller.get("/metrics")).text
        for code, count in (("no_credit", 1), ("bad_value", 1), ("other", 1), ("foreign_org", 0)):
            assert f'drawdown_programs_denied_total{{code="{code}"}} {count}.0' in text

    with_program(lone, work)


def test_openapi_execution_examples_run_in_sequence(lone: House) -> None:
    """In the order in which a run goes."""

    async def work(program: Program) -> None:
        found = program.caller.server.routes.openapi()["paths"]

        def example(path: str) -> dict[str, Any]:
            schema = found[path]["post"]["requestBody"]["content"]["application/json"]["schema"]
            return dict(schema["examples"][0])

        root = "/v1/executions"
        assert (await program.post("/preview", example(f"{root}/preview"))).json()["allowed"] is True
        assert (await program.post("", example(root))).status_code == 200
        for act in ("draws", "extend", "settle"):
            answer = await program.post(f"/e-1/{act}", example(f"{root}/{{execution}}/{act}"))
            assert answer.status_code == 200, answer.text
        await program.accept("e-2")
        assert (await program.post("/e-2/release", example(f"{root}/{{execution}}/release"))).json()[
            "state"
        ] == "released"

    with_program(lone, work)


def test_openapi_operations_declare_required_scope(lone: House) -> None:
    paths = lone.server.routes.openapi()["paths"]
    wanted = {
        (path, method): one["security"][0]["key"]
        for path, of_path in paths.items()
        for method, one in of_path.items()
        if "key" in one.get("security", [{}])[0]
    }
    assert len(wanted) > 50 and {scope for (scope,) in wanted.values()} <= set(SCOPES)
    assert {path for path, method in wanted if method == "post"} <= {
        path
        for path, method in wanted
        if wanted[path, method][0].endswith((":write", "guard")) or path.endswith("preview")
    }
    assert {route.path for route in Executions(lone.server._programs, lone.server._money).routes().routes} <= {  # type: ignore[attr-defined]
        path.replace("{execution}", "{execution:id}") for path in paths
    }
