"""The 82540EM's receiver: real rings and buffers in guest memory."""

import struct
import zlib
from collections.abc import Iterator

import pytest

from emu.devices import e1000_spec as spec
from emu.devices.e1000 import FRAMES_A_LOOK, PAUSE_NS
from emu.testing.e1000_driver import BUFFER, MAC, PEER, RAM, RX_BUFFERS, RX_RING, E1000Driver, Received

BROADCAST = b"\xff" * 6
MULTICAST = bytes.fromhex("01005e0000fb")
MPC, ROC, RNBC, GPRC, TPR, GORCL, GORCH, BPRC, MPRC = (
    0x4010, 0x40AC, 0x40A0, 0x4074, 0x40D0, 0x4088, 0x408C, 0x4078, 0x407C,
)  # fmt: skip
PRC64, PRC127 = 0x405C, 0x4060
BASE = spec.RCTL_BAM | spec.RCTL_SECRC


def frame(length: int = 100, to: bytes = MAC, kind: bytes = b"\x88\xb5") -> bytes:
    return (to + PEER + kind + bytes(range(256)) * 80)[:length]


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data[: len(data) & ~1])) + (
        data[-1] << 8 if len(data) & 1 else 0
    )
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ip_frame(protocol: int, payload: bytes, *, fragment: int = 0) -> bytes:
    """Ethernet and IPv4 around a transport header whose checksum is filled in."""
    at = {6: 16, 17: 6}.get(protocol)
    addresses = bytes((10, 0, 0, 1, 10, 0, 0, 2))
    if at is not None:
        pseudo = addresses + bytes((0, protocol)) + struct.pack(">H", len(payload))
        value = checksum(pseudo + payload[:at] + b"\0\0" + payload[at + 2 :])
        payload = payload[:at] + struct.pack(">H", value) + payload[at + 2 :]
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 7, fragment, 64, protocol, 0) + addresses
    head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
    return MAC + PEER + b"\x08\x00" + head + payload


@pytest.fixture
def driver() -> Iterator[E1000Driver]:
    driver = E1000Driver()
    driver.start()
    yield driver
    driver.close()


def deliver(driver: E1000Driver, *frames: bytes) -> list[Received]:
    driver.cable.offer(*frames)
    driver.run()
    return driver.received()


def test_frames_come_in_order_and_are_told_of_once(driver: E1000Driver) -> None:
    written: list[tuple[int, int]] = []
    driver.memory.on_written = lambda at, length: written.append((at, length))
    driver.write(spec.IMS, spec.ICR_RXT0)
    got = deliver(driver, frame(100), frame(200))
    assert [one.data for one in got] == [frame(100), frame(200)]
    assert {one.status & 3 for one in got} == {spec.RXD_DD | spec.RXD_EOP}
    assert written == [(RX_BUFFERS, 100), (RX_BUFFERS + BUFFER, 200)]
    assert driver.read(spec.RDH) == 2
    assert driver.line.levels.count(True) == 1
    assert driver.read(spec.ICR) == spec.ICR_RXT0
    assert (driver.card.costs.requests, driver.card.costs.bytes_copied) == (2, 300)


def test_frames_wait_for_buffers_and_go_round_the_ring(driver: E1000Driver) -> None:
    frames = [frame(60 + i) for i in range(30)]
    got = deliver(driver, *frames)
    assert len(got) == 7
    for _ in range(4):
        driver.give_back()
        got += driver.received()
    assert [one.data for one in got] == frames
    assert driver.read(MPC) == 0


def test_a_burst_is_taken_in_bounded_steps() -> None:
    driver = E1000Driver(rx=128)
    driver.start()
    frames = [frame(60 + i) for i in range(100)]
    got = deliver(driver, *frames)
    assert len(got) == FRAMES_A_LOOK
    driver.clock.advance(PAUSE_NS - 1)
    assert driver.received() == []
    driver.clock.advance(1)
    assert [one.data for one in got + driver.received()] == frames
    driver.close()


def test_a_short_frame_is_padded_and_the_fcs_is_the_real_one(driver: E1000Driver) -> None:
    driver.write(spec.RCTL, spec.RCTL_EN | spec.RCTL_BAM)
    (got,) = deliver(driver, frame(20))
    padded = frame(20) + bytes(40)
    assert got.data == padded + zlib.crc32(padded).to_bytes(4, "little")


