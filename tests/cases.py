"""One test that walks a table: a case costs a call, where an item of pytest costs milliseconds in each process.

Guarantee: each case is run, whichever failed before it. What failed is raised together, and each names its case. A case
has a folder and patches of its own, and reads the output of no other.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Final

import pytest

PATCHES: Final = "monkeypatch"
FOLDER: Final = "tmp_path"
OUTPUTS: Final = ("capsys", "capfd", "caplog")
SHOWN_CHARS: Final = 300
"""Of a case that failed: some are megabytes."""
_Test = Callable[..., None]


def cases(names: str | Sequence[str], given: Iterable[Any]) -> Callable[[_Test], _Test]:
    """Call the test with each case, as `pytest.mark.parametrize` would, in one test.

    Use it if the cases need no fixture, or only those of output, patches and a folder.
    """
    words = [word.strip() for word in names.split(",")] if isinstance(names, str) else list(names)
    rows = list(given)

    def made(test: _Test) -> _Test:
        @wraps(test)
        def walk(**fixtures: Any) -> None:
            failed: list[Exception] = []
            for number, case in enumerate(rows):
                values = (case,) if len(words) == 1 else tuple(case)
                try:
                    _call(test, number, fixtures, dict(zip(words, values, strict=True)))
                except Exception as error:
                    error.add_note(f"case {number}: {case!r:.{SHOWN_CHARS}}")
                    failed.append(error)
            if failed:
                raise ExceptionGroup(f"{len(failed)} of {len(rows)} cases failed", failed)

        signature = inspect.signature(test)
        left = [one for name, one in signature.parameters.items() if name not in words]
        walk.__signature__ = signature.replace(parameters=left)  # type: ignore[attr-defined]
        return walk

    return made


def _call(test: _Test, number: int, given: dict[str, Any], case: dict[str, Any]) -> None:
    own = dict(given)
    if isinstance(folder := given.get(FOLDER), Path):
        own[FOLDER] = folder / f"case-{number}"
        own[FOLDER].mkdir()
    for name in OUTPUTS:
        if isinstance(output := given.get(name), pytest.CaptureFixture):
            output.readouterr()
        elif isinstance(output, pytest.LogCaptureFixture):
            output.clear()
    with pytest.MonkeyPatch.context() as patches:
        if PATCHES in given:
            own[PATCHES] = patches
        test(**own, **case)
