"""A client of QEMU's qtest protocol: QEMU's chips, driven register by register.

QEMU is started with its CPU and its virtual time stopped (-S), so that timers never fire and each answer
follows from the accesses alone. Lines are sent in batches: the protocol answers each with one line, in order.
"""

import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

BATCH = 256  # lines under way: their answers fit a socket's buffer
COMMAND = "qemu-system-x86_64 -machine pc -accel tcg -display none -nodefaults -S".split()


class Qtest:
    """One stopped QEMU. `folder` gets what it says; `arguments` are added to QEMU's command line."""

    def __init__(self, folder: Path, *arguments: str, command: Sequence[str] = COMMAND) -> None:
        self._log = (folder / "qtest.log").open("w+b")
        self._socket, end = socket.socketpair()
        with end:
            chardev = f"socket,id=qtest,fd={end.fileno()}"
            self._process = subprocess.Popen(
                [*command, "-chardev", chardev, "-qtest", "chardev:qtest", "-qtest-log", "none", *arguments],
                stdin=subprocess.DEVNULL,
                stderr=self._log,
                pass_fds=[end.fileno()],
            )
        self._answers = self._socket.makefile("r", encoding="ascii")

    def __enter__(self) -> "Qtest":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._answers.close()
        self._socket.close()
        self._process.kill()
        self._process.wait()
        self._log.close()

    def commands(self, lines: list[str]) -> list[int]:
        """The answers to `lines`, in order; 0 where there is no value. Raises ValueError for a refusal."""
        answers: list[int] = []
        for start in range(0, len(lines), BATCH):
            batch = lines[start : start + BATCH]
            try:
                self._socket.sendall("".join(f"{line}\n" for line in batch).encode())
            except BrokenPipeError:
                raise self._gone(f"QEMU went away before {batch[0]!r}") from None
            answers += [self._answer(line) for line in batch]
        return answers

    def _answer(self, command: str) -> int:
        try:
            words = self._answers.readline().split()
        except ConnectionResetError:
            words = []
        if not words:
            raise self._gone(f"QEMU went away at {command!r}")
        if words[0] != "OK":
            raise ValueError(f"{command}: {' '.join(words)}")
        return int(words[1], 0) if len(words) > 1 else 0

    def _gone(self, where: str) -> ConnectionError:
        """With what QEMU had to say."""
        self._process.kill()
        self._process.wait()
        self._log.seek(0)
        return ConnectionError(f"{where}: {self._log.read().decode(errors='replace').strip()}")
