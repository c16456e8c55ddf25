"""A fixed share of `make interleave`: those pairs that have lost usage, credit or a halt, or come nearest to it."""

from __future__ import annotations

import pytest

from tests.interleave.explore import Explorer
from tests.interleave.registry import PARTIES

pytestmark = pytest.mark.xdist_group("interleave")

PAIRS = (
    ("seal", "seal"),
    ("seal", "cli.nouns.orgs:release"),
    ("cli.nouns.orgs:release", "seal"),
    ("seal", "begin_tick"),
    ("seal", "host inserts late"),
    ("host inserts late", "seal"),
    ("cli.nouns.samples:withdraw", "seal"),
    ("assign", "seal"),
    ("worker.commands.prune:prune", "host inserts ancient"),
    ("worker.commands.prune:in_portions folding", "worker.commands.prune:in_portions folding"),
    ("seal", "host takes events"),
    ("host takes events", "seal"),
    ("host takes events", "host takes events"),
    ("host takes events", "host takes others of their keys"),
    ("host takes others of their keys", "host takes events"),
    ("host takes an organisation's own", "host takes others of their keys"),
    ("host takes others of their keys", "host takes an organisation's own"),
    ("host takes another one's own of the same ids", "host takes events"),
    ("host takes another one's of the same ids", "host takes events"),
    ("worker.commands.prune:prune", "host takes ancient events"),
    ("cli.nouns.backfills:close what is old", "worker.commands.prune:prune"),
    ("worker.commands.prune:prune", "cli.nouns.backfills:close what is old"),
    ("cli.nouns.samples:mend_", "cli.nouns.samples:mend_ its twin"),
    ("cli.nouns.samples:mend_ its twin", "cli.nouns.samples:mend_"),
    ("take_batch", "seal"),
    ("seal", "cli.nouns.batches:withdraw"),
    ("take_batch", "take_batch of that name, with other content"),
    ("take_batch of that name, with other content", "cli.nouns.batches:withdraw"),
    ("cli.nouns.events:withdraw", "seal"),
    ("cli.nouns.events:withdraw", "host takes others of their keys"),
    ("cli.nouns.features:map_event_", "seal"),
    ("seal", "cli.nouns.features:map_event_"),
    ("cli.nouns.features:map_event_", "host takes others of their keys"),
    ("host takes others of their keys", "cli.nouns.features:map_event_"),
    ("server.usage.intake:_done events without times", "server.usage.intake:_done the same again"),
    ("server.usage.intake:_done the same again", "server.usage.intake:_done events without times"),
    ("server.usage.intake:_done samples", "server.usage.intake:_done others of their ids"),
    ("server.usage.intake:_done others of their ids", "server.usage.intake:_done samples"),
    ("seal", "server.usage.intake:_done samples"),
    ("begin_replay", "begin_replay"),
    ("take_order", "cli.nouns.orders:cancel"),
    ("accept_terms", "claim"),
    ("claim", "claim"),
    ("settle", "server.api.webhooks:take refused"),
    ("cli.nouns.pushes:void", "confirm"),
    ("reconcile_short", "reconcile_short"),
    ("cli.nouns.ledger:grant keyed", "cli.nouns.ledger:grant keyed"),
    ("cli.nouns.ledger:rate", "cli.nouns.ledger:rate"),
    ("cli.nouns.provider_estimates:rate", "cli.nouns.provider_estimates:rate"),
    ("project", "cli.nouns.orgs:override ending"),
    ("host wakes a sandbox", "due_halts"),
    ("host starts a sandbox", "cli.nouns.orgs:halt"),
    ("server.api.together:_decide", "server.api.together:_decide"),
    ("server.api.together:_decide", "cli.nouns.executions:settle acme"),
    ("cli.nouns.settlements:batch", "cli.nouns.settlements:reverse"),
    ("cli.nouns.tiers:buy", "cli.nouns.ledger:grant onto a plan"),
    ("cli.nouns.executions:accept in a new month", "expire_holds"),
    ("cli.nouns.executions:accept", "cli.nouns.executions:accept another"),
    ("cli.nouns.executions:accept", "expire_holds"),
    ("cli.nouns.executions:settle", "expire_holds"),
    ("cli.nouns.pools:allot", "cli.nouns.pools:allot the rest"),
    ("cli.nouns.guard_acts:consume", "cli.nouns.guard_acts:consume another"),
    ("cli.nouns.guard_acts:consume", "cli.nouns.guard_acts:consume"),
    ("cli.nouns.guard_acts:reserve", "cli.nouns.guard_acts:consume"),
    ("server.api.together:_alone the same as its own", "cli.nouns.guard_acts:consume"),
    ("cli.nouns.guard_acts:consume", "server.api.together:_alone the same as its own"),
    ("server.api.together:_decide uses", "server.api.together:_decide other uses"),
    ("server.api.together:_decide uses", "cli.nouns.guard_acts:settle"),
    ("cli.nouns.guard_acts:consume", "server.api.together:_decide uses"),
    ("cli.nouns.guard_acts:settle", "cli.nouns.guard_acts:release"),
    ("cli.nouns.guard_acts:settle what is over", "cli.nouns.guard_acts:consume"),
    ("cli.nouns.guard_acts:extend", "cli.nouns.guard_acts:consume"),
    ("cli.nouns.guard_acts:consume", "cli.nouns.guard:reconcile"),
    ("cli.nouns.guard_acts:consume", "expire_holds"),
    ("cli.nouns.guard:set_ a new one", "cli.nouns.guard:set_ it otherwise"),
    ("cli.nouns.guard:set_ a price of what may be metered", "cli.nouns.features:map_event_ what may be charged"),
    ("cli.nouns.features:map_event_ what may be charged", "cli.nouns.guard:set_ a price of what may be metered"),
    ("cli.nouns.limits:set_", "cli.nouns.limits:end"),
    ("cli.nouns.limits:set_", "cli.nouns.limits:set_"),
    ("cli.nouns.overrides:_decide", "cli.nouns.overrides:_decide against it"),
    ("cli.nouns.overrides:_add", "cli.nouns.overrides:_add"),
    ("server.api.guard.dark:record", "server.api.guard.dark:_record_now the same"),
    ("cli.nouns.pools:allot", "expire_holds"),
    ("expire_holds", "cli.nouns.executions:extend a member's metered run"),
    ("cli.nouns.executions:accept paid by a pool", "cli.nouns.payers:end"),
    ("cli.nouns.executions:accept paid by a pool", "cli.nouns.executions:accept paid by it, too"),
    ("cli.nouns.settlements:batch", "cli.nouns.executions:settle pixel's"),
    ("shrink_holds", "shrink_holds"),
    ("shrink_holds", "cli.nouns.executions:settle metered"),
    ("cli.nouns.executions:settle metered", "shrink_holds"),
    ("cli.nouns.executions:extend metered", "shrink_holds"),
    ("cli.nouns.executions:accept metering", "cli.nouns.executions:accept the same sandbox"),
    ("cli.nouns.executions:accept the sandbox of another", "cli.nouns.executions:settle metered"),
    ("settle", "shrink_holds"),
    ("cli.nouns.executions:accept far", "cli.nouns.executions:accept another far"),
    ("cli.nouns.executions:settle far", "cli.nouns.executions:settle far"),
    ("cli.nouns.executions:settle far", "cli.nouns.executions:release far"),
    ("cli.nouns.executions:settle far late", "expire_holds_elsewhere"),
    ("cli.nouns.executions:settle far", "seal"),
    ("cli.nouns.executions:extend far", "cli.nouns.executions:accept far"),
    ("cli.nouns.ledger:grant to a new customer", "cli.nouns.plans:set_ gives a new customer"),
    ("cli.nouns.executions:accept in a month of nothing", "cli.nouns.plans:set_ gives, by a clock behind"),
    ("cli.nouns.plans:set_ gives", "cli.nouns.plans:set_ rollover"),
    ("cli.nouns.plans:set_ holds", "cli.nouns.plans:set_ factor"),
    ("cli.nouns.tiers:set_", "cli.nouns.tiers:set_ at once"),
    ("expire_holds told", "cli.nouns.hooks:end"),
    ("cli.nouns.hooks:end", "cli.nouns.hooks:replay"),
    ("cli.nouns.settlements:reverse", "cli.nouns.settlements:reverse another's under the same key"),
)


@pytest.mark.parametrize("name", PARTIES)
def test_each_transaction_is_reached_on_the_stage(explorer: Explorer, name: str) -> None:
    """What the stage no longer brings about would be explored by nobody, and not be missed."""
    assert PARTIES[name].ready(explorer.stage()) is not None


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=[" | ".join(one) for one in PAIRS])
def test_whatever_the_first_has_done_when_the_second_comes(explorer: Explorer, first: str, second: str) -> None:
    seen = list(explorer.pair(first, second))
    assert seen, "they have nothing in common: this pair shows nothing"
    assert [f"{one.case}: {one.wrong}" for one in seen if one.wrong] == []
