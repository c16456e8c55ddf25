"""The table of push states, the names that annotations list, and the numbers by state agree."""

from __future__ import annotations

from dataclasses import fields
from typing import get_args

from drawdown.schema.push_states import OPEN, STATES, Open, OpenPushes, Settled
from drawdown.worker.push import lists


def test_push_state_names_are_consistent() -> None:
    assert tuple(OPEN) == get_args(Open) == tuple(one.name for one in fields(OpenPushes))
    assert tuple(name for name in STATES if name not in OPEN) == get_args(Settled)
    assert set(lists.STATES) == {"open", *STATES, "any"}
