"""`python -m tests.style`: how the project's English reads, as counts for each 1,000 words; see CONTRIBUTING.

`python -m tests.style --message FILE` checks a commit message: the hook of `.pre-commit-config.yaml`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from typer.main import get_command

from drawdown.cli.main import app
from drawdown.cli.tree import walk

ROOT: Final = Path(__file__).resolve().parents[1]
LOG: Final = ROOT / "docs" / "history.md"
"""The log of the development keeps the words of its time."""
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
MOST_SUBJECT: Final = 72
SUBJECT: Final = re.compile(r"[a-z][a-z0-9 ,./_-]*: \S.*[^.]")


def documents() -> Iterator[tuple[str, str]]:
    """Each page that is written by hand, without its code."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "ops").rglob("*.md")]
    for page in sorted(set(pages) - {LOG}):
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        yield page.relative_to(ROOT).as_posix(), re.sub(r"`[^`]*`", "", text)


def helps() -> Iterator[tuple[str, str]]:
    """The help of each command and option."""
    for path, command in walk(get_command(app)):
        texts = [command.help or "", *(str(getattr(one, "help", "") or "") for one in command.params)]
        yield "drawdown " + " ".join(path), "\n".join(texts)


def found(text: str, words: str) -> int:
    return len(re.findall(rf"\b(?:{words})\b", text, flags=re.IGNORECASE))


def avoided(texts: Iterator[tuple[str, str]]) -> dict[str, int]:
    """How often each word that must not be used is used, where it is."""
    whole = "\n".join(text for _, text in texts)
    counts = {word: found(whole, re.escape(word)) for word in AVOIDED}
    return {word: count for word, count in counts.items() if count}


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
    words = len(re.findall(r"[A-Za-z][A-Za-z'-]*", text))
    yield f"{words:,} words of documents"
    for name, pattern in MARKERS.items():
        yield f"{name:24} {1_000 * found(text, pattern) / words:6.1f} for each 1,000"
    for name, texts in (("documents", documents()), ("help", helps())):
        counts = avoided(texts)
        yield f"words to avoid in {name}: {sum(counts.values()):,} ({', '.join(f'{w} {n}' for w, n in counts.items())})"


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
