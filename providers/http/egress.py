"""The settings of outgoing calls.

The settings are trusted certificate authorities, client certificates, the proxy, and name resolution.

Guarantee: an invalid setting raises an error that names the setting, before Drawdown sends a call. A proxy's password
is never printed.

Drawdown trusts the system's authorities as OpenSSL finds them (`SSL_CERT_FILE`, `SSL_CERT_DIR`). If the system lacks
authorities, Drawdown trusts those of certifi. It also trusts a company's own authorities. This module does not import a
network client, so that a check of settings stays fast.
"""

from __future__ import annotations

import base64
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

from drawdown.schema.errors import UsageError

if TYPE_CHECKING:
    import ssl

CA_FILE: Final = "DRAWDOWN_CA_FILE"
CERT_FILE, CERT_DIR = "SSL_CERT_FILE", "SSL_CERT_DIR"
PROXY, NO_PROXY = "HTTPS_PROXY", "NO_PROXY"
MOST_EXCEPTIONS: Final = 1_000
"""Most entries of NO_PROXY."""


@dataclass(frozen=True)
class Certificate:
    """A client certificate, in PEM files.

    `setting`, `key_setting`: the names of their settings. `file`: the file of the certificate. `key`: the file of the
    key; "" if `file` has the key, too.
    """

    setting: str
    file: str = ""
    key_setting: str = ""
    key: str = ""


@dataclass(frozen=True)
class ProxyUrl:
    """An HTTP proxy that connects (CONNECT).

    `authorization`: the header value of its user and password.
    """

    host: str
    port: int
    authorization: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"http://{self.host}:{self.port}"


@dataclass(frozen=True)
class Outgoing:
    """The settings of one kind of outgoing calls.

    `ca_file`: the file of a company's own authorities; "": not used. `certificate`, `proxy` None: not used.
    `exceptions`: hosts that are called without the proxy. `system_file`: the file of the system's authorities, if it is
    set (`SSL_CERT_FILE`).
    """

    ca_file: str = ""
    certificate: Certificate | None = None
    proxy: ProxyUrl | None = None
    exceptions: tuple[str, ...] = ()
    system_file: str = ""

    def tls(self) -> ssl.SSLContext:
        """Return the TLS context.

        If a file changes, build a new context. Errors: UsageError, which names the setting.
        """
        return _tls(self.system_file, self.ca_file, self.certificate, self._stands())

    def _stands(self) -> tuple[object, ...]:
        """Return the files of the TLS context and their times of change.

        If a time changes, the file was rotated and is read again.
        """
        import ssl

        system = ssl.get_default_verify_paths()
        own = [self.ca_file, *((self.certificate.file, self.certificate.key) if self.certificate else ())]
        return tuple((path, _written(path)) for path in (system.cafile, system.capath, *own) if path)

    def require(self) -> None:
        """Check that configured files can be used.

        The check does not read the system's authorities. The first connection with TLS reads them.

        Errors: UsageError, which names the setting.
        """
        if self.ca_file or (self.certificate is not None and self.certificate.file):
            import ssl

            _own(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), self.ca_file, self.certificate)
        if self.system_file and not os.access(self.system_file, os.R_OK):
            why = f"{self.system_file} cannot be read. Name a file of certificates in PEM, or unset it"
            raise UsageError(f"{CERT_FILE}: {why}")

    def proxy_for(self, host: str, port: int) -> ProxyUrl | None:
        """Return the proxy to use for a host and port; None for a direct connection."""
        return None if self.proxy is None or _is_excepted(self.exceptions, host, port) else self.proxy


def _written(path: str) -> int:
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return 0


@lru_cache(16)
def _tls(
    system_file: str, ca_file: str, certificate: Certificate | None, _stands: tuple[object, ...]
) -> ssl.SSLContext:
    import ssl  # takes 20 ms, which a command without a call must not spend

    context = ssl.create_default_context()
    if system_file:
        _load(context, system_file, CERT_FILE)
    elif not _has_authorities(context):
        import certifi

        context.load_verify_locations(cafile=certifi.where())
    _own(context, ca_file, certificate)
    return context


def _own(context: ssl.SSLContext, ca_file: str, certificate: Certificate | None) -> None:
    if ca_file:
        _load(context, ca_file, CA_FILE)
    if certificate is not None and certificate.file:
        _prove(context, certificate)


def _has_authorities(context: ssl.SSLContext) -> bool:
    """Return True if the system has certificate authorities.

    They are in a file, or in a folder that OpenSSL reads when it needs an authority.
    """
    import ssl

    folder = ssl.get_default_verify_paths().capath
    try:
        return context.cert_store_stats()["x509_ca"] > 0 or bool(folder and any(Path(folder).iterdir()))
    except OSError:
        return False


