"""The invariants of the design, judged on raw tables against the oracle.

Guarantee: `check` may be asked at any moment, `settled` once everything has healed. Neither calls the worker's code.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from drawdown.schema.migrate import bucket_of
from drawdown.worker.push.confirm import DRAWN
from drawdown.worker.push.outcome import NOT_CHARGED
from tests.simulation.accepted import worth
from tests.simulation.billed import given_back
from tests.simulation.need import asked
from tests.simulation.oracle import EXEMPT, WINDOW, Expected
from tests.simulation.remote import Autumn, unit_at
from tests.simulation.runs import runs
from tests.simulation.world import World

OPEN = ("due", "queued", "in_doubt", "rejected")


class Push(NamedTuple):
    """A row of the outbox."""

    window: int
    org: str
    feature: str
    revision: int
    provider: str
    customer: str
    sealed: int
    sent: int
    key: str
    state: str
    attempts: int
    wire_key: str | None
    error: str | None
    began_ms: int
    ended_ms: int

    @property
    def known_as(self) -> str:
        """What it is called at its provider."""
        return self.wire_key or self.key


class Tables(NamedTuple):
    """The raw tables, read once a check."""

    pushes: list[Push]
    watermarks: dict[str, int]
    cursors: list[tuple[int, int, int, int]]
    dirty: set[tuple[str, int]]
    stopped: set[str]
    pending: dict[tuple[int, str, int], tuple[str, int, int]]
    arrivals: dict[str, int]
    adopted: set[tuple[int, str, str, int]]
    """References of pushes that were taken over from the provider."""
    voids: dict[tuple[int, str, str, int], str]
    """The kind of evidence of each void."""


def _read(world: World) -> Tables:
    buckets = world.rows("SELECT id, watermark_ms, cursor, epoch FROM buckets")
    marks = {number: mark for number, mark, _, _ in buckets}
    orgs = world.rows("SELECT org_id, held_watermark_ms, stopped_at_ms FROM orgs")
    held = {org: mark for org, mark, _ in orgs if mark is not None}
    names = {org for org, _, _ in orgs} | {one.org for one in world.oracle.samples.values() if one.good}
    pending = world.rows("SELECT window_ms, org_id, memory_mb, reason, seconds, samples FROM pending_usage")
    return Tables(
        [
            Push(*row)
            for row in world.rows(
                "SELECT window_ms, org_id, feature, revision, provider, customer_id, sealed_qty, sent_qty, key, state, "
                "attempts, wire_key, last_error, COALESCE(first_attempt_ms, 0), COALESCE(settled_ms, :now) FROM pushes",
                now=world.time.now,
            )
        ],
        {org: held.get(org, marks[bucket_of(org)]) for org in names},
        [(int(a), int(b), int(c), int(d)) for a, b, c, d in buckets],
        {(org, window) for org, window in world.rows("SELECT org_id, window_ms FROM dirty_windows")},
        {org for org, _, stopped in orgs if stopped is not None},
        {(w, org, size): (reason, s, n) for w, org, size, reason, s, n in pending},
        dict(world.rows("SELECT id, arrival FROM usage_samples")),
        set(world.rows("SELECT window_ms, org_id, feature, revision FROM adoptions")),
        {
            row[:4]: row[4]
            for row in world.rows("SELECT window_ms, org_id, feature, revision, evidence_kind FROM voids")
        },
    )


def check(world: World) -> list[str]:
    """Every breach that can be told at this moment."""
    tables = _read(world)
    expected = world.oracle.expected()
    judges: list[Callable[[], Iterator[str]]] = [
        lambda: _conservation(world, tables, expected),
        lambda: _carried(world, tables),
        lambda: _one_biller(world, tables),
        lambda: _revisions(tables),
        lambda: _delivered(world, tables),
        lambda: _attempts(world, tables),
        lambda: _ledger(world),
        lambda: runs(world),
        lambda: _halts(world),
        lambda: asked(world),
        lambda: given_back(world),
        lambda: _quarantine(world),
        lambda: (str(row[0]) for row in world.rows("SELECT what FROM audit")),
    ]
    return [breach for judge in judges for breach in judge()]


def open_windows(world: World, tables: Tables) -> set[tuple[str, int]]:
    """Windows that a seal still has to look at: dirty, or with arrivals after the cursor."""
    cursors = {number: cursor for number, _, cursor, _ in tables.cursors}
    return tables.dirty | {
        (one.org, one.ts // WINDOW * WINDOW)
        for one in world.oracle.samples.values()
        if one.good and tables.arrivals.get(one.id, -1) >= cursors[bucket_of(one.org)]  # -1: lost, as others find
    }


def is_closed(world: World, names: Sequence[str], *, looked_at: bool = False) -> bool:
    """Whether the windows of these samples are sealed, as far as anything is known of them. `looked_at`: a seal has
    just looked at all that is dirty, so that what still is waits for a push of its own that is not settled."""
    tables = _read(world)
    waiting = open_windows(world, tables)
    if looked_at:
        waiting -= {(one.org, one.window) for one in tables.pushes if one.sent > 0 and one.state in OPEN}
    places = [(one.org, one.ts // WINDOW * WINDOW) for one in (world.oracle.samples[name] for name in names)]
    return all(place not in waiting and place[1] < tables.watermarks.get(place[0], 0) for place in places)


def _conservation(world: World, tables: Tables, expected: Expected) -> Iterator[str]:
    """1 and 9: below the watermark what is sealed is what was used; what cannot be sealed is pending."""
    waiting = open_windows(world, tables)

    def closed(org: str, window: int) -> bool:
        return window < tables.watermarks.get(org, 0) and (org, window) not in waiting

    sealed: dict[tuple[str, int, str], int] = defaultdict(int)
    for push in tables.pushes:
        if push.state != "voided":
            sealed[(push.org, push.window, push.feature)] += push.sealed
    for org, window, feature in sorted(sealed.keys() | expected.owed.keys()):
        place = (org, window, feature)
        have, want = sealed.get(place, 0), expected.owed.get(place, 0)
        if have != want and closed(org, window):
            yield f"1: {org} window {window} {feature}: sealed {have}, used {want}"
    for spot in sorted(tables.pending.keys() | expected.pending.keys()):
        window, org, size = spot
        got, due = _loosely(tables.pending.get(spot)), expected.pending.get(spot)
        if got != due and closed(org, window):
            yield f"9: {org} window {window} {size} MB: pending {got}, should be {due}"


def _loosely(row: tuple[str, int, int] | None) -> tuple[str, int, int] | None:
    """An organisation may become known without an assignment: which of the two reasons was written is history."""
    if row is None or row[0] in ("no_mapping", "no_customer"):
        return row
    return ("no_biller", row[1], row[2])


def _carried(world: World, tables: Tables) -> Iterator[str]:
    """2: sent + carry = sealed."""
    sums: dict[tuple[str, str, str, str], int] = defaultdict(int)
    for push in tables.pushes:
        if push.state != "voided":
            sums[(push.org, push.provider, push.customer, push.feature)] += push.sealed - push.sent
    carries = {
        (org, provider, customer, feature): quantity
        for org, provider, customer, feature, quantity in world.rows(
            "SELECT org_id, provider, customer_id, feature, carry_qty FROM carries"
        )
    }
    for place in sorted(sums.keys() | carries.keys()):
        if sums.get(place, 0) != carries.get(place, 0):
            yield f"2: {place}: sealed - sent = {sums.get(place, 0)}, the carry says {carries.get(place, 0)}"


def _one_biller(world: World, tables: Tables) -> Iterator[str]:
    for push in tables.pushes:
        found = world.oracle.assigned(push.org, push.window)
        if found is None or (found.provider, found.customer) != (push.provider, push.customer):
            yield f"3: {push.key} is billed by {push.provider} to {push.customer}, assigned is {found}"


def _revisions(tables: Tables) -> Iterator[str]:
    """S3: 0, 1, 2, … without a hole, each with the key that says so."""
    numbers: dict[tuple[str, int, str], list[int]] = defaultdict(list)
    for push in tables.pushes:
        numbers[(push.org, push.window, push.feature)].append(push.revision)
        suffix = f":r{push.revision}" if push.revision else ""
        if push.key != f"usage:{push.org}:{push.window}:{push.feature}{suffix}":
            yield f"5: {push.key} is not the key of its push"
    for place, found in numbers.items():
        if sorted(found) != list(range(len(found))):
            yield f"S3: {place} has the revisions {sorted(found)}"


def _delivered(world: World, tables: Tables) -> Iterator[str]:
    """2 and 6: what counts as accepted was charged, with that quantity; what was voided was not."""
    charged, known = world.charged(), set[str]()
    recovered = bool(world.rows("SELECT 1 FROM losses"))
    taken = {name: remote.taken() for name, remote in world.remote.items()}
    doubled = {key for remote in world.remote.values() for key in remote.doubled()}
    again = {(name, *place) for name, remote in world.remote.items() for place in remote.doubled_places()}
    gone = {(name, *place) for name, remote in world.remote.items() for place in remote.lost_places()}
    left = {(name, *place): n for name, remote in world.remote.items() for place, n in remote.not_given_back().items()}
    in_sum = {(name, *place) for name, remote in world.remote.items() for place in remote.told_in_sum()}
    yield from _never_twice(world, tables)
    for push in tables.pushes:
        place = (push.window, push.org, push.feature, push.revision)
        evidence = tables.voids.get(place)
        known.add(push.known_as)
        found = charged.get(push.known_as)
        if (push.provider, push.customer, push.feature) in in_sum or push.key in world.made_whole:
            continue  # `_never_twice`, and `billed` in the end
        if push.state == "accepted" and place not in tables.adopted and not _as_accepted(push, found, doubled):
            lost = push.known_as in taken.get(push.provider, ())
            # The balance was drawn on once too often, and so once for this one: the customer pays what was used. For
            # one that gives back, what was lost of the balance is as good.
            spot = (push.provider, push.customer, push.feature)
            lost = lost or spot in again or (push.sent < 0 and spot in gone)
            lost = lost or (found is None and _drawn_instead(world, push, left))
            if found is not None or not (lost or push.key in world.resolved):
                yield f"2: {push.key} counts as accepted with {push.sent}; charged: {found}"
        # The balance lacked what was lost before, and so this one's: the customer pays no more than what was used.
        instead = evidence == "absent" and (push.provider, push.customer, push.feature) in gone
        lost = push.known_as in world.lost_keys or instead
        if push.state in ("voided", "rejected", "carried") and found and evidence != "adopted" and not lost:
            yield f"6: {push.key} is {push.state} ({evidence}), and was charged: {found}"
        if push.state in ("voided", "rejected") and not _may_be_void(world, push, evidence):
            yield f"P5: {push.key} is {push.state}, and no provider ever rejected it"
        asked_first = push.state == "queued" and push.attempts == 0 and recovered
        if (push.state == "carried") != (push.sent == 0) and push.state != "voided" and not asked_first:
            yield f"S10: {push.key} sends {push.sent} and is {push.state}"
    for key in sorted(charged.keys() - known - world.lost_keys):
        yield f"5: {key} was charged ({charged[key]}) and is no push of ours"


def _drawn_instead(world: World, push: Push, left: dict[tuple[str, str, str], int]) -> bool:
    """Whether a push was accepted by the balance alone, which was drawn on too far by what was given back before with a
    success, and lost (`left` of it, less with each such push): nothing tells the two apart, neither has an event, and
    the customer, who gets as much less back, pays what was used. No push that an answer or a lookup accepted is meant,
    and not a second more in all than was lost."""
    by_balance = push.state == "accepted" and (push.error or "").startswith(DRAWN)
    remote = world.remote.get(push.provider)
    if remote is None or not by_balance:
        return False
    spot = (push.provider, *remote.place(push.customer, push.feature))
    least, _ = worth(remote, push.feature, push.sent, push.known_as, push.began_ms, push.ended_ms)
    if not 0 < least <= left.get(spot, 0):
        return False
    left[spot] -= least
    return True


def _never_twice(world: World, tables: Tables) -> Iterator[str]:
    """P5, where something is charged without an event: a customer's balance is never drawn on by more than the pushes
    that stand, not even until the next comparison. What a person settled by hand lies beside the balance, and so does
    what was given back there by an event, or with a success, and forgotten."""
    for name, remote in world.remote.items():
        if not remote.loses_data():
            continue
        # First: it charges what was queued, and only then is the cost of that known.
        charged: dict[tuple[str, str], int] = defaultdict(int)
        for (customer, feature, _), quantity in remote.billed(world.time.now).items():
            charged[(customer, feature)] += quantity
        if isinstance(remote, Autumn) and remote.pooled is not None:
            charged = {remote.place(*place): remote.drawn(*place) for place in charged}
        standing: dict[tuple[str, str], int] = defaultdict(int)
        forgotten = remote.forgotten()
        for push in tables.pushes:
            if push.sent < 0 and push.known_as in forgotten:
                continue
            drawn = push.state not in ("voided", "rejected", "carried", "shadow") and push.key not in world.resolved
            if push.provider == name and drawn:
                _, most = worth(remote, push.feature, push.sent, push.known_as, push.began_ms, push.ended_ms)
                place = remote.place(push.customer, push.feature)
                standing[place] += most if push.state == "accepted" else max(most, 0)
        for place, quantity in sorted(charged.items()):
            if quantity > standing[place]:
                yield f"P5: {name} {place} was drawn on by {quantity}, and {standing[place]} stand: billed twice"


def _as_accepted(push: Push, found: tuple[str, int] | None, doubled: set[str]) -> bool:
    """Whether what was charged is what was sent; or, where a key store failed open, so many times of it."""
    if found is None or found[0] != push.provider or push.sent == 0:
        return False
    total = found[1] * unit_at(push.provider, push.feature)
    if push.sent < 0 and push.known_as in doubled:
        return total <= push.sent  # what is given back again ends where the balance was never drawn on
    times, rest = divmod(total, push.sent)
    return rest == 0 and (times == 1 or (times > 1 and push.known_as in doubled))


def _may_be_void(world: World, push: Push, evidence: str | None) -> bool:
    """Rejected by the provider, at once or later; or, at one that can be asked, absent when it was."""
    if push.key in world.rejected or push.known_as in world.rejected:
        return True
    error = push.error or ""
    late = error.startswith(("rejected later: ", "not sent: the provider takes"))
    told = evidence in ("absent", "adopted", "operator") or error == NOT_CHARGED or late
    return told and (push.provider in world.remote or bool(world.lost_keys))


def _attempts(world: World, tables: Tables) -> Iterator[str]:
    counted = {
        (window, org, feature, revision): (number, most)
        for window, org, feature, revision, number, most in world.rows(
            "SELECT window_ms, org_id, feature, revision, COUNT(*), MAX(attempt) FROM attempts GROUP BY 1, 2, 3, 4"
        )
    }
    for push in tables.pushes:
        got = counted.get((push.window, push.org, push.feature, push.revision), (0, 0))
        if got != (push.attempts, push.attempts):
            yield f"P1: {push.key} counts {push.attempts} attempts, on record are {got}"


def _ledger(world: World) -> Iterator[str]:
    rows = world.rows(
        "SELECT a.account_id, a.balance_micro, COALESCE((SELECT SUM(l.amount_micro) FROM ledger_lines l "
        "WHERE l.account_id = a.account_id), 0) FROM ledger_accounts a"
    )
    yield from (f"ledger: {name} says {kept}, its lines say {summed}" for name, kept, summed in rows if kept != summed)


def _halts(world: World) -> Iterator[str]:
    """7: each sandbox of a halted organisation has a halt on its cell, due or acknowledged, for this very halt."""
    missing = world.rows(
        "SELECT DISTINCT s.org_id, s.cell_id FROM sandboxes s JOIN orgs o ON o.org_id = s.org_id AND o.is_halted "
        "WHERE s.state <> 'stopped' AND NOT EXISTS (SELECT 1 FROM halts h WHERE h.org_id = s.org_id "
        "AND h.cell_id = s.cell_id AND h.halted_at = o.halted_at)"
    )
    yield from (f"7: {org} is halted, and {cell} was never to be told" for org, cell in missing)
    told = {(one.org_id, one.cell_id, one.halted_at) for one in world.cells.told}
    acked = world.rows("SELECT org_id, cell_id, halted_at FROM halts WHERE acked_at_ms IS NOT NULL")
    yield from (
        f"7: the halt {row} counts as acknowledged, and never reached its cell" for row in sorted(set(acked) - told)
    )
    backwards = world.rows(
        "SELECT a.org_id FROM projections a JOIN projections b ON b.org_id = a.org_id "
        "AND b.projection_id > a.projection_id AND b.read_ms < a.read_ms"
    )
    yield from (f"8: the projections of {org} go back in time" for (org,) in backwards)


def _quarantine(world: World) -> Iterator[str]:
    got: set[Any] = {row[0] for row in world.rows("SELECT id FROM usage_samples WHERE problem IS NOT NULL")}
    want = {one.id for one in world.oracle.samples.values() if not one.good}
    for name in sorted(got ^ want):
        yield f"9: the sample {name!r} is {'quarantined' if name in got else 'not quarantined'}, and should not be so"
    local = "provider NOT IN ('autumn', 'stripe')"
    for table, problem in (
        ("pushes", f"state = 'in_doubt' AND {local}"),
        ("orgs", "stopped_reason LIKE 'cannot be sealed%'"),
    ):
        if number := world.rows(f"SELECT COUNT(*) FROM {table} WHERE {problem}")[0][0]:
            yield f"S8: {number} rows of {table} with {problem}, though nothing was lost and no organisation is bad"


def exempt(provider: str | None) -> bool:
    return provider is None or provider in EXEMPT
