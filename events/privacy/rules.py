"""The privacy rules, built in and your own.

The module has patterns of secrets, ids, places and people, and the names of other findings.

Guarantee: no built-in pattern has an unbounded repetition, so its time is at most proportional to the length of the
text. Each pattern has texts that it must and must not match in `tests/unit/test_privacy_rules.py`.

Your own rules are a file in the form of gitleaks' `gitleaks.toml`. They run on RE2, in time proportional to the text.
Drawdown does not include such a file. Gitleaks publishes its own file under the MIT licence, and changes that file each
month. Drawdown ignores rules that only match paths, and allow-lists, because both are for code.
"""

from __future__ import annotations

import base64
import ipaddress
import math
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Protocol

from drawdown.schema.errors import UsageError

FLAGS: Final = re.IGNORECASE | re.ASCII


@dataclass(frozen=True)
class Rule:
    """A rule: its name, its meaning and its pattern.

    `needles`: texts in lower case, of which each match has at least one. If `needles` is empty, every text is searched.
    `holds`: checks the matched text. `unless_key`: names of fields in which such a value is harmless.
    """

    name: str
    says: str
    pattern: re.Pattern[str]
    needles: tuple[str, ...] = ()
    holds: Callable[[str], bool] | None = None
    unless_key: frozenset[str] = frozenset()

    def finds(self, text: str, lowered: str, key: str) -> bool:
        """Return True if the rule matches in `text`.

        `lowered`: the text in lower case. `key`: the bare name of its field.
        """
        if self.needles and not any(needle in lowered for needle in self.needles):
            return False
        if key in self.unless_key:
            return False
        if self.holds is None:
            return self.pattern.search(text) is not None
        return any(self.holds(found[0]) for found in self.pattern.finditer(text))


def rule(
    name: str,
    says: str,
    *patterns: str,
    needles: str = "",
    holds: Callable[[str], bool] | None = None,
    unless_key: str = "",
) -> Rule:
    """Return a rule of one or several patterns.

    Spaces separate needles and names of fields.
    """
    made = re.compile("|".join(f"(?:{pattern})" for pattern in patterns), FLAGS)
    return Rule(name, says, made, tuple(needles.split()), holds, frozenset(unless_key.split()))


DIGIT: Final = r"(?=[a-z]{0,40}\d)"
"""A look-ahead: a digit follows after at most 40 letters."""
MIXED: Final = (
    r"(?:(?=[a-z]{0,40}\d)(?=\d{0,40}[a-z])[a-z0-9]{4}|"
    r"(?-i:(?=[a-z0-9]{0,40}[A-Z])(?=[A-Z0-9]{0,40}[a-z])[A-Za-z0-9]{10}))"
)
"""Letters mixed with digits, or in upper and lower case, unlike an ordinary word."""


def _is_basic(found: str) -> bool:
    """Return True if the text after `Basic` is a name and a password."""
    text = re.split(r"[\s:=]+", found.rstrip("="))[-1]
    try:
        return b":" in base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        return False


