"""Serves an emulator over real HTTP on 127.0.0.1.

Guarantee: the emulator sees each call whole and in one piece, at the clock's moment; where it gives no answer the
connection is cut after the call was read. `python -m tests.emulators.serve` starts them all, for people who want to try
Drawdown at home, and prints what to set.
"""

from __future__ import annotations

import argparse
import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING

from aiohttp import web

from drawdown.providers.http import Answer, Call, HttpResult, NoAnswer
from drawdown.providers.kit.emulator import Emulator
from drawdown.schema.clock import Clock, SystemClock
from tests.emulators.cell import CELL, ROOT, CellEmulator
from tests.emulators.stripe import StripeEmulator

if TYPE_CHECKING:
    from tests.emulators.autumn import AutumnEmulator

HOST = "127.0.0.1"
MAX_BODY = 16 * 1024 * 1024
PEOPLE = ("acme", "globex", "initech", "alice", "bob", "carol")
SIZES = (1, 2, 4, 8, 16, 32, 64)
FEATURES = ("compute", *(f"compute_{size}gb" for size in SIZES))
CREDITS = "credits"
CREDITS_PER_GB_SECOND = Decimal("0.0001")
MONTHLY_CREDITS = 1000
HANGS_S = 300.0
"""However busy the machine: whoever takes longer than this hangs."""
NAMES = ("autumn", "stripe", "cell")
FIRST_PORT = 8701
CONTROL = "/emulator/"
MAX_SLOW_MS = 600_000
CONTROLS = "POST /emulator/down, /emulator/up, /emulator/slow/MILLISECONDS (0: no more), or /emulator/forget"
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection"})


@dataclass
class Switched:
    """An emulator that can be told to be down or slow, or to lose its memory, by `POST /emulator/...`."""

    make: Callable[[], Emulator]
    down: bool = False
    slow_ms: int = 0

    def __post_init__(self) -> None:
        self.inner = self.make()

    def handle(self, call: Call, now_ms: int) -> HttpResult:
        return NoAnswer("it was told to be down") if self.down else self.inner.handle(call, now_ms)

    def told(self, what: str) -> str | None:
        """Do what a path under `/emulator/` says; None: it says nothing that is known."""
        word, _, number = what.partition("/")
        if word == "slow" and number.isdecimal() and int(number) <= MAX_SLOW_MS:
            self.slow_ms = int(number)
            return f"each answer takes {number} ms"
        if what in ("down", "up"):
            self.down = what == "down"
            return f"it is {what}"
        if what == "forget":
            self.inner = self.make()
            return "it has forgotten everything"
        return None


@asynccontextmanager
async def serving(
    emulator: Emulator, clock: Clock | None = None, *, port: int = 0, latency_ms: int = 0
) -> AsyncIterator[str]:
    """The URL an emulator answers on while the context lasts; port 0 takes a free one."""
    runner = web.AppRunner(_app(emulator, clock or SystemClock(), latency_ms), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, port, backlog=1024).start()
        yield f"http://{HOST}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextmanager
