"""Read the settings of the environment, and of the files that it names.

A file's variable is DRAWDOWN_…_FILE=/path, as containers mount secrets.

Guarantee: only this module reads settings. Secrets are never printed. An error names the setting, the position of the
entry, or the file, but not the content. If a file becomes invalid while the process runs, the process keeps the last
valid content. It logs the fault once, and the fix once.
"""

from __future__ import annotations

import os
import re
import stat
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Final, Literal, Self

import sqlalchemy as sa
import structlog
from pydantic import Field, PrivateAttr, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from drawdown.providers.http.egress import CERT_FILE, PROXY, Certificate, Outgoing, environment
from drawdown.schema.database import url_of
from drawdown.schema.errors import UsageError
from drawdown.server.jwts import LEAST_SECRET_BYTES
from drawdown.server.settings import MySettings, OidcSettings, ServerSettings, UnknownOrg
from drawdown.worker.engine.stores import Databases, ObjectStore
from drawdown.worker.halts.addresses import Network, parse
from drawdown.worker.halts.cell_settings import CellSettings
from drawdown.worker.hooks.hook_settings import HookSettings

MAX_SECRETS: Final = 2
"""Maximum number of valid secrets of a cell."""


def origins(text: str, setting: str = "DRAWDOWN_CELL_ORIGINS") -> frozenset[str]:
    """Return the origins in a list such as `https://cell-1:8443,http://10.0.0.7:8080`.

    Errors: UsageError.
    """
    found = set()
    for number, entry in enumerate(_entries(text, ","), 1):
        url = parse(entry)
        shown = f"entry {number}" if "@" in entry else repr(entry)  # a text before an @ may be a password
        if url is None:
            raise UsageError(f"{setting}: {shown} is invalid: expected an http(s) origin such as https://cell-1:8443")
        if url.path:  # without its path, the origin would allow more than intended
            raise UsageError(f"{setting}: {shown} has a path. Write {url.origin}, which allows all paths")
        found.add(url.origin)
    return frozenset(found)


def networks(text: str, setting: str = "DRAWDOWN_CELL_NETWORKS") -> tuple[Network, ...]:
    """Return the networks in a list such as `10.0.0.0/8,fd12:3456::/32`.

    Errors: UsageError.
    """
    found = []
    for entry in _entries(text, ","):
        try:
            found.append(ip_network(entry))
        except ValueError as error:
            raise UsageError(
                f"{setting}: invalid network {entry!r}: expected CIDR notation without host bits, such as 10.0.0.0/8"
            ) from error
    return tuple(found)


def roots(text: str, setting: str = "DRAWDOWN_CELL_SECRET") -> tuple[str, ...]:
    """Return the secrets in `NEW,OLD` or `SECRET`; an empty tuple for an empty text.

    `setting`: the name of the setting, for the error. Errors: UsageError.
    """
    given = tuple(secret.strip() for secret in text.split(",")) if text.strip() else ()
    if not all(given) or len(given) > MAX_SECRETS:
        raise UsageError(f"invalid {setting}: expected SECRET or NEW,OLD")
    return given


def secrets(text: str) -> Mapping[str, tuple[str, ...]]:
    """Return the secrets of cells in `cell-1=new,old;cell-2=other;*=new,old`.

    The first of two secrets is the new secret. `*`: the secret that all other cells shared before each cell had its own
    secret.
    Errors: UsageError.
    """
    found: dict[str, tuple[str, ...]] = {}
    for number, entry in enumerate(_entries(text, ";"), 1):
        cell, _, listed = entry.partition("=")
        given = tuple(secret.strip() for secret in listed.split(","))
        if not cell.strip() or not all(given) or len(given) > MAX_SECRETS or cell.strip() in found:
            raise UsageError(
                f"DRAWDOWN_CELL_SECRETS: invalid entry {number}: expected CELL=SECRET or CELL=NEW,OLD, each cell once"
            )
        found[cell.strip()] = given
    return found


def _entries(text: str, between: str) -> list[str]:
    return [entry for entry in (part.strip() for part in text.split(between)) if entry]


