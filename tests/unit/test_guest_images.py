"""The committed guest images are what their sources give, byte for byte."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "guest-images"


def test_every_image_has_its_recorded_sum() -> None:
    sums = {}
    for line in (FOLDER / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        sums[name] = digest
    assert sorted(sums) == sorted(f"built/{path.name}" for path in (FOLDER / "built").iterdir())
    for name, digest in sums.items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest, name


def test_a_rebuild_gives_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("ziglang")
    command = [sys.executable, str(FOLDER / "build.py"), "--into", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=100)
    for built in (FOLDER / "built").iterdir():
        rebuilt = next(tmp_path.rglob(built.name))
        assert rebuilt.read_bytes() == built.read_bytes(), built.name
