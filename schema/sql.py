"""The only source of SQL.

SQL is in named statements with a comment, in `.sql` files next to the code that runs them.

A file is a list of queries. `-- name: due_cells` begins a query, and `-- name: skip_locked [postgresql]` begins a query
for that database alone. Comments and blank lines are removed. A query can contain:

- `{other}`: another query of the same file or of `words.sql`, or the query that the caller chose for this slot
  (`slot="other"`; `slot=""` inserts an empty text). Python declares five more queries. `{open_states}` lists the open
  states of a push (`push_states.py`). `{mapping_reasons}` lists the reasons of pending usage that a mapping fixes
  (`pending.py`). `{sample_fields}` lists the columns of a sample. `{sample_marks}` has a `?` for each column, and
  `{sample_arrays}` an array of PostgreSQL.
- `:value`: a bound value. After `IN`, `:values` is a list of strings or integers, bound as one value.
- `CAST(:texts AS text[])`: a list, as one value of PostgreSQL.
- `{rows :rows (org_id text, window_ms bigint)}`: a list of mappings, bound as one value, as a SELECT of rows.
- several statements. A `;` at the end of a line ends a statement. They run in order.

`read_together` joins several reading queries into one statement. Together they need one round trip, and read the
database at one moment.

Guarantee: values are bound, never pasted. A missing value or query, and an unused slot, raises an error that names the
file and the query. Each text is assembled once for each process. Bound rows on the inner side of a join are in a `WITH
… AS MATERIALIZED`, or have a LIMIT. Otherwise SQLite would parse their JSON again for each outer row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, Final, TypeAlias

import sqlalchemy as sa

from drawdown.schema.pending import REASONS
from drawdown.schema.push_states import OPEN_STORED, sql_list
from drawdown.schema.tables.columns import sample_columns

Values: TypeAlias = Mapping[str, object]
NOTHING: Final[Values] = MappingProxyType({})

_HEAD: Final = re.compile(r"^-- name: ([a-z_0-9]+)(?: \[(postgresql|sqlite)\])?$", re.MULTILINE)
_WORDS: Final = re.compile(r"'(?:[^']|'')*'|--[^\n]*")
_SLOT: Final = re.compile(r"\{([a-z_0-9]+)\}")
_ROWS: Final = re.compile(r"\{rows :(\w+) \(([^)]*)\)\}")
_BIND: Final = re.compile(r"(?<![:\w\\]):(\w+)(?![:\w])")
_ARRAY: Final = re.compile(r"CAST\(:(\w+) AS \w+\[\]\)")
_CONTROL: Final = re.compile(r"\\[bfnrtu]")
_LIST: Final = re.compile(r"\b(NOT )?IN :(\w+)")


class SqlError(Exception):
    """Raised if a statement cannot be assembled, or run as requested.

    The cause is a mistake in this program.
    """


class _Statement:
    """One statement of one database, ready to run."""

    def __init__(self, text: str, dialect: str, rows: frozenset[str]) -> None:
        names = frozenset(_BIND.findall(text))
        self.rows = rows & names
        self.lists = frozenset(name for _, name in _LIST.findall(text))
        self.arrays = frozenset(_ARRAY.findall(text))
        self.names = names
        self.is_array = dialect == "postgresql"
        self.as_json = "CAST(json_agg(x) AS TEXT)" if self.is_array else ""
        self.clause = sa.text(_LIST.sub(lambda found: _list_sql(dialect, found[2], found[1] or ""), text))

    def bound(self, values: Values) -> dict[str, object]:
        """Return only the values that the statement names. Errors: KeyError."""
        found = {name: values[name] for name in self.names}
        for name in self.rows:
            found[name] = json.dumps(found[name])
        for name in self.arrays:
            found[name] = _array(found[name])
        for name in self.lists:
            value = found[name]
            assert isinstance(value, Sequence) and not isinstance(value, str), "expected a list for IN"
            found[name] = _array(list(value)) if self.is_array else json.dumps(list(value))
        return found

    def learn_columns(self, connection: sa.Connection, bound: dict[str, object]) -> None:
        """Learn the statement's columns, once for each process.

        On SQLite, `json_object` needs their names.
        """
        if not self.as_json:
            clause = sa.text(f"SELECT * FROM ({self.clause.text}) x LIMIT 0")
            names = connection.execute(clause, bound).keys()
            fields = ", ".join(f"'{name}', x.\"{name}\"" for name in names)
            self.as_json = f"json_group_array(json_object({fields}))"


class Queries:
    """The queries of one `.sql` file.

    `pieces` maps (name, database or "") to text. The cache is bounded, because a slot with an unknown name fails before
    its text is cached.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ready: dict[tuple[object, ...], tuple[_Statement, ...]] = {}

    @cached_property
    def pieces(self) -> dict[tuple[str, str], str]:
        """Return the queries of the file. Errors: SqlError.

        The file is read at the first use, because a command needs only a few files.
        """
        found = _pieces(self.path)
        if twice := {name for name, _ in found} & {name for name, _ in _words()}:
            raise SqlError(f"{self.path}: words.sql or sql.py also has {', '.join(sorted(twice))}. Rename the query")
        return found

    def run(
        self, connection: sa.Connection, name: str, values: Values | Sequence[Values] = NOTHING, /, **slots: str
    ) -> sa.CursorResult[Any]:
        """Run a query with these values, or once for each item of a list.

        Return the result of the last statement.

        Errors: SqlError, and those of the database.
        """
        statements = self._statements(connection.dialect.name, name, slots)
        each = [values] if isinstance(values, Mapping) else values
        for statement in statements:
            bound = [self._bound(name, statement, row) for row in each]
            answer = connection.execute(statement.clause, bound[0] if isinstance(values, Mapping) else bound)
        return answer

    def part(self, name: str, values: Values = NOTHING, /, **slots: str) -> Part:
        """Return a reading query for `read_together`."""
        return Part(self, name, values, tuple(slots.items()))

    def _bound(self, name: str, statement: _Statement, values: Values) -> dict[str, object]:
        try:
            return statement.bound(values)
        except KeyError as missing:
            raise SqlError(f"{self.path}: {name}: missing value for :{missing.args[0]}. Pass the value") from None

    def text(self, name: str, dialect: str, /, **slots: str) -> str:
        """Return a query as that database receives it, to show or explain it."""
        return "; ".join(statement.clause.text for statement in self._statements(dialect, name, slots))

    def reading(self, dialect: str, part: Part) -> tuple[_Statement, dict[str, object]]:
        """Return the statement of a part, and its bound values.

        Errors: SqlError for more than one statement.
        """
        found = self._statements(dialect, part.name, dict(part.slots))
        if len(found) > 1:
            raise SqlError(f"{self.path}: {part.name} has more than one statement. Split the query")
        return found[0], self._bound(part.name, found[0], part.values)

    def put(self, name: str, text: str, dialect: str = "") -> None:
        """Replace a query, so that tests can plant a mistake."""
        self.pieces[name, dialect] = text
        self._ready.clear()

    def _statements(self, dialect: str, name: str, slots: Mapping[str, str]) -> tuple[_Statement, ...]:
        asked = (dialect, name, *sorted(slots.items()))
        if asked not in self._ready:
            rows: set[str] = set()
            left = set(slots)
            text = self._whole(name, dialect, slots, rows, left, ())
            if left:
                raise SqlError(
                    f"{self.path}: {name} does not have the slot {', '.join(sorted(left))}. Add it to the query"
                )
            parts = [part.strip() for part in re.split(r";\s*\n", text)]
            ready = tuple(_Statement(part.rstrip(";"), dialect, frozenset(rows)) for part in parts if part)
            if not ready:
                raise SqlError(f"{self.path}: {name} does not have a statement for {dialect}. Add one statement")
            self._ready[asked] = ready
        return self._ready[asked]

    def _whole(
        self, name: str, dialect: str, slots: Mapping[str, str], rows: set[str], left: set[str], within: tuple[str, ...]
    ) -> str:
        """Return a query with all of its slots filled.

        It adds the names of values that are rows to `rows`, and removes used slots from `left`.
        """
        places = ((pieces, kind) for pieces in (self.pieces, _words()) for kind in (dialect, ""))
        text = next((pieces[name, kind] for pieces, kind in places if (name, kind) in pieces), None)
        if text is None or name in within:
            why = "contains itself" if name in within else f"does not exist for {dialect}"
            raise SqlError(f"{self.path}: {{{name}}} {why} (used by {' > '.join(within) or 'the caller'})")

        def piece(found: re.Match[str]) -> str:
            left.discard(found[1])
            other = slots.get(found[1], found[1])
            return self._whole(other, dialect, slots, rows, left, (*within, name)) if other else ""

        def shape(found: re.Match[str]) -> str:
            rows.add(found[1])
            return _rows_sql(dialect, f":{found[1]}", found[2])

        return _SLOT.sub(piece, _ROWS.sub(shape, text))


