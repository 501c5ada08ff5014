"""Peers: a test marked `peer("program")` needs that program, or file."""

import os
import shutil
from pathlib import Path

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip by the program's name where it is missing; fail where EMU_REQUIRE_PEERS=1."""
    for marker in item.iter_markers("peer"):
        for program in marker.args:
            if shutil.which(program) is not None or Path(program).is_file():
                continue
            if os.environ.get("EMU_REQUIRE_PEERS") == "1":
                pytest.fail(f"{program} is missing, and EMU_REQUIRE_PEERS=1", pytrace=False)
            pytest.skip(f"{program} is missing")