SECRETS: Final = (
    rule(
        "bearer_token",
        "a bearer token",
        r"\bbearer[\s:=]{1,3}(?:[a-z0-9]{20}|(?=[a-z_.~+/-]{0,30}\d)[\w.~+/-]{6}|[a-z]{1,30}[-_.~+/][\w.~+/-]{3}|(?-i:[a-z0-9._~+/-]{1,40}[A-Z])[\w.~+/-]{8})",
        needles="bearer",
    ),
    rule(
        "authorization",
        "an authentication header",
        r"authorization[\"']?\s{0,3}[:=]\s{0,3}[\"']?(?:basic|bearer|token|digest|apikey)\s{1,3}[^\s\"']{4}",
        r"\b(?:x-api-key|x-auth-token|set-cookie|cookie)[\"']?\s{0,3}[:=]\s{0,3}[\"']?[^\s\"']{6}",
        needles="authorization x-api-key x-auth-token cookie",
    ),
    rule(
        "basic_auth",
        "a user name with a password, in the form of HTTP",
        r"\bbasic[\s:=]{1,3}[a-z0-9+/]{8,200}={0,2}",
        needles="basic",
        holds=_is_basic,
    ),
    rule("json_web_token", "a JSON web token", r"\beyJ[\w-]{8,500}\.[\w-]{4}", needles="eyj"),
    rule(
        "private_key",
        "a private key",
        r"-----BEGIN[ A-Z0-9]{0,40}PRIVATE KEY",
        r"\bAGE-SECRET-KEY-1[a-z0-9]{8}",
        needles="private age-secret",
    ),
    rule(
        "webhook_secret",
        "a secret that signs webhooks",
        r"\bwhsec_[\w+/=-]{3}",
        r"\bwhsk_\w{8}",
        needles="whsec_ whsk_",
    ),
    rule(
        "payment_key",
        "a key of a payment service",
        r"\b(?:sk|rk|pk)_(?:live|test)_\w{3}",
        r"\bam_[sp]k_\w{4}",
        r"\bsq0(?:atp|csp|idp)-[\w-]{8}",
        r"\bEAAA[\w-]{40}",
        needles="k_live_ k_test_ am_sk_ am_pk_ sq0 eaaa",
    ),
    rule("api_key", "an API key of Drawdown", r"\bddk_[\w-]{16}", needles="ddk_"),
    rule(
        "model_key",
        "a key of a model service",
        r"\bsk-(?:ant|proj|or|svcacct|admin|lf)-[\w-]{8}",
        r"\bsk-[a-z0-9]{20}",
        rf"\b(?:hf|gsk|r8|xai|pplx|nvapi|jina|tgp_v1)[_-]{DIGIT}\w{{16}}",
        r"\bhf_[a-z0-9]{20}",
        r"\bfal_[\w-]{16}",
        needles="sk- hf_ gsk_ r8_ xai- pplx- nvapi- jina_ tgp_v1_ fal_",
    ),
    rule(
        "cloud_key",
        "a key of a cloud provider",
        r"\b(?:AKIA|ASIA|ABIA|ACCA|AROA|AIDA)[A-Z0-9]{16}\b",
        r"\bAIza[\w-]{30}",
        r"\bya29\.[\w-]{10}",
        r"\bGOCSPX-[\w-]{16}",
        r"\bAccountKey=[\w+/=]{16}",
        r"\bdo[opr]_v1_[0-9a-f]{16}",
        r"\bLTAI[a-z0-9]{12}",
        r"\bv1\.0-[0-9a-f]{24}-[0-9a-f]{32}",
        needles="akia asia abia acca aroa aida aiza ya29. gocspx- accountkey= doo_v1_ dop_v1_ dor_v1_ ltai v1.0-",
    ),
    rule(
        "code_host_token",
        "a token of a code or package host",
        r"\bgh[pousr]_[a-z0-9]{16}",
        r"\bgithub_pat_\w{16}",
        r"\bgl(?:pat|dt|rt|ptt|cbt)-[\w-]{12}",
        r"\bnpm_[a-z0-9]{20}",
        r"\bpypi-[\w-]{16}",
        r"\bATATT3[\w=-]{16}",
        r"\bdckr_pat_[\w-]{8}",
        r"\blin_api_\w{16}",
        needles="ghp_ gho_ ghu_ ghs_ ghr_ github_pat_ glpat- gldt- glrt- glptt- glcbt- npm_ pypi- atatt3 dckr_pat_ "
        "lin_api_",
    ),
    rule(
        "chat_token",
        "a token or URL of a chat service",
        r"\bxox[abeoprs]-[\w-]{8}",
        r"\bxapp-\d-[\w-]{8}",
        r"hooks\.slack\.com/(?:services|workflows)/",
        r"discord(?:app)?\.com/api/webhooks/",
        r"\b\d{8,10}:AA[\w-]{30}",
        needles="xox xapp- hooks.slack.com discord :aa",
    ),
    rule(
        "mail_key",
        "a key of a mail or message service",
        r"\bSG\.[\w-]{12,40}\.[\w-]{12}",
        r"\bkey-[0-9a-f]{32}",
        r"\b(?:AC|SK)[0-9a-f]{32}\b",
        r"\bre_[a-z0-9]{6,12}_[a-z0-9]{10}",
        r"\bxkeysib-[0-9a-f]{16}",
        needles="sg. key- ac sk re_ xkeysib-",
    ),
    rule(
        "shop_token",
        "a token of a shop or another service",
        r"\bshp(?:at|ca|pa|ss)_[0-9a-f]{16}",
        r"\bdapi[0-9a-f]{32}",
        r"\bdop_v\d_\w{16}",
        r"\bhvs\.[\w-]{16}",
        r"\bsntrys_[\w=+/-]{16}",
        r"\bphc_[a-z0-9]{16}",
        r"\bntn_[a-z0-9]{16}",
        r"\bsecret_[a-z0-9]{20}",
        r"\bsvix_[\w-]{8}",
        r"\btskey-[\w-]{8}",
        needles="shp dapi dop_v hvs. sntrys_ phc_ ntn_ secret_ svix_ tskey-",
    ),
    rule(
        "named_secret",
        "a named secret",
        r"(?:secret|token|api[_-]?key|access[_-]?key|private[_-]?key|signing[_-]?key|credential)s?[\"']?\s{0,3}[:=]{1,2}\s{0,3}[\"']?"
        r"(?=[^\s\"',;&]{0,60}\d)(?=[^\s\"',;&]{0,60}[a-z])(?!ref_)[^\s\"',;&*<\[]{8}",
        r"(?:password|passwd|pwd|passphrase|passcode)[\"']?\s{0,3}[:=]{1,2}\s{0,3}[\"']?(?=[^\s\"',;]{0,60}[\d!@#$%^&])[^\s\"',;*<\[]{4}",
        needles="secret token key credential passw pwd pass",
    ),
    rule(
        "session_cookie",
        "a session's cookie",
        r"\b(?:session|sess|sid|connect\.sid|csrf|xsrf|jsessionid|phpsessid|__(?:secure|host)-[\w.-]{1,30})(?:[_-]?(?:id|token))?="
        r"[^\s;&\"']{6}",
        needles="sess sid= csrf xsrf __",
    ),
    rule(
        "url_password", "a URL with a name and a password", r"://[^\s/@:\"']{0,100}:[^\s/@\"']{1,200}@", needles="://"
    ),
    rule(
        "signed_url",
        "a URL that contains its own credentials",
        r"[?&](?:x-amz-(?:signature|credential|security-token)|x-goog-(?:signature|credential)|signature|sig|token|access_token|"
        r"auth|api_?key|key|awsaccesskeyid|key-pair-id|googleaccessid|hdnts|hmac|jwt|code|secret)=[^\s&#\"']{4}",
        needles="=",
    ),
)


