"""A program at the monitor's socket."""

import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Self

PROMPT = "(qemu) "
LIMIT_S = 60.0


class MonitorClient:
    """Connects to `-monitor unix:PATH,server=on,wait=off` as soon as that is there."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(LIMIT_S)
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                self._socket.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                assert time.monotonic() < deadline, f"nobody listens on {path}"
        self.greeting = self._answer()

    def command(self, line: str) -> str:
        """Run a line; what it prints."""
        self._socket.sendall(line.encode() + b"\n")
        return self._answer()

    def _answer(self) -> str:
        seen = b""
        while not seen.endswith(PROMPT.encode()):
            piece = self._socket.recv(4096)
            assert piece, f"the monitor has left: {seen!r}"
            seen += piece
        return seen.decode().removesuffix(PROMPT).replace("\r\n", "\n")

    def send(self, line: str) -> None:
        """Run a line that ends the monitor, too."""
        self._socket.sendall(line.encode() + b"\n")

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
