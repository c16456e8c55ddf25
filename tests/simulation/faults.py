"""What goes wrong, how often, and how often it did. Guarantee: all chance comes from the seed."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from drawdown.providers.kit.emulator import FaultPlan
from tests.emulators.autumn import LOSS_FAULTS, READ_FAULTS, TRACK_FAULTS
from tests.emulators.stripe import BILLING_FAULTS

CHANCE: Final = {
    # at any effect
    "crash_before": 0.008,
    "crash_after": 0.008,
    "paused_past_lease": 0.004,
    "answer_delayed": 0.25,
    # transactions: the last is a process that dies when all is done but the commit
    "transaction_failed": 0.008,
    "serialisation_failure": 0.008,
    "crash_before_commit": 0.006,
    "commit_answer_lost": 0.008,
    # providers
    "request_lost": 0.04,
    "delivered_twice": 0.06,
    "answer_lost": 0.04,
    "answer_raised": 0.03,
    "answer_partly_lost": 0.04,
    "throttled": 0.03,
    "throttled_nonsense": 0.04,
    "read_failed": 0.03,
    "read_raised": 0.02,
    "lookup_failed": 0.3,
    # cells
    "halt_request_lost": 0.2,
    "halt_answer_lost": 0.2,
    "halts_raised": 0.08,
    "halt_delivered_twice": 0.2,
    "moved_before_halt": 0.2,
    # the server: a request's read of the database
    "unreadable": 0.05,
    # a watch: its provider answers nothing for a quarter of an hour
    "outage": 0.08,
    # crash: what the other steps of that process had in flight is delivered all the same
    "delivered_after_death": 0.6,
    # providers behind HTTP: a crash between two calls of one effect; a request that arrives long after it was given up
    "crash_within": 0.03,
    "held_up": 0.1,
    # webhooks
    "webhook_lost": 0.3,
    "webhook_doubled": 0.5,
    "webhook_late": 0.3,
    "webhook_forged": 0.4,
}
EMULATED: Final = {
    "autumn": {
        **dict.fromkeys(TRACK_FAULTS, 0.03),
        **dict.fromkeys(READ_FAULTS, 0.03),
        **dict.fromkeys(LOSS_FAULTS, 0.05),
        "reads_lag": 0.2,
        "key_store_refuses": 0.1,
        "uncharged_200": 0.25,
        **dict.fromkeys(("queued_late", "queued_dropped", "claimed_not_applied", "key_store_hangs"), 0.05),
    },
    "stripe": {
        **dict.fromkeys(BILLING_FAULTS, 0.04),
        "error_500_after": 0.06,
        "cached_500": 0.1,
        "late_rejection": 0.12,
        "session_expired": 0.15,
        "batch_refused": 0.3,
        "reads_lag": 0.2,
        "reads_fail": 0.15,
    },
}
"""What the emulators are given, at an intensity of one."""
TROUBLES: Final = (("uncharged_200",), ("key_store_refuses",), LOSS_FAULTS)
"""An account at Autumn has one of these."""
MOST: Final = 1.2
"""The intensity at providers, at most: some calls go through."""
INTENSITIES: Final = (0.0, 0.3, 1.0, 1.0, 2.5)


@dataclass
class Faults:
    """Draws faults from the seed and counts those that struck."""

    rng: random.Random
    intensity: float = 1.0
    counts: Counter[str] = field(default_factory=Counter)

    def strikes(self, kind: str, called: str | None = None) -> bool:
        """Whether this fault happens now; it is counted as `called`. Draws in any case, so that a trace does not depend
        on what is switched on."""
        struck = self.rng.random() < CHANCE[kind] * self.intensity
        if struck:
            self.counts[called or kind] += 1
        return struck

    def note(self, kind: str) -> None:
        """Count what the world does by itself: a provider goes down, a sample is late."""
        self.counts[kind] += 1

    def plan(self, provider: str) -> FaultPlan:
        """An emulator's plan, drawn from the same seed."""
        most = min(self.intensity, MOST)
        # One event stands for a key: where it says "charged nothing", a key store that fails open draws on the balance
        # without a trace; and what was drawn twice, beside what was drawn without an event, only a person tells
        # apart. No account has more than one of these troubles.
        spared = set(TROUBLES) - {self.rng.choice(TROUBLES)}
        never = {kind for kinds in spared for kind in kinds}
        made = FaultPlan(rates={kind: rate * most for kind, rate in EMULATED[provider].items() if kind not in never})
        made.rng = self.rng
        return made
