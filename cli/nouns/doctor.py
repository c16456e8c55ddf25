"""Check the set-up for faults, and show how to fix them.

Guarantee: the checks do not change a value. `doctor` writes a row of the database unchanged, and creates and deletes a
file in the state folder. Only a write detects a full disk.
"""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from drawdown.cli.app import App
from drawdown.cli.nouns.providers import check_account
from drawdown.cli.nouns.sealing import sealed_to
from drawdown.cli.settings import PREFIX, Settings
from drawdown.providers.http.egress import CERT_FILE, NO_PROXY, PROXY, ProxyUrl
from drawdown.providers.protocol import Provider
from drawdown.schema.database import read, sqlite_file, write
from drawdown.schema.errors import DrawdownError, UsageError
from drawdown.schema.migrate import require_ready
from drawdown.schema.text import nearest, typed
from drawdown.schema.typed.parsing import lasting, show_time
from drawdown.server.http.callers import EVERYBODY
from drawdown.worker.access.keys import WITH_IDS, list_keys
from drawdown.worker.batches.lists import files_left
from drawdown.worker.batches.objects import is_prefix, require_listed
from drawdown.worker.batches.sources import BatchSource, list_sources
from drawdown.worker.checks.proofs import WHOLE_LATE_MS, last_held
from drawdown.worker.engine.clock_check import MAX_SKEW_MS, database_now
from drawdown.worker.engine.stores import Databases
from drawdown.worker.features.lists import mapped_features, unestimated_features, unrated_features
from drawdown.worker.halts.cell_settings import SHARED, CellSettings
from drawdown.worker.halts.lists import cells_without_url, knows_sandboxes, list_cells
from drawdown.worker.history.witness import MOUNTS, WitnessFile, is_on_unnamed_volume
from drawdown.worker.hooks.lists import list_endpoints
from drawdown.worker.orgs.lists import never_halted
from drawdown.worker.provider.lists import customers_at, features_used, providers_in_use
from drawdown.worker.provider.shadows import in_shadow
from drawdown.worker.status.backlog import oldest_open
from drawdown.worker.status.status import last_tick_ms, late_shard, newest_tick_ms, sealed_to_ms
from drawdown.worker.status.system_state import TICK_MISSED_MS, missed_by_shard
from drawdown.worker.status.tables import upkeep
from drawdown.worker.usage.intake import NAME_ONE, short_of_types
from drawdown.worker.verdict.rates import tells_costs
from drawdown.worker.verdict.watch_state import STOPPED_FOR_MS, WATCHED_FOR_MS, last_round_ms, touch

MIN_SECRET_CHARS: Final = 16
"""Minimum length of a secret, in characters. `doctor` reports a shorter secret."""
MOST_CUSTOMERS: Final = 20
"""Maximum number of customers of a provider that `doctor` checks, with one call each."""
PROXY_WITHIN_S: Final = 5.0
"""Seconds that `doctor` waits for the response of a proxy."""
NO_HOST: Final = "drawdown.invalid:443"


@dataclass(frozen=True)
class Finding:
    """The result of a check. `ok`: False for a fault.

    `what`: the part or its fault. `fix`: the next step. `off`: the part is not in use, which may be intended.
    """

    ok: bool
    what: str
    fix: str = ""
    off: bool = False

    @property
    def mark(self) -> str:
        if not self.ok:
            return "WRONG"
        return "off" if self.off else "ok"


def private(path: Path, mode: str) -> Iterator[Finding]:
    """Report a path that every user of this machine can open.

    Access by a group is not reported, because it may be intended.
    """
    if path.exists() and path.stat().st_mode & 0o007:
        yield Finding(False, f"every user of this machine can read {path}", f"`chmod {mode} {path}`")


def _cells(app: App) -> Iterator[Finding]:
    if not app.read(knows_sandboxes):
        what = "the table `sandboxes` is empty, so halts do not reach a cell until hosts fill it (docs/samples.md)"
        yield Finding(True, what, off=True)
    settings = app.settings.cells()
    for cell in app.read(list_cells):
        fix = settings.why_not(cell.url) or ""
        yield Finding(not fix, f"cell {cell.cell_id} at {cell.url}", fix)
        yield _cell_secret(settings, cell.cell_id)
    for name in app.read(cells_without_url):
        yield Finding(False, f"cell {name} runs sandboxes and has no URL", f"`drawdown cell set {typed(name, 'URL')}`")


