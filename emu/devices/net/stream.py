"""A Unix or TCP stream with a frame length before each frame: passt, QEMU's `-netdev stream` and `socket`.

Each frame is preceded by its length, 4 bytes, big-endian. Neither end is trusted: a length that is none ends
the connection.
"""

import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Final

from emu.bus.costs import Costs
from emu.devices.net.offload import FrameError, finish, finish_whole
from emu.devices.net.types import MAX_FRAME, MIN_FRAME, Buffers, Offload

log = logging.getLogger("emu.net")

LENGTH_BYTES: Final = 4
CHUNK: Final = 1 << 18
"""Bytes read at once; a frame fits many times."""
SOCKET_BUFFER: Final = 1 << 20


class StreamPeer:
    """A `NetBackend` over a connected socket, which it owns.

    `dropped` counts frames for which it had no room. `takes_large`: the other end takes TCP packets of up to
    64 KiB uncut.
    """

    guest_features = 0
    left: Offload | None = None

    def __init__(self, sock: socket.socket, name: str, *, takes_large: bool = False) -> None:
        sock.setblocking(False)
        enlarge(sock)
        self.name, self._socket, self._takes_large = name, sock, takes_large
        self.fd: int | None = sock.fileno()
        self.costs = Costs()
        self.link_up = True
        self.on_ready: Callable[[], None] = _nothing
        self.on_link: Callable[[bool], None] = _no_link
        self.dropped = 0
        self._unsent = b""
        self._buffer = bytearray(CHUNK)
        self._view = memoryview(self._buffer)
        self._begin = self._end = 0

    def accept(self, features: int) -> None:
        """Every frame is finished here."""

    # ---- to the other end --------------------------------------------------------------------------

    def send(self, frame: Buffers, offload: Offload | None = None) -> None:
        """See `NetBackend`."""
        if offload is None:
            self._send([*frame], sum(map(len, frame)))
            return
        try:
            frames = [finish_whole(frame, offload)] if self._takes_large else finish(frame, offload)
        except FrameError:
            self.dropped += 1
            return
        for each in frames:
            self._send([each], len(each))

    def _send(self, pieces: list[memoryview | bytes | bytearray], length: int) -> None:
        """One frame: all of it, nothing of it, or a part whose rest goes first next time."""
        if not self.link_up or not self._send_rest():
            self.dropped += 1
            return
        self.costs.syscalls += 1
        try:
            sent = self._socket.sendmsg([length.to_bytes(LENGTH_BYTES, "big"), *pieces])
        except BlockingIOError:
            self.dropped += 1
            return
        except OSError as error:
            self._lost(str(error.strerror))
            return
        self.costs.bytes_copied += length
        if sent < LENGTH_BYTES + length:
            self._unsent = b"".join((length.to_bytes(LENGTH_BYTES, "big"), *pieces))[sent:]

    def _send_rest(self) -> bool:
        """Send what is left of a frame; True when nothing is."""
        while self._unsent:
            self.costs.syscalls += 1
            try:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
            except BlockingIOError:
                return False
            except OSError as error:
                self._lost(str(error.strerror))
                return False
        return True

    # ---- from the other end ------------------------------------------------------------------------

    def receive(self) -> memoryview | None:
        """See `NetBackend`. The frame is good until the next call."""
        while True:
            ready = self._end - self._begin
            if ready >= LENGTH_BYTES:
                at = self._begin + LENGTH_BYTES
                length = int.from_bytes(self._view[self._begin : at], "big")
                if not MIN_FRAME <= length <= MAX_FRAME:
                    self._lost(f"a frame of {length} bytes")
                    return None
                if ready >= LENGTH_BYTES + length:
                    self._begin = at + length
                    self.costs.bytes_copied += length
                    return self._view[at : at + length]
            if not self._fill():
                return None

    def _fill(self) -> bool:
        """Read what has come; False where nothing has."""
        if not self.link_up:
            return False
        if self._begin:
            left = self._end - self._begin
            self._buffer[:left] = self._buffer[self._begin : self._end]
            self._begin, self._end = 0, left
        self.costs.syscalls += 1
        try:
            length = self._socket.recv_into(self._view[self._end :])
        except BlockingIOError:
            return False
        except OSError as error:
            self._lost(str(error.strerror))
            return False
        if not length:
            self._lost("the other end has closed the connection")
            return False
        self._end += length
        return True

    def _lost(self, why: str) -> None:
        """The cable is pulled."""
        if self.link_up:
            log.warning("%s: %s; the link is down", self.name, why)
            self.link_up = False
            self._begin = self._end = 0
            self._unsent = b""
            self.on_link(False)

    def close(self) -> None:
        """See `NetBackend`."""
        self.link_up = False
        self._socket.close()


def enlarge(sock: socket.socket) -> None:
    """Give a socket the longest queues that the host allows."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER)


def _nothing() -> None:
    """Nobody serves a card."""


def _no_link(_up: bool) -> None:
    """No card."""
