"""The port that network workloads talk to: it answers frames of its own type, or counts them.

EtherType 0x88B5 (IEEE 802, local experiments); the first byte of payload says what to do. ECHO: the frame
comes back with its two addresses exchanged, every other byte as it was. SINK: nothing comes back; frames,
payload bytes and the sum of the little-endian 64-bit words from byte 16 on (whole words, modulo 2^64) are
counted. REPORT: comes back with these three numbers from byte 16 on. RESET: the numbers become zero, and it
comes back.
"""

import struct
from collections import deque
from collections.abc import Callable
from typing import Final

from emu.bus.costs import Costs
from emu.devices.net.offload import FrameError, finish
from emu.devices.net.types import MIN_FRAME, Buffers, Offload

ETHERTYPE: Final = b"\x88\xb5"
ECHO, SINK, REPORT, RESET = range(4)
NUMBERS: Final = struct.Struct("<QQQ")
NUMBERS_AT: Final = 16
MOST_WAITING: Final = 1024
MASK64: Final = (1 << 64) - 1


class EchoPort:
    """A `NetBackend` of its own, in the process that serves the card. `dropped` counts what it gave up."""

    name = "echo"
    fd = None
    link_up = True
    guest_features = 0
    left: Offload | None = None

    def __init__(self) -> None:
        self.costs = Costs()
        self.on_ready: Callable[[], None] = _nothing
        self.on_link: Callable[[bool], None] = _no_link
        self.dropped = 0
        self._waiting: deque[bytes] = deque()
        self._frames = self._bytes = self._sum = 0

    def accept(self, features: int) -> None:
        """Every frame is finished here."""

    def send(self, frame: Buffers, offload: Offload | None = None) -> None:
        """See `NetBackend`."""
        try:
            frames = finish(frame, offload)
        except FrameError:
            self.dropped += 1
            return
        for each in frames:
            self.costs.bytes_copied += len(each)
            if len(each) > MIN_FRAME and each[12:14] == ETHERTYPE:
                self._take(each)

    def _take(self, frame: bytes | bytearray) -> None:
        kind = frame[MIN_FRAME]
        if kind == SINK:
            words = len(frame) - NUMBERS_AT >> 3
            self._frames += 1
            self._bytes += len(frame) - MIN_FRAME
            if words > 0:
                values = memoryview(frame)[NUMBERS_AT : NUMBERS_AT + 8 * words].cast("Q")
                self._sum = self._sum + sum(values) & MASK64
        elif kind == ECHO:
            self._answer(frame)
        elif kind == REPORT and len(frame) >= NUMBERS_AT + NUMBERS.size:
            self._answer(frame, NUMBERS.pack(self._frames, self._bytes, self._sum))
        elif kind == RESET and len(frame) >= NUMBERS_AT + NUMBERS.size:
            self._frames = self._bytes = self._sum = 0
            self._answer(frame)

    def _answer(self, frame: bytes | bytearray, numbers: bytes = b"") -> None:
        """Send it back, with the numbers in their place."""
        if len(self._waiting) >= MOST_WAITING:
            self.dropped += 1
            return
        view, rest = memoryview(frame), NUMBERS_AT + len(numbers)
        self._waiting.append(b"".join((view[6:12], view[:6], view[12:NUMBERS_AT], numbers, view[rest:])))
        self.costs.bytes_copied += len(frame)
        if len(self._waiting) == 1:
            self.on_ready()

    def receive(self) -> bytes | None:
        """See `NetBackend`."""
        return self._waiting.popleft() if self._waiting else None

    def close(self) -> None:
        """See `NetBackend`."""
        self._waiting.clear()


def _nothing() -> None:
    """Nobody serves a card."""


def _no_link(_up: bool) -> None:
    """No card."""