def _cell_secret(settings: CellSettings, cell: str) -> Finding:
    shared = () if cell in settings.secrets else settings.secrets.get(SHARED, ())
    given = settings.secrets.get(cell) or (*settings.roots, *shared)
    weak = _is_weak(given)
    notes = ["several secrets, for a rotation"] * (len(given) > 1) + ["a secret is shared with other cells"] * bool(
        shared
    )
    what = f"the secret that signs halts for cell {cell}" + (f" ({'; '.join(notes)})" if notes else "")
    fix = f"set DRAWDOWN_CELL_SECRET or DRAWDOWN_CELL_SECRETS to {MIN_SECRET_CHARS} characters or more"
    return Finding(not weak, what, fix if weak else "")


def _hooks(app: App) -> Iterator[Finding]:
    """Check the endpoints of your product, if there are any."""
    going = [row for row in app.read(list_endpoints) if row.ended_ms is None]
    settings = app.settings.hooks()
    for row in going:
        fix = settings.why_not(row.url) or ""
        yield Finding(not fix, f"endpoint {row.name} at {row.url}", fix)
    if going:
        weak = _is_weak(settings.roots)
        fix = f"set DRAWDOWN_HOOK_SECRET to {MIN_SECRET_CHARS} characters or more"
        yield Finding(not weak, "the secret from which Drawdown derives the secrets of endpoints", fix if weak else "")


def _files(app: App) -> Iterator[Finding]:
    """Check the permissions of settings' files.

    An earlier check reports an unreadable file.
    """
    for path in app.settings.files.paths.values():
        yield from private(path, "600")


def _secrets(app: App) -> Iterator[Finding]:
    """Report each secret of this deployment that can be guessed, in use or not."""
    cells, hooks, server = app.settings.cells(), app.settings.hooks(), app.settings.server()
    own = [secret for of_cell in cells.secrets.values() for secret in of_cell]
    proxy = server.console_proxy_secret
    for name, given in (
        ("DRAWDOWN_CELL_SECRET", cells.roots),
        ("DRAWDOWN_CELL_SECRETS", tuple(own)),
        ("DRAWDOWN_HOOK_SECRET", hooks.roots),
        ("DRAWDOWN_ADMIN_SECRETS", server.admin_secrets),
        ("DRAWDOWN_CRON_SECRET", tuple(filter(None, [server.cron_secret]))),
        ("DRAWDOWN_CONSOLE_PROXY_SECRET", tuple(filter(None, [proxy]))),
    ):
        if given and _is_weak(given):
            fix = f"set {name} to {MIN_SECRET_CHARS} characters or more. To make a secret, run `openssl rand -hex 32`"
            yield Finding(False, f"a secret of {name} is too short, so an attacker can guess it", fix)


def _is_weak(secrets: Sequence[str]) -> bool:
    return min(map(len, secrets), default=0) < MIN_SECRET_CHARS


def _server(app: App) -> Iterator[Finding]:
    """Check the settings of `drawdown serve`.

    A missing setting is not a fault, because serving is optional.
    """
    settings = app.settings.server()
    for what, name, secrets in (
        ("/admin", "DRAWDOWN_ADMIN_SECRETS", settings.admin_secrets),
        ("/cron/tick", "DRAWDOWN_CRON_SECRET", tuple(filter(None, [settings.cron_secret]))),
    ):
        if not secrets:
            yield Finding(True, f"the server's {what} answers 503: {name} is not set", off=True)
    yield _proxies(app.settings.trusted_proxies)
    for name, provider in app.registry.providers.items():
        variable = f"{name}_webhook_secrets"
        sends = provider.dormant is None and provider.capabilities.webhook_headers
        if sends and not app.settings.of_providers().get(variable):
            what = f"Drawdown refuses webhooks of {name}, because DRAWDOWN_{variable.upper()} is not set"
            yield Finding(True, what, off=True)


