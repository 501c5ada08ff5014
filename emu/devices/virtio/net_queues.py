"""The data queues of a network card: frames between the driver's rings and a backend.

Queue 2n receives, queue 2n + 1 transmits. Served by whichever thread runs the queues, one at a time. A frame,
header or offload that makes no sense is dropped and counted. Source: VIRTIO 1.2, 5.1.6.
"""

import struct
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from emu.bus.costs import Costs
from emu.devices.net.types import MAX_FRAME, MIN_FRAME, Buffers, Frame, NetBackend, Offload
from emu.devices.virtio.net_fill import NUM_BUFFERS_AT, Fill, fused_fill
from emu.devices.virtio.spec import (
    F_VERSION_1,
    NET_F_MRG_RXBUF,
    NET_GSO_NONE,
    NET_HDR_F_DATA_VALID,
    NET_HDR_F_NEEDS_CSUM,
    NET_HDR_SIZE,
    NET_HDR_SIZE_LEGACY,
)
from emu.devices.virtio.split_queue import Chain, SplitQueue
from emu.devices.virtio.types import Drain
from emu.errors import DriverError

# flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers
HEADER: Final = struct.Struct("<BBHHHHH")
PLAIN: Final = bytes(NUM_BUFFERS_AT) + b"\x01\x00"
"""The header of a finished frame in one buffer."""
MOST_WAITING: Final = 256
"""Frames kept for a queue that has no buffers, where there are several queues."""


class Turn(NamedTuple):
    """How much a driver may send before others have their turn."""

    frames: int
    bytes: int


WHOLE: Final = Turn(1 << 16, 1 << 40)
"""There are no others."""


