"""Checksums as the 82540EM checks them in received frames. Source: SDM 3.2.9, 13.4.31 (RXCSUM)."""

from typing import Final

from emu.devices.e1000_spec import (
    RXCSUM_IPOFLD,
    RXCSUM_TUOFLD,
    RXD_IPCS,
    RXD_IPE,
    RXD_IXSM,
    RXD_TCPCS,
    RXD_TCPE,
)
from emu.devices.net.checksum import word_sum
from emu.devices.net.offload import TCP
from emu.devices.net.types import Frame
from emu.devices.net.verify import HEADER, IP, UDP, ipv4_end

PCSS: Final = 0xFF
CSUM_OFFSET: Final = {TCP: 16, UDP: 6}


def receive_checksums(frame: Frame, rxcsum: int) -> int:
    """Packet checksum, status and errors of a receive descriptor, at their places in its second word."""
    start = rxcsum & PCSS
    end = ipv4_end(frame) if rxcsum & (RXCSUM_IPOFLD | RXCSUM_TUOFLD) else 0
    if not end:
        return (word_sum(frame[start:]) ^ 0xFFFF) << 16 | RXD_IXSM << 32
    body = IP + (frame[IP] & 15) * 4
    payload = word_sum(frame[body:])  # most of the work: done once
    if start <= body and not start & 1:
        packet = (word_sum(frame[start:body]) + payload) % 0xFFFF
    else:
        packet = word_sum(frame[start:])
    status = _ip_status(frame, body) if rxcsum & RXCSUM_IPOFLD else 0
    if rxcsum & RXCSUM_TUOFLD:
        status |= _transport_status(frame, body, end, payload)
    return (packet ^ 0xFFFF) << 16 | status << 32


def _ip_status(frame: Frame, body: int) -> int:
    return RXD_IPCS | (RXD_IPE if word_sum(frame[IP:body]) else 0)


def _transport_status(frame: Frame, body: int, end: int, payload: int) -> int:
    """TCPCS where a TCP or UDP checksum is there and was looked at. Fragments have none.

    `payload` is the sum from `body` to the frame's end, which padding may follow.
    """
    protocol, length = frame[IP + 9], end - body
    if protocol not in CSUM_OFFSET or length < HEADER[protocol]:
        return 0
    if frame[IP + 6] & 0x3F or frame[IP + 7]:
        return 0
    at = body + CSUM_OFFSET[protocol]
    if protocol == UDP and not frame[at] | frame[at + 1]:
        return 0
    if end != len(frame):
        payload = word_sum(frame[body:end])
    total = payload + word_sum(frame[IP + 12 : IP + 20]) + protocol + length
    return RXD_TCPCS | (RXD_TCPE if total % 0xFFFF else 0)