def _ways_out(app: App) -> Iterator[Finding]:
    """Check outgoing calls: trusted authorities, client certificates and the proxy."""
    settings = app.settings
    system = settings.outgoing().system_file
    whom = f"the authorities of {system} ({CERT_FILE})" if system else "the system's authorities"
    own = f", and those of {settings.ca_file} (DRAWDOWN_CA_FILE)" if settings.ca_file else ""
    try:
        settings.outgoing().tls()
    except UsageError as error:
        yield Finding(False, str(error), "name a file of certificates in PEM")
    else:
        yield Finding(True, f"calls trust {whom}{own}")
    for certificate, called in (
        (settings.outgoing("cell").certificate, "cells"),
        (settings.outgoing("provider").certificate, "providers"),
    ):
        if certificate is not None:
            yield Finding(
                True, f"{called} identify Drawdown by the certificate {certificate.file} ({certificate.setting})"
            )
            yield from private(Path(certificate.key or certificate.file), "600")
    out = settings.outgoing()
    if out.proxy is None:
        return
    also = "cells, " if settings.cell_proxy else ""
    but = f", but for {', '.join(out.exceptions)} ({NO_PROXY})" if out.exceptions else ""
    what = f"{also}providers, sign-in and webhooks are called through {out.proxy} ({PROXY}){but}"
    try:
        answer = _answer_of(out.proxy)
    except OSError as error:
        yield Finding(False, f"{what}: {error.strerror or error}", f"set {PROXY} to a proxy that listens, or unset it")
        return
    if answer is not None and not answer.startswith(b"HTTP/1."):
        yield Finding(
            False, f"{what}: the proxy's response is not HTTP", f"set {PROXY} to a proxy that supports CONNECT"
        )
    elif answer is not None and answer[8:12] == b" 407":
        yield Finding(False, f"{what}: the proxy refuses this user (407)", f"set the user and the password in {PROXY}")
    else:
        yield Finding(True, what)


def _answer_of(proxy: ProxyUrl) -> bytes | None:
    """Return the first bytes of a proxy's response to CONNECT.

    Return None if the response is slow. The requested host does not exist, so no host receives a byte. Errors: OSError.
    """
    proof = f"proxy-authorization: {proxy.authorization}\r\n" if proxy.authorization else ""
    asked = f"CONNECT {NO_HOST} HTTP/1.1\r\nhost: {NO_HOST}\r\n{proof}\r\n"
    with socket.create_connection((proxy.host, proxy.port), PROXY_WITHIN_S) as connection:
        connection.sendall(asked.encode())
        with suppress(TimeoutError):
            return connection.recv(64)
    return None


def _proxies(trusted: str) -> Finding:
    """Check how the server's limits and sign-ins identify a caller behind proxies."""
    entries = [entry.strip() for entry in trusted.split(",") if entry.strip()]
    if EVERYBODY in entries:
        what = "DRAWDOWN_TRUSTED_PROXIES trusts every caller, so each can claim another address and avoid its limits"
        return Finding(False, what, "set it to the proxy's addresses, such as 10.0.0.7 or 10.1.0.0/16")
    if entries:
        return Finding(True, f"X-Forwarded-For of the proxies {', '.join(entries)} identifies the caller")
    what = "DRAWDOWN_TRUSTED_PROXIES is not set, so behind a proxy all callers share the limits of a single address"
    return Finding(True, what, off=True)


def _unread(app: App) -> Iterator[Finding]:
    """Report settings that this machine does not read.

    The name may be mistyped, or meant for another machine. A provider checks its own settings.
    """
    services = {*app.registry.providers, *app.registry.broken, *app.payments.services, *app.payments.broken}
    given = {*app.settings.of_providers(), *app.settings.files.paths}.difference(Settings.model_fields)
    of_others = tuple(f"{name}_" for name in services)
    queried = {Databases.setting(name).removeprefix(PREFIX).lower() for name in app.settings.databases().urls}
    for name in sorted(given - queried):
        if not name.startswith(of_others):
            theirs = [f"{service}_{_rest(name, service)}" for service in services]
            near, said = nearest(name, [*Settings.model_fields, *theirs]), f"{PREFIX}{name.upper()}"
            fix = "" if near is None else f"did you mean {PREFIX}{near.upper()}?"
            yield Finding(near is None, f"{said} is set, but no program on this machine reads it", fix)


def _rest(name: str, service: str) -> str:
    """Return the part of a setting's name after the service's name.

    The service's name may be misspelt.
    """
    return "_".join(name.split("_")[service.count("_") + 1 :])


OF_SETTINGS: Final[tuple[Callable[[App], Iterator[Finding]], ...]] = (
    _cells,
    _hooks,
    _secrets,
    _ways_out,
    _server,
    _files,
    _unread,
)


MIN_SQLITE = (3, 39, 0)
FEW = 3
"""Maximum number of features, organisations or keys that a line names."""
MOST_KEYS = 10_000
"""Maximum number of API keys that `doctor` checks."""


