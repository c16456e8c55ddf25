"""The leaves of a report, and their readings.

A leaf is a text, number or key, with its place. A reading is a way to decode it.

Guarantee: the search is bounded in depth and in number. Values beyond the bounds are reported as trouble, never
skipped. JSON inside a text is read, too. Each text has at most MAX_READINGS readings, of at most MAX_TEXT_CHARS each.
More or longer readings are reported as trouble, because a value that is not read may be private. If a key has two
values, both are read. A number stays as it was written. If a report cannot be read, the error does not quote it. Names
of fields are compared without case, separators and the `s` of a plural: `ownerIds`, `OWNER-ID` and `owner_id` are the
same.
"""

from __future__ import annotations

import base64
import html
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from decimal import Decimal
from functools import lru_cache
from typing import Final, TypeAlias
from urllib.parse import unquote

from drawdown.schema.errors import UsageError

MAX_DEPTH: Final = 32
"""Most nested levels of objects and lists in a report."""
MAX_LEAVES: Final = 200_000
"""Most values in one report.

Texts, numbers, objects and lists count.
"""
MAX_DECODED_CHARS: Final = 4_194_304
"""Most characters that a scan decodes in the texts of one report.

JSON inside the texts counts, too. Without this limit, a short text could have very many readings.
"""
LEAST_DECODED_CHARS: Final = 64
"""Fewest characters that each reading uses of MAX_DECODED_CHARS.

A shorter reading uses this number, too, because it also takes time.
"""
_NESTED: Final = ("{", "[", '"')


@dataclass(frozen=True)
class Key:
    """A step into an object: the key, and its number in the object, from 1."""

    name: str
    number: int


Step: TypeAlias = Key | int | None
"""A step into an object, into a list, or (None) into JSON inside a text."""
Path: TypeAlias = tuple[Step, ...]


@dataclass(frozen=True)
class Leaf:
    """A text, number or key.

    `path`: its place. `readings`: the texts to search. `key`: the bare name of its field (see `bare`). `above`: the
    bare name of the field around that field.
    """

    path: Path
    readings: tuple[str, ...]
    key: str
    above: str
    is_key: bool = False
    is_number: bool = False


@dataclass(frozen=True)
class Trouble:
    """A fault in the form of a report, at a place."""

    path: Path
    rule: str


@dataclass(frozen=True)
class _Node:
    value: object
    path: Path
    key: str
    above: str


class _Room:
    """The number of characters of one report that can still be decoded."""

    def __init__(self) -> None:
        self.left = MAX_DECODED_CHARS

    def take(self, text: str) -> None:
        self.left -= max(len(text), LEAST_DECODED_CHARS)


def leaves_of(report: object) -> Iterator[Leaf | Trouble]:
    """Yield all leaves of a report, and the faults of its form.

    The report comes from `read_reports`, or consists of dictionaries, lists, dataclasses and scalars. Errors:
    UsageError for a value that JSON does not have.
    """
    nodes, seen, room = [_Node(report, (), "", "")], 0, _Room()
    while nodes:
        node = nodes.pop()
        seen += 1
        if seen + len(nodes) + _size(node.value) > MAX_LEAVES:
            yield Trouble(node.path[:MAX_DEPTH], "too_large")
            return
        if len(node.path) > MAX_DEPTH:
            yield Trouble(node.path[:MAX_DEPTH], "too_deep")
            continue
        found: list[_Node] = []
        yield from _look(node, found, room)
        if room.left < 0:
            yield Trouble(node.path, "too_large")
            return
        nodes.extend(reversed(found))


def _look(node: _Node, below: list[_Node], room: _Room) -> Iterator[Leaf | Trouble]:
    value = asdict(node.value) if is_dataclass(node.value) and not isinstance(node.value, type) else node.value
    if isinstance(value, Pairs | Mapping):
        yield from _object(value if isinstance(value, Pairs) else Pairs(value.items()), node, below, room)
    elif isinstance(value, Number | int | float | Decimal) and not isinstance(value, bool):
        text = str(value)
        if len(text) > MAX_TEXT_CHARS:
            yield Trouble(node.path, "long_text")
        yield Leaf(node.path, _number(text[:MAX_TEXT_CHARS]), node.key, node.above, is_number=True)
    elif isinstance(value, str):
        yield from _text(value, node, below, room)
    elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        below.extend(_Node(one, (*node.path, place), node.key, node.above) for place, one in enumerate(value))
    elif value is not None and not isinstance(value, bool):
        raise UsageError(f"invalid report: {type(value).__name__} is not a type of JSON")


