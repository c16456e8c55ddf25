"""`python -m tests.style`: how the project's English reads, as counts for each 1,000 words; see CONTRIBUTING.

`python -m tests.style --message FILE` checks a commit message: the hook of `.pre-commit-config.yaml`.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import yaml
from typer.main import get_command

from drawdown.cli.main import app
from drawdown.cli.tree import walk
from drawdown.server.api.codes import CALLS, ITEMS
from tests import settings_table

ROOT: Final = Path(__file__).resolve().parents[1]
LOG: Final = ROOT / "docs" / "history.md"
"""The log of the development keeps the words of its time."""
MADE: Final = "This page is generated from the code"
"""In each page that `make docs` writes whole."""
MARKERS: Final = {
    "what": r"what",
    "tell, told, say, said": r"tell|tells|told|say|says|said",
    "nobody, nothing, none": r"nobody|nothing|none",
    "if, when": r"if|when",
    "you, your": r"you|your",
    "must, should": r"must|should",
}
AVOIDED: Final = (
    "told of", "asked of", "is said", "by now", "over there", "goes on", "anew", "without a word", "whatever became of",
    "comes to", "whoever", "whom", "whose", "mend", "mended", "mends", "thousand million",
)  # fmt: skip
NEGATED: Final = re.compile(r"(?<!there )\b(?:is|are|was|were) (?:no(?! longer)|none|nothing|nobody)\b")
"""A noun that is negated, where the verb should be: "x is no y" for "x is not a y"."""
NO_NAMES: Final = re.compile(
    "again|asked|careful|dark|done|elsewhere|found|given|gone|held|judged|kept|known|later|left|lines|lost|made|money|"
    "owed|paid|recall|remember|said|seen|seldom|sent|shown|straight|taken|together|told|turns|wanted"
)
"""Words that name no function, method or class alone: none shows what it returns or does."""
NOUNS: Final = {"lines", "money", "turns"}
"""Words of NO_NAMES that name a field well."""
WORD: Final = re.compile(r"[A-Za-z][A-Za-z'-]*")
SENTENCE_END: Final = re.compile(r"\n\s*\n|\n\s*(?:[-*]|\d+\.)\s|\n?\s*\|\s*|\n#+ |(?<=[.!?])\s")
LONGEST: Final = 25
"""Words of a sentence in the documents; longer ones are counted."""
CODE: Final = ("cli", "server", "worker", "providers", "guard", "ledger", "events", "schema", "client")
"""The folders of what is shipped."""
MOST_SUBJECT: Final = 72
MOST_SUMMARY: Final = 60
"""Characters of the first line of a command's help."""
NO_BEGINNINGS: Final = re.compile(
    r"(?:what|who|whom|whose|whoever|whether|which|how|when|where|why|only|also|with|of|or|for whom|say|have|let)\b",
    re.IGNORECASE,
)
"""Words that begin no help of a command or option: it is an imperative summary, or a noun phrase."""
MOST_FIRST_LINE: Final = 80
"""Characters of the first line of a docstring."""
MOST_TEST_NAME: Final = 70
"""Characters of a test's name: `test_<subject>_<condition>_<result>`."""
SUBJECT: Final = re.compile(r"[a-z][a-z0-9 ,./_-]*: \S.*[^.]")