def examine(app: App) -> list[Finding]:
    """Run all checks, and return their findings.

    If the database is not ready, return only this fault.
    """
    try:
        read(app.engine, require_ready)
    except DrawdownError as error:
        return [Finding(False, "the database", str(error))]
    found = [Finding(True, f"the database has this program's schema ({app.engine.dialect.name})")]
    checks: tuple[Callable[[App], Iterator[Finding]], ...] = (
        _sqlite,
        _written,
        _witness,
        _clock,
        _open_for_long,
        _upkeep,
        _ticks,
        _sealing,
        _watch,
        _overrides,
        _proofs,
        _mapping,
        _event_types,
        _providers,
        _keys,
        *OF_SETTINGS,
        _folders,
    )
    for check in checks:
        found += check(app)
    return found


def _sqlite(app: App) -> Iterator[Finding]:
    if app.engine.dialect.name != "sqlite":
        return
    version = sqlite3.sqlite_version_info
    yield Finding(
        version >= MIN_SQLITE,
        f"SQLite {sqlite3.sqlite_version}",
        "install a newer Python, because Drawdown needs SQLite 3.39 or newer",
    )
    file = sqlite_file(app.engine)
    if file is not None:
        yield from private(file, "600")


def _written(app: App) -> Iterator[Finding]:
    """Write a row of the database unchanged, because only a write detects a full disk."""
    file = sqlite_file(app.engine)
    what = "the database" if file is None else str(file)
    try:
        write(app.engine, touch)
        yield Finding(True, f"{what} can be written")
    except DrawdownError as error:
        yield Finding(False, f"{what} cannot be written", str(error))


def _witness(app: App) -> Iterator[Finding]:
    folder = app.settings.state_folder()
    try:
        WitnessFile(folder).load(app.engine)
        doubted = app.doubt()
        WitnessFile(folder).try_to_write()
        yield Finding(True, f"the local checkpoint is in {folder}")
        yield from private(folder, "700")
        yield from _check_volume(folder)
    except DrawdownError as error:
        yield Finding(False, f"the local checkpoint in {folder}", str(error))
        return
    if doubted is not None:
        yield Finding(False, f"the database may have lost history: {doubted}", "`drawdown recover --dry-run`")


def _check_volume(folder: Path) -> Iterator[Finding]:
    """Report a state folder on an unnamed volume.

    A new container does not get that volume, so Drawdown would not detect a restore.
    """
    try:
        mounts = Path(MOUNTS).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    if is_on_unnamed_volume(str(folder.absolute()), mounts):
        fix = f"use a named volume: `docker run -v drawdown-state:{folder} ...`, or docker-compose.yml"
        yield Finding(False, f"{folder} is on an unnamed volume, which a new container does not get", fix)


def _folders(app: App) -> Iterator[Finding]:
    """Check the watched folders and queries, if there are any."""
    watched = [one for one in app.read(list_sources) if one.paused_ms is None]
    if not watched:
        return
    fix = "install drawdown[columnar]. Without it, Drawdown cannot take a file"
    yield Finding(find_spec("duckdb") is not None, "DuckDB, which reads watched folders' files", fix)
    for source in watched:
        if source.asked_of is not None:
            known = source.asked_of in app.settings.databases().urls
            setting = Databases.setting(source.asked_of)
            yield Finding(
                known, f"the database that {source.source} queries", f"set {setting} on each machine that ticks"
            )
            continue
        if is_prefix(source.folder):
            yield _prefix(app, source)
            continue
        there = os.access(source.folder, os.R_OK | os.X_OK)
        yield Finding(there, f"the folder of {source.source}, {source.folder}", "mount it on each machine that ticks")
    left = app.read(files_left)
    count = left.refused + left.conflicts + left.failing
    yield Finding(
        not count,
        f"files of watched folders that Drawdown could not import: {count:,}",
        "run `drawdown batch list` to see the reasons. Then fix the files, or move them out of the folder",
    )


def _prefix(app: App, source: BatchSource) -> Finding:
    """Check that this machine's key can list a prefix, as a tick does."""
    what = f"the prefix of {source.source}, {source.folder}"
    try:
        require_listed(app.settings.objects(), source.folder)
    except DrawdownError as error:
        return Finding(False, what, str(error))
    return Finding(True, f"{what}, can be listed")


