"""Where planted bugs are looked for: the seed that showed each last, for how long, and with which providers."""

from __future__ import annotations

from typing import Any, Final

from drawdown.providers.embedded import NAME as EMBEDDED
from tests.simulation.mutants_remote import REMOTE
from tests.simulation.mutants_restore import RESTORE
from tests.simulation.mutants_seconds import SECONDS
from tests.simulation.providers import AUTUMN, MEMORY, STRIPE
from tests.simulation.providers import REMOTE as REMOTE_NAMES

SEEDS: Final = 30
TICKS: Final = 20
SEEN_AT: Final = {
    "unknown taken as rejected, voided and sealed again": 1,
    "duplicate taken as a failure": 4,
    "voided pushes still count as sealed": 2,
    "mapping of today used for old windows": 1,
    "assignment of now used for old windows": 1,
    "carry forgotten by a void": 5,
    "arrivals of a stopped organisation lost": 1,
    "strangers in a bucket behind the pack lost": 21,
    "answers given to the wrong pushes": 2,
    "a halt acknowledged once is never told again": 1,
    "voided without asking the balance": 28,
    "top-ups that were told are not remembered": 28,
    "409 at Autumn taken as delivered": 20,
    "any 200 of Stripe's taken as accepted": 15,
    "fresh identifier at each attempt at Stripe": 3,
    "absent before the lag is over, voided at once": 4,
    "absent after the lag, voided while it may be applied": 4,
    "found as nothing charged, taken as accepted": 16,
    "lookups given to the wrong pushes": 4,
    "key retention ignored": 4,
    "keys expire only as a tick begins": 2,
    "late rejection ignored": 13,
    "wire key not kept": 3,
    "paused provider still sent": 2,
    "unit of one feature forgotten on the wire": 3,
    "units of single features not sealed": 5,
    "customer filled in, usage left pending": 3,
    "the witness is ignored": 1,
    "lost windows' pushes start as due": 15,
    "absent in a lost history, voided instead of sent": 1,
    "recover forgets open due pushes": 41,
    "a tick goes on in another history": 1,
    "what a lookup found keeps no name": 4,
    "202 taken as accepted": 12,
    "reconcile adopts twice": 59,
    "reconcile voids what merely lags": 5,
    "older read overwrites a newer one": 3,
    "a watch halts on its estimate, and asks nobody": 10,
    "the halted are never asked again": 1,
    "a webhook that was not fetched is done": 13,
    "a repeated webhook counts again": 1,
    "the gate is open to the halted": 1,
    "the gate asks whenever it is asked": 26,
    "once a cell does not answer, none is told": 37,
}
"""Where a bug showed last, if not in the first seed: tests begin with it. `make mutants` begins with the first."""
LONGER: Final = {
    "recover forgets open due pushes": 60,
    "any 200 of Stripe's taken as accepted": 60,
    "keys expire only as a tick begins": 80,
    "reconcile adopts twice": 40,
    "a tick goes on in another history": 40,
    "reconcile voids what merely lags": 80,
}
"""Ticks, where what a bug is about takes its time."""
GENTLE: Final = frozenset({"what a lookup found keeps no name"})
"""Where much that goes wrong hides a bug."""
BILLED_BY: Final = {
    "voided without asking the balance": AUTUMN,
    "top-ups that were told are not remembered": AUTUMN,
    "null deductions taken as unreadable": AUTUMN,
    "reconcile adopts twice": AUTUMN,
    "reconcile voids what merely lags": STRIPE,
    "what a lookup found keeps no name": STRIPE,
    "whole units carried for ever": STRIPE,
}
"""The provider, where only one of them can show a bug."""
BY_WEBHOOK: Final = (EMBEDDED, AUTUMN, STRIPE)
IN_SECONDS: Final = {
    "the halted are never asked again": (EMBEDDED, MEMORY),
    "a webhook that was not fetched is done": (EMBEDDED, STRIPE),
}
"""The providers of bugs about what happens between ticks, if not `BY_WEBHOOK`."""


def world_of(name: str, seed: int) -> dict[str, Any]:
    """Bugs about a provider behind HTTP are looked for where there is one, in turns, and much goes wrong."""
    if name == "older read overwrites a newer one":  # only there does a read show its age
        return {"billing": (EMBEDDED, MEMORY), "intensity": 1.0, "restores": False}
    if name in SECONDS:
        return {"billing": IN_SECONDS.get(name, BY_WEBHOOK), "intensity": 1.0, "restores": False}
    intensity = 0.3 if name in GENTLE else 1.0
    remote = BILLED_BY.get(name, REMOTE_NAMES[seed % 2])
    if name in RESTORE:
        return {"billing": (EMBEDDED, MEMORY, remote), "intensity": intensity, "restores": True}
    if name in REMOTE:
        return {"billing": (EMBEDDED, remote), "intensity": 1.0, "restores": False}
    return {"restores": False}
