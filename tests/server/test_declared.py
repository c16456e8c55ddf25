"""What is declared, through all three faces: the same values are taken, the same refused, and each is done once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlencode

import pytest
import sqlalchemy as sa

from drawdown.cli.examples import EXAMPLES
from drawdown.cli.main import run
from drawdown.schema.audit import By
from drawdown.schema.database import read, write
from drawdown.schema.declare import (
    CREDITS,
    CREDITS_OR_NONE,
    FLAG,
    KEY,
    MAX_AMOUNT,
    ORG,
    TEXT,
    TIME,
    UNITS,
    WINDOW,
    Action,
    Declared,
    Invocation,
    Listing,
    Look,
    Page,
    Param,
    WrongField,
    of_texts,
    whole,
)
from drawdown.schema.errors import DrawdownError
from drawdown.schema.units import DAY_MS, MAX_AMOUNT_MICRO, MICRO, MINUTE_MS
from drawdown.server.api.declared import answer_model, call_of
from drawdown.server.api.programs import for_programs
from drawdown.server.console.action import Doing
from drawdown.server.console.declared import form_of
from drawdown.server.declarations import ACTIONS, BY_NAME, DECLARED
from drawdown.worker.access.idempotency import Call, OtherContent, claim_call, keep_call
from drawdown.worker.access.keys import SCOPES
from drawdown.worker.access.people import Person
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.orgs import actions as orgs
from drawdown.worker.settlements import actions as settlements
from drawdown.worker.wallets import actions as credit
from tests.server.house import Caller, House, served
from tests.server.program import Program, key_of, make_key, refused
from tests.world import T0

MAX_WORDS: Final = 30
WRITERS: Final = [scope for scope in SCOPES if scope.endswith((":write", ":read"))]
LONG: Final = "x" * 701
CLEAN: Final[list[tuple[str, object]]] = [("a\x07", "a\x07"), ("x" * 201, "x" * 201)]
WRONG: Final[dict[str, list[tuple[str, object]]]] = {
    "org": CLEAN,
    "id": CLEAN,
    "key": [("\x07", "\x07"), (LONG, LONG)],
    "any_id": [("a\x00", "a\x00")],
    "text": [("a\x00", "a\x00"), ("x" * 1_001, "x" * 1_001)],
    "choice": [("nonsense", "nonsense")],
    "credits": [("much", "much"), ("0.0000001", 1e-7), ("1" + "0" * 30, 1e30)],
    "time": [("soon", "soon"), ("2026-13-01", "2026-13-01"), ("9" * 17, 10**17)],
    "window": [("soon", "soon"), ("2026-01-01T00:01", T0 + MINUTE_MS)],
    "length": [("long", "long"), ("-1h", -1), ("999999w", 999_999 * 7 * DAY_MS)],
    "percent": [("much", "much"), ("101", 1_010_000), ("-1", -10_000)],
    "units": [("much", "much"), ("-1", -1), (str(MAX_AMOUNT + 1), MAX_AMOUNT + 1), ("1.5", 1.5)],
}
"""Of each kind: what cannot be taken, as people type it, and as programs send it."""


def ways_of(param: Param) -> list[tuple[str, object]]:
    if param.choices:
        return WRONG["choice"]
    least, most = param.kind.least, param.kind.most
    if param.kind.name == "number":
        whole = [("1.5", 1.5)] if param.kind.ending == "" else []  # a factor is typed with a fraction
        return [("x1", "x1"), (str(least - 1), least - 1), (str(most + 1), most + 1), *whole]
    return WRONG[param.kind.name]


TERMS: Final = settlements.Change(share_ppm=700_000, hold_ms=0, threshold_micro=0, takes_clawbacks=True)


def test_declarations_are_complete_and_unique() -> None:
    names = [one.name for one in DECLARED]
    ways = [(isinstance(one, Action), one.path) for one in DECLARED]
    assert len(set(names)) == len(names) and len(set(ways)) == len(ways)
    for one in DECLARED:
        assert one.scope in SCOPES and one.scope.endswith(":write" if isinstance(one, Action) else ":read"), one.name
        assert one.path.startswith("/v1/") and one.help.endswith("."), one.name
        assert all(len(part.split()) <= MAX_WORDS for part in one.help.split(". ")), one.name
        assert [param.name for param in one.params if not param.says] == [], one.name
        in_path = {param.field for param in one.params if f"{{{param.field}}}" in one.path}
        assert one.path.count("{") == len(in_path), f"{one.name}: its path names what it does not take"
        assert len({param.word for param in one.params}) == len(one.params), one.name
        if isinstance(one, Listing):
            fields = set(one.row.__dataclass_fields__)
            assert {column.name for column in one.heads} <= fields, one.name


def wrongs(one: Declared) -> Iterator[tuple[Param, str, object]]:
    """Each parameter, wrong in each way."""
    for param in one.params:
        if param.kind is not FLAG:
            for text, value in ways_of(param):
                yield param, text, value


def words_of(one: Declared, wrong: Param, wrong_text: str) -> list[str]:
    """A command line on which one value makes no sense."""
    words, options = one.name.split(), list[str]()
    last: list[str] = []
    for param in one.params:
        text = wrong_text if param is wrong else _text(param)
        if param.is_argument:
            (last if text.startswith("-") else words).append(text)
        elif param is wrong or param.required:
            options += [param.option] if param.kind is FLAG else [f"{param.option}={text}"]
    return [*words, *options, *(["--", *last] if last else [])]


def _text(param: Param) -> str:
    if param.choices:
        return param.choices[0]
    example = param.kind.example
    return {"percent": "70", "length": "1d", "time": "+1d", "window": "2026-01-01"}.get(param.kind.name, str(example))


def test_answer_model_is_built_once_per_process() -> None:
    """To make all of them takes most of a server's start."""
    for one in ACTIONS.values():
        assert answer_model(one.result, one.name) is answer_model(one.result, one.name)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_command_invalid_value_is_refused_by_option(
    database_url: str, house: House, capsys: pytest.CaptureFixture[str]
) -> None:
    for one in DECLARED:
        if one.by_hand:
            continue
        for param, text, _ in wrongs(one):
            words = words_of(one, param, text)
            assert run(["--database-url", database_url, "--json", "--at", "2026-01-02", *words]) == 2, words
            out, err = capsys.readouterr()
            assert param.option in err and "Traceback" not in err, (words, err)
            assert json.loads(out)["code"] == "bad_value", (words, out)


