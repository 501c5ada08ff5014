"""One `emu run` in a process, its console on pipes or any other process that speaks text."""

import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

LIMIT_S = 120


class Console:
    """A process whose output is read as text while it runs."""

    def __init__(self, words: Sequence[str | Path]) -> None:
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self.process.stdout is not None
        self.out = self.process.stdout.fileno()
        self.text = ""

    def expect(self, words: str, since: int = 0) -> int:
        """Read until `words` have come after position `since`; return where they end."""
        deadline = time.monotonic() + LIMIT_S
        while (at := self.text.find(words, since)) < 0:
            assert select.select([self.out], [], [], deadline - time.monotonic())[0], self.text[-2000:]
            piece = os.read(self.out, 65536)
            assert piece, f"{words!r} never came: {self.text[-2000:]}"
            self.text += piece.decode(errors="replace")
        return at + len(words)

    def type(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode())
        self.process.stdin.flush()

    def finish(self) -> int:
        while piece := os.read(self.out, 65536):
            self.text += piece.decode(errors="replace")
        return self.process.wait(LIMIT_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Guest(Console):
    """Linux with its console on COM1 and a disk as /dev/vda."""

    def __init__(self, kernel: str, initrd: str, disk: Path, append: str, *flags: str) -> None:
        words = [sys.executable, "-m", "emu", "run", "-m", "256M", "-kernel", kernel, "-initrd", initrd]
        words += ["-append", f"console=ttyS0 panic=-1 {append}"]
        words += ["-drive", f"file={disk},if=virtio,format=raw", "-nic", "none"]
        words += ["-display", "none", "-serial", "stdio", "-timeout", str(LIMIT_S), *flags]
        super().__init__(words)
