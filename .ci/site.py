"""Stage the documentation for MkDocs: python .ci/site.py build/site-src

Guarantee: each page keeps its place, so its links hold on the site as they do in the repository. A link to a file of
the repository that is not a page becomes its path. One to a file that is not there stays, and MkDocs refuses it.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PAGES: Final = ("*.md", "docs/*.md", "docs/reference/*.md", "ops/*.md", "ops/*/*.md", "client/*.md")
PICTURES: Final = ("docs/screenshots/*",)
LEFT_OUT: Final = ("CHANGELOG-*", "docs/history/*")
LINK: Final = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def pages(root: Path) -> list[Path]:
    found = {path for pattern in PAGES for path in root.glob(pattern)}
    return sorted(path for path in found if not any(path.match(pattern) for pattern in LEFT_OUT))


def staged(text: str, page: Path, root: Path, kept: set[Path]) -> str:
    """A page's text, with links that lead to no page told as paths."""

    def shown(link: re.Match[str]) -> str:
        words, target = link[1], link[2]
        if "://" in target or target.startswith("mailto:"):
            return link[0]
        there = (page.parent / target).resolve()
        if there in kept or not there.exists():
            return link[0]
        if there.is_dir() and there / "README.md" in kept:
            return f"[{words}]({target.rstrip('/')}/README.md{link[3] or ''})"
        place = there.relative_to(root).as_posix()
        return words if words.strip("`") == place else f"{words} (`{place}`)"

    parts = re.split(r"(^```.*?^```[^\n]*$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else LINK.sub(shown, part) for part in parts)


def stage(root: Path, target: Path) -> list[Path]:
    """Write mkdocs.yml and all pages into a new folder, in place of an old one. Returns the pages."""
    shutil.rmtree(target, ignore_errors=True)
    found = pages(root)
    pictures = [path for pattern in PICTURES for path in root.glob(pattern) if path.is_file()]
    kept = {*found, *pictures}
    for path in found:
        place = target / "pages" / path.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(staged(path.read_text(encoding="utf-8"), path, root, kept), encoding="utf-8")
    for path in pictures:
        place = target / "pages" / path.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    shutil.copy(root / "mkdocs.yml", target)
    return found


if __name__ == "__main__":
    print(f"{len(stage(ROOT, Path(sys.argv[1]).resolve()))} pages")