_END: Final = r"(?![a-z0-9])"
_BEGIN: Final = r"(?<![a-z0-9])"
_SPAN: Final = rf"(?!\d{{1,4}}(?:d|h|m|w|y|s|k|x|days?|th){_END}|[qhvp]\d{{1,2}}{_END})"
"""A look-ahead that excludes a length of time, quarter, version or quantile: `user_30d`, `user_p99`."""
_SOME: Final = rf"(?:\d{{1,20}}{_END}|{DIGIT}[a-z0-9]{{6}}|{_SPAN}{DIGIT}(?=\d{{0,40}}[a-z])[a-z0-9]{{3}})"
"""A number, or letters and digits, after `user_` and similar words."""
_AFTER_DASH: Final = rf"(?:\d{{5,20}}{_END}|{DIGIT}[a-z0-9]{{8}})"
"""A number, or letters and digits, after `user-` and similar words.

A short number, as in `user-2026`, may be a label.
"""
_RAW: Final = r"(?:raw|private|secret|real|test|live|internal)[_-][a-z0-9]"
"""Words after `user_` and similar words that show an id and not a label."""
_SCOPE: Final = r"(?!(?:read|write|admin|manage|list|create|delete|any|all|none|other|redacted|ref_)\b|ref_)"


def _owned(*words: str) -> tuple[str, ...]:
    """Return patterns of an id after a word for its owner."""
    names = "|".join(words)
    return (
        rf"{_BEGIN}(?:{names})(?:[_-]?id)?[_#]{_SOME}",
        rf"{_BEGIN}(?:{names})(?:[_-]?id)?-{_AFTER_DASH}",
        rf"{_BEGIN}(?:{names})[_-]{_RAW}",
        rf"{_BEGIN}(?:{names}):{_SCOPE}[^\s\"',;:}}\])]",
        rf"{_BEGIN}(?:{names})[_-]?id[\"']?\s{{0,3}}[:=]\s{{0,3}}[\"']?{_SCOPE}[^\s\"',;}}\])*<\[]",
        rf"\b(?:{names})s?/{_SCOPE}(?=[^\s/\"'\d]{{0,80}}\d)[^\s/\"']{{4}}",
    )


