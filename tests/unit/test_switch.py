"""The switch of `emu serve`: who gets which frame, who loses some, and what is left to a receiver."""

import struct
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

from emu.devices.net.dump import PcapFile
from emu.devices.net.offload import finish
from emu.devices.net.types import Offload
from emu.devices.virtio.spec import (
    NET_F_GUEST_CSUM,
    NET_F_GUEST_ECN,
    NET_F_GUEST_TSO4,
    NET_F_GUEST_TSO6,
    NET_GSO_ECN,
    NET_GSO_TCPV4,
)
from emu.serve.fair_queue import MOST_BYTES, MOST_FRAMES, FairQueue, Waiting
from emu.serve.switch import AGE_S, MOST_ADDRESSES, Port, Switch
from tests.unit.test_net_offload import LARGE, left_to_the_card, tcp_packet

BROADCAST = b"\xff" * 6
GROUP = bytes.fromhex("01005e000001")


def mac(number: int) -> bytes:
    return struct.pack(">HI", 0x5254, number)


def frame(to: bytes, source: bytes, payload: bytes = b"") -> bytes:
    return to + source + b"\x88\xb5" + payload.ljust(46, b"\0")


class Net:
    """A switch with ports, whose clock stands still; `ready` are the ports that were told of frames."""

    def __init__(self, ports: int = 3, capture: PcapFile | None = None) -> None:
        self.now = 1000.0
        self.switch = Switch(capture, lambda: self.now)
        self.ports = [Port(self.switch, f"port {i}") for i in range(ports)]
        self.ready: list[int] = []
        for i, port in enumerate(self.ports):
            port.on_ready = partial(self.ready.append, i)

    def send(self, port: int, data: bytes, offload: Offload | None = None) -> None:
        """In two pieces, as from a guest's descriptors."""
        view = memoryview(data)
        self.ports[port].send([view[:9], view[9:]], offload)

    def received(self, port: int) -> list[bytes]:
        """What waits for a port."""
        found = []
        while (data := self.ports[port].receive()) is not None:
            found.append(bytes(data))
        return found

    def everywhere(self) -> list[int]:
        """How many frames wait for each port."""
        return [len(self.received(i)) for i in range(len(self.ports))]


def test_an_unknown_destination_is_flooded_and_a_known_one_is_not() -> None:
    net = Net()
    net.send(0, frame(mac(2), mac(1)))
    assert net.everywhere() == [0, 1, 1]
    net.send(2, frame(mac(1), mac(2)))
    assert net.everywhere() == [1, 0, 0]
    net.send(0, frame(mac(2), mac(1), b"back"))
    assert [net.received(i) for i in range(3)] == [[], [], [frame(mac(2), mac(1), b"back")]]


@pytest.mark.parametrize("to", [BROADCAST, GROUP])
def test_a_group_is_everybody_but_the_sender(to: bytes) -> None:
    net = Net()
    for port in range(3):
        net.send(port, frame(to, mac(port)))
    assert net.everywhere() == [2, 2, 2]


def test_an_address_moves_to_where_it_was_seen_last() -> None:
    net = Net()
    net.send(0, frame(BROADCAST, mac(1)))
    net.send(1, frame(BROADCAST, mac(1)))
    net.everywhere()
    net.send(2, frame(mac(1), mac(3)))
    assert net.everywhere() == [0, 1, 0]


def test_a_frame_for_the_senders_own_port_goes_nowhere() -> None:
    net = Net()
    net.send(0, frame(BROADCAST, mac(1)))
    net.everywhere()
    net.send(0, frame(mac(1), mac(4)))
    assert net.everywhere() == [0, 0, 0]


def test_a_group_is_no_source() -> None:
    net = Net()
    net.send(0, frame(mac(9), GROUP))
    net.everywhere()
    net.send(1, frame(GROUP, mac(2)))
    assert net.everywhere() == [1, 0, 1]