def _clock(app: App) -> Iterator[Finding]:
    now = app.clock.now_ms()
    skew = app.read(lambda c: abs(database_now(c, now) - now))
    fix = "synchronise both clocks with NTP. A tick stops if they differ by more than 30 s"
    yield Finding(skew <= MAX_SKEW_MS or app.clock.trusted, f"the clocks differ by {skew / 1000:.1f} s", fix)


def _open_for_long(app: App) -> Iterator[Finding]:
    """Report the oldest open transaction.

    It does not delay ticks, but Drawdown bills its inserts only after it ends.
    """
    oldest = app.read(oldest_open)
    if oldest is not None and oldest.age_ms is None:
        what = "this database user cannot see the age of open transactions"
        yield Finding(True, f"{what} (to show it, GRANT pg_monitor)")
    elif oldest is not None:
        what = f"the oldest transaction: {oldest.who}, {lasting(oldest.age_ms or 0)}"
        fix = "end the transaction, or make its program commit sooner. Drawdown bills its inserts only after its end"
        yield Finding(not oldest.is_long, what, fix if oldest.is_long else "")


def _upkeep(app: App) -> Iterator[Finding]:
    """Check the maintenance of tables.

    A neglected table gets slower each month. Usage in an attached table may be billed twice.
    """
    found = app.read(upkeep)
    if found is None:
        return
    fix = "set autovacuum and track_counts to on. Otherwise tables grow without a limit"
    yield Finding(found.works, "autovacuum is on" if found.works else "autovacuum is off", fix)
    for table, statement in found.statements.items():
        yield Finding(False, f"the table {table} lacks its autovacuum settings", f"run `{statement}` as its owner")
    for table, statement in found.attached.items():
        what = f"{table} was attached to a table of Drawdown, but its rows lack the keys and checks of that table"
        yield Finding(False, what, f"run `{statement}` as its owner, then `drawdown verify`")


def _ticks(app: App) -> Iterator[Finding]:
    now = app.clock.now_ms()
    newest, last = app.read(newest_tick_ms), app.read(lambda c: last_tick_ms(c, now))
    if newest is not None and newest > now + MAX_SKEW_MS:
        what = f"the newest tick is recorded as ended at {show_time(newest)}, {lasting(newest - now)} ahead of now"
        yield Finding(False, what, "synchronise the clock of the machine that ticks, and of this machine, with NTP")
        if last == newest:  # no other tick exists
            return
    late = last is None or now - last > TICK_MISSED_MS
    fix = "keep `drawdown up` or `drawdown worker` running, or run `drawdown tick` every five minutes from cron"
    yield Finding(
        not late,
        "no tick yet" if last is None else f"the last tick ended at {show_time(last)}",
        fix if late else "",
    )
    if not late and (missed := missed_by_shard(app.read(lambda c: late_shard(c, now)), now)):
        yield Finding(False, missed, fix)


def _sealing(app: App) -> Iterator[Finding]:
    """Report usage that is sealed beyond the present, after a clock was ahead.

    No command moves the watermark back.
    """
    now, sealed = app.clock.now_ms(), app.read(sealed_to_ms)
    if sealed > now:
        fix = "fix the clock that was ahead, then wait until that time"
        yield Finding(False, f"usage is sealed {sealed_to(sealed, now)}", fix)


def _watch(app: App) -> Iterator[Finding]:
    last, now = app.read(last_round_ms), app.clock.now_ms()
    if last is None or now - last >= STOPPED_FOR_MS:  # ticks without a watch are a valid set-up
        what = "no watch runs between ticks, so only ticks halt (`drawdown watch` halts within seconds)"
        yield Finding(True, what, off=True)
        return
    fix = "keep `drawdown watch` running beside the cron, or keep `drawdown up` or `drawdown worker` running"
    yield Finding(now - last < WATCHED_FOR_MS, f"the last round of a watch was at {show_time(last)}", fix)


def _overrides(app: App) -> Iterator[Finding]:
    """Report organisations that Drawdown never halts because of an org override.

    They continue without credit, and no other check shows them.
    """
    found = app.read(lambda c: never_halted(c, app.clock.now_ms(), FEW))
    if found.orgs:
        named = [f"{org} {'permanently' if end is None else f'until {show_time(end)}'}" for org, end in found.first]
        some = ", ".join(named) + (f" and {found.orgs - FEW:,} more" if found.orgs > FEW else "")
        who = "organisations are" if found.orgs > 1 else "organisation is"
        what = (
            f"{found.orgs:,} {who} never halted, because of your org overrides: {some} (`drawdown org list "
            "--overridden`)"
        )
        yield Finding(True, what, off=True)


