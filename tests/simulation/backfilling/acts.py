"""Whoever backfills: opens, stages a file again and again, looks, closes by what was seen, takes it all back; and the
product that sends some of the same events meanwhile.

Guarantee: what each answer has to be is worked out before the call; what was refused changes no book.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

from drawdown.events.envelope import UsageEvent
from drawdown.schema.errors import Refused
from drawdown.schema.units import DAY_MS, WINDOW_MS
from drawdown.worker.features.actions import map_event
from drawdown.worker.sources.events.store import EventResult, take
from drawdown.worker.usage import backfills
from drawdown.worker.usage.backfills import show_backfill
from tests.simulation.actions import ORGS
from tests.simulation.backfilling.books import Books, Coming, Held, Name, name_of
from tests.simulation.callers import AGAIN, Caller
from tests.simulation.oracle import Rule, Sample

TYPES: Final = ("job.run", "job.new", "job.odd")
"""The first makes a feature from long ago on, the others none until somebody says so."""
LENGTHS: Final = (WINDOW_MS, 3 * WINDOW_MS, 12 * WINDOW_MS, 288 * WINDOW_MS)
AGES: Final = (0, WINDOW_MS, 12 * WINDOW_MS, DAY_MS, 9 * DAY_MS)
QUANTITIES: Final = (0, 1, 7, 1_000, 10**9)


@dataclass
class Clerk(Caller):
    """Those who act, and what they know."""

    word: str = "backfill"
    books: Books = field(default_factory=Books)
    gone: list[UsageEvent] = field(default_factory=list)
    """All events that were ever thought up."""

    def refused(self, work: Any) -> Any:
        """The answer, or how it was refused."""
        self.dies(work, Refused)
        try:
            return self.write(work)
        except Refused as error:
            return error

    def took(self, events: list[UsageEvent]) -> None:
        """They are usage now: the world's oracle knows them by their samples."""
        for event in events:
            self.books.taken[name_of(event)] = event
            self.world.oracle.took(
                Sample(self._sample_of(event), event.org_id, event.occurred_ms, self.meter(event.event_type),
                       event.quantity, good=True)
            )  # fmt: skip

    def meter(self, event_type: str) -> int:
        """The number that stands for a type, once it has one."""
        if event_type not in self.books.meters:
            rows = self.world.rows("SELECT meter FROM event_types WHERE event_type = :t", t=event_type)
            if rows:
                self.books.meters[event_type] = int(rows[0][0])
        return self.books.meters.get(event_type, 0)

    def samples(self) -> dict[Name, str]:
        """By what samples events are known."""
        rows = self.world.rows("SELECT org_id, source, event_id, sample_id FROM usage_events")
        return {(org, source, event_id): sample for org, source, event_id, sample in rows}

    def _sample_of(self, event: UsageEvent) -> str:
        text = "SELECT sample_id FROM usage_events WHERE org_id = :o AND source = :s AND event_id = :e"
        rows = self.world.rows(text, o=event.org_id, s=event.source, e=event.event_id)
        if len(rows) != 1:
            self.breach(f"{event} was taken, and is there {len(rows)} times")
            return f"none of {event.event_id}"
        return str(rows[0][0])


def begin(clerk: Clerk) -> str | None:
    """One is opened; of one who has another open it is refused."""
    rng, books = clerk.rng, clerk.books
    known = {org for (org,) in clerk.world.rows("SELECT org_id FROM orgs")}
    org = rng.choice(sorted(known.intersection(ORGS)) or [""])
    if not org:
        return None
    to_ms = clerk.now - clerk.now % WINDOW_MS - rng.choice(AGES)
    to_ms -= to_ms % WINDOW_MS
    from_ms, name = to_ms - rng.choice(LENGTHS), clerk.name("fill")
    if books.held and rng.random() < 0.1:
        name = rng.choice(sorted(books.held))
    for _ in range(1 + (rng.random() < AGAIN)):
        found = clerk.refused(partial(_open, name=name, org=org, from_ms=from_ms, to_ms=to_ms))
        before, other = books.held.get(name), books.open_of(org)
        same = before is not None and (before.org, before.from_ms, before.to_ms) == (org, from_ms, to_ms)
        may = same or (before is None and other is None)
        if isinstance(found, Refused) == may:
            clerk.breach(f"{name} of {org} was opened: {found!r:.200}; {before} and {other} are there")
        if may and before is None:
            books.held[name] = Held(name, org, from_ms, to_ms)
            clerk.note("opened")
        elif not may:
            clerk.note("open_refused")
    return f"opens {name} of {org}, {from_ms} to {to_ms}"


def _open(connection: Any, by: Any, name: str, org: str, from_ms: int, to_ms: int) -> Any:
    return backfills.open_backfill(connection, name, org, from_ms, to_ms, by)