log = structlog.get_logger()

SUFFIX: Final = "_FILE"
MAX_BYTES: Final = 128 * 1024
"""Largest file with a setting, in bytes.

On Linux, an environment variable can be as large.
"""

Check = Callable[[str, str | None], object]
"""A function that checks a file's new content. In a running process, it also gets the content in use.

Errors: UsageError.
"""


@dataclass
class _File:
    """A file with a setting.

    `text`: the content in use. `trouble`: the reason why the file's present content is not in use.
    """

    variable: str
    path: Path
    check: Check | None
    text: str = field(repr=False)
    trouble: str | None = None

    def read_again(self) -> None:
        try:
            text = _checked(self.path, self.check, self.text)
        except UsageError as error:
            if self.trouble != str(error):
                log.error("settings_file_bad", setting=self.variable, reason=str(error), used="its earlier content")
            self.trouble = str(error)
            return
        if self.trouble is not None or text != self.text:
            log.info("settings_file_taken", setting=self.variable)
        self.text, self.trouble = text, None


class SecretFiles:
    """The files that hold settings, shared by the threads of a process.

    `texts`: the content of the files by setting; a changed file replaces the whole mapping.
    """

    def __init__(self, paths: Mapping[str, str] | None = None, checks: Mapping[str, Check] | None = None) -> None:
        """Read the files.

        `paths` and `checks`: by setting, in lower case without the prefix. Errors: UsageError.
        """
        self._files: dict[str, _File] = {}
        self._lock = threading.Lock()
        for name, path in (paths or {}).items():
            variable, check = f"DRAWDOWN_{name.upper()}{SUFFIX}", (checks or {}).get(name)
            try:
                text = _checked(Path(path), check, None)
            except UsageError as error:
                raise UsageError(f"{variable}: {error}") from None  # the chained error could contain the file's content
            self._files[name] = _File(variable, Path(path), check, text)
        self.texts: Mapping[str, str] = self._texts()

    @property
    def paths(self) -> Mapping[str, Path]:
        return {file.variable: file.path for file in self._files.values()}

    def read_again(self) -> None:
        """Read the files again, and replace `texts` if a file changed."""
        with self._lock:
            for file in self._files.values():
                file.read_again()
            found = self._texts()
            if found != self.texts:
                self.texts = found

    def _texts(self) -> Mapping[str, str]:
        return {name: file.text for name, file in self._files.items()}


def _checked(path: Path, check: Check | None, was: str | None) -> str:
    text = _read(path)
    if check is not None:
        check(text, was)
    return text


def _read(path: Path) -> str:
    """Return the content of a file, without the end of the line.

    Errors: UsageError. Its message does not have any of the content.
    """
    try:
        found = _bytes(path)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or 'invalid name'}. Check the "
            "path and its permissions"
        ) from None
    if len(found) > MAX_BYTES:
        raise UsageError(f"{path} has more than {MAX_BYTES:,} bytes. Check that the path names the right file")
    try:
        text = found.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text. Write the value as UTF-8") from None
    if not text.strip():
        raise UsageError(f"{path} is empty. Write the value into it")
    return text


def _bytes(path: Path) -> bytes:
    """Return up to MAX_BYTES + 1 bytes of a file. Errors: OSError, UsageError."""
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe without a writer would block
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise UsageError(f"{path} is not a regular file. Name a regular file")
        with os.fdopen(number, "rb", closefd=False) as file:
            return file.read(MAX_BYTES + 1)
    finally:
        os.close(number)


PREFIX: Final = "DRAWDOWN_"
PROXIES: Final = (PROXY, PROXY.lower())
KindOfCalls = Literal["provider", "cell", "hook"]
KINDS_OF_CALLS: Final[tuple[KindOfCalls, ...]] = ("provider", "cell", "hook")
OBJECT_STORE: Final = ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "REGION", "DEFAULT_REGION",
                       "ENDPOINT_URL_S3", "ENDPOINT_URL")  # fmt: skip
_QUERIED: Final = re.compile(r"query_([a-z0-9_]+)_url")


