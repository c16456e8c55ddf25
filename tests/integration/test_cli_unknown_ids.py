"""A mistyped id is refused, with the nearest one there is, by every command that takes one: also by those to come."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.main import get_command

from drawdown.cli.main import app, run
from drawdown.cli.tree import walk
from drawdown.events.envelope import UsageEvent
from drawdown.ledger.draws import Cost
from drawdown.schema import declare
from drawdown.schema.audit import By
from drawdown.schema.database import read, write
from drawdown.schema.messages import Message
from drawdown.schema.units import WINDOW_MS
from drawdown.server.declarations import DECLARED
from drawdown.worker.access import keys as api_keys
from drawdown.worker.access import people as console_users
from drawdown.worker.executions import actions as executions
from drawdown.worker.executions.request import Request
from drawdown.worker.guard import terms as guard_terms
from drawdown.worker.guard import use as guard_holds
from drawdown.worker.guard.use import Wish
from drawdown.worker.hooks import actions as hooks
from drawdown.worker.settlements import actions as settlements
from drawdown.worker.sources.events.store import take
from drawdown.worker.topup import actions as topups
from drawdown.worker.topup.fill import begin
from drawdown.worker.usage.backfills import open_backfill
from drawdown.worker.wallets import actions as credit
from drawdown.worker.wallets import pools, tiers
from tests.fake_payments import CAN
from tests.sqlite_databases import fresh
from tests.world import T0, Fleet

TREE: dict[tuple[str, ...], Any] = dict(walk(get_command(app)))
LEAVES = {" ".join(path): one for path, one in TREE.items() if not hasattr(one, "commands")}
KEY = f"usage:acme:{T0}:compute_1gb"
FILE = "ids.csv"
MESSAGE = Message("endpoint.test", f"endpoint.test:app:{T0}", T0, {}).message_id


@dataclass(frozen=True)
class Typed:
    """How a parameter is given wrongly, beside what its command needs otherwise, and which id is nearest."""

    words: tuple[str, ...]
    near: str
    file: str | None = None
    """The content of FILE, where the id stands in one."""


def t(words: str, near: str, file: str | None = None) -> Typed:
    return Typed(tuple(words.split()), near, file)


TERMS = "--below 1 --amount 5 --price 100 --currency usd --customer cus_1 --most 1000"
ALL_IN_DOUBT = "--outcome accepted --evidence e"
RANGE = "--from 2026-01-01 --to 2026-01-02"
# Each parameter that takes an id, by command and the parameter's name.
IDS: dict[tuple[str, str], Typed] = {
    ("status", "org"): t("acmee", "acme"),
    ("verify", "org"): t("--org acmee", "acme"),
    ("usage", "org"): t(f"acmee {RANGE}", "acme"),
    ("reconcile", "org"): t("acmee", "acme"),
    ("reconcile", "provider"): t("--provider embeddedd", "embedded"),
    ("replay", "orgs"): t(f"acme acmee {RANGE}", "acme"),
    ("replay", "provider"): t(f"--provider embeddedd {RANGE}", "embedded"),
    ("tick", "new_org_provider"): t("--new-org-provider embeddedd", "embedded"),
    **{
        (name, "new_org_provider"): t("--new-org-provider embeddedd", "embedded") for name in ("run", "up", "worker")
    },
    ("org list", "provider"): t("--provider embeddedd", "embedded"),
    ("org list", "plan"): t("--plan tema", "team"),
    ("org list", "after"): t("--after acmee", "acme"),
    ("org scheduled", "provider"): t("--provider embeddedd", "embedded"),
    ("org show", "org"): t("acmee", "acme"),
    ("org assign", "names"): t("acme acmee", "acme"),
    ("org assign", "provider"): t("acme --provider embeddedd", "embedded"),
    ("org assign", "customer"): t("acme --customer wayn", "wayne"),
    ("org assign", "file"): t(f"--file {FILE}", "acme", "org_id,customer_id\nacmee,\n"),
    ("org override", "org"): t("acmee --never-halt", "acme"),
    ("org halt", "org"): t("acme acmee", "acme"),
    ("org halt", "file"): t(f"--file {FILE}", "acme", "org_id\nacme\nacmee\n"),
    ("org halt", "provider"): t("--provider embeddedd", "embedded"),
    ("org halt", "plan"): t("--plan tema", "team"),
    ("org usage", "org"): t("--org acmee", "acme"),
    ("org usage", "feature"): t("--feature compute_1gbb", "compute_1gb"),
    ("org resume", "org"): t("acmee", "acme"),
    ("feature map", "feature"): t("compute_1gbb --memory-mb 7", "compute_1gb"),
    ("feature map-event", "event_type"): t("page.rendr draw", "page.render"),
    ("feature map-event", "feature"): t("page.render compute_1gbb", "compute_1gb"),
    ("event list", "org"): t("--org acmee --from 2026-01-01", "acme"),
    ("event show", "event_source"): t("shopp e-first", "shop"),
    ("event show", "event"): t("shop e-frist", "e-first"),
    ("event show", "org"): t("shop e-first --org acmee", "acme"),
    ("event sources", "source"): t("--source shopp", "shop"),
    ("event sources", "event_type"): t("--event-type page.rendr", "page.render"),
    ("event sources", "org"): t("--org acmee", "acme"),
    ("event invalid", "key"): t("--key ap", "app"),
    ("event withdraw", "org"): t("shop e-first --org acmee", "acme"),
    ("event withdraw", "source"): t("shopp e-first", "shop"),
    ("event withdraw", "event"): t("shop e-first e-frist", "e-first"),
    ("batch list", "source"): t("--source exprots", "exports"),
    ("batch show", "batch"): t("b-fisrt", "b-first"),
    ("batch accept", "batch"): t("b-wiat", "b-wait"),
    ("batch withdraw", "batch"): t("b-fisrt", "b-first"),
    ("source pause", "source"): t("exprots", "exports"),
    ("source remove", "source"): t("exprots", "exports"),
    ("backfill open", "org"): t(f"july --org acmee {RANGE}", "acme"),
    ("backfill list", "org"): t("--org acmee", "acme"),
    **{
        (f"backfill {verb}", name): t(f"junne {more}", "june")
        for verb, name, more in (
            ("stage", "name", FILE), ("show", "backfill", ""), ("close", "backfill", "--hash 0"),
            ("revert", "backfill", ""),
        )
    },
    ("feature end", "feature"): t("compute_1gbb", "compute_1gb"),
    ("sample list", "org"): t("--org acmee --from 2h", "acme"),
    ("sample quarantined", "org"): t("--org acmee", "acme"),
    ("sample quarantined", "why"): t("--why interval_negativ", "interval_negative"),
    ("sample repair", "ids"): t("bad-sample bda-sample", "bad-sample"),
    ("sample repair", "org"): t("--org acmee", "acme"),
    ("sample repair", "why"): t("--why interval_negativ", "interval_negative"),
    ("sample dismiss", "ids"): t("bda-sample", "bad-sample"),
    ("sample dismiss", "org"): t("--org acmee", "acme"),
    ("sample dismiss", "why"): t("--why interval_negativ", "interval_negative"),
    ("sample withdraw", "ids"): t("bda-sample", "bad-sample"),
    ("push list", "org"): t("--org acmee", "acme"),
    ("push list", "provider"): t("--provider embeddedd", "embedded"),
    ("push list", "feature"): t("--feature compute_1gbb", "compute_1gb"),
    ("push sums", "org"): t("--org acmee", "acme"),
    ("push sums", "provider"): t("--provider embeddedd", "embedded"),
    ("push sums", "feature"): t("--feature compute_1gbb", "compute_1gb"),
    ("push void-lost", "keys"): t(f"{KEY}x --evidence e", KEY),
    ("push resolve-all", "org"): t(f"{ALL_IN_DOUBT} --org acmee", "acme"),
    ("push resolve-all", "provider"): t(f"{ALL_IN_DOUBT} --provider embeddedd", "embedded"),
    ("push show", "push"): t(f"{KEY}x", KEY),
    ("push cancel", "keys"): t(f"{KEY}x --reason wrong", KEY),
    ("push resolve-all", "customer"): t(f"{ALL_IN_DOUBT} --customer acmee", "acme"),
    ("push resolve-all", "feature"): t(f"{ALL_IN_DOUBT} --feature compute_1gbb", "compute_1gb"),
    **{
        (f"push {verb}", name): t(f"{words} {more}", near)
        for verb, more in (("retry", ""), ("resolve", "--outcome accepted --evidence e"), ("void", "--evidence e"))
        for name, words, near in (
            ("keys", f"{KEY}x", KEY),
            ("org", "--org acmee", "acme"),
            ("provider", "--provider embeddedd", "embedded"),
        )
    },
    **{
        (f"provider {verb}", "name"): t(f"embeddedd {more}", "embedded")
        for verb, more in (
            ("check", ""), ("resume", ""), ("accept", ""), ("bill-shadow", "--from 2026-01-01"),
            ("webhook", f"{FILE} --header A:b"),
        )
    },
    **{
        (f"provider {verb}", "provider"): t(f"embeddedd {more}", "embedded")
        for verb, more in (
            ("pause", ""), ("rate", "compute_1gb --micro 1"), ("rates", ""), ("show", ""),
            ("when-down", "--policy stop"),
        )
    },
    ("provider rate", "feature"): t("legacy2 compute_1gbb --micro 1", "legacy"),
    ("provider when-down", "plan"): t("embedded --plan tema --policy stop", "team"),
    ("ledger grant", "customer"): t("acmee 5", "acme"),
    ("ledger grant", "plan"): t("acme 5 --plan tema", "team"),
    ("ledger grant", "features"): t("acme 5 --feature compute_1gbb", "compute_1gb"),
    ("ledger lots", "customer"): t("acmee", "acme"),
    ("ledger statement", "customer"): t("acmee --month 2026-01", "acme"),
    ("ledger take-back", "lot"): t("grant:firts", "grant:first"),
    ("ledger show", "customer"): t("acmee", "acme"),
    ("ledger rates", "feature"): t("--feature compute_1gbb", "compute_1gb"),
    ("ledger wallets", "plan"): t("--plan tema", "team"),
    ("ledger wallets", "after"): t("--after acmee", "acme"),
    ("ledger entries", "customer"): t("acmee", "acme"),
    ("ledger billing", "customer"): t("acmee", "acme"),
    ("ledger rate", "feature"): t("compute_1gbb --micro-credits 5", "compute_1gb"),
    ("plan set", "plan"): t("tema --max-concurrent 5", "team"),
    ("plan put", "customer"): t("acmee team", "acme"),
    ("plan put", "plan"): t("acme tema", "team"),
    ("guard set", "metric"): t("lok --phase 1", "look"),
    ("guard set", "counts"): t("look --counts compute_1g", "compute_1gb"),
    ("guard set", "payer"): t("look --payer wayn", "wayne"),
    ("guard uses", "metric"): t("--metric lok", "look"),
    ("guard uses", "org"): t("--org acmee", "acme"),
    ("guard report", "metric"): t("lok", "look"),
    ("guard check", "metric"): t("lok --org acme", "look"),
    ("guard check", "org"): t("look --org acmee", "acme"),
    ("guard check", "payer"): t("paid --org acme --payer wayn", "wayne"),
    ("guard options", "org"): t("acmee look", "acme"),
    ("guard options", "metric"): t("acme lok", "look"),
    ("guard options", "payer"): t("acme paid --payer wayn", "wayne"),
    **{
        (f"guard {verb}", name): t(f"new {words}", near)
        for verb in ("consume", "reserve")
        for name, words, near in (
            ("metric", "lok --org acme", "look"), ("org", "look --org acmee", "acme"),
            ("payer", "paid --org acme --payer wayn", "wayne"),
        )
    },
    ("guard settle", "key"): t("u-11 1", "u-1"),
    ("guard release", "key"): t("u-11", "u-1"),
    ("guard extend", "key"): t("u-11", "u-1"),
    ("limit set", "metric"): t("lok 5", "look"),
    ("limit set", "plan"): t("look 5 --plan tema", "team"),
    ("limit end", "metric"): t("lok", "look"),
    ("limit end", "plan"): t("look --plan tema", "team"),
    ("limit list", "metric"): t("--metric lok", "look"),
    ("limit show", "org"): t("acmee", "acme"),
    **{
        (f"override {verb}", name): t(f"{words} --expires +1d", near)
        for verb in ("make", "ask")
        for name, words, near in (
            ("metric", "lok 5 --org acme", "look"), ("org", "look 5 --org acmee", "acme"),
            ("plan", "look 5 --plan tema", "team"),
        )
    },
    ("override list", "metric"): t("--metric lok", "look"),
    ("tier set", "tier"): t("por --price 5", "pro"),
    ("tier buy", "customer"): t("acmee pro", "acme"),
    ("tier buy", "tier"): t("acme por", "pro"),
    ("pool allot", "pool"): t("curse acme 1 --expires +1d", "course"),
    ("pool allot", "customer"): t("course acmee 1 --expires +1d", "acme"),
    ("pool show", "pool"): t("curse", "course"),
    ("payer allow", "payer"): t("wayn acme", "wayne"),
    ("payer allow", "org"): t("wayne acmee", "acme"),
    ("payer end", "payer"): t("wayn acme", "wayne"),
    ("payer end", "org"): t("wayne acmee", "acme"),
    ("payer list", "payer"): t("--payer wayn", "wayne"),
    ("payer list", "org"): t("--org acmee", "acme"),
    ("execution preview", "payer"): t("--org acme --estimate 1 --payer wayn", "wayne"),
    ("execution accept", "payer"): t("new-run --org acme --estimate 1 --payer wayn", "wayne"),
    ("execution list", "payer"): t("--payer wayn", "wayne"),
    ("topup set", "wallet"): t(f"acmee {TERMS}", "acme"),
    ("topup set", "service"): t(f"acme {TERMS} --service strip", "stripe"),
    ("topup list", "customer"): t("--customer acmee", "acme"),
    ("topup stop", "customer"): t("acmee", "acme"),
    ("topup show", "what"): t("topup:acme:2", "topup:acme:1"),
    **{
        (f"topup {verb}", "wallet"): t(f"acmee {more}", "acme")
        for verb, more in (
            ("resume", ""), ("start", ""), ("card", "--return-to u"), ("portal", "--return-to u"),
        )
    },
    ("topup resolve", "topup"): t("topup:acme:2 --absent --evidence e", "topup:acme:1"),
    ("console user add", "role"): t("bob --role admn", "admin"),
    ("console user role", "name"): t("annn --role admin", "anna"),
    ("console user role", "role"): t("anna --role admn", "admin"),
    ("console user reset", "name"): t("annn", "anna"),
    ("console user end", "name"): t("annn", "anna"),
    ("key create", "scopes"): t("other --scope usage:raed", "usage:read"),
    ("key create", "org"): t("other --scope guard --org acmee", "acme"),
    ("key create", "cell"): t("other --scope guard --cell cell-11", "cell-1"),
    ("key rotate", "name"): t("apps", "app"),
    ("key end", "name"): t("apps", "app"),
    **{
        (f"execution {verb}", "org"): t(f"{key} --org acmee {more}", "acme")
        for verb, key, more in (("preview", "", "--estimate 1"), ("accept", "new", "--estimate 1"),
                                ("block", "", "--project site"), ("list", "", ""))
    },
    **{
        (f"execution {verb}", "key"): t(f"e-11 {more}", "e-1")
        for verb, more in (
            ("draw", "1 --credits 1"), ("extend", ""), ("settle", "--actual 1"), ("release", ""), ("show", ""),
        )
    },
    **{
        (f"execution {verb}", name): t(f"{org} --{name} {typed}", near)
        for verb, org in (("list", ""), ("block", "--org acme"))
        for name, typed, near in (
            ("project", "sitee", "site"), ("action", "rendre", "render"), ("subject", "anna", "ann"),
        )
        if (verb, name) != ("block", "subject")
    },
    **{
        (f"hook {verb}", "endpoint"): t(f"appp {more}", "app")
        for verb, more in (("set", "https://app.example/in"), ("secret", ""), ("rotate", ""), ("end", ""), ("test", ""))
    },
    ("hook set", "events"): t("app https://app.example/in --event balance.lwo", "balance.low"),
    ("hook low", "org"): t("5 --org acmee", "acme"),
    ("hook messages", "org"): t("--org acmee", "acme"),
    ("hook messages", "endpoint"): t("--endpoint appp", "app"),
    ("hook show", "message"): t(f"{MESSAGE}x", MESSAGE),
    ("hook replay", "message"): t(f"{MESSAGE}x", MESSAGE),
    ("hook replay", "endpoint"): t("--failed --endpoint appp", "app"),
    **{(f"export {what}", "org"): t("--org acmee --from 2026-01-01", "acme") for what in ("ledger", "usage")},
    ("vendor set", "feature"): t(
        "compute_1g --vendor v --service s --unit u --units 1 --cost 1 --per 1 --currency USD --from 2026-01-01",
        "compute_1gb"),
    ("cell set", "cell"): t("cell-11 http://127.0.0.1:9", "cell-1"),
    ("cell secret", "cell"): t("cell-11", "cell-1"),
    ("cell remove", "cell"): t("cell-11", "cell-1"),
    ("execution preview", "supplier"): t("--org acme --estimate 1 --supplier pixle", "pixel"),
    ("execution accept", "supplier"): t("new-run --org acme --estimate 1 --supplier pixle", "pixel"),
    ("supplier set", "supplier"): t("pixle --share 5", "pixel"),
    ("supplier freeze", "supplier"): t("pixle", "pixel"),
    **{(f"settlement {verb}", "supplier"): t("--supplier pixle", "pixel") for verb in ("list", "payouts")},
    **{(f"settlement {verb}", "execution"): t("render-11", "render-1") for verb in ("show", "freeze", "reverse")},
    ("settlement list", "org"): t("--org acmee", "acme"),
    ("settlement list", "project"): t("--project siet", "site"),
    ("settlement list", "after"): t("--after render-11", "render-1"),
    ("settlement payout", "supplier"): t("pixle --dry-run", "pixel"),
    ("settlement export", "payout"): t("payout:pixel:2026-1", "payout:pixel:2026-01"),
    ("audit list", "actor"): t("--actor tset", "test"),
    ("audit list", "action"): t("--action org_asign", "org_assign"),
    ("audit list", "target"): t("--target acmee", "acme"),
    ("audit list", "via"): t("--via htp", "http"),
}  # fmt: skip
VALUES = {  # declared parameters that by their kind are no id
    (one.name, param.word)
    for one in DECLARED
    for param in one.params
    if param.kind not in (declare.ANY_ID, declare.ID, declare.KEY, declare.ORG, declare.TEXT)
}
# Other parameters that take no id of ours, by name, wherever they are. A provider knows the ids that it is asked about.
NO_IDS = """actor reason dry_run from_ to most new unit up_to cancel unchecked unassigned state search zone all_
    evidence outcome error amount per url before by as_csv shard processes deadline quiet every once watch accept_clock
    metrics_file heartbeat_url new_org_from stop correct threshold shadow_threshold since restored host port files map_
    set_ id_from_line id_prefix time_format sum format_ below price currency per_day per_month shadow paid return_to
    strict rejects body header estimate use overage for_ queued number credits actual incurred roles apply acknowledge
    period expires month settled_by shape rules hash cells tolerance phase time_zone quantity permanent vendor final
    least keep open_for fail_open let_through grant_limit serve browser closed_after kept older_than queue cluster
    shards deep folder force since_last at_most nightly_at"""
NONE = set(NO_IDS.split())
BESIDE = {  # names that are an id in one command and none in another; a page goes on after any text
    ("ledger grant", "key"), ("key create", "name"), ("console user add", "name"),
    ("sample quarantined", "after"), ("audit list", "after"), ("execution list", "after"),
    ("demo", "file"),
    ("event list", "after"), ("limit show", "after"), ("backfill open", "backfill"), ("backfill stage", "file"),
    *(("source add", name) for name in ("source", "query", "database")), ("key create", "source"),
    ("org usage", "project"), ("org usage", "subject"), ("org usage", "after"),
    ("parity check", "file"), ("vendor import", "file"), ("vendor set", "service"),
    ("provider check", "feature"), ("provider check", "customer"), ("execution accept", "key"),
    ("settlement reverse", "key"), *((f"execution {verb}", "sandbox") for verb in ("preview", "accept")),
    ("guard consume", "key"), ("guard reserve", "key"), *((f"guard {verb}", label) for verb in ("consume", "reserve")
    for label in ("project", "subject")), ("pool make", "pool"), ("pool allot", "key"),
    ("topup set", "customer"), ("ledger entries", "after"), ("push list", "after"), ("push list", "why"),
    ("push sums", "why"),
    *((f"execution {verb}", label) for verb in ("preview", "accept") for label in ("project", "subject", "action")),
}  # fmt: skip


def parameters() -> list[tuple[str, str]]:
    return [(path, one.name) for path, command in LEAVES.items() for one in command.params]


def test_every_cli_parameter_is_classified_as_id_or_not() -> None:
    """Whoever adds a command says here what its parameters take."""
    others = [(path, name) for path, name in parameters() if (path, name.strip("_")) not in VALUES]
    unsaid = [one for one in others if one not in IDS and one not in BESIDE and one[1] not in NONE]
    assert unsaid == []
    assert set(IDS) <= set(parameters()), "a command or parameter that there is no longer"
    names = {name for _, name in IDS} - {"actor"}  # everywhere else it is who gives the command
    assert names & NONE == set(), "a name that takes ids must not be exempt everywhere"


@dataclass
class Shop:
    """A database in which there is one of everything, and a folder to run commands in."""

    engine: sa.Engine
    said: list[str] = field(default_factory=list)

    def content(self) -> dict[str, list[str]]:
        return read(self.engine, self._content)

    @staticmethod
    def _content(connection: sa.Connection) -> dict[str, list[str]]:
        names = [name for name in sa.inspect(connection).get_table_names() if name not in ("ticks", "seals")]
        return {name: sorted(map(str, connection.exec_driver_sql(f'SELECT * FROM "{name}"'))) for name in names}


def supply(connection: sa.Connection, by: By) -> None:
    """A supplier whose one run was released."""
    change = settlements.Change(share_ppm=10**6, hold_ms=0, threshold_micro=0, takes_clawbacks=True)
    settlements.set_supplier(connection, "pixel", change, by, new=True)
    executions.accept(connection, "render-1", Request("acme", 7, supplier="pixel"), by)
    executions.settle(connection, "render-1", Cost(7), by)
    settlements.make_payout(connection, "pixel", "2026-01", by)


def count_looks(connection: sa.Connection, by: By) -> None:
    """A metric that costs nothing, of which something is held, and one that costs something."""
    for metric, price in (("look", 0), ("paid", 1)):
        guard_terms.set_metric(connection, metric, guard_terms.Change(price_micro=price), by)
        guard_terms.set_limit(connection, guard_terms.PlanLimit(metric, "*", "month", None), by)
    guard_holds.reserve(connection, "u-1", Wish("acme", "look", 1), by)


def stock(engine: sa.Engine) -> None:
    """Put one of everything into a database."""
    fleet = Fleet(engine)
    fleet.assign("acme", "wayne", from_ms=T0)
    write(engine, lambda c: credit.set_plan_limit(c, "team", 20, fleet.by))
    write(engine, lambda c: credit.grant(c, "acme", 10**9, fleet.by, key="first", plan="team"))
    write(engine, lambda c: tiers.set_tier(c, "pro", tiers.Change(100, 10), fleet.by))
    write(engine, lambda c: api_keys.create(c, f"{api_keys.PREFIX}{7:043}", "app", ["guard"], fleet.by))
    write(engine, lambda c: console_users.add(c, "anna", "viewer", f"{7:043}", fleet.by))
    fleet.write("INSERT INTO cells (cell_id, url) VALUES ('cell-1', 'http://127.0.0.1:1')")
    write(engine, lambda c: hooks.set_endpoint(c, "app", "https://app.example/in", (), fleet.by, new=True))
    write(engine, lambda c: hooks.try_endpoint(c, "app", fleet.by))
    fleet.sample("acme", T0 + 1)
    fleet.sample("acme", T0 + 2, -1, sample_id="bad-sample")
    fleet.write(
        "INSERT INTO batches (batch, source, name, path, row_count, refused, samples, total, taken_ms, actor, reason) "
        "VALUES ('b-first', 'exports', 'u.csv', 'u.csv', 0, 0, 0, 0, 1, 'test', 'a test')"
    )
    fleet.write(
        "INSERT INTO batch_files (source, name, batch, path, size_bytes, modified_ns, outcome, said, seen_ms, "
        "readings, shared_rows) VALUES ('exports', 'v.csv', 'b-wait', 'v.csv', 1, 1, 'conflict', 'a test', 1, 1, 1)"
    )
    fleet.write(
        "INSERT INTO batch_sources (source, folder, at_ms, paused_ms, actor, reason) "
        "VALUES ('exports', '/', 1, 1, 'test', 'a test')"
    )
    write(engine, lambda c: open_backfill(c, "june", "acme", T0 - WINDOW_MS, T0, fleet.by))
    seen = UsageEvent("shop", "e-first", "page.render", "acme", 1, T0)
    write(engine, lambda c: take(c, [seen], T0))
    terms = topups.Terms(10**10, 20, None, 10**8, "usd", "fake", "cus_1", 10**9, mode="shadow")
    write(engine, lambda c: topups.set_terms(c, "acme", terms, CAN, fleet.by))
    write(engine, lambda c: begin(c, ready=(), now=fleet.clock.at_ms, witness=None))
    fleet.tick_windows(3)
    run_ = Request("acme", 1, project="site", subject="ann", action="render")
    write(engine, lambda c: executions.accept(c, "e-1", run_, fleet.by))
    assert fleet.rows("SELECT key FROM pushes") == [(KEY,)]
    write(engine, lambda c: supply(c, fleet.by))
    write(engine, lambda c: pools.make(c, "course", fleet.by))
    write(engine, lambda c: count_looks(c, fleet.by))
    write(engine, lambda c: pools.allow(c, "wayne", "acme", fleet.by))


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file to copy: to stock it anew takes most of what is asked here."""
    file = tmp_path_factory.mktemp("stocked") / "drawdown.db"
    engine = fresh(file)
    stock(engine)
    engine.dispose()
    return file