def stage(clerk: Clerk) -> str | None:
    """A part of a file, with what does not belong there; its answer may be lost."""
    one = _any(clerk, "open", "closed" if clerk.rng.random() < 0.1 else "open")
    if one is None:
        return None
    batch = [_event(clerk, one) for _ in range(clerk.rng.randint(1, 9))]
    theirs = [event for event in clerk.gone if event.org_id == one.org]
    if theirs:
        old = clerk.rng.choice(theirs)
        batch += [old, replace(old, quantity=old.quantity + 1)] if clerk.rng.random() < 0.5 else [old, old]
    clerk.rng.shuffle(batch)
    for _ in range(1 + (clerk.rng.random() < AGAIN)):
        answers = clerk.refused(lambda c, by: backfills.stage(c, one.name, batch, by.now_ms))
        if isinstance(answers, Refused) != (one.state != "open"):
            clerk.breach(f"{one.name} is {one.state}, and to stage was answered {answers!r:.200}")
        if isinstance(answers, Refused):
            clerk.note("stage_refused")
            return f"stages in {one.name}, which is {one.state}"
        _staged(clerk, one, batch, answers)
    return f"stages {len(batch)} in {one.name}"


def _staged(clerk: Clerk, one: Held, batch: list[UsageEvent], answers: list[EventResult]) -> None:
    for event, answer in zip(batch, answers, strict=True):
        before, code = one.staged.get(name_of(event)), one.outside(event)
        if code is None:
            want = "accepted" if before is None else "duplicate" if before == event else "conflict"
        else:
            want = "invalid"
        clerk.books.statuses[f"staged_{want}"] += 1
        if answer.status != want or (code is not None and answer.code != code):
            clerk.breach(f"{event} was staged in {one.name} as {answer}, and should be {want}, {code}")
        if want == "accepted":
            one.staged[name_of(event)] = event


def _event(clerk: Clerk, one: Held) -> UsageEvent:
    rng = clerk.rng
    ts = rng.randrange(one.from_ms, one.to_ms)
    if rng.random() < 0.1:
        ts = rng.choice((one.from_ms, one.from_ms - 1, one.to_ms - 1, one.to_ms))
    org = rng.choice(ORGS) if rng.random() < 0.05 else one.org
    made = UsageEvent(
        "lost", clerk.name(f"{org[:5]}-"), rng.choice(TYPES), org, rng.choice(QUANTITIES), ts,
        subject=rng.choice((None, "ann")), properties=rng.choice(({}, {"k": 1})),
    )  # fmt: skip
    clerk.gone.append(made)
    return made


def send(clerk: Clerk) -> str | None:
    """The product sends some of the same events itself, or says one of them otherwise."""
    if not clerk.gone:
        return None
    rng = clerk.rng
    batch = rng.sample(clerk.gone, min(len(clerk.gone), rng.randint(1, 4)))
    if rng.random() < 0.3:
        batch.append(replace(batch[0], quantity=batch[0].quantity + 3))
    for _ in range(1 + (rng.random() < AGAIN)):
        answers = clerk.refused(lambda c, by: take(c, batch, by.now_ms))
        for event, answer in zip(batch, answers, strict=True):
            _sent(clerk, event, answer)
    return f"sends {len(batch)} events"


def _sent(clerk: Clerk, event: UsageEvent, answer: EventResult) -> None:
    books, standing = clerk.books, clerk.books.standing(event)
    before = books.taken.get(name_of(event))
    want: tuple[str, ...] = ("accepted", "pending") if standing == "new" else (standing,)
    if standing == "withdrawn":
        want = ("duplicate",) if before == event else ("conflict",)
    books.statuses[f"sent_{standing}"] += 1
    if answer.status not in want:
        clerk.breach(f"{event} was sent, and answered {answer}: it is {standing}")
    if standing == "new":
        clerk.took([event])


def show(clerk: Clerk) -> str | None:
    """What closing would do, as people are shown it."""
    one = _any(clerk, "open")
    if one is None:
        return None
    found = clerk.world.read(lambda c: backfills.diff(c, one.name))
    coming = _coming(clerk, one)
    lines = sorted(
        ((x.what, x.provider, x.code, x.events, x.quantity, x.windows, x.price_micro) for x in found.lines), key=str
    )
    if (found.counts, lines) != (coming.counts, coming.lines()):
        clerk.breach(f"{one.name} comes to {found.counts}, {lines}; should be {coming.counts}, {coming.lines()}")
    if found.hash in one.shown and one.shown[found.hash] != coming:
        clerk.breach(f"{one.name} has the hash {found.hash} of something else")
    one.shown[found.hash] = coming
    clerk.note("shown")
    clerk.books.statuses.update(coming.counts.keys())
    return f"looks at {one.name}: {coming.counts}"


