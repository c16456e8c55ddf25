"""What on call looks at: each page's figures are those of the command line, whatever stands in the address."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from contextlib import redirect_stdout
from html import unescape
from typing import Any, Final
from urllib.parse import parse_qs, urlencode

import httpx
import pytest
import sqlalchemy as sa

from drawdown.cli.main import run
from drawdown.providers.protocol import HOUR_MS
from drawdown.schema.database import read, write
from drawdown.schema.pending import REASONS
from drawdown.schema.push_states import OPEN
from drawdown.schema.units import DAY_MS, MICRO, WINDOW_MS
from drawdown.server.console.frame import figures
from drawdown.server.console.frame.templates import command
from drawdown.server.console.screens.oncall import cells_of
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.lists import RunFilter, list_runs
from drawdown.worker.executions.request import Request
from drawdown.worker.halts import cells
from drawdown.worker.halts import lists as halt_list
from drawdown.worker.orgs import actions as orgs
from drawdown.worker.orgs.assignments import assign
from drawdown.worker.provider import actions as providers
from drawdown.worker.push import lists as pushes
from drawdown.worker.push.lists import PushFilter, list_pushes
from tests.server.console_home import Home, says
from tests.server.lived import lived
from tests.server.test_console_budget import MOST_STATEMENTS, statements
from tests.world import T0

ODD: Final = "<b>&\"'/../?x=1#:r1:9"
"""An id that looks like a part of a push's key."""


