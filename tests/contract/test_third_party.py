"""Somebody else's provider: installed from its own package, found by its entry point, held to the same suite. And those
that are broken, each in its own way, disable only themselves."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import subprocess
import sys
import tomllib
import unittest
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from drawdown.providers import protocol as p
from drawdown.providers import registry
from drawdown.providers.conformance import Bench, ProviderConformance, Wire
from drawdown.providers.http import Answer, Call, Http, HttpResult
from drawdown.schema.clock import FixedClock
from tests.contract.third_party.drawdown_tally import Tally
from tests.contract.third_party.tally_bench import KEY, SECRETS, Service, TallyBench
from tests.world import T0

PACKAGE = Path(__file__).parent / "third_party"
ROOT = Path(__file__).resolve().parents[2]
PROVIDER = (PACKAGE / "drawdown_tally.py").read_text(encoding="utf-8")


def plug_in(folder: Path, name: str, source: str, entry_points: Mapping[str, str]) -> None:
    """What an installer leaves behind: a module, and a folder that tells of it."""
    module, about = f"drawdown_{name}", folder / f"drawdown_{name}-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / f"{module}.py").write_text(source, encoding="utf-8")
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: drawdown-{name}\nVersion: 1.0\n", encoding="utf-8")
    lines = [f"{name} = {where}" for name, where in entry_points.items()]
    (about / "entry_points.txt").write_text("\n".join([f"[{registry.GROUP}]", *lines, ""]), encoding="utf-8")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the sample is installed, with that place on the path; `test_the_five_steps…` has pip install it."""
    folder = tmp_path_factory.mktemp("site")
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    plug_in(folder, "tally", PROVIDER, project["entry-points"][registry.GROUP])
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        importlib.invalidate_caches()
        yield folder
        sys.modules.pop("drawdown_tally", None)


def load(http: Http, clock: FixedClock, **settings: str) -> registry.Registry:
    return registry.load(settings, clock, http, sa.create_engine("sqlite://"))


@pytest.mark.usefixtures("installed")
class TestTally(ProviderConformance):
    def make_bench(self) -> Bench:
        return TallyBench()


def test_sample_provider_is_short_and_loaded_from_its_package(installed: Path) -> None:
    assert (installed / "drawdown_tally.py").read_text(encoding="utf-8").count("\n") < 110
    TallyBench()
    assert str(installed) in str(sys.modules["drawdown_tally"].__file__)


