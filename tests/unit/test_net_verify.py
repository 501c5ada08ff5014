"""Which frames the driver is told of that their checksum is right."""

import struct

import pytest

from emu.devices.net.verify import is_right
from tests.unit.test_net_offload import ADDRESSES, ETHERNET, internet, start_of_tcp, tcp_packet

PAYLOAD = bytes((i * 11 + (i >> 7)) & 0xFF for i in range(5000))


def udp_packet(version: int, payload: bytes, *, length: int | None = None) -> bytearray:
    """A finished datagram; `length` is what its own header says."""
    size = 8 + len(payload)
    header = struct.pack(">HHHH", 1, 2, size if length is None else length, 0)
    pseudo = ADDRESSES[version] + struct.pack(">II", size, 17)
    total = internet(pseudo + header + payload) or 0xFFFF
    if version == 4:
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + size, 7, 0, 64, 17, 0) + ADDRESSES[4]
    else:
        ip = struct.pack(">IHBB", 0x6000_0000, size, 17, 64) + ADDRESSES[6]
    kind = b"\x08\x00" if version == 4 else b"\x86\xdd"
    return bytearray(ETHERNET + kind + ip + header[:6] + struct.pack(">H", total) + payload)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("length", [0, 1, 1000, 5000])
@pytest.mark.parametrize("padding", [0, 3])
def test_a_right_packet_is_right_and_one_wrong_bit_makes_it_wrong(
    version: int, length: int, padding: int
) -> None:
    for good in (tcp_packet(version, PAYLOAD[:length]), bytes(udp_packet(version, PAYLOAD[:length]))):
        frame = bytearray(good + bytes(padding))
        assert is_right(memoryview(frame))
        transport = start_of_tcp(version)
        for at in (transport - 1, transport, transport + 7, len(good) - 1):  # an address, then the packet
            frame[at] ^= 0x10
            assert not is_right(memoryview(frame)), at
            frame[at] ^= 0x10
        assert is_right(frame)


@pytest.mark.parametrize("version", [4, 6])
def test_nothing_is_said_of_a_packet_that_is_cut_short(version: int) -> None:
    whole = tcp_packet(version, PAYLOAD[:40])
    assert not any(is_right(whole[:length]) for length in range(14, len(whole)))


def test_nothing_is_said_of_fragments() -> None:
    frame = bytearray(tcp_packet(4, PAYLOAD))
    for at, value in ((20, 0x20), (20, 0x01), (21, 0x01)):  # more of them, and offsets
        frame[at] |= value
        assert not is_right(frame)
        frame[at] &= ~value & 0xFF
    frame[20] |= 0x40  # "do not": it is none
    assert is_right(frame)


def test_nothing_is_said_of_other_protocols_and_vlans() -> None:
    assert not is_right(tcp_packet(4, PAYLOAD, vlan=True))
    for version, at in ((4, 23), (6, 20)):
        frame = bytearray(tcp_packet(version, PAYLOAD))
        frame[at] = 1
        assert not is_right(frame)
    frame = bytearray(tcp_packet(4, PAYLOAD))
    frame[14] = 0x55
    assert not is_right(frame), "IP of version 5"
    frame[14] = 0x44
    assert not is_right(frame), "a header of 16 bytes"


@pytest.mark.parametrize("version", [4, 6])
def test_nothing_is_said_of_a_datagram_without_checksum_or_of_another_length(version: int) -> None:
    for length in (8, 107, 109):
        assert not is_right(udp_packet(version, PAYLOAD[:100], length=length))
    frame = udp_packet(version, PAYLOAD[:100])
    at = start_of_tcp(version) + 6
    frame[at : at + 2] = b"\0\0"
    assert not is_right(frame)


def test_a_datagram_of_zeros_has_no_checksum_even_where_the_sum_fits() -> None:
    frame = bytearray(udp_packet(4, b"\0\0"))
    rest = struct.unpack(">H", frame[40:42])[0]
    frame[42:44] = rest.to_bytes(2, "big")
    frame[40:42] = b"\0\0"
    assert not is_right(frame)
