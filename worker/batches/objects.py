"""List the objects under a prefix of an S3 object store, and copy them here.

Guarantee: an object is copied whole, as it was listed, or not at all. The bytes of an object, and the pages, bytes and
time of a listing, have the bounds in this module. Requests go only to the store of the settings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from http import HTTPStatus
from pathlib import Path
from threading import Event
from typing import Any, Final

from drawdown.schema.errors import UsageError
from drawdown.schema.ids import is_clean_id
from drawdown.schema.text import quote_value
from drawdown.worker.batches.duck import time_limit
from drawdown.worker.batches.files import (
    FileChanged,
    FoundFile,
    NotNow,
    Unreadable,
    changed,
    format_by_name,
    format_of,
    found_file,
)
from drawdown.worker.engine.stores import ObjectStore

SCHEME: Final = "s3://"
MAX_OBJECT_BYTES: Final = 4 * 1024**3
"""Largest size of one object of usage.

The object is in the spill folder while Drawdown reads it.
"""
OBJECTS_A_PAGE: Final = 1_000
MAX_PAGES: Final = 100
"""Pages of a listing of objects that one tick reads."""
STORE_CONNECT_S: Final = 5
"""Longest wait for a connection to an object store, in seconds."""
STORE_READ_S: Final = 30
"""Longest wait for each response of an object store, in seconds."""
STORE_TRIES: Final = 3
"""Attempts of one call to an object store."""
MAX_ANSWER_BYTES: Final = 8 * 1024**2
"""Largest size of a listing of objects, or of a store's error.

A thousand of the longest names need less.
"""
STORE_ANSWER_S: Final = 10
"""Longest time for a listing or an error of an object store to arrive, in seconds."""
_CHUNK_BYTES: Final = 1 << 20
"""Bytes of an object that one step writes."""
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_GONE: Final = frozenset({"404", "NoSuchKey"})


@dataclass(frozen=True)
class Page:
    """A page of a prefix: its files, and the start of the next page.

    `names`: the valid names of batches. `files`: the files that were not written recently. `goes_on`: the start of the
    next page (None: this is the last page).
    """

    names: list[str]
    strange: list[str]
    """The names that are invalid for a batch."""
    files: list[FoundFile]
    goes_on: str | None


class NoSuchObject(Unreadable):
    """Raised if an object does not exist."""


def is_prefix(place: str) -> bool:
    return place.startswith(SCHEME)


def prefix_of(place: str) -> str:
    """Return a prefix in its normal form, s3://BUCKET/PREFIX. Errors: UsageError."""
    bucket, _, prefix = place.removeprefix(SCHEME).partition("/")
    prefix = prefix.strip("/")
    if not _BUCKET.fullmatch(bucket) or not prefix.isprintable() or len(prefix) > 500:
        raise UsageError(
            f"invalid prefix {quote_value(place)}: expected s3://BUCKET/PREFIX, with a bucket of 3 to 63 characters "
            "(a-z, 0-9, and inside also . and -) and a prefix of at most 500 printable characters"
        )
    return f"{SCHEME}{bucket}/{prefix}".rstrip("/")


def page_of(store: ObjectStore, place: str, goes_on: str | None, quiet_ms: int) -> Page:
    """Return a page of the objects directly under a prefix.

    Errors: NotNow, Unreadable.

    `files` has the objects that were not written after `quiet_ms`.
    """
    _, under = _parts(place, "/")
    with _explained(place):
        answer = _listing(store, place, under, OBJECTS_A_PAGE, goes_on)
        page = Page([], [], [], answer.get("NextContinuationToken") if answer.get("IsTruncated") else None)
        for one in answer.get("Contents", ())[:OBJECTS_A_PAGE]:
            name = str(one["Key"]).removeprefix(under)
            if format_of(name)[0] is None or name.startswith(".") or "/" in name:
                continue
            if not is_clean_id(name):
                page.strange.append(name)
                continue
            file = _read_listed(store, f"{place}/{name}", one)
            page.names.append(name)
            if file.modified_ns <= quiet_ms * 1_000_000:
                page.files.append(file)
    return page