def test_provider_page_steps_create_provider_that_passes_suite(tmp_path: Path) -> None:
    """As docs/write-a-provider.md shows them, but that the package is installed beside the environment."""
    page = (ROOT / "docs" / "write-a-provider.md").read_text(encoding="utf-8")
    script = "\n".join(re.findall(r"```bash\n(.*?)```", page, re.DOTALL))
    for shown, here in (
        ("../drawdown-penny", str(tmp_path / "penny")),
        (" -e .\n", f" --no-index --target {tmp_path}/on .\n"),
    ):
        assert shown in script
        script = script.replace(shown, here)
    own = {name: text for name, text in os.environ.items() if not name.startswith(("DRAWDOWN_", "PYTEST_"))}
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    env = {**own, "PATH": path, "PYTHONPATH": f"{tmp_path}/on", "DRAWDOWN_STATE_DIR": f"{tmp_path}/state"}
    done = subprocess.run(["bash", "-ec", script], cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert re.search(r"^penny +dormant +DRAWDOWN_PENNY_KEY is not set", done.stdout, re.MULTILINE)
    assert "37 passed, 9 skipped" in done.stdout and "37 pass, 9 are skipped" in page


def test_conformance_suite_is_imported_without_pytest() -> None:
    line = "import sys; sys.modules['pytest'] = None; import drawdown.providers.conformance"
    subprocess.run([sys.executable, "-c", line], check=True, timeout=300)


def test_third_party_provider_without_key_is_dormant(installed: Path) -> None:
    clock = FixedClock(T0)
    assert load(Wire(Service()), clock).providers["tally"].dormant == "DRAWDOWN_TALLY_KEY is not set"


BROKEN: Mapping[str, tuple[str | None, str]] = {
    "raises_at_import": ("raise RuntimeError('no such library\\nsecond line')", "RuntimeError: no such library"),
    "no_syntax": ("def build(:", "SyntaxError: "),
    "no_module": (None, "ModuleNotFoundError: "),
    "no_such_name": ("pass", "AttributeError: "),
    "raises_when_built": (
        "def build(setup): raise ValueError('the key is malformed')",
        "ValueError: the key is malformed",
    ),
    "gives_nothing": ("def build(setup): return None", "TypeError: NoneType lacks capabilities, "),
    "gives_half_a_provider": (
        "class Half:\n    name = 'gives_half_a_provider'\ndef build(setup): return Half()",
        "TypeError: Half lacks capabilities, check, customers, dormant, drawn, lookup, notices, push, totals of ",
    ),
    "lies_about_its_name": (
        PROVIDER + "\ndef build(setup):\n    one = Tally(setup)\n    one.name = 'embedded'\n    return one",
        "ValueError: its name 'embedded' differs from the name 'lies_about_its_name' of its entry point",
    ),
    "contradicts_itself": (
        PROVIDER + "\ndef build(setup):\n    one = Tally(setup)\n    one.capabilities = p.Capabilities(None, False)\n"
        "    return one",
        "ValueError: a duplicate that does not prove a delivery must be looked up",
    ),
    "proves_absence_by_balance_at_no_time": (
        PROVIDER + "\ndef build(setup):\n    one = Tally(setup)\n"
        "    one.capabilities = p.Capabilities(None, True, drawn=True, applied_within_ms=None)\n    return one",
        "ValueError: a balance proves an absent push only after a limited time",
    ),
    "holds_credit_itself": (
        PROVIDER + "\ndef build(setup):\n    one = Tally(setup)\n"
        "    one.capabilities = p.Capabilities(None, True, locks=True)\n    return one",
        "ValueError: a provider must not declare its own locks",
    ),
    "legacy": (PROVIDER + "\nbuild = Tally", "ValueError: 'legacy' is not a valid name for a provider"),
    "Upper-case": (PROVIDER + "\nbuild = Tally", "ValueError: 'Upper-case' is not a valid name for a provider"),
}


@pytest.fixture
def beside(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., registry.Registry]:
    """Everything that is installed, with one more provider beside it."""

    def load_beside(name: str, source: str | None) -> registry.Registry:
        module = f"drawdown_broken_{name.replace('-', '_').lower()}"
        plug_in(tmp_path, module.removeprefix("drawdown_"), source or "", {name: f"{module}:build"})
        if source is None:
            (tmp_path / f"{module}.py").unlink()
        monkeypatch.syspath_prepend(str(tmp_path))
        importlib.invalidate_caches()
        clock = FixedClock(T0)
        return load(Wire(Service()), clock, tally_key=KEY)

    return load_beside


@pytest.mark.parametrize("name", BROKEN)
def test_broken_provider_is_listed_and_disables_only_itself(
    name: str, beside: Callable[..., registry.Registry]
) -> None:
    source, reason = BROKEN[name]
    found = beside(name, source)
    assert list(found.broken) == [name]
    assert found.broken[name].startswith(reason) and "\n" not in found.broken[name]
    assert found.providers.keys() >= {"autumn", "embedded", "stripe", "tally"}


def test_provider_that_exits_process_is_listed_as_broken(beside: Callable[..., registry.Registry]) -> None:
    try:
        found = beside("ends_the_process", "raise SystemExit(3)")
    except SystemExit:
        pytest.fail("it did")
    assert list(found.broken) == ["ends_the_process"]


def test_foreign_provider_named_embedded_is_refused(beside: Callable[..., registry.Registry]) -> None:
    found = beside("embedded", PROVIDER + "\nbuild = Tally")
    assert found.capabilities["embedded"].same_database, "the ledger in our own database, and not the other's"
    (name,) = found.broken
    assert name.startswith("embedded of "), "it is named by its package, and ours goes on"
    assert found.broken[name] == "ValueError: two installed packages provide embedded. Uninstall one of them"


def test_second_provider_of_name_that_is_broken_is_refused() -> None:
    """It would get the settings of the first, and send its pushes."""
    group = registry.GROUP
    entries = [
        EntryPoint("autumn", "drawdown.gone:build", group),
        EntryPoint("autumn", "drawdown.providers.autumn:build", group),
    ]
    found = registry.load({}, FixedClock(T0), Wire(Service()), sa.create_engine("sqlite://"), entries)
    first, second = found.broken
    assert first == "autumn" and second.startswith("autumn of ") and not found.providers


def test_setting_goes_to_provider_with_longest_name() -> None:
    """DRAWDOWN_STRIPE_X_KEY was an unknown setting of stripe, so Drawdown stopped billing there."""
    entries = [
        EntryPoint("stripe", "drawdown.providers.stripe:build", registry.GROUP),
        EntryPoint("stripe_x", "tests.contract.third_party.drawdown_tally:Tally", registry.GROUP),
    ]
    settings = {"stripe_secret_key": "sk_test_12345678", "stripe_x_key": "k"}
    found = registry.load(settings, FixedClock(T0), Wire(Service()), sa.create_engine("sqlite://"), entries)
    assert not found.broken and [one.dormant for one in found.providers.values()] == [None, None]


def quotes_its_key(setup: p.Setup) -> p.Provider:
    raise ValueError("x" * 280 + setup.settings["key"])


@pytest.mark.parametrize("key", ["sk_canary_0123456789", "\x1bsk_canary", "sk_\ncanary_0123456789"])
def test_reason_of_broken_provider_shows_no_part_of_key(key: str) -> None:
    entry = EntryPoint("quotes", f"{__name__}:{quotes_its_key.__name__}", registry.GROUP)
    found = registry.load({"quotes_key": key}, FixedClock(T0), Wire(Service()), sa.create_engine("sqlite://"), [entry])
    assert "sk_" not in found.broken["quotes"] and "x…" in found.broken["quotes"]


# A provider that is wrong in one place, and what the suite must say to it.
WRONG = {
    "a timeout is taken for not sent": ("p.Unknown(result.reason)", 'self._later("30", result.reason)'),
    "what was not sent is taken for unknown": ("isinstance(result, NotSent) else", "isinstance(result, Call) else"),
    "a timeout is taken for a refusal": ("p.Unknown(result.reason)", "p.Rejected(result.reason)"),
    "success that charged nothing is accepted": ("push.key, push.quantity)", 'push.key, told.get("charged"))'),
    "any success is accepted": (
        "told = _told(result.body)\n",
        "told = _told(result.body)\n        if result.status < 300:\n            return p.Accepted()\n",
    ),
    "any error is a refusal": ("return p.Unknown(f", "return p.Rejected(f"),
    "any error is for later": ("return p.Unknown(f", "return p.RetryAt(self._clock.now_ms() + 1000, f"),
    "a new key at each attempt": ('"key": push.key,', '"key": f"{push.key}#{push.attempt}",'),
    "a duplicate is a refusal": ("else p.Duplicate()", 'else p.Rejected("a duplicate")'),
    "a check without names tests no key": ("isinstance(probe, p.ReadFailed)", "False"),
    "429 is a refusal": ("result.status == 429 or (", "("),
    "any 401 is a refused key": ('== 401 and isinstance(told.get("error"), str))', "== 401)"),
    "a bad key is a refusal": (
        "if result.status == 429 or (",
        "if result.status == 401 and told.get('error'):\n            return p.Rejected('a bad key')\n"
        "        if result.status == 429 or (",
    ),
    "Retry-After is ignored": ('result.headers.get("retry-after", "")', '"30"'),
    "Retry-After is believed, whatever it says": ("min(at_ms, now_ms + 900_000)", "at_ms"),
    "Retry-After may be in the past": ("max(now_ms + 1_000, min(at_ms, now_ms + 900_000))", "at_ms"),
    "no date is expected": ("(ValueError, TypeError, OverflowError)", "OverflowError"),
    "no nonsense is expected": ("(ValueError, RecursionError)", "RecursionError"),
    "no depth is expected": ("(ValueError, RecursionError)", "ValueError"),
    "no list is expected": ("told if isinstance(told, dict) else {}", "told"),
    "the key is in a reason": (
        'f"HTTP {result.status}: the outcome',
        'f"{self._headers} {result.status}: the outcome',
    ),
    "the answer is in a reason": ("HTTP {result.status}, and not what", "HTTP {result.body.decode()}, and not what"),
    "quantities are floating": ('"amount": push.quantity', '"amount": int(float(push.quantity))'),
    "what cannot be read is an empty wallet": (
        "**failed, **states",
        "**{one: p.CustomerState(0, None, None) for one in failed}, **states",
    ),
    "nobody is unknown": ("p.NoCustomer())", 'p.ReadFailed("no such customer"))'),
    "the unknown are left out": ("**dict.fromkeys(customer_ids, p.NoCustomer()), ", ""),
    "what cannot be looked up is absent": ('p.ReadFailed(f"{what}: HTTP', 'p.Absent() or (f"{what}: HTTP'),
    "lookups are of the first digits": ("return p.FoundPush(told)", "return p.FoundPush(told % 1000)"),
    "any webhook is genuine": ("signed = any(", "signed = bool(at) or any("),
    "webhooks never age": ("abs(now_ms - int(at)) > 300_000", "False"),
    "the old secret is forgotten": ("for one in self._secrets]", "for one in self._secrets[:1]]"),
    "signatures are of any text": ("given.encode())", "given.encode('ascii'))"),
    "a webhook is never nonsense": ('who = _told(body).get("customer")', 'who = json.loads(body)["customer"]'),
    "whom a webhook names is any value": ("isinstance(who, str)", "who"),
    "sends again by itself": ('self._send("POST", ', 'self._send("GET", "/") and await self._send("POST", '),
    "waits by itself": (
        "async def push(",
        "async def push(self, batch):\n        import asyncio\n"
        "        await asyncio.sleep(9)\n        return await self.pushes(batch)\n\n    async def pushes(",
    ),
    "any 404 is an absence": ('case 404, {"error": error} if error == f"no such {what}":', "case 404, _:"),
    "any no is a refusal": ('== 0) and isinstance(told.get("error"), str)', "== 0)"),
    "a credit may be anything": ("and type(told.get(field)) is int", ""),
    "check sees no trouble": ("if not isinstance(told, int)]", "if told is None]"),
    "batches lose one": ("for one in batch]", "for one in batch][1:]"),
    "outcomes are words": ("return p.Accepted()", 'return "accepted"'),
    "it proves nothing and cannot be asked": (
        "duplicate_proves_delivery=True, lookup_lag_ms=0",
        "duplicate_proves_delivery=False",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_conformance_suite_finds_wrong_provider(wrong: str, installed: Path) -> None:
    right, other = WRONG[wrong]
    assert PROVIDER.count(right) == 1, right
    module = importlib.import_module("drawdown_tally")  # no other test of this process may have loaded it
    try:
        exec(compile(PROVIDER.replace(right, other), "wrong", "exec"), vars(module))
        assert failures() != []
    finally:
        exec(compile(PROVIDER, str(installed), "exec"), vars(module))


def failures() -> list[str]:
    """The first test of the suite that this provider does not pass."""
    for name in [name for name in dir(ProviderConformance) if name.startswith("test_")]:
        suite = TestTally()
        suite.seeds, suite.patience_s = 3, 0.5
        with contextlib.suppress(unittest.SkipTest):
            try:
                suite.setup_method()
                getattr(suite, name)()
                suite.teardown_method()
            except Exception:
                return [name]
    return []


# A service that answers a lookup with a list: an unknown key is an empty one.


class ListingService(Service):
    async def send(self, call: Call) -> HttpResult:
        result = await super().send(call)
        assert isinstance(result, Answer)
        if call.method != "GET" or "/charges/" not in call.url or result.status not in (200, 404):
            return result
        found = [json.loads(result.body)] if result.status == 200 else []
        return Answer(200, result.headers, json.dumps(found).encode())


class Listing(Tally):
    async def lookup(self, request: p.PushRequest) -> p.LookupResult:
        result = await self._send("GET", f"/charges/{quote(request.key, safe='')}")
        try:
            return self.judged(request, json.loads(result.body if isinstance(result, Answer) else b""))
        except (ValueError, RecursionError):
            return p.ReadFailed("charges: no list")

    def judged(self, request: p.PushRequest, found: object) -> p.LookupResult:
        match found:
            case []:
                return p.Absent()
            case [{"id": key, "charged": int(charged)}] if key == request.key and charged is not True:
                return p.FoundPush(charged)
        return p.ReadFailed("charges: not the list of this key")


class EmptyIsAbsent(Listing):
    """Takes more than the service's own words for an absence."""

    def judged(self, request: p.PushRequest, found: object) -> p.LookupResult:
        return super().judged(request, found) if found else p.Absent()


class Trusting(Listing):
    """Expects a list to hold what the service documents."""

    def judged(self, request: p.PushRequest, found: object) -> p.LookupResult:
        if isinstance(found, list) and found:
            return p.FoundPush(found[0]["charged"])
        return super().judged(request, found)


class ListingBench(TallyBench):
    kind: type[Listing] = Listing

    def __init__(self) -> None:
        super().__init__()
        self.service = ListingService()
        self.wire = self._wire = Wire(self.service)
        self.provider = self._with_key(KEY)

    def _with_key(self, key: str) -> p.Provider:
        hooks = f"{SECRETS['current']},{SECRETS['previous']}"
        settings = {"webhook_secrets": hooks} | ({"key": key} if key else {})
        return self.kind(p.Setup("tally", settings, self.clock, self._wire, sa.create_engine("sqlite://")))


class TestListing(ProviderConformance):
    def make_bench(self) -> Bench:
        return ListingBench()


@pytest.mark.parametrize(
    ("wrong", "test"),
    [
        (EmptyIsAbsent, "test_invalid_response_is_not_read"),
        (Trusting, "test_a_read_field_of_another_type_is_no_crash"),
    ],
)
def test_conformance_suite_finds_provider_with_careless_list_reads(wrong: type[Listing], test: str) -> None:
    class Careless(ListingBench):
        kind = wrong

    class Suite(ProviderConformance):
        def make_bench(self) -> Bench:
            return Careless()

    suite = Suite()
    suite.setup_method()
    try:
        with pytest.raises((AssertionError, KeyError, TypeError)):  # of the suite, or of the provider that it crashes
            getattr(suite, test)()
    finally:
        suite.teardown_method()
