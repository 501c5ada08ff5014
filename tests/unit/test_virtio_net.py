"""virtio-net: frames between rings and a cable, byte by byte. Source: VIRTIO 1.2, section 5.1."""

import itertools
import struct
from collections.abc import Sequence

import pytest

from emu.devices.net.types import CHECKED, MAX_FRAME, Offload
from emu.devices.virtio.net import MAX_PAIRS, VirtioNet
from emu.devices.virtio.net_queues import MOST_WAITING, NetQueues, Turn
from emu.devices.virtio.spec import (
    DESC_F_WRITE,
    F_VERSION_1,
    NET_F_CSUM,
    NET_F_CTRL_VQ,
    NET_F_GUEST_ANNOUNCE,
    NET_F_GUEST_CSUM,
    NET_F_MQ,
    NET_F_MRG_RXBUF,
    NET_F_MTU,
    NET_GSO_TCPV4,
)
from emu.errors import ConfigError, DriverError
from emu.testing.driver_queue import DriverQueue
from emu.testing.e1000_driver import Cable

MAC = bytes.fromhex("525400123456")
OTHER = bytes.fromhex("0200000000aa")
PLAIN = bytes(12)
RECEIVED = bytes(10) + b"\x01\x00"


def frame(length: int, to: bytes = MAC, first: int = 0) -> bytes:
    """An Ethernet frame whose payload counts."""
    return to + OTHER + b"\x08\x00" + bytes((first + i) & 0xFF for i in range(length - 14))