def require_listed(store: ObjectStore, place: str) -> None:
    """Check with one listing that the store and the bucket can be read.

    Errors: UsageError for an invalid prefix; NotNow, Unreadable.
    """
    place = prefix_of(place)
    with _explained(place):
        _listing(store, place, _parts(place, "/")[1], 1)


def object_at(store: ObjectStore, place: str) -> FoundFile:
    """Return one object, in the form in which a tick finds it.

    `place`: its address, s3://BUCKET/PREFIX/NAME.

    Errors: UsageError for an invalid prefix or name. NotNow, Unreadable. NoSuchObject if it does not exist.
    """
    folder, _, name = place.rpartition("/")
    place = f"{prefix_of(folder)}/{name}"
    format_by_name(name, place)
    _, key = _parts(place)
    with _explained(place):
        for one in _listing(store, place, key, 1).get("Contents", ())[:1]:
            if str(one["Key"]) == key:
                return _read_listed(store, place, one)
    raise NoSuchObject(f"{place}: the object does not exist. Check its bucket, prefix and name")


def brought(store: ObjectStore, place: str, folder: Path, over: Event) -> Path | None:
    """Copy one object into a folder of this machine.

    Return the path of the copy; None if the object does not exist, or changes during the copy.

    Errors: UsageError for an invalid prefix or name, or a too large object. NotNow, Unreadable; OSError.
    """
    try:
        file = object_at(store, place)
        assert file.bring is not None
        return file.bring(folder, over).path
    except (FileChanged, NoSuchObject):
        return None


def _parts(place: str, end: str = "") -> tuple[str, str]:
    """Return the bucket and the key of an address.

    `end`: the text to add to a key that is not empty.
    """
    bucket, _, key = place.removeprefix(SCHEME).partition("/")
    return bucket, f"{key}{end}" if key else ""


def _listing(store: ObjectStore, place: str, under: str, most: int, goes_on: str | None = None) -> Any:
    asked = {"Bucket": _parts(place)[0], "Prefix": under, "Delimiter": "/", "MaxKeys": most}
    return _client(store).list_objects_v2(**asked, **({"ContinuationToken": goes_on} if goes_on else {}))


def _read_listed(store: ObjectStore, place: str, listed: Any) -> FoundFile:
    """Return an object from its entry in a listing."""
    (bucket, key), name, size = _parts(place), place.rpartition("/")[2], int(listed["Size"])
    if size < 0:
        raise ValueError(f"{name} has {size} bytes")
    format_, packed = format_of(name)
    assert format_ is not None
    modified_ns = int(listed["LastModified"].timestamp() * 1_000) * 1_000_000
    found = FoundFile(Path(name), name, format_, packed, size, modified_ns, at=place)
    return found.brought_by(partial(_bring, store, found, bucket, key, str(listed["ETag"])))


def _bring(
    store: ObjectStore, file: FoundFile, bucket: str, key: str, etag: str, folder: Path, over: Event
) -> FoundFile:
    """Copy an object into a folder of this machine, exactly as it was listed.

    Errors: UsageError for an invalid name, or for an object that is too large; FileChanged, NotNow, Unreadable;
    OSError.
    """
    format_by_name(file.name, file.place)
    if file.size_bytes > MAX_OBJECT_BYTES:
        raise UsageError(f"{file.place}: the object has more than {MAX_OBJECT_BYTES:,} bytes. Split it")
    path = folder / f"object{''.join(Path(file.name).suffixes[-2:])}"
    with _explained(file.name, partial(changed, file, "the object is gone")), path.open("wb") as written:
        answer = _client(store).get_object(Bucket=bucket, Key=key)
        if int(answer["ContentLength"]) != file.size_bytes or answer["ETag"] != etag:
            raise changed(file)
        left = file.size_bytes
        with answer["Body"] as body:
            # read1 returns the bytes that have arrived. `read` would wait for all bytes, even if they arrive slowly.
            read = getattr(body, "_raw_stream", body).read1
            while left and (chunk := read(min(left, _CHUNK_BYTES))):
                written.write(chunk)
                left -= len(chunk)
                if over.is_set():
                    raise NotNow(
                        f"{file.name}: the time limit ended before Drawdown had downloaded the object. Split the object"
                    )
        if left:
            raise changed(file, "the download ended too early")
    whole = found_file(path)
    return FoundFile(whole.path, file.name, file.format, file.packed, whole.size_bytes, whole.modified_ns, at=file.at)


