"""API keys: who has none is nobody, who has one may what it says and no more, and no key lies or is said anywhere."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import sqlalchemy as sa
import structlog
from sqlalchemy.exc import DBAPIError

from drawdown.cli.main import run
from drawdown.schema.database import read, write
from drawdown.schema.errors import AnswerLost, Refused, UnknownId, UsageError
from drawdown.schema.units import DAY_MS, MICRO, MINUTE_MS
from drawdown.worker.access import keys as api_keys
from drawdown.worker.access.keys import list_keys
from drawdown.worker.verify.verify import verify
from tests.acceptance.commands import drawdown
from tests.server.house import Caller, House, served
from tests.server.intake import EVENTS, Sender, event, sender
from tests.server.program import RUNS, Program, give, key_of, make_key, refused
from tests.server.test_process import serving
from tests.sqlite_databases import migrated

BODY: Final = b'{"org_id": "acme", "estimate": 1}'


def end(house: House, name: str) -> bool:
    return write(house.fleet.engine, lambda c: api_keys.end(c, name, house.fleet.by))


def rotate(house: House, name: str, new: str, overlap_ms: int = api_keys.OVERLAP_MS) -> api_keys.Rotated:
    key = key_of(new)
    return write(house.fleet.engine, lambda c: api_keys.rotate(c, key, name, house.fleet.by, overlap_ms=overlap_ms))


def states(house: House) -> list[tuple[str, str]]:
    found = read(house.fleet.engine, lambda c: list_keys(c, house.clock.at_ms, 100))
    return [(one.name, one.state) for one in found]


def test_api_request_without_valid_key_is_unauthorized(house: House) -> None:
    give(house, "acme")
    key = make_key(house, "app")
    wrong: tuple[dict[str, str], ...] = (
        {}, {"authorization": ""}, {"authorization": key}, {"authorization": f"Basic {key}"},
        {"authorization": "Bearer"}, {"authorization": f"Bearer {key}x"}, {"authorization": f"Bearer {key[:-1]}"},
        {"authorization": f"Bearer {key.upper()}"}, {"authorization": f"Bearer {key_of('nobody')}"},
        {"authorization": f"Bearer {api_keys.hash_of(key)}"}, {"authorization": f"Bearer {key} {key}"},
        {"authorization": "Bearer ' OR 1=1 --"}, {"authorization": "Bearer " + "k" * 10_000},
    )  # fmt: skip

    async def work(caller: Caller) -> None:
        for headers in wrong:
            for method, path in (("POST", "/v1/executions"), ("GET", "/v1/accounts/acme"), ("GET", "/v1/executions/e")):
                answer = await caller.send(method, path, BODY if method == "POST" else b"", headers)
                assert refused(answer) == (401, "unauthorized"), headers
                assert answer.headers["www-authenticate"] == "Bearer" and key not in answer.text
        twice = [("authorization", f"Bearer {key}")] * 2
        assert (await caller.client.get("/v1/accounts/acme", headers=twice)).status_code == 401
        huge = await caller.send("POST", "/v1/executions", b"x" * 10_000_000)
        assert refused(huge) == (401, "unauthorized"), "nothing of it is read"
        assert (await caller.get("/v1/accounts/acme", authorization=f"bEARER {key}")).status_code == 200

    served(house, work)


def test_api_hundreds_of_wrong_keys_are_rejected_and_not_stored(lone: House) -> None:
    give(lone, "acme")
    make_key(lone, "app")

    async def work(caller: Caller) -> None:
        async def one(number: int) -> int:
            answer = await caller.get("/v1/accounts/acme", authorization=f"Bearer {key_of(f'guess {number}')}")
            return answer.status_code

        for start in range(0, 300, 50):
            found = await asyncio.gather(*(one(number) for number in range(start, start + 50)))
            assert set(found) == {401}
        assert len(caller.server._programs._rates) == 0, "a key that is none is remembered by nobody"
        assert (await Program(caller, key_of("app")).get("/accounts/acme")).status_code == 200

    served(lone, work)


def test_api_key_permits_only_its_scopes(house: House) -> None:
    give(house, "acme")
    for scope in api_keys.SCOPES:
        make_key(house, scope, scope)
    asks: tuple[tuple[str, str, dict[str, Any] | None], ...] = (
        ("executions:read", "/preview", {"org_id": "acme", "estimate": 1}),
        ("executions:write", "", {"key": "e-1", "org_id": "acme", "estimate": 1}),
        *(("executions:write", f"/e-1/{act}", {}) for act in ("draws", "extend", "settle", "release")),
        ("executions:read", "/executions", None),
        ("executions:read", "/executions/e-1", None),
        ("ledger:read", "/accounts/acme", None),
        ("ledger:read", "/accounts/acme/ledger", None),
        ("ledger:read", "/accounts/acme/lots", None),
        ("ledger:read", "/accounts/acme/statement?month=2026-01", None),
        *(("settlements:read", path, None) for path in ("/settlements", "/suppliers", "/payouts")),
    )

    async def work(caller: Caller) -> None:
        for wanted, path, order in asks:
            for scope in api_keys.SCOPES:
                program = Program(caller, key_of(scope))
                answer = await (program.get(path) if order is None else program.post(path, order))
                if scope == wanted:
                    assert answer.status_code in (200, 422), (path, answer.text)
                else:
                    assert refused(answer) == (403, "no_scope") and wanted in answer.text, (path, scope)
                    assert f'scope="{wanted}"' in answer.headers["www-authenticate"]

    served(house, work)


def test_bound_key_cannot_read_or_change_another_org(house: House) -> None:
    for org in ("acme", "globex"):
        give(house, org)
    make_key(house, "any")
    make_key(house, "bound", org="acme")

    async def work(caller: Caller) -> None:
        anybody, bound = Program(caller, key_of("any")), Program(caller, key_of("bound"))
        for key, org in (("theirs", "globex"), ("ours", "acme")):
            run = {"key": key, "org_id": org, "estimate": 5, "project": f"{key}-project"}
            assert (await anybody.post("", run)).status_code == 200
        foreign = {"org_id": "globex", "estimate": 1}
        for answer in (
            await bound.post("", {**foreign, "key": "new"}),
            await bound.post("", {**foreign, "key": "theirs"}),
            await bound.post("/preview", foreign),
            await bound.get("/accounts/globex"),
            await bound.get("/accounts/globex/ledger"),
            await bound.get("/accounts/nobody"),
            await bound.get("/executions?org_id=globex"),
        ):
            assert refused(answer) == (403, "foreign_org"), answer.text
        for act, order in (("draws", {"number": 1, "credits": 1}), ("extend", {}), ("settle", {"actual": 1}),
                           ("release", {})):  # fmt: skip
            said = set()
            for key in ("theirs", "their"):
                answer = await bound.post(f"/{key}/{act}", order)
                assert refused(answer) == (404, "unknown_execution"), answer.text
                said.add(answer.text.replace(f"'{key}'", "KEY"))
            assert len(said) == 1, "the execution of another organisation looks as one that does not exist"
        assert refused(await bound.get("/executions/theirs")) == (404, "unknown_execution")
        assert [run["key"] for run in (await bound.get("/executions")).json()["executions"]] == ["ours"]
        for label in ("theirs-project", "their-project", "nobodys"):
            assert (await bound.get(f"/executions?project={label}")).json()["executions"] == [], "no label is guessed"
        assert refused(await bound.post("/ours/settle", {"actual": 1})) == (403, "foreign_key"), "another key began it"
        assert (await anybody.post("/ours/settle", {"actual": 1})).json()["drawn"] == 1
        assert (await bound.get("/accounts/acme")).json()["balance"] == 99
        nearest = await anybody.post("/their/settle", {"actual": 1})
        assert "did you mean theirs?" in nearest.text, "who may see all is told the nearest"

    served(house, work)


def test_api_key_rotations_beyond_limit_are_refused(lone: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rotation leaves a row for good: a program that rotates in a circle fills no table."""
    monkeypatch.setattr(api_keys, "MOST_OF_A_NAME", 3)
    make_key(lone, "app", "events:read")
    rotate(lone, "app", "second")
    rotate(lone, "app", "third")
    with pytest.raises(Refused, match="the limit of 2 rotations is reached"):
        rotate(lone, "app", "fourth")
    assert lone.fleet.rows("SELECT COUNT(*) FROM api_keys WHERE name = 'app'") == [(3,)]