def _mixed(found: str) -> bool:
    """Return True if a text mixes at least two digits and two letters.

    One group of each, such as `abc123`, is not a mix.
    """
    digits = sum(map(str.isdigit, found))
    return digits >= 2 and len(found) - digits >= 2 and not re.fullmatch(r"[a-z]+\d+|\d+[a-z]+", found.lower())


def _any_mixed(found: str) -> bool:
    return any(map(str.isdigit, found)) and any(map(str.isalpha, found))


def _is_run(found: str) -> bool:
    """Return True unless the text ends in a date, such as that of a batch."""
    tail = re.split(r"[_:-]", found)[-1]
    return not re.fullmatch(r"20\d{6}", tail)


OPAQUE_KEYS: Final = (
    "commit revision rev tree head gitsha sha sha1 sha256 digest hash checksum fingerprint contenthash basecommit "
    "headcommit"
)
"""Bare names of fields of commits and checksums."""

IDS: Final = (
    rule("customer_id", "a customer of a payment service", rf"{_BEGIN}cus_[a-z0-9]", needles="cus_"),
    rule(
        "subscription_id",
        "a subscription of a payment service",
        rf"{_BEGIN}sub(?:_sched)?_(?:{DIGIT}[a-z0-9]{{1}}|{_RAW}|{MIXED})",
        needles="sub_",
    ),
    rule(
        "payment_id",
        "a payment, card or invoice of a payment service",
        rf"{_BEGIN}(?:pi|pm|ch|in|ii|il|evt|price|prod|seti|si|cs|txn|re|po|card|src|tok|ba|dp|promo|req|we|acct|mbur|plink|tr|py)_"
        rf"(?:(?:test_|live_)?(?:{DIGIT}[a-z0-9]{{8}}|{MIXED})|(?:test|live)_{DIGIT}[a-z0-9]{{3}})",
        needles="_",
    ),
    rule(
        "raw_actor_id",
        "an actor",
        *_owned("actor", "user", "usr", "member", "person", "viewer", "uid"),
        rf"{_BEGIN}(?:auth0|google-oauth2|github|windowslive|samlp)\|[^\s\"']{{4}}",
        needles="actor user usr member person viewer uid | auth0",
    ),
    rule(
        "raw_account_id",
        "an account, customer or organisation",
        *_owned("account", "acct", "acc", "customer", "cust", "org", "organi[sz]ation", "tenant", "wallet"),
        needles="acc cust org tenant wallet",
    ),
    rule("raw_workspace_id", "a workspace", *_owned("workspace", "wks", "wsp", "ws"), needles="workspace wks wsp ws"),
    rule(
        "raw_owner_id",
        "an owner or payer",
        *_owned("owner", "payer", "sponsor", "creator"),
        needles="owner payer sponsor creator",
    ),
    rule(
        "uuid",
        "a UUID",
        r"(?<![0-9a-f])[0-9a-f]{8}[-_:.][0-9a-f]{4}[-_:.][0-9a-f]{4}[-_:.][0-9a-f]{4}[-_:.][0-9a-f]{12}(?![0-9a-f])",
    ),
    rule("ulid", "a ULID", rf"{_BEGIN}[0-7][0-9A-HJKMNP-TV-Z]{{25}}{_END}", holds=_any_mixed),
    rule("ksuid", "a KSUID", rf"{_BEGIN}[0-9a-z]{{27}}{_END}", holds=_any_mixed),
    rule(
        "hex_id",
        "an id or key in hexadecimal digits",
        rf"{_BEGIN}(?:[0-9a-f]{{24}}|[0-9a-f]{{32}}|[0-9a-f]{{40}}|[0-9a-f]{{48}}|[0-9a-f]{{64}}|[0-9a-f]{{96}}|[0-9a-f]{{128}}){_END}",
        holds=_any_mixed,
        unless_key=OPAQUE_KEYS,
    ),
    rule(
        "opaque_token",
        "a token of letters and digits",
        rf"{_BEGIN}[a-z0-9]{{20,200}}",
        holds=_mixed,
        unless_key=OPAQUE_KEYS,
    ),
    rule(
        "execution_id",
        "a run at a provider",
        rf"{_BEGIN}(?:run|exec|execution|job|task|pred|prediction|req|request|inv|invocation|call|trace|span|thread|msg|resp|batch|gen|render|workflow|wf|"
        rf"wfr|step|asst|sess|session|sandbox|sbx|deploy|fal|modal|ap|fc|evt|event|conv)[_:-](?:{DIGIT}(?=\d{{0,40}}[a-z])[a-z0-9]{{6,64}}|\d{{7,20}}{_END}|{_RAW}|{MIXED})",
        r"\bfal[_-](?:req|request)[_-]\w{3}",
        r"\bchatcmpl-\w{4}",
        r"\bcmpl-\w{8}",
        holds=_is_run,
        needles="_ - :",
    ),
    rule(
        "execution_field",
        "a named id of a run, a request or a session",
        rf"{_BEGIN}(?:run|execution|job|task|prediction|request|correlation|trace|span|session|sandbox|invocation|idempotency)[_-]?(?:id|key)[\"']?"
        rf"\s{{0,3}}[:=]\s{{0,3}}[\"']?{_SCOPE}[^\s\"',;}}\])*<\[]",
        needles="id key",
    ),
)