class Settings(BaseSettings):
    """The settings of a process.

    Each setting is an environment variable: the prefix DRAWDOWN_ and the name in capitals. A secret may be in a file.
    Then the variable with the suffix _FILE has the path of the file.
    """

    model_config = SettingsConfigDict(env_prefix="DRAWDOWN_", extra="ignore", env_ignore_empty=True)

    database_url: str = "sqlite:///drawdown.db"
    """The database: sqlite:///FILE or postgresql://USER@HOST/NAME"""
    cell_origins: str = ""
    """Origins of cells that Drawdown may call, separated by commas: https://cell-1.internal:8443"""
    cell_secret: SecretStr = SecretStr("")
    """Secret from which Drawdown derives each cell's own secret, which signs its halts; two while you rotate it:
    new,old"""
    cell_secrets: SecretStr = SecretStr("")
    """Secrets of single cells, two while you rotate them, and the shared secret of all others:
    cell-1=new,old;cell-2=x;*=old"""
    cell_networks: str = ""
    """Private networks with cells that Drawdown may call, besides the public internet: 10.0.0.0/8,fd12:3456::/32"""
    hook_origins: str = ""
    """Origins of your product that receive webhooks, separated by commas: https://app.example"""
    hook_secret: SecretStr = SecretStr("")
    """Secret from which Drawdown derives each endpoint's own secret, which signs its webhooks; two while you rotate it:
    new,old"""
    hook_networks: str = ""
    """Private networks in which Drawdown may call your product, besides the public internet:
    10.0.0.0/8,fd12:3456::/32"""
    ca_file: str = ""
    """File (PEM) of authorities that calls trust besides the system's: /etc/ssl/company.pem"""
    cell_cert_file: str = ""
    """File (PEM) with the client certificate by which cells identify Drawdown."""
    cell_key_file: str = ""
    """File (PEM) with the key of the cells' client certificate; by default the certificate's file has the key."""
    cell_proxy: bool = False
    """1 to call cells through HTTPS_PROXY, too; by default, Drawdown calls cells directly."""
    provider_cert_file: str = ""
    """File (PEM) with the client certificate by which providers identify Drawdown."""
    provider_key_file: str = ""
    """File (PEM) with the key of the providers' client certificate; by default the certificate's file has the key."""
    log_level: str = "INFO"
    """Lowest level of events in the log: DEBUG, INFO, WARNING, ERROR or CRITICAL."""
    state_dir: str = ""
    """Folder of the local checkpoint, which detects a restored database; by default ~/.local/state/drawdown."""

    admin_secrets: SecretStr = SecretStr("")
    """Secrets that sign requests to the server's /admin; several, separated by commas, while you rotate them."""
    admin_hosts: str = ""
    """Names under which callers reach /admin, as in Host, separated by commas; by default any name is valid."""
    cron_secret: SecretStr = SecretStr("")
    """Bearer secret of the server's /cron routes."""
    gate_unknown_org: UnknownOrg = "not_found"
    """Response of the gate for an unknown organisation: not_found (404), deny or allow."""
    gate_open_when_in_doubt: bool = False
    """1 to open the gate if the database cannot be read, or the provider was not read yet."""
    requests_per_s: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000
    """Average requests a second that the server accepts from one address."""
    trusted_proxies: str = ""
    """Addresses of trusted proxies, separated by commas. The server reads their X-Forwarded-For."""

    console_url: str = ""
    """URL of the console, without a path: https://drawdown.internal; without it, the server does not have a console."""
    console_proxy_header: str = ""
    """Header in which a proxy names the signed-in person: X-Forwarded-User; it requires the secret of the proxy."""
    console_proxy_secret: SecretStr = SecretStr("")
    """Value of X-Drawdown-Proxy-Secret that this proxy sends with each request."""
    console_oidc_issuer: str = ""
    """Issuer at which people of the console may sign in by OpenID Connect: https://login.example.com"""
    console_oidc_client_id: str = ""
    """Client id of this console at the issuer."""
    console_oidc_client_secret: SecretStr = SecretStr("")
    """Secret of this console at the issuer; without a secret, the console authenticates by PKCE alone."""
    console_oidc_claim: str = "email"
    """Claim with the person's name in Drawdown: email, preferred_username, sub."""
    console_oidc_unverified_email: bool = False
    """1 to accept an email without `email_verified`. Set this only if the issuer verifies each email."""
    console_oidc_label: str = ""
    """Text of the button after "Sign in with"; by default the issuer's host."""

    my_secret: SecretStr = SecretStr("")
    """Secret that signs links to /my (HS256), at least 32 bytes; two while you rotate it: new,old"""
    my_jwks_url: str = ""
    """URL of the public keys that verify links to /my (RS256, ES256)."""
    my_url: str = ""
    """URL of /my for organisations' own people, without a path; by default the console's URL."""
    my_contact: str = ""
    """Contact that /my shows to an organisation's people: billing@example.com"""

    _files: SecretFiles = PrivateAttr(default_factory=SecretFiles)
    _texts: Mapping[str, str] = PrivateAttr(default_factory=dict)
    """Content of the files that these settings contain."""

    def with_files(self, files: SecretFiles) -> Self:
        """Return a copy of these settings with the content of the files."""
        texts = files.texts  # read once, because another thread may replace it
        made = self.model_copy(update={name: _typed(name, text) for name, text in texts.items()})
        made._files, made._texts = files, texts
        return made

    def as_files_say(self) -> Self:
        """Return these settings, or a copy with the new content if a file changed."""
        return self if self._files.texts is self._texts else self.with_files(self._files)

    def environment(self) -> dict[str, str]:
        """Return an environment in which another command uses the same database."""
        if "database_url" in self._texts:
            return dict(os.environ)  # the environment names the file
        others = {name: text for name, text in os.environ.items() if name != f"{PREFIX}DATABASE_URL{SUFFIX}"}
        return {**others, f"{PREFIX}DATABASE_URL": self.database_url}

    @property
    def files(self) -> SecretFiles:
        return self._files

    def secrets(self) -> tuple[str, ...]:
        """Return each configured secret, those of providers and object stores included.

        The passwords of URLs are included, too. A list of several secrets is included whole and in parts.
        """
        own = [value.get_secret_value() for value in vars(self).values() if isinstance(value, SecretStr)]
        theirs = [text for name, text in self.of_providers().items() if name.endswith(("_key", "_secret", "_token"))]
        stores = (self.objects().secret, self.objects().token)
        urls = (
            self.latest_database_url(),
            *self.databases().urls.values(),
            *filter(None, map(os.environ.get, PROXIES)),
        )
        passwords = [_password(url) for url in urls]
        items = [item.strip() for text in (*own, *theirs, *stores, *passwords) for item in re.split("[,;]", text)]
        alone = [item.partition("=")[2] or item for item in items]  # the secret of an entry such as cell-1=SECRET
        return tuple(sorted({text for text in (*own, *theirs, *stores, *items, *alone) if text.strip("=")}))

    def latest_database_url(self) -> str:
        """Return the database's URL with the login that is valid now."""
        return self._files.texts.get("database_url", self.database_url)

    def server(self) -> ServerSettings:
        secrets = (secret.strip() for secret in self.admin_secrets.get_secret_value().split(","))
        return ServerSettings(
            admin_secrets=tuple(filter(None, secrets)),
            admin_hosts=tuple(filter(None, (host.strip().lower() for host in self.admin_hosts.split(",")))),
            cron_secret=self.cron_secret.get_secret_value(),
            gate_unknown_org=self.gate_unknown_org,
            gate_open_when_in_doubt=self.gate_open_when_in_doubt,
            requests_per_s=self.requests_per_s,
            console_url=self.console_url.rstrip("/"),
            console_proxy_header=self.console_proxy_header.strip().lower(),
            console_proxy_secret=self.console_proxy_secret.get_secret_value(),
            oidc=self._oidc(),
            my=self._my(),
        )

    def _oidc(self) -> OidcSettings:
        return OidcSettings(
            self.console_oidc_issuer.strip(),
            self.console_oidc_client_id.strip(),
            self.console_oidc_client_secret.get_secret_value(),
            self.console_oidc_claim.strip(),
            self.console_oidc_label.strip(),
            self.console_oidc_unverified_email,
        )

    def _my(self) -> MySettings:
        """Return the settings of /my. Errors: UsageError for an invalid secret."""
        return MySettings(
            _my_secrets(self.my_secret.get_secret_value()),
            self.my_jwks_url.strip(),
            self.my_url.rstrip("/"),
            self.my_contact.strip(),
        )

    def of_providers(self) -> Mapping[str, str]:
        """Return the values of all DRAWDOWN_… variables and files.

        Each key is the name without the prefix, in lower case, such as `autumn_secret_key`.
        """
        given = {name: text for name, text in _read_environment().items() if not name.endswith(SUFFIX.lower())}
        return {**given, **self._texts}

    def state_folder(self) -> Path:
        """Return the folder of the local checkpoint (rule R1).

        The folder outlives the process, and is not a part of a backup of the database.
        """
        if self.state_dir:
            return Path(self.state_dir)
        home = os.environ.get("XDG_STATE_HOME")
        return (Path(home) if home else Path.home() / ".local" / "state") / "drawdown"

    def cells(self) -> CellSettings:
        """Return the settings of cells.

        Errors: UsageError for an invalid entry. For a secret, the error names only the position of the entry.
        """
        return CellSettings(
            origins(self.cell_origins),
            roots(self.cell_secret.get_secret_value()),
            secrets(self.cell_secrets.get_secret_value()),
            networks(self.cell_networks),
            self.outgoing("cell"),
        )

    def outgoing(self, kind: KindOfCalls = "provider") -> Outgoing:
        """Return the settings of outgoing calls of a kind.

        The kinds are providers (with sign-in by OpenID Connect), cells and webhooks. Errors: UsageError.
        """
        proxy, exceptions = environment(os.environ)
        if kind == "cell" and not self.cell_proxy:
            proxy = None
        return Outgoing(self.ca_file, self._certificate(kind), proxy, exceptions, os.environ.get(CERT_FILE, ""))

    def _certificate(self, kind: str) -> Certificate | None:
        """Return the client certificate for a kind of calls; None without a certificate.

        Errors: UsageError for a key without a certificate.
        """
        if kind == "hook":
            return None
        name = f"{PREFIX}{kind.upper()}"
        cell = kind == "cell"
        file = self.cell_cert_file if cell else self.provider_cert_file
        key = self.cell_key_file if cell else self.provider_key_file
        if key and not file:
            raise UsageError(f"{name}_KEY_FILE: the certificate of this key is missing. Set {name}_CERT_FILE, too")
        return Certificate(f"{name}_CERT_FILE", file, f"{name}_KEY_FILE", key) if file else None

    def require_ways_out(self) -> None:
        """Check the certificate files and the proxy of outgoing calls.

        Errors: UsageError.
        """
        for kind in KINDS_OF_CALLS:
            self.outgoing(kind).require()

    def objects(self) -> ObjectStore:
        """Return the settings of the object store, from the usual AWS_… variables."""
        found = {name: os.environ.get(f"AWS_{name}", "").strip() for name in OBJECT_STORE}
        return ObjectStore(
            found["ACCESS_KEY_ID"],
            found["SECRET_ACCESS_KEY"],
            found["SESSION_TOKEN"],
            found["REGION"] or found["DEFAULT_REGION"],
            found["ENDPOINT_URL_S3"] or found["ENDPOINT_URL"],
        )

    def databases(self) -> Databases:
        """Return the databases for queries of usage, from DRAWDOWN_QUERY_…_URL."""
        named = ((_QUERIED.fullmatch(name), url) for name, url in self.of_providers().items())
        return Databases({found[1]: url.strip() for found, url in named if found})

    def hooks(self) -> HookSettings:
        """Return the settings of webhooks. Errors: UsageError for an invalid entry."""
        return HookSettings(
            origins(self.hook_origins, "DRAWDOWN_HOOK_ORIGINS"),
            roots(self.hook_secret.get_secret_value(), "DRAWDOWN_HOOK_SECRET"),
            networks(self.hook_networks, "DRAWDOWN_HOOK_NETWORKS"),
            self.outgoing("hook"),
        )