def close(clerk: Clerk) -> str | None:
    """By a hash that was shown, perhaps long ago; the answer may be lost."""
    one = _any(clerk, "open", "open", "closed", "reverted")
    if one is None or not one.shown:
        return None
    shown = clerk.rng.choice(list(one.shown)[-2:])
    for _ in range(1 + (clerk.rng.random() < 2 * AGAIN)):
        coming = _coming(clerk, one)
        again = one.state == "closed" and one.closed_by == shown
        may = again or (one.state == "open" and one.shown[shown] == coming)
        found = clerk.refused(partial(_close, name=one.name, shown=shown))
        if isinstance(found, Refused) == may:
            clerk.breach(f"{one.name} ({one.state}) was closed by {shown}: {found!r:.200}; {coming.counts} now")
        if not may:
            clerk.note("close_refused" if one.state == "open" else f"close_of_{one.state}")
            return f"closes {one.name}: refused"
        if again:
            clerk.note("closed_again")
            continue
        new = [event for event in one.staged.values() if clerk.books.standing(event) == "new"]
        one.state, one.closed_by, one.went_in = "closed", shown, {name_of(event) for event in new}
        clerk.took(new)
        clerk.note("closed")
    return f"closes {one.name}, {len(one.went_in)} events"


def _close(connection: Any, by: Any, name: str, shown: str) -> Any:
    return backfills.close(connection, name, shown, by)


def revert(clerk: Clerk) -> str | None:
    """All of it is taken back, a part at a time; whoever does it may stop in between."""
    one = _any(clerk, "closed", "closed", "open", "reverting", "reverted")
    if one is None:
        return None
    done = False
    while not done and not clerk.world.breaches:
        left = one.went_in - clerk.books.withdrawn if one.state in ("closed", "reverting") else set()
        found = clerk.refused(lambda c, by: backfills.revert(c, one.name, by))
        if isinstance(found, Refused):
            clerk.breach(f"{one.name} ({one.state}) was to be reverted: {found}")
            return None
        count, done = found
        _withdrawn(clerk, one, count, left, done)
        one.state = "reverted" if done else "reverting"
        if not done and clerk.rng.random() < AGAIN:
            clerk.note("revert_left")
            return f"reverts a part of {one.name}"
    one.staged = {} if not one.went_in else one.staged
    clerk.note("reverted")
    return f"reverts {one.name}"


def _withdrawn(clerk: Clerk, one: Held, count: int, left: set[Name], done: bool) -> None:
    """What is withdrawn by now was in it, and is as many as was said."""
    samples = clerk.samples()
    gone = {sample for (sample,) in clerk.world.rows("SELECT sample_id FROM withdrawals")}
    new = {name for name, sample in samples.items() if sample in gone} - clerk.books.withdrawn
    if not new <= left or len(new) != count or (done and new != left):
        clerk.breach(f"{one.name}: {count} were taken back, done={done}: {new ^ left} differ")
    clerk.books.withdrawn |= new
    clerk.world.oracle.withdraw(*(samples[name] for name in new))


def map_type(clerk: Clerk) -> str | None:
    """A type makes a feature from now on, or has made one all the time."""
    event_type = clerk.rng.choice(TYPES[1:])
    feature = event_type.replace(".", "_")
    if any(rule.feature == feature for rule in clerk.world.oracle.rules):
        return None
    back = clerk.rng.random() < 0.6
    from_ms = clerk.now - clerk.now % WINDOW_MS - 20 * DAY_MS if back else None
    made = clerk.write(lambda c, by: map_event(c, event_type, feature, by, from_ms=from_ms, confirmed=True))
    meter = clerk.meter(event_type)
    clerk.world.oracle.rules.append(Rule("exact", meter, feature, "units", made.start_ms))
    clerk.note("mapped")
    return f"{event_type} makes {feature} from {made.start_ms}"


def _any(clerk: Clerk, *states: str) -> Held | None:
    state = clerk.rng.choice(states)
    found = [one for one in clerk.books.held.values() if one.state == state]
    return clerk.rng.choice(found) if found else None


def _coming(clerk: Clerk, one: Held) -> Coming:
    for event_type in TYPES:
        clerk.meter(event_type)
    return clerk.books.coming(one, clerk.world.oracle)


def rows(clerk: Clerk) -> dict[str, tuple[str, int, int]]:
    """As everybody is shown them: state, events, and how many of them were taken back."""
    found = {}
    for name in clerk.books.held:
        row = clerk.world.read(lambda c: show_backfill(c, name))  # noqa: B023
        found[name] = (row.state, row.events, row.withdrawn)
    return found
