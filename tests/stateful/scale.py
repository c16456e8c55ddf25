"""How long the machines run. Guarantee: the same examples each time, unless more are asked for.

`STATEFUL_EXAMPLES=1000 pytest tests/stateful` tries that many, new ones each time.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

EXAMPLES = "STATEFUL_EXAMPLES"


def asked_for_more() -> bool:
    return EXAMPLES in os.environ


def scale(examples: int, steps: int) -> settings:
    """Few fixed examples for every day, as many as asked for otherwise."""
    asked = os.environ.get(EXAMPLES)
    return settings(
        max_examples=int(asked) if asked else examples,
        stateful_step_count=steps,
        derandomize=asked is None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=asked is not None,
    )


def until_red(examples: int, steps: int) -> settings:
    """Fixed examples until one fails, and not a shorter one looked for: planted bugs only have to be seen."""
    return settings(
        scale(examples, steps),
        report_multiple_bugs=False,
        phases=[Phase.generate],
        derandomize=True,
        max_examples=examples,
    )