def test_a_silent_address_is_forgotten() -> None:
    net = Net()
    net.send(0, frame(BROADCAST, mac(1)))
    net.everywhere()
    net.now += AGE_S
    net.send(1, frame(mac(1), mac(2)))
    assert net.everywhere() == [1, 0, 0]
    net.now += 1
    net.send(1, frame(mac(1), mac(2)))
    assert net.everywhere() == [1, 0, 1]


def test_one_port_cannot_push_out_the_addresses_of_others() -> None:
    net = Net()
    net.send(1, frame(BROADCAST, mac(1)))
    for i in range(MOST_ADDRESSES + 1):
        net.send(0, frame(mac(1), mac(0x100 + i)))
    net.everywhere()
    net.send(2, frame(mac(1), mac(3)))
    assert net.everywhere() == [0, 1, 0], "still known"
    net.send(2, frame(mac(0x100), mac(3)))
    assert net.everywhere() == [1, 1, 0], "its own first one is not"
    net.send(2, frame(mac(0x101), mac(3)))
    assert net.everywhere() == [1, 0, 0]


def test_a_port_that_left_gets_nothing_and_is_known_no_more() -> None:
    net = Net()
    net.send(0, frame(BROADCAST, mac(1)))
    net.everywhere()
    net.ports[0].close()
    net.ports[0].close()
    net.send(1, frame(mac(1), mac(2)))
    assert net.everywhere() == [0, 0, 1]


def test_a_port_is_told_once_until_it_has_read_everything() -> None:
    net = Net(ports=2)
    for _ in range(2):
        net.send(0, frame(mac(2), mac(1)))
    assert net.ready == [1]
    assert net.everywhere() == [0, 2]
    net.send(0, frame(mac(2), mac(1)))
    assert net.ready == [1, 1]


def test_what_is_no_frame_is_dropped_and_counted() -> None:
    net = Net()
    net.send(0, bytes(13))
    net.send(0, LARGE, Offload(needs_csum=True, csum_start=65535))
    assert net.everywhere() == [0, 0, 0]
    assert net.switch.dropped == 2


def test_what_waits_is_not_for_the_next_driver() -> None:
    net = Net(ports=2)
    net.send(0, frame(BROADCAST, mac(1)))
    net.ports[1].accept(0)
    assert net.everywhere() == [0, 0]


# ---- what is left to do ----------------------------------------------------------------------------

CSUM = Offload(needs_csum=True, csum_start=34, csum_offset=16)
TSO = CSUM._replace(gso_type=NET_GSO_TCPV4, gso_size=1000)
SMALL = left_to_the_card(tcp_packet(4, bytes(100)), 4, 34)


def got(port: Port) -> list[tuple[bytes, Offload | None]]:
    found = []
    while (data := port.receive()) is not None:
        found.append((bytes(data), port.left))
    return found


@pytest.mark.parametrize(
    ("accepted", "offload", "data", "passes"),
    [
        (0, CSUM, SMALL, False),
        (NET_F_GUEST_CSUM, CSUM, SMALL, True),
        (NET_F_GUEST_CSUM, TSO, LARGE, False),
        (NET_F_GUEST_CSUM | NET_F_GUEST_TSO6, TSO, LARGE, False),
        (NET_F_GUEST_CSUM | NET_F_GUEST_TSO4, TSO, LARGE, True),
        (NET_F_GUEST_CSUM | NET_F_GUEST_TSO4, TSO._replace(gso_type=0x81), LARGE, False),
        (
            NET_F_GUEST_CSUM | NET_F_GUEST_TSO4 | NET_F_GUEST_ECN,
            TSO._replace(gso_type=NET_GSO_TCPV4 | NET_GSO_ECN),
            LARGE,
            True,
        ),
    ],
)
def test_work_passes_to_a_receiver_that_takes_it_and_is_done_for_others(
    accepted: int, offload: Offload, data: bytes, passes: bool
) -> None:
    net = Net()
    net.ports[1].accept(accepted)
    net.send(0, data, offload)
    finished = [(bytes(each), None) for each in finish([memoryview(data)], offload)]
    hdr_len = 54 if offload.gso_type else 0
    assert got(net.ports[1]) == ([(data, offload._replace(hdr_len=hdr_len))] if passes else finished)
    assert got(net.ports[2]) == finished, "flooded to one that takes nothing"