@pytest.fixture
def shop(
    request: pytest.FixtureRequest,
    engine: sa.Engine,
    database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Shop:
    if engine.dialect.name == "sqlite":
        with (
            closing(sqlite3.connect(request.getfixturevalue("stocked"))) as one,
            closing(engine.raw_connection()) as to,
        ):
            one.backup(to.driver_connection)  # type: ignore[arg-type]
    else:
        stock(engine)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DRAWDOWN_DATABASE_URL", database_url)
    monkeypatch.setenv("DRAWDOWN_STATE_DIR", str(tmp_path / "state"))
    return Shop(engine)


def test_cli_mistyped_id_is_refused_with_nearest_match(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    before, wrong = shop.content(), []
    for (command, name), typed in IDS.items():
        Path(FILE).write_text(typed.file or "{}")
        status = run(["--at", str(T0 + 4 * WINDOW_MS), *command.split(), *typed.words])
        said = capsys.readouterr()
        told = said.out + said.err
        if f"did you mean {typed.near}?" not in told or status != (
            1 if (command, name) == ("org assign", "file") else 2
        ):
            wrong.append(f"{command}, {name}: {status}: {told}")
    assert wrong == []
    assert shop.content() == before


def test_cli_nearest_org_is_found_among_many_and_before_tick(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    many = [{"org": f"customer-{n:05}", "bucket": n % 256} for n in range(3_000)]
    write(shop.engine, lambda c: c.execute(sa.text("INSERT INTO orgs (org_id, bucket) VALUES (:org, :bucket)"), many))
    write(
        shop.engine,
        lambda c: c.execute(
            sa.text(
                "INSERT INTO usage_samples (id, org_id, sandbox_id, cell_id, memory_mb, interval_s, ts, ingested_at) "
                "VALUES (:id, :org, 'b', 'c', 1024, 60, :ts, :ts)"
            ),
            [{"id": f"n{n}", "org": f"newcomer-{n % 3}", "ts": T0 + n} for n in range(30)],
        ),
    )
    for given, near in (("cutsomer-01234", "customer-01234"), ("newcomr-1", "newcomer-1"), ("ACME", "acme")):
        assert run(["org", "assign", given]) == 2
        assert f"did you mean {near}?" in capsys.readouterr().err
    assert run(["org", "show", "newcomer-1"]) == 1
    assert "a tick has not registered" in capsys.readouterr().err
    assert run(["org", "assign", "newcomer-1"]) == 0


def test_cli_unknown_id_with_new_is_accepted(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        "org assign acmee --new",
        "org assign wayne --customer wayne-inc --new --from tomorrow",
        "ledger grant acmes 5 --new",
        "ledger rate compute_5gb --micro-credits 5 --new",
        "plan set tema --max-concurrent 5 --new",
        "tier set prro --at-once 5 --price 1 --new",
        "feature map compute_7gb --memory-mb 7168 --new",
        "cell set cell-11 http://127.0.0.1:9 --new",
        "hook set appp https://app.example/in --new",
        "provider when-down embedded --plan gold --policy stop --new",
        f"topup set newco {TERMS} --new",
    ):
        before = shop.content()
        assert run(words.replace(" --new", "").split()) == 2, words
        assert shop.content() == before
        assert "pass --new to use it anyway" in capsys.readouterr().err
        assert run(words.split()) == 0, capsys.readouterr().err
        capsys.readouterr()


def test_cli_unknown_id_refusal_names_new_option_where_accepted(
    shop: Shop, stocked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong, named = [], 0
    for (command, name), typed in IDS.items():
        if all(one.name != "new" for one in LEAVES[command].params):
            continue
        told = []
        for more in ((), ("--new",)):
            with closing(sqlite3.connect(stocked)) as one, closing(shop.engine.raw_connection()) as to:
                one.backup(to.driver_connection)  # type: ignore[arg-type]
            Path(FILE).write_text(typed.file or "{}")
            run(["--at", str(T0 + 4 * WINDOW_MS), *command.split(), *typed.words, *more])
            said = capsys.readouterr()
            told.append(said.out + said.err)
        is_taken = f"did you mean {typed.near}?" not in told[1]
        named += "--new" in told[0]
        if is_taken != ("--new" in told[0]):
            wrong.append(f"{command}, {name}: {told}")
    assert wrong == [] and named >= 20


def test_push_list_by_former_provider_is_accepted(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    write(
        shop.engine,
        lambda c: c.execute(
            sa.text(
                "INSERT INTO assignments (org_id, start_ms, end_ms, provider, customer_id, at_ms, actor, reason) "
                f"VALUES ('acme', {T0 - WINDOW_MS}, {T0}, 'gone', 'acme', 0, 'a', 'b')"
            )
        ),
    )
    assert run(["--json", "push", "list", "--provider", "gone"]) == 0
    assert json.loads(capsys.readouterr().out)["pushes"] == []
