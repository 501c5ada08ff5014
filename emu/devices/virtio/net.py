"""virtio-net: frames between the driver's rings and a backend. Source: VIRTIO 1.2, section 5.1.

Queues 2n and 2n + 1 receive and transmit, the control queue comes last. Served by whichever thread runs the
queues, one at a time. A frame, header or offload that makes no sense is dropped and counted.
"""

import struct
from collections import deque
from collections.abc import Callable
from typing import Final

from emu.bus.costs import Costs
from emu.devices.net.types import MAX_FRAME, MIN_FRAME, Buffers, NetBackend, Offload
from emu.devices.virtio.net_control import MAC_BYTES, NetControl
from emu.devices.virtio.spec import (
    F_RING_EVENT_IDX,
    F_RING_INDIRECT_DESC,
    NET_F_CSUM,
    NET_F_CTRL_MAC_ADDR,
    NET_F_CTRL_RX,
    NET_F_CTRL_RX_EXTRA,
    NET_F_CTRL_VLAN,
    NET_F_CTRL_VQ,
    NET_F_GUEST_ANNOUNCE,
    NET_F_HOST_TSO4,
    NET_F_HOST_TSO6,
    NET_F_MAC,
    NET_F_MQ,
    NET_F_MRG_RXBUF,
    NET_F_MTU,
    NET_F_STATUS,
    NET_HDR_F_NEEDS_CSUM,
    NET_HDR_SIZE,
    NET_S_ANNOUNCE,
    NET_S_LINK_UP,
    TYPE_NET,
)
from emu.devices.virtio.split_queue import Chain, SplitQueue, each_chain
from emu.devices.virtio.types import Drain
from emu.errors import ConfigError, DriverError

HEADER: Final = struct.Struct(
    "<BBHHHHH"
)  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, buffers
CONFIG: Final = struct.Struct("<6sHHHIB")  # mac, status, max_virtqueue_pairs, mtu, speed, duplex
PLAIN: Final = bytes(10) + b"\x01\x00"
"""The header of a finished frame in one buffer."""
NUM_BUFFERS_AT: Final = 10
MAX_PAIRS: Final = 16
MOST_WAITING: Final = 256
"""Frames kept for a queue that has no buffers, where there are several queues."""
CONTROL_FEATURES: Final = (
    NET_F_CTRL_VQ
    | NET_F_CTRL_RX
    | NET_F_CTRL_RX_EXTRA
    | NET_F_CTRL_VLAN
    | NET_F_CTRL_MAC_ADDR
    | NET_F_GUEST_ANNOUNCE
)
"""What needs the control queue."""
OFFLOAD_FEATURES: Final = NET_F_CSUM | NET_F_HOST_TSO4 | NET_F_HOST_TSO6
Frame = bytes | bytearray | memoryview


