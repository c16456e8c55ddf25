"""Reports that are clean, and secrets and ids of all classes to plant in them: seeded."""

from __future__ import annotations

import base64
import json
import random
import string
import uuid
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

ALNUM: Final = string.ascii_letters + string.digits
CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
HEX: Final = "0123456789abcdef"


def some(stream: random.Random, alphabet: str, length: int) -> str:
    """With a digit and a letter among them, as nearly all real ones have."""
    while True:
        text = "".join(stream.choices(alphabet, k=length))
        if sum(map(str.isdigit, text)) >= 2 and sum(map(str.isalpha, text)) >= 2:
            return text


Maker = Callable[[random.Random], str]
SECRETS: Final[dict[str, Maker]] = {
    "bearer": lambda s: f"Bearer {some(s, ALNUM, s.randint(16, 60))}",
    "basic": lambda s: f"Basic {base64.b64encode(f'{some(s, ALNUM, 8)}:{some(s, ALNUM, 9)}'.encode()).decode()}",
    "jwt": lambda s: ".".join(("eyJ" + some(s, ALNUM, 20), "eyJ" + some(s, ALNUM, 30), some(s, ALNUM, 43))),
    "private key": lambda s: f"-----BEGIN EC PRIVATE KEY-----\n{some(s, ALNUM, 64)}",
    "whsec": lambda s: f"whsec_{some(s, ALNUM, 32)}",
    "stripe": lambda s: f"{s.choice(('sk', 'rk', 'pk'))}_{s.choice(('live', 'test'))}_{some(s, ALNUM, 24)}",
    "autumn": lambda s: f"am_sk_{s.choice(('live', 'test'))}_{some(s, ALNUM, 24)}",
    "api key": lambda s: f"ddk_{some(s, ALNUM + '-_', 43)}",
    "model key": lambda s: f"{s.choice(('sk-proj-', 'sk-ant-api03-', 'sk-', 'gsk_', 'hf_'))}{some(s, ALNUM, 40)}",
    "aws": lambda s: "AKIA" + some(s, string.ascii_uppercase + "234567", 16),
    "google": lambda s: "AIza" + some(s, ALNUM, 35),
    "github": lambda s: f"{s.choice(('ghp_', 'ghs_', 'github_pat_'))}{some(s, ALNUM, 36)}",
    "slack": lambda s: f"xoxb-{s.randrange(10**11)}-{some(s, ALNUM, 24)}",
    "sendgrid": lambda s: f"SG.{some(s, ALNUM, 22)}.{some(s, ALNUM, 43)}",
    "password": lambda s: f"password={some(s, ALNUM, 10)}",
    "named": lambda s: f"client_secret: {some(s, ALNUM, 20)}",
    "cookie": lambda s: f"sessionid={some(s, ALNUM, 20)}",
    "url password": lambda s: f"https://{some(s, ALNUM, 6)}:{some(s, ALNUM, 9)}@example.com/x",
    "signed url": lambda s: f"https://cdn.example.com/x?X-Amz-Signature={some(s, HEX, 64)}",
}
IDS: Final[dict[str, Maker]] = {
    "customer": lambda s: f"cus_{some(s, ALNUM, 14)}",
    "subscription": lambda s: f"sub_{some(s, ALNUM, 24)}",
    "payment": lambda s: f"{s.choice(('pi', 'ch', 'in', 'evt', 'pm'))}_{some(s, ALNUM, 24)}",
    "actor": lambda s: s.choice(
        (f"user_{s.randrange(10**6)}", f"actor:{some(s, ALNUM, 6)}", f"usr_{some(s, HEX, 10)}")
    ),
    "account": lambda s: s.choice(
        (f"account_{s.randrange(10**6)}", f"acct:{some(s, ALNUM, 7)}", f"org_{some(s, ALNUM, 20)}")
    ),
    "workspace": lambda s: s.choice((f"workspace_{s.randrange(10**6)}", f"ws_{some(s, HEX, 9)}")),
    "owner": lambda s: s.choice((f"owner:{some(s, ALNUM, 6)}", f"owner_id={some(s, ALNUM, 6)}")),
    "uuid": lambda s: str(uuid.UUID(int=s.getrandbits(128), version=4)),
    "bare uuid": lambda s: uuid.UUID(int=s.getrandbits(128), version=4).hex,
    "ulid": lambda s: "01" + some(s, CROCKFORD, 24),
    "ksuid": lambda s: "2" + some(s, ALNUM, 26),
    "object id": lambda s: some(s, HEX, 24),
    "cuid": lambda s: "c" + some(s, string.ascii_lowercase + string.digits, 24),
    "execution": lambda s: f"{s.choice(('run', 'prediction', 'job', 'fc', 'trace', 'req'))}_{some(s, HEX, 16)}",
    "object key": lambda s: f"uploads/{some(s, HEX, 8)}/{s.randrange(10**6)}.{s.choice(('png', 'webp', 'mp4'))}",
    "storage url": lambda s: f"{s.choice(('s3', 'gs', 'r2'))}://bucket/{some(s, HEX, 8)}",
    "storage host": lambda s: f"https://{some(s, HEX, 8)}.r2.cloudflarestorage.com/x",
    "private url": lambda s: f"http://{s.choice(('localhost', '10.0.0.7', '192.168.1.9', 'api.internal'))}:8080/x",
    "database url": lambda s: f"postgresql://db-{s.randrange(9)}/billing",
    "arn": lambda s: f"arn:aws:s3:::bucket-{s.randrange(99)}",
    "gateway": lambda s: f"{some(s, HEX, 16)}-{s.choice(('FRA', 'AMS', 'SJC'))}",
    "request header": lambda s: f"x-request-id: {some(s, HEX, 12)}",
    "png": lambda s: "iVBORw0KGgo" + some(s, ALNUM, s.randint(20, 400)),
    "data url": lambda s: f"data:image/webp;base64,{some(s, ALNUM, 40)}",
    "jpeg": lambda s: "/9j/4AAQ" + some(s, ALNUM, 60),
    "email": lambda s: f"{some(s, ALNUM, 8)}@{s.choice(('example.com', 'mail.example.org'))}",
    "ip": lambda s: ".".join(str(s.randint(1, 254)) for _ in range(4)),
    "ipv6": lambda s: "2001:db8:" + ":".join(f"{s.randint(4096, 65535):x}" for _ in range(6)),
    "mac": lambda s: ":".join(f"{s.randrange(256):02x}" for _ in range(6)),
    "phone": lambda s: f"+49 30 {s.randint(100_000, 999_999)}",
    "home": lambda s: f"/home/{some(s, HEX, 6)}/x",
}
CLASSES: Final = {**SECRETS, **IDS}
HIDINGS: Final[dict[str, Callable[[str], object]]] = {
    "plain": lambda text: text,
    "in a sentence": lambda text: f"seen: {text} (once)",
    "in a list": lambda text: ["free", text],
    "nested": lambda text: {"detail": {"note": text}},
    "nested JSON": lambda text: json.dumps({"note": text}),
    "nested twice": lambda text: json.dumps({"note": json.dumps([text])}),
    "percent": lambda text: quote(text, safe=""),
    "every byte in percent": lambda text: "".join(f"%{byte:02X}" for byte in text.encode()),
    "percent twice": lambda text: quote(quote(text, safe=""), safe=""),
    "escapes": lambda text: "".join(f"\\u{ord(char):04x}" for char in text),
    "entities": lambda text: "".join(f"&#{ord(char)};" for char in text),
    "full width": lambda text: "".join(chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else char for char in text),
    "unseen characters": lambda text: "\u200b".join(list(text)),
    "as a key": lambda text: {text: 1},
    "base64": lambda text: base64.b64encode(f"this was seen: {text}".encode()).decode(),
}


