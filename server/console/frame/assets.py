"""The static files: the style sheet, htmx and our own few lines of script.

Guarantee: each is reached by a path that holds its content's hash, so that a browser keeps it for a year and never
shows the new page with the old style. Nothing is loaded from elsewhere. Text is sent packed where it is asked for.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

FOLDER: Final = Path(__file__).resolve().parents[1] / "static"
ROOT: Final = "/console/static/"
TYPES: Final = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
FOR_A_YEAR: Final = "public, max-age=31536000, immutable"


@dataclass(frozen=True)
class Asset:
    """A file as it is sent."""

    path: str
    kind: str
    body: bytes
    packed: bytes


@cache
def load(folder: Path = FOLDER) -> Mapping[str, Asset]:
    """The files by their names, read and packed once a process."""
    return {file.name: _asset(file) for file in sorted(folder.iterdir()) if file.suffix in TYPES}


def _asset(file: Path) -> Asset:
    body = file.read_bytes()
    path = f"{ROOT}{hashlib.sha256(body).hexdigest()[:16]}/{file.name}"
    return Asset(path, TYPES[file.suffix], body, gzip.compress(body, mtime=0))


def answer(asset: Asset, request: Request) -> Response:
    """The file, packed for whoever takes it so."""
    headers = {"cache-control": FOR_A_YEAR, "vary": "accept-encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(asset.packed, media_type=asset.kind, headers={**headers, "content-encoding": "gzip"})
    return Response(asset.body, media_type=asset.kind, headers=headers)
