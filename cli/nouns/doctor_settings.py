"""What is wrong with the settings of this machine, and how to mend it: a part of `drawdown doctor`."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from drawdown.cli.app import App
from drawdown.cli.settings.settings import PREFIX, Settings
from drawdown.providers.http.outgoing import CERT_FILE, NO_PROXY, PROXY
from drawdown.schema.text import nearest, typed
from drawdown.server.http.callers import EVERYBODY
from drawdown.worker.engine.context import Databases
from drawdown.worker.halts.cell_settings import SHARED, CellSettings
from drawdown.worker.halts.lists import cells_without_url, knows_sandboxes, list_cells
from drawdown.worker.hooks.lists import list_endpoints

MIN_SECRET_CHARS: Final = 16
PROXY_WITHIN_S: Final = 5.0
"""How long a proxy is waited for."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `off`: it is not in use, which may be meant."""

    ok: bool
    what: str
    mend: str = ""
    off: bool = False

    @property
    def mark(self) -> str:
        if not self.ok:
            return "WRONG"
        return "off" if self.off else "ok"


def private(path: Path, mode: str) -> Iterator[Finding]:
    """Found open by everybody; a group may be meant."""
    if path.exists() and path.stat().st_mode & 0o007:
        yield Finding(False, f"{path} is open to everybody on this machine", f"`chmod {mode} {path}`")


def _cells(app: App) -> Iterator[Finding]:
    if not app.read(knows_sandboxes):
        what = "no sandbox is known: halts reach no cell, until hosts keep the table `sandboxes` (docs/samples.md)"
        yield Finding(True, what, off=True)
    settings = app.settings.cells()
    for cell in app.read(list_cells):
        mend = settings.why_not(cell.url) or ""
        yield Finding(not mend, f"cell {cell.cell_id} at {cell.url}", mend)
        yield _cell_secret(settings, cell.cell_id)
    for name in app.read(cells_without_url):
        yield Finding(False, f"cell {name} runs sandboxes and has no URL", f"`drawdown cell set {typed(name, 'URL')}`")


def _cell_secret(settings: CellSettings, cell: str) -> Finding:
    shared = () if cell in settings.secrets else settings.secrets.get(SHARED, ())
    given = settings.secrets.get(cell) or (*settings.roots, *shared)
    weak = _is_weak(given)
    notes = ["several, while they are rotated"] * (len(given) > 1) + ["one is shared with other cells"] * bool(shared)
    what = f"the secret that signs halts for cell {cell}" + (f" ({'; '.join(notes)})" if notes else "")
    mend = f"set DRAWDOWN_CELL_SECRET or DRAWDOWN_CELL_SECRETS, {MIN_SECRET_CHARS} characters or more"
    return Finding(not weak, what, mend if weak else "")


def _hooks(app: App) -> Iterator[Finding]:
    """Endpoints of the operator's product, where there are any."""
    going = [row for row in app.read(list_endpoints) if row.ended_ms is None]
    settings = app.settings.hooks()
    for row in going:
        mend = settings.why_not(row.url) or ""
        yield Finding(not mend, f"endpoint {row.name} at {row.url}", mend)
    if going:
        weak = _is_weak(settings.roots)
        mend = f"set DRAWDOWN_HOOK_SECRET, {MIN_SECRET_CHARS} characters or more"
        yield Finding(not weak, "the secret that endpoints' own secrets are made from", mend if weak else "")


def _files(app: App) -> Iterator[Finding]:
    """What could not be read was said before any of this."""
    for path in app.settings.files.paths.values():
        yield from private(path, "600")


def _secrets(app: App) -> Iterator[Finding]:
    """Each secret that this deployment chose, in use or not: those that are set and can be guessed."""
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
            mend = f"set {name}, {MIN_SECRET_CHARS} characters or more: `openssl rand -hex 32`"
            yield Finding(False, f"a secret of {name} can be guessed", mend)


def _is_weak(secrets: Sequence[str]) -> bool:
    return min(map(len, secrets), default=0) < MIN_SECRET_CHARS


def _server(app: App) -> Iterator[Finding]:
    """What `drawdown serve` would refuse. Not to have set it is no fault: nobody has to serve it."""
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
            what = f"webhooks of {name} are refused: DRAWDOWN_{variable.upper()} is not set"
            yield Finding(True, what, off=True)


def _ways_out(app: App) -> Iterator[Finding]:
    """Whom calls trust, by which certificate they are known, and through which proxy they leave."""
    settings = app.settings
    system = settings.outgoing().system_file
    whom = f"the authorities of {system} ({CERT_FILE})" if system else "the system's authorities"
    own = f", and those of {settings.ca_file} (DRAWDOWN_CA_FILE)" if settings.ca_file else ""
    yield Finding(True, f"calls trust {whom}{own}")
    for certificate, called in (
        (settings.outgoing("cell").certificate, "cells"),
        (settings.outgoing("provider").certificate, "providers"),
    ):
        if certificate is not None:
            yield Finding(True, f"{called} know Drawdown by {certificate.file} ({certificate.setting})")
            yield from private(Path(certificate.key or certificate.file), "600")
    out = settings.outgoing()
    if out.proxy is None:
        return
    also = "cells, " if settings.cell_proxy else ""
    but = f", but for {', '.join(out.exceptions)} ({NO_PROXY})" if out.exceptions else ""
    what = f"{also}providers, sign-in and webhooks are called through {out.proxy} ({PROXY}){but}"
    try:
        socket.create_connection((out.proxy.host, out.proxy.port), PROXY_WITHIN_S).close()
    except OSError as error:
        yield Finding(False, f"{what}: {error.strerror or error}", f"set {PROXY} to a proxy that listens, or unset it")
    else:
        yield Finding(True, what)


def _proxies(trusted: str) -> Finding:
    """By which address the server's limits and sign-ins know a caller."""
    entries = [entry.strip() for entry in trusted.split(",") if entry.strip()]
    if EVERYBODY in entries:
        what = "DRAWDOWN_TRUSTED_PROXIES believes every caller: each can name another address, and has no limit"
        return Finding(False, what, "name the proxy's addresses, such as 10.0.0.7 or 10.1.0.0/16")
    if entries:
        return Finding(True, f"X-Forwarded-For of the proxies {', '.join(entries)} names the caller")
    what = "DRAWDOWN_TRUSTED_PROXIES is not set: behind a proxy all callers share one address's limits and sign-ins"
    return Finding(True, what, off=True)


def _unread(app: App) -> Iterator[Finding]:
    """What is set, and nothing here reads: a slip, or another machine's. What is a provider's is its own to judge."""
    services = {*app.registry.providers, *app.registry.broken, *app.payments.services, *app.payments.broken}
    given = {*app.settings.of_providers(), *app.settings.files.paths}.difference(Settings.model_fields)
    of_others = tuple(f"{name}_" for name in services)
    queried = {Databases.setting(name).removeprefix(PREFIX).lower() for name in app.settings.databases().urls}
    for name in sorted(given - queried):
        if not name.startswith(of_others):
            theirs = [f"{service}_{_rest(name, service)}" for service in services]
            near, said = nearest(name, [*Settings.model_fields, *theirs]), f"{PREFIX}{name.upper()}"
            mend = "" if near is None else f"did you mean {PREFIX}{near.upper()}?"
            yield Finding(near is None, f"{said} is set, and nothing here reads it", mend)


def _rest(name: str, service: str) -> str:
    """What follows a service's name, however that is misspelt."""
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
