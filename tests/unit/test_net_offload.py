"""Checksums and segmentation in software, against a second way to compute them."""

import platform
import struct

import pytest

from emu.devices.net import native_sum
from emu.devices.net.checksum import SHORT, checksum, python_sum, word_sum
from emu.devices.net.offload import MAX_SEGMENTS, FrameError, checked, finish, finish_whole
from emu.devices.net.types import Offload
from emu.devices.virtio.spec import NET_GSO_ECN, NET_GSO_TCPV4, NET_GSO_TCPV6

ETHERNET = bytes.fromhex("525400000002525400000001")
FIN, PSH, ACK, CWR = 0x01, 0x08, 0x10, 0x80
ADDRESSES = {4: bytes([10, 0, 0, 1, 10, 0, 0, 2]), 6: bytes(range(32))}


def sum16(data: bytes) -> int:
    """RFC 1071, word by word."""
    total = 0
    for (word,) in struct.iter_unpack(">H", data + bytes(len(data) % 2)):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return total


def internet(data: bytes) -> int:
    return 0xFFFF - sum16(data)


def tcp_packet(
    version: int,
    payload: bytes,
    *,
    sequence: int = 1000,
    flags: int = ACK,
    identification: int = 7,
    options: bytes = b"",
    vlan: bool = False,
) -> bytes:
    """A finished TCP frame, written without the code under test."""
    tcp = struct.pack(">HHIIBBHHH", 1, 2, sequence, 99, (5 + len(options) // 4) << 4, flags, 512, 0, 0)
    segment = tcp + options + payload
    pseudo = ADDRESSES[version] + struct.pack(">II", len(segment), 6)
    total = internet(pseudo + segment) or 0xFFFF
    segment = segment[:16] + struct.pack(">H", total) + segment[18:]
    if version == 4:
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(segment), identification, 0x4000, 64, 6, 0)
        ip += ADDRESSES[4]
        ip = ip[:10] + struct.pack(">H", internet(ip)) + ip[12:]
    else:
        ip = struct.pack(">IHBB", 0x6000_0000, len(segment), 6, 64) + ADDRESSES[6]
    kind = b"\x08\x00" if version == 4 else b"\x86\xdd"
    return ETHERNET + (b"\x81\x00\x00\x05" if vlan else b"") + kind + ip + segment


def left_to_the_card(frame: bytes, version: int, start: int) -> bytes:
    """The same frame as a driver leaves it: the sum of the pseudo header in the checksum's place."""
    length = len(frame) - start
    pseudo = sum16(ADDRESSES[version] + struct.pack(">II", length, 6))
    return frame[: start + 16] + struct.pack(">H", pseudo) + frame[start + 18 :]


def start_of_tcp(version: int, *, vlan: bool = False) -> int:
    return 14 + (4 if vlan else 0) + (20 if version == 4 else 40)


def pieces(frame: bytes) -> list[memoryview]:
    """In three buffers."""
    view = memoryview(frame)
    return [view[:20], view[20:33], view[33:]]


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"\xff", b"\x12\x34\x56", b"\xff\xff", b"\xff\xfe\x00\x01", bytes(9)]
)
def test_the_sum_is_that_of_words(data: bytes) -> None:
    assert word_sum(data) % 0xFFFF == sum16(data) % 0xFFFF
    assert checksum(data) == (internet(data) or 0xFFFF)