def _proofs(app: App) -> Iterator[Finding]:
    """Check that a run of verify read all of the database lately."""
    last = app.read(lambda c: last_held(c, app.clock.now_ms())).whole_ms
    if last is None:
        what = "no full run of verify is on record. Run `drawdown verify`"
        yield Finding(True, what, off=True)
        return
    fix = "run `drawdown verify`, and each night `drawdown verify --since-last`, which verifies everything once a week"
    what = f"the last full run of verify in which all invariants held was at {show_time(last)}"
    yield Finding(app.clock.now_ms() - last <= WHOLE_LATE_MS, what, fix)


def _keys(app: App) -> Iterator[Finding]:
    """Report keys of one organisation that may send usage of every source.

    They can take the ids of your product's own usage.
    """
    now = app.clock.now_ms()
    taken = [key for key in app.read(lambda c: list_keys(c, now, MOST_KEYS)) if key.state in ("good", "rotated")]
    any_source = (key.name for key in taken if key.org_id and not key.source and WITH_IDS.intersection(key.scopes))
    found = list(dict.fromkeys(any_source))
    if found:
        more = f" and {len(found) - FEW:,} more" if len(found) > FEW else ""
        what = f"keys of one organisation that send usage of every source: {', '.join(found[:FEW])}{more}"
        yield Finding(True, f"{what}. If a tenant has such a key, create a key with --source for that tenant", off=True)


def _mapping(app: App) -> Iterator[Finding]:
    unrated = app.read(unrated_features)
    for feature in unrated:
        what = (
            f"the feature {feature} does not have a rate, so Drawdown does not charge a wallet for it, whichever "
            "provider bills it"
        )
        yield Finding(False, what, f"`drawdown ledger rate {feature} --micro-credits N`")
    if not unrated:
        yield Finding(True, "every feature has a rate in the embedded ledger")
    for provider, features in app.read(unestimated_features).items():
        some = ", ".join(features[:FEW]) + (f" and {len(features) - FEW:,} more" if len(features) > FEW else "")
        what = (
            f"no rate at {provider} for {some}, so this usage does not lead to a halt while Drawdown cannot read the "
            "provider "
        )
        told = app.read(lambda c, name=provider: tells_costs(c, name))  # type: ignore[misc]
        what += f"(`drawdown provider {f'check {provider}' if told else f'rate {provider} {features[0]} --micro N'}`)"
        yield Finding(True, what, off=True)


def _event_types(app: App) -> Iterator[Finding]:
    for one in app.read(short_of_types):
        yield Finding(False, str(one), NAME_ONE)


def _providers(app: App) -> Iterator[Finding]:
    for one in app.read(lambda c: in_shadow(c, app.clock.now_ms())):
        yield Finding(True, str(one), off=True)
    for name, why in app.registry.broken.items():
        yield Finding(False, f"the provider {name}", why)
    for name in app.read(providers_in_use):
        provider = app.registry.providers.get(name)
        if name in app.registry.broken:
            continue
        if provider is None:
            yield Finding(False, f"the provider {name} bills organisations", "install its package on this machine")
        else:
            fix = provider.dormant or ""
            yield Finding(not fix, f"the provider {name} is {'dormant' if fix else 'ready'}", fix)
            if not (fix or provider.capabilities.same_database):
                yield from _account(app, name, provider)


def _account(app: App, name: str, provider: Provider) -> Iterator[Finding]:
    """Yield the faults of the account, its features, and some of its customers.

    A customer's limits at the provider are included.
    """
    features, now = app.read(mapped_features), app.clock.now_ms()
    customers = app.read(lambda c: customers_at(c, name, now, MOST_CUSTOMERS + 1))
    by_use = app.read(lambda c: features_used(c, name, customers[:MOST_CUSTOMERS], now))
    for line in check_account(app, provider, features, by_use)[:FEW]:
        yield Finding(False, f"{name}: {line}", f"run `drawdown provider check {name}` to list all faults")
    if len(customers) > MOST_CUSTOMERS:
        what = f"{name}: doctor checked {MOST_CUSTOMERS} customers (`drawdown provider check {name} --most N` for more)"
        yield Finding(True, what, off=True)
