"""Where planted bugs are looked for: the seed that showed each last, for how long, and with which providers."""

from __future__ import annotations

from typing import Any, Final

from drawdown.providers.embedded import NAME as EMBEDDED
from tests.simulation.mutants_credits import CREDITS
from tests.simulation.mutants_jobs import JOBS
from tests.simulation.mutants_need import NEED
from tests.simulation.mutants_remote import REMOTE
from tests.simulation.mutants_restore import RESTORE
from tests.simulation.mutants_seconds import SECONDS
from tests.simulation.mutants_stream import STREAM
from tests.simulation.providers import AUTUMN, MEMORY, STRIPE
from tests.simulation.providers import REMOTE as REMOTE_NAMES

SEEDS: Final = 30
TICKS: Final = 20
SEEN_AT: Final[dict[str, tuple[int, int]]] = {
    "watermark advanced without sealing": (0, 6),
    "unknown taken as rejected, voided and sealed again": (0, 20),
    "duplicate taken as a failure": (7, 20),
    "voided pushes still count as sealed": (2, 20),
    "mapping of today used for old windows": (8, 20),
    "assignment of now used for old windows": (1, 20),
    "carry forgotten by a void": (75, 20),
    "arrivals of a stopped organisation lost": (2, 20),
    "strangers in a bucket behind the watermark lost": (9, 20),
    "answers given to the wrong pushes": (2, 20),
    "a halt acknowledged once is never told again": (3, 20),
    "given back before it is known what was charged": (92, 40),
    "voided without asking the balance": (12, 40),
    "top-ups that were told are not remembered": (14, 20),
    "409 at Autumn taken as delivered": (6, 20),
    "any 200 of Stripe's taken as accepted": (15, 60),
    "fresh identifier at each attempt at Stripe": (3, 20),
    "absent before the lag is over, voided at once": (12, 20),
    "absent after the lag, voided while it may be applied": (12, 20),
    "found as nothing charged, taken as accepted": (16, 20),
    "lookups given to the wrong pushes": (8, 20),
    "key retention ignored": (6, 20),
    "keys expire only as a tick begins": (10, 80),
    "late rejection ignored": (5, 20),
    "wire key not kept": (3, 20),
    "paused provider still sent": (0, 20),
    "unit of one feature forgotten on the wire": (3, 20),
    "units of single features not sealed": (3, 20),
    "customer filled in, usage left pending": (3, 20),
    "the witness is ignored": (1, 20),
    "lost windows' pushes start as due": (51, 20),
    "absent in a lost history, voided instead of sent": (1, 20),
    "recover forgets open due pushes": (39, 60),
    "a tick goes on in another history": (9, 40),
    "what a lookup found keeps no name": (50, 20),
    "202 taken as accepted": (12, 20),
    "reconcile voids what merely lags": (20, 80),
    "older read overwrites a newer one": (1, 20),
    "a watch halts on its estimate, and asks nobody": (25, 10),
    "the halted are never asked again": (1, 20),
    "a webhook that was not fetched is done": (32, 40),
    "a repeated webhook counts again": (1, 20),
    "the gate is open to the halted": (1, 20),
    "once a cell does not answer, none is told": (16, 20),
    "200 that charged nothing taken as accepted": (8, 10),
    "unknown taken as accepted": (0, 20),
    "revision reused, conflict ignored": (0, 20),
    "an unread balance is zero": (0, 20),
    "the gate asks whenever it is asked": (13, 20),
    "two ticks tell of one job": (14, 30),
    "a read answers for pushes that were settled after it": (37, 20),
    "a batch that broke over there is refused": (4, 20),
    "a batch without an answer is refused": (149, 20),
    "what is not streamed moves the others' answers": (0, 40),
    "one of a batch answers for all": (22, 20),
    "what was asked for counts as charged": (2, 20),
}
"""Where a bug showed last, if not in the first seed, and within how many ticks: tests begin with it. `make mutants`
begins with the first."""
LONGER: Final = {
    "recover forgets open due pushes": 60,
    "any 200 of Stripe's taken as accepted": 60,
    "keys expire only as a tick begins": 80,
    "a tick goes on in another history": 40,
    "reconcile voids what merely lags": 80,
}
"""Ticks, where what a bug is about takes its time."""
SLOW: Final = frozenset({"absent in a lost history, voided instead of sent", "reconcile voids what merely lags"})
"""Caught only by what is never healed or shows after a long life, which takes half a minute: not hunted every day."""
GENTLE: Final = frozenset({"what a lookup found keeps no name"})
"""Where much that goes wrong hides a bug."""
BILLED_BY: Final = {
    "voided without asking the balance": AUTUMN,
    "top-ups that were told are not remembered": AUTUMN,
    "null deductions taken as unreadable": AUTUMN,
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
    if name in CREDITS:
        return {"billing": (EMBEDDED, AUTUMN), "intensity": 1.0, "restores": False}
    if name in NEED:
        return {"billing": (EMBEDDED, MEMORY), "intensity": 0.5, "restores": False}
    if name in JOBS:
        return {"restores": False, "orders": True}
    if name in STREAM:
        return {"billing": (EMBEDDED, STRIPE), "intensity": 1.0, "restores": False}
    if name in SECONDS:
        return {"billing": IN_SECONDS.get(name, BY_WEBHOOK), "intensity": 1.0, "restores": False}
    intensity = 0.3 if name in GENTLE else 1.0
    remote = BILLED_BY.get(name, REMOTE_NAMES[seed % 2])
    if name in RESTORE:
        return {"billing": (EMBEDDED, MEMORY, remote), "intensity": intensity, "restores": True}
    if name in REMOTE:
        return {"billing": (EMBEDDED, remote), "intensity": 1.0, "restores": False}
    return {"restores": False}
