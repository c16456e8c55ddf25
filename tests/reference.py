"""The pages that are made from the code: `make docs` writes them, `tests/unit/test_reference.py` holds them."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from inspect import cleandoc
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import sqlalchemy as sa
import typer
from prometheus_client.metrics_core import Metric
from typer.main import get_command

from drawdown.cli.main import app
from drawdown.cli.tree import SECTIONS, Command, walk
from drawdown.schema.database import connect, read
from drawdown.schema.declare import Action
from drawdown.schema.tables.fleet import ticks
from drawdown.schema.units import BUCKETS
from drawdown.server import process_metrics
from drawdown.server.api.codes import CALLS, ITEMS
from drawdown.server.declarations import DECLARED
from drawdown.server.metrics import measure, of_workers
from drawdown.worker.cluster.lists import Cluster
from drawdown.worker.verdict.watch_state import note_round
from drawdown.worker.verify.findings import FINDINGS, INVARIANTS
from tests import bounds, settings_table, template
from tests.sources import tree_of
from tests.unit.test_rooms import MAY_IMPORT, WORKER

DOCS: Final = Path(__file__).resolve().parents[1] / "docs"
CLIENT: Final = DOCS.parent / "client" / "drawdown_client"
MADE: Final = "This page is generated from the code by `make docs`. Do not edit it."
BARE_BAR: Final = r"(?<!\\)\|"
NOW_MS: Final = 1_767_225_600_000
SUFFIXES: Final = {"counter": "_total"}
ENDED_TICK: Final = sa.insert(ticks).values(
    worker="w", bucket_lo=0, bucket_hi=BUCKETS - 1, started_ms=NOW_MS, finished_ms=NOW_MS, exit_status=0
)
"""Metrics of ticks and of the watch begin with the first of each."""


def settings() -> str:
    """Return a row for each setting."""
    link = (
        "Each setting is an environment variable. [Settings](../settings.md) describes files in their place. Each"
        " [provider](../providers.md) has more."
    )
    return "\n\n".join((f"# All settings\n\n{MADE}", link, settings_table.table()))


def commands() -> str:
    """Return a part for each command: its help, arguments, options and examples."""
    tree = dict(walk(get_command(app)))
    verbs = {path: [below for below in tree if path and below[:-1] == path] for path in tree}
    contents = [
        f"**{title}**: " + ", ".join(f"[`{name}`](#{_anchor((name,))})" for name in sorted(entries))
        for title, entries in SECTIONS.items()
    ]
    head = [f"# Commands\n\n{MADE}", "`drawdown COMMAND --help` prints the same."]
    return "\n\n".join(head + contents + [_command(path, tree[path], verbs[path]) for path in sorted(tree)]) + "\n"


def _command(path: Sequence[str], command: Command, verbs: Sequence[Sequence[str]]) -> str:
    # A command keeps its first help option: with other names than the program's, `-h` would be none of it from then on.
    names = ["-h", "--help"]
    context = typer.Context(command, info_name=" ".join(("drawdown", *path)), help_option_names=names)
    lines = [f"{'###' if len(path) > 1 else '##'} drawdown {' '.join(path)}".rstrip()]
    lines.append(cleandoc(command.help or "").replace("<", "\\<"))
    lines.append("```text\n" + " ".join((context.command_path, *command.collect_usage_pieces(context))) + "\n```")
    if verbs:
        lines.append("Commands: " + ", ".join(f"[`{verb[-1]}`](#{_anchor(verb)})" for verb in verbs))
    records = [one.get_help_record(context) for one in command.get_params(context) if one.name != "help"]
    rows = [[f"`{name}`", _cell(meaning)] for name, meaning in filter(None, records)]
    if rows:
        lines.append(_table(("argument or option", "meaning"), rows))
    if path and not verbs:
        examples = [line.strip() for line in (command.epilog or "").splitlines() if line.startswith("  ")]
        lines.append("```text\n" + "\n".join(examples) + "\n```" if examples else "")
    return "\n\n".join(filter(None, lines))


def _anchor(path: Iterable[str]) -> str:
    return "-".join(("drawdown", *path))


def metrics() -> str:
    """Return a row for each metric: of the database, and of a server's own process."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "drawdown.db"
        file.write_bytes(template.content())
        engine = connect(f"sqlite:///{file}")
        with engine.begin() as connection:
            note_round(connection, NOW_MS)
            connection.execute(ENDED_TICK)
        stored = read(engine, lambda connection: list(measure(connection, NOW_MS)))
        engine.dispose()
    workers = of_workers(Cluster(shards=1, every_s=300, workers=[], jobs=[]))
    own = [
        process_metrics.refusals({}), process_metrics.denials({}), process_metrics.intake({}),
        *process_metrics.guard_calls(process_metrics.GuardCalls()), process_metrics.fail_open_uses({}),
    ]  # fmt: skip
    parts = [
        f"# Metrics\n\n{MADE}",
        "The [alerts](../../ops/deploy/prometheus/alerts.yaml) read these metrics, and so does the"
        " [dashboard](../../ops/deploy/grafana/drawdown.json).",
        "Some metrics have no value until the first tick or watch round has run, or the first worker has started.",
        "## From the database",
        "`drawdown tick --metrics-file FILE` writes these metrics, and `/metrics` of `drawdown serve` returns them.",
        _metrics([*stored, *workers]),
        "## Of a server's process",
        "`/metrics` of `drawdown serve` returns these metrics for its own process. Each begins at zero when the process"
        " starts.",
        _metrics(own),
    ]
    return "\n\n".join(parts) + "\n"


