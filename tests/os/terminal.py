"""One `emu run` on a terminal of its own: what a person at it sees and types."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence

import pyte

LIMIT_S = 120.0
COLUMNS, ROWS = 100, 30


class Terminal:
    """`emu run WORDS` with a terminal as standard input, output and error.

    `log` is all that was written to the terminal, as text; `display` the lines that it shows, by an
    independent interpreter of the sequences.
    """

    def __init__(
        self, words: Sequence[str], *, columns: int = COLUMNS, rows: int = ROWS, kind: str = "xterm-256color"
    ) -> None:
        self.master, self.slave = pty.openpty()
        self.screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self.screen)
        self.log = ""
        self._set_size(columns, rows)
        self.before = termios.tcgetattr(self.slave)
        environment: Mapping[str, str] = {**os.environ, "TERM": kind, "PYTHONUTF8": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START, *words],
            stdin=self.slave, stdout=self.slave, stderr=self.slave,
            start_new_session=True, env=environment,
        )  # fmt: skip

    def _set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, columns: int, rows: int) -> None:
        """As a window manager does it; the process group hears of it."""
        self.screen.resize(rows, columns)
        self._set_size(columns, rows)

    def type(self, text: str | bytes) -> None:
        """Keys."""
        os.write(self.master, text.encode() if isinstance(text, str) else text)

    def wait(self, until: Callable[[], bool], what: str) -> None:
        """Read until `until()`; fails with what is shown."""
        deadline = time.monotonic() + LIMIT_S
        while not until():
            left = deadline - time.monotonic()
            assert left > 0, f"no {what}: {self.shown()}\n{self.log[-2000:]}"
            if select.select([self.master], [], [], left)[0]:
                self._read()
            assert self.process.poll() is None or self._pending() or until(), (
                f"ended with {self.process.returncode} before {what}: {self.shown()}\n{self.log[-2000:]}"
            )

    def _pending(self) -> bool:
        return bool(select.select([self.master], [], [], 0)[0])

    def _read(self) -> None:
        data = os.read(self.master, 65536)
        self.log += data.decode(errors="replace")
        self._stream.feed(data)

    def shown(self) -> str:
        """The lines on the terminal."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    def expect(self, text: str) -> None:
        """Wait until the terminal shows it."""
        self.wait(lambda: text in self.shown(), repr(text))

    def expect_log(self, text: str, since: int = 0) -> int:
        """Wait until it was written, after position `since` of `log`; return where it ends."""
        self.wait(lambda: text in self.log[since:], repr(text))
        return self.log.index(text, since) + len(text)

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        self.process.send_signal(number)

    def finish(self) -> int:
        """Wait for the end; the terminal must be as it was. Returns the exit status."""
        deadline = time.monotonic() + LIMIT_S
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.shown()
            if select.select([self.master], [], [], 0.05)[0]:
                self._read()
        while self._pending():
            self._read()
        assert termios.tcgetattr(self.slave) == self.before
        return self.process.returncode

    def close(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


_START = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # as a login shell's: Ctrl-C and window sizes come by signal
from emu.cli.main import main
sys.exit(main(["run", *sys.argv[1:]]))
"""
