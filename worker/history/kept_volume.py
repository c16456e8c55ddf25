"""Whether a folder is on a container's volume without a name, by the kernel's table of mounts. Guarantee: pure."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Final

MOUNTS: Final = "/proc/self/mountinfo"
_UNNAMED: Final = re.compile(r"/volumes/[0-9a-f]{64}/_data(/|$)")
"""Docker and Podman name a volume that you did not name by 64 hexadecimal digits."""
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


def is_on_unnamed_volume(folder: str, mounts: str) -> bool:
    """Whether a folder is on such a volume, which a new container does not get. `mounts` is the text of MOUNTS."""
    deepest, its_root = "", ""
    for line in mounts.splitlines():
        parts = line.split(" ")
        if len(parts) < 5:
            continue
        root, point = (_ESCAPED.sub(lambda code: chr(int(code[1], 8)), part) for part in parts[3:5])
        if PurePosixPath(folder).is_relative_to(point) and len(point) >= len(deepest):
            deepest, its_root = point, root
    return _UNNAMED.search(its_root) is not None