def _object(pairs: Pairs, node: _Node, below: list[_Node], room: _Room) -> Iterator[Leaf | Trouble]:
    names = set()
    for number, (name, value) in enumerate(pairs, 1):
        if not isinstance(name, str):
            raise UsageError("invalid report: each key must be a string")
        path = (*node.path, Key(name, number))
        yield from _read(name, Leaf(path, (), node.key, node.above, is_key=True), room)
        if name in names:
            yield Trouble(path, "duplicate_key")
        names.add(name)
        below.append(_Node(value, path, bare(name), node.key))


def _text(text: str, node: _Node, below: list[_Node], room: _Room) -> Iterator[Leaf | Trouble]:
    leaf = Leaf(node.path, (), node.key, node.above)
    for one in _read(text, leaf, room):
        yield one
        leaf = one if isinstance(one, Leaf) else leaf
    for reading in leaf.readings:
        if reading.lstrip().startswith(_NESTED):
            room.take(reading)
            try:
                inner = parse(reading)
            except UsageError as error:
                if error.code == "report_too_deep":
                    yield Trouble(node.path, "too_deep")
                continue
            if not (isinstance(inner, str) and inner == text):
                below.append(_Node(inner, (*node.path, None), node.key, node.above))


def _read(text: str, leaf: Leaf, room: _Room) -> Iterator[Leaf | Trouble]:
    """Yield the faults of a text's readings, and then its leaf with the readings."""
    found, is_all = look(text)
    if len(text) > MAX_TEXT_CHARS:
        yield Trouble(leaf.path, "long_text")
    elif not is_all:
        yield Trouble(leaf.path, "many_readings")
    for reading in found[1:]:
        room.take(reading)
    yield replace(leaf, readings=tuple(found))


def _size(value: object) -> int:
    """Return the number of nodes directly in a value, not those below them."""
    return len(value) if isinstance(value, Mapping | list | tuple) else 0


def _number(text: str) -> tuple[str, ...]:
    """Return a number as it was written, and in plain digits if it is whole and short."""
    if text.isdigit():
        return (text,)
    try:
        number = Decimal(text)
    except ArithmeticError:
        return (text,)
    if number.is_finite() and -40 < number.adjusted() < 40 and number == number.to_integral_value():
        return tuple(dict.fromkeys((text, format(number.to_integral_value(), "f"))))
    return (text,)


MAX_TEXT_CHARS: Final = 10_000
"""Characters of a text that a scan searches. A longer text is itself a finding."""
MAX_READINGS: Final = 12
"""Most readings of one text of a report.

A reading is a way to decode the text.
"""
MAX_MARKS: Final = 30
"""Consecutive combining marks, as in Unicode's stream-safe form.

The time to sort longer rows grows with the square of the number of marks.
"""
MAX_RUNS: Final = 20
"""Base64 runs of one text that each form a separate reading.

The remaining runs form one reading together.
"""

_UNSEEN: Final = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    r"\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_ESCAPE: Final = re.compile(
    r"\\+(?:u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2})|([0-3][0-7]{2})|([\"'/\\]))"
)
_MARKS: Final = frozenset("\u0f73\u0f75\u0f81\uff9e\uff9f")
"""Characters that are not combining marks, but decompose into them."""
_DIGIT: Final = re.compile(r"[^\D0-9]")
"""A digit of another script."""
_RUN: Final = re.compile(r"[A-Za-z0-9+/_-]{16,4096}={0,2}")
_PLAIN: Final = re.compile(r"[ !#$'()*,.:;<>?@\[\]^`{|}~\w-]{0,15}", re.ASCII)
"""A short text without an encoded part."""


def readings(text: str) -> list[str]:
    """Return the text, its decodings, and the decodings of these, each once."""
    return look(text)[0]


def look(text: str) -> tuple[list[str], bool]:
    """Return the readings of a text, and True if they are complete and uncut."""
    if _PLAIN.fullmatch(text):
        return [text], True
    found, is_all = [text[:MAX_TEXT_CHARS]], len(text) <= MAX_TEXT_CHARS
    for reading in found:
        is_all = is_all and has_few_marks(reading)
        for decoded in _decodings(reading):
            cut = decoded[:MAX_TEXT_CHARS]
            is_all = is_all and len(cut) == len(decoded)
            if cut in found:
                continue
            if len(found) == MAX_READINGS:
                return found, False
            found.append(cut)
    return found, is_all


