"""The page Replay: its dry run is the command's, an order is placed once, and the page says how far each is."""

from __future__ import annotations

import re
from html import unescape
from typing import Any, Final

import pytest
import sqlalchemy as sa

from drawdown.schema.audit import By
from drawdown.schema.database import read, write
from drawdown.schema.errors import DatabaseBusy
from drawdown.schema.units import MINUTE_MS
from drawdown.server.console import action_forms
from drawdown.server.console.screens.oncall import jobs as doing
from drawdown.worker.engine import runner
from drawdown.worker.jobs import queue
from drawdown.worker.jobs.job_payloads import ReplayJob
from drawdown.worker.jobs.run_jobs import do_jobs
from drawdown.worker.replay.plan import ReplayScope
from drawdown.worker.replay.replay import Replayed, rehearse
from tests.integration.test_replay import END, missed, planned, run
from tests.server.console_home import ANN, KIM, VIC, Home
from tests.server.lived import lived
from tests.server.test_console_acts import dump, hidden
from tests.world import T0, Fleet

PATH: Final = "/console/act/replay"
RANGE: Final = {"from": "2026-01-01", "to": "2026-01-01T06:00"}
ASKED: Final = {"all": "yes", **RANGE, "reason": "they were lost", "step": "look"}
HOURS: Final = 6
ODD: Final = "<b>&\"'/../?x=1#\u202e"


class Lost(Home):
    """A console beside a fleet whose cursor has missed a sample an hour."""

    def __init__(self, engine: sa.Engine) -> None:
        super().__init__(engine)
        fleet = self.fleet
        fleet.tick(T0 + (HOURS + 1) * 60 * MINUTE_MS)
        for hour in range(HOURS):
            fleet.sample("acme", T0 + hour * 60 * MINUTE_MS + 5, 10)
        fleet.write("UPDATE buckets SET cursor = 9000000000000, epoch = epoch + 1")
        self.now = fleet.clock.at_ms

    def look(self, session: int = ANN, **more: str) -> Any:
        return self.send(PATH, {**ASKED, **more}, session)

    def page(self) -> str:
        (answer,) = self.get("/console/jobs")
        assert answer.status_code == 200
        return unescape(re.sub(r"<[^>]+>", " ", answer.text))


def do(fleet: Fleet) -> None:
    """What the next tick does of orders; its own seal, and its sweep, would find what the cursor has missed."""
    world = runner.World(fleet.engine, fleet.providers, fleet.cells, fleet.clock)
    assert runner.run(do_jobs(fleet.context()), world).ended == 1


@pytest.fixture
def home(engine: sa.Engine) -> Lost:
    return lived(engine, Lost)


def test_replay_dry_run_equals_command_and_does_not_change_database(engine: sa.Engine) -> None:
    fleet = missed(Fleet(engine))
    made = planned(fleet)
    before = dump(engine)
    found = rehearse(action_forms.undone(engine), fleet.context("console"), made, fleet.by)
    assert dump(engine) == before
    assert found == run(fleet, made, dry_run=True) and found.pushes == 48


def test_replay_form_queued_job_is_completed_by_tick(home: Lost) -> None:
    before = dump(home.engine)
    page = home.look()
    assert page.status_code == 200 and dump(home.engine) == before
    text = unescape(re.sub(r"<[^>]+>", " ", page.text))
    assert "In total 6 pushes" in text and "drawdown replay --all" in text and "--queue" in text
    assert home.send(PATH, hidden(page)).status_code == 303
    assert home.send(PATH, hidden(page)).status_code == 303, "sent twice, it is one order"
    assert home.fleet.rows("SELECT state, actor, via FROM jobs") == [("waiting", "console:ann", "console")]
    assert "waiting" in home.page() and "they were lost" in home.page() and "Cancel" in home.page()
    do(home.fleet)
    shown = home.page()
    assert "done" in shown and "sealed 6 pushes" in shown and "Cancel" not in shown
    deeds = "SELECT actor, reason, via FROM operator_actions WHERE action = 'replay'"
    assert home.fleet.rows(deeds) == [("console:ann", "they were lost", "console")]


@pytest.mark.both_databases
def test_replay_form_second_person_cannot_queue_same_job(home: Lost) -> None:
    first, second = hidden(home.look()), hidden(home.look(KIM))
    assert home.send(PATH, first).status_code == 303
    refused = home.send(PATH, second, KIM)
    assert refused.status_code == 409 and "by console:ann, is waiting" in refused.text
    assert home.fleet.one("SELECT COUNT(*) FROM jobs") == 1


def test_replay_job_cancel_after_start_is_refused(home: Lost) -> None:
    home.send(PATH, hidden(home.look()))
    ((number,),) = home.fleet.rows("SELECT job_id FROM jobs")  # PostgreSQL's dry runs use numbers up
    order = {"job": str(number), "reason": "no", "step": "look"}
    sent = hidden(home.send("/console/act/job-cancel", order))
    write(home.engine, lambda c: queue.take(c, "w1", home.now))
    refused = home.send("/console/act/job-cancel", sent)
    assert refused.status_code == 409 and "you can cancel a job only while it waits" in unescape(refused.text)
    assert "under way" in home.page()


def test_replay_form_viewer_sees_jobs_and_cannot_queue(home: Lost) -> None:
    assert home.look(VIC).status_code == 403
    (page,) = home.get("/console/jobs", session=VIC)
    assert page.status_code == 200 and "/console/act/" not in page.text


def test_replay_form_too_large_for_dry_run_can_be_queued(home: Lost, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doing, "TRIED_MS", 0)
    page = home.look()
    assert "The replay is too large for a page" in page.text and "--dry-run" in page.text
    assert home.send(PATH, hidden(page)).status_code == 303

    def slow(*_: object) -> None:
        raise DatabaseBusy("this takes longer than 10 s")

    monkeypatch.setattr(doing, "rehearse", slow)
    page = home.look(to="2026-01-01T05:00")
    assert "The dry run could not end in time" in page.text and "--dry-run" in page.text
    assert home.send(PATH, hidden(page)).status_code == 303


@pytest.mark.parametrize("more", [{"id": "acme"}, {"all": "no"}, {"provider": "embedded"}])
def test_replay_form_ambiguous_scope_is_refused(home: Lost, more: dict[str, str]) -> None:
    answer = home.send(PATH, ASKED | more)
    assert answer.status_code == 400 and 'id="wrong-id"' in answer.text


def test_jobs_page_hostile_text_is_escaped(home: Lost) -> None:
    home.fleet.assign(ODD, from_ms=T0)
    home.fleet.sample(ODD, T0 + 7)
    by = By(home.now, "console:ann", ODD, "console")
    asked = ReplayJob(ReplayScope((ODD,)), T0, END)
    write(home.engine, lambda c: queue.place(c, asked, by))
    (page,) = home.get("/console/jobs")
    assert "<b>" not in page.text and "&lt;b&gt;" in page.text and "<bdi>" in page.text
    assert read(home.engine, lambda c: c.execute(sa.text("SELECT COUNT(*) FROM jobs")).scalar()) == 1


def test_replay_preview_of_unsettled_pushes_reports_them_open() -> None:
    found = Replayed(T0, END, dry_run=True, open_pushes=2, open_quantity=1_200)
    shown = doing._pushes_table(found, "").none
    assert shown == "No more usage to seal. From earlier seals, 2 pushes (1,200 units) are still to be settled."