def test_a_guests_word_for_the_length_of_headers_is_not_passed_on() -> None:
    net = Net(ports=2)
    net.ports[1].accept(NET_F_GUEST_CSUM | NET_F_GUEST_TSO4)
    net.send(0, LARGE, TSO._replace(hdr_len=60000))
    assert got(net.ports[1])[0][1] == TSO._replace(hdr_len=54)


# ---- room and fairness -----------------------------------------------------------------------------


def test_a_port_that_does_not_read_loses_its_own_frames_only() -> None:
    net = Net()
    for i in range(MOST_FRAMES + 10):
        net.send(0, frame(BROADCAST, mac(1), struct.pack("<I", i)))
        assert len(net.received(1)) == 1
    assert [port.dropped for port in net.ports] == [0, 0, 10]
    kept = net.received(2)
    assert len(kept) == MOST_FRAMES
    assert kept[0] == frame(BROADCAST, mac(1), struct.pack("<I", 0)), "the oldest come first"


def test_large_frames_are_bounded_by_their_bytes() -> None:
    queue = FairQueue()
    for _ in range(200):
        queue.push("a", Waiting(bytes(65000), None))
    assert len(queue) == MOST_BYTES // 65000
    assert queue.dropped == 200 - MOST_BYTES // 65000


def drained(queue: FairQueue) -> list[bytes]:
    found = []
    while (item := queue.pop()) is not None:
        found.append(bytes(item.frame))
    return found


def fill(queue: FairQueue, source: str, frames: Sequence[bytes]) -> None:
    for each in frames:
        queue.push(source, Waiting(each, None))


def test_sources_take_turns() -> None:
    queue = FairQueue()
    fill(queue, "a", [b"a1", b"a2", b"a3", b"a4"])
    fill(queue, "b", [b"b1", b"b2"])
    fill(queue, "c", [b"c1"])
    assert drained(queue) == [b"a1", b"b1", b"c1", b"a2", b"b2", b"a3", b"a4"]


def test_who_sends_much_loses_and_the_others_do_not() -> None:
    queue = FairQueue()
    fill(queue, "loud", [b"loud"] * (2 * MOST_FRAMES))
    assert queue.dropped == MOST_FRAMES
    fill(queue, "quiet", [b"q%d" % i for i in range(100)])
    assert queue.dropped == MOST_FRAMES + 100
    assert len(queue) == MOST_FRAMES
    assert drained(queue)[:6] == [b"loud", b"q0", b"loud", b"q1", b"loud", b"q2"]


def test_a_source_can_be_lost_wholly() -> None:
    queue = FairQueue()
    fill(queue, "one", [bytes(MOST_BYTES)])
    fill(queue, "two", [b"small"])
    assert drained(queue) == [b"small"]
    assert queue.dropped == 1


def test_a_cleared_queue_is_empty_and_works() -> None:
    queue = FairQueue()
    fill(queue, "a", [b"a1", b"a2"])
    queue.clear()
    assert (len(queue), queue.pop(), queue.dropped) == (0, None, 0)
    fill(queue, "a", [b"a3"])
    assert drained(queue) == [b"a3"]


# ---- capture ---------------------------------------------------------------------------------------


def test_every_frame_is_captured_once(tmp_path: Path) -> None:
    file = PcapFile("--pcap", str(tmp_path / "f.pcap"))
    net = Net(capture=file)
    net.send(0, frame(BROADCAST, mac(1)))
    net.send(1, frame(mac(1), mac(2), b"x"))
    file.close()
    data = (tmp_path / "f.pcap").read_bytes()
    assert data[:24] == struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65536, 1)
    assert data[40:100] == frame(BROADCAST, mac(1))
    assert data[116:] == frame(mac(1), mac(2), b"x")
    assert struct.unpack_from("<II", data, 32) == (60, 60)