def _load(context: ssl.SSLContext, path: str, setting: str) -> None:
    import ssl

    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        raise UsageError(
            f"{setting}: {path} does not contain a certificate. Name a file of certificates in PEM"
        ) from None
    except OSError as error:
        raise UsageError(f"{setting}: {path} cannot be read: {error.strerror or error}. Name another file") from None


def _prove(context: ssl.SSLContext, certificate: Certificate) -> None:
    import ssl

    key = certificate.key or certificate.file
    for setting, path in ((certificate.setting, certificate.file), (certificate.key_setting, key)):
        try:
            with Path(path).open("rb"):
                pass
        except OSError as error:
            why = str(error.strerror or error)
            raise UsageError(f"{setting}: {path} cannot be read: {why}. Name another file") from None
    try:
        # Without this `password`, OpenSSL would prompt for the passphrase of a key at the terminal.
        context.load_cert_chain(certificate.file, certificate.key or None, password=lambda: "")
    except (ssl.SSLError, ValueError):
        names = f"{certificate.setting} and {certificate.key_setting}"
        why = f"{certificate.file} and {key} are not a certificate and its key"
        raise UsageError(f"{names}: {why}. Name a certificate in PEM, and its own key without a passphrase") from None


def proxy_url(text: str, setting: str = PROXY) -> ProxyUrl | None:
    """Parse a proxy such as `http://user:password@proxy.internal:3128`.

    Return None for an empty text.

    Errors: UsageError, which does not quote the password.
    """
    text = text.strip()
    if not text:
        return None
    wrong = UsageError(
        f"{setting} or {setting.lower()}: invalid proxy. Set http://HOST:PORT, or http://USER:PASSWORD@HOST:PORT"
    )
    try:
        found = urlsplit(text if "://" in text else f"http://{text}")
        port = found.port or 80
    except ValueError:
        raise wrong from None
    if found.scheme != "http" or not found.hostname or found.path not in ("", "/") or found.query or found.fragment:
        raise wrong
    authorization = ""
    if found.username is not None:
        user = f"{unquote(found.username)}:{unquote(found.password or '')}"
        authorization = "Basic " + base64.b64encode(user.encode()).decode()
    return ProxyUrl(found.hostname, port, authorization)


def exceptions(text: str) -> tuple[str, ...]:
    """Return the entries of NO_PROXY.

    Errors: UsageError for more than MOST_EXCEPTIONS.
    """
    found = tuple(entry.strip().lower() for entry in text.split(",") if entry.strip())
    if len(found) > MOST_EXCEPTIONS:
        raise UsageError(
            f"{NO_PROXY} or {NO_PROXY.lower()} has {len(found):,} entries: expected at most {MOST_EXCEPTIONS:,}"
        )
    return found


def environment(given: Mapping[str, str]) -> tuple[ProxyUrl | None, tuple[str, ...]]:
    """Return the proxy and its exceptions, from the environment.

    The variables have the names that other programs use. A name in lower case takes precedence, as in curl. Errors:
    UsageError.
    """

    def one(name: str) -> str:
        return given.get(name.lower()) or given.get(name, "")

    return proxy_url(one(PROXY)), exceptions(one(NO_PROXY))


def _is_excepted(entries: tuple[str, ...], host: str, port: int) -> bool:
    """Return True if an entry of NO_PROXY matches a host.

    An entry is a name (`corp.example` or `.corp.example`: it and all names below), an address, a network, or `*`. It
    can have a port.
    """
    name = host.lower().rstrip(".").strip("[]")
    return any(_matches(entry, name, port) for entry in entries)


def _matches(entry: str, name: str, port: int) -> bool:
    bare, colon, number = entry.rpartition(":")
    if colon and number.isdigit() and (":" not in bare or bare.endswith("]")):
        return int(number) == port and _matches(bare, name, port)
    host = entry.strip("[]").lstrip(".")
    return entry == "*" or name == host or name.endswith(f".{host}") or _is_within(entry.strip("[]"), name)


def _is_within(entry: str, name: str) -> bool:
    """Return True if an address is in a network."""
    try:
        return ip_address(name) in ip_network(entry, strict=False)
    except ValueError:
        return False


Lookup = Callable[[str, int], Sequence[tuple[Any, ...]]]


def system_lookup(host: str, port: int) -> Sequence[tuple[Any, ...]]:
    """Return the addresses of a name, by the system's resolver.

    Errors: OSError, UnicodeError.
    """
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
