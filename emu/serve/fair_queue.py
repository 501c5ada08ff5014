"""Frames that wait for one port, by the port they came from: who sends much does not push others out."""

from collections import deque
from typing import Final, NamedTuple

from emu.devices.net.types import Offload

MOST_FRAMES: Final = 1024
MOST_BYTES: Final = 8 << 20


class Waiting(NamedTuple):
    """A frame, and what is left to do on it."""

    frame: bytes | bytearray
    left: Offload | None


class FairQueue:
    """Takes turns between sources, a frame each. When it is full, the source with the most bytes loses.

    It never holds more than MOST_FRAMES frames or MOST_BYTES bytes. `dropped` counts the lost frames.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._frames = self._bytes = 0
        self._by_source: dict[object, deque[Waiting]] = {}
        self._sizes: dict[object, int] = {}
        self._turns: deque[object] = deque()

    def __len__(self) -> int:
        return self._frames

    def push(self, source: object, item: Waiting) -> None:
        """Add a frame at the end of its source's; the newest of the largest source may be lost for it."""
        waiting = self._by_source.get(source)
        if waiting is None:
            waiting = self._by_source[source] = deque()
            self._sizes[source] = 0
            self._turns.append(source)
        waiting.append(item)
        self._count(source, 1, len(item.frame))
        while self._frames > MOST_FRAMES or self._bytes > MOST_BYTES:
            self._drop()

    def pop(self) -> Waiting | None:
        """The next source's oldest frame."""
        if not self._turns:
            return None
        source = self._turns[0]
        waiting = self._by_source[source]
        item = waiting.popleft()
        self._count(source, -1, -len(item.frame))
        if waiting:
            self._turns.rotate(-1)
        else:
            self._turns.popleft()
            self._forget(source)
        return item

    def clear(self) -> None:
        """Throw all away; that is not counted."""
        self._frames = self._bytes = 0
        self._by_source.clear()
        self._sizes.clear()
        self._turns.clear()

    def _drop(self) -> None:
        largest = max(self._sizes, key=self._sizes.__getitem__)
        waiting = self._by_source[largest]
        self._count(largest, -1, -len(waiting.pop().frame))
        self.dropped += 1
        if not waiting:
            self._turns.remove(largest)
            self._forget(largest)

    def _count(self, source: object, frames: int, length: int) -> None:
        self._frames += frames
        self._bytes += length
        self._sizes[source] += length

    def _forget(self, source: object) -> None:
        del self._by_source[source], self._sizes[source]