class Night(Home):
    """Something of everything that waits: two cells, one of which is away; pushes in each state."""

    def __init__(self, engine: sa.Engine) -> None:
        super().__init__(engine)
        fleet = self.fleet
        for cell in ("cell-1", "cell-2"):
            write(engine, lambda c, cell=cell: cells.set_cell(c, cell, f"http://{cell}:80", fleet.by, new=True))  # type: ignore[misc]
        for box, org, cell in (("a", "acme", "cell-1"), ("b", ODD, "cell-2"), ("c", "nobody", "cell-3")):
            values = {"box": box, "org": org, "cell": cell}
            fleet.write(
                "INSERT INTO sandboxes (sandbox_id, org_id, cell_id, state) VALUES (:box, :org, :cell, 'running')",
                values,
            )
        fleet.assign(ODD, from_ms=T0)
        fleet.sample("nobody", self.now, 60)
        fleet.sample("acme", self.now, 60, 3)
        for org in ("acme", ODD):
            fleet.sample(org, self.now, 120, sandbox=ODD)
        fleet.sample("acme", T0 // 1000, 60, sample_id=ODD)
        fleet.cells.failing.add("cell-1")
        run = Request("acme", 2 * MICRO, project="site")
        write(engine, lambda c: executions.accept(c, "run-1", run, fleet.by))
        write(engine, lambda c: providers.pause(c, "embedded", fleet.by))
        write(engine, lambda c: orgs.halt(c, ["acme", ODD], fleet.by))
        fleet.tick_windows(3)
        self.now = fleet.clock.at_ms

    def rows(self, path: str, table: int = 0, **query: object) -> list[list[str]]:
        """The cells of one of a page's tables, as people read them."""
        return tables(self.page(path, **query))[table]

    def page(self, path: str, **query: object) -> str:
        (answer,) = self.get(f"{path}?{urlencode(query)}" if query else path)
        assert answer.status_code == 200, answer.text[-800:]
        return answer.text

    def lines(self, path: str, **query: object) -> list[str]:
        async def work(client: httpx.AsyncClient, _: Any) -> list[str]:
            cookie = {"cookie": f"__Host-drawdown-console={7:043}"}
            answer = await client.get(f"{path}.csv?{urlencode(query)}", headers=cookie)
            assert answer.status_code == 200
            return answer.text.splitlines()

        return self.ask(work)


def tables(page: str) -> list[list[list[str]]]:
    """The bodies of a page's tables, one after another, without what may be done with a row."""
    page = re.sub(r'<a class="whole".*?</a>', "", page)
    return [
        [
            [unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in re.findall(r"<td.*?</td>", row, re.DOTALL)]
            for row in re.findall(r"<tr.*?</tr>", body, re.DOTALL)
        ]
        for body in re.findall(r"<tbody>(.*?)</tbody>", page, re.DOTALL)
    ]


def tiles(page: str) -> Mapping[str, str]:
    named = re.sub(r'<span class="name"><a[^>]*>([^<]+)</a>', r'<span class="name">\1', page)
    found = re.findall(r'<span class="name">([^<]+)</span><span class="figure">([^<]+)</span>', named)
    return {name: unescape(figure) for name, figure in found}


@pytest.fixture
def night(engine: sa.Engine) -> Night:
    return lived(engine, Night)


def told(night: Night, words: str, *more: str) -> Any:
    """What a command prints as JSON, at the moment that pages are looked at."""
    url = night.engine.url.render_as_string(hide_password=False).replace("+psycopg", "")
    printed = io.StringIO()
    with redirect_stdout(printed):
        assert run(["--database-url", url, "--at", str(night.now), "--json", *words.split(), *more]) == 0
    return json.loads(printed.getvalue())


def keys_on(page: str) -> list[str]:
    """The keys of the pushes that a page lists, in its order."""
    return [parse_qs(unescape(query))["key"][0] for query in re.findall(r'href="/console/push\?([^"]+)"', page)]


def test_pushes_page_equals_command_line_figures(night: Night) -> None:
    page = night.page("/console/pushes")
    found = told(night, "push list")
    assert keys_on(page) == [one["key"] for one in found["pushes"]]
    sums = told(night, "push sums")["sums"]
    assert tiles(page)["Due"] == str(sum(one["pushes"] for one in sums)) == "2"
    assert sum(int(row[4]) for row in tables(page)[1]) == sum(one["quantity"] for one in sums)
    lines = night.lines("/console/pushes")
    assert len(lines) == 3 and any('"<b>&""' in line for line in lines)
    assert night.rows("/console/pushes", -1, state="accepted")[0][3:5] == ["60", "60"]
    assert [row[1] for row in night.rows("/console/pushes", -1, org=ODD)] == [ODD]
    assert night.rows("/console/pushes", 0, feature="compute_1gb", provider="embedded")
    late = {"state": "any", "from": "2026-01-01T00:10", "to": "2026-01-01T00:20"}
    assert {row[0] for row in night.rows("/console/pushes", -1, **late)} == {"2026-01-01 00:15"}


def wait_variously(night: Night) -> None:
    """Six pushes of acme are open, in other states and for other reasons."""
    for n in range(6):
        night.fleet.sample("acme", T0 + n * WINDOW_MS + 9, 60)
    night.fleet.tick_windows(1)
    said = [
        ("due", "503"), ("rejected", "no <b>"), ("in_doubt", "503"), ("due", None), ("in_doubt", "503"), ("due", "503"),
    ]  # fmt: skip
    for n, (state, error) in enumerate(said):
        night.fleet.write(
            "UPDATE pushes SET state = :state, last_error = :error, due_at_ms = :due WHERE org_id = 'acme' "
            "AND window_ms = (SELECT MIN(window_ms) + :ms FROM pushes) AND revision = "
            "(SELECT MAX(revision) FROM pushes x WHERE x.org_id = pushes.org_id AND x.window_ms = pushes.window_ms)",
            {"state": state, "error": error, "due": night.now + 9 - n, "ms": n * WINDOW_MS},
        )
    night.now = night.fleet.clock.at_ms


FILTERS_OF_BOTH: Final[tuple[dict[str, str], ...]] = (
    {}, {"state": "any"}, {"state": "due"}, {"state": "rejected"}, {"state": "accepted"}, {"org": "acme"},
    {"state": "any", "org": ODD}, {"provider": "embedded", "feature": "compute_1gb"}, {"why": "503"},
    {"state": "in_doubt", "why": "503"}, {"why": pushes.NO_ERROR}, {"from": "2026-01-01T00:10"},
    {"state": "any", "to": "2026-01-01T00:20"}, {"state": "any", "why": "no <b>"},
)  # fmt: skip


def test_command_line_and_console_list_same_pushes_in_same_order(night: Night) -> None:
    wait_variously(night)
    seen = set()
    for chosen in FILTERS_OF_BOTH:
        page = night.page("/console/pushes", **chosen)
        options = [word for name, value in chosen.items() for word in (f"--{name}", value)]
        found = told(night, "push list", *options)
        listed = [one["key"] for one in found["pushes"]]
        assert listed == keys_on(page) and listed, chosen
        assert unescape(re.sub(r"<[^>]+>", "", page)).count(command("push", "list", *options)), chosen
        seen.add(tuple(listed))
        paged: list[str] = []
        after: list[str] | None = []
        while after is not None:
            some = told(night, "push list --most 2", *options, *after)
            paged += [one["key"] for one in some["pushes"]]
            after = None if some["next"] is None else ["--after", some["next"]]
        assert paged == listed, chosen
        if chosen.get("state", "open") in ("open", *OPEN):
            sums = told(night, "push sums", *options)["sums"]
            assert sum(one["pushes"] for one in sums) == len(listed), chosen
            assert sum(one["quantity"] for one in sums) == sum(one["sent_qty"] for one in found["pushes"])
    assert len(seen) > 8, "filters that find the same prove little"


def test_providers_page_counts_equal_command_line(night: Night) -> None:
    wait_variously(night)
    night.fleet.assign("later", from_ms=T0 + DAY_MS)
    write(night.engine, lambda c: assign(c, ["bare"], "embedded", night.fleet.by, customer_id="", from_ms=T0))
    shown = {row[0]: row for row in night.rows("/console/providers")}
    found = {one["provider"]: one for one in told(night, "provider list")["providers"]}
    names = {"provider", "state", "why", "orgs", "without_customer", "open_pushes", "oldest_ms"}
    assert set(found["embedded"]) == names
    counted = [found["embedded"][name] for name in ("orgs", "without_customer", "open_pushes")]
    assert counted == [3, 1, 8] and list(shown) == ["embedded"]
    assert shown["embedded"][2] == "31 without a customer"
    assert [int(cell) for cell in shown["embedded"][3:7]] == [5, 0, 2, 1]
    assert {name for name, one in found.items() if one["orgs"] or one["open_pushes"]} == {"embedded"}


def test_pushes_page_lists_in_doubt_first_and_links_each_reason(night: Night) -> None:
    wait_variously(night)
    page = night.page("/console/pushes")
    listed = tables(page)[-1]
    states = [row[6] for row in listed]
    assert states == sorted(states, key=["in doubt", "rejected", "due"].index) and states[0] == "in doubt"
    people = [row[0] for row in listed if row[6] == "in doubt"]
    assert people == sorted(people) and "In doubt first, then rejected" in page
    assert [row[7] for row in listed if row[6] == "due"] == sorted(row[7] for row in listed if row[6] == "due")
    why = tables(page)[0]
    assert [row[:2] for row in why][:2] == [["in doubt", "503"], ["rejected", "no <b>"]]
    assert {row[1] for row in why[2:]} == {"503", pushes.NO_ERROR} and sum(int(row[3]) for row in why) == len(listed)
    for row, link in zip(why, re.findall(r'href="([^"]+why=[^"]+)"', page), strict=True):
        (answer,) = night.get(unescape(link))
        assert [one[6:7] for one in tables(answer.text)[-1]] == [row[:1]] * int(row[3]), row
    for most in (1, 2, 3, 4):
        after: str | None = ""
        found: list[str] = []
        while after is not None:
            some = read(night.engine, lambda c, a=after, m=most: list_pushes(c, PushFilter(), night.now, a, m))  # type: ignore[misc]
            found += [figures.time(one.window_ms) for one in some.lines]
            assert some.lines, "no page that holds nothing"
            after = some.next_after
        assert found == [row[0] for row in listed]


def test_push_page_shows_samples_attempts_entries_and_notified_cells(night: Night) -> None:
    (key,) = [one.key for one in read(night.engine, lambda c: list_pushes(c, PushFilter("accepted"), night.now).lines)]
    page = night.page("/console/push", key=key)
    attempts, entries, samples, verdicts, told = tables(page)
    assert samples[0][1:5] == ["box", "1,024", "60", "cell-1"]
    assert attempts[0][3] == "accepted" and entries[0][2:4] == ["wallet:acme", "revenue:compute_1gb"]
    assert verdicts[-1][1:3] == ["halted", "operator"]
    assert "Verdicts at settlement and after" in page, "it may be of long before"
    assert [row[1:3] for row in told] == [["cell-1", "due"]]
    (paid,) = night.fleet.rows("SELECT amount_micro FROM ledger_entries WHERE key = :key", key=key)
    assert tiles(page)["Price"] == figures.credits(int(str(paid[0]))) != figures.UNKNOWN
    assert "credits, for 60 at 0.10 for 1,000" in page, "by the rate that it was charged at"
    assert tiles(page)["Sealed"] == "60" and "drawdown push show" in page
    odd = night.page("/console/push", key=f"usage:{ODD}:{T0 + 3 * WINDOW_MS}:compute_1gb")
    assert unescape(odd).count(ODD) >= 3 and "<b>&" not in odd
    assert [row[1] for row in tables(odd)[-1]] == ["cell-2"], "it was not settled yet: the verdict after its seal"


def test_push_page_consecutive_equal_attempts_are_merged(night: Night) -> None:
    key = f"usage:acme:{T0 + 3 * WINDOW_MS}:compute_1gb"
    said = [(1, "unknown", "no answer in 10 s"), (2, "unknown", "no answer in 9 s"), (3, "retry", "503")]
    for attempt, outcome, detail in said:
        night.fleet.write(
            "INSERT INTO attempts (window_ms, org_id, feature, revision, attempt, started_ms, finished_ms, owner, "
            "outcome, detail, sent_qty) VALUES (:window, 'acme', 'compute_1gb', 0, :attempt, :at, :ended, 'w', "
            ":outcome, :detail, 1)",
            {
                "window": T0 + 3 * WINDOW_MS,
                "attempt": attempt,
                "at": night.now,
                "ended": night.now + attempt,
                "outcome": outcome,
                "detail": detail,
            },
        )
    page = night.page("/console/push", key=key)
    sends = [[row[0], *row[2:]] for row in tables(page)[0]]
    assert sends == [["1 to 2", "2", "unknown", "no answer in 9 s"], ["3", "3", "retry", "503"]]
    assert tiles(page)["Price"] == figures.UNKNOWN, "it is not charged yet"


def test_pending_page_shows_reason_and_fix_command(night: Night) -> None:
    page = night.page("/console/pending")
    by_reason, by_org, unmapped, quarantined = tables(page)
    assert [row[0] for row in by_reason] == [
        REASONS["no_mapping"].what, REASONS["unknown_org"].what, "quarantined: ts before 2000",
    ]  # fmt: skip
    assert (
        by_reason[1][4] == "drawdown org assign --unassigned --provider NAME --from TIME --dry-run"
        and by_reason[2][1] == "1 sample"
    )
    assert [(row[0], row[2]) for row in by_org] == [("acme", "60"), ("nobody", "60")]
    assert unmapped[0][0] == "3 MB" and quarantined[0][0] == ODD
    assert tiles(page)["Seconds pending"] == "120" and tiles(page)["Quarantined"] == "1"
    assert [row[0] for row in night.rows("/console/pending", 1, reason="unknown_org")] == ["nobody"]


def test_executions_page_shows_reserved_credit_and_expiry(night: Night) -> None:
    listed, drawing, one = night.get(
        "/console/executions", "/console/executions?phase=drawing", "/console/execution?key=run-1"
    )
    runs_, holders = tables(listed.text)
    assert runs_[0][1:8] == ["run-1", "acme", "acme", "waiting", "2.00", "0.00", "2.00"]
    assert holders[0][:3] == ["acme", "1", "2.00"] and tiles(listed.text)["Held"] == "2.00"
    assert tables(drawing.text) == [holders], "it drew nothing yet"
    assert tiles(one.text)["State"] == "held" and "site" in one.text and "No draw exists yet." in one.text
    night.fleet.clock.at_ms += DAY_MS // 12
    over, *others = night.get(*(f"/console/executions{query}" for query in ("", *OVER)))
    assert tiles(over.text)["Expired, not released"] == "1"
    assert [[row[1] for row in tables(answer.text)[0]] for answer in others] == [["run-1"]] * len(OVER)
    head, line, *_ = night.lines("/console/executions", state="any")
    assert line.startswith('"run-1","acme","acme","site"') and runs_[0][9] == "receipt"
    named = dict(zip(head.replace('"', "").split(","), line.replace('"', "").split(","), strict=True))
    assert named["settled_by"] == "receipt", "what metering draws is no entry of the run"


def test_executions_page_reserved_sum_equals_filtered_rows(night: Night) -> None:
    """Tiles come to what the file of the same filter comes to."""
    night.fleet.write("UPDATE orgs SET is_halted = FALSE, halted_at = NULL, halt_reason = NULL WHERE org_id = 'acme'")
    more = Request("acme", 3 * MICRO, project="shop", for_ms=DAY_MS)
    write(night.engine, lambda c: executions.accept(c, "run-2", more, night.fleet.by))
    for query, held, number in (
        ({}, 5, 2), ({"org": "acme"}, 5, 2), ({"project": "shop"}, 3, 1), ({"phase": "drawing"}, 0, 0),
        ({"state": "settled"}, 0, 0), ({"state": "any", "payer": "acme"}, 5, 2), ({"older": "24h"}, 0, 0),
    ):  # fmt: skip
        said = tiles(night.page("/console/executions", **query))
        rows = [line.split(",") for line in night.lines("/console/executions", **query)[1:]]
        assert sum(float(row[-1].strip('"')) for row in rows) == held, query
        assert (said["Held"], said["Executions with reserved credit"]) == (f"{held}.00", str(number)), query
    night.fleet.clock.at_ms += DAY_MS // 12
    for query, over in (({}, "1"), ({"state": "expired"}, "1"), ({"project": "shop"}, "0")):
        assert tiles(night.page("/console/executions", **query))["Expired, not released"] == over, query
    page = night.page("/console/executions")
    assert tiles(page)["Executions with reserved credit"] == str(len(night.lines("/console/executions")) - 1) == "1"
    assert "drawdown execution list --state expired" in night.page("/console/executions", phase="over")


OVER: Final = (
    "?state=any",
    "?state=expired",
    "?state=any&org=acme",
    "?state=any&payer=acme",
    "?state=expired&org=acme",
)


def test_halts_page_shows_cell_notifications_and_acknowledgements(night: Night) -> None:
    page = night.page("/console/halts")
    due = night.rows("/console/halts", -1, state="due")
    assert [row[1:4] for row in due] == [["acme", "cell-1", "due"]] and tiles(page)["Due halts"] == "1"
    told = tables(page)[-1]
    assert {(row[1], row[2], row[3].split()[0]) for row in told} == {
        ("acme", "cell-1", "due"), (ODD, "cell-2", "acknowledged"),
    }  # fmt: skip
    assert len(night.rows("/console/halts", -1, state="any", cell="cell-2")) == 1
    cells_ = night.rows("/console/cells")
    assert [row[:4] for row in cells_] == [
        ["cell-3", "no URL", "1", "0"], ["cell-1", "http://cell-1:80", "1", "1"],
        ["cell-2", "http://cell-2:80", "1", "0"],
    ]  # fmt: skip
    assert len(night.lines("/console/halts", state="any")) == 3
    assert "act/lift?id=acme" in page
    night.fleet.write("UPDATE orgs SET operator_halt = FALSE WHERE org_id = 'acme'")
    assert "act/lift?id=acme" not in night.page("/console/halts"), "it is not halted by an operator"


def test_providers_and_ticks_pages_show_states(night: Night) -> None:
    page = night.page("/console/providers")
    states, calls, circuits, terms = tables(page)
    assert states[0][:5] == ["embedded", "paused", "2", "2", "0"] and states[0][8] == "a test"
    assert circuits[0][:3] == ["embedded", "answers", "0"] and circuits[0][3:5] == [figures.UNKNOWN] * 2
    assert calls[0][1:3] == ["1", "0"] and terms[0][0] == "embedded"
    (hour,) = night.rows("/console/ticks")
    assert hour[1:3] == ["2", "left work1 of them"], "the worst end, and how many others there were"
    one_by_one = night.page("/console/ticks", hour=night.now - night.now % HOUR_MS)
    assert [row[1] for row in tables(one_by_one)[0]] == ["left work", "all settled"]
    number = night.fleet.one("SELECT MAX(tick_id) FROM ticks")
    one = night.page("/console/tick", id=number)
    assert ["2", "due"] in tables(one)[-1] and ["sealed", "2", "pushes made from closed windows"] in tables(one)[0]
    assert night.page("/console/ticks", before=number).count("<tr>") == 2


def test_providers_page_shows_most_frequent_reason_of_open_pushes(night: Night) -> None:
    night.fleet.sample("acme", T0 + 9, 60)
    night.fleet.tick_windows(1)
    night.fleet.write("UPDATE provider_states SET paused_ms = NULL, paused_reason = NULL")
    for org, state, error in (("acme", "due", "503"), (ODD, "in_doubt", "said nothing")):
        said = {"org": org, "state": state, "error": error}
        night.fleet.write(
            "UPDATE pushes SET state = :state, last_error = :error WHERE org_id = :org AND state = 'due'", said
        )
    assert tables(night.page("/console/providers"))[0][0][8] == "2: 503and 1 other reason", "that of most"
    night.fleet.write("UPDATE pushes SET last_error = '503' WHERE state = 'in_doubt'")
    assert tables(night.page("/console/providers"))[0][0][8] == "3: 503", "one reason, whatever the state"


def test_providers_page_circuit_state_follows_recorded_attempts(night: Night) -> None:
    """A batch that fails counts once in a circuit, so that fewer sends than that open none; one that was answered after
    them closes it; half a minute later it is tried again."""
    sends = (
        "INSERT INTO attempts (window_ms, org_id, feature, revision, attempt, started_ms, owner, sent_qty, "
        "finished_ms, outcome) SELECT window_ms, org_id, feature, revision, :n, :at - 9, 'w', 60, :at, :outcome "
        "FROM pushes WHERE org_id = 'acme' AND window_ms = (SELECT MIN(window_ms) FROM pushes WHERE org_id = 'acme')"
    )

    def circuit() -> list[str]:
        return night.rows("/console/providers", 2)[0][:3]

    def send(n: int, ago_s: int, outcome: str | None) -> None:
        night.fleet.write(sends, {"n": n, "at": night.now - ago_s * 1_000, "outcome": outcome})

    for n in range(4):
        send(100 + n, 20 - n, "unknown" if n % 2 else "retry")
    send(110, 1, None)
    assert circuit() == ["embedded", "no response", "4"], "one that is under way has no answer yet, and none is missed"
    send(104, 10, "unknown")
    assert circuit() == ["embedded", "may be open", "5"]
    night.fleet.write("UPDATE attempts SET finished_ms = finished_ms - 30000 WHERE attempt BETWEEN 100 AND 104")
    assert circuit() == ["embedded", "no response", "5"], "its time is over: one call decides"
    send(105, 0, "rejected")
    assert circuit() == ["embedded", "answers", "0"], "a refusal is an answer"


def test_push_list_pages_contain_each_push_once(night: Night) -> None:
    """A page at a time, two rows each: every row once."""
    for n in range(5):
        night.fleet.sample("acme", T0 + n * WINDOW_MS + 9, 60)
        night.fleet.sample(ODD, T0 + n * WINDOW_MS + 9, 60)
    night.fleet.tick_windows(1)
    now = night.fleet.clock.at_ms

    def keys(connection: sa.Connection, chosen: PushFilter) -> list[str]:
        after: str | None = ""
        found: list[str] = []
        while after is not None:
            page = list_pushes(connection, chosen, now, after, 2)
            found += [one.key for one in page.lines]
            after = page.next_after
        return found

    night.fleet.write("UPDATE pushes SET state = 'rejected' WHERE org_id = 'acme' AND state = 'due'")
    everything = {str(key) for (key,) in night.fleet.rows("SELECT key FROM pushes")}
    open_ = {str(key) for (key,) in night.fleet.rows("SELECT key FROM pushes WHERE state IN ('due', 'rejected')")}
    of_odd = {key for key in everything if ODD in key}
    for chosen, wanted in (
        (PushFilter("any"), everything), (PushFilter(), open_), (PushFilter("rejected"), open_ - of_odd),
        (PushFilter("due"), of_odd), (PushFilter("any", org=ODD), of_odd), (PushFilter(org=ODD), of_odd),
        (PushFilter("accepted"), everything - open_), (PushFilter("any", feature="compute_1gb"), everything),
    ):  # fmt: skip
        for looked_at in (3, 5_000):
            look_at(looked_at)
            found = read(night.engine, lambda c, chosen=chosen: keys(c, chosen))  # type: ignore[misc]
            assert sorted(found) == sorted(wanted), (chosen, looked_at)
    look_at(5_000)


def look_at(rows: int) -> None:
    pushes.MOST_LOOKED_AT = rows  # type: ignore[misc]


def test_execution_and_halt_list_pages_contain_each_row_once(night: Night) -> None:
    night.fleet.write("UPDATE halts SET halted_at = halted_at + 1 WHERE org_id = 'acme'")
    for state, count in (("due", 1), ("any", 2)):
        wanted = halt_list.Chosen(state)
        told: list[halt_list.HaltLine] = []
        behind = ""
        while True:
            some = read(night.engine, lambda c, b=behind, w=wanted: halt_list.page(c, w, b, 1))  # type: ignore[misc]
            told += some.lines
            if some.next_after is None:
                break
            behind = some.next_after
        assert len({(one.org_id, one.cell_id) for one in told}) == len(told) == count
        if state == "any":
            times = [one.halted_at for one in told]
            assert times == sorted(times, reverse=True) and len(set(times)) == count, "the newest first"
    write(night.engine, lambda c: orgs.halt(c, ["acme"], night.fleet.by, undo=True))
    night.fleet.tick_windows(1)
    for n in range(5):
        run = Request("acme", MICRO // 10)
        write(night.engine, lambda c, n=n, run=run: executions.accept(c, f"more:{n}", run, night.fleet.by))  # type: ignore[misc]
    names = {"run-1", *(f"more:{n}" for n in range(5))}
    now = night.fleet.clock.at_ms
    for chosen in (RunFilter(("held",)), RunFilter(), RunFilter(org="acme"), RunFilter(payer="acme")):
        after: str | None = ""
        found: list[str] = []
        while after is not None:
            page = read(night.engine, lambda c, a=after, w=chosen: list_runs(c, w, now, a, 2))  # type: ignore[misc]
            found, after = found + [one.reservation for one in page.runs], page.next_after
        assert sorted(found) == sorted(names), chosen


NONSENSE: Final = [
    ("/console/pushes?state=nonsense", 400, "invalid state 'nonsense': expected open, due"),
    ("/console/pushes?from=someday", 400, "from: invalid time 'someday'"),
    ("/console/pushes?from=2026-01-02&to=2026-01-01", 400, "invalid range"),
    ("/console/pushes?org=acmee", 400, "did you mean acme?"),
    ("/console/pushes?after=1", 400, "Start at the first page"),
    ("/console/pushes?after=1:usage:acme:1:x", 400, "push"),
    ("/console/pushes?state=any&after=%00", 400, "invalid after: expected at most"),
    ("/console/pushes.csv?state=nonsense", 400, "invalid state 'nonsense': expected open"),
    ("/console/pushes.csv?org=acmee", 400, "did you mean acme?"),
    ("/console/pushes.csv?why=nonsense", 400, "open pushes do not wait for this reason"),
    ("/console/pushes?why=nonsense", 400, "open pushes do not wait for this reason"),
    ("/console/pushes?provider=embeddedd", 400, "did you mean embedded?"),
    ("/console/push", 400, "missing key in the address"),
    ("/console/push?key=nonsense", 404, "unknown push"),
    ("/console/push?key=" + "x" * 1001, 400, "expected a key of 1 to"),
    ("/console/pending?reason=x", 400, "invalid reason 'x': expected unknown_org"),
    ("/console/executions?state=held&phase=x", 400, "invalid phase 'x': expected"),
    (
        "/console/executions?state=settled&phase=over",
        400,
        "a phase applies only to the state 'held'",
    ),
    ("/console/executions?after=x", 400, "Start at the first page"),
    ("/console/executions?payer=acmee", 400, "did you mean acme?"),
    ("/console/execution?key=run-2", 404, "did you mean run-1?"),
    ("/console/halts?state=x", 400, "invalid state 'x': expected any"),
    ("/console/halts?after=1:2", 400, "Start at the first page"),
    ("/console/halts?cell=cell-4", 400, "unknown cell"),
    ("/console/tick?id=x", 400, "expected a whole number"),
    ("/console/tick?id=999", 404, "unknown tick 999"),
    ("/console/ticks?before=x", 400, "expected a whole number"),
    ("/console/backfill?key=june", 404, "unknown backfill"),
    ("/console/backfills?org=acmee", 400, "did you mean acme?"),
]


def test_oncall_pages_invalid_parameters_are_refused_with_message(night: Night) -> None:
    answers = night.get(*(place for place, _, _ in NONSENSE))
    for (place, status, said), answer in zip(NONSENSE, answers, strict=True):
        assert answer.status_code == status and says(answer.text, said), (place, answer.text[-600:])


FILTERED: Final = (
    "/console/pushes?state=accepted", "/console/pushes?state=rejected", "/console/pushes?org=acme", "/console/pushes",
    "/console/executions?state=any&payer=acme", "/console/halts?state=any&org=acme",
    "/console/pending?reason=unknown_org",
    f"/console/push?key=usage:acme:{T0}:compute_1gb",
)  # fmt: skip


def test_oncall_page_statement_count_is_independent_of_row_count(night: Night) -> None:
    few = statements(night, FILTERED)
    for n in range(60):
        night.fleet.sample(f"other-{n:02}", night.fleet.clock.at_ms, 60)
        night.fleet.sample("acme", night.fleet.clock.at_ms + n * WINDOW_MS, 60)
    night.fleet.tick_windows(62)
    many = statements(night, FILTERED)
    assert max(many.values()) <= MOST_STATEMENTS, many
    # Where there is something to price, the rates are read: the ledger's, and the providers'.
    assert all(count <= few[path] + 2 for path, count in many.items()), (few, many)


def test_halt_that_its_cell_ignored_is_shown_as_due() -> None:
    acknowledged = cells_of.answer_cell(T0, T0 + 2_000, None)
    assert (acknowledged.text, acknowledged.under) == ("acknowledged 2026-01-01 00:00", "after 2 s")
    assert cells_of.answer_cell(T0, T0 + 2_000, T0 + 60_000).text == cells_of.answer_cell(T0, None, T0).text == "due"
