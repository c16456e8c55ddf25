"""A volume that Docker named is told from one that you named, by the table of mounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from drawdown.cli.nouns import doctor
from drawdown.worker.history.witness import is_on_unnamed_volume
from tests.cases import cases

HASH = "0123456789abcdef" * 4
ROOT = "1 0 0:50 / / rw,relatime - overlay overlay rw,lowerdir=/l"
UNNAMED = f"2 1 254:1 /var/lib/docker/volumes/{HASH}/_data /var/lib/drawdown rw - ext4 /dev/vda1 rw"
NAMED = "2 1 254:1 /var/lib/docker/volumes/drawdown_state/_data /var/lib/drawdown rw - ext4 /dev/vda1 rw"
BOUND = "2 1 254:1 /srv/drawdown /var/lib/drawdown rw - ext4 /dev/vda1 rw"
WITHIN = "3 2 254:1 /srv/own /var/lib/drawdown/own rw - ext4 /dev/vda1 rw"
SPACED = f"2 1 254:1 /volumes/{HASH}/_data /var/lib/draw\\040down rw - ext4 /dev/vda1 rw"


@cases(
    ("folder", "mounts", "unnamed"),
    [
        ("/var/lib/drawdown", [ROOT, UNNAMED], True),
        ("/var/lib/drawdown/below", [UNNAMED, ROOT], True),
        ("/var/lib/draw down", [ROOT, SPACED], True),
        ("/var/lib/drawdown", [ROOT, NAMED], False),
        ("/var/lib/drawdown", [ROOT, BOUND], False),
        ("/var/lib/drawdown/own", [ROOT, UNNAMED, WITHIN], False),
        ("/var/lib/drawdown", [ROOT], False),
        ("/var/lib/drawdown-else", [ROOT, UNNAMED], False),
        ("/var/lib/drawdown", ["", "not a mount"], False),
    ],
)
def test_unnamed_docker_volume_is_found(folder: str, mounts: list[str], unnamed: bool) -> None:
    assert is_on_unnamed_volume(folder, "\n".join(mounts)) is unnamed


def test_doctor_reports_unnamed_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mountinfo"
    monkeypatch.setattr(doctor, "MOUNTS", str(mounts))
    folder = Path("/var/lib/drawdown")
    mounts.write_text(f"{ROOT}\n{NAMED}\n", encoding="utf-8")
    assert list(doctor._check_volume(folder)) == []
    mounts.write_text(f"{ROOT}\n{UNNAMED}\n", encoding="utf-8")
    (finding,) = doctor._check_volume(folder)
    assert not finding.ok and "unnamed volume" in finding.what and "-v drawdown-state:" in finding.fix
    mounts.unlink()
    assert list(doctor._check_volume(folder)) == [], "not Linux"