def _password(url: str) -> str:
    """Return the password in a URL; if the text is not a URL, return the text."""
    try:
        return sa.make_url(url).password or ""
    except (sa.exc.ArgumentError, ValueError):
        return url


def _read_environment() -> dict[str, str]:
    """Return the non-empty DRAWDOWN_… variables, by lower-case name without prefix."""
    return {
        name.removeprefix(PREFIX).lower(): text for name, text in os.environ.items() if name.startswith(PREFIX) and text
    }


def load(database_url: str | None = None) -> Settings:
    """Return the settings of this process.

    `database_url`: a URL that takes precedence over the environment. Errors: UsageError with the name of an invalid
    setting.
    """
    given = _read_environment()
    if database_url is not None:
        given = {name: text for name, text in given.items() if name not in ("database_url", "database_url_file")}
    try:
        found = Settings().with_files(SecretFiles(_paths(given), CHECKS))
    except ValidationError as error:
        wrong = [f"{PREFIX}{str(one['loc'][0]).upper()}: {one['msg']}" for one in error.errors()]
        raise UsageError("; ".join(wrong)) from error
    if database_url is not None:
        found.database_url = database_url
    found.require_ways_out()
    return found


def _paths(given: Mapping[str, str]) -> Mapping[str, str]:
    """Return the path of the file of each setting that has a file.

    A secret, the database's URL and any provider's setting may have a file. Errors: UsageError.
    """
    found = {}
    for variable, path in given.items():
        name = variable.removesuffix(SUFFIX.lower())
        if name == variable or not name or variable in Settings.model_fields:
            continue
        shown = f"{PREFIX}{name.upper()}"
        if name in given:
            raise UsageError(f"{shown} and {shown}{SUFFIX} are both set. Unset one of them")
        if name in Settings.model_fields and name != "database_url" and not _is_secret(name):
            raise UsageError(f"{shown}{SUFFIX}: this setting cannot come from a file. Set {shown}")
        found[name] = path
    return found


