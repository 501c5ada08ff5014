"""A back-end process of a compared path: `emu serve`, started, waited for and ended."""

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from emu.errors import ConfigError

PATIENCE_S: Final = 20
READY: Final = b"listening on "


class Backend(NamedTuple):
    """A running one: a socket for each guest, and the file of its counters."""

    sockets: tuple[str, ...]
    counters: str


@contextlib.contextmanager
def served(kind: str, flags: Sequence[str], folder: str, guests: int = 1) -> Iterator[Backend]:
    """Run `emu serve KIND FLAGS` with its sockets in `folder`. Raises ConfigError where it does not start."""
    paths = tuple(os.path.join(folder, f"{kind}-{n}") for n in range(guests))  # noqa: PTH118 - pathlib is slow
    counters = os.path.join(folder, f"{kind}-counters")  # noqa: PTH118 - as above
    words = [sys.executable, "-m", "emu", "serve", kind, *flags, "--counters", counters]
    for path in paths:
        words += ["--socket", path]
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        _wait(process, guests)
        yield Backend(paths, counters)
    finally:
        process.terminate()
        try:
            process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _wait(process: "subprocess.Popen[bytes]", guests: int) -> None:
    """Return once it listens on every socket."""
    assert process.stdout is not None
    fd, seen = process.stdout.fileno(), b""
    deadline = time.monotonic() + PATIENCE_S
    while seen.count(READY) < guests or not seen.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            raise ConfigError("emu serve: it did not listen in time")
        if not (piece := os.read(fd, 4096)):
            assert process.stderr is not None
            said = process.stderr.read().decode(errors="replace").strip()
            raise ConfigError(f"emu serve ended at once: {said or 'without a word'}")
        seen += piece