def test_api_key_rotation_overlaps_and_end_is_immediate(house: House) -> None:
    give(house, "acme")
    make_key(house, "app", for_ms=90 * DAY_MS)

    async def work(caller: Caller) -> None:
        async def let_in(*keys: str) -> list[bool]:
            return [(await Program(caller, key_of(key)).get("/accounts/acme")).status_code == 200 for key in keys]

        house.clock.at_ms += DAY_MS
        done = rotate(house, "app", "second")
        assert (done.key.scopes, done.old_until_ms) == (tuple(sorted(RUNS)), house.clock.at_ms + DAY_MS)
        assert done.expires_ms == house.clock.at_ms + 90 * DAY_MS, "as long as the first was to live"
        assert await let_in("app", "second") == [True, True]
        house.clock.at_ms += DAY_MS
        assert await let_in("app", "second") == [False, True]
        assert states(house) == [("app", "good"), ("app", "expired")]
        rotate(house, "app", "third", overlap_ms=0)
        assert await let_in("second", "third") == [False, True]
        rotate(house, "app", "fourth")
        assert states(house)[0] == ("app", "good") and ("app", "rotated") in states(house)
        assert end(house, "app") and not end(house, "app")
        assert await let_in("third", "fourth") == [False, False]
        assert {state for _, state in states(house)} == {"ended"}
        make_key(house, "short", for_ms=MINUTE_MS)
        house.clock.at_ms += MINUTE_MS - 1
        assert await let_in("short") == [True]
        house.clock.at_ms += 1
        assert await let_in("short") == [False]

    served(house, work)
    with pytest.raises(Refused, match="it has ended"):
        rotate(house, "app", "fifth")
    with pytest.raises(Refused, match="belongs to an active or ended key"):
        make_key(house, "app")
    said = house.fleet.rows("SELECT action, target FROM operator_actions WHERE action LIKE 'key%' ORDER BY action_id")
    assert said == [
        ("key_create", "app"), *[("key_rotate", "app")] * 3, ("key_end", "app"), ("key_create", "short")
    ]  # fmt: skip