@pytest.fixture(params=["plain", "fused"], autouse=True)
def _path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything holds on both paths."""
    monkeypatch.setattr(NetQueues, "fused", request.param == "fused")


class Card:
    """A card with a ring for each queue; `kicked` are the queues it asked for."""

    def __init__(self, *, features: int | None = None, pairs: int = 1, size: int = 16) -> None:
        self.cable = Cable()
        self.net = VirtioNet(self.cable, mac=MAC, pairs=pairs, mtu=1500)
        self.kicked: list[int] = []
        self.net.kick = self.kicked.append
        self.net.set_features(self.net.features | F_VERSION_1 if features is None else features)
        self.rings = [DriverQueue(size=size, slot_bytes=1 << 17) for _ in range(self.net.queues)]
        self.drains = [self.net.drain(i, ring.device_side()) for i, ring in enumerate(self.rings)]

    @property
    def rx(self) -> DriverQueue:
        return self.rings[0]

    @property
    def tx(self) -> DriverQueue:
        return self.rings[1]

    def send(self, *parts: bytes) -> None:
        """One chain out; it must come back."""
        head = self.tx.add(*parts)
        assert self.drains[1](256) == 1
        assert self.tx.used() == [(head, 0)]

    def receive(self) -> list[bytes]:
        """What the driver finds in its buffers, chain by chain, as long as the device says."""
        self.drains[0](256)
        return [self.rx.written(head)[:length] for head, length in self.rx.used()]

    def command(self, *parts: bytes) -> int:
        """One command; its status."""
        ring = self.rings[-1]
        head = ring.add(*parts, 1)
        assert self.drains[-1](256) == 1
        assert ring.used() == [(head, 1)]
        return ring.written(head)[0]


# ---- from the driver -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cuts", [(), (12,), (5,), (5, 12), (1, 2, 3, 11, 12, 13), (5, 20, 30), (12, 26), (40,)]
)
def test_a_frame_is_sent_however_its_chain_is_cut(cuts: Sequence[int]) -> None:
    card, sent = Card(), frame(60)
    whole = PLAIN + sent
    edges = [0, *cuts, len(whole)]
    card.send(*(whole[a:b] for a, b in itertools.pairwise(edges)))
    assert card.cable.sent == [(sent, None)]
    assert card.net.dropped == 0


def test_what_the_driver_leaves_to_the_card_is_handed_on() -> None:
    card = Card()
    card.send(struct.pack("<BBHHHHH", 1, NET_GSO_TCPV4, 54, 1448, 34, 16, 0) + frame(4000))
    card.send(struct.pack("<BBHHHHH", 1, 0, 0, 0, 34, 16, 0) + frame(60))
    assert [offload for _, offload in card.cable.sent] == [
        Offload(needs_csum=True, csum_start=34, csum_offset=16, gso_type=1, gso_size=1448, hdr_len=54),
        Offload(needs_csum=True, csum_start=34, csum_offset=16),
    ]


def test_a_flag_that_asks_for_nothing_leaves_nothing() -> None:
    card = Card()
    card.send(struct.pack("<BBHHHHH", 2, 0, 9, 9, 9, 9, 9) + frame(60))
    assert card.cable.sent == [(frame(60), None)]


@pytest.mark.parametrize(
    "parts",
    [
        (PLAIN[:11],),
        (PLAIN[:5], PLAIN[:6]),
        (PLAIN,),
        (PLAIN, frame(14)[:13]),
        (PLAIN, bytes(MAX_FRAME + 1)),
    ],
)
def test_a_chain_that_is_no_frame_is_dropped_and_counted(parts: Sequence[bytes]) -> None:
    card = Card()
    card.send(*parts)
    assert card.cable.sent == []
    assert card.net.dropped == 1


def test_a_chain_for_the_device_to_write_is_no_frame() -> None:
    card = Card()
    head = card.tx.add(100)
    card.drains[1](256)
    assert card.tx.used() == [(head, 0)]
    assert card.net.dropped == 1


def test_the_longest_frame_is_sent() -> None:
    card = Card()
    card.send(PLAIN, frame(MAX_FRAME))
    assert [len(sent) for sent, _ in card.cable.sent] == [MAX_FRAME]


def test_a_driver_sends_no_more_in_a_turn_than_it_may() -> None:
    queues, ring = NetQueues(cable := Cable(), 1, Turn(frames=3, bytes=150)), DriverQueue(size=8)
    queues.set_features(F_VERSION_1)
    drain = queues.drain(1, ring.device_side())
    for _ in range(5):
        ring.add(PLAIN + frame(60))
    assert drain(256) == 3, "three frames of 60 bytes"
    assert drain(1) == 1
    assert drain(256) == 1
    assert len(cable.sent) == 5
    for _ in range(4):
        ring.used()
        ring.add(PLAIN + frame(100))
    assert [drain(256), drain(256)] == [2, 2], "two frames of 100 bytes"


def test_without_version_1_and_mergeable_buffers_the_header_is_short() -> None:
    queues, rx, tx = NetQueues(cable := Cable(), 1), DriverQueue(), DriverQueue()
    queues.set_features(0)
    tx.add(bytes(10) + frame(60))
    assert queues.drain(1, tx.device_side())(256) == 1
    assert cable.sent == [(frame(60), None)]
    head = rx.add(1000)
    cable.offer(frame(64))
    queues.drain(0, rx.device_side())(256)
    assert rx.used() == [(head, 74)]
    assert rx.written(head)[:74] == bytes(10) + frame(64)


# ---- to the driver ---------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [(1600,), (12, 1588), (5, 7, 1, 1587), (20, 20, 1560)])
def test_a_frame_is_received_however_the_buffer_is_cut(parts: Sequence[int]) -> None:
    card = Card()
    card.rx.add(*parts)
    card.cable.offer(frame(1000))
    assert card.kicked == [0]
    assert card.receive() == [RECEIVED + frame(1000)]
    assert card.net.costs.bytes_copied == 1000


@pytest.mark.parametrize("length", [1000, 3000])
def test_the_driver_hears_of_a_checksum_that_was_found_right(length: int) -> None:
    card = Card()
    card.cable.left = CHECKED
    for _ in range(2):
        card.rx.add(1600)
    card.cable.offer(frame(length))
    buffers = 1 + (length > 1588)
    assert b"".join(card.receive()) == b"\x02" + bytes(9) + bytes((buffers, 0)) + frame(length)


def test_a_frame_lies_in_several_buffers_and_says_in_how_many() -> None:
    card = Card()
    for _ in range(4):
        card.rx.add(400)
    card.cable.offer(frame(1000))
    assert card.receive() == [
        bytes(10) + b"\x03\x00" + frame(1000)[:388],
        frame(1000)[388:788],
        frame(1000)[788:],
    ]
    card.cable.offer(frame(388))
    assert card.receive() == [RECEIVED + frame(388)], "the last buffer was not lost"


def test_every_byte_of_a_frame_is_reported_as_written_before_the_driver_sees_it() -> None:
    card, reported = Card(), set[int]()

    def report(gpa: int, length: int) -> None:
        assert card.rx.used_words[1] == 0, "not yet"
        reported.update(range(gpa, gpa + length))

    card.rx.memory.on_written = report
    heads = [card.rx.add(400) for _ in range(3)]
    card.cable.offer(frame(1000))
    card.receive()
    for head, length in zip(heads, (400, 400, 212), strict=True):
        gpa = card.rx.parts[head][0][0]
        assert reported >= set(range(gpa, gpa + length))


def test_buffers_that_follow_each_other_in_memory_are_filled_in_order() -> None:
    card = Card()
    heads = [card.rx.prepare(400) for _ in range(4)]
    for i, gpa in enumerate((0x3_0000, 0x3_0000 + 400, 0x2_0000, 0x3_0000 + 800)):
        card.rx.put(heads[i], gpa, 400, DESC_F_WRITE)
        card.rx.parts[heads[i]] = [(gpa, 400, True)]
        card.rx.publish(heads[i])
    card.cable.offer(frame(1500))
    assert b"".join(card.receive()) == bytes(10) + b"\x04\x00" + frame(1500)


def test_a_frame_waits_until_there_are_buffers_for_all_of_it() -> None:
    card = Card()
    card.rx.add(400)
    card.rx.add(400)
    card.cable.offer(frame(1000), frame(60, first=9))
    assert card.receive() == []
    card.rx.add(400)
    card.rx.add(400)
    assert b"".join(card.receive()) == bytes(10) + b"\x03\x00" + frame(1000) + RECEIVED + frame(60, first=9)
    assert card.net.dropped == 0


def test_without_mergeable_buffers_a_frame_that_is_too_long_is_dropped_and_the_buffer_is_kept() -> None:
    card = Card(features=F_VERSION_1)
    card.rx.add(200)
    card.rx.add(200)
    card.cable.offer(frame(189), frame(188), frame(60))
    assert card.receive() == [RECEIVED + frame(188), RECEIVED + frame(60)]
    assert card.net.dropped == 1


def test_a_frame_that_a_whole_ring_cannot_hold_is_dropped() -> None:
    card = Card(size=4)
    for _ in range(4):
        card.rx.add(100)
    card.cable.offer(frame(389), frame(388))
    received = card.receive()
    assert b"".join(received) == bytes(10) + b"\x04\x00" + frame(388)
    assert card.net.dropped == 1


def test_a_buffer_without_room_for_a_header_stops_the_queue() -> None:
    card = Card()
    card.rx.add(11)
    card.cable.offer(frame(60))
    with pytest.raises(DriverError, match="a buffer to receive into with 11 bytes"):
        card.drains[0](256)


@pytest.mark.parametrize(
    ("from_end", "length", "flags", "why"),
    [
        (400, 401, DESC_F_WRITE, "0x[0-9a-f]+"),
        (0, 400, DESC_F_WRITE, "0x[0-9a-f]+"),
        (400, 400, 0, "a buffer to receive into with 0 bytes"),
    ],
)
def test_a_buffer_that_is_not_for_the_device_stops_the_queue_and_stays_as_it_was(
    from_end: int, length: int, flags: int, why: str
) -> None:
    card = Card()
    end = card.rx.memory.ranges[0].size
    head = card.rx.add(400)
    card.rx.put(head, end - from_end, length, flags)
    card.cable.offer(frame(380))
    with pytest.raises(DriverError, match=why):
        card.drains[0](256)
    assert bytes(card.rx.memory.view(end - 400, 400)) == bytes(400)
    assert card.rx.used() == []


def test_a_limit_is_kept() -> None:
    card = Card()
    for _ in range(3):
        card.rx.add(200)
    card.cable.offer(frame(60), frame(61), frame(62))
    assert card.drains[0](2) == 2
    assert card.drains[0](2) == 1


def test_what_comes_while_the_driver_sends_is_told_once_and_afterwards() -> None:
    card = Card()
    told: list[int] = []
    send = card.cable.send

    def answer(frames: Sequence[memoryview], offload: Offload | None = None) -> None:
        send(frames, offload)
        card.cable.offer(frame(60))
        told.append(len(card.kicked))

    card.cable.send = answer  # type: ignore[method-assign]  # an end that answers at once
    card.tx.add(PLAIN + frame(60))
    card.tx.add(PLAIN + frame(60))
    card.drains[1](256)
    assert told == [0, 0]
    assert card.kicked == [0]


# ---- several queues --------------------------------------------------------------------------------


def flow(source_port: int) -> bytes:
    """A frame with ports."""
    return frame(34)[:26] + bytes(10) + bytes((0, source_port)) + bytes(22)


def test_a_flow_stays_on_its_queue_and_others_are_put_by() -> None:
    card = Card(pairs=2)
    assert card.command(b"\x04\x00\x02\x00") == 0
    for ring in (card.rings[0], card.rings[2]):
        for _ in range(4):
            ring.add(200)
    card.cable.offer(flow(0), flow(1), flow(2), flow(3))
    assert card.receive() == [RECEIVED + flow(0), RECEIVED + flow(2)]
    assert card.kicked == [0, 2, 2]
    assert card.drains[2](256) == 2
    ring = card.rings[2]
    assert [ring.written(head)[:length] for head, length in ring.used()] == [
        RECEIVED + flow(1),
        RECEIVED + flow(3),
    ]


def test_one_pair_is_used_until_the_driver_asks_for_more() -> None:
    card = Card(pairs=2)
    for _ in range(2):
        card.rx.add(200)
    card.cable.offer(flow(0), flow(1))
    assert len(card.receive()) == 2


def test_a_queue_without_buffers_keeps_a_bounded_number_of_frames() -> None:
    card = Card(pairs=2)
    card.command(b"\x04\x00\x02\x00")
    card.rx.add(200)
    card.cable.offer(*[flow(1)] * (MOST_WAITING + 5), flow(0))
    assert card.receive() == [RECEIVED + flow(0)]
    assert card.net.dropped == 5


def test_a_flow_whose_queue_nobody_serves_goes_to_the_first() -> None:
    queues, ring = NetQueues(cable := Cable(), 2), DriverQueue()
    queues.kick = lambda queue: queue == 0
    queues.set_features(F_VERSION_1 | NET_F_MRG_RXBUF)
    queues.used_pairs = 2
    for _ in range(2):
        ring.add(200)
    cable.offer(flow(0), flow(1))
    assert queues.drain(0, ring.device_side())(256) == 2


@pytest.mark.parametrize("pairs", [0, MAX_PAIRS + 1])
def test_a_number_of_pairs_that_cannot_be_is_refused(pairs: int) -> None:
    with pytest.raises(ConfigError, match=f"{pairs} queue pairs: 1 to {MAX_PAIRS}"):
        VirtioNet(Cable(), mac=MAC, pairs=pairs)


def test_without_mq_the_control_queue_is_the_third() -> None:
    card = Card(pairs=2, features=F_VERSION_1 | NET_F_CTRL_VQ)
    drain = card.net.drain(2, card.rings[2].device_side())
    head = card.rings[2].add(b"\x00\x00\x01", 1)
    assert drain(256) == 1
    assert card.rings[2].used() == [(head, 1)]


# ---- control queue ---------------------------------------------------------------------------------

OK, ERR = 0, 1
GROUP = bytes.fromhex("01005e000001")


def reaches(card: Card, *frames: bytes) -> list[bool]:
    """Which of these frames the driver gets."""
    found = []
    for each in frames:
        card.rx.add(2000)
        card.cable.offer(each)
        found.append(card.receive() == [RECEIVED + each])
    return found


def table(*addresses: bytes) -> bytes:
    return struct.pack("<I", len(addresses)) + b"".join(addresses)


def test_everything_reaches_a_driver_that_has_not_said_what_it_wants() -> None:
    assert reaches(Card(), frame(60), frame(60, OTHER), frame(60, GROUP)) == [True] * 3


def test_out_of_promiscuous_mode_own_broadcast_and_listed_frames_come() -> None:
    card = Card()
    broadcast = b"\xff" * 6
    assert card.command(b"\x00\x00\x00") == OK
    wanted = [frame(60), frame(60, OTHER), frame(60, GROUP), frame(60, broadcast)]
    assert reaches(card, *wanted) == [True, False, False, True]
    assert card.command(b"\x01\x00", table(OTHER), table(GROUP)) == OK
    assert reaches(card, *wanted) == [True] * 4
    assert card.command(b"\x01\x01" + OTHER) == OK
    assert card.command(b"\x01\x00", table(), table()) == OK
    assert reaches(card, *wanted) == [False, True, False, True]


@pytest.mark.parametrize(
    ("mode", "reached"),
    [
        (1, [True, False, True, True]),  # all multicast
        (2, [True, True, False, True]),  # all unicast
        (3, [True, False, False, True]),  # no multicast
        (4, [False, False, False, True]),  # no unicast
        (5, [True, False, False, False]),  # no broadcast
    ],
)
def test_each_receive_mode_lets_its_frames_through(mode: int, reached: list[bool]) -> None:
    card = Card()
    assert [card.command(b"\x00\x00\x00"), card.command(bytes((0, mode, 1)))] == [OK, OK]
    assert reaches(card, frame(60), frame(60, OTHER), frame(60, GROUP), frame(60, b"\xff" * 6)) == reached


def test_a_table_that_is_too_long_stops_the_filter() -> None:
    card = Card()
    card.command(b"\x00\x00\x00")
    many = [struct.pack(">HI", 0x0200, i) for i in range(65)]
    assert card.command(b"\x01\x00", table(*many), table()) == OK
    assert reaches(card, frame(60, OTHER)) == [True]


def test_only_the_vlans_that_were_added_come() -> None:
    card = Card()
    card.command(b"\x00\x00\x00")
    tagged = MAC + OTHER + b"\x81\x00\x60\x05\x08\x00" + bytes(46)
    assert reaches(card, tagged, frame(60)) == [False, True]
    assert card.command(b"\x02\x00\x05\x00") == OK
    assert reaches(card, tagged) == [True]
    assert card.command(b"\x02\x01\x05\x00") == OK
    assert reaches(card, tagged) == [False]


@pytest.mark.parametrize(
    "command",
    [
        b"",
        b"\x00",
        b"\x00\x06\x01",  # no such mode
        b"\x00\x00",
        b"\x00\x00\x01\x01",
        b"\x01\x00",
        b"\x01\x00" + table(),
        b"\x01\x00" + table() + table() + b"\0",
        b"\x01\x00" + struct.pack("<I", 2) + OTHER + table(),
        b"\x01\x00" + b"\xff" * 8,
        b"\x01\x01" + MAC[:5],
        b"\x01\x02" + MAC,
        b"\x02\x00\x00\x10",
        b"\x02\x00\x05",
        b"\x02\x02\x05\x00",
        b"\x03\x01",
        b"\x03\x00\x00",
        b"\x04\x00\x00\x00",  # no pair
        b"\x04\x00\x03\x00",  # more than there are
        b"\x04\x00\x01",
        b"\x04\x01\x01\x00",
        b"\x05\x00" + bytes(8),  # not offered
        b"\x06\x00",
        b"\xff\xff" + bytes(100),
    ],
)
def test_a_command_that_makes_no_sense_is_refused_and_changes_nothing(command: bytes) -> None:
    card = Card(pairs=2)
    ring = card.rings[-1]
    head = ring.add(command, 1) if command else ring.add(1)
    assert card.drains[-1](256) == 1
    assert ring.used() == [(head, 1)]
    assert ring.written(head)[0] == ERR
    assert reaches(card, frame(60), frame(60, OTHER)) == [True, True]


@pytest.mark.parametrize("command", [b"\x00\x00\x00", b"\x01\x01" + OTHER, b"\x02\x00\x05\x00", b"\x03\x00"])
def test_a_command_that_was_not_negotiated_is_refused(command: bytes) -> None:
    card = Card(features=F_VERSION_1 | NET_F_CTRL_VQ)
    assert card.command(command) == ERR


def test_a_command_without_room_for_its_status_is_given_back() -> None:
    card = Card()
    head = card.rings[-1].add(b"\x00\x00\x00")
    card.drains[-1](256)
    assert card.rings[-1].used() == [(head, 0)]


def test_an_announcement_is_wished_for_until_the_driver_answers() -> None:
    card = Card()
    changes: list[int] = []
    card.net.config_changed = lambda: changes.append(1)
    card.net.announce()
    assert struct.unpack("<H", card.net.config(6, 2)) == (3,)
    assert card.command(b"\x03\x00") == OK
    assert struct.unpack("<H", card.net.config(6, 2)) == (1,)
    assert len(changes) == 1
    quiet = Card(features=F_VERSION_1)
    quiet.net.announce()
    assert struct.unpack("<H", quiet.net.config(6, 2)) == (1,)


# ---- configuration ---------------------------------------------------------------------------------


def test_the_configuration_is_address_status_pairs_mtu_and_no_speed() -> None:
    card = Card(pairs=3)
    assert card.net.config(0, 100) == struct.pack("<6sHHHIB", MAC, 1, 3, 1500, 0xFFFFFFFF, 0xFF)
    assert card.net.config(10, 2) == b"\xdc\x05"
    assert card.net.config(17, 4) == b""


def test_a_pulled_cable_is_a_change_of_configuration() -> None:
    card = Card()
    status: list[bytes] = []
    card.net.config_changed = lambda: status.append(card.net.config(6, 2))
    card.cable.plug(False)
    card.cable.plug(True)
    assert status == [b"\0\0", b"\x01\0"]


def test_only_what_there_is_is_offered() -> None:
    bare = VirtioNet(Cable(), mac=MAC, mergeable=False, offloads=False)
    assert bare.features & (NET_F_MQ | NET_F_MTU | NET_F_MRG_RXBUF | NET_F_CSUM | NET_F_GUEST_CSUM) == 0
    full = VirtioNet(Cable(), mac=MAC, pairs=2, mtu=1500)
    wanted = NET_F_MQ | NET_F_MTU | NET_F_MRG_RXBUF | NET_F_CSUM | NET_F_GUEST_ANNOUNCE
    assert full.features & wanted == wanted
    assert not full.features & NET_F_GUEST_CSUM, "a cable finishes its frames"


@pytest.mark.parametrize("mac", [bytes(5), b"\x01" + bytes(5)])
def test_an_address_that_is_none_is_refused(mac: bytes) -> None:
    with pytest.raises(ConfigError, match="six bytes, the first one even"):
        VirtioNet(Cable(), mac=mac)


def test_a_reset_forgets_filters_pairs_and_frames() -> None:
    card = Card(pairs=2)
    card.command(b"\x04\x00\x02\x00")
    card.command(b"\x00\x00\x00")
    card.rx.add(200)
    card.cable.offer(flow(1), flow(0))
    card.receive()
    card.net.set_features(card.net.features | F_VERSION_1)
    ring = card.rings[2]
    ring.add(200)
    assert card.drains[2](256) == 0, "the frame that was put by is gone"
    assert reaches(card, flow(1), frame(60, OTHER)) == [True, True]
