"""One `emu run` in a process, its console on pipes or any other process that speaks text."""

import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

LIMIT_S = 180


class Console:
    """A process whose output is read as text while it runs."""

    def __init__(self, words: Sequence[str | Path], env: Mapping[str, str] | None = None) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        self.process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, env=env
        )
        assert self.process.stdout is not None
        self.out = self.process.stdout.fileno()
        self.text = ""

    def expect(self, words: str, since: int = 0) -> int:
        """Read until `words` have come after position `since`; return where they end."""
        deadline = time.monotonic() + LIMIT_S
        while (at := self.text.find(words, since)) < 0:
            left = max(0.0, deadline - time.monotonic())
            piece = os.read(self.out, 65536) if select.select([self.out], [], [], left)[0] else b""
            assert piece, f"{words!r} never came: {self.text[-2000:]}\n{self.said()}"
            self.text += piece.decode(errors="replace")
        return at + len(words)

    def type(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode())
        self.process.stdin.flush()

    def ask(self, command: str) -> str:
        """Have the guest's shell run a command; return what it said."""
        since = len(self.text)
        self.type(f"{command}; echo end-$((6 * 7))\n")
        end = self.expect("end-42", since)
        return self.text[since:end]

    def said(self) -> str:
        """What is on standard error, and whether the process lives."""
        self.errors.seek(0)
        return f"status {self.process.poll()}: {self.errors.read().decode(errors='replace')[-2000:]}"

    def finish(self) -> int:
        while piece := os.read(self.out, 65536):
            self.text += piece.decode(errors="replace")
        return self.process.wait(LIMIT_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.errors):
            if pipe is not None:
                pipe.close()


DISKS: dict[str, Sequence[str]] = {
    "ide": ("-drive", "file=DISK,if=ide,format=raw"),
    "virtio": ("-drive", "file=DISK,if=virtio,format=raw"),
    "iothread": (
        *("-drive", "file=DISK,if=none,id=d,format=raw", "-object", "iothread,id=io0"),
        *("-device", "virtio-blk-pci,drive=d,iothread=io0"),
    ),
    "vhost": (
        *("-drive", "file=DISK,if=none,id=d,format=raw"),
        *("-device", "virtio-blk-pci,drive=d,vhost=on"),
    ),
}
"""The flags of a disk by the path of its requests."""


def linux_flags(kernel: str, initrd: str, disk: Path, append: str, path: str = "virtio") -> list[str]:
    """Linux with its console on COM1 and a disk; for `emu run` and for QEMU."""
    words = [
        "-m",
        "256M",
        "-kernel",
        kernel,
        "-initrd",
        initrd,
        "-append",
        f"console=ttyS0 panic=-1 {append}",
    ]
    words += [word.replace("DISK", str(disk)) for word in DISKS[path]]
    return [*words, "-nic", "none", "-display", "none", "-serial", "stdio"]


class Guest(Console):
    """`emu run` of Linux, its disk on one of the paths of DISKS."""

    def __init__(
        self, kernel: str, initrd: str, disk: Path, append: str, *flags: str, path: str = "virtio"
    ) -> None:
        words = [sys.executable, "-m", "emu", "run", *linux_flags(kernel, initrd, disk, append, path)]
        super().__init__([*words, "-timeout", str(LIMIT_S), *flags])
