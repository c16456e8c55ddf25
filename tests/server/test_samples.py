"""Samples over HTTP: what hosts observed, judged as a file's rows are."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest

from drawdown.events.cloudevents import EVENT, LINES
from drawdown.schema.database import write
from drawdown.schema.errors import UnknownId, UsageError
from drawdown.schema.units import DAY_MS, MAX_MEMORY_MB, WINDOW_MS
from drawdown.worker.access import keys as api_keys
from drawdown.worker.sources.samples.store import store_each
from drawdown.worker.usage import host_samples
from tests.server.house import Caller, House, served
from tests.server.intake import (
    SAMPLES,
    TIME,
    Sender,
    clean,
    close,
    prune_elsewhere,
    pruned_meanwhile,
    said,
    sample,
    sender,
)
from tests.server.program import give, key_of, refused
from tests.world import T0


@pytest.fixture
def fleet(house: House) -> House:
    """acme is billed for what its sandboxes use, in two cells."""
    house.clock.at_ms = T0 + 10_000
    give(house, "acme")
    house.fleet.write("INSERT INTO cells (cell_id, url) VALUES ('cell-1', 'http://one'), ('cell-2', 'http://two')")
    sender(house)
    return house


@pytest.mark.both_databases
def test_sample_sent_twice_is_billed_once_with_its_window(fleet: House) -> None:
    fleet.clock.at_ms = T0 + WINDOW_MS + 10_000

    async def work(caller: Caller) -> None:
        send = Sender(caller)
        here: Any = {"ts": T0 + WINDOW_MS + 1_000}
        assert await send.told(SAMPLES, sample(**here)) == [("accepted",)]
        assert await send.told(SAMPLES, [sample(**here), sample("s2", **here)], packed=True) == [
            ("duplicate",),
            ("accepted",),
        ]
        lines = b"\n".join(json.dumps(sample(one, **here)).encode() for one in ("s2", "s3", "s3"))
        assert await send.told(SAMPLES, lines, LINES) == [("duplicate",), ("accepted",), ("duplicate",)]
        other = await send.told(
            SAMPLES, [sample(interval_s=61, **here), sample("s4", interval_s=1, **here), sample(**here)]
        )
        assert other == [("conflict", "other_content"), ("accepted",), ("duplicate",)]
        text = (await caller.get("/metrics")).text
        assert 'drawdown_intake_items_total{kind="samples",status="accepted"} 4.0' in text

    served(fleet, work)
    fleet.fleet.tick(T0 + 3 * WINDOW_MS)
    assert fleet.fleet.rows("SELECT window_ms, feature, sealed_qty FROM pushes") == [
        (T0 + WINDOW_MS, "compute_1gb", 181)
    ]
    assert fleet.fleet.rows("SELECT sample_id, source FROM sample_conflicts") == [("s1", "http:app")]
    clean(fleet)


def test_sample_in_equivalent_notation_is_duplicate(fleet: House) -> None:
    async def work(caller: Caller) -> None:
        send = Sender(caller)
        assert (await send.told(SAMPLES, sample()))[0][0] in ("accepted", "pending")
        for changes in ({"ts": TIME}, {"ts": "2026-01-01T01:00:01.000999+01:00"}, {"memory_mb": "1024"},
                        {"memory_mb": 1024.0}, {"interval_s": "60"}, {"cpu_count": None}):  # fmt: skip
            assert await send.told(SAMPLES, sample(**changes)) == [("duplicate",)], changes
        assert await send.told(SAMPLES, sample("c", cpu_count=1.50)) != [("invalid",)]
        assert await send.told(SAMPLES, sample("c", cpu_count="1.5")) == [("duplicate",)]
        assert await send.told(SAMPLES, sample("c", cpu_count=1.6)) == [("conflict", "other_content")]

    served(fleet, work)


BAD: Final[list[tuple[Any, str, str]]] = [
    (3, "not_an_object", ""), (b'{"id": 1, "id": 1}', "duplicate_keys", ""), (b'{"id": Infinity}', "not_json", ""),
    (sample(x=1), "unknown_field", "x"), (sample(id="x" * 20_000), "too_large", ""),
    (sample(id=...), "id_missing", "id"), (sample(id=7), "bad_id", "id"), (sample(id="a\x00"), "bad_id", "id"),
    (sample(id="\ud800"), "bad_id", "id"), (sample(org_id=""), "bad_org_id", "org_id"),
    (sample(sandbox_id=None), "sandbox_id_missing", "sandbox_id"), (sample(cell_id=[]), "bad_cell_id", "cell_id"),
    (sample(org_id=...), "org_id_missing", "org_id"), (sample(cell_id=...), "cell_id_missing", "cell_id"),
    (sample(sandbox_id="\n"), "bad_sandbox_id", "sandbox_id"), (sample(id="event:1"), "reserved_id", "id"),
    (sample(memory_mb=...), "memory_missing", "memory_mb"),
    (sample(memory_mb=True), "memory_not_a_number", "memory_mb"),
    (sample(memory_mb=1.5), "memory_fractional", "memory_mb"),
    (sample(memory_mb=MAX_MEMORY_MB + 1), "memory_out_of_bounds", "memory_mb"),
    (sample(memory_mb=-1), "memory_out_of_bounds", "memory_mb"),
    (sample(memory_mb={}), "memory_not_a_number", "memory_mb"),
    (sample(interval_s=...), "interval_missing", "interval_s"),
    (sample(interval_s=0.5), "interval_fractional", "interval_s"),
    (sample(interval_s="long"), "interval_not_a_number", "interval_s"),
    (sample(interval_s=-1), "interval_negative", "interval_s"),
    (sample(interval_s=86_401), "interval_over_a_day", "interval_s"),
    (b'{"id": "n", "interval_s": 1e999999}', "org_id_missing", "org_id"),
    (json.dumps(sample()).replace("60", "1e999999").encode(), "interval_over_a_day", "interval_s"),
    (sample(cpu_count="many"), "cpu_not_a_number", "cpu_count"),
    (sample(cpu_count=10**6), "cpu_out_of_bounds", "cpu_count"),
    (sample(ts=...), "ts_missing", "ts"), (sample(ts="yesterday"), "ts_unreadable", "ts"),
    (sample(ts=1.5), "ts_unreadable", "ts"),
    (sample(ts="2026-01-01T00:00:01"), "ts_unreadable", "ts"), (sample(ts=True), "ts_unreadable", "ts"),
    (sample(ts=T0 // 1000), "ts_before_2000", "ts"), (sample(ts=T0 * 1000), "ts_unreadable", "ts"),
    (sample(ts=T0 + WINDOW_MS + 20_000), "ts_in_the_future", "ts"), (sample(ts=T0 - 9 * DAY_MS), "too_late", ""),
]  # fmt: skip


@pytest.mark.both_databases
def test_invalid_sample_does_not_reject_other_items_of_batch(fleet: House) -> None:
    close(fleet, T0 - DAY_MS)
    items = [sample("0")]
    for at, (bad, *_) in enumerate(BAD):
        items += [bad, sample(str(at + 1))]
    body = b",".join(one if isinstance(one, bytes) else json.dumps(one).encode() for one in items)

    async def work(caller: Caller) -> None:
        answer = await Sender(caller).send(SAMPLES, b"[" + body + b"]")
        told, results = said(answer), answer.json()["results"]
        assert {one[0] for one in told[::2]} <= {"accepted", "pending"}
        for (bad, code, at), found in zip(BAD, results[1::2], strict=True):
            assert (found["status"], found["code"], found["at"]) == ("invalid", code, at), (bad, found)
            assert ("missing" in code) == ("is missing" in found["message"]), found
            assert "--" not in found["message"], "nobody here gave a command an option"

    served(fleet, work)
    assert fleet.fleet.one("SELECT COUNT(*) FROM usage_samples") == len(BAD) + 1
    assert fleet.fleet.one("SELECT COUNT(*) FROM usage_samples WHERE problem IS NOT NULL") == 0
    clean(fleet)


def test_unmapped_or_unassigned_sample_is_pending_with_reason(fleet: House) -> None:
    fleet.clock.at_ms = T0 + WINDOW_MS + 10_000

    async def work(caller: Caller) -> None:
        here: Any = {"ts": T0 + WINDOW_MS + 1_000}
        items = [sample("1", memory_mb=77, **here), sample("2", org_id="nobody", **here), sample("3", **here)]
        answer = await Sender(caller).send(SAMPLES, items)
        assert said(answer) == [("pending", "unmapped"), ("pending", "unassigned"), ("accepted",)]
        assert "--memory-mb 77" in answer.json()["results"][0]["message"]

    served(fleet, work)


def test_sample_of_foreign_cell_or_org_is_rejected(fleet: House) -> None:
    sender(fleet, "host", cell_id="cell-1")
    sender(fleet, "tenant", org="acme", cell_id="cell-2")

    async def work(caller: Caller) -> None:
        host, tenant = Sender(caller, "host"), Sender(caller, "tenant")
        told = await host.told(SAMPLES, [sample("1"), sample("2", cell_id="cell-2"), sample("3", cell_id=...)])
        assert [one[-1] for one in told] == [told[0][-1], "foreign_cell", told[0][-1]]
        answer = await tenant.send(SAMPLES, [sample("4"), sample("5", org_id=..., cell_id=...),
                                             sample("6", org_id="globex", cell_id="cell-2")])  # fmt: skip
        assert [one.get("code") for one in answer.json()["results"]][::2] == ["foreign_cell", "foreign_org"]
        assert "globex" not in answer.text

    served(fleet, work)
    found = fleet.fleet.rows("SELECT id, org_id, cell_id FROM usage_samples ORDER BY 1")
    assert found == [("1", "acme", "cell-1"), ("3", "acme", "cell-1"), ("5", "acme", "cell-2")]


def test_sample_id_outside_source_of_bound_key_is_rejected(fleet: House) -> None:
    """Who knows the ids of a host's samples could send them first, with nothing used."""
    sender(fleet, "host")
    sender(fleet, "tenant", org="acme", source="/acme/web")

    async def work(caller: Caller) -> None:
        host, tenant = Sender(caller, "host"), Sender(caller, "tenant")
        first = [sample("cell-1:1", interval_s=0), sample("/acme/web", interval_s=0), sample("/acme/web:1")]
        told = await tenant.told(SAMPLES, first)
        assert told[:2] == [("invalid", "foreign_source")] * 2 and told[2][0] in ("accepted", "pending")
        told = await host.told(SAMPLES, [sample("cell-1:1"), sample("/acme/web:1", interval_s=7)])
        assert told[0][0] in ("accepted", "pending") and told[1][0] == "conflict"

    served(fleet, work)
    found = fleet.fleet.rows("SELECT id, interval_s FROM usage_samples ORDER BY 1")
    assert found == [("/acme/web:1", 60), ("cell-1:1", 60)]
    engine, by = fleet.fleet.engine, fleet.fleet.by
    with pytest.raises(UsageError, match="samples:write needs --source"):
        write(engine, lambda c: api_keys.create(c, key_of("y"), "y", ["samples:write"], by, org_id="acme"))
    assert write(engine, lambda c: api_keys.create(c, key_of("z"), "z", ["samples:write"], by)) is None