_ENDINGS: Final = (
    r"(?:png|jpe?g|webp|gif|avif|heic|tiff?|bmp|svg|mp4|mov|webm|mp3|wav|flac|pdf|zip|tar|gz|zst|parquet|safetensors|ckpt|glb|"
    r"psd|raw|npy|bin|pt)"
)
_HOMES: Final = (
    r"(?:uploads?|users?|accounts?|workspaces?|tenants?|orgs?|private|originals?|renders?|outputs?|inputs?|results?|tmp|media|avatars?|"
    r"exports?|customers?|owners?|actors?|sandboxes|artifacts)"
)


def _is_ip6(found: str) -> bool:
    """Return True if a text is an IPv6 address with at least four digits and letters.

    A shorter text may be a name such as `a::b`.
    """
    try:
        return ipaddress.IPv6Address(found.strip("[]")).version == 6 and sum(map(str.isalnum, found)) >= 4
    except ValueError:
        return False


def _luhn(found: str) -> bool:
    digits = [int(char) for char in found if char.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_phone(found: str) -> bool:
    return 9 <= sum(map(str.isdigit, found)) <= 15


def _iban(found: str) -> bool:
    text = found.replace(" ", "").upper()
    return 15 <= len(text) <= 34 and int("".join(str(int(char, 36)) for char in text[4:] + text[:4])) % 97 == 1


PLACES: Final = (
    rule(
        "storage_url",
        "the URL of an object in an object store",
        r"\b(?:s3[an]?|gs|gcs|r2|az|abfss?|wasbs?|b2|oss|minio|blob|file)://[^\s\"']",
        needles="://",
    ),
    rule(
        "storage_host",
        "the host of an object store",
        r"\bs3[\w.-]{0,40}\.amazonaws\.com",
        r"\.r2\.cloudflarestorage\.com",
        r"\.r2\.dev\b",
        r"storage\.(?:googleapis|cloud\.google)\.com",
        r"\.blob\.core\.windows\.net",
        r"\.digitaloceanspaces\.com",
        r"\.backblazeb2\.com",
        r"\.supabase\.co/storage",
        r"imagedelivery\.net/",
        needles="amazonaws r2. storage .blob. digitaloceanspaces backblaze imagedelivery",
    ),
    rule(
        "object_key",
        "the key of an object in an object store",
        rf"(?<![\w.-]){_HOMES}/[^\s\"'?#]{{1,250}}\.{_ENDINGS}\b",
        rf"(?<![\w.-])[\w.=-]{{1,80}}/(?=[^\s\"']{{0,200}}\d)[^\s\"'?#]{{1,200}}\.{_ENDINGS}\b",
        rf"(?<![\w.-]){_HOMES}/(?=[^\s/\"'\d]{{0,60}}\d)[^\s/\"']{{1,100}}/[^\s/\"']",
        needles="/",
    ),
    rule(
        "private_url",
        "a URL of a private network, or of a page that is not public",
        r"://(?:private|internal|intranet|admin|staging)[.-]",
        r"://(?:localhost|127\.|10\.\d|192\.168\.|169\.254\.|172\.(?:1[6-9]|2\d|3[01])\.|\[)",
        r"://[\w.-]{1,200}\.(?:internal|local|lan|corp|intranet|svc|cluster|home|private)(?![\w.-])",
        r"://[\w.-]{1,200}\.svc\.cluster\.local",
        r"\.(?:workers\.dev|pages\.dev|ngrok(?:-free)?\.(?:io|app|dev)|trycloudflare\.com|supabase\.co|onrender\.com|railway\.app|"
        r"fly\.dev|vercel\.app|netlify\.app|lambda-url\.[\w-]{1,30}\.on\.aws)\b",
        r"://(?:dash\.cloudflare|dashboard\.stripe|console\.(?:aws\.amazon|cloud\.google))\.com/[^\s\"']",
        r"://(?:docs|drive)\.google\.com/",
        r"://[\w.-]{1,100}\.(?:notion\.so|sharepoint\.com|dropboxusercontent\.com)/",
        needles=":// workers.dev pages.dev ngrok trycloudflare supabase onrender railway fly.dev vercel netlify "
        "lambda-url",
    ),
    rule(
        "database_url",
        "the address of a database",
        r"\b(?:postgres(?:ql)?|mysql|mariadb|mongodb(?:\+srv)?|rediss?|amqps?|kafka|nats|sqlite|libsql|clickhouse|mssql)://[^\s\"']",
        needles="://",
    ),
    rule(
        "cloud_resource",
        "a resource at a cloud provider",
        r"\barn:aws[\w-]{0,10}:[\w-]{1,40}:",
        r"\bprojects/[\w-]{4,40}/(?:locations|secrets|topics|subscriptions|serviceaccounts)/",
        r"/subscriptions/[\w-]{8,40}/resourcegroups",
        r"\b[\w-]{1,60}@[\w-]{1,60}\.iam\.gserviceaccount",
        r"\b[a-z0-9-]{1,40}\.cloudflareaccess\.com",
        needles="arn: projects/ /subscriptions/ gserviceaccount cloudflareaccess",
    ),
    rule(
        "gateway_metadata",
        "request metadata of a gateway",
        r"\b(?:cf-ray|cf-connecting-ip|cf-aig-[\w-]{2,30}|x-request-id|x-amzn-trace-id|x-amz-cf-id|x-forwarded-for|x-real-ip|x-vercel-id|"
        r"x-correlation-id|x-b3-traceid|x-cloud-trace-context|traceparent|tracestate|user-agent|fly-request-id)[\"']?\s{0,3}[:=]\s{0,3}[\"']?[^\s\"']",
        r"(?<![0-9a-f])[0-9a-f]{16}-[a-z]{3}\b",
        r"\b00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\b",
        r"\bRoot=1-[0-9a-f]{8}-[0-9a-f]{24}",
        r"gateway\.ai\.cloudflare\.com/v1/[^\s\"']",
        r"\bMozilla/\d\.\d \(",
        needles="- = : gateway.ai mozilla",
    ),
    rule(
        "home_path",
        "a path on a machine",
        r"/(?:home|users)/[^/\s\"']{1,64}/",
        r"\b[a-z]:\\{1,2}users\\{1,2}[^\\\s\"']",
        needles="/home/ /users/ :\\",
    ),
    rule(
        "image_bytes",
        "bytes of a picture or file",
        r"data:[\w.+-]{1,40}/[\w.+-]{1,60};base64,",
        r"data:image/",
        r"(?-i:iVBORw0KGgo|/9j/[24]|_9j_[24]|R0lGOD[dl]h|UklGR[\w+/-]{6}|SUkqA[\w+/-]{6}|TU0AK[\w+/-]{6}|AAAA[\w+/-]{4}Z0eX|JVBERi0|UEsDB[\w+/-]{6}|PHN2Zy)",
        r"(?<![0-9a-f])(?:89504e470d0a1a0a|ffd8ff(?:e0|e1|db)[0-9a-f]{8}|474946383[79]61)",
        r"<svg[\s>]",
        r"\x89PNG|\xff\xd8\xff",
    ),
    rule("base64_blob", "a long base64 text", r"[a-z0-9+/_-]{120}"),
    rule(
        "email",
        "an email address",
        r"[\w.+%\"-]@(?:[a-z0-9-]{1,63}\.){1,4}[a-z][a-z0-9-]{1,23}",
        r"\w\s?[\[(]at[\])]\s?[\w-]{1,63}\s?(?:[\[(]dot[\])]|\.)\s?[a-z]{2}",
        needles="@ at) at]",
    ),
    rule(
        "ip_address",
        "an IPv4 address",
        r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d{1,2})\.){3}(?:25[0-5]|2[0-4]\d|1?\d{1,2})(?!\.?\d)",
        needles=".",
    ),
    rule(
        "ipv6_address",
        "an IPv6 address",
        r"(?<![\w:.])[0-9a-f:]{4,39}(?![\w:])",
        needles=":",
        holds=_is_ip6,
    ),
    rule(
        "mac_address",
        "a MAC address",
        r"(?<![0-9a-f:])(?:[0-9a-f]{2}:){5}[0-9a-f]{2}(?![0-9a-f:])",
        r"(?<![0-9a-f-])(?:[0-9a-f]{2}-){5}[0-9a-f]{2}(?![0-9a-f-])",
        needles=": -",
    ),
    rule(
        "phone_number",
        "a telephone number",
        r"(?<![\d.])\+\d{1,3}[ .-]?\(?\d{1,4}\)?(?:[ .-]?\d{2,4}){2,4}(?![\d,])",
        needles="+",
        holds=_is_phone,
    ),
    rule(
        "card_number",
        "a card number",
        r"(?<![0-9a-z])(?:4\d|5[1-5]|3[47]|6[05])\d{2}[ -]?\d{4}[ -]?\d{4}[ -]?\d{1,7}(?![0-9a-z])",
        r"(?<![0-9a-z])3[47]\d{2}[ -]?\d{6}[ -]?\d{5}(?![0-9a-z])",
        holds=_luhn,
    ),
    rule(
        "bank_account",
        "a bank account number",
        r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b",
        holds=_iban,
    ),
)


