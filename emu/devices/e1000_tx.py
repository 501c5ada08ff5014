"""The 82540EM's transmitter: descriptors become frames. Source: SDM 3.3 to 3.6, 13.4.33 to 13.4.43."""

import zlib
from collections.abc import Callable
from typing import Final

from emu.bus.costs import Costs
from emu.bus.memory import GuestAddressError, GuestMemory
from emu.devices.e1000_ring import Ring
from emu.devices.e1000_spec import (
    DTYP_CONTEXT,
    DTYP_DATA,
    FCS,
    MIN_WIRE,
    POPTS_IXSM,
    POPTS_TXSM,
    TCTL_EN,
    TCTL_PSP,
    TXD_DD,
    TXD_DEXT,
    TXD_EOP,
    TXD_IC,
    TXD_IDE,
    TXD_IFCS,
    TXD_RPS,
    TXD_RS,
    TXD_TSE,
    TXD_VLE,
)
from emu.devices.e1000_stats import TSCTC, TSCTFC, Statistics
from emu.devices.e1000_tso import (
    Context,
    context_of,
    gather,
    insert_checksums,
    is_possible,
    plain_offload,
    segments,
    whole,
)
from emu.devices.net.types import MAX_FRAME, MIN_FRAME, Buffers, Offload

VLAN_AT, VLAN = 12, 0x8100
_ZEROS: Final = memoryview(bytes(MIN_WIRE))
Send = Callable[[Buffers, Offload | None], None]
"""Where a finished frame goes: its pieces, and what is left to do."""
NOTHING, DELAYED, AT_ONCE = 0, 1, 2