@dataclass(frozen=True)
class Part:
    """A reading query for `read_together`, with its values and its slots."""

    queries: Queries
    name: str
    values: Values
    slots: tuple[tuple[str, str], ...]


def read_together(connection: sa.Connection, /, **parts: Part) -> dict[str, list[Any]]:
    """Return the rows of each part, in its order, all read by one statement.

    A row has its columns as attributes (`vars` returns them by name). A number that is not an integer is a Decimal.
    Errors: SqlError, and those of the database.
    """
    chosen = [part.queries.reading(connection.dialect.name, part) for part in parts.values()]
    bound: dict[str, object] = {}
    for number, (statement, values) in enumerate(chosen):
        statement.learn_columns(connection, values)
        bound |= {f"p{number}_{name}": value for name, value in values.items()}
    row = connection.execute(_joined(tuple(statement for statement, _ in chosen)), bound).one()
    return {
        name: [SimpleNamespace(**one) for one in json.loads(text or "[]", parse_float=Decimal)]
        for name, text in zip(parts, row, strict=True)
    }


@cache
def _joined(statements: tuple[_Statement, ...]) -> sa.TextClause:
    """Return one statement with a column for each of these statements.

    Each column has the rows of its statement as JSON.
    """
    columns = []
    for number, statement in enumerate(statements):
        text = _BIND.sub(lambda found: f":p{number}_{found[1]}", statement.clause.text)  # noqa: B023, done at once
        columns.append(f"(SELECT {statement.as_json} FROM ({text}) x)")
    return sa.text(f"SELECT {', '.join(columns)}")