MAX_RULES_FILE_BYTES: Final = 4_194_304
"""Largest size of a file with your privacy rules, in bytes."""
MAX_RULES: Final = 2_000
"""Most privacy rules in one of your files."""
RE2_MEMORY_BYTES: Final = 67_108_864
"""Most memory that RE2 may use for one of your patterns, in bytes.

Drawdown refuses a pattern that needs more.
"""
MOST_ENTROPY: Final = 20
"""Bits of entropy for each character that a rule can require.

A rule that requires more would rarely match a text.
"""


class Pattern(Protocol):
    """A pattern that RE2 compiled."""

    def finditer(self, text: str) -> Any: ...


@dataclass(frozen=True)
class ForeignRule:
    """One rule of your own file.

    `group`: the part of a match that is the secret. `entropy`: the bits per character that the secret must exceed.
    """

    name: str
    pattern: Pattern
    needles: tuple[str, ...]
    group: int
    entropy: float

    def finds(self, text: str, lowered: str) -> bool:
        """Return True if the rule matches in `text`. `lowered` is the text in lower case."""
        if self.needles and not any(needle in lowered for needle in self.needles):
            return False
        return any(entropy_of(self._secret(found)) > self.entropy for found in self.pattern.finditer(text))

    def _secret(self, found: Any) -> str:
        if self.group:
            return str(found.group(self.group) or "")
        return str(next((part for part in found.groups() if part), found.group(0)))


