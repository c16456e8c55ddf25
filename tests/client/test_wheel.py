"""The client as others install it: a wheel with its modules and types, and nothing of the server."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

CLIENT = Path(__file__).resolve().parents[2] / "client"


def test_client_wheel_contains_only_modules_and_types(tmp_path: Path) -> None:
    source = shutil.copytree(CLIENT, tmp_path / "client", ignore=shutil.ignore_patterns("build", "*.egg-info"))
    (tmp_path / "wheels").mkdir()
    build = "from setuptools.build_meta import build_wheel; build_wheel('../wheels')"  # what pip calls
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "wheels").glob("drawdown_client-*.whl")
    with zipfile.ZipFile(wheel) as found:
        names = {name for name in found.namelist() if ".dist-info/" not in name}
        (metadata,) = (found.read(name).decode() for name in found.namelist() if name.endswith("/METADATA"))
    package = CLIENT / "drawdown_client"
    wanted = {f"drawdown_client/{path.name}" for path in package.glob("*.py")} | {"drawdown_client/py.typed"}
    assert names == wanted
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert [line.split()[1].split("<")[0].split(">")[0] for line in needed] == ["httpx", "tenacity"]
