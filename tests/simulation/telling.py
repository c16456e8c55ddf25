"""How the effects of a trace read: a line each."""

from __future__ import annotations

import re
from typing import Final

from drawdown.worker.engine.effects import (
    AskWhoFills,
    ChargeMoney,
    Effect,
    LookUp,
    LookUpMoney,
    Push,
    ReadCustomers,
    ReadDrawn,
    ReadTotals,
    SendHalts,
    SendHooks,
    Transaction,
)
from tests.simulation.server import Reading

ADDRESS: Final = re.compile(r" at 0x[0-9a-f]+")
"""Where in memory something without words of its own lies: in each process, and in each life, somewhere else."""


def name_of(effect: Effect | Reading | None) -> str:
    match effect:
        case Transaction(name):
            return name
        case Push(provider) | ReadCustomers(provider) | LookUp(provider) | ReadTotals(provider) | ReadDrawn(provider):
            return f"{type(effect).__name__} {provider}"
        case ChargeMoney(service) | LookUpMoney(service) | AskWhoFills(service):
            return f"{type(effect).__name__} {service}"
    return type(effect).__name__


def describe(effect: Effect | Reading, answer: object, error: Exception | None) -> str:
    what = name_of(effect)
    match effect:
        case Push(_, batch):
            what += " " + " ".join(f"{one.key}={one.quantity}#{one.attempt}" for one in batch)
        case LookUp(_, asked):
            what += " " + " ".join(one.key for one in asked)
        case ChargeMoney(_, charges) | LookUpMoney(_, charges):
            what += " " + " ".join(f"{one.charge_id}={one.amount}" for one in charges)
        case ReadTotals(_, asked):
            what += f" {list(asked)}"
        case ReadCustomers(_, ids) | ReadDrawn(_, ids):
            what += f" {list(ids)}"
        case SendHalts(halts):
            what += " " + " ".join(f"{one.org_id}@{one.cell_id}" for one in halts)
        case SendHooks(messages):
            what += " " + " ".join(f"{one.message_id}@{one.endpoint}" for one in messages)
    return f"{what} -> {short(error if error is not None else answer)}"


def short(value: object) -> str:
    if isinstance(value, Exception):
        return f"{type(value).__name__}: {value}".split("\n", 1)[0][:160]
    return ADDRESS.sub("", repr(value))[:200]
