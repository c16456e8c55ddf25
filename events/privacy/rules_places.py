"""Rules for places and people: where something lies, how it came, pictures, addresses, numbers of people."""

from __future__ import annotations

import ipaddress
from typing import Final

from drawdown.events.privacy.rule import rule

_ENDINGS: Final = (
    r"(?:png|jpe?g|webp|gif|avif|heic|tiff?|bmp|svg|mp4|mov|webm|mp3|wav|flac|pdf|zip|tar|gz|zst|parquet|safetensors|ckpt|glb|"
    r"psd|raw|npy|bin|pt)"
)
_HOMES: Final = (
    r"(?:uploads?|users?|accounts?|workspaces?|tenants?|orgs?|private|originals?|renders?|outputs?|inputs?|results?|tmp|media|avatars?|"
    r"exports?|customers?|owners?|actors?|sandboxes|artifacts)"
)


def _is_ip6(found: str) -> bool:
    """What the library takes, of four digits at least: neither a time nor `a::b`."""
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
        "an object in a store, by its URL",
        r"\b(?:s3[an]?|gs|gcs|r2|az|abfss?|wasbs?|b2|oss|minio|blob|file)://[^\s\"']",
        needles="://",
    ),
    rule(
        "storage_host",
        "a store of objects, by its host",
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
        "the key of an object in a store",
        rf"(?<![\w.-]){_HOMES}/[^\s\"'?#]{{1,250}}\.{_ENDINGS}\b",
        rf"(?<![\w.-])[\w.=-]{{1,80}}/(?=[^\s\"']{{0,200}}\d)[^\s\"'?#]{{1,200}}\.{_ENDINGS}\b",
        rf"(?<![\w.-]){_HOMES}/(?=[^\s/\"'\d]{{0,60}}\d)[^\s/\"']{{1,100}}/[^\s/\"']",
        needles="/",
    ),
    rule(
        "private_url",
        "a URL of a private network, or of a page that is no public one",
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
        "where a database is",
        r"\b(?:postgres(?:ql)?|mysql|mariadb|mongodb(?:\+srv)?|rediss?|amqps?|kafka|nats|sqlite|libsql|clickhouse|mssql)://[^\s\"']",
        needles="://",
    ),
    rule(
        "cloud_resource",
        "a resource of a cloud",
        r"\barn:aws[\w-]{0,10}:[\w-]{1,40}:",
        r"\bprojects/[\w-]{4,40}/(?:locations|secrets|topics|subscriptions|serviceaccounts)/",
        r"/subscriptions/[\w-]{8,40}/resourcegroups",
        r"\b[\w-]{1,60}@[\w-]{1,60}\.iam\.gserviceaccount",
        r"\b[a-z0-9-]{1,40}\.cloudflareaccess\.com",
        needles="arn: projects/ /subscriptions/ gserviceaccount cloudflareaccess",
    ),
    rule(
        "gateway_metadata",
        "what a gateway notes of a request",
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
        "a path of somebody's machine",
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
    rule("base64_blob", "many bytes as text", r"[a-z0-9+/_-]{120}"),
    rule(
        "email",
        "an address of mail",
        r"[\w.+%\"-]@(?:[a-z0-9-]{1,63}\.){1,4}[a-z][a-z0-9-]{1,23}",
        r"\w\s?[\[(]at[\])]\s?[\w-]{1,63}\s?(?:[\[(]dot[\])]|\.)\s?[a-z]{2}",
        needles="@ at) at]",
    ),
    rule(
        "ip_address",
        "an address of a machine",
        r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d{1,2})\.){3}(?:25[0-5]|2[0-4]\d|1?\d{1,2})(?!\.?\d)",
        needles=".",
    ),
    rule(
        "ipv6_address",
        "an address of a machine, of version 6",
        r"(?<![\w:.])[0-9a-f:]{4,39}(?![\w:])",
        needles=":",
        holds=_is_ip6,
    ),
    rule(
        "mac_address",
        "an address of a network card",
        r"(?<![0-9a-f:])(?:[0-9a-f]{2}:){5}[0-9a-f]{2}(?![0-9a-f:])",
        r"(?<![0-9a-f-])(?:[0-9a-f]{2}-){5}[0-9a-f]{2}(?![0-9a-f-])",
        needles=": -",
    ),
    rule(
        "phone_number",
        "a number of a telephone",
        r"(?<![\d.])\+\d{1,3}[ .-]?\(?\d{1,4}\)?(?:[ .-]?\d{2,4}){2,4}(?![\d,])",
        needles="+",
        holds=_is_phone,
    ),
    rule(
        "card_number",
        "a number of a card",
        r"(?<![0-9a-z])(?:4\d|5[1-5]|3[47]|6[05])\d{2}[ -]?\d{4}[ -]?\d{4}[ -]?\d{1,7}(?![0-9a-z])",
        r"(?<![0-9a-z])3[47]\d{2}[ -]?\d{6}[ -]?\d{5}(?![0-9a-z])",
        holds=_luhn,
    ),
    rule(
        "bank_account",
        "a number of a bank account",
        r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b",
        holds=_iban,
    ),
)
