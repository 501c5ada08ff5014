"""What a driver leaves to the card, done in software: checksums, and cutting large TCP packets.

Source: VIRTIO 1.2, 5.1.6.2 (packet transmission); RFC 793, 791, 8200. A header that makes no sense raises
FrameError: the frame is dropped.
"""

from typing import Final

from emu.devices.net.checksum import checksum, word_sum
from emu.devices.net.types import MIN_FRAME, Buffers, Offload
from emu.devices.virtio.spec import NET_GSO_ECN, NET_GSO_NONE, NET_GSO_TCPV4, NET_GSO_TCPV6
from emu.errors import EmuError

ETHERTYPE: Final = 12
IPV4, IPV6, VLAN = 0x0800, 0x86DD, 0x8100
IPV4_HEADER, IPV6_HEADER, TCP_HEADER = 20, 40, 20
TCP: Final = 6
TCP_LAST_FLAGS: Final = 0x09  # FIN and PSH belong to the last segment
TCP_CWR: Final = 0x80  # belongs to the first
MAX_SEGMENTS: Final = 1024
"""Frames from one packet; more would be segments of a few bytes, which no driver asks for."""
MAX_HEADERS: Final = 256
"""Bytes before the payload of a packet that is cut: each segment has them again."""


class FrameError(EmuError):
    """The guest asked for the impossible on one frame, which is dropped."""


def finish(frame: Buffers, offload: Offload | None) -> list[bytes | bytearray]:
    """The frames for the wire. Raises FrameError."""
    if offload is None or offload.gso_type == NET_GSO_NONE:
        return [finish_whole(frame, offload)]
    whole = b"".join(frame)
    if len(whole) < MIN_FRAME:
        raise FrameError(f"a frame of {len(whole)} bytes")
    return segments(whole, offload)


def finish_whole(frame: Buffers, offload: Offload | None) -> bytearray:
    """The same for a wire that takes large packets uncut. Raises FrameError."""
    whole = bytearray().join(frame)
    if len(whole) < MIN_FRAME:
        raise FrameError(f"a frame of {len(whole)} bytes")
    if offload is not None and offload.needs_csum:
        _store_checksum(whole, offload)
    return whole


def _store_checksum(frame: bytearray, offload: Offload) -> None:
    """Give the frame its checksum; in its place stands the sum of the pseudo header. Raises FrameError."""
    at = _checksum_place(frame, offload)
    frame[at : at + 2] = checksum(memoryview(frame)[offload.csum_start :]).to_bytes(2, "big")


def _checksum_place(frame: bytes | bytearray, offload: Offload) -> int:
    """Where the checksum goes. Raises FrameError."""
    at = offload.csum_start + offload.csum_offset
    if at + 2 > len(frame):
        raise FrameError(f"a checksum at {at} in a frame of {len(frame)} bytes")
    return at


def checked(frame: bytes, offload: Offload) -> Offload:
    """The same, for who hands it on, where `finish` would do it. Raises FrameError."""
    if offload.needs_csum:
        _checksum_place(frame, offload)
    if offload.gso_type != NET_GSO_NONE:
        return offload._replace(hdr_len=_header_end(frame, offload))
    return offload._replace(gso_size=0, hdr_len=0)


def segments(frame: bytes, offload: Offload) -> list[bytes | bytearray]:
    """Cut a TCP packet into segments of `gso_size` bytes of payload. Raises FrameError."""
    end = _header_end(frame, offload)
    v4 = offload.gso_type & ~NET_GSO_ECN == NET_GSO_TCPV4
    cut = _Cut(frame[:end], _network_header(frame), offload.csum_start, v4=v4)
    parts = range(end, max(len(frame), end + 1), offload.gso_size)
    return [
        cut.segment(i, frame[at : at + offload.gso_size], at - end, last=at + offload.gso_size >= len(frame))
        for i, at in enumerate(parts)
    ]


def _header_end(frame: bytes, offload: Offload) -> int:
    """Where the payload of a large TCP packet begins. Raises FrameError."""
    kind = offload.gso_type & ~NET_GSO_ECN
    ip, tcp = _network_header(frame), offload.csum_start
    if kind not in (NET_GSO_TCPV4, NET_GSO_TCPV6) or not offload.needs_csum or not offload.gso_size:
        raise FrameError(f"segmentation of type {offload.gso_type:#x} into {offload.gso_size} bytes")
    least = IPV4_HEADER if kind == NET_GSO_TCPV4 else IPV6_HEADER
    if tcp < ip + least or tcp + TCP_HEADER > len(frame) or offload.csum_offset != 16:
        raise FrameError(f"segmentation of a TCP header at {tcp} in a frame of {len(frame)} bytes")
    end = tcp + (frame[tcp + 12] >> 4) * 4
    payload = len(frame) - end
    if not tcp + TCP_HEADER <= end <= MAX_HEADERS:
        raise FrameError(f"segmentation behind {end} bytes of headers")
    if not 0 <= payload <= offload.gso_size * MAX_SEGMENTS:
        raise FrameError(f"segmentation of {payload} bytes into {offload.gso_size}")
    return end


def _network_header(frame: bytes) -> int:
    """Where the IP header begins."""
    return MIN_FRAME + 4 if int.from_bytes(frame[ETHERTYPE:MIN_FRAME], "big") == VLAN else MIN_FRAME


class _Cut:
    """The headers of a large packet, and how each segment's differ from them."""

    def __init__(self, header: bytes, ip: int, tcp: int, *, v4: bool) -> None:
        self._header, self._ip, self._tcp, self._v4 = header, ip, tcp, v4
        self._identification = int.from_bytes(header[ip + 4 : ip + 6], "big")
        self._sequence = int.from_bytes(header[tcp + 4 : tcp + 8], "big")
        addresses = header[ip + 12 : ip + 20] if v4 else header[ip + 8 : ip + 40]
        self._pseudo = word_sum(addresses) + TCP

    def segment(self, index: int, payload: bytes, offset: int, *, last: bool) -> bytearray:
        """Segment `index`, whose payload begins `offset` bytes into the packet's."""
        ip, tcp = self._ip, self._tcp
        made = bytearray(self._header)
        length = len(made) - tcp + len(payload)
        if self._v4:
            made[ip + 2 : ip + 4] = (tcp - ip + length).to_bytes(2, "big")
            made[ip + 4 : ip + 6] = (self._identification + index & 0xFFFF).to_bytes(2, "big")
            made[ip + 10 : ip + 12] = b"\0\0"
            made[ip + 10 : ip + 12] = checksum(made[ip:tcp]).to_bytes(2, "big")
        else:
            made[ip + 4 : ip + 6] = (tcp - ip - IPV6_HEADER + length).to_bytes(2, "big")
        made[tcp + 4 : tcp + 8] = (self._sequence + offset & 0xFFFF_FFFF).to_bytes(4, "big")
        if not last:
            made[tcp + 13] &= ~TCP_LAST_FLAGS & 0xFF
        if index:
            made[tcp + 13] &= ~TCP_CWR & 0xFF
        made[tcp + 16 : tcp + 18] = b"\0\0"
        made += payload
        total = checksum(memoryview(made)[tcp:], self._pseudo + length)
        made[tcp + 16 : tcp + 18] = total.to_bytes(2, "big")
        return made
