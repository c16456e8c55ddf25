"""Define the routes and the responses of each route.

Guarantee: the routes for programs and /openapi.json declare every possible response. All errors of these routes have
one shape. The console and `/my` answer errors with pages.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import structlog
from fastapi import APIRouter, FastAPI, Request
from fastapi.routing import APIRoute
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Scope

from drawdown.server import metrics, process_metrics
from drawdown.server.api import admin, gate, health, models, webhooks
from drawdown.server.api import guard as guard_api
from drawdown.server.api.accounts import Accounts
from drawdown.server.api.cron import Cron
from drawdown.server.api.declared import Operations
from drawdown.server.api.executions import Executions
from drawdown.server.api.fail_open import FailOpen
from drawdown.server.api.guard import Guard, Options, Overrides
from drawdown.server.api.openapi import describe, operation
from drawdown.server.api.payment_calls import PaymentCalls
from drawdown.server.api.programs import Programs
from drawdown.server.console.console import Console
from drawdown.server.declarations import DECLARED
from drawdown.server.docs_page import serve_docs
from drawdown.server.http import bodies, errors
from drawdown.server.http.limits import PAGES, Limits, describe_error
from drawdown.server.http.paths import PathsAsSent, RouteTable
from drawdown.server.http.threads import Threads
from drawdown.server.services import Services
from drawdown.server.step_threads import StepThreads
from drawdown.server.usage.intake import Intake
from drawdown.server.usage.items import Events, Samples
from drawdown.server.usage.routes import UsageRoutes

log = structlog.get_logger()

METRICS_KEPT_MS: Final = 5_000
"""Largest age of metrics that Drawdown returns without another database read."""
RENEWED_EVERY_S: Final = 5.0
"""Seconds between two reads of the settings' files."""


async def _to_the_console(_request: Request) -> Response:
    """Redirect a browser to the console."""
    return RedirectResponse("/console/", 303)


