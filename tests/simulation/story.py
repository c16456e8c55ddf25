"""The shortened trace of a run that failed: what has to do with the first breach, and how the run ended.

Guarantee: at most `MOST` lines, each short enough to be read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from tests.simulation.oracle import WINDOW
from tests.simulation.world import START

MOST: Final = 60
ENDING: Final = 10
WIDTH: Final = 240
_ORG: Final = re.compile(r"\b(?:org|stranger)\d[-a-z]*")
_MOMENT: Final = re.compile(r"\b1[67]\d{11}\b")
_SAMPLE: Final = re.compile(r"(\w+):([-\w]+)@(-?\d+)s=\d+")


def story(breaches: Sequence[str], lines: Iterable[str]) -> list[str]:
    """The lines of a trace that name the organisation and window of the first breach (the organisation alone, where it
    names no window), and the last ones."""
    every = list(lines)
    org, moment = _ORG.search(breaches[0]), _MOMENT.search(breaches[0])
    window = None if moment is None else int(moment[0]) // WINDOW * WINDOW
    found = [] if org is None else [told for line in every[:-ENDING] if (told := _about(line, org[0], window))]
    if len(found) > MOST - ENDING:
        half = (MOST - ENDING - 1) // 2
        found = [*found[:half], f"... {len(found) - 2 * half} more about {org[0] if org else ''} ...", *found[-half:]]
    return [_cut(line) for line in (*found, *every[len(found) - MOST if not found else -ENDING :])]


def _about(line: str, org: str, window: int | None) -> str | None:
    """What a line says of it, or None."""
    head, _, rest = line[13:].strip().partition(" ")
    if rest.strip().startswith("inserts s"):
        made = [one for one in _SAMPLE.finditer(rest) if one[2] == org and _lies_in(int(one[3]), window)]
        return f"{line[:20]} inserts {' '.join(one[0] for one in made)}" if made else None
    if window is None:
        return line if re.search(rf"\b{org}\b", line) else None
    key = f"usage:{org}:{window}:"
    if key in line:
        keys = [part for part in line.split() if key in part]
        return f"{line[:20]} {' '.join(rest.split()[:2])} {' '.join(keys)} -> {line.partition(' -> ')[2]}"
    decided = head == "world" and re.search(rf"\b{org}\b", line) and "box" not in line
    return line if decided or (str(window) in line and f"'{org}'" in line) else None


def _lies_in(second: int, window: int | None) -> bool:
    return window is None or (START + second * 1000) // WINDOW * WINDOW == window


def _cut(line: str) -> str:
    short = re.sub(r"(?:long-){3,}", "long-..", line)
    return short if len(short) <= WIDTH else f"{short[:WIDTH]}..."