def clean_report(stream: random.Random) -> dict[str, Any]:
    """As what is published looks: labels, references, times, commits and numbers."""
    plans = ("free", "team", "pro-100", "Base 5", "enterprise", "other")
    kinds = ("image.converted", "workflow.step.finished", "page.render", "compute_4gb", "idea.create", "other")
    day = f"2026-{stream.randint(1, 12):02d}-{stream.randint(1, 28):02d}"
    rows = [
        {"plan": stream.choice(plans), "kind": stream.choice(kinds), "day": day, "organisations": stream.randint(5, 99),
         "events": stream.randrange(10**6), "quantity": stream.randrange(10**15)}
        for _ in range(stream.randint(1, 4))
    ]  # fmt: skip
    extra: dict[str, object] = {
        "generated_at": f"{day}T{stream.randrange(24):02d}:{stream.randrange(60):02d}:00Z",
        "commit": "".join(stream.choices(HEX, k=stream.choice((7, 12, 40)))),
        "subject": f"ref_{''.join(stream.choices(HEX, k=12))}",
        "share": round(stream.random() * 100, 2),
        "total_events": str(stream.randrange(10**9)),
        "note": stream.choice(("Usage by plan and day.", "The rest is under other.", "p99 12 ms")),
        "complete": stream.random() < 0.9,
        "version": f"{stream.randrange(3)}.{stream.randrange(20)}.{stream.randrange(9)}",
    }
    kept = stream.sample(sorted(extra), stream.randint(1, 5))
    return {"report": "usage-summary", "rows": rows, **{name: extra[name] for name in kept}}
