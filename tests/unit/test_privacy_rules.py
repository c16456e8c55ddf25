"""Each rule finds what it is for, and leaves alone what only looks like it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from drawdown.events.privacy import leaves
from drawdown.events.privacy.rules import IDS, PLACES, RULES, SECRETS, found_in, meanings
from drawdown.events.privacy.scan import scan

MUST: Final[dict[str, tuple[str, ...]]] = {
    "bearer_token": (
        "Bearer test-token",
        "bearer raw_token_value",
        "Bearer abcdefghij0123",
        "sent with bearer: Zm9vYmFyLXRva2Vu",
        "BEARER=tok_9f8e7d",
        "Bearer a.b-c_d~1234567",
    ),
    "authorization": (
        "Authorization: Basic dXNlcjpwYXNz",
        '"authorization": "Token abcd"',
        "x-api-key: abc-def",
        "Cookie: theme=dark",
    ),
    "basic_auth": ("Basic dXNlcjpwYXNz", "basic YWxpY2U6aHVudGVyMg=="),
    "json_web_token": ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln",),
    "private_key": ("-----BEGIN RSA PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----", "AGE-SECRET-KEY-1QPZRY9X8"),
    "webhook_secret": ("whsec_test", "whsec_C2FVsBQIhrscChlQIMV", "WHSEC_ABCDEF", "whsk_12345678"),
    "payment_key": (
        "sk_test_abc",
        "sk_live_4eC39H",
        "rk_test_abcdefgh",
        "am_sk_live_x1",
        "am_sk_abcd",
        "SK_LIVE_4EC39HQLYJWD",
        "sq0atp-abcdefgh",
    ),
    "api_key": ("ddk_abcdefghijklmnopqrst",),
    "model_key": (
        "sk-ant-api03-abcdefgh",
        "sk-proj-abcdefgh",
        "sk-abcdefghijklmnopqrst",
        "hf_abcdefghijklmnopqrstuv",
        "gsk_1a2b3c4d5e6f7g8h9i0j",
    ),
    "cloud_key": (
        "AKIAIOSFODNN7ABCDEFG",
        "AIzaSyA-1234567890abcdefghijklmnopqr",
        "ya29.a0AfH6SMBx",
        "AccountKey=abcdefghijklmnop==",
    ),
    "code_host_token": (
        "ghp_16C7e42F292c6912E7",
        "github_pat_11ABCDEFG0abcdefgh",
        "glpat-abcdefghijkl",
        "npm_abcdefghijklmnopqrstu",
        "pypi-AgEIcHlwaS5vcmcC",
    ),
    "chat_token": (
        "xoxb-123456789-abc",
        "https://hooks.slack.com/services/T0/B0/x",
        "https://discord.com/api/webhooks/1/x",
    ),
    "mail_key": (
        "SG.abcdefghijkl.mnopqrstuvwx",
        "key-0123456789abcdef0123456789abcdef",
        "AC0123456789abcdef0123456789abcdef",
        "re_abcdefgh_1234567890ab",
    ),
    "shop_token": (
        "shpat_0123456789abcdef01",
        "hvs.CAESIJabcdefghijkl",
        "svix_abcdefgh",
        "secret_abcdefghijklmnopqrstu",
    ),
    "named_secret": (
        "api_key=abc12345",
        "signing-key: 'aaaa1111bbbb'",
        '"secret": "s3cr3tvalue"',
        "password=hunter2",
        "pwd: p@ss",
        "token = a1b2c3d4",
    ),
    "session_cookie": ("sessionid=abcdef", "__Host-sid=abcdef", "connect.sid=s%3Aabc"),
    "url_password": ("https://alice:secret@example.com/x", "amqp://u:p@broker"),
    "signed_url": (
        "https://cdn.example/x?X-Amz-Signature=abcd",
        "https://a.example/b?v=1&sig=abcd1",
        "https://a.example/b?token=abcd",
    ),
    "customer_id": ("cus_1", "cus_NffrFeUfNV2Hib", "of CUS_9S6XKZMH"),
    "subscription_id": ("sub_test_abc", "sub_1MowQVLkdIwHu7ix", "sub_9", "sub_sched_1Nv0", "sub_JQkLmNoPqRsTuV"),
    "payment_id": (
        "pi_test_123",
        "pi_3MtwBwLkdIwHu7ix28a3tqPa",
        "ch_3MmlLrLkdIwHu7ix",
        "in_1MtHbELkdIwHu7ix",
        "evt_1NG8Du2eZvKYlo2C",
        "acct_1032D82eZvKYlo2C",
    ),
    "raw_actor_id": (
        "user_8f2k",
        "user_raw_abc",
        "actor_private_7",
        "user_42",
        "actor:alice",
        "user_2aBcDeFg1",
        "actor_id=alice",
        "users/1234",
        "auth0|5f7c8ec7",
        "usr_8f3k2m",
        "user-123456",
        "UID#77",
    ),
    "raw_account_id": (
        "acct_private_a",
        "account_42",
        "acct:acme",
        "tenant_id: acme",
        "org_2NNEqL2nrIRdJ194",
        "customers/12345",
        "wallet:acme",
        "customer-123456",
    ),
    "raw_workspace_id": ("workspace_17", "ws_8f3k2m1", "workspace:studio", "workspace_id=abc", "workspaces/ab12cd"),
    "raw_owner_id": ("owner_17", "owner:acme", "payer_id: acme", "sponsor:globex"),
    "uuid": (
        "123e4567-e89b-12d3-a456-426614174000",
        "{123E4567-E89B-12D3-A456-426614174000}",
        "x_123e4567_e89b_12d3_a456_426614174000",
    ),
    "ulid": ("01ARZ3NDEKTSV4RRFFQ69G5FAV", "req-01arz3ndektsv4rrffq69g5fav", "user_01h2xcejqtf2nbrexx3vqjhp41"),
    "ksuid": ("0ujsswThIGTUYm2K8FjOOfXtY1K", "id=1srOrx2ZWZBpBUvZwXKQmoEYga2"),
    "hex_id": ("507f1f77bcf86cd799439011", "0123456789abcdef0123456789abcdef", "a" * 39 + "1"),
    "opaque_token": ("cjld2cjxh0000qzrmn831i7rn", "tz4a98xxat96iws9zmbrgj3a", "V1StGXR8Z5jdHi6BmyT12"),
    "execution_id": (
        "run_private_a",
        "fal-request-abc",
        "exec_raw_1",
        "run_8f3k2m1a",
        "prediction:gm3qorzdhgbfurvjtvhg6",
        "fc-01HXYZ12abc",
        "chatcmpl-9abc",
        "trace_12345678",
        "job-a1b2c3d4e5",
    ),
    "execution_field": ("run_id=abc", '"request_id": "zzz"', "sandbox-id: box", "idempotency_key=q"),
    "storage_url": ("s3://bucket/key", "gs://b/o", "r2://b/o", "file:///srv/x"),
    "storage_host": (
        "https://b.s3.eu-west-1.amazonaws.com/k",
        "https://x.r2.cloudflarestorage.com/b",
        "pub-1.r2.dev",
        "https://a.blob.core.windows.net/c",
    ),
    "object_key": ("uploads/7/cat.png", "renders/a/b/c.webp", "job9/out/1.mp4", "users/u1/outputs", "tenants/acme7/x"),
    "private_url": (
        "https://private.example.com/x",
        "https://internal-tools.example.com/",
        "http://localhost:8080/",
        "http://10.0.0.3/x",
        "https://app.internal/x",
        "https://x.workers.dev",
        "https://preview.vercel.app/a",
        "http://[::1]/",
    ),
    "database_url": ("postgresql://db/x", "redis://cache:6379", "sqlite:///drawdown.db"),
    "cloud_resource": ("arn:aws:s3:::bucket", "projects/my-project/secrets/x", "robot@proj.iam.gserviceaccount.com"),
    "gateway_metadata": (
        "cf-ray: 8c1f2a3b4c5d6e7f-FRA",
        "x-request-id=abc",
        "8c1f2a3b4c5d6e7f-FRA",
        "Root=1-67891233-abcdef012345678912345678",
        "Mozilla/5.0 (X11)",
    ),
    "home_path": ("/home/alice/x", "/Users/bob/Desktop", "C:\\Users\\bob"),
    "image_bytes": (
        "data:image/png;base64,AAAA",
        "iVBORw0KGgoAAAANSUhEUg",
        "/9j/4AAQSkZJRg",
        "R0lGODlhAQABAIAAAAUEBA",
        "UklGRiQAAABXRUJQ",
        "89504e470d0a1a0a0000",
        "<svg xmlns=",
    ),
    "base64_blob": ("QUJD" * 30,),
    "email": (
        "alice@example.com",
        "mail a.b+c@mail.example.co.uk now",
        "alice [at] example [dot] com",
        "ALICE@EXAMPLE.COM",
    ),
    "ip_address": ("10.1.2.3", "from 203.0.113.9:443", "255.255.255.255"),
    "ipv6_address": ("2001:db8::1", "[2001:0db8:85a3:0000:0000:8a2e:0370:7334]", "fe80::1"),
    "mac_address": ("00:1A:2B:3C:4D:5E", "00-1a-2b-3c-4d-5e"),
    "phone_number": ("+1 415 555 0100", "+49 30 901820", "+44 (20) 7946 0958"),
    "card_number": ("4242 4242 4242 4242", "4242424242424242", "3782-822463-10005"),
    "bank_account": ("DE89 3704 0044 0532 0130 00", "GB29NWBK60161331926819"),
}
MUST_NOT: Final = re.split(
    " · |\n",
    """free · team · pro-100 · team_50 · pro+ 600 · enterprise-2026 · team-2026 · Base 5 · image.converted