@lru_cache(maxsize=1)
def _client(store: ObjectStore) -> Any:
    """Return the client of a store.

    The client is created once, because that takes a second.

    Errors: Unreadable if botocore is not installed, or if this machine lacks credentials.
    """
    try:
        from botocore.config import Config
        from botocore.httpsession import URLLib3Session
        from botocore.session import Session
        from botocore.utils import get_environ_proxies
    except ImportError as error:
        raise Unreadable("reading an object store needs botocore. Install drawdown[s3]") from error
    if not store.key_id or not store.secret:
        raise Unreadable("object stores need AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. Set both")
    config = Config(
        connect_timeout=STORE_CONNECT_S,
        read_timeout=STORE_READ_S,
        retries={"total_max_attempts": STORE_TRIES, "mode": "standard"},
        s3={"addressing_style": "path" if store.endpoint else "auto"},
    )
    session = Session()
    client = session.create_client(
        "s3",
        region_name=store.region or "us-east-1",
        endpoint_url=store.endpoint or None,
        aws_access_key_id=store.key_id,
        aws_secret_access_key=store.secret,
        aws_session_token=store.token or None,
        config=config,
    )
    # This replaces botocore's own sender, which would read a response of any size into memory.
    sender = URLLib3Session(
        verify=session.get_config_variable("ca_bundle") or True,
        proxies=get_environ_proxies(client.meta.endpoint_url),
        timeout=(STORE_CONNECT_S, STORE_READ_S),
    )
    client.meta.events.register("before-send.s3", partial(_send, sender))
    return client


def _send(sender: Any, request: Any, **_: object) -> Any:
    """Send a request and return the response.

    An object's content is streamed, and other responses are read within bounds. Errors: NotNow for a response above the
    bounds.
    """
    from botocore.awsrequest import AWSResponse

    to_come, request.stream_output = request.stream_output, True
    answer = sender.send(request)
    if to_come and answer.status_code < HTTPStatus.MULTIPLE_CHOICES:
        return answer
    body = bytearray()
    with time_limit(STORE_ANSWER_S) as over, closing(answer.raw):
        while chunk := answer.raw.read1(_CHUNK_BYTES):
            body += chunk
            if len(body) > MAX_ANSWER_BYTES or over.is_set():
                bound = f"{STORE_ANSWER_S} s" if over.is_set() else f"{MAX_ANSWER_BYTES:,} bytes"
                raise NotNow(f"the response of the object store exceeds the limit of {bound}. Try again")
    return AWSResponse(request.url, answer.status_code, answer.headers, _Read(bytes(body)))


@dataclass(frozen=True)
class _Read:
    """Bytes that were read, with the method that botocore needs."""

    body: bytes

    def stream(self) -> Iterator[bytes]:
        yield self.body


@contextmanager
def _explained(name: str, as_changed: Callable[[], NotNow] | None = None) -> Iterator[None]:
    """Convert a store's error to one line.

    A store's error is never due to the content of an object. Errors: FileChanged, NotNow.
    """
    try:
        yield
    except Exception as error:
        code = str((getattr(error, "response", None) or {}).get("Error", {}).get("Code", ""))
        if as_changed is not None and code in _GONE:
            raise as_changed() from error
        if isinstance(error, KeyError | ValueError | TypeError | AttributeError):
            raise NotNow(f"{name}: the object store returned an unexpected response: {error!r}"[:300]) from error
        if type(error).__module__.partition(".")[0] in ("botocore", "urllib3"):
            said = " ".join(str(error).split())[:300]
            raise NotNow(
                f"{name}: the call to the object store failed: {said.rstrip('.')}. Check the settings of the store, or "
                "try again"
            ) from error
        raise