def _metrics(found: Iterable[Metric]) -> str:
    rows = [
        [
            f"`{one.name}{SUFFIXES.get(one.type, '')}`",
            one.type,
            ", ".join(f"`{label}`" for label in one._labelnames) or "none",  # type: ignore[attr-defined]
            _cell(one.documentation),
        ]
        for one in sorted(found, key=lambda metric: metric.name)
    ]
    return _table(("metric", "type", "labels", "meaning"), rows)


def findings() -> str:
    """Return a table for each invariant: the findings of `drawdown verify` that break it."""
    parts = [
        f"# Findings of `drawdown verify`\n\n{MADE}",
        "`drawdown verify` prints a finding for each breach of an [invariant](../invariants.md). A name in braces"
        " stands for a value of the breach. Amounts of credit are in micro-credits, and times are in milliseconds since"
        " 1970 (UTC). Unless you pass `--no-stop`, Drawdown stops the pushes of an organisation"
        " with a finding. To resume them, run `drawdown org resume`.",
    ]
    for number, (name, meaning) in INVARIANTS.items():
        rows = [[f"`{code}`", f"`{message}`"] for code, (of, message) in sorted(FINDINGS.items()) if of == number]
        parts.append(f"## {number}. {name}\n\n{meaning}\n\n" + _table(("finding", "message"), rows))
    return "\n\n".join(parts) + "\n"


def codes() -> str:
    """Return a table of the codes of calls, and one of the results of items."""
    calls = [
        [", ".join(f"`{one}`" for one in code.statuses), f"`{name}`", code.meaning] for name, code in CALLS.items()
    ]
    items = [[one.status, f"`{one.code}`" if one.code else "", one.items, one.meaning] for one in ITEMS]
    parts = [
        f"# Codes\n\n{MADE}",
        "A refused call of the [HTTP API](http-api.md) has a code, and so has each item with a fault. If a name is"
        " unknown, the message suggests the nearest name.",
        "## Of a call",
        'Every error is `{"error": {"code", "message"}}`. Except for `answer_lost`, and `bad_items` on OpenMeter\'s'
        " path, the call changed nothing. If a permission check refused it, `details.step` is"
        " [its step](credits.md#permission-checks). At its connection limit, a server answers 503,"
        " `too_many_connections`, with `Retry-After`.",
        _table(("status", "code", "meaning and fix"), calls),
        "## Of an item",
        "Drawdown does not keep an `invalid` item. `at` shows the position of the error.",
        _table(("status", "code", "items", "meaning and fix"), items),
    ]
    return "\n\n".join(parts) + "\n"


def limits() -> str:
    """Return a table for each package: its bounds, and the tests that hold them."""
    parts = [
        f"# Bounds\n\n{MADE}",
        "Every queue, wait, buffer, response, cache and batch has a limit. Each limit is a constant, and the meaning"
        " is its docstring. `server.http.bodies` is `server/http/bodies.py`. `tests/held_bounds.txt` names the tests of"
        " limits.",
        "| process | limit under attack | test | measured |\n|---|---|---|---|\n"
        "| `drawdown serve` | 300 MB | `tests/server/test_memory.py` | 87 to 155 MB |\n"
        "| `tick` and `watch` | 300 MB | `tests/acceptance/test_memory.py` | 90 to 182 MB |",
        "`make bench` (case `beside`) measures the effect of eight hostile connections on a healthy provider and cell.",
        "A *caller* is an IPv4 address, or an IPv6 /64. Many callers share the address of a proxy in"
        " `DRAWDOWN_TRUSTED_PROXIES`, so such an address may hold all connections.",
    ]
    tests = bounds.held()
    by_package: dict[str, list[list[str]]] = {}
    for one in bounds.bounds():
        test = f"`{tests[one.name]}`" if one.name in tests else "none"
        row = [f"`{one.name}`", _limit(one), _cell(one.meaning), test]
        by_package.setdefault(one.name.partition(".")[0], []).append(row)
    for package, rows in by_package.items():
        parts.append(f"## {package}\n\n" + _table(("constant", "limit", "meaning", "test"), rows))
    return "\n\n".join(parts) + "\n"