@pytest.mark.parametrize("secrc", [False, True])
@pytest.mark.parametrize("length", [256, 510, 512, 514, 1000, 1514])
def test_a_long_frame_fills_as_many_buffers_as_it_needs(
    driver: E1000Driver, length: int, secrc: bool
) -> None:
    bits = 3 << spec.RCTL_BSIZE_SHIFT | (spec.RCTL_SECRC if secrc else 0)
    driver.write(spec.RCTL, spec.RCTL_EN | bits)
    sent = frame(length)
    whole = sent if secrc else sent + zlib.crc32(sent).to_bytes(4, "little")
    got = deliver(driver, sent)
    assert b"".join(one.data for one in got) == whole
    assert [len(one.data) for one in got[:-1]] == [256] * (len(got) - 1)
    assert [bool(one.status & spec.RXD_EOP) for one in got] == [False] * (len(got) - 1) + [True]
    assert bytes(driver.memory.view(RX_BUFFERS + (len(got) - 1) * BUFFER + len(got[-1].data), 8)) == bytes(8)


@pytest.mark.parametrize(
    ("size", "bsex", "expected"),
    [(0, 0, 2048), (1, 0, 1024), (2, 0, 512), (3, 0, 256), (1, 1, 16384), (2, 1, 8192), (3, 1, 4096)],
)
def test_buffer_sizes_are_the_manuals(size: int, bsex: int, expected: int) -> None:
    assert spec.receive_buffer_size(size << 16 | bsex << 25) == expected


def test_jumbo_frames_need_lpe(driver: E1000Driver) -> None:
    assert deliver(driver, frame(1518)) != []
    assert deliver(driver, frame(1519), frame(9000)) == []
    assert (driver.read(ROC), driver.read(TPR), driver.read(GPRC)) == (2, 3, 1)
    driver.write(spec.RCTL, BASE | spec.RCTL_EN | spec.RCTL_LPE)
    got = deliver(driver, frame(9000))
    assert b"".join(one.data for one in got) == frame(9000)
    assert deliver(driver, frame(16381)) == []
    assert driver.read(ROC) == 1


def test_a_frame_that_the_ring_has_no_room_for_is_missed(driver: E1000Driver) -> None:
    driver.write(spec.RCTL, BASE | spec.RCTL_EN | 3 << spec.RCTL_BSIZE_SHIFT | spec.RCTL_LPE)
    driver.write(spec.ICR, 0xFFFF_FFFF)
    assert deliver(driver, frame(7 * 256 + 1)) == []
    assert (driver.read(MPC), driver.read(RNBC), driver.read(GPRC), driver.read(TPR)) == (1, 1, 0, 1)
    assert driver.read(spec.ICR) == spec.ICR_RXO
    assert len(deliver(driver, frame(7 * 256))) == 7


def test_an_empty_descriptor_is_passed_over(driver: E1000Driver) -> None:
    driver.set_receive_buffer(0, 0)
    got = deliver(driver, frame())
    assert [one.data for one in got[1:]] == [frame()]
    assert (got[0].data, got[0].status) == (b"", spec.RXD_DD)


def test_a_buffer_outside_of_memory_takes_nothing_and_harms_nobody(driver: E1000Driver) -> None:
    driver.set_receive_buffer(0, RAM - 50)
    driver.set_receive_buffer(1, 1 << 63)
    driver.cable.offer(frame(100), frame(100), frame(100))
    driver.run()
    assert driver.card.receiver.dropped == 2
    assert driver.read(spec.RDH) == 3
    assert bytes(driver.memory.view(RX_BUFFERS + 2 * BUFFER, 100)) == frame(100)


@pytest.mark.parametrize(("shift", "left"), [(0, 8), (1, 4), (2, 2)])
def test_a_ring_that_runs_low_is_told_of_once(shift: int, left: int) -> None:
    driver = E1000Driver(rx=16)
    driver.start(BASE | shift << spec.RCTL_RDMTS_SHIFT)
    told = []
    for i in range(15):
        driver.cable.offer(frame())
        driver.run()
        if driver.read(spec.ICR) & spec.ICR_RXDMT0:
            told.append(15 - i - 1)
    assert told == [left]
    driver.close()


def test_a_small_packet_has_its_own_cause(driver: E1000Driver) -> None:
    driver.write(spec.RSRPD, 104)
    deliver(driver, frame(100))
    assert driver.read(spec.ICR) & spec.ICR_SRPD
    deliver(driver, frame(101))
    assert not driver.read(spec.ICR) & spec.ICR_SRPD