@pytest.mark.parametrize("length", [*range(1, 2 * 64 + 9), SHORT - 1, SHORT, 4095, 4096, 4097, 65550])
@pytest.mark.parametrize("fill", [b"\xff", bytes((i * 7 ^ i >> 3) & 0xFF for i in range(251))])
def test_both_ways_to_sum_agree_at_any_length_and_place(length: int, fill: bytes) -> None:
    data = (fill * (length // len(fill) + 2))[: length + 1]
    ways = [way for way in (python_sum, word_sum, native_sum.load()) if way is not None]
    for begin in (0, 1):
        piece = data[begin : begin + length]
        kinds = (piece, bytearray(piece), memoryview(data)[begin : begin + length])
        assert {way(each) % 0xFFFF for way in ways for each in kinds} == {sum16(piece) % 0xFFFF}


def test_the_hosts_of_this_project_sum_in_machine_code() -> None:
    found = native_sum.load()
    assert (found is not None) == (platform.machine() == "x86_64")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("length", [0, 1, 100, 1447])
def test_a_checksum_is_finished(version: int, length: int) -> None:
    wanted = tcp_packet(version, bytes(i * 7 & 0xFF for i in range(length)))
    start = start_of_tcp(version)
    offload = Offload(needs_csum=True, csum_start=start, csum_offset=16)
    assert finish(pieces(left_to_the_card(wanted, version, start)), offload) == [wanted]
    assert finish_whole(pieces(left_to_the_card(wanted, version, start)), offload) == wanted


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("vlan", [False, True])
@pytest.mark.parametrize(
    ("length", "size"),
    [(4000, 1448), (1448, 1448), (1449, 1448), (2896, 1448), (100, 99), (1, 1448), (0, 1448), (60000, 1000)],
)
def test_a_large_packet_becomes_the_segments_that_software_would_send(
    version: int, vlan: bool, length: int, size: int
) -> None:
    payload = bytes((i * 13 + (i >> 8)) & 0xFF for i in range(length))
    options = b"\x01\x01\x08\x0a" + bytes(8)
    sequence, flags = 0xFFFF_F000, ACK | PSH | FIN | CWR
    start = start_of_tcp(version, vlan=vlan)
    made = tcp_packet(
        version, payload, sequence=sequence, flags=flags, identification=0xFFFF, options=options, vlan=vlan
    )
    large = left_to_the_card(made, version, start)
    wanted = []
    cuts = range(0, max(length, 1), size)
    for i, at in enumerate(cuts):
        its_flags = flags if i == len(cuts) - 1 else flags & ~(PSH | FIN)
        wanted.append(
            tcp_packet(
                version,
                payload[at : at + size],
                sequence=(sequence + at) & 0xFFFF_FFFF,
                flags=its_flags if i == 0 else its_flags & ~CWR,
                identification=(0xFFFF + i) & 0xFFFF,
                options=options,
                vlan=vlan,
            )
        )
    kind = NET_GSO_TCPV4 if version == 4 else NET_GSO_TCPV6
    offload = Offload(True, start, 16, kind | NET_GSO_ECN, size, 0)
    assert finish(pieces(large), offload) == wanted
    assert checked(large, offload) == offload._replace(hdr_len=start + 32)


GOOD = Offload(True, 34, 16, NET_GSO_TCPV4, 1000, 54)
LARGE = left_to_the_card(tcp_packet(4, bytes(3000)), 4, 34)


@pytest.mark.parametrize(
    "offload",
    [
        GOOD._replace(needs_csum=False),
        GOOD._replace(gso_size=0),
        GOOD._replace(gso_size=2),  # too many segments
        GOOD._replace(gso_type=3),
        GOOD._replace(gso_type=5),
        GOOD._replace(gso_type=NET_GSO_ECN, csum_start=65535),
        GOOD._replace(csum_offset=6),
        GOOD._replace(csum_start=33),
        GOOD._replace(csum_start=0),
        GOOD._replace(csum_start=len(LARGE) - 19),
        GOOD._replace(csum_start=65535),
        GOOD._replace(gso_type=NET_GSO_TCPV6),
        GOOD._replace(csum_start=1000),  # headers of 1000 bytes for each segment
        Offload(True, len(LARGE) - 1, 0),
        Offload(True, 34, len(LARGE)),
        Offload(True, 65535, 65535),
    ],
)
def test_an_offload_that_makes_no_sense_is_an_error(offload: Offload) -> None:
    frame = LARGE if offload.csum_start != 1000 else LARGE[:1012] + b"\x50" + LARGE[1013:]
    with pytest.raises(FrameError):
        finish([memoryview(frame)], offload)
    with pytest.raises(FrameError):
        checked(frame, offload)


@pytest.mark.parametrize("data_offset", [0, 4, 15])
def test_a_tcp_header_of_a_wrong_length_is_an_error(data_offset: int) -> None:
    frame = LARGE[:46] + bytes((data_offset << 4,)) + LARGE[47:]
    short = frame[:54] if data_offset == 15 else frame
    with pytest.raises(FrameError):
        finish([memoryview(short)], GOOD)


def test_a_packet_becomes_at_most_so_many_segments() -> None:
    exact = left_to_the_card(tcp_packet(4, bytes(MAX_SEGMENTS * 3)), 4, 34)
    assert len(finish([memoryview(exact)], GOOD._replace(gso_size=3))) == MAX_SEGMENTS
    with pytest.raises(FrameError):
        finish([memoryview(exact + b"\0")], GOOD._replace(gso_size=3))


@pytest.mark.parametrize("length", [0, 13])
def test_what_is_shorter_than_a_header_is_no_frame(length: int) -> None:
    for finisher in (finish, finish_whole):
        with pytest.raises(FrameError, match=f"a frame of {length} bytes"):
            finisher([memoryview(bytes(length))], None)
