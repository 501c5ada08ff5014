"""TCP segmentation of the 82540EM. Source: SDM 3.5 (segmentation), 3.6 (checksum offload).

A frame that the driver leaves to be cut is handed on whole, as an `Offload`, where it is TCP over IP as
virtio knows it; `segments` cuts everything else the way the hardware does, headers renewed by the context.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from emu.devices.e1000_spec import POPTS_IXSM, POPTS_TXSM, TUCMD_IP, TUCMD_TCP
from emu.devices.net.checksum import checksum
from emu.devices.net.types import MIN_FRAME, Buffers, Offload
from emu.devices.virtio.spec import NET_GSO_NONE, NET_GSO_TCPV4, NET_GSO_TCPV6

TYPE_AT, TAGGED_HEADER, VLAN = 12, 18, b"\x81\x00"
LEAST_MSS: Final = 1
MOST_SEGMENTS: Final = 1024
TCP_LAST_FLAGS: Final = 0x09  # FIN and PSH belong to the last segment alone


class Context(NamedTuple):
    """A context descriptor's fields. Source: SDM 3.3.5."""

    ipcss: int = 0
    ipcso: int = 0
    ipcse: int = 0
    tucss: int = 0
    tucso: int = 0
    tucse: int = 0
    paylen: int = 0
    tucmd: int = 0
    hdrlen: int = 0
    mss: int = 0


def context_of(low: int, high: int) -> Context:
    """The fields of a descriptor's two 64-bit words."""
    return Context(
        low & 0xFF,
        low >> 8 & 0xFF,
        low >> 16 & 0xFFFF,
        low >> 32 & 0xFF,
        low >> 40 & 0xFF,
        low >> 48,
        high & 0xF_FFFF,
        high >> 24 & 0xFF,
        high >> 40 & 0xFF,
        high >> 48,
    )


def is_possible(context: Context, total: int) -> bool:
    """The context can cut a frame of `total` bytes into a bounded number of segments."""
    hdrlen, mss = context.hdrlen, context.mss
    if hdrlen < MIN_FRAME or hdrlen > total or mss < LEAST_MSS:
        return False
    return total - hdrlen <= mss * MOST_SEGMENTS


def gather(pieces: Buffers, length: int) -> tuple[bytearray, list[memoryview]]:
    """The first `length` bytes, copied, and views of the rest."""
    head, rest = bytearray(), []
    for piece in pieces:
        wanted = length - len(head)
        head += piece[:wanted]
        if len(piece) > wanted:
            rest.append(piece[wanted:])
    return head, rest


def whole(
    pieces: Buffers, total: int, context: Context, popts: int
) -> tuple[list[memoryview], Offload] | None:
    """The frame with its headers as for one large packet, and what is left to do; None for `segments`."""
    c = context
    if not c.tucmd & TUCMD_TCP or popts & POPTS_TXSM == 0 or c.hdrlen < c.tucss + 20:
        return None
    if c.tucso != c.tucss + 16 or (c.tucse and c.tucse != total - 1):
        return None
    head, rest = gather(pieces, c.hdrlen)
    ip = TAGGED_HEADER if head[TYPE_AT : TYPE_AT + 2] == VLAN else MIN_FRAME
    if c.ipcss != ip or c.hdrlen != c.tucss + (head[c.tucss + 12] >> 4) * 4:
        return None
    if not (_make_ipv4(head, total, c, popts) if c.tucmd & TUCMD_IP else _make_ipv6(head, total, c, popts)):
        return None
    _add_word(head, c.tucso, total - c.tucss)  # of the pseudo header, from which the driver left it out
    one = total - c.hdrlen <= c.mss
    kind = NET_GSO_NONE if one else NET_GSO_TCPV4 if c.tucmd & TUCMD_IP else NET_GSO_TCPV6
    offload = Offload(True, c.tucss, 16, kind, 0 if one else c.mss, 0 if one else c.hdrlen)
    return [memoryview(head), *rest], offload


def _make_ipv4(head: bytearray, total: int, c: Context, popts: int) -> bool:
    """Length and checksum of the whole packet; False where the context is not of a plain IPv4 header."""
    plain = c.ipcso == c.ipcss + 10 and c.ipcse == c.tucss - 1 and popts & POPTS_IXSM
    if not plain or c.tucss < c.ipcss + 20 or total - c.ipcss > 0xFFFF:
        return False
    if head[c.ipcss] != 0x40 | (c.tucss - c.ipcss) // 4:
        return False
    head[c.ipcss + 2 : c.ipcss + 4] = (total - c.ipcss).to_bytes(2, "big")
    _insert(head, c.ipcss, c.ipcso, c.ipcse)
    return True