def _decodings(text: str) -> Iterator[str]:
    if "%" in text:
        yield unquote(text)
    if "\\" in text:
        yield _ESCAPE.sub(_character, text)
    if "&" in text:
        yield html.unescape(text)
    if (not text.isascii() or _UNSEEN.search(text)) and has_few_marks(text):
        yield _DIGIT.sub(_digit, _UNSEEN.sub("", unicodedata.normalize("NFKC", text)))
    said = [decoded for run in _RUN.finditer(text) if (decoded := _of_base64(run[0])) is not None]
    yield from said[:MAX_RUNS]
    if len(said) > MAX_RUNS:
        yield "\n".join(said[MAX_RUNS:])


def has_few_marks(text: str) -> bool:
    """Return True if the time to normalise a text is proportional to its length."""
    if text.isascii():
        return True
    row = 0
    for one in text:
        row = row + 1 if unicodedata.combining(one) or one in _MARKS else 0
        if row > MAX_MARKS:
            return False
    return True


def _character(found: re.Match[str]) -> str:
    if found[6]:
        return found[6]
    number = int(found[5], 8) if found[5] else int(found[1] or found[2] or found[3] or found[4], 16)
    return chr(number) if number <= 0x10FFFF else ""


def _digit(found: re.Match[str]) -> str:
    return str(unicodedata.decimal(found[0]))


def _of_base64(run: str) -> str | None:
    """Return the text in a run of base64; None if it is not a text."""
    bare = run.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        text = base64.b64decode(bare + "=" * (-len(bare) % 4)).decode()
    except ValueError:
        return None
    return text if text.replace("\n", "").replace("\t", "").isprintable() else None


MAX_REPORT_BYTES: Final = 2_097_152
"""Largest size of a report of usage, in bytes."""


class Pairs(list[tuple[str, object]]):
    """A JSON object: all pairs of key and value, in order."""


class Number(str):
    """A JSON number, as it was written."""

    __slots__ = ()


def read_reports(content: bytes) -> list[tuple[int | None, object]]:
    """Return the reports of a file, each with the number of its line.

    The number is None if the report is the whole file.

    Empty lines are skipped. Errors: UsageError `report_too_large`, `bad_encoding`, `bad_json`, `report_too_deep`.
    """
    if len(content) > MAX_REPORT_BYTES:
        raise UsageError(
            f"report too large: at most {MAX_REPORT_BYTES:,} bytes are allowed. Split the report",
            code="report_too_large",
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = error.start + 1 + len(content) - len(error.object)  # `start` does not count a byte order mark
        raise UsageError(f"invalid UTF-8 at byte {at:,}. Write the report as UTF-8", code="bad_encoding") from None
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if len(lines) > 1 and _begins_with_a_whole(lines[0][1]):
        return [(number, parse(line, f"line {number:,}")) for number, line in lines]
    return [(None, parse(text))]


def parse(text: str, where: str = "the report") -> object:
    """Parse one JSON value. Errors: UsageError `bad_json`, `report_too_deep`."""
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise UsageError(f"{where} is nested too deeply. Use fewer levels", code="report_too_deep") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno:,}, column {error.colno:,}" if where == "the report" else f"column {error.colno:,}"
        raise UsageError(f"{where} is not valid JSON. See {place}", code="bad_json") from None
    except ValueError:
        raise UsageError(
            f"{where} has a number that JSON does not allow, such as NaN. Remove the number", code="bad_json"
        ) from None


def _begins_with_a_whole(line: str) -> bool:
    """Return True if the first line is a whole report.

    In that case, each line is a report.
    """
    try:
        parse(line)
    except UsageError:
        return False
    return True


def _none_such(name: str) -> object:
    raise ValueError(name)


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=Pairs, parse_int=Number, parse_float=Number, parse_constant=_none_such
)