def rules_of(content: bytes) -> tuple[ForeignRule, ...]:
    """Return the rules of your own file.

    Errors: UsageError for an invalid file, or if RE2 is not installed.
    """
    try:
        found = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError):
        raise UsageError("invalid rules: expected TOML in UTF-8", code="bad_rules") from None
    rules = found.get("rules")
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise UsageError("missing [[rules]]: expected a file with the rules of gitleaks", code="bad_rules")
    if len(rules) > MAX_RULES:
        raise UsageError(f"too many rules: at most {MAX_RULES:,} are allowed. Remove some rules", code="bad_rules")
    made = tuple(_rule(number, rule) for number, rule in enumerate(rules, 1) if "regex" in rule)
    if not made:
        raise UsageError("invalid rules: expected at least one rule with a regex", code="bad_rules")
    return made


def _rule(number: int, given: Mapping[str, Any]) -> ForeignRule:
    try:
        import re2
    except ImportError:
        raise UsageError("custom rules need RE2. Run: pip install 'drawdown[privacy]'", code="no_re2") from None
    options = re2.Options()
    options.log_errors, options.max_mem = False, RE2_MEMORY_BYTES
    bad = UsageError(f"invalid rule {number}. Check its id, regex, keywords, secretGroup and entropy", code="bad_rules")
    name, regex, words = given.get("id"), given["regex"], given.get("keywords", [])
    group, entropy = given.get("secretGroup", 0), given.get("entropy", 0)
    if not isinstance(words, list) or not all(isinstance(text, str) for text in (name, regex, *words)):
        raise bad
    if type(group) is not int or type(entropy) not in (int, float) or not 0 <= entropy <= MOST_ENTROPY:
        raise bad
    try:
        pattern = re2.compile(regex, options)
    except (re2.error, ValueError):
        raise bad from None
    if not 0 <= group <= pattern.groups:
        raise bad
    return ForeignRule(str(name), pattern, tuple(word.lower() for word in words), group, float(entropy))