def test_form_invalid_value_is_refused_by_field() -> None:
    doing = Doing(Person("ann", "admin"), By(T0, "console:ann", "a test", "console"), {}, "key")
    for action in ACTIONS.values():
        form, given = form_of(action), {param.word: _text(param) for param in action.params}
        for param, text, _ in wrongs(action):
            with pytest.raises(WrongField) as refusal:
                form.command(Doing(doing.person, doing.by, given | {param.word: text}, "key"))
            assert (refusal.value.field, refusal.value.code) == (param.word, "bad_value"), (action.name, text)


def test_http_invalid_or_missing_or_unknown_field_is_refused_by_name(lone: House) -> None:
    """With the code of the other faces, and so is what is needed and not there, and what is not known."""
    make_key(lone, "app", *WRITERS)

    async def work(caller: Caller) -> None:
        program = Program(caller, key_of("app"))
        for one in DECLARED:
            rest = [param for param in one.params if f"{{{param.field}}}" not in one.path]
            path = one.path
            for param in one.params:
                path = path.replace(f"{{{param.field}}}", "1" if param.kind.name == "number" else "acme")
            full = {
                param.field: [_json(param)] if param.many else _json(param)
                for param in rest
                if param.required and param.kind is not ORG
            }
            given: list[tuple[dict[str, object], str]] = [
                (full | {param.field: [value] if param.many else value}, param.field)
                for param, _, value in wrongs(one)
                if param in rest
            ]
            given += [({name: value for name, value in full.items() if name != left}, left) for left in full]
            given.append((full | {"nobody": 1}, "nobody"))
            for values, field in given:
                answer = await _ask(program, one, path, values)
                assert refused(answer) == (422, "bad_value"), (one.name, values, answer.text)
                assert "details" in answer.json()["error"], (one.name, values, answer.text)
                at = {wrong["at"].partition(".")[0] for wrong in answer.json()["error"]["details"]["wrong"]}
                assert field in at, (one.name, field, answer.text)

    served(lone, work)