_PRIVATE: Final = {
    "raw_actor_id": "actor actorid user userid uid username login member memberid person personid viewer viewerid "
    "createdby updatedby requestedby requester requesterid author authorid subjectid",
    "raw_account_id": "account accountid acct acctid customer customerid org orgid organisation organisationid "
    "organization organizationid tenant tenantid clientid billingaccount billingaccountid stripecustomer "
    "stripecustomerid wallet walletid",
    "raw_workspace_id": "workspace workspaceid projectid teamid spaceid siteid",
    "raw_owner_id": "owner ownerid payer payerid sponsor sponsorid supplierid creator creatorid",
    "subscription_id": "subscription subscriptionid stripesubscription stripesubscriptionid",
    "payment_id": "invoiceid paymentid chargeid paymentintent paymentintentid paymentmethod cardnumber checkoutid",
    "execution_id": "executionid runid jobid taskid predictionid requestid correlationid traceid spanid invocationid "
    "renderid workflowrunid workflowid sessionid sandboxid deviceid messageid eventid sampleid "
    "idempotencykey providerrequestid providerexecutionid",
    "object_key": "objectkey storagekey s3key r2key blobkey filekey bucketname objectpath filepath storagepath "
    "inputkey outputkey",
    "private_url": "signedurl presignedurl downloadurl uploadurl imageurl inputurl outputurl fileurl webhookurl "
    "callbackurl sourceurl avatarurl privateurl",
    "gateway_metadata": "cfray xrequestid xcorrelationid traceparent tracestate useragent xforwardedfor xrealip "
    "cfconnectingip xamzntraceid xvercelid gatewayid gatewaylogid gatewaymetadata requestheader responseheader",
    "ip_address": "ip ipaddress clientip remoteip remoteaddr remoteaddress sourceip",
    "email": "email emailaddress useremail",
    "personal_data": "phone phonenumber mobile firstname lastname fullname surname birthdate dateofbirth ssn passport "
    "streetaddress postaladdress",
    "image_bytes": "imagebyte imagebase64 imageb64 b64json imagedata rawimage thumbnail",
    "private_content": "prompt completion messagebody requestbody responsebody rawbody rawevent transcript",
}  # fmt: skip
_SECRET: Final = (
    "secret", "password", "passwd", "passphrase", "apikey", "accesskey", "secretkey", "privatekey", "signingkey",
    "authorization", "bearer", "cookie", "signature", "credential", "token", "webhookkey", "hmackey", "encryptionkey",
)  # fmt: skip
"""Ends of the names of fields with secrets."""
BY_FIELD: Final = {name.removesuffix("s"): rule for rule, names in _PRIVATE.items() for name in names.split()}
NOTHING_SAID: Final = frozenset(
    ("", "redacted", "other", "unknown", "none", "n/a", "na", "anonymous", "system", "all", "total", "hidden", "masked")
)
"""Texts that may replace a hidden value."""
_WHOLE: Final = frozenset(("gateway_metadata", "private_content", "personal_data", "image_bytes"))
"""Fields that hold objects in which every text is private."""
_NAMES: Final = frozenset(("name", "displayname", "label", "handle", "slug", "title", "value"))
"""Fields that are private in the object of any private field: `account: {name: …}`."""
_HOW_MUCH: Final = ("quantity", "quantitie", "count", "total", "second", "byte", "micro", "unit", "credit", "event")
"""Ends of the bare names of fields with quantities.

One in ten long numbers looks like a card number by its check digit.
"""
_MASK: Final = re.compile(r"[*•.…\[\](){}<> -]*|x{3,}|[\[(<]?redacted[\])>]?", re.IGNORECASE)


@lru_cache(4_096)
def bare(name: str) -> str:
    """Return a name without case, separators, and the `s` of a plural.

    The part beyond MAX_TEXT_CHARS, which `readings` does not read, is cut.
    """
    cut = name[:MAX_TEXT_CHARS]
    folded = (unicodedata.normalize("NFKC", cut) if has_few_marks(cut) else cut).casefold()
    return "".join(filter(str.isalnum, folded)).removesuffix("s")


def rule_of(key: str, above: str, *, is_number: bool) -> str | None:
    """Return the rule by which a field's value is private; None if it is public.

    The rule depends on the bare names of the field and of the field around it, such as `actor: {id: …}`.
    """
    if BY_FIELD.get(above) in _WHOLE or key in _NAMES:
        found = BY_FIELD.get(above)
        if found is not None and not is_number:
            return found
    for name in (key, above + key):
        found = BY_FIELD.get(name)
        if found is not None and not (is_number and not name.endswith(("id", "number", "ip"))):
            return found
    if is_number:
        return "secret_field" if key in ("password", "pin", "passcode") else None
    return "secret_field" if key.endswith(_SECRET) else None


def says_how_much(key: str) -> bool:
    """Return True if a field is a quantity, by its bare name.

    Then its digits are not a card number.
    """
    return key.endswith(_HOW_MUCH)


def rule_of_bytes(key: str) -> str | None:
    """Return the rule by which numbers in a list are private; None if they are public.

    An example is the bytes of a picture.
    """
    return "image_bytes" if BY_FIELD.get(key) == "image_bytes" else None


def rule_of_keys(key: str) -> str | None:
    """Return the rule by which an object's keys are private; None if they are public.

    Examples are `by_owner` and `per_account`.
    """
    for head in ("by", "per"):
        if key.startswith(head):
            return BY_FIELD.get(key.removeprefix(head))
    return None


def says_nothing(text: str) -> bool:
    """Return True if a value is redacted or empty."""
    return text.strip().casefold() in NOTHING_SAID or _MASK.fullmatch(text.strip()) is not None