def test_api_key_invalid_input_is_refused(lone: House) -> None:
    make_key(lone, "app")
    with pytest.raises(UnknownId, match="did you mean usage:read"):
        make_key(lone, "other", "usage:raed")
    with pytest.raises(UsageError, match="expected 0 to 30 days"):
        rotate(lone, "app", "x", overlap_ms=31 * DAY_MS)
    with pytest.raises(UsageError, match="expected 1 minute"):
        make_key(lone, "other", for_ms=1)
    with pytest.raises(UnknownId, match="did you mean app"):
        end(lone, "appp")
    by, engine = lone.fleet.by, lone.fleet.engine
    for key in ("", "ddk_short", "sk_" + "a" * 43, key_of("x") + "\n"):
        with pytest.raises(UsageError, match="invalid key"):
            write(engine, lambda c, key=key: api_keys.create(c, key, "other", ["guard"], by))  # type: ignore[misc]
    with pytest.raises(UnknownId, match="unknown customer"):
        write(engine, lambda c: api_keys.create(c, key_of("o"), "other", ["guard"], by, org_id="nobody"))
    assert [name for name, _ in states(lone)] == ["app"]


@pytest.mark.both_databases
def test_database_change_of_api_key_rights_is_refused(house: House) -> None:
    """What is refused changes nothing, so one database meets them all."""
    make_key(house, "app", org="acme", for_ms=DAY_MS)
    rotate(house, "app", "second")
    end(house, "app")
    for change in (
        "DELETE FROM api_keys",
        "UPDATE api_keys SET scopes = 'guard executions:write'",
        "UPDATE api_keys SET org_id = NULL",
        f"UPDATE api_keys SET key_sha256 = '{'0' * 64}'",
        "UPDATE api_keys SET expires_ms = expires_ms + 1",
        "UPDATE api_keys SET expires_ms = NULL",
        "UPDATE api_keys SET ended_ms = NULL",
        "UPDATE api_keys SET rotated_ms = 7",
    ):
        with pytest.raises(DBAPIError, match="API key"):
            house.fleet.write(change)
            pytest.fail(f"{change} was taken")