NEAR: Final[list[tuple[str, str]]] = [
    ("credits", "1.50"), ("credits", "2"), ("credits", "0.000001"), ("credits", "NaN"), ("credits", "1e2"),
    ("credits_or_none", "none"), ("credits_or_none", "3.5"), ("credits_or_none", "None"),
    ("units", "none"), ("units", "7"), ("units", "7.0"), ("units", "None"),
    ("number", "5"), ("number", "5.0"), ("number", "1_0"), ("number", "٣"), ("number", "five"),
    ("choice", "low"), ("choice", "Low"), ("org_id", "acme"), ("org_id", "Acme"), ("key", "grant:1"),
    ("text", "a text"), ("time_ms", "1767225600000"), ("time_ms", "1767225600000.0"), ("window_ms", "1767225600000"),
]  # fmt: skip
"""Values of a query that differ in case or in type from those that can be taken."""


@dataclass(frozen=True)
class Taken:
    """The values that a probe was given."""

    values: str


def _probe(
    connection: sa.Connection,
    look: Look,
    *,
    credits_micro: Annotated[int | None, CREDITS, "Credits"] = None,
    credits_or_none_micro: Annotated[int | None, CREDITS_OR_NONE, "Credits, or none"] = None,
    units: Annotated[int | None, UNITS, "Base units"] = 5,
    number: Annotated[int | None, whole(0, 100), "A number"] = None,
    choice: Annotated[Literal["low", "owed"] | None, "A choice"] = None,
    org_id: Annotated[str | None, ORG, "An organisation"] = None,
    key: Annotated[str, KEY, "A key"] = "",
    text: Annotated[str, TEXT, "A text"] = "",
    time_ms: Annotated[int | None, TIME, "A moment"] = None,
    window_ms: Annotated[int | None, WINDOW, "A window"] = None,
) -> Page[Taken]:
    given = locals()
    return Page([Taken(repr({param.name: given[param.name] for param in PROBE.params}))])


PROBE: Final = Listing("probe list", "Probe", "List a probe.", _probe, ["values"], "rows", "/v1/probes", "orgs:read")