def entropy_of(text: str) -> float:
    """Return the Shannon entropy of a text in bits per character, as gitleaks does.

    The result is above 0 for any text that is not empty.
    """
    if not text:
        return 0.0
    shares = [count / len(text) for count in Counter(text).values()]
    return max(-sum(share * math.log2(share) for share in shares), 1e-9)


RULES: Final[tuple[Rule, ...]] = (*SECRETS, *IDS, *PLACES)
OF_NUMBERS: Final = tuple(one for one in RULES if one.name == "card_number")
"""The rules that search numbers.

They distinguish a card number from a quantity by its digits alone.
"""


OTHERS: Final[Mapping[str, str]] = {
    "personal_data": "a field that is named as a telephone, a person's name or an address",
    "private_content": "a field that is named as a prompt, a message or the body of a request",
    "secret_field": "a field that is named as a password, token, key or signature",
    "known_id": "an id of this database",
    "configured_secret": "a secret of this machine's configuration",
    "too_large": "more values than a scan reads",
    "too_deep": "nested more than 32 levels deep",
    "duplicate_key": "a key that occurs twice in one object",
    "long_text": "a text of more than 10,000 characters",
    "many_readings": "a text with more than twelve possible decodings",
    "unknown_field": "a field that the shape does not name",
    "missing_field": "a missing field of the shape",
    "not_of_its_class": "a value of another class than the shape requires",
}
"""The meanings of findings without a pattern.

Such findings come from a field's name, from comparison, from the form, or from the shape.
"""


def meanings() -> dict[str, str]:
    """Return the meaning of each name of a finding, without those of your own rules."""
    return {**{one.name: one.says for one in RULES}, **OTHERS}


MAX_KEPT_CHARS: Final = 100
"""Longest text with cached findings, in characters."""
MAX_KEPT: Final = 8_192
"""Short texts with cached findings.

Fields and labels repeat.
"""


def found_in(text: str, key: str) -> tuple[str, ...]:
    """Return the names of the rules that match a text.

    `key`: the bare name of its field.
    """
    return _kept(text, key) if len(text) <= MAX_KEPT_CHARS else _found_in(text, key)


def found_in_number(text: str) -> tuple[str, ...]:
    """Return the names of the rules that match a JSON number.

    A number with decimals is a quantity.
    """
    whole = text.removeprefix("-")
    return tuple(one.name for one in OF_NUMBERS if whole.isdigit() and one.finds(whole, whole, ""))


def _found_in(text: str, key: str) -> tuple[str, ...]:
    lowered = text.lower()
    return tuple(one.name for one in RULES if one.finds(text, lowered, key))


_kept = lru_cache(MAX_KEPT)(_found_in)
