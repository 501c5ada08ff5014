"""The committed programs for Linux guests are what their sources give, byte for byte."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parents[1] / "os/programs"


def test_every_source_and_program_has_its_recorded_sum() -> None:
    named = dict(line.split()[::-1] for line in (PROGRAMS / "SHA256SUMS").read_text().splitlines())
    there = [*PROGRAMS.glob("*/*.[ch]"), *(PROGRAMS / "built").iterdir()]
    assert sorted(named) == sorted(str(path.relative_to(PROGRAMS)) for path in there)
    for name, digest in named.items():
        assert hashlib.sha256((PROGRAMS / name).read_bytes()).hexdigest() == digest, f"{name}: run build.py"


@pytest.mark.soak  # the compiler builds its C library first: a minute
@pytest.mark.timeout(600)
def test_a_rebuild_gives_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("ziglang")
    command = [sys.executable, str(PROGRAMS / "build.py"), "--into", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=500)
    assert (tmp_path / "SHA256SUMS").read_text() == (PROGRAMS / "SHA256SUMS").read_text()