# ---- filters ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "to", "taken"),
    [
        (0, MAC, True), (0, PEER, False), (0, BROADCAST, False), (0, MULTICAST, False),
        (spec.RCTL_BAM, BROADCAST, True), (spec.RCTL_UPE, PEER, True), (spec.RCTL_UPE, MULTICAST, False),
        (spec.RCTL_MPE, MULTICAST, True), (spec.RCTL_MPE, BROADCAST, True), (spec.RCTL_MPE, PEER, False),
    ],
)  # fmt: skip
def test_destinations_are_filtered(driver: E1000Driver, bits: int, to: bytes, taken: bool) -> None:
    driver.write(spec.RCTL, spec.RCTL_EN | spec.RCTL_SECRC | bits)
    got = deliver(driver, frame(100, to))
    assert len(got) == taken
    if got:
        inexact = to in (PEER, MULTICAST) or (to == BROADCAST and not bits & spec.RCTL_BAM)
        assert bool(got[0].status & spec.RXD_PIF) == inexact
    else:
        assert driver.card.receiver.dropped == 1


def test_more_addresses_can_be_given_and_taken(driver: E1000Driver) -> None:
    at = spec.RA + 8 * 15
    driver.write(at, int.from_bytes(PEER[:4], "little"))
    driver.write(at + 4, int.from_bytes(PEER[4:], "little"))
    assert deliver(driver, frame(100, PEER)) == []
    driver.write(at + 4, int.from_bytes(PEER[4:], "little") | spec.RAH_AV)
    assert len(deliver(driver, frame(100, PEER), frame(100))) == 2
    driver.write(at + 4, int.from_bytes(PEER[4:], "little") | spec.RAH_AV | spec.RAH_SOURCE)
    assert deliver(driver, frame(100, PEER)) == []


@pytest.mark.parametrize(("offset", "shift"), [(0, 4), (1, 3), (2, 2), (3, 0)])
def test_multicast_goes_by_its_hash(driver: E1000Driver, offset: int, shift: int) -> None:
    driver.write(spec.RCTL, BASE | spec.RCTL_EN | offset << spec.RCTL_MO_SHIFT)
    value = int.from_bytes(MULTICAST[4:], "little") >> shift & 0xFFF
    register = spec.MTA + 4 * (value >> 5)
    driver.write(register, 0xFFFF_FFFF ^ 1 << (value & 31))
    assert deliver(driver, frame(100, MULTICAST)) == []
    driver.write(register, 1 << (value & 31))
    assert len(deliver(driver, frame(100, MULTICAST))) == 1
    assert (driver.read(MPRC), driver.read(BPRC)) == (1, 0)


def tagged(tag: int) -> bytes:
    return MAC + PEER + struct.pack(">HH", 0x8100, tag) + b"\x88\xb5" + bytes(range(90))


def test_vlan_tags_are_taken_off_and_filtered(driver: E1000Driver) -> None:
    (got,) = deliver(driver, tagged(0x2064))
    assert (got.data, got.status & spec.RXD_VP) == (tagged(0x2064), 0)
    driver.write(spec.CTRL, spec.CTRL_RESET | spec.CTRL_VME)
    (got,) = deliver(driver, tagged(0x2064))
    assert got.data == tagged(0)[:12] + tagged(0)[16:]
    assert (got.status & spec.RXD_VP, got.special) == (spec.RXD_VP, 0x2064)
    driver.write(spec.RCTL, BASE | spec.RCTL_EN | spec.RCTL_VFE)
    assert deliver(driver, tagged(0x64)) == []
    driver.write(spec.VFTA + 4 * (0x64 >> 5), 1 << (0x64 & 31))
    assert len(deliver(driver, tagged(0x64), tagged(0x65), frame())) == 2
    driver.write(spec.RCTL, BASE | spec.RCTL_EN | spec.RCTL_VFE | spec.RCTL_CFIEN)
    assert len(deliver(driver, tagged(0x1064))) == 0
    assert len(deliver(driver, tagged(0x64))) == 1


# ---- checksums -------------------------------------------------------------------------------------

TCP_PART = struct.pack(">HHIIBBHHH", 1, 2, 3, 4, 0x50, 0x10, 100, 0, 0)
OFFLOAD = spec.RXCSUM_IPOFLD | spec.RXCSUM_TUOFLD
GOOD = spec.RXD_IPCS | spec.RXD_TCPCS


