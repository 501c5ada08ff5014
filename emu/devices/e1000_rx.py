"""The 82540EM's receiver: frames into the guest's buffers. Source: SDM 3.2, 13.4.22 to 13.4.34."""

import zlib

from emu.bus.costs import Costs
from emu.bus.memory import GuestAddressError, GuestMemory
from emu.devices.e1000_checksum import receive_checksums
from emu.devices.e1000_filter import INEXACT, REFUSED, Filter
from emu.devices.e1000_ring import Ring
from emu.devices.e1000_spec import (
    FCS,
    ICR_RXO,
    ICR_RXT0,
    ICR_SRPD,
    MAX_LONG,
    MAX_PLAIN,
    MIN_WIRE,
    RCTL_EN,
    RCTL_LPE,
    RCTL_RDMTS_SHIFT,
    RCTL_SBP,
    RCTL_SECRC,
    RXD_DD,
    RXD_EOP,
    RXD_PIF,
    RXD_VP,
    receive_buffer_size,
)
from emu.devices.e1000_stats import Statistics
from emu.devices.net.types import MIN_FRAME, Frame

VLAN_AT, VLAN_TAG = 12, 4


class Receiver:
    """Writes frames into the ring; the vCPU thread's own. `causes` gathers what the guest is to be told.

    `dropped` counts frames that no statistics register does: refused by the filter, too short to be one, or
    for a buffer outside of RAM.
    """

    def __init__(self, memory: GuestMemory, statistics: Statistics, frames: Filter, costs: Costs) -> None:
        self._memory, self._statistics, self._filter, self._costs = memory, statistics, frames, costs
        self.ring = Ring(memory)
        self.dropped = 0
        self.reset()

    def reset(self) -> None:
        """As after CTRL.RST: disabled."""
        self.ring.reset()
        self.vlan_type = 0x8100
        self.strips_vlan = False
        self.rxcsum = 0
        self.small_packet = 0
        self.causes = 0
        self.set_control(0)

    def set_control(self, rctl: int) -> None:
        """RCTL was written."""
        self._filter.rctl = rctl
        self._filter.forget()
        self.enabled = bool(rctl & RCTL_EN)
        self._buffer = receive_buffer_size(rctl)
        self._fcs = 0 if rctl & RCTL_SECRC else FCS
        self._longest = MAX_LONG if rctl & (RCTL_LPE | RCTL_SBP) else MAX_PLAIN
        self._threshold_shift = 1 + min(rctl >> RCTL_RDMTS_SHIFT & 3, 2)

    @property
    def below_threshold(self) -> bool:
        """No more than the part of the ring that RDMTS names is left to the hardware."""
        ring = self.ring
        return ring.owned <= ring.size >> self._threshold_shift

    def take(self, frame: Frame) -> None:
        """Put one frame into the ring, if it is for this station; `causes` gets what that is told by."""
        length = len(frame)
        destination = bytes(frame[:6])
        if length < MIN_FRAME:
            self.dropped += 1
            return
        verdict = self._filter.judge(destination)
        if verdict == REFUSED:
            self.dropped += 1
            return
        if length + FCS > self._longest:
            self._statistics.oversized(length)
            return
        status, special = RXD_DD | (RXD_PIF if verdict == INEXACT else 0), 0
        stored: Frame = frame
        if frame[VLAN_AT] << 8 | frame[VLAN_AT + 1] == self.vlan_type and length >= VLAN_AT + VLAN_TAG + 2:
            tag = frame[VLAN_AT + 2] << 8 | frame[VLAN_AT + 3]
            if not self._filter.takes_vlan(tag):
                self.dropped += 1
                return
            if self.strips_vlan:
                stored = b"".join((frame[:VLAN_AT], frame[VLAN_AT + VLAN_TAG :]))
                self._costs.bytes_copied += length - VLAN_TAG
                status, special = status | RXD_VP, tag
        if length < MIN_WIRE:
            stored = bytes(stored).ljust(MIN_WIRE - length + len(stored), b"\0")
            length = MIN_WIRE
        fields = receive_checksums(stored, self.rxcsum)
        fcs = zlib.crc32(stored).to_bytes(FCS, "little") if self._fcs else b""
        if not self._store(stored, fcs, status, fields, special):
            self._statistics.missed(length)
            self.causes |= ICR_RXO
            return
        self._statistics.received(length, destination)
        self._costs.requests += 1
        self.causes |= ICR_RXT0 | (ICR_SRPD if length + FCS <= self.small_packet else 0)

    def _store(self, frame: Frame, fcs: bytes, status: int, fields: int, special: int) -> bool:
        """Spread a frame over as many buffers as it needs; False where the ring has too few of them.

        `fields` are status, errors and packet checksum, as they stand in the descriptor, all but the length.
        """
        size, buffer, ring = len(frame) + len(fcs), self._buffer, self.ring
        slots = self._slots(size)
        if not slots:
            return False
        words, at = ring.words, 0
        for index in slots:
            count = min(buffer, size - at)
            address = words[2 * index]
            try:
                view = self._memory.view(address, count)
            except GuestAddressError:
                self.dropped += 1  # the bus takes the data, nobody keeps it
            else:
                body = min(count, max(len(frame) - at, 0))
                view[:body] = frame[at : at + body]
                if body < count:
                    begin = at + body - len(frame)
                    view[body:] = fcs[begin : begin + count - body]
                self._memory.written(address, count)
            at += count
            value = count | status << 32
            if at >= size:
                value |= fields | RXD_EOP << 32 | special << 48
            words[2 * index + 1] = value
        self._costs.bytes_copied += size
        ring.head = (slots[-1] + 1) % ring.size
        return True

    def _slots(self, size: int) -> list[int]:
        """The descriptors for `size` bytes; those without a buffer are given back empty. SDM 3.2.7."""
        ring, buffer = self.ring, self._buffer
        needed = -(-size // buffer)
        found: list[int] = []
        index, words = ring.head, ring.words
        for _ in range(ring.owned):
            if words[2 * index]:
                found.append(index)
                if len(found) == needed:
                    return found
            else:
                words[2 * index + 1] |= RXD_DD << 32
            index = index + 1 if index + 1 < ring.size else 0
        return []
