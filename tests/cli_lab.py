"""The command `emu` in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Mapping


def command(*words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run it to its end; `env` is added to the environment."""
    return subprocess.run(
        [sys.executable, "-m", "emu", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=os.environ | dict(env or {}),
    )