class VirtioNet:
    """A card plugged into `backend`; a `Service`. `kick(queue)` asks for a queue to be served.

    `mac` has six bytes; `mtu` 0 is not announced. Raises ConfigError for what cannot be.
    """

    device_type = TYPE_NET

    def __init__(
        self,
        backend: NetBackend,
        *,
        mac: bytes,
        pairs: int = 1,
        mtu: int = 0,
        mergeable: bool = True,
        offloads: bool = True,
        ring_features: int = F_RING_INDIRECT_DESC | F_RING_EVENT_IDX,
    ) -> None:
        if len(mac) != MAC_BYTES or mac[0] & 1:
            raise ConfigError(f"mac={mac.hex(':')}: six bytes, the first one even, are an address")
        if not 1 <= pairs <= MAX_PAIRS:
            raise ConfigError(f"{pairs} queue pairs: 1 to {MAX_PAIRS} are possible")
        self.backend, self.pairs, self._mac, self._mtu = backend, pairs, mac, mtu
        self.queues = 2 * pairs + 1
        self.features = ring_features | NET_F_MAC | NET_F_STATUS | CONTROL_FEATURES
        self.features |= NET_F_MRG_RXBUF if mergeable else 0
        self.features |= OFFLOAD_FEATURES if offloads else 0
        self.features |= NET_F_MTU if mtu else 0
        self.features |= NET_F_MQ if pairs > 1 else 0
        self.sources = () if backend.fd is None else ((backend.fd, 0),)
        self.kick: Callable[[int], None] = _nobody
        self.config_changed: Callable[[], None] = lambda: None
        self.control = NetControl(mac, pairs, self._set_pairs)
        self.dropped = 0
        """Frames of the driver's that were none, and frames for it that fitted nowhere."""
        self._costs = Costs()
        self._accepted = 0
        self._used_pairs = 1
        self._announcing = False
        self._transmitting = self._receive_after = False
        self._waiting: list[deque[Frame]] = [deque() for _ in range(pairs)]
        backend.on_ready = self._ready
        backend.on_link = lambda _up: self.config_changed()

    @property
    def costs(self) -> Costs:
        """The card's and the backend's."""
        return self._costs.total(self.backend.costs)

    # ---- features and configuration ----------------------------------------------------------------

    def set_features(self, features: int) -> None:
        """See `Service`."""
        self._accepted = features
        self.control.set_features(features)
        self._used_pairs = 1
        self._announcing = False
        for waiting in self._waiting:
            waiting.clear()

    def _set_pairs(self, pairs: int) -> None:
        self._used_pairs = pairs

    def announce(self) -> None:
        """Let the driver tell the network where it is now, e.g. after a migration. Source: 5.1.6.5.4."""
        if self._accepted & NET_F_GUEST_ANNOUNCE:
            self._announcing, self.control.announced = True, False
            self.config_changed()

    def config(self, offset: int, length: int) -> bytes:
        """See `Service`."""
        status = NET_S_LINK_UP if self.backend.link_up else 0
        if self._announcing and not self.control.announced:
            status |= NET_S_ANNOUNCE
        data = CONFIG.pack(self._mac, status, self.pairs, self._mtu, 0xFFFF_FFFF, 0xFF)
        return data[offset : offset + length]

    def write_config(self, offset: int, data: bytes) -> None:
        """Nothing can be written by a driver of the modern interface."""

    # ---- queues ------------------------------------------------------------------------------------

    def drain(self, index: int, queue: SplitQueue) -> Drain:
        """See `Service`."""
        control = 2 * self.pairs if self._accepted & NET_F_MQ else 2
        if index == control and self._accepted & NET_F_CTRL_VQ:
            return each_chain(queue, self.control.answer)
        if index >= 2 * self.pairs:
            return lambda _limit: 0
        if index & 1:
            return lambda limit: self._transmit(queue, limit)
        return lambda limit: self._receive(index // 2, queue, limit)

    def _ready(self) -> None:
        """The backend has frames. What comes while the driver's are being sent waits for their end."""
        if self._transmitting:
            self._receive_after = True
        else:
            self.kick(0)

    # ---- from the driver ---------------------------------------------------------------------------

    def _transmit(self, queue: SplitQueue, limit: int) -> int:
        served, most = 0, min(queue.waiting(), limit)
        self._transmitting = True
        try:
            while served < most and (chain := queue.pop()) is not None:
                self._send(chain.readable)
                queue.push(chain, 0)
                served += 1
        finally:
            self._transmitting = False
        if self._receive_after:
            self._receive_after = False
            self.kick(0)
        return served

    def _send(self, buffers: list[memoryview]) -> None:
        """One frame behind its header. Source: 5.1.6.2."""
        head = bytes(buffers[0][:NET_HDR_SIZE]) if buffers else b""
        if len(head) < NET_HDR_SIZE:
            head = b"".join(buffers)[:NET_HDR_SIZE]
            if len(head) < NET_HDR_SIZE:
                self.dropped += 1
                return
        frame = _behind_header(buffers)
        length = sum(map(len, frame))
        if not MIN_FRAME <= length <= MAX_FRAME:
            self.dropped += 1
            return
        self.backend.send(frame, None if head[:2] == b"\0\0" else _offload(head))

    # ---- to the driver -----------------------------------------------------------------------------

    def _receive(self, pair: int, queue: SplitQueue, limit: int) -> int:
        """Fill the driver's buffers with what has come for this queue."""
        served = 0
        while served < limit and queue.waiting():
            frame = self._next(pair)
            if frame is None:
                break
            chains = self._room(queue, NET_HDR_SIZE + len(frame))
            if chains is None:
                self.dropped += 1
            elif not chains:
                self._waiting[pair].appendleft(bytes(frame))
                break
            else:
                self._deliver(queue, chains, frame)
                served += len(chains)
        return served

    def _next(self, pair: int) -> Frame | None:
        """The next frame for a queue; those for the others are put by."""
        waiting = self._waiting[pair]
        if waiting:
            return waiting.popleft()
        accepts = self.control.filter.accepts
        while (frame := self.backend.receive()) is not None:
            if not accepts(frame):
                continue
            other = self._pair_of(frame)
            if other == pair:
                return frame
            if len(self._waiting[other]) < MOST_WAITING:
                self._waiting[other].append(bytes(frame))
                self.kick(2 * other)
            else:
                self.dropped += 1
        return None

    def _pair_of(self, frame: Frame) -> int:
        """One flow stays on one queue: a sum over its addresses and ports tells the queue."""
        if self._used_pairs == 1:
            return 0
        return sum(frame[26:38]) % self._used_pairs

    def _room(self, queue: SplitQueue, length: int) -> list[Chain] | None:
        """Chains that hold `length` bytes; empty while there are too few, None where they never will.

        Source: 5.1.6.4. Without MRG_RXBUF a frame has one chain.
        """
        chains: list[Chain] = []
        most = queue.size if self._accepted & NET_F_MRG_RXBUF else 1
        while length > 0 and len(chains) < most and (chain := queue.pop()) is not None:
            room = chain.writable_bytes
            if room < NET_HDR_SIZE:
                raise DriverError(f"a buffer to receive into with {room} bytes")
            chains.append(chain)
            length -= room
        if length <= 0:
            return chains
        for _ in chains:
            queue.put_back()
        return None if len(chains) == most else []

    def _deliver(self, queue: SplitQueue, chains: list[Chain], frame: Frame) -> None:
        """Store header and frame. The driver must see all of a frame's chains at once."""
        self._costs.bytes_copied += len(frame)
        if len(chains) == 1:
            queue.push(chains[0], _fill(chains[0].writable, PLAIN, frame))
            return
        header, rest, lengths = PLAIN[:NUM_BUFFERS_AT] + len(chains).to_bytes(2, "little"), frame, []
        for chain in chains:
            lengths.append(_fill(chain.writable, header, rest))
            rest = rest[lengths[-1] - len(header) :]
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


def _behind_header(buffers: list[memoryview]) -> Buffers:
    """The frame's pieces, without the header that comes first."""
    first = buffers[0]
    if len(first) == NET_HDR_SIZE:
        return buffers[1:]
    if len(first) > NET_HDR_SIZE:
        return [first[NET_HDR_SIZE:], *buffers[1:]]
    skip, pieces = NET_HDR_SIZE, []
    for buffer in buffers:
        if len(buffer) > skip:
            pieces.append(buffer[skip:])
        skip = max(0, skip - len(buffer))
    return pieces


def _offload(head: bytes) -> Offload:
    """What the header leaves to the card."""
    flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, _ = HEADER.unpack_from(head)
    return Offload(bool(flags & NET_HDR_F_NEEDS_CSUM), csum_start, csum_offset, gso_type, gso_size, hdr_len)


def _nobody(_queue: int) -> None:
    """No queue is served."""