def test_api_key_cell_is_preserved_by_rotation_and_cannot_be_changed(fleet: House) -> None:
    sender(fleet, "host", cell_id="cell-1")
    engine, by = fleet.fleet.engine, fleet.fleet.by
    write(engine, lambda c: api_keys.rotate(c, key_of("host 2"), "host", by))
    proof = api_keys.hash_of(key_of("host 2"))
    found = write(engine, lambda c: api_keys.find_all(c, [proof], fleet.clock.at_ms))
    assert found[proof].cell_id == "cell-1"
    with pytest.raises(Exception, match="API key"):
        fleet.fleet.write("UPDATE api_keys SET cell_id = 'cell-2'")
    with pytest.raises(UnknownId, match="did you mean cell-1"):
        write(engine, lambda c: api_keys.create(c, key_of("x"), "x", ["guard"], by, cell_id="cell-11"))


def test_samples_with_other_content_type_are_refused(lone: House) -> None:
    sender(lone)

    async def work(caller: Caller) -> None:
        for kind in (EVENT, "text/plain", "application/cloudevents-batch+json", ""):
            assert refused(await Sender(caller).send(SAMPLES, sample(), kind)) == (415, "not_json")

    served(lone, work)


OLD: Final = T0 - 60 * DAY_MS


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_sample_floor_raised_during_intake_is_rejected_as_too_late(
    fleet: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SQLite nobody else writes meanwhile."""
    fleet.fleet.tick(T0 + WINDOW_MS)
    taken: list[object] = []

    def interrupted(*given: Any) -> list[Any]:
        answers = store_each(*given)
        if not taken:
            prune_elsewhere(fleet, OLD + WINDOW_MS)
        taken.append(answers)
        return answers

    monkeypatch.setattr(host_samples, "store_each", interrupted)

    async def work(caller: Caller) -> None:
        told = await Sender(caller).told(SAMPLES, [sample("old", ts=OLD), sample("new")])
        assert told == [("invalid", "too_late"), ("pending", "unassigned")]

    served(fleet, work)
    assert taken == [["accepted", "accepted"], ["accepted"]]
    assert fleet.fleet.rows("SELECT id FROM usage_samples") == [("new",)]
    clean(fleet)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_floor_during_sample_intake_is_not_raised_past_sample(fleet: House, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.fleet.tick(T0 + WINDOW_MS)

    async def work(caller: Caller) -> None:
        assert await Sender(caller).told(SAMPLES, sample("old", ts=OLD)) == [("pending", "unassigned")]

    with pruned_meanwhile(fleet, monkeypatch, OLD, OLD + WINDOW_MS):
        served(fleet, work)