def _array(values: object) -> object:
    """Return a list in PostgreSQL's notation of arrays.

    JSON has the same notation except for control characters. A list with a control character goes to the driver. This
    takes ten times as long, because the driver converts each value.
    """
    assert isinstance(values, list), "expected a list"
    text = json.dumps(values, ensure_ascii=False)
    return values if _CONTROL.search(text.replace("\\\\", "")) else f"{{{text[1:-1]}}}"


def _rows_sql(dialect: str, value: str, columns: str) -> str:
    """Return a SELECT that turns a bound JSON array of objects into rows.

    `columns`: `org_id text, window_ms bigint`.
    """
    if dialect == "postgresql":
        return f"(SELECT * FROM jsonb_to_recordset(CAST({value} AS jsonb)) AS r({columns}))"
    names = [column.split()[0] for column in columns.split(",")]
    # Do not use a WITH, although it takes half the time, because SQLite does not index the rows of a WITH.
    fields = ", ".join(f"json_extract(value, '$.{name}') AS {name}" for name in names)
    return f"(SELECT {fields} FROM json_each({value}))"


def _list_sql(dialect: str, name: str, negated: str) -> str:
    """Return a comparison with a list that is one value.

    The text is the same for any length, so it is parsed once.
    """
    if dialect == "postgresql":
        return f"<> ALL(:{name})" if negated else f"= ANY(:{name})"
    return f"{negated}IN (SELECT value FROM json_each(:{name}))"


@cache
def queries(file: str) -> Queries:
    """Return the queries of a module.

    They are in `status.sql` next to `status.py`, or else in `queries.sql` of its package.
    """
    own = Path(file).with_suffix(".sql")
    return _file(own if own.exists() else own.with_name("queries.sql"))


@cache
def _words() -> dict[tuple[str, str], str]:
    """Return the queries of `words.sql`, and those that Python declares.

    Python declares the open states, the reasons that lack a mapping, and the columns of a sample.
    """
    columns = sample_columns()
    arrays = (f"CAST(:{column.name} AS {str(column.type).lower()}[])" for column in columns)
    return _pieces(Path(__file__).with_name("words.sql")) | {
        ("open_states", ""): sql_list(OPEN_STORED),
        ("mapping_reasons", ""): sql_list(name for name, reason in REASONS.items() if reason.lacks_mapping),
        ("sample_fields", ""): ", ".join(column.name for column in columns),
        ("sample_marks", ""): ", ".join("?" for _ in columns),
        ("sample_arrays", ""): ", ".join(arrays),
    }


@cache
def _file(path: Path) -> Queries:
    return Queries(path)


def _pieces(path: Path) -> dict[tuple[str, str], str]:
    text = path.read_text(encoding="utf-8")
    heads = list(_HEAD.finditer(text))
    if not heads:
        raise SqlError(f"{path}: missing query: expected a line such as -- name: …")
    ends = [*(head.start() for head in heads[1:]), len(text)]
    found: dict[tuple[str, str], str] = {}
    for head, end in zip(heads, ends, strict=True):
        key = (head[1], head[2] or "")
        if key in found:
            raise SqlError(f"{path}: {key[0]} occurs twice. Rename one of the queries")
        found[key] = "\n".join(
            line.rstrip() for line in _WORDS.sub(_literal, text[head.end() : end]).splitlines() if line.strip()
        )
    return found


def _literal(found: re.Match[str]) -> str:
    """Remove a comment, or escape the colons in a string.

    SQLAlchemy would otherwise take such a colon for the start of a bound name.
    """
    return "" if found[0].startswith("--") else re.sub(r":(?=\w+(?![:\w]))", r"\\:", found[0])


@contextmanager
def prepared(connection: sa.Connection) -> Iterator[None]:
    """Plan the statements of the context only once for each connection.

    Planning is most of the cost of a short query.

    Use it only for statements that name their columns and do not use temporary tables. If a pooler may be between the
    program and the database, the function does not plan in advance. The pooler may switch to another process of the
    database, which does not have the plan.
    """
    driver: Any = connection.connection.dbapi_connection
    known = connection.connection.info
    if connection.dialect.name == "postgresql" and "is_direct" not in known:
        known["is_direct"] = driver.execute("SELECT pg_backend_pid()").fetchone()[0] == driver.info.backend_pid
    if not known.get("is_direct"):
        yield
        return
    before, driver.prepare_threshold = driver.prepare_threshold, 0
    try:
        yield
    finally:
        driver.prepare_threshold = before