def test_api_key_is_stored_and_logged_only_as_hash(
    engine: sa.Engine, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Logs at DEBUG, each way to be refused, every table; the key is printed once, by the command that made it."""
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", database_url)
    monkeypatch.setenv("DRAWDOWN_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("DRAWDOWN_LOG_LEVEL", "DEBUG")
    keys = []
    for words in (
        "key create app --scope executions:write --scope executions:read --quiet",
        "key rotate app --quiet",
    ):
        assert run(words.split()) == 0
        out = capsys.readouterr()
        (line,) = out.out.splitlines()
        assert api_keys.KEY.fullmatch(line) and line not in out.err
        keys.append(line)
    assert run(["--json", "key", "create", "other", "--scope", "guard"]) == 0
    keys.append(json.loads(capsys.readouterr().out)["key"])
    for words in ("key list", "--json key list", "audit list", "--json audit list", "key end app", "key rotate app",
                  "key create app --scope guard", "key create x --scope gaurd"):  # fmt: skip
        run(words.split())
    said = "".join(capsys.readouterr())
    house = House(engine)
    give(house, "acme")
    with structlog.testing.capture_logs() as logs:

        async def work(caller: Caller) -> None:
            nonlocal said
            for key in keys:
                program = Program(caller, key)
                for answer in (
                    await program.accept("e-1"),
                    await program.accept("e-1", "x"),
                    await program.get("/executions/none"),
                    await program.get(f"/executions?x={key[:9]}"),
                ):
                    said += answer.text + str(answer.headers)
            said += (await caller.get("/metrics")).text + (await caller.get("/openapi.json")).text

        served(house, work)
    said += repr(logs)
    with engine.connect() as connection:
        for table in sa.inspect(connection).get_table_names():
            said += repr(connection.execute(sa.text(f'SELECT * FROM "{table}"')).all())
    assert [key for key in keys if key in said] == []
    assert all(api_keys.hash_of(key) in said for key in keys), "the hash alone is kept"


def test_key_command_lost_answer_names_rotate_and_end(
    lone: House, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(*_given: object, **_more: object) -> None:
        raise AnswerLost("cut")

    monkeypatch.setattr(api_keys, "create", lost)
    monkeypatch.setattr(api_keys, "rotate", lost)
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", str(lone.fleet.engine.url))
    for words in (["create", "app", "--scope", "guard"], ["rotate", "app"]):
        assert run(["key", *words]) == 75
        said = capsys.readouterr()
        assert "`drawdown key rotate app`" in said.err and "`drawdown key end app`" in said.err
        assert api_keys.PREFIX not in said.err + said.out


CLIENTS: Final = 16
RUNS_EACH: Final = 4


def test_sixteen_concurrent_clients_do_not_overdraw_wallet(
    engine: sa.Engine, database_url: str, tmp_path: Path
) -> None:
    """Over real sockets: each key is sent by two of them, and the wallet has room for some of the runs."""
    house = House(engine)
    give(house, "acme", 20)
    keys = [make_key(house, f"client {number}") for number in range(CLIENTS)]
    env = {"DRAWDOWN_REQUESTS_PER_S": "100000", "DRAWDOWN_LOG_LEVEL": "DEBUG"}
    answers: list[tuple[str, httpx.Response]] = []

    async def client(url: str, number: int) -> None:
        head = {"authorization": f"Bearer {keys[number]}"}
        async with httpx.AsyncClient(base_url=url, headers=head, timeout=120) as caller:
            for turn in range(RUNS_EACH):
                key = f"e-{number // 2}-{turn}"
                order = {"key": key, "org_id": "acme", "estimate": 1, "reason": "the same"}
                answers.append((key, await caller.post("/v1/executions", json=order)))
                if turn % 3 == 0:
                    await caller.post(f"/v1/executions/{key}/settle", json={"actual": 0.25})

    async def all_of(url: str) -> None:
        await asyncio.gather(*(client(url, number) for number in range(CLIENTS)))

    with serving(database_url, env, tmp_path / "log") as (url, _process):
        asyncio.run(all_of(url))
    assert {answer.status_code for _, answer in answers} <= {200, 402}
    taken = [key for key, answer in answers if answer.status_code == 200 and not answer.json()["repeated"]]
    assert len(taken) == len(set(taken)) and len(taken) >= 20, "each key once"
    assert all(answer.json().get("available_micro", 0) >= 0 for _, answer in answers)
    assert house.fleet.one("SELECT COUNT(*) FROM reservations") == len(taken)
    balance, held = house.fleet.rows("SELECT balance_micro, held_micro FROM ledger_accounts")[0]
    drawn = house.fleet.one("SELECT SUM(drawn_micro) FROM reservations")
    assert int(str(balance)) == 20 * MICRO - int(str(drawn)) and 0 <= int(str(held)) <= int(str(balance))
    assert read(engine, verify).breaches == []
    log = (tmp_path / "log").read_text()
    assert "Traceback" not in log and not any(key in log for key in keys)


def test_api_key_from_command_works_on_running_server_until_ended(database_url: str, tmp_path: Path) -> None:
    def do(*words: str) -> str:
        done = drawdown(database_url, *words)
        assert done.status == 0, done.err
        return done.out.strip()

    migrated(database_url)
    do("init")
    do("ledger", "grant", "acme", "100", "--reason", "x", "--new")
    key = do("key", "create", "app", "--scope", "executions:write", "--scope", "ledger:read", "--quiet")
    with serving(database_url, {}, tmp_path / "log") as (url, _process):
        client = httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"})
        order = {"org_id": "acme", "estimate": 6, "project": "site"}
        found = client.post("/v1/executions", json=order, headers={"idempotency-key": "a/1"})
        assert (found.status_code, found.json()["key"]) == (200, "a/1"), found.text
        assert client.post("/v1/executions/a%2F1/settle", json={"actual": 4}).json()["available"] == 96
        assert client.get("/v1/accounts/acme").json()["balance_micro"] == 96 * MICRO
        do("key", "end", "app")
        assert client.get("/v1/accounts/acme").status_code == 401, "at once"


def test_api_key_last_use_is_written_once_per_minute(house: House) -> None:
    """However often it is used; a request waits for nothing of it."""
    give(house, "acme")
    make_key(house, "app")
    make_key(house, "idle")
    written: list[str] = []
    sa.event.listen(
        house.fleet.engine, "after_cursor_execute",
        lambda _c, cursor, statement, *_: (
            written.append(statement) if "SET used_ms" in statement and cursor.rowcount else None),
    )  # fmt: skip

    def used() -> dict[str, int | None]:
        return {one.name: one.used_ms for one in read(house.fleet.engine, lambda c: list_keys(c, 0, 10))}

    async def work(caller: Caller) -> None:
        program, began = Program(caller, key_of("app")), house.clock.at_ms
        assert refused(await Program(caller, key_of("nobody")).get("/accounts/acme")) == (401, "unauthorized")
        await caller.settled()
        assert used() == {"app": None, "idle": None} and written == []
        for later_ms, kept, times in ((0, 0, 1), (MINUTE_MS - 1, 0, 1), (MINUTE_MS, MINUTE_MS, 2), (0, MINUTE_MS, 2)):
            house.clock.at_ms = began + later_ms
            for _ in range(5):
                assert (await program.get("/accounts/acme")).status_code == 200
                await caller.settled()
            assert used() == {"app": began + kept, "idle": None} and len(written) == times
        at_once = [program.get("/accounts/acme") for _ in range(8)]
        house.clock.at_ms = began + 9 * MINUTE_MS
        assert {one.status_code for one in await asyncio.gather(*at_once)} == {200}
        await caller.settled()
        assert used()["app"] == began + 9 * MINUTE_MS and len(written) == 3

    served(house, work)
    assert read(house.fleet.engine, verify).breaches == []


def test_remembered_api_key_does_not_write_last_use_for_each_event(house: House) -> None:
    """A statement that finds nothing to change costs a commit, too."""
    sender(house)
    written: list[str] = []
    sa.event.listen(
        house.fleet.engine, "after_cursor_execute",
        lambda _c, _cursor, statement, *_: written.append(statement) if "SET used_ms" in statement else None,
    )  # fmt: skip

    async def work(caller: Caller) -> None:
        for number in range(5):
            assert (await Sender(caller).send(EVENTS, event(f"e{number}"))).status_code == 200
            await caller.settled()

    served(house, work)
    assert len(written) == 1


def test_key_ended_before_its_last_use_is_written_is_forgotten(house: House) -> None:
    sender(house)

    async def work(caller: Caller) -> None:
        programs, proof = house.server._programs, api_keys.hash_of(key_of("app"))
        assert (await Sender(caller).send(EVENTS, event())).status_code == 200
        await caller.settled()
        assert programs.known.get(proof, house.clock.at_ms) is not None
        end(house, "app")
        await programs._keep_use(key_of("app"), house.clock.at_ms)
        assert programs.known.get(proof, house.clock.at_ms) is None
        assert refused(await Sender(caller).send(EVENTS, event("e2"))) == (401, "unauthorized")

    served(house, work)


def test_api_request_when_last_use_write_fails_is_answered(lone: House) -> None:
    give(lone, "acme")
    make_key(lone, "app")
    refuse = "BEFORE UPDATE OF used_ms ON api_keys BEGIN SELECT RAISE(ABORT, 'full'); END"
    lone.fleet.write(f"CREATE TRIGGER no_room {refuse}")

    async def work(caller: Caller) -> None:
        for _ in range(3):
            assert (await Program(caller, key_of("app")).get("/accounts/acme")).status_code == 200
            await caller.settled()

    served(lone, work)
    assert lone.fleet.one("SELECT used_ms FROM api_keys") is None