def _limit(one: bounds.Bound) -> str:
    suffix = one.name.rpartition("_")[2]
    seconds = one.value / 1_000 if suffix == "MS" else one.value
    if suffix in ("MS", "S") and "_PER_" not in one.name:
        named = next(
            (f"{seconds // n:,.0f} {unit}" for unit, n in TIMES.items() if seconds > n and seconds % n == 0), ""
        )
        return f"{one.value:,} {suffix.lower()}" + (f" ({named})" if named else "")
    return f"{one.value:,}" + UNITS.get(suffix, "")


def http() -> str:
    """Return a part for each scope: the operations that are declared, with the command that does the same."""
    parts = [
        f"# HTTP operations\n\n{MADE}",
        "Each operation is a command, too. A `POST` takes a JSON body; every body may have `reason` and `dry_run`, and"
        " the header `Idempotency-Key`. A `GET` takes its parameters in the query. A parameter with a star is required."
        " `/openapi.json` describes the responses. [HTTP](../http-api.md) describes the other routes, and [sign"
        " up](../sign-up.md) shows the operations in use.",
    ]
    by_scope: dict[str, list[list[str]]] = {}
    for one in sorted(DECLARED, key=lambda each: (each.path, not isinstance(each, Action))):
        method = "POST" if isinstance(one, Action) else "GET"
        given = [param for param in one.params if f"{{{param.field}}}" not in one.path]
        fields = ", ".join(f"`{param.field}`{chr(92) + '*' if param.required else ''}" for param in given) or "none"
        command = f"[`{one.name}`](cli.md#{_anchor(('drawdown', *one.name.split())[1:])})"
        by_scope.setdefault(one.scope, []).append([f"`{method} {one.path}`", fields, command, _cell(one.help)])
    for scope, rows in sorted(by_scope.items()):
        parts.append(f"## {scope}\n\n" + _table(("operation", "parameters", "command", "it does"), rows))
    return "\n\n".join(parts) + "\n"


def client() -> str:
    """Return a row for each bound of the Python client."""
    rows = [
        [f"`{path.stem}.{name}`", f"{value:,}".removesuffix(".0"), meaning.rstrip(".")]
        for path in sorted(CLIENT.glob("*.py"))
        for name, value, meaning in _bounds(path)
    ]
    link = "[Clients](../client.md) describes the client. To change a bound for one client, pass `Settings`."
    return "\n\n".join((f"# Bounds of the client\n\n{MADE}", link, _table(("bound", "value", "meaning"), rows))) + "\n"


def packages() -> str:
    """Return a row for each room of the worker: its guarantee, the rooms that it may import, and its tests."""
    rows = []
    for room in sorted(MAY_IMPORT):
        path = WORKER / room / "__init__.py" if (WORKER / room).is_dir() else WORKER / f"{room}.py"
        parts = dict(
            part.split(": ", 1) for part in (ast.get_docstring(tree_of(path)) or "").split("\n\n") if ": " in part
        )
        tests = ", ".join(f"`{file}`" for file in parts["Tests"].split(", "))
        name = path.relative_to(DOCS.parent).as_posix().removesuffix("/__init__.py")
        rows.append(
            [
                f"`{name}`",
                _cell(parts["Guarantee"]).removesuffix("."),
                ", ".join(sorted(MAY_IMPORT[room])) or "no other package",
                tests,
            ]
        )
    link = "Each package of `worker/` has one guarantee. [Contributing](../../CONTRIBUTING.md) shows how to change it."
    head = ("package", "guarantee", "may import", "tests")
    return "\n\n".join((f"# Packages of the worker\n\n{MADE}", link, _table(head, rows))) + "\n"


def _bounds(path: Path) -> Iterator[tuple[str, float, str]]:
    """Yield each number that the module declares with a text below it."""
    module = importlib.import_module(f"drawdown_client.{path.stem}")
    for node, below in pairwise(ast.parse(path.read_text(encoding="utf-8")).body):
        name = node.target.id if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else "_"
        if not name.startswith("_") and isinstance(below, ast.Expr) and isinstance(getattr(module, name), int | float):
            yield name, getattr(module, name), str(ast.literal_eval(below.value))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in which no cell ends early: GitHub splits a row at each bare `|`, in code, too."""
    lines = [head, ["---"] * len(head), *([re.sub(BARE_BAR, r"\|", cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "\\<").replace("*", "\\*")


TIMES: Final = {"days": 86_400, "hours": 3_600, "minutes": 60}
UNITS: Final = {"BYTES": " bytes", "CHARS": " characters", "LINES": " lines", "DAYS": " days", "S": " a second"}
"""How a limit is written, by the end of its constant's name."""
PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "reference/settings.md": settings,
    "codes.md": codes,
    "reference/cli.md": commands,
    "reference/metrics.md": metrics,
    "reference/findings.md": findings,
    "reference/http.md": http,
    "reference/client.md": client,
    "reference/packages.md": packages,
    "../ops/bounds.md": limits,
}


if __name__ == "__main__":
    for page, text in PAGES.items():
        (DOCS / page).parent.mkdir(exist_ok=True)
        (DOCS / page).write_text(text(), encoding="utf-8")
