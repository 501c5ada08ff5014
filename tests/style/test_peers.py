"""A test that needs another program is skipped by its name, or fails where peers are required."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"


@pytest.mark.parametrize(
    ("required", "status", "text"),
    [
        ("0", 0, "no-such-program is missing\n"),
        ("1", 1, "no-such-program is missing, and EMU_REQUIRE_PEERS=1"),
    ],
)
def test_a_missing_peer(required: str, status: int, text: str, tmp_path: Path) -> None:
    shutil.copy(CONFTEST, tmp_path / "conftest.py")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = peer(program): a peer\n")
    (tmp_path / "test_it.py").write_text(
        'import pytest\n@pytest.mark.peer("no-such-program")\ndef test_it():\n    pass\n'
    )
    environment = {**os.environ, "EMU_REQUIRE_PEERS": required}
    words = [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider"]
    shown = subprocess.run(
        words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert shown.returncode == status, shown.stdout
    assert text in shown.stdout
