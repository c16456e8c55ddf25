"""Ways to break what the guard counted, allowed and charged; and what `verify` must say of each."""

from __future__ import annotations

from typing import Final

from drawdown.schema.units import WINDOW_MS
from tests.integration.breaking import Broken
from tests.world import T0

USED: Final = T0 + 4 * WINDOW_MS
"""The window in which keen used what it used."""


def _of(text: str, *statements: str, org: str | None = "keen", also: tuple[int, ...] = ()) -> Broken:
    return Broken(14, statements, text, org=org, also=also)


def _twice(text: str, counts: str) -> Broken:
    what = f"UPDATE guard_metrics SET counts = '{counts}' WHERE metric = 'spark'"
    return Broken(14, (what,), text, USED, "render", "keen")


SPARK = "org_id = 'keen' AND metric = 'spark'"
GUARD = {
    "a counter that says more than was used": _of(
        "has 14 (uses: 5), but its uses sum to 13 (uses: 5",
        f"UPDATE guard_counters SET used = used + 1 WHERE {SPARK} AND period = 'day' AND uses = 5",
    ),
    "a counter that says less than was used": _of(
        "has 12 (uses: 5), but its uses sum to 13 (uses: 5",
        f"UPDATE guard_counters SET used = used - 1 WHERE {SPARK} AND period = 'hour' AND uses = 5",
    ),
    "a counter that is gone": _of(
        "has 0 (uses: 0), but its uses sum to 25 (uses: 1",
        "DELETE FROM guard_counters WHERE metric = 'peek' AND period = 'hour' AND used = 25",
    ),
    "a use that is gone": _of(
        "(uses: 5), but its uses sum to",
        "DELETE FROM guard_uses WHERE use_key = 'keen-2'",
    ),
    "two uses with one number": _of(
        "the uses of spark in the month from",
        "UPDATE guard_uses SET number = 1 WHERE use_key = 'keen-2'",
    ),
    "a use beyond its limit": _of(
        "keen-2 was allowed within 6 of spark a day, but the total was 7",
        "UPDATE guard_uses SET limit_amount = 6 WHERE use_key = 'keen-2'",
    ),
    "a use that was charged otherwise than its run": _of(
        "keen-1 is used and was charged 14, but its execution is settled and has drawn 15",
        "UPDATE guard_uses SET charged_micro = 14, forgone_micro = 1 WHERE use_key = 'keen-1'",
    ),
    "a use whose run goes on": _of(
        "keen-off is released and was charged 5, but its execution is settled and has drawn 5",
        "UPDATE reservations SET state = 'settled' WHERE reservation = 'guard:keen-off'",
    ),
    "a use that was charged by another one's run": _of(
        "keen-1 is used and was charged 15",
        "UPDATE guard_uses SET reservation = 'guard:keen-done' WHERE use_key = 'keen-1'",
    ),
    "a use at another moment of its hour": _of(
        "keen-1 is used and was charged 15, but its execution is settled and has drawn 15 (used at",
        "UPDATE guard_uses SET at_ms = at_ms - 1 WHERE use_key = 'keen-1'",
    ),
    "a hold at a later moment of its hour": _of(
        "keen-done is settled and was charged 15",
        "UPDATE guard_uses SET at_ms = at_ms + 1 WHERE use_key = 'keen-done'",
    ),
    "a use that has no run and says that it was charged": _of(
        "keen-peek is used and was charged 2, but its execution is none and has drawn none",
        "UPDATE guard_uses SET charged_micro = 2 WHERE use_key = 'keen-peek'",
    ),
    "a use that says it was let go, and was paid for": _of(
        "keen-1 is used and was charged 0, but its execution is settled and has drawn 15",
        "UPDATE guard_uses SET forgone_micro = 15, charged_micro = 0, reservation = NULL WHERE use_key = 'keen-1'",
    ),
    "a run of a use that is gone": _of(
        "the missing use of guard:keen-off is none and was charged none, but its execution is released and has drawn 5",
        "UPDATE guard_uses SET use_key = 'keen-of' WHERE use_key = 'keen-off'",
    ),
    "a use at another price": _of(
        "keen-1 used 3 at 5 for 2, but 15 was charged and 0 was forgone",
        "UPDATE guard_metrics SET per_units = 2 WHERE metric = 'spark'",
    ),
    "a use of what the seal billed by its feature": _twice(
        "keen-1 was charged 15 for render as spark, but 2 was sealed as render, too", "render"
    ),
    "a use of what the seal billed by its event type": _twice(
        "keen-off was charged 5 for page.render as spark, but 2 was sealed as render, too", "page.render"
    ),
    "a metric that counts what nobody said": _of(
        "metric peek, number 1 is 0 for 1 by itself, phase 1, of look, warned at",
        "UPDATE guard_metrics SET counts = 'look' WHERE metric = 'peek'",
        org=None,
    ),
    "a limit that nobody set so": _of(
        "limit spark of * a day, number 1 is 21, phase as its metric at",
        "UPDATE guard_limits SET amount = 21 WHERE metric = 'spark'",
        org=None,
    ),
    "a limit that is gone": _of(
        "limit peek of * a day, number 1 is none, but the audit log has 20, phase as its metric",
        "DELETE FROM guard_limits WHERE metric = 'peek'",
        org=None,
    ),
    "an override that nobody made": _of(
        "override 4 is spark a day of the org keen: no end until no end at 0 by t: t, but the audit log has none",
        "INSERT INTO guard_overrides (number, metric, reach, target, period, state, at_ms, actor, reason, decided_ms) "
        "VALUES (4, 'spark', 'org', 'keen', 'day', 'in_force', 0, 't', 't', 0)",
        org=None,
    ),
    "an override that was refused and is in force": _of(
        "word on override 2 is in force at",
        "UPDATE guard_overrides SET state = 'in_force' WHERE number = 2",
        org=None,
    ),
    "an override that was ended and is in force again": _of(
        "word on override 3 is in force at",
        "UPDATE guard_overrides SET state = 'in_force' WHERE number = 3",
        org=None,
    ),
    "an override that was ended, and waits for a word again": _of(
        "word on override 3 is none, but the audit log has ended at",
        "UPDATE guard_overrides SET state = 'asked', decided_ms = NULL WHERE number = 3",
        org=None,
    ),
    "an override that somebody else ended": _of(
        "word on override 3 is ended at",
        "UPDATE guard_overrides SET decided_by = 'ghost' WHERE number = 3",
        org=None,
    ),
    "a metric that lets through what nobody may pay": _of(
        "warned at 200000, let through unknown at",
        "UPDATE guard_metrics SET fails_open = TRUE WHERE metric = 'spark'",
        org=None,
    ),
    "a metric that warns nobody": _of(
        "metric spark, number 1 is 5 for 1 by itself, phase 3, of its name, warned at 0 at",
        "UPDATE guard_metrics SET warn_ppm = 0 WHERE metric = 'spark'",
        org=None,
    ),
    "a metric that charges from another moment on": _of(
        "metric spark, number 1 is 5 for 1 by itself, phase 3, of its name, warned at 200000 at",
        "UPDATE guard_metrics SET at_ms = at_ms + 86400000 WHERE metric = 'spark'",
        org=None,
    ),
    "a limit of another moment": _of(
        "limit spark of * a day, number 1 is 20, phase as its metric at",
        "UPDATE guard_limits SET at_ms = at_ms + 1 WHERE metric = 'spark'",
        org=None,
    ),
    "an override of a plan that was a pattern's": _of(
        "override 3 is peek a hour of the plan ke*",
        "UPDATE guard_overrides SET reach = 'plan' WHERE number = 3",
        org=None,
    ),
    "an override that ends later than was said": _of(
        "override 1 is peek a hour of the pattern ke*: 7 until",
        "UPDATE guard_overrides SET ends_ms = ends_ms + 1 WHERE number = 1",
        org=None,
    ),
}