def _make_ipv6(head: bytearray, total: int, c: Context, popts: int) -> bool:
    """The payload's length; False where the context is not of a plain IPv6 header."""
    payload = total - c.ipcss - 40
    if popts & POPTS_IXSM or c.tucss != c.ipcss + 40 or payload > 0xFFFF or head[c.ipcss] >> 4 != 6:
        return False
    head[c.ipcss + 4 : c.ipcss + 6] = payload.to_bytes(2, "big")
    return True


def _add_word(data: bytearray, at: int, value: int) -> None:
    """Ones' complement addition to the word at `at`."""
    total = (data[at] << 8 | data[at + 1]) + value
    total = (total & 0xFFFF) + (total >> 16)
    data[at : at + 2] = ((total & 0xFFFF) + (total >> 16)).to_bytes(2, "big")


def insert_checksums(frame: bytearray, context: Context, popts: int) -> None:
    """IXSM and TXSM on a frame in memory, each as far as its fields lie in the frame. Source: SDM 3.6.

    What stands in the checksum's place counts, as the pseudo header's sum; a result of 0 is sent as 0xFFFF.
    """
    if popts & POPTS_TXSM:
        _insert(frame, context.tucss, context.tucso, context.tucse)
    if popts & POPTS_IXSM:
        _insert(frame, context.ipcss, context.ipcso, context.ipcse)


def _insert(frame: bytearray, start: int, at: int, last: int) -> None:
    end = min(last + 1, len(frame)) if last else len(frame)
    if at + 2 > end or start >= end:
        return
    frame[at : at + 2] = checksum(frame[start:end]).to_bytes(2, "big")


def segments(pieces: Buffers, context: Context, popts: int) -> Iterator[bytearray]:
    """The frames that the hardware would send, checksums inserted. `is_possible` has been asked."""
    c = context
    header, rest = gather(pieces, c.hdrlen)
    payload = b"".join(rest)
    count = max(1, -(-len(payload) // c.mss))
    for index in range(count):
        part = payload[index * c.mss : (index + 1) * c.mss]
        frame = header + part
        _renew(frame, c, popts, index, last=index == count - 1)
        insert_checksums(frame, c, popts)
        yield frame


def _renew(frame: bytearray, c: Context, popts: int, index: int, *, last: bool) -> None:
    """Lengths, identification, sequence number and flags of one segment; what lies beyond it is left out."""
    ip, transport, length = c.ipcss, c.tucss, len(frame)
    if not c.tucmd & (TUCMD_IP | TUCMD_TCP):
        return  # a block of data behind a constant header
    if c.tucmd & TUCMD_IP:
        if ip + 6 <= c.hdrlen:
            frame[ip + 2 : ip + 4] = (length - ip & 0xFFFF).to_bytes(2, "big")
            number = int.from_bytes(frame[ip + 4 : ip + 6], "big") + index
            frame[ip + 4 : ip + 6] = (number & 0xFFFF).to_bytes(2, "big")
    elif ip + 6 <= c.hdrlen:
        frame[ip + 4 : ip + 6] = (length - ip - 40 & 0xFFFF).to_bytes(2, "big")
    if c.tucmd & TUCMD_TCP:
        if transport + 14 <= c.hdrlen:
            sequence = int.from_bytes(frame[transport + 4 : transport + 8], "big") + index * c.mss
            frame[transport + 4 : transport + 8] = (sequence & 0xFFFF_FFFF).to_bytes(4, "big")
            if not last:
                frame[transport + 13] &= ~TCP_LAST_FLAGS
    elif transport + 6 <= c.hdrlen:
        frame[transport + 4 : transport + 6] = (length - transport & 0xFFFF).to_bytes(2, "big")
    if popts & POPTS_TXSM and c.tucso + 2 <= c.hdrlen:
        _add_word(frame, c.tucso, length - transport & 0xFFFF)


def plain_offload(total: int, context: Context) -> Offload | None:
    """TXSM alone as what a backend can do: a checksum to the frame's end. None where it is another."""
    c = context
    if c.tucse and c.tucse != total - 1:
        return None
    if c.tucso < c.tucss or c.tucso + 2 > total:
        return None
    return Offload(True, c.tucss, c.tucso - c.tucss)
