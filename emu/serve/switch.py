"""A learning switch: frames go to where their destination was last seen, or everywhere.

All of it runs on one thread. A port that does not take its frames loses frames of its own only.
"""

import time
from collections.abc import Callable
from typing import Final, Protocol

from emu.bus.costs import Costs
from emu.devices.net.dump import PcapFile
from emu.devices.net.offload import FrameError, checked, finish
from emu.devices.net.types import MIN_FRAME, Buffers, Offload
from emu.devices.virtio.spec import (
    NET_F_GUEST_CSUM,
    NET_F_GUEST_ECN,
    NET_F_GUEST_TSO4,
    NET_F_GUEST_TSO6,
    NET_GSO_ECN,
    NET_GSO_TCPV4,
    NET_GSO_TCPV6,
)
from emu.serve.fair_queue import FairQueue, Waiting

AGE_S: Final = 300.0
"""An address that was silent for so long is forgotten. Source: IEEE 802.1D, table 7-5."""
MOST_ADDRESSES: Final = 256
"""Addresses known of one port; a new one takes the place of its first one."""
GSO_FEATURES: Final = {NET_GSO_TCPV4: NET_F_GUEST_TSO4, NET_GSO_TCPV6: NET_F_GUEST_TSO6}


class Packet:
    """A frame on its way through the switch. `offload` is left to do, and makes sense. Raises FrameError."""

    __slots__ = ("_finished", "frame", "needs", "offload")

    def __init__(self, frame: bytes, offload: Offload | None) -> None:
        self.offload: Offload | None = None
        self.frame, self.needs = frame, 0
        if offload is not None:
            self.offload = checked(frame, offload)
            self.needs = NET_F_GUEST_CSUM if offload.needs_csum else 0
            self.needs |= GSO_FEATURES.get(offload.gso_type & ~NET_GSO_ECN, 0)
            self.needs |= NET_F_GUEST_ECN if offload.gso_type & NET_GSO_ECN else 0
        self._finished: list[bytes | bytearray] = []

    @property
    def finished(self) -> list[bytes | bytearray]:
        """The frames for a wire; made once."""
        if not self._finished:
            self._finished = finish([memoryview(self.frame)], self.offload)
        return self._finished


class Member(Protocol):
    """What is plugged into a switch."""

    def deliver(self, source: "Member", packet: Packet, /) -> None:
        """Take a packet; what cannot be taken now is dropped and counted."""


class Switch:
    """Joins its members. `capture` is given every frame; `now` is in seconds."""

    def __init__(self, capture: PcapFile | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._capture, self._now = capture, now
        self._members: list[Member] = []
        self._addresses: dict[bytes, tuple[Member, float]] = {}
        self._known: dict[Member, dict[bytes, None]] = {}
        self.dropped = 0
        """Frames that were none."""

    def plug(self, member: Member) -> None:
        """Join."""
        self._members.append(member)
        self._known[member] = {}

    def unplug(self, member: Member) -> None:
        """Leave; its addresses are forgotten. Harmless when repeated."""
        if member in self._known:
            self._members.remove(member)
            for address in self._known.pop(member):
                del self._addresses[address]

    def forward(self, source: Member, frame: Buffers, offload: Offload | None) -> None:
        """A frame that came from `source`."""
        try:
            if sum(map(len, frame)) < MIN_FRAME:
                raise FrameError("no header")
            packet = Packet(b"".join(frame), offload)
        except FrameError:
            self.dropped += 1
            return
        if self._capture is not None:
            self._capture.write([memoryview(packet.frame)])
        whole, now = packet.frame, self._now()
        if not whole[6] & 1:
            self._learn(whole[6:12], source, now)
        target = self._find(whole[:6], now)
        if target is not None:
            if target is not source:
                target.deliver(source, packet)
            return
        for member in self._members:
            if member is not source:
                member.deliver(source, packet)

    def _find(self, address: bytes, now: float) -> Member | None:
        """Where an address was seen last; None where it was not, or too long ago, or it is a group's."""
        found = self._addresses.get(address)
        if found is None:
            return None
        member, seen = found
        if now - seen > AGE_S:
            self._forget(address, member)
            return None
        return member

    def _learn(self, address: bytes, member: Member, now: float) -> None:
        known = self._known[member]
        before = self._addresses.get(address)
        if before is None or before[0] is not member:
            if before is not None:
                self._forget(address, before[0])
            if len(known) >= MOST_ADDRESSES:
                self._forget(next(iter(known)), member)
            known[address] = None
        self._addresses[address] = (member, now)

    def _forget(self, address: bytes, member: Member) -> None:
        del self._addresses[address], self._known[member][address]


class Port:
    """A `NetBackend` and `Member`: where a card is plugged into the switch."""

    fd = None
    link_up = True
    guest_features = NET_F_GUEST_CSUM | NET_F_GUEST_TSO4 | NET_F_GUEST_TSO6 | NET_F_GUEST_ECN

    def __init__(self, switch: Switch, name: str) -> None:
        self._switch, self.name = switch, name
        self.costs = Costs()
        self.on_ready: Callable[[], None] = lambda: None
        self.on_link: Callable[[bool], None] = lambda _up: None
        self.left: Offload | None = None
        self._accepted = 0
        self._queue = FairQueue()
        switch.plug(self)

    @property
    def dropped(self) -> int:
        """Frames for which there was no room."""
        return self._queue.dropped

    def accept(self, features: int) -> None:
        """See `NetBackend`. What waits was for another driver."""
        self._accepted = features
        self._queue.clear()

    def send(self, frame: Buffers, offload: Offload | None = None) -> None:
        """See `NetBackend`."""
        self.costs.bytes_copied += sum(map(len, frame))
        self._switch.forward(self, frame, offload)

    def deliver(self, source: Member, packet: Packet) -> None:
        """See `Member`."""
        queue = self._queue
        was_empty = not queue
        if packet.needs & ~self._accepted:
            for frame in packet.finished:
                self.costs.bytes_copied += len(frame)
                queue.push(source, Waiting(frame, None))
        else:
            queue.push(source, Waiting(packet.frame, packet.offload))
        if was_empty:
            self.on_ready()

    def receive(self) -> bytes | bytearray | None:
        """See `NetBackend`."""
        item = self._queue.pop()
        if item is None:
            return None
        self.left = item.left
        return item.frame

    def close(self) -> None:
        """See `NetBackend`."""
        self._switch.unplug(self)
        self._queue.clear()