def test_http_query_value_is_parsed_as_command_option(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("drawdown.server.app.DECLARED", [PROBE])
    house = House(engine)
    make_key(house, "app", *WRITERS)
    params = {param.field: param for param in PROBE.params}

    async def work(caller: Caller) -> None:
        program = Program(caller, key_of("app"))
        for field, text in NEAR:
            path = f"/v1/probes?{urlencode({field: text})}"
            answer = await caller.client.get(path, headers=program.headers())  # no route of /openapi.json
            try:
                values = of_texts(PROBE.params, {params[field].name: text}, T0)
            except WrongField as error:
                assert refused(answer) == (422, "bad_value") and error.field == field, (field, text, answer.text)
            else:
                assert answer.status_code == 200, (field, text, answer.text)
                assert answer.json()["rows"] == [{"values": repr(values)}], (field, text)

    served(house, work)


async def _ask(program: Program, one: Declared, path: str, values: dict[str, object]) -> Any:
    if isinstance(one, Action):
        return await send(program, path, values)
    query = [(name, each) for name, value in values.items() for each in (value if isinstance(value, list) else [value])]
    return await program.get(f"{path[3:]}?{urlencode(query)}")


def _json(param: Param) -> object:
    return param.choices[0] if param.choices else param.kind.example


async def send(program: Program, path: str, body: object, **headers: str) -> Any:
    return await program.caller.send("POST", path, json.dumps(body).encode(), program.headers(**headers))


@pytest.fixture
def shop(lone: House) -> House:
    """A supplier with one settlement of 4.2 credits."""
    engine, by = lone.fleet.engine, lone.fleet.by
    make_key(lone, "app", *WRITERS, "executions:write", "executions:read")
    make_key(lone, "bound", *WRITERS, org="acme")
    write(engine, lambda c: credit.grant(c, "acme", 100 * MICRO, by, key="first", plan=None, new=True))
    write(engine, lambda c: settlements.set_supplier(c, "pixel", TERMS, by, new=True))
    return lone


async def render(program: Program) -> None:
    assert (await program.accept("e-1", supplier="pixel")).status_code == 200
    assert (await program.post("/e-1/settle", {"actual": 6})).status_code == 200


def test_http_dry_run_shows_effect_and_does_not_change_database(shop: House) -> None:
    async def work(caller: Caller) -> None:
        program = Program(caller, key_of("app"))
        before = shop.fleet.rows("SELECT COUNT(*) FROM operator_actions")
        path = "/v1/suppliers/pixel/freeze"
        said = (await send(program, path, {"dry_run": True}, **{"idempotency-key": "one"})).json()
        assert said["dry_run"] is True and said["changed"] is True
        assert {"name": "Releases", "before": "open", "after": "frozen"} in said["facts"]
        assert shop.fleet.rows("SELECT COUNT(*) FROM operator_actions") == before
        done = (await send(program, path, {}, **{"idempotency-key": "one"})).json()
        assert done["changed"] is True, "a dry run uses no Idempotency-Key up"

    served(shop, work)


def test_http_action_with_repeated_idempotency_key_runs_once(shop: House) -> None:
    async def work(caller: Caller) -> None:
        program = Program(caller, key_of("app"))
        await render(program)
        path, body = "/v1/settlements/e-1/reverse", {"amount": 0.5, "reason": "black"}
        key = {"idempotency-key": "t-1"}
        answers = await asyncio.gather(*(send(program, path, body, **key) for _ in range(8)))
        assert len({answer.text for answer in answers}) == 1 and answers[0].json()["amount_micro"] == 500_000
        assert shop.fleet.rows("SELECT COUNT(*) FROM settlement_reversals") == [(1,)]
        assert refused(await send(program, path, {**body, "amount": 1}, **key)) == (409, "other_content")
        assert refused(await send(program, "/v1/suppliers/pixel/freeze", {}, **key)) == (409, "other_content")
        assert (await send(program, path, body)).json()["repeated"] is False, "without a key each is one of its own"
        long = {"idempotency-key": "x" * 201}
        assert refused(await send(program, path, body, **long)) == (400, "bad_request")

    served(shop, work)


def test_repeated_key_with_other_content_is_a_conflict_for_every_action(lone: House) -> None:
    """Whatever the action is, and before anything of it is done."""
    make_key(lone, "app", *WRITERS, gives_micro=MAX_AMOUNT_MICRO)

    def done_before(connection: sa.Connection) -> None:
        for one in ACTIONS.values():
            call = Call("key:app", one.slug, one.name, "other values")
            assert claim_call(connection, call, lone.clock.at_ms) is None
            keep_call(connection, call, "{}")

    write(lone.fleet.engine, done_before)

    async def work(caller: Caller) -> None:
        program = Program(caller, key_of("app"))
        for one in ACTIONS.values():
            path = one.path
            for param in one.params:
                path = path.replace(f"{{{param.field}}}", "1" if param.kind.name == "number" else "acme")
            body = {
                param.field: [_json(param)] if param.many else _json(param)
                for param in one.params
                if param.required and f"{{{param.field}}}" not in one.path
            }
            answer = await send(program, path, body, **{"idempotency-key": one.slug})
            assert refused(answer) == (409, "other_content"), (one.name, body, answer.text)

    served(lone, work)


@dataclass(frozen=True)
class Painted:
    colour: str


def _paint(_connection: sa.Connection, _asked: Invocation, wall: Annotated[str, TEXT, "Wall"]) -> Painted:
    return Painted(wall)


def _paint_later(
    _connection: sa.Connection,
    _asked: Invocation,
    wall: Annotated[str, TEXT, "Wall"],
    *,
    colour: Annotated[str, TEXT, "Colour"] = "white",
) -> Painted:
    return Painted(wall + colour)


def test_http_call_repeated_after_parameter_was_added_is_repeated(shop: House) -> None:
    before, after = (
        Action("wall paint", "Paint", "Paint.", do, str, path="/v1/walls/{wall}", scope="hooks:write")
        for do in (_paint, _paint_later)
    )
    first = call_of(before, "key:app", "k-1", {"wall": "north"}, "ticket")

    def work(connection: sa.Connection) -> None:
        assert claim_call(connection, first, T0) is None
        keep_call(connection, first, "painted")
        values = {"wall": "north", "colour": "white"}
        assert claim_call(connection, call_of(after, "key:app", "k-1", values, "ticket"), T0) == "painted"
        with pytest.raises(OtherContent):
            claim_call(connection, call_of(after, "key:app", "k-1", {**values, "colour": "red"}, "ticket"), T0)

    write(shop.fleet.engine, work)


def test_payout_by_concurrent_form_and_calls_is_made_once(shop: House) -> None:
    """They have no key in common: the deed itself is what happens once."""
    make_key(shop, "payer", "settlements:write", gives_micro=100 * MICRO)
    form, by = form_of(ACTIONS["settlement payout"]), By(shop.clock.at_ms, "console:ann", "a test", "console")
    doing = Doing(Person("ann", "admin"), by, {"supplier": "pixel", "expect": "4.2", "period": "2026-01"}, "form")

    def send_form() -> str:
        try:
            return write(shop.fleet.engine, lambda connection: form.do(connection, doing)).effect
        except DrawdownError as error:
            return error.code

    async def work(caller: Caller) -> None:
        await render(Program(caller, key_of("app")))
        path, body = "/v1/suppliers/pixel/payout", {"expect": 4.2, "period": "2026-01"}
        payer = Program(caller, key_of("payer"))
        calls = (send(payer, path, body, **{"idempotency-key": f"k-{n}"}) for n in range(4))
        forms = (asyncio.to_thread(send_form) for _ in range(4))
        answers = await asyncio.gather(*calls, *forms)
        paid = [one for one in answers[:4] if one.status_code == 200 and not one.json()["repeated"]]
        assert len(paid) <= 1, [one.text for one in answers[:4]]
        assert shop.fleet.rows("SELECT COUNT(*), SUM(total_micro) FROM payouts") == [(1, 4_200_000)]

    served(shop, work)


def test_payout_above_grant_limit_of_key_is_refused(shop: House) -> None:
    make_key(shop, "payer", "settlements:write", gives_micro=4 * MICRO)

    async def work(caller: Caller) -> None:
        app, payer = Program(caller, key_of("app")), Program(caller, key_of("payer"))
        await render(app)
        path, body = "/v1/suppliers/pixel/payout", {"expect": 4.2, "period": "2026-01"}
        assert refused(await send(app, path, body)) == (403, "grant_limit")
        assert refused(await send(payer, path, body)) == (403, "grant_limit")
        await send(app, "/v1/settlements/e-1/reverse", {"amount": 1})
        assert (await send(payer, path, {"expect": 3.2, "period": "2026-01"})).json()["total_micro"] == 3_200_000

    served(shop, work)


def test_bound_key_on_operations_without_org_is_refused(shop: House) -> None:
    async def work(caller: Caller) -> None:
        bound = Program(caller, key_of("bound"))
        for one in DECLARED:
            path = one.path
            for param in one.params:
                path = path.replace(f"{{{param.field}}}", "1" if param.kind.name == "number" else "globex")
            if isinstance(one, Action):
                body = {p.field: [_json(p)] if p.many else _json(p) for p in one.params
                        if p.required and f"{{{p.field}}}" not in one.path}  # fmt: skip
                body |= {p.field: ["globex"] if p.many else "globex" for p in one.params if p.kind.name == "org"}
                body = {name: value for name, value in body.items() if f"{{{name}}}" not in one.path}
                assert refused(await send(bound, path, body)) == (403, "foreign_org"), one.name
            elif not one.open and not any(p.kind.name == "org" for p in one.params):
                assert refused(await bound.get(path[3:])) == (403, "foreign_org"), one.name

    served(shop, work)


def test_supplier_set_over_http_is_audited_and_read_by_command(shop: House) -> None:
    """The function is one: what HTTP did is on record as the command would have it."""

    async def work(caller: Caller) -> None:
        done = await send(Program(caller, key_of("app")), "/v1/suppliers/pixel", {"share_ppm": 600_000})
        assert done.json()["was"]["share_ppm"] == 700_000 and done.json()["changed"] is True

    served(shop, work)
    ((actor, _via, target),) = shop.fleet.rows(
        "SELECT actor, via, target FROM operator_actions WHERE action = 'supplier_set' AND via = 'http'"
    )
    assert (actor, target) == ("key:app", "pixel")
    action, asked = ACTIONS["supplier set"], Invocation(shop.fleet.by)
    facts = read(shop.fleet.engine, lambda c: action.facts(c, asked, {"supplier": "pixel"}))
    assert facts[0].value == "60 %"


def test_error_message_over_http_names_endpoints_instead_of_commands(shop: House) -> None:
    assert for_programs("there is none; `drawdown supplier list` shows those; --new takes it") == (
        "there is none; `GET /v1/suppliers` shows those; `new` takes it"
    )
    assert for_programs("give --expect CREDITS: `drawdown key rotate app`, or `drawdown tick`") == (
        "give `expect`: `POST /v1/keys/{name}/rotate`, or `drawdown tick` on the server"
    )
    assert for_programs("Run `drawdown execution block --org acme --undo`, or run `drawdown recover --restored`") == (
        "Call `POST /v1/orgs/{org_id}/block` with `undo`, or ask the operator to run `drawdown recover --restored`"
    )
    assert for_programs(
        "`drawdown key create --help` lists them; set DRAWDOWN_HOOK_SECRET; `drawdown ledger show`"
    ) == ("`/openapi.json` lists them; ask the operator to set DRAWDOWN_HOOK_SECRET; `GET /v1/wallets`")
    assert for_programs("a longer --hold, or --clawbacks") == "a longer `hold_ms`, or `clawbacks`"
    odd = "unknown organisation `drawdown  `"
    assert for_programs(odd) == odd, "an id of blanks after the name is not a command"
    names = [name for name in BY_NAME if not EXAMPLES.get(name)]
    assert names == [], "each has an example at the command line"

    async def work(caller: Caller) -> None:
        program = Program(caller, key_of("app"))
        told = (await send(program, "/v1/suppliers/pixle/freeze", {})).json()["error"]["message"]
        assert told == "unknown supplier pixle; did you mean pixel? `GET /v1/suppliers` lists all"

    served(shop, work)


def test_error_message_of_refused_call_names_fault(shop: House) -> None:
    refusals: list[tuple[str, object, int, str]] = [
        (
            "/v1/hooks/app", {"url": "https://a.example/", "event": []}, 422,
            "invalid body: event: unknown field; did you mean events? Fields: url, events, new, reason, dry_run",
        ),
        ("/v1/hooks/app", {"new": "yes", "events": []}, 422, "invalid body: url: required (and 1 more)"),
        ("/v1/hooks/app", [], 422, "invalid body: must be a JSON object"),
        (
            "/v1/orgs/acme/assign", {"provider": "embedded", "from_ms": 1}, 422,
            "invalid body: from_ms: must be a multiple of 300000, the start of a window",
        ),
        (
            "/v1/hooks/app/try", {"url": "https://a.example/", "new": True}, 404,
            "unknown path. `/openapi.json` lists all paths. Percent-encode ids in a path",
        ),
        ("/v1/hooks", {}, 405, "method not allowed. `/openapi.json` lists the methods of this path"),
    ]  # fmt: skip

    async def work(caller: Caller) -> None:
        for path, body, status, message in refusals:
            answer = await send(Program(caller, key_of("app")), path, body)
            assert (answer.status_code, answer.json()["error"]["message"]) == (status, message)

    served(shop, work)


def test_unknown_scope_is_reported_before_missing_permission(shop: House) -> None:
    async def work(caller: Caller) -> None:
        answer = await send(Program(caller, key_of("app")), "/v1/keys", {"name": "k", "scopes": ["events:writ"]})
        assert refused(answer) == (422, "unknown_scope")
        assert "did you mean events:write?" in answer.json()["error"]["message"]

    served(shop, work)


def test_http_action_with_doubtful_clock_is_refused(shop: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a command refuses it (S9): the last tick began an hour ahead of this server's clock."""
    columns = "worker, bucket_lo, bucket_hi, started_ms, finished_ms, exit_status"
    ahead = shop.clock.at_ms + 60 * MINUTE_MS
    shop.fleet.write(f"INSERT INTO ticks ({columns}) VALUES ('w', 0, 255, {ahead}, {ahead}, 0)")
    monkeypatch.setattr(shop.clock, "trusted", False)

    async def work(caller: Caller) -> None:
        program = Program(caller, key_of("app"))
        path = "/v1/suppliers/pixel/freeze"
        assert refused(await send(program, path, {})) == (503, "clock_doubted")
        assert shop.fleet.rows("SELECT COUNT(*) FROM settlement_freezes") == [(0,)]
        shop.clock.at_ms = ahead
        assert (await send(program, path, {})).json()["changed"] is True

    served(shop, work)


def test_created_api_key_secret_is_in_first_answer_only(shop: House) -> None:
    async def work(caller: Caller) -> None:
        program = Program(caller, key_of("app"))
        path, gone = "/v1/hooks/shop", {"url": "https://shop.example/in", "new": True, "dry_run": True}
        assert (await send(program, path, gone)).json()["secret"] is None, "nor in a dry run, which leaves no trace"
        order, once = {"name": "builds", "scopes": ["events:read"]}, {"idempotency-key": "k-1"}
        first = (await send(program, "/v1/keys", order, **once)).json()
        again = (await send(program, "/v1/keys", order, **once)).json()
        assert first["key"].startswith("ddk_") and again == {**first, "key": None}
        kept = repr(shop.fleet.rows("SELECT * FROM console_acts")) + repr(shop.fleet.rows("SELECT * FROM api_keys"))
        assert first["key"] not in kept
        assert refused(await send(program, "/v1/keys", {**order, "name": "none", "scopes": []})) == (422, "bad_value")
        beyond = {**order, "name": "more", "scopes": ["guard"]}
        assert refused(await send(program, "/v1/keys", beyond)) == (409, "refused"), "app does not have it"

    served(shop, work)


def test_idempotency_key_used_by_two_api_keys_is_independent(shop: House) -> None:
    """A grant that another program made under the same words is no repetition of this one."""
    assert Call("key:a", "b:c", "", "").own != Call("key:a:b", "c", "", "").own
    for name in ("one", "two"):
        make_key(shop, name, "ledger:write", gives_micro=10 * MICRO)

    async def work(caller: Caller) -> None:
        for name in ("one", "two"):
            program, order = Program(caller, key_of(name)), {"amount": 5, "kind": "bonus"}
            for again in (False, True):
                done = await send(program, "/v1/wallets/acme/grants", order, **{"idempotency-key": "1"})
                assert done.json()["repeated"] is False, (name, again, done.text)
        assert (await Program(caller, key_of("app")).get("/balance/acme")).json()["balance_micro"] == 110 * MICRO

    served(shop, work)


def test_unbounded_action_by_key_with_grant_limit_is_refused(shop: House) -> None:
    """Nor in a roundabout way: a halt that stays off for longer, a move to a biller that is taken back, a lower price,
    another one's wallet, a limit without an end."""
    scopes = ("orgs:write", "guard:write")
    make_key(shop, "small", *scopes, gives_micro=MICRO)
    make_key(shop, "free", *scopes, gives_micro=MAX_AMOUNT_MICRO)
    engine, by = shop.fleet.engine, shop.fleet.by
    shop.fleet.assign("acme")
    soon, later = T0 + DAY_MS, T0 + 9 * DAY_MS
    write(engine, lambda c: orgs.override(c, "acme", by, halted=False, until_ms=soon))
    write(engine, lambda c: guard_terms.set_metric(c, "idea", guard_terms.Change(price_micro=5), by, new=True))
    asked: list[tuple[str, dict[str, object]]] = [
        ("/v1/orgs/acme/override", {"until_ms": later}),
        ("/v1/metrics/idea", {"credits": 0.000001}),
        ("/v1/metrics/idea", {"payer": "wayne"}),
        ("/v1/metrics/idea/limits", {"amount": None}),
    ]

    async def work(caller: Caller) -> None:
        for path, order in asked:
            answer = await send(Program(caller, key_of("small")), path, order | {"dry_run": True})
            assert refused(answer) == (403, "grant_limit"), (path, order, answer.text)
            answer = await send(Program(caller, key_of("free")), path, order | {"dry_run": True})
            assert answer.status_code != 403, (path, order, answer.text)
        priced = await send(Program(caller, key_of("small")), "/v1/metrics/idea", {"credits": 0.00001})
        assert priced.status_code == 200, priced.text

    served(shop, work)