def serving_in_thread(
    emulator: Emulator, clock: Clock | None = None, *, port: int = 0, latency_ms: int = 0
) -> Iterator[str]:
    """The same for code that is not asynchronous: an event loop of its own, in a thread that ends with the context."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="emulator", daemon=True)
    thread.start()
    context = serving(emulator, clock, port=port, latency_ms=latency_ms)
    try:
        yield asyncio.run_coroutine_threadsafe(context.__aenter__(), loop).result(HANGS_S)
    finally:
        asyncio.run_coroutine_threadsafe(context.__aexit__(None, None, None), loop).result(HANGS_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(HANGS_S)
        loop.close()


def _app(emulator: Emulator, clock: Clock, latency_ms: int) -> web.Application:
    async def answer(request: web.Request) -> web.Response:
        body = await request.read()
        # The raw path: a decoded one could turn an id that holds a slash into another route.
        url = f"http://{request.host}{request.raw_path}"
        if isinstance(emulator, Switched) and request.raw_path.startswith(CONTROL):
            done = emulator.told(request.raw_path.removeprefix(CONTROL)) if request.method == "POST" else None
            return web.Response(status=404 if done is None else 200, text=f"{done or CONTROLS}\n")
        call = Call(request.method, url, {name.lower(): text for name, text in request.headers.items()}, body)
        wait_ms = latency_ms + (emulator.slow_ms if isinstance(emulator, Switched) else 0)
        if wait_ms:
            await asyncio.sleep(wait_ms / 1000)
        result = emulator.handle(call, clock.now_ms())
        if isinstance(result, Answer):
            kept = {name: text for name, text in result.headers.items() if name.lower() not in _FRAMING}
            return web.Response(status=result.status, headers=kept, body=result.body)
        # A service that took no connection at all cannot be played by one that did: it is cut as well.
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)

    app = web.Application(client_max_size=MAX_BODY)
    app.router.add_route("*", "/{path:.*}", answer)
    return app


def home_stripe() -> StripeEmulator:
    """A Stripe to try things with: meters by the usual feature names, and customers with a good card."""
    stripe = StripeEmulator(secret_key="sk_test_home", webhook_secret="whsec_home", calls_per_s=1000)
    stripe.add_customer(*(f"cus_{name}" for name in PEOPLE))
    for name in PEOPLE:
        stripe.payments.put_in(f"cus_{name}")
    for name in FEATURES:
        stripe.add_meter(name)
    return stripe


def home_autumn(now_ms: int) -> AutumnEmulator:
    """An Autumn in the usual setting: seconds of each size, paid in credits by a credit system, and a plan of credits a
    month. `compute` counts GB seconds."""
    from tests.emulators.autumn import AutumnEmulator

    autumn = AutumnEmulator()
    for name in FEATURES:
        autumn.account.add_feature(name)
    costs = {f"compute_{size}gb": size * CREDITS_PER_GB_SECOND for size in SIZES}
    costs["compute"] = CREDITS_PER_GB_SECOND
    autumn.account.add_feature(CREDITS, kind="credit_system", credit_schema=costs)
    autumn.account.add_feature("concurrency", consumable=False)
    autumn.account.add_plan("starter", {CREDITS: (MONTHLY_CREDITS, "month"), "concurrency": (5, None)})
    for name in PEOPLE:
        autumn.account.add_customer(name, now_ms)
        autumn.account.attach(name, "starter", now_ms)
    return autumn


def stripe_lines(stripe: StripeEmulator, url: str) -> list[str]:
    """What to set so that Drawdown bills this one."""
    return [
        f"DRAWDOWN_STRIPE_SECRET_KEY={stripe.secret_key}",
        f"DRAWDOWN_STRIPE_URL={url}",
        f"DRAWDOWN_STRIPE_WEBHOOK_SECRETS={stripe.webhook_secret}",
    ]


def cell_lines(url: str) -> list[str]:
    """What to set so that Drawdown may tell this cell."""
    return [f"DRAWDOWN_CELL_ORIGINS={url}", f"DRAWDOWN_CELL_SECRET={ROOT}"]


def autumn_lines(autumn: AutumnEmulator, url: str) -> list[str]:
    """What to set so that Drawdown bills this one."""
    return [f"DRAWDOWN_AUTUMN_SECRET_KEY={autumn.secret_key}", f"DRAWDOWN_AUTUMN_URL={url}"]


async def run(ports: Mapping[str, int], latency_ms: int) -> None:
    """All of them, until interrupted."""
    autumn, stripe = home_autumn(SystemClock().now_ms()), home_stripe()
    makers: dict[str, Callable[[], Emulator]] = {
        "autumn": lambda: home_autumn(SystemClock().now_ms()),
        "stripe": home_stripe,
        "cell": CellEmulator,
    }
    async with AsyncExitStack() as stack:

        async def start(name: str) -> str:
            served = Switched(makers[name])
            try:
                return await stack.enter_async_context(serving(served, port=ports[name], latency_ms=latency_ms))
            except OSError as error:
                raise SystemExit(
                    f"port {ports[name]} of {HOST} cannot be used for {name} ({error.strerror}): choose others with "
                    f"--port N (N, N + 1, N + 2), or one with --{name}-port"
                ) from None

        lines = autumn_lines(autumn, await start("autumn"))
        lines += stripe_lines(stripe, await start("stripe"))
        lines += cell_lines(await start("cell"))
        print("# Emulators: they charge nobody and forget everything when they end. Paste this, then run drawdown:")
        print("\n".join(f"export {line}" for line in lines))
        print(f"# Customers: {', '.join(PEOPLE)} at Autumn, {', '.join(stripe.customers)} at Stripe. The cell: {CELL}.")
        print(f"# An outage, to try: {CONTROLS}; such as")
        print(f"#   curl -X POST http://{HOST}:{ports['autumn'] or 'PORT'}/emulator/down")
        print("# Interrupt to stop.", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.emulators.serve", description=__doc__)
    parser.add_argument("--port", type=int, default=FIRST_PORT, help=f"the first of three (default {FIRST_PORT})")
    for number, name in enumerate(NAMES):
        parser.add_argument(f"--{name}-port", dest=name, type=int, help=f"default: --port + {number}; 0: a free one")
    parser.add_argument("--latency-ms", type=int, default=0, help="how long each answer takes")
    given = vars(parser.parse_args())
    ports = {
        name: (given["port"] and given["port"] + n) if given[name] is None else given[name]
        for n, name in enumerate(NAMES)
    }
    wrong = [port for port in ports.values() if not 0 <= port <= 65_535]
    if wrong:
        parser.error(f"{wrong[0]} is no port: ports are 0 to 65535")
    with suppress(KeyboardInterrupt):
        asyncio.run(run(ports, given["latency_ms"]))


if __name__ == "__main__":
    main()