class NetQueues:
    """`pairs` pairs of queues on `backend`, whose `on_ready` it takes.

    `kick(queue)` asks for a queue to be served and returns False where nobody serves it; `accepts` tells
    which frames the driver wants; `used_pairs` is how many pairs it uses. `fused` frames go the fast way
    (`net_fill`) where they can.
    """

    fused = True

    def __init__(self, backend: NetBackend, pairs: int, turn: Turn = WHOLE) -> None:
        self.backend, self._turn = backend, turn
        self.kick: Callable[[int], bool] = _nobody
        self.accepts: Callable[[Frame], bool] = _all
        self.used_pairs = 1
        self.dropped = 0
        """Frames of the driver's that were none, and frames for it that fitted nowhere."""
        self.costs = Costs()
        self._mergeable = False
        self._header = NET_HDR_SIZE
        self._transmitting = self._receive_after = False
        self._waiting: list[deque[tuple[Frame, Offload | None]]] = [deque() for _ in range(pairs)]
        backend.on_ready = self._ready

    def set_features(self, features: int) -> None:
        """What the driver accepted."""
        self._mergeable = bool(features & NET_F_MRG_RXBUF)
        modern = self._mergeable or features & F_VERSION_1
        self._header = NET_HDR_SIZE if modern else NET_HDR_SIZE_LEGACY
        self.backend.accept(features & self.backend.guest_features)
        self.used_pairs = 1
        for waiting in self._waiting:
            waiting.clear()

    def drain(self, index: int, queue: SplitQueue) -> Drain:
        """See `Service`."""
        if index & 1:
            return lambda limit: self._transmit(queue, limit)
        fill = fused_fill(queue) if self.fused else _never
        return lambda limit: self._receive(index // 2, queue, fill, limit)

    def _ready(self) -> None:
        """The backend has frames. What comes while the driver's are being sent waits for their end."""
        if self._transmitting:
            self._receive_after = True
        else:
            self.kick(0)

    # ---- from the driver ---------------------------------------------------------------------------

    def _transmit(self, queue: SplitQueue, limit: int) -> int:
        served, most, room = 0, min(queue.waiting(), limit, self._turn.frames), self._turn.bytes
        self._transmitting = True
        try:
            while served < most and room > 0 and (chain := queue.pop()) is not None:
                room -= self._send(chain.readable)
                queue.push(chain, 0)
                served += 1
        finally:
            self._transmitting = False
        if self._receive_after:
            self._receive_after = False
            self.kick(0)
        return served

    def _send(self, buffers: list[memoryview]) -> int:
        """One frame behind its header; returns its length. Source: 5.1.6.2."""
        size = self._header
        head = bytes(buffers[0][:size]) if buffers else b""
        if len(head) < size:
            head = b"".join(buffers)[:size]
            if len(head) < size:
                self.dropped += 1
                return 0
        frame = _behind_header(buffers, size)
        length = sum(map(len, frame))
        if not MIN_FRAME <= length <= MAX_FRAME:
            self.dropped += 1
            return 0
        self.backend.send(frame, None if head[:2] == b"\0\0" else _offload(head))
        return length

    # ---- to the driver -----------------------------------------------------------------------------

    def _receive(self, pair: int, queue: SplitQueue, fill: Fill, limit: int) -> int:
        """Fill the driver's buffers with what has come for this queue."""
        served, size, most = 0, self._header, queue.size if self._mergeable else 1
        while served < limit and queue.waiting():
            found = self._next(pair)
            if found is None:
                break
            frame, left = found
            header = (PLAIN if left is None else _header(left))[:size]
            if filled := fill(frame, header, most):
                self.costs.bytes_copied += len(frame)
                served += filled
                continue
            chains = self._room(queue, size + len(frame), most)
            if chains is None:
                self.dropped += 1
            elif not chains:
                self._waiting[pair].appendleft((bytes(frame), left))
                break
            else:
                self._deliver(queue, chains, frame, header)
                served += len(chains)
        return served

    def _next(self, pair: int) -> tuple[Frame, Offload | None] | None:
        """The next frame for a queue, and what is left to do on it; those for the others are put by."""
        if self._waiting[pair]:
            return self._waiting[pair].popleft()
        backend, accepts = self.backend, self.accepts
        while (frame := backend.receive()) is not None:
            if not accepts(frame):
                continue
            other = self._pair_of(frame)
            if other == pair:
                return frame, backend.left
            waiting = self._waiting[other]
            if len(waiting) >= MOST_WAITING:
                self.dropped += 1
            elif self.kick(2 * other):
                waiting.append((bytes(frame), backend.left))
            else:
                return frame, backend.left
        return None

    def _pair_of(self, frame: Frame) -> int:
        """One flow stays on one queue: a sum over its addresses and ports tells the queue."""
        if self.used_pairs == 1:
            return 0
        return sum(frame[26:38]) % self.used_pairs

    def _room(self, queue: SplitQueue, length: int, most: int) -> list[Chain] | None:
        """Chains that hold `length` bytes; empty while there are too few, None where they never will.

        Source: 5.1.6.4. A frame may have `most` chains, one without MRG_RXBUF.
        """
        chains: list[Chain] = []
        while length > 0 and len(chains) < most and (chain := queue.pop()) is not None:
            room = chain.writable_bytes
            if room < self._header:
                raise DriverError(f"a buffer to receive into with {room} bytes")
            chains.append(chain)
            length -= room
        if length <= 0:
            return chains
        for _ in chains:
            queue.put_back()
        return None if len(chains) == most else []

    def _deliver(self, queue: SplitQueue, chains: list[Chain], frame: Frame, header: bytes) -> None:
        """Store header and frame. The driver must see all of a frame's chains at once."""
        self.costs.bytes_copied += len(frame)
        if len(chains) == 1:
            queue.push(chains[0], _fill(chains[0].writable, header, frame))
            return
        header, lengths = header[:NUM_BUFFERS_AT] + len(chains).to_bytes(2, "little"), []
        for chain in chains:
            lengths.append(_fill(chain.writable, header, frame))
            frame = frame[lengths[-1] - len(header) :]
            header = b""
        queue.push_together(chains, lengths)


def _fill(buffers: list[memoryview], header: bytes, frame: Frame) -> int:
    """Store the header and as much of the frame as fits; return how many bytes that is."""
    first = buffers[0]
    if len(first) > len(header) and len(first) - len(header) >= len(frame):
        end = len(header) + len(frame)
        first[: len(header)] = header
        first[len(header) : end] = frame
        return end
    data, done = header + bytes(frame), 0
    for buffer in buffers:
        part = data[done : done + len(buffer)]
        buffer[: len(part)] = part
        done += len(part)
    return done


def _behind_header(buffers: list[memoryview], size: int) -> Buffers:
    """The frame's pieces, without the header of `size` bytes that comes first."""
    first = buffers[0]
    if len(first) == size:
        return buffers[1:]
    if len(first) > size:
        return [first[size:], *buffers[1:]]
    skip, pieces = size, []
    for buffer in buffers:
        if len(buffer) > skip:
            pieces.append(buffer[skip:])
        skip = max(0, skip - len(buffer))
    return pieces


def _offload(head: bytes) -> Offload | None:
    """What the header leaves to the card."""
    flags, gso_type, hdr_len, gso_size, start, offset = struct.unpack_from("<BBHHHH", head)
    needs_csum = bool(flags & NET_HDR_F_NEEDS_CSUM)
    if not needs_csum and gso_type == NET_GSO_NONE:
        return None
    return Offload(needs_csum, start, offset, gso_type, gso_size, hdr_len)


def _header(left: Offload) -> bytes:
    """The header of a frame in one buffer on which that is left to do."""
    flags = NET_HDR_F_NEEDS_CSUM if left.needs_csum else 0
    flags |= NET_HDR_F_DATA_VALID if left.data_valid else 0
    return HEADER.pack(
        flags, left.gso_type, left.hdr_len, left.gso_size, left.csum_start, left.csum_offset, 1
    )


def _nobody(_queue: int) -> bool:
    return False


def _never(_frame: Frame, _header: bytes, _most: int) -> int:
    """The plain path alone."""
    return 0


def _all(_frame: Frame) -> bool:
    return True
