"""A console port as the host's threads see it: bytes in from any thread, bytes out without waiting."""

from collections import deque
from collections.abc import Callable

from emu.devices.virtio.console import Port, Send, VirtioConsole
from emu.devices.virtio.types import Post


class CharPort:
    """The host's end of one port. `post` runs a call on the vCPU thread; every method is for any thread.

    `on_room`, called on the vCPU thread, says that `room` may have become more than 0.
    """

    def __init__(self, console: VirtioConsole, port: Port, post: Post) -> None:
        self._console, self._port, self._post = console, port, post
        self._given: deque[bytes] = deque()
        self.on_room: Callable[[], None] = _nobody
        port.on_room = self._room

    def connect(self, send: Send) -> None:
        """Let the guest's bytes go to `send`, which is called on the vCPU thread; before the guest runs."""
        self._port.send = send
        self._port.host_open = self._port.is_console

    def input(self, data: bytes) -> None:
        """Bytes for the guest."""
        self._given.append(data)
        self._post(self._feed)

    def room(self) -> int:
        """How many more bytes should be given."""
        return self._console.room(self._port) - sum(map(len, tuple(self._given)))

    def opened(self, is_open: bool) -> None:
        """Somebody has connected, or left. The guest's terminals do not mind: theirs are always connected."""
        if not self._port.is_console:
            self._post(lambda: self._console.set_host_open(self._port, is_open))

    def writable(self) -> None:
        """`send` takes bytes again, after it took fewer than it was given."""
        self._post(lambda: self._console.resume(self._port))

    def _feed(self) -> None:
        while self._given:
            self._console.receive(self._port, self._given.popleft())

    def _room(self) -> None:
        self.on_room()


def _nobody() -> None:
    """Nobody waits."""
