"""Make a release of the version in pyproject.toml: build, check, list, tag. It uploads nothing.

    make release DRY_RUN=1     # all of it but the tag
    make release

Guarantee: a tag is made last, only of a clean tree, only once, only if CHANGELOG.md has a dated part of this version,
and only if pyproject.toml names the repository. The commit is built, and no other file of the folder. The links of its
README lead to the repository, because a package index shows that page alone.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]


class Refused(Exception):
    """Why there is no release. The message ends with what to do."""


def version_of(root: Path) -> str:
    return str(tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"])


def changes_of(root: Path, version: str) -> str:
    """The changelog's part of a version. Errors: Refused."""
    parts = re.split(r"^## ", (root / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    for part in parts:
        head, _, body = part.partition("\n")
        if re.match(rf"\[?{re.escape(version)}\]?(\s|$)", head) and body.strip():
            return body.strip() + "\n"
    raise Refused(f"CHANGELOG.md has no part of {version} with text. Write it under '## [{version}] - YYYY-MM-DD'")


def repository_of(root: Path) -> str | None:
    """The public address of the repository; None: pyproject.toml does not name it."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project.get("urls", {}).get("Repository", "")).rstrip("/") or None


def require_public(root: Path, version: str) -> None:
    """Insist on what strangers need, and a build alone does not. Errors: Refused."""
    if repository_of(root) is None:
        raise Refused(
            "pyproject.toml has no [project.urls] with Repository. Add Repository = 'https://HOST/OWNER/NAME'"
        )
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## \[?{re.escape(version)}\]? - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE):
        raise Refused(f"CHANGELOG.md does not date {version}. Write '## [{version}] - YYYY-MM-DD'")


def linked(page: str, root: Path, address: str) -> str:
    """Return a page whose links lead to files of the repository at an address, so that the page works anywhere."""

    def absolute(link: re.Match[str]) -> str:
        if "://" in link[1] or link[1].startswith(("#", "mailto:")):
            return link[0]
        kind = "tree" if (root / link[1].partition("#")[0]).is_dir() else "blob"
        return f"]({address.format(kind)}/{link[1]})"

    return re.sub(r"\]\(([^)\s]+)\)", absolute, page)


def require_releasable(root: Path, version: str) -> str:
    """The tag to make. Errors: Refused."""
    if _git(root, "status", "--porcelain"):
        raise Refused("the tree has files or changes that are not committed. Commit or remove them")
    tag = f"v{version}"
    if _git(root, "tag", "--list", tag):
        raise Refused(f"the tag {tag} is there already. Set another version in pyproject.toml")
    return tag


def release(root: Path, *, dry_run: bool) -> str:
    """Build into dist/, check, and tag. Errors: Refused, subprocess.CalledProcessError."""
    version = version_of(root)
    changes, tag = changes_of(root, version), require_releasable(root, version)
    if not dry_run:
        require_public(root, version)
    dist = root / "dist"
    for old in dist.glob("*"):
        old.unlink()
    with tempfile.TemporaryDirectory() as folder:
        source = _commit(root, Path(folder))
        if (address := repository_of(root)) is not None:
            readme = source / "README.md"
            page = linked(readme.read_text(encoding="utf-8"), root, f"{address}/{{}}/{tag}")
            readme.write_text(page, encoding="utf-8")
        _run(root, "-m", "build", "--no-isolation", "--outdir", str(dist), str(source))
    built = sorted(dist.glob(f"drawdown-{version}*"))
    if [path.suffix for path in built] != [".whl", ".gz"]:
        names = ", ".join(path.name for path in built) or "nothing"
        raise Refused(f"built {names}: expected a wheel and a source distribution. Check pyproject.toml")
    _run(root, "-m", "twine", "check", "--strict", *map(str, built))
    lock = root / "ops" / "deploy" / "requirements.lock"
    sbom = ["--pyproject", str(root / "pyproject.toml"), "--output-file", str(dist / "sbom.json")]
    _run(root, "-m", "cyclonedx_py", "requirements", str(lock), *sbom)
    (dist / "CHANGES.md").write_text(changes, encoding="utf-8")
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in sorted(dist.iterdir())]
    (dist / "SHA256SUMS").write_text("\n".join([*sums, ""]), encoding="utf-8")
    if dry_run:
        return f"{version} is built and checked in dist/; not tagged, not uploaded"
    _git(root, "tag", "--annotate", tag, "--file", str(dist / "CHANGES.md"), "--cleanup=whitespace")
    return f"{version} is built and checked in dist/, and tagged {tag}; nothing was uploaded"


def _commit(root: Path, folder: Path) -> Path:
    """The files of the commit, in a folder of their own."""
    packed = subprocess.run(["git", "archive", "HEAD"], cwd=root, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def _run(root: Path, *words: str) -> None:
    subprocess.run([sys.executable, *words], cwd=root, check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="do all of it but the tag")
    try:
        print(release(ROOT, dry_run=parser.parse_args().dry_run))
    except Refused as refused:
        sys.exit(f"no release: {refused}")
    except subprocess.CalledProcessError as failed:
        sys.exit(f"no release: {failed.cmd[:4]} ended with {failed.returncode}. Repair it and run make release again")
