"""A Unix or TCP stream with a frame length before each frame: passt, QEMU's `-netdev stream` and `socket`.

Each frame is preceded by its length, 4 bytes, big-endian. Neither end is trusted: a length that is none ends
the connection.
"""

import contextlib
import logging
import select
import socket
from collections.abc import Callable, Sequence
from typing import Final

from emu.bus.costs import Costs
from emu.devices.net.offload import FrameError, finish, finish_whole
from emu.devices.net.types import CHECKED, MAX_FRAME, MIN_FRAME, Buffers, Offload
from emu.devices.net.verify import is_right
from emu.devices.virtio.spec import NET_F_GUEST_CSUM

log = logging.getLogger("emu.net")

LENGTH_BYTES: Final = 4
CHUNK: Final = 1 << 18
"""Bytes read at once; a frame fits many times."""
SOCKET_BUFFER: Final = 1 << 20
PATIENCE_MS: Final = 5
"""How long a guest's frame may wait for the other end: a lost one costs a TCP stream 200 ms."""
WORTH_VERIFYING: Final = 4096
"""Bytes of a frame for which that takes less time than the guest needs for it: 8 us of 60 with 64 KiB."""
SEGMENTS_A_CALL: Final = 256
"""Frames of one large packet sent by one call; the host takes 1024 pieces."""


class StreamPeer:
    """A `NetBackend` over a connected socket, which it owns.

    `dropped` counts frames for which it had no room. `takes_large`: the other end takes TCP packets of up to
    64 KiB uncut. `patience_ms`: how long a frame may wait for room; once that was too short, none waits until
    there is room again.
    """

    guest_features = NET_F_GUEST_CSUM

    def __init__(
        self, sock: socket.socket, name: str, *, takes_large: bool = False, patience_ms: int = 0
    ) -> None:
        sock.setblocking(False)
        self._patience_ms, self._stalls = patience_ms, False
        enlarge(sock)
        self.name, self._socket, self._takes_large = name, sock, takes_large
        self.fd: int | None = sock.fileno()
        self.costs = Costs()
        self.link_up = True
        self.on_ready: Callable[[], None] = _nothing
        self.on_link: Callable[[bool], None] = _no_link
        self.dropped = 0
        self.left: Offload | None = None
        self._verifies = False
        self._unsent = b""
        self._buffer = bytearray(CHUNK)
        self._view = memoryview(self._buffer)
        self._begin = self._end = 0

    def accept(self, features: int) -> None:
        """Every frame is finished here; the driver may be told that its checksum is right."""
        self._verifies, self.left = bool(features & NET_F_GUEST_CSUM), None

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
        if len(frames) == 1:
            self._send([frames[0]], len(frames[0]))
            return
        for at in range(0, len(frames), SEGMENTS_A_CALL):
            part = frames[at : at + SEGMENTS_A_CALL]
            pieces = [piece for each in part for piece in (len(each).to_bytes(LENGTH_BYTES, "big"), each)]
            self._send_pieces(pieces, sum(map(len, pieces)), len(part))

    def _send(self, pieces: list[memoryview | bytes | bytearray], length: int) -> None:
        """One frame."""
        self._send_pieces([length.to_bytes(LENGTH_BYTES, "big"), *pieces], LENGTH_BYTES + length, 1)

    def _send_pieces(
        self, pieces: Sequence[memoryview | bytes | bytearray], length: int, frames: int
    ) -> None:
        """Frames with their lengths: all of them, none, or a part whose rest goes first next time."""
        sent = 0
        if self.link_up and self._send_rest():
            sent = self._try(lambda: self._socket.sendmsg(pieces))
        if not sent:
            self.dropped += frames
            return
        self.costs.bytes_copied += length - LENGTH_BYTES * frames
        if sent < length:
            self._unsent = b"".join(pieces)[sent:]

    def _send_rest(self) -> bool:
        """Send what is left of earlier frames; True when nothing is."""
        while self._unsent:
            sent = self._try(lambda: self._socket.send(self._unsent))
            if not sent:
                return False
            self._unsent = self._unsent[sent:]
        return True

    def _try(self, send: Callable[[], int]) -> int:
        """Bytes that the socket took; 0 where it has no room in time, or the link is down."""
        while True:
            self.costs.syscalls += 1
            try:
                sent = send()
            except BlockingIOError:
                if not self._has_room_soon():
                    return 0
            except OSError as error:
                self._lost(str(error.strerror))
                return 0
            else:
                self._stalls = False
                return sent

    def _has_room_soon(self) -> bool:
        """Wait for room, unless that was in vain before."""
        if self._stalls or not self._patience_ms:
            return False
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        self.costs.syscalls += 1
        self._stalls = not poll.poll(self._patience_ms)
        return not self._stalls

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
                    frame = self._view[at : at + length]
                    if self._verifies:
                        self.left = CHECKED if length >= WORTH_VERIFYING and is_right(frame) else None
                    return frame
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
