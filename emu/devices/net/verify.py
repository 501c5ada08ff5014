"""Whether the checksum of a TCP or UDP packet that has come is right. Source: RFC 791, 8200, 9293, 768."""

from typing import Final, NamedTuple

from emu.devices.net.checksum import word_sum
from emu.devices.net.offload import IPV4_HEADER, IPV6_HEADER, TCP, TCP_HEADER
from emu.devices.net.types import MIN_FRAME, Frame

IP: Final = MIN_FRAME
IPV4, IPV6 = b"\x08\x00", b"\x86\xdd"
UDP: Final = 17
HEADER: Final = {TCP: TCP_HEADER, UDP: 8}


class _Packet(NamedTuple):
    """What IP says of its payload; offsets are in the frame."""

    protocol: int
    addresses: int
    addresses_end: int
    body: int
    end: int


def is_right(frame: Frame) -> bool:
    """True where the checksum is there and fits. Of any other frame nothing is said.

    Neither fragments, extension headers nor VLANs are looked into.
    """
    kind = frame[IP - 2 : IP]
    packet = _ipv4(frame) if kind == IPV4 else _ipv6(frame) if kind == IPV6 else None
    if packet is None:
        return False
    protocol, addresses, addresses_end, body, end = packet
    if protocol not in HEADER or end - body < HEADER[protocol]:
        return False
    if protocol == UDP and not _udp_is_whole(frame[body : body + HEADER[UDP]], end - body):
        return False
    pseudo = word_sum(frame[addresses:addresses_end]) + protocol + end - body
    return (word_sum(frame[body:end]) + pseudo) % 0xFFFF == 0


def _udp_is_whole(header: Frame, length: int) -> bool:
    """True where the datagram has a checksum, and is as long as IP says."""
    return header[4] << 8 | header[5] == length and bool(header[6] | header[7])


def ipv4_end(frame: Frame) -> int:
    """Where an IPv4 packet ends in its frame, or 0 if there is none that is whole."""
    if len(frame) < IP + IPV4_HEADER or frame[IP - 2 : IP] != IPV4 or frame[IP] >> 4 != 4:
        return 0
    header = (frame[IP] & 15) * 4
    end = IP + (frame[IP + 2] << 8 | frame[IP + 3])
    return end if header >= IPV4_HEADER and IP + header <= end <= len(frame) else 0


def _ipv4(frame: Frame) -> _Packet | None:
    end = ipv4_end(frame)
    if not end or frame[IP + 6] & 0x3F or frame[IP + 7]:
        return None
    return _Packet(frame[IP + 9], IP + 12, IP + 20, IP + (frame[IP] & 15) * 4, end)


def _ipv6(frame: Frame) -> _Packet | None:
    body = IP + IPV6_HEADER
    if len(frame) < body or frame[IP] >> 4 != 6:
        return None
    end = body + (frame[IP + 4] << 8 | frame[IP + 5])
    return _Packet(frame[IP + 6], IP + 8, body, body, end) if end <= len(frame) else None