class Transmitter:
    """Walks the ring from head to tail; the vCPU thread's own.

    `send` is the cable, `loop` the receiver, which takes a whole frame and is asked only while `loops()`.
    `dropped` counts frames that could not be sent: a buffer outside of RAM, an absurd length or context.
    """

    def __init__(
        self,
        memory: GuestMemory,
        statistics: Statistics,
        costs: Costs,
        send: Send,
        loop: Callable[[bytes], None],
        loops: Callable[[], bool],
    ) -> None:
        self._memory, self._statistics, self._costs = memory, statistics, costs
        self._send, self._loop, self._loops = send, loop, loops
        self.ring = Ring(memory)
        self.dropped = 0
        self.reset()

    def reset(self) -> None:
        """As after CTRL.RST: disabled, no frame begun."""
        self.ring.reset()
        self.vlan_type = VLAN
        self.inserts_vlan = False
        self._context = self._tso = Context()
        self.set_control(0)
        self._begin()

    def set_control(self, tctl: int) -> None:
        """TCTL was written."""
        self.enabled = bool(tctl & TCTL_EN)
        self._pads = bool(tctl & TCTL_PSP)

    def _begin(self) -> None:
        """The next data descriptor is a frame's first."""
        self._pieces: list[memoryview] = []
        self._total = 0
        self._first = True
        self._bad = False
        self._popts = self._command = self._special = 0
        self._legacy = Context()

    def run(self, budget: int) -> int:
        """Take up to `budget` descriptors, of which large ones count more; NOTHING was to report, or it is to
        be told AT_ONCE or DELAYED.
        """
        ring, report = self.ring, NOTHING
        words, size, head, tail = ring.words, ring.size, ring.head, ring.tail
        while head != tail and budget > 0:
            low, high = words[2 * head], words[2 * head + 1]
            command = high >> 24 & 0xFF
            kind = high >> 20 & 0xF
            budget -= 1 + (high >> 12 & 0xFF if command & TXD_DEXT else 0)
            if not command & TXD_DEXT:
                self._legacy_data(low, high, command)
            elif kind == DTYP_DATA:
                self._data(low, high, command)
            elif kind == DTYP_CONTEXT:
                self._take_context(low, high, command)
            if command & (TXD_RS | TXD_RPS):
                words[2 * head + 1] = high | TXD_DD
                report = max(report, DELAYED if command & TXD_IDE else AT_ONCE)
            head = head + 1 if head + 1 < size else 0
        ring.head = head
        return report

    # ---- descriptors -------------------------------------------------------------------------------

    def _take_context(self, low: int, high: int, command: int) -> None:
        """There are two contexts: one for segmentation, one for checksums alone. Source: SDM 3.3.5."""
        if command & TXD_TSE:
            self._tso = context_of(low, high)
        else:
            self._context = context_of(low, high)

    def _legacy_data(self, low: int, high: int, command: int) -> None:
        if self._first:
            self._first = False
            self._command = command & ~TXD_TSE  # that bit is IC here
        self._add(low, high & 0xFFFF)
        if command & TXD_EOP:
            self._command, self._special = command & ~TXD_TSE, high >> 48
            if command & TXD_IC:
                self._popts = POPTS_TXSM
                self._legacy = Context(tucss=high >> 40 & 0xFF, tucso=high >> 16 & 0xFF)
                self._finish(self._legacy)
            else:
                self._finish(self._context)

    def _data(self, low: int, high: int, command: int) -> None:
        if self._first:
            self._first = False
            self._popts = high >> 40 & 0xFF
            self._command, self._special = command, high >> 48
        self._add(low, high & 0xF_FFFF)
        if command & TXD_EOP:
            if not self._command & TXD_TSE:  # else the first descriptor's VLE, IFCS and special count
                self._command, self._special = command & ~TXD_TSE, high >> 48
            self._finish(self._context)

    def _add(self, address: int, length: int) -> None:
        """One more piece of the frame; a frame that is too long or not in RAM is bad to its end."""
        if not length or self._bad:
            return
        self._total += length
        try:
            if self._total <= MAX_FRAME:
                self._pieces.append(self._memory.view(address, length))
                return
        except GuestAddressError:
            pass
        self._bad = True
        self._pieces = []

    # ---- frames ------------------------------------------------------------------------------------

    def _finish(self, context: Context) -> None:
        """The frame is whole: send it."""
        segmented = bool(self._command & TXD_TSE)
        if not segmented and not self._command & TXD_IFCS:
            self._strip_fcs()
        if self._bad or self._total < MIN_FRAME:
            if self._total or self._bad:
                self.dropped += 1
            if segmented:
                self._statistics.add(TSCTFC)
        elif segmented:
            self._send_segments()
        else:
            self._send_frame(context)
        self._begin()

    def _strip_fcs(self) -> None:
        """Without IFCS the driver has put the FCS at the end. It is no part of what a cable takes here.

        Where it is none, nobody behind this cable could tell: the frame goes as it is.
        """
        if self._bad or self._total < MIN_FRAME + FCS:
            return
        frame = b"".join(self._pieces)
        if zlib.crc32(frame[:-FCS]).to_bytes(FCS, "little") == frame[-FCS:]:
            self._total -= FCS
            self._pieces = [memoryview(frame)[:-FCS]]
            self._costs.bytes_copied += self._total

    def _send_frame(self, context: Context) -> None:
        pieces, total, offload = self._pieces, self._total, None
        popts = self._popts & (POPTS_IXSM | POPTS_TXSM)
        if popts == POPTS_TXSM:
            offload = plain_offload(total, context)
        if popts and offload is None:
            frame = bytearray(b"".join(pieces))
            insert_checksums(frame, context, popts)
            self._costs.bytes_copied += total
            pieces = [memoryview(frame)]
        if total < MIN_WIRE and self._pads:
            pieces.append(_ZEROS[: MIN_WIRE - total])
            total = MIN_WIRE
        self._out(pieces, total, offload)

    def _send_segments(self) -> None:
        context, total, popts = self._tso, self._total, self._popts
        if not is_possible(context, total):
            self.dropped += 1
            self._statistics.add(TSCTFC)
            return
        self._statistics.add(TSCTC)
        plain = not self._tagged or (self.vlan_type == VLAN and context.ipcss == MIN_FRAME)
        if plain and not self._loops():
            large = whole(self._pieces, total, context, popts)
            if large is not None:
                self._costs.bytes_copied += context.hdrlen
                self._out_large(*large, total)
                return
        for frame in segments(self._pieces, context, popts):
            self._costs.bytes_copied += len(frame)
            self._out([memoryview(frame)], len(frame), None)

    def _out_large(self, pieces: list[memoryview], offload: Offload, total: int) -> None:
        """A frame that whoever takes it cuts; counted as the frames that it becomes."""
        hdrlen, mss = self._tso.hdrlen, self._tso.mss
        extra = 4 if self._tagged else 0
        destination = bytes(pieces[0][:6])
        full, rest = divmod(total - hdrlen, mss)
        if full:
            self._statistics.sent(hdrlen + mss + extra, destination, full)
        if rest or not full:
            self._statistics.sent(hdrlen + rest + extra, destination)
        self._costs.requests += 1
        self._send(*self._tag(pieces, offload))

    def _out(self, pieces: list[memoryview], total: int, offload: Offload | None) -> None:
        """One frame of `total` bytes leaves."""
        self._costs.requests += 1
        if self._tagged:
            pieces, offload = self._tag(pieces, offload)
            total += 4
        self._statistics.sent(
            total, bytes(pieces[0][:6]) if len(pieces[0]) >= 6 else bytes(gather(pieces, 6)[0])
        )
        if not self._loops():
            self._send(pieces, offload)
            return
        frame = bytearray(b"".join(pieces))
        if offload is not None:
            context = Context(tucss=offload.csum_start, tucso=offload.csum_start + offload.csum_offset)
            insert_checksums(frame, context, POPTS_TXSM)
        self._costs.bytes_copied += total
        self._loop(bytes(frame))

    @property
    def _tagged(self) -> bool:
        return self.inserts_vlan and bool(self._command & TXD_VLE)

    def _tag(
        self, pieces: list[memoryview], offload: Offload | None
    ) -> tuple[list[memoryview], Offload | None]:
        """Put VET and the special field behind the addresses, where the frame is to be tagged."""
        if not self._tagged:
            return pieces, offload
        addresses, rest = gather(pieces, VLAN_AT)
        addresses += self.vlan_type.to_bytes(2, "big") + self._special.to_bytes(2, "big")
        if offload is not None:
            offload = offload._replace(
                csum_start=offload.csum_start + 4, hdr_len=offload.hdr_len + 4 if offload.hdr_len else 0
            )
        self._costs.bytes_copied += VLAN_AT
        return [memoryview(addresses), *rest], offload
