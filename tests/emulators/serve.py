"""Serves an emulator over real HTTP on 127.0.0.1.

Guarantee: the emulator sees each call whole and in one piece, at the clock's moment; where it gives no answer the
connection is cut after the call was read. `python -m tests.emulators.serve` starts them all, for people who want to try
Drawdown at home, and prints what to set.
"""

from __future__ import annotations

import argparse
import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING

from aiohttp import web

from drawdown.providers.http import Answer, Call
from drawdown.schema.clock import Clock, SystemClock
from tests.emulators.cell import CellEmulator
from tests.emulators.stripe import StripeEmulator
from tests.emulators.wire import Emulator

if TYPE_CHECKING:
    from tests.emulators.autumn import AutumnEmulator

HOST = "127.0.0.1"
MAX_BODY = 16 * 1024 * 1024
PEOPLE = ("alice", "bob", "carol")
FEATURES = ("compute", *(f"compute_{size}gb" for size in (1, 2, 4, 8, 16, 32, 64)))
AUTUMN_PORT, STRIPE_PORT, CELL_PORT = 8701, 8702, 8703
_FRAMING = frozenset({"content-length", "transfer-encoding", "connection"})


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
        yield asyncio.run_coroutine_threadsafe(context.__aenter__(), loop).result(30)
    finally:
        asyncio.run_coroutine_threadsafe(context.__aexit__(None, None, None), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


def _app(emulator: Emulator, clock: Clock, latency_ms: int) -> web.Application:
    async def answer(request: web.Request) -> web.Response:
        body = await request.read()
        # The raw path: a decoded one could turn an id that holds a slash into another route.
        url = f"http://{request.host}{request.raw_path}"
        call = Call(request.method, url, {name.lower(): text for name, text in request.headers.items()}, body)
        if latency_ms:
            await asyncio.sleep(latency_ms / 1000)
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
    """A Stripe to try things with: meters by the usual feature names, and three customers."""
    stripe = StripeEmulator(secret_key="sk_test_home", webhook_secret="whsec_home", calls_per_s=1000)
    stripe.add_customer(*(f"cus_{name}" for name in PEOPLE))
    for name in FEATURES:
        stripe.add_meter(name)
    return stripe


def home_autumn(now_ms: int) -> AutumnEmulator:
    """An Autumn with the same features and customers, on a plan of a hundred hours of each feature a month."""
    from tests.emulators.autumn import AutumnEmulator

    autumn = AutumnEmulator()
    for name in FEATURES:
        autumn.account.add_feature(name)
    autumn.account.add_feature("concurrency", consumable=False)
    autumn.account.add_plan("starter", {**dict.fromkeys(FEATURES, (360_000, "month")), "concurrency": (5, None)})
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


def cell_lines(cell: CellEmulator, url: str) -> list[str]:
    """What to set so that Drawdown may tell this cell."""
    return [f"DRAWDOWN_CELL_ORIGINS={url}", f"DRAWDOWN_CELL_SECRET={cell.secret}"]


def autumn_lines(autumn: AutumnEmulator, url: str) -> list[str]:
    """What to set so that Drawdown bills this one."""
    return [f"DRAWDOWN_AUTUMN_SECRET_KEY={autumn.secret_key}", f"DRAWDOWN_AUTUMN_URL={url}"]


async def run(ports: Mapping[str, int], latency_ms: int) -> None:
    """All of them, until interrupted."""
    autumn, stripe, cell = home_autumn(SystemClock().now_ms()), home_stripe(), CellEmulator()
    async with AsyncExitStack() as stack:

        async def start(emulator: Emulator, name: str) -> str:
            return await stack.enter_async_context(serving(emulator, port=ports[name], latency_ms=latency_ms))

        lines = autumn_lines(autumn, await start(autumn, "autumn"))
        lines += stripe_lines(stripe, await start(stripe, "stripe"))
        lines += cell_lines(cell, await start(cell, "cell"))
        print("# Emulators: they charge nobody and forget everything when they end. Paste this, then run drawdown:")
        print("\n".join(f"export {line}" for line in lines))
        print(f"# Customers: {', '.join(PEOPLE)} at Autumn, {', '.join(stripe.customers)} at Stripe.")
        print("# Interrupt to stop.", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.emulators.serve", description=__doc__)
    for name, port in (("autumn", AUTUMN_PORT), ("stripe", STRIPE_PORT), ("cell", CELL_PORT)):
        parser.add_argument(f"--{name}-port", dest=name, type=int, default=port, help=f"default {port}; 0: a free one")
    parser.add_argument("--latency-ms", type=int, default=0, help="how long each answer takes")
    given = vars(parser.parse_args())
    with suppress(KeyboardInterrupt):
        asyncio.run(run(given, given.pop("latency_ms")))


if __name__ == "__main__":
    main()
