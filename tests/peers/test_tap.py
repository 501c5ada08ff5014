"""A tap interface of the host, with a packet socket at its other end. Takes the right to make one."""

import fcntl
import os
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import closing

import pytest

from emu.devices.net.tap import Tap
from emu.devices.net.types import Offload
from emu.devices.virtio.spec import NET_F_GUEST_CSUM, NET_F_GUEST_TSO4, NET_GSO_TCPV4
from emu.errors import ConfigError
from tests.unit.test_net_offload import LARGE, left_to_the_card, tcp_packet

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
ETH_P_ALL = 3
LIMIT_S = 10.0
KIND = b"\x88\xb5"
CSUM = Offload(needs_csum=True, csum_start=34, csum_offset=16)


class Wire:
    """A tap that is up, and a packet socket on it."""

    def __init__(self) -> None:
        self.name = f"emu{os.getpid() % 100000}"
        self.tap = Tap(self.name, "-netdev tap")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            request = struct.pack("16sH22x", self.name.encode(), 0)
            (flags,) = struct.unpack_from("H", fcntl.ioctl(control, SIOCGIFFLAGS, request), 16)
            fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sH22x", self.name.encode(), flags | IFF_UP))
        self.far = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.far.bind((self.name, ETH_P_ALL))
        self.far.settimeout(LIMIT_S)

    def far_receives(self, kind: bytes) -> bytes:
        """The next frame of that type that came from the guest's side."""
        while True:
            data, (_, _, packet_type, _, _) = self.far.recvfrom(1 << 17)
            if data[12:14] == kind and packet_type != socket.PACKET_OUTGOING:
                return data

    def tap_receives(self, kind: bytes) -> bytes:
        """The next frame of that type for the guest."""
        assert self.tap.fd is not None
        while True:
            assert select.select([self.tap.fd], [], [], LIMIT_S)[0]
            while (data := self.tap.receive()) is not None:
                if data[12:14] == kind:
                    return bytes(data)

    def close(self) -> None:
        self.far.close()
        self.tap.close()
        self.tap.close()


@pytest.fixture
def wire() -> Iterator[Wire]:
    try:
        made = Wire()
    except ConfigError as error:
        pytest.skip(str(error))
    with closing(made):
        yield made


def frame(length: int) -> bytes:
    return b"\xff" * 6 + b"\x02" + bytes(5) + KIND + bytes(i & 0xFF for i in range(length - 14))


def test_frames_pass_both_ways(wire: Wire) -> None:
    sent = memoryview(frame(300))
    wire.tap.send([sent[:20], sent[20:]])
    assert wire.far_receives(KIND) == frame(300)
    wire.far.send(frame(400))
    assert wire.tap_receives(KIND) == frame(400)
    assert wire.tap.left is None
    assert wire.tap.dropped == 0


def test_a_frame_in_very_many_pieces_passes(wire: Wire) -> None:
    view = memoryview(frame(1400))
    wire.tap.send([view[i : i + 1] for i in range(1400)])
    assert wire.far_receives(KIND) == frame(1400)


def test_a_large_packet_and_its_checksum_are_left_to_the_host(wire: Wire) -> None:
    wire.tap.send([memoryview(LARGE)], CSUM._replace(gso_type=NET_GSO_TCPV4, gso_size=1000, hdr_len=54))
    assert wire.far_receives(b"\x08\x00") == LARGE


def test_a_header_that_makes_no_sense_is_dropped_and_counted(wire: Wire) -> None:
    wire.tap.send([memoryview(LARGE)], CSUM._replace(csum_start=65000))
    wire.tap.send([memoryview(LARGE)], CSUM._replace(gso_type=77, gso_size=1000))
    assert wire.tap.dropped == 2


def test_what_the_driver_accepts_may_be_left_to_it(wire: Wire) -> None:
    for accepted in (NET_F_GUEST_CSUM | NET_F_GUEST_TSO4, NET_F_GUEST_CSUM, 0):
        wire.tap.accept(accepted)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as far:
            far.bind((wire.name, ETH_P_ALL))
            far.setsockopt(263, 15, 1)  # SOL_PACKET, PACKET_VNET_HDR: a header as ours comes first
            unfinished = left_to_the_card(tcp_packet(4, bytes(100)), 4, 34)
            far.send(struct.pack("<BBHHHH", 1, 0, 0, 0, 34, 16) + unfinished)
        received = wire.tap_receives(b"\x08\x00")
        if accepted:
            assert (received, wire.tap.left) == (unfinished, CSUM)
        else:
            assert (received, wire.tap.left) == (tcp_packet(4, bytes(100)), None)


def test_an_interface_has_one_user(wire: Wire) -> None:
    with pytest.raises(ConfigError, match=f"^-netdev tap: {wire.name}: Device or resource busy"):
        Tap(wire.name, "-netdev tap")


@pytest.mark.parametrize("name", ["", "a" * 16])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="an interface's name has 1 to 15 bytes"):
        Tap(name, "-netdev tap")