@pytest.mark.parametrize(
    ("sent", "status", "errors"),
    [
        (ip_frame(6, TCP_PART + b"abc"), GOOD, 0),
        (ip_frame(6, TCP_PART + bytes(1400)), GOOD, 0),
        (ip_frame(17, struct.pack(">HHHH", 1, 2, 30, 0) + bytes(22)), GOOD, 0),
        (ip_frame(6, TCP_PART + b"abcdefgh" * 8)[:-1] + b"x", GOOD, spec.RXD_TCPE >> 8),
        (ip_frame(6, TCP_PART + b"abcdefgh" * 8).replace(b"\x40\x06", b"\x41\x06"), GOOD, spec.RXD_IPE >> 8),
        (ip_frame(6, TCP_PART + bytes(60), fragment=0x2000), spec.RXD_IPCS, 0),
        (ip_frame(6, TCP_PART + bytes(60), fragment=0x4000), GOOD, 0),
        (ip_frame(1, bytes(60)), spec.RXD_IPCS, 0),
        (frame(100), spec.RXD_IXSM, 0),
        (frame(100, kind=b"\x08\x00"), spec.RXD_IXSM, 0),
    ],
)
def test_ip_and_transport_checksums_are_looked_at(
    driver: E1000Driver, sent: bytes, status: int, errors: int
) -> None:
    driver.write(spec.RXCSUM, OFFLOAD)
    (got,) = deliver(driver, sent)
    assert (got.status, got.errors) == (spec.RXD_DD | spec.RXD_EOP | status, errors)


def test_a_udp_checksum_of_zero_is_none(driver: E1000Driver) -> None:
    driver.write(spec.RXCSUM, OFFLOAD)
    sent = bytearray(ip_frame(17, struct.pack(">HHHH", 1, 2, 68, 0) + bytes(60)))
    sent[40:42] = b"\0\0"
    (got,) = deliver(driver, bytes(sent))
    assert (got.status & GOOD, got.errors) == (spec.RXD_IPCS, 0)


@pytest.mark.parametrize("offload", [0, OFFLOAD, spec.RXCSUM_TUOFLD])
@pytest.mark.parametrize("start", [0, 14, 15, 34, 50, 255])
def test_the_packet_checksum_counts_from_where_rxcsum_says(
    driver: E1000Driver, start: int, offload: int
) -> None:
    driver.write(spec.RXCSUM, start | offload)
    sent = ip_frame(6, TCP_PART + bytes(range(101)))
    (got,) = deliver(driver, sent)
    assert got.checksum == checksum(sent[start:])


# ---- states and statistics -------------------------------------------------------------------------


def test_frames_for_a_receiver_that_is_off_come_to_nothing(driver: E1000Driver) -> None:
    driver.write(spec.RCTL, 0)
    assert deliver(driver, frame()) == []
    driver.write(spec.RCTL, BASE | spec.RCTL_EN)
    assert driver.received() == []
    assert len(deliver(driver, frame())) == 1


@pytest.mark.parametrize(
    ("register", "value"),
    [(spec.RDT, 8), (spec.RDH, 0xFFFF), (spec.RDLEN, 0), (spec.RDBAH, 1), (spec.RDBAL, RAM - 16)],
)
def test_a_ring_that_cannot_be_takes_nothing(driver: E1000Driver, register: int, value: int) -> None:
    driver.write(register, value)
    assert deliver(driver, frame()) == []
    assert list(driver.cable.waiting) == [frame()]


def test_a_function_that_is_no_bus_master_writes_nothing(driver: E1000Driver) -> None:
    driver.card.function.config_write(4, 2, 3)
    assert deliver(driver, frame()) == []
    driver.card.function.config_write(4, 2, 7)
    driver.write(spec.RDT, 7)
    assert [one.data for one in driver.received()] == [frame()]


def test_statistics_count_and_a_read_clears_them(driver: E1000Driver) -> None:
    deliver(driver, frame(60), frame(61), frame(100, BROADCAST))
    octets = 60 + 61 + 100 + 12
    expected = {GPRC: 3, TPR: 3, BPRC: 1, MPRC: 0, PRC64: 1, PRC127: 2, GORCL: octets, GORCH: 0}
    assert {at: driver.read(at) for at in expected} == expected
    assert {at: driver.read(at) for at in expected} == dict.fromkeys(expected, 0)


def test_a_wide_counter_is_cleared_by_its_upper_half_and_a_narrow_one_sticks(driver: E1000Driver) -> None:
    counts = driver.card.statistics.counts
    counts[GORCL], counts[GPRC] = 0x5_0000_0007, 1 << 33
    assert [driver.read(GORCL), driver.read(GORCL), driver.read(GORCH), driver.read(GORCL)] == [7, 7, 5, 0]
    assert driver.read(GPRC) == 0xFFFF_FFFF


def test_a_frame_without_a_header_is_none(driver: E1000Driver) -> None:
    assert deliver(driver, b"", MAC, frame(13)) == []
    assert driver.card.receiver.dropped == 3


def test_only_whole_descriptors_of_the_ring_are_touched(driver: E1000Driver) -> None:
    before = bytes(driver.memory.view(RX_RING + 128, 128))
    deliver(driver, *[frame()] * 7)
    assert bytes(driver.memory.view(RX_RING + 128, 128)) == before
