"""A back-end process of a compared path: `emu serve`, started, waited for and ended."""

import contextlib
import os
import select
import subprocess
import sys
import tempfile
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
def served(kind: str, flags: Sequence[str], guests: int = 1) -> Iterator[Backend]:
    """Run `emu serve KIND FLAGS` with a socket for each guest. It ends with this process at the latest.

    Raises ConfigError where it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="emu-serve-") as folder:
        backend = Backend(tuple(f"{folder}/{n}" for n in range(guests)), f"{folder}/counters")
        ours, theirs = os.pipe()
        try:
            words = [sys.executable, "-m", "emu", "serve", kind, *flags, "--counters", backend.counters]
            words += ["--while-fd", str(ours)]
            for path in backend.sockets:
                words += ["--socket", path]
            with _running(words, ours) as process:
                _wait(process, guests)
                yield backend
        finally:
            os.close(ours)
            os.close(theirs)


@contextlib.contextmanager
def _running(words: Sequence[str], inherited: int) -> "Iterator[subprocess.Popen[bytes]]":
    """The process, ended at the end."""
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(inherited,),
        process_group=0,  # the terminal's Ctrl-C is for us, who end it
    )
    try:
        yield process
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