def _is_secret(name: str) -> bool:
    return name in Settings.model_fields and Settings.model_fields[name].annotation is SecretStr


def _typed(name: str, text: str) -> SecretStr | str:
    return SecretStr(text) if _is_secret(name) else text


def _one_database(text: str, was: str | None) -> None:
    """Check that a text is a URL of the database that the process uses.

    A process never changes its database. Errors: UsageError.
    """
    try:
        url = url_of(text).set(username="", password="")
    except (sa.exc.ArgumentError, ValueError):
        raise UsageError(
            "the file does not contain a URL such as postgresql://USER:PASSWORD@HOST/NAME. Write the URL into it"
        ) from None
    if was is not None and url != url_of(was).set(username="", password=""):
        raise UsageError(
            "more than the user and password of the URL in the file changed. Restart the process to use the new URL"
        )


def _my_secrets(text: str) -> tuple[str, ...]:
    """Return the secrets of /my. Errors: UsageError for a secret that is too short."""
    found = roots(text, "DRAWDOWN_MY_SECRET")
    if any(len(one.encode()) < LEAST_SECRET_BYTES for one in found):
        raise UsageError(
            f"DRAWDOWN_MY_SECRET is too short: expected at least {LEAST_SECRET_BYTES} bytes. Run `openssl rand -hex 32`"
        )
    return found


CHECKS: Final[Mapping[str, Check]] = {
    "database_url": _one_database,
    "cell_secret": lambda text, _was: roots(text),
    "cell_secrets": lambda text, _was: secrets(text),
    "hook_secret": lambda text, _was: roots(text, "DRAWDOWN_HOOK_SECRET"),
    "my_secret": lambda text, _was: _my_secrets(text),
}