workflow.step.finished · page.render · idea.create · usage-event-ledger · compute_4gb
cloudflare-saas-core/packages/usage-ledger · 2026-01-31 · 2026-01-31T12:00:00Z · 2026-01-31T12:05:00.123Z · 12:30:45
ref_0123456789ab · 9f2c1d7 · v1.2.3 · 1.2.3.4.5 · 0.1.0 · 1,234,567 · 1200 of 4000 · -12.50 · +12.50 · 99.9 % · 3.11.7
usage by plan, kind and day · the rest stands under other · bearer tokens are never shown · Basic subscription plans
basic authentication is not used · user accounts were counted · users · actors · owner: read · usage:read
events:write · account_balance · user_count · workspace_limit · org total · tokens: 123456 · token: number of tokens
password: reset · input tokens 12000 · job_count · run_total · batch_20260101 · event_type · trace_enabled · step_3
step-12 · gen_2 · sub_total · in_2026 · step-2026 · run_2026 · job-2026 · user_30d · user_p99 · org_q1 · account_7day
sub_accounts_total · in_progress · price_increase · re_opened · evt · cus · SKU 12
sk-learn · docs/credits.md · packages/core/src · https://example.com/docs · https://www.example.org/a/b?page=2
either/or · 1.5 GB · 5 organisations at least · sent at 10:00, read at 10:05 · a::b · 100% · C:D · no. 12 · Jan-Feb
std::vector · x = y · key=value · page=2&size=50 · monkeys · hockey-stick growth · SG and DE · ac/dc
16 digits: 1234567812345678 · 9007199254740991 · 1767225600000 · 100000000000000 · 1e21 · AB12 CDEF
internationalisation · antidisestablishmentarianism · a-long-label-with-many-words-in-it · Q1 2026 · H2-2026
conversion_v2_beta_rollout_2026_q1 · render.gpu.seconds · mb_s · gib-hours · eu-west-1 · iso 8601 · utf-8
authorization is by scope · cookies are not counted · secret scanning is on · image bytes are not kept
e-mail is not kept · the IP of a caller is not kept · signature checks: 12 · bucket 0-10 · p99 12 ms · 2/3 · 24/7
n/a""",
)
FIELDS: Final[dict[str, tuple[object, ...]]] = {
    "raw_actor_id": (
        {"actor_id": "alice"},
        {"UserId": 7},
        {"created-by": "bob"},
        {"actor": {"id": "a"}},
        {"user": {"name": "Bob"}},
        {"user_ids": ["a"]},
        {"by_user": {"bob": 3}},
    ),
    "raw_account_id": (
        {"org_id": "acme"},
        {"customerId": 12},
        {"tenant": "acme"},
        {"account": {"id": 5}},
        {"per_org": {"acme": 1}},
    ),
    "raw_workspace_id": ({"workspace": "studio"}, {"workspace_id": 9}, {"PROJECT_ID": "x"}),
    "raw_owner_id": ({"owner": "acme"}, {"payer_id": "acme"}),
    "subscription_id": ({"subscription": "monthly-acme"},),
    "payment_id": ({"invoice_id": 77}, {"paymentMethod": "visa"}),
    "execution_id": ({"run_id": 4}, {"providerRequestId": "x"}, {"idempotency_key": "k"}, {"runs": [{"id": "a"}]}),
    "object_key": ({"object_key": "cat"}, {"storageKey": "cat"}),
    "private_url": ({"download_url": "https://example.com/cat"},),
    "gateway_metadata": ({"cf-ray": "x"}, {"User-Agent": "curl"}, {"request_headers": {"a": "b"}}),
    "ip_address": ({"ip": "here"}, {"remote_addr": "gate-3"}),
    "email": ({"email": "alice"},),
    "personal_data": ({"first_name": "Alice"},),
    "image_bytes": (
        {"image_base64": "AAAA"},
        {"image_bytes": [137, 80, 78, 71]},
    ),
    "private_content": ({"prompt": "a cat"},),
    "secret_field": ({"password": 1234}, {"client_secret": "abc"}, {"X-Webhook-Signature": "a"}, {"api_keys": ["abc"]}),
}
OPEN_FIELDS: Final = (
    {"users": 12, "accounts": 3},
    {"actor": None},
    {"owner_id": "ref_0123456789ab"},
    {"actor": "redacted"},
    {"org": "other"},
    {"tokens": 1200, "input_tokens": 5},
    {"token": 3},
    {"email": ""},
    {"password": "***"},
    {"by_plan": {"free": 3}},
    {"by_user": {"other": 3}},
    {"commit": "9f2c1d7e8a6b5c4d3e2f1a0b9c8d7e6f5a4b3c2d"},
    {"sha256": "ab" * 31 + "12"},
    {"user": 5},
    {"image_bytes": 52_000},
    {"is_owner": True},
    {"plan": "team", "kind": "image.converted", "day": "2026-01-31", "events": 12},
)


def test_privacy_rule_finds_its_examples_within_words() -> None:
    """Also between other words."""
    missed = []
    for rule in RULES:
        for text in MUST[rule.name]:
            around = f"seen: ({text}), and no more"
            if rule.name not in found_in(text, "") or not rule.finds(around, around.lower(), ""):
                missed.append((rule.name, text))
    assert missed == []


def test_privacy_rules_ignore_public_texts() -> None:
    found = {text: [*found_in(text, ""), *scan({"note": text, "rows": [text]}).findings] for text in MUST_NOT}
    assert {text: rules for text, rules in found.items() if rules} == {}


def test_privacy_page_rule_counts_and_example_are_correct() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "privacy.md").read_text(encoding="utf-8")
    assert [int(number) for number in re.findall(r"(\d+) rules of", page)] == list(map(len, (SECRETS, IDS, PLACES)))
    shown = re.search(r"^(scan\(.*\)\.findings)  # (.+)$", page, re.MULTILINE)
    assert shown is not None and str(eval(shown[1], {"scan": scan})) == shown[2]


def test_privacy_rules_each_have_examples() -> None:
    assert {one.name for one in RULES} == set(MUST) and len(RULES) == len(MUST) >= 35
    assert set(FIELDS) == {*leaves.BY_FIELD.values(), "secret_field"}


def test_private_field_name_makes_its_value_a_finding() -> None:
    reports = [(rule, report) for rule, those in FIELDS.items() for report in those]
    assert [one for one in reports if one[0] not in {found.rule for found in scan(one[1]).findings}] == []


def test_counts_labels_and_references_are_allowed_in_any_field() -> None:
    assert [report for report in OPEN_FIELDS if scan(report).findings] == []


def test_privacy_finding_names_are_explained() -> None:
    """Those of the form and the shape too, as they stand in the source."""
    folder = Path(leaves.__file__).parent
    source = "".join(file.read_text(encoding="utf-8") for file in folder.glob("*.py"))
    named = {
        *leaves.BY_FIELD.values(),
        *re.findall(r'(?:Trouble|_Match)\([^"\n]+, "([a-z_]+)"', source),
        "secret_field",
    }
    assert {*named, *(one.name for one in RULES)} == set(meanings()), "no other, and none without"
    assert all(meanings().values())


def test_privacy_page_python_example_works() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "privacy.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(block, names)
    assert str(names["whose"]).startswith("ref_") and names["SHAPES"]