def documents() -> Iterator[tuple[str, str]]:
    """Each page that is written by hand, without its code and without the table of settings."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "ops").rglob("*.md")]
    settings = settings_table.table()
    for page in sorted(set(pages) - {LOG}):
        whole = page.read_text(encoding="utf-8")
        by_hand = "" if MADE in whole else whole.replace(settings, "")
        text = re.sub(r"```.*?```", "", by_hand, flags=re.DOTALL)
        yield page.relative_to(ROOT).as_posix(), re.sub(r"`[^`]*`", "", text)


def helps() -> Iterator[tuple[str, str]]:
    """The help of each command and option, each paragraph on one line."""
    for path, command in walk(get_command(app)):
        whole = re.sub(r"(?<=\S)\n(?=\S)", " ", command.help or "")
        texts = [whole, *(str(getattr(one, "help", "") or "") for one in command.params)]
        yield "drawdown " + " ".join(path), "\n".join(texts)


def help_faults(texts: Iterator[tuple[str, str]]) -> list[tuple[str, str]]:
    """The summaries that are too long, and the texts that begin with a word of NO_BEGINNINGS; each with its place.

    A text is the help of a command and of its options, a line for each, as `helps` returns it.
    """
    faults_: list[tuple[str, str]] = []
    for place, text in texts:
        lines = text.splitlines()
        faults_ += [(place, line) for line in lines[:1] if len(line) > MOST_SUMMARY]
        faults_ += [(place, line) for line in lines if NO_BEGINNINGS.match(line)]
    return faults_


def metrics() -> Iterator[tuple[str, str]]:
    """The HELP of each metric, from the page that is generated of them."""
    for line in (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| `drawdown_"):
            yield line.split("`")[1], line.split("|")[4]


def alerts() -> Iterator[tuple[str, str]]:
    """The summary and description of each alert."""
    whole = yaml.safe_load((ROOT / "ops" / "deploy" / "prometheus" / "alerts.yaml").read_text(encoding="utf-8"))
    for rule in (rule for group in whole["groups"] for rule in group["rules"]):
        texts = [text for name, text in rule["annotations"].items() if name in ("summary", "description")]
        yield rule["alert"], "\n".join(texts)


def codes() -> Iterator[tuple[str, str]]:
    """The meaning of each code of the HTTP API."""
    yield from ((name, code.meaning) for name, code in CALLS.items())
    yield from ((item.code, item.meaning) for item in ITEMS)


@dataclass(frozen=True)
class Module:
    """The texts of a module of the shipped code, and its names that must be avoided."""

    place: str
    messages: Sequence[str]
    docstrings: Sequence[str]
    long_first_lines: Sequence[str]
    names: Sequence[str]
    fields: Sequence[str]


@cache
def modules() -> Sequence[Module]:
    """Each module of the shipped code. It is parsed once: its tree takes more time and memory than all of its texts."""
    paths = (path for folder in CODE for path in sorted((ROOT / folder).rglob("*.py")))
    return [read_module(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in paths]


def read_module(place: str, source: str) -> Module:
    """The texts and names of one module."""
    nodes = list(ast.walk(ast.parse(source)))
    raised = [
        [part.value for part in ast.walk(node) if _is_text(part)]  # type: ignore[attr-defined]
        for node in nodes if isinstance(node, ast.Raise)
    ]  # fmt: skip
    texts = [node.value.value for node in nodes if isinstance(node, ast.Expr) and _is_text(node.value)]  # type: ignore[attr-defined]
    names, fields = list(_names_to_avoid(place, nodes)), list(_fields_to_avoid(place, nodes))
    return Module(place, [" ".join(one) for one in raised], texts, list(_long_first_lines(place, nodes)), names, fields)


def messages() -> Iterator[tuple[str, str]]:
    """The text of each error that the shipped code raises."""
    yield from ((module.place, text) for module in modules() for text in module.messages)


def docstrings() -> Iterator[tuple[str, str]]:
    """Each docstring of the shipped code, those of constants and fields included."""
    yield from ((module.place, text) for module in modules() for text in module.docstrings)


def statements() -> Iterator[tuple[str, str]]:
    """The comments of each file of SQL."""
    for path in (path for folder in CODE for path in sorted((ROOT / folder).rglob("*.sql"))):
        lines = path.read_text(encoding="utf-8").splitlines()
        comments = (line.strip("- ") for line in lines if line.startswith("--") and not line.startswith("-- name:"))
        yield path.relative_to(ROOT).as_posix(), "\n".join(comments)


def _long_first_lines(place: str, nodes: Sequence[ast.AST]) -> Iterator[str]:
    """Yield an error text for each docstring with a first line of more than MOST_FIRST_LINE characters."""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for owner in (node for node in nodes if isinstance(node, owners)):
        if len(first := (ast.get_docstring(owner) or "").split("\n")[0]) > MOST_FIRST_LINE:
            yield f"{place}:{owner.body[0].lineno}: first line of {len(first)} characters, at most {MOST_FIRST_LINE}"


def _names_to_avoid(place: str, nodes: Sequence[ast.AST]) -> Iterator[str]:
    """The functions, methods and classes whose whole name is a word of NO_NAMES."""
    named = (n for n in nodes if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)))
    for name in (node.name for node in named):
        if NO_NAMES.fullmatch(name.strip("_").lower()):
            yield f"{place}: {name}"


def _fields_to_avoid(place: str, nodes: Sequence[ast.AST]) -> Iterator[str]:
    """The annotated fields of classes whose whole name is a participle."""
    for owner in (node for node in nodes if isinstance(node, ast.ClassDef)):
        named = (n.target.id for n in owner.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name))
        for name in named:
            if NO_NAMES.fullmatch(plain := name.strip("_").lower()) and plain not in NOUNS:
                yield f"{place}: {owner.name}.{name}"


def tests() -> Iterator[tuple[str, str]]:
    """The name of each test, with its place."""
    for path in (path for folder in ("tests", "client") for path in sorted((ROOT / folder).rglob("*.py"))):
        if b"def test_" in (text := path.read_bytes()):
            nodes = (n for n in ast.walk(ast.parse(text)) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef)))
            place = path.relative_to(ROOT).as_posix()
            yield from ((place, node.name) for node in nodes if node.name.startswith("test_"))


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


SURFACES: Final[dict[str, Callable[[], Iterator[tuple[str, str]]]]] = {
    "documents": documents,
    "help": helps,
    "metrics": metrics,
    "alerts": alerts,
    "codes": codes,
    "messages": messages,
    "docstrings": docstrings,
    "statements": statements,
}
"""What people read of the program, each as pairs of a place and its text."""


def words(texts: Iterator[tuple[str, str]]) -> int:
    return len(WORD.findall("\n".join(text for _, text in texts)))


def long_sentences(texts: Iterator[tuple[str, str]]) -> list[tuple[str, str]]:
    """The sentences of more than LONGEST words, with where each is. Cells of tables and items of lists end one."""
    found_: list[tuple[str, str]] = []
    for name, text in texts:
        parts = (" ".join(part.split()) for part in SENTENCE_END.split(text))
        found_ += [(name, part) for part in parts if len(WORD.findall(part)) > LONGEST]
    return found_


def found(text: str, pattern: str) -> int:
    return len(re.findall(rf"\b(?:{pattern})\b", text, flags=re.IGNORECASE))


def avoided(texts: Iterator[tuple[str, str]]) -> dict[str, int]:
    """How often each word that must not be used is used, where it is."""
    whole = "\n".join(text for _, text in texts)
    counts = {word: found(whole, re.escape(word)) for word in AVOIDED}
    return {word: count for word, count in counts.items() if count}


def negated(texts: Iterator[tuple[str, str]]) -> list[tuple[str, str]]:
    """The places where NEGATED is found, with the words around it."""
    return [
        (place, text[max(0, match.start() - 40) : match.end() + 40])
        for place, text in texts
        for match in NEGATED.finditer(text)
    ]


def faults(message: str) -> list[str]:
    """Why a commit message is refused; nothing for one that is right."""
    kept = [line for line in message.splitlines() if not line.startswith("#")]
    subject = kept[0] if kept else ""
    if subject.startswith(("Merge ", "Revert ")):
        return []
    wrong = []
    if len(subject) > MOST_SUBJECT:
        wrong.append(f"the subject has {len(subject)} characters: write at most {MOST_SUBJECT}")
    if not SUBJECT.fullmatch(subject):
        wrong.append("the subject must be `<area>: <imperative>`, without a period at its end")
    if len(kept) > 1 and kept[1].strip():
        wrong.append("the second line must be empty: write the reason below it")
    return wrong


def report() -> Iterator[str]:
    """The counts, a line each."""
    text = "\n".join(text for _, text in documents())
    count = words(documents())
    yield f"{count:,} words of documents"
    for name, pattern in MARKERS.items():
        yield f"{name:24} {1_000 * found(text, pattern) / count:6.1f} for each 1,000"
    yield f"sentences of more than {LONGEST} words in documents: {len(long_sentences(documents())):,}"
    for name, texts in SURFACES.items():
        counts = avoided(texts())
        yield f"words to avoid in {name}: {sum(counts.values()):,} ({', '.join(f'{w} {n}' for w, n in counts.items())})"
    long = sum(len(module.long_first_lines) for module in modules())
    yield f"docstrings with a first line of more than {MOST_FIRST_LINE} characters: {long:,}"
    yield f"names to avoid in the code: {sum(len(module.names) for module in modules()):,}"
    yield f"fields to rename in the code: {sum(len(module.fields) for module in modules()):,}"
    yield f"names of tests that are too long: {sum(len(name) > MOST_TEST_NAME for _, name in tests()):,}"


def main(arguments: list[str]) -> int:
    """Returns the exit status."""
    if arguments[:1] == ["--message"]:
        wrong = faults(Path(arguments[1]).read_text(encoding="utf-8"))
        print(*(f"commit message refused: {one}" for one in wrong), sep="\n")
        return int(bool(wrong))
    print(*report(), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