class Server:
    """The server of one process: an ASGI application, and its parts."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.refused: Counter[str] = Counter(dict.fromkeys(process_metrics.REFUSED, 0))
        """Refusals since the process began, by kind: see the metric `drawdown_server_refused`."""
        self.threads = Threads(services.engine, services.restores)
        self.step_threads = StepThreads(services)
        reading = Threads(services.engine, services.restores, gate.READS_AT_ONCE, "gate")
        self._gate = gate.Gate(services, self.threads, reading, self.step_threads)
        self._budget = bodies.Budget(self.refused)
        self._programs = Programs(services, self._budget, self.refused)
        self._fail_open = FailOpen(services, self._programs.threads, self._programs.reading, self._programs.find)
        self._readiness = health.Readiness(services)
        self._intake = Intake(services, self._programs, self._budget, self.refused)
        self._money = PaymentCalls(self._programs)
        self._guard = Guard(self._programs, self._fail_open, self._money)
        self._metrics: tuple[int, bytes] | None = None
        self._reading = asyncio.Lock()
        looking = services.console_engine
        self._console = None if looking is None else Console(services, looking, self.refused)
        self._of_programs: list[BaseRoute] = []
        self.routes = self._app()
        straight = RouteTable(self.routes, self._of_programs, errors.HANDLERS)
        per_s = services.settings.requests_per_s
        self.app = Limits(PathsAsSent(straight), services.clock, per_s, self.refused, self._is_known)

    def close(self) -> None:
        """End the work in progress at its next effect.

        The rest of the accepted work is in the database, and the next process does it.
        """
        self.step_threads.close()
        self._fail_open.close()
        self._intake.close()
        self._programs.close()
        self._gate.close()
        self._readiness.close()
        self.threads.close()
        if self._console is not None:
            self._console.close()

    def _is_known(self, scope: Scope) -> bool:
        """Return True if Drawdown recently found the key or session of a request."""
        if scope["path"].startswith(PAGES):
            return self._console is not None and self._console.is_known(scope)
        return self._programs.is_known(scope)

    def _app(self) -> FastAPI:
        made = FastAPI(
            title="Drawdown",
            version="1",
            openapi_url=None,  # openapi.py serves the description
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
            lifespan=self._lifespan,
            exception_handlers={Exception: errors.on_any_error},
        )
        for kind, handler in errors.HANDLERS.items():
            made.add_exception_handler(kind, handler)
        # Add the routes as they are, because `include_router` would copy each at the first request.
        made.router.routes.extend(self._router().routes)
        made.router.routes.extend(Cron(self.services, self.step_threads).routes().routes)
        groups = [group(self._programs) for group in (Accounts, UsageRoutes, Overrides)]
        runs = Executions(self._programs, self._money)
        operations = Operations(self.services, self._programs, DECLARED)
        ways_in = [way_in(self._intake) for way_in in (Events, Samples)]
        for one in (runs, *groups, operations, self._guard, Options(self.services, self._programs), *ways_in):
            self._of_programs.extend(one.routes().routes)
        self._of_programs.sort(key=_longest_first)
        made.router.routes.extend(self._of_programs)
        describe(made, self.services.clock)
        serve_docs(made)
        if self._console is not None:
            made.router.routes.extend(self._console.routes())
            made.router.routes.append(Route("/", _to_the_console, methods=["GET"]))
        return made

    async def renewing(self) -> None:
        """Read new settings and providers while this process runs."""
        while True:
            await asyncio.sleep(RENEWED_EVERY_S)
            try:
                await asyncio.to_thread(self.services.renew, self.services)
            except Exception as error:  # the old settings and providers stay in use
                log.error("not_renewed", **describe_error(error))

    @asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        renewing = asyncio.create_task(self.renewing())
        yield
        renewing.cancel()
        await asyncio.to_thread(self.close)
        await self.services.http.close()

    def _router(self) -> APIRouter:
        router = APIRouter()
        shut = (429, 500)
        add = partial(router.add_api_route, response_class=JSONResponse)
        add("/webhooks/{provider}", self.webhook, methods=["POST"],
            **operation(models.WebhookAnswer, 400, 404, 408, 413, 503, *shut, body="any"))  # fmt: skip
        add("/v1/gate/{org_id:id}", self.gate, methods=["GET"],
            **operation(models.GateAnswer, 404, *shut))  # fmt: skip
        signed = (400, 401, 404, 408, 409, 413, 415, 422, 503, *shut)
        add("/admin/orgs/{org_id:id}/provider", self.assign, methods=["POST"],
            **operation(models.AssignAnswer, *signed, body=models.ProviderRequest, security="signed"))  # fmt: skip
        add("/admin/orgs/{org_id:id}/override", self.override, methods=["POST"],
            **operation(models.OverrideAnswer, *signed, body=models.OverrideRequest, security="signed"))  # fmt: skip
        add("/admin/overrides/{number}/{word}", self.decide_override, methods=["POST"],
            **operation(guard_api.LimitOverride, *signed, body=models.DecideRequest, security="signed"))  # fmt: skip
        add("/healthz", self.healthz, methods=["GET"], **operation(models.Health, 500))
        add("/readyz", self.readyz, methods=["GET"], **operation(models.Health, 503, *shut))
        router.add_api_route(
            "/metrics", self.metrics, methods=["GET"], response_class=Response, **operation(None, *shut)
        )
        return router

    async def webhook(self, provider: str, request: Request) -> JSONResponse:
        """Take a provider's webhook, signed in the provider's own way."""
        headers = {name.lower(): value for name, value in request.headers.items()}
        webhooks.require_worth_reading(self.services, provider, headers)
        async with bodies.body_of(request, webhooks.MAX_BYTES, self._budget) as body:
            done = await webhooks.take(self.services, self.threads, self.step_threads, provider, headers, body)
        return JSONResponse({"status": done})

    async def gate(self, org_id: str) -> JSONResponse:
        """Return whether a sandbox may be created or woken, and the limit of sandboxes."""
        return JSONResponse(await self._gate.answer(org_id))

    async def assign(self, org_id: str, request: Request) -> JSONResponse:
        """Assign an organisation to a provider, like `drawdown org assign`."""
        signed = await admin.order_of(self.services, self._budget, request, models.ProviderRequest)
        return JSONResponse(await admin.assign(self.services, self.step_threads, org_id, signed))

    async def override(self, org_id: str, request: Request) -> JSONResponse:
        """Set or end an org override, like `drawdown org override`."""
        signed = await admin.order_of(self.services, self._budget, request, models.OverrideRequest)
        now = self.services.clock.now_ms()
        return JSONResponse(await admin.override(self.threads, self.step_threads, now, org_id, signed))

    async def decide_override(self, number: str, word: str, request: Request) -> JSONResponse:
        """Decide a limit override, like `drawdown override approve`, `refuse` or `end`."""
        signed = await admin.order_of(self.services, self._budget, request, models.DecideRequest)
        now = self.services.clock.now_ms()
        return JSONResponse(dict(await guard_api.decide_override(self.threads, now, number, word, signed)))

    async def healthz(self) -> JSONResponse:
        """Return `ok` while the process runs."""
        return JSONResponse({"status": "ok"})

    async def readyz(self) -> JSONResponse:
        """Check that the database is available, has this schema, and did not lose history."""
        await self._readiness.require()
        return JSONResponse({"status": "ok"})

    async def metrics(self) -> Response:
        """Return the metrics in Prometheus' text format."""
        now = self.services.clock.now_ms()
        async with self._reading:  # concurrent requests share one read
            if self._metrics is None or not 0 <= now - self._metrics[0] < METRICS_KEPT_MS:
                doubt = self.services.restores.doubt
                self._metrics = now, await asyncio.to_thread(metrics.render, self.services.engine, now, doubt)
            measured = self._metrics[1]
        counts = (process_metrics.refusals(self.refused), process_metrics.denials(self._programs.denied))
        guard = (*process_metrics.guard_calls(self._guard.calls), process_metrics.fail_open_uses(self._fail_open.uses))
        of_process = [*counts, process_metrics.intake(self._intake.items), *guard]
        found = metrics.text(of_process) + measured
        return Response(found, media_type=metrics.CONTENT_TYPE)


def _longest_first(route: BaseRoute) -> int:
    """Return the sort key of a route, which puts a path with more parts first.

    An id may contain a slash, so a shorter path could match a longer one.
    """
    return -route.path.count("/") if isinstance(route, APIRoute) else 0
