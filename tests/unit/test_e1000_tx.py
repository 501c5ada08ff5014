"""The 82540EM's transmitter: descriptors in guest memory become frames on the cable."""

import struct
import zlib
from collections.abc import Iterator

import pytest

from emu.devices import e1000_spec as spec
from emu.devices.e1000 import DESCRIPTORS_A_LOOK, PAUSE_NS
from emu.devices.net.echo import EchoPort
from emu.devices.net.offload import finish
from emu.devices.net.types import MAX_FRAME, Offload
from emu.testing.e1000_driver import EOP_RS, MAC, PEER, RAM, TX_BUFFERS, TX_RING, E1000Driver

PAYLOAD = bytes(range(256)) * 40
GPTC, TPT, TOTL, PTC64, PTC127, BPTC, MPTC = 0x4080, 0x40D4, 0x40C8, 0x40D8, 0x40DC, 0x40F4, 0x40F0
PTC1522, TSCTC, TSCTFC = 0x40EC, 0x40F8, 0x40FC
SUMS = spec.POPTS_IXSM | spec.POPTS_TXSM
TSE = EOP_RS | spec.TXD_TSE


def frame(length: int = 100, to: bytes = PEER) -> bytes:
    return (to + MAC + b"\x88\xb5" + PAYLOAD)[:length]


def ones(data: bytes) -> int:
    """RFC 1071's sum, word by word."""
    data += bytes(len(data) & 1)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def tcp_headers(*, v6: bool = False, options: int = 12, flags: int = 0x19, protocol: int = 6) -> bytes:
    """Ethernet, IP and TCP (or UDP) as a driver leaves them for segmentation: no lengths, no checksums, the
    pseudo header's sum without its length."""
    if v6:
        addresses = bytes(range(32))
        ip = struct.pack(">IHBB", 0x6000_0000, 0, protocol, 64) + addresses
    else:
        addresses = bytes((10, 0, 0, 1, 10, 0, 0, 2))
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 0, 0xFFFE, 0x4000, 64, protocol, 0) + addresses
    pseudo = ones(addresses + bytes((0, protocol)))
    if protocol == 6:
        words = (20 + options) // 4 << 4
        transport = struct.pack(">HHIIBBHHH", 1000, 2000, 0xFFFF_F000, 77, words, flags, 500, pseudo, 0)
        transport += bytes([1] * options)
    else:
        transport = struct.pack(">HHHH", 1000, 2000, 0, pseudo)
    return PEER + MAC + (b"\x86\xdd" if v6 else b"\x08\x00") + ip + transport


def offload_context(
    headers: bytes, *, v6: bool = False, udp: bool = False, paylen: int = 0, mss: int = 0
) -> dict[str, object]:
    tcp = 14 + (40 if v6 else 20)
    return {
        "ip": (14, 24, tcp - 1 if not v6 else 0),
        "transport": (tcp, tcp + (6 if udp else 16), 0),
        "command": spec.TXD_TSE | (0 if v6 else spec.TUCMD_IP) | (0 if udp else spec.TUCMD_TCP),
        "paylen": paylen,
        "hdrlen": len(headers),
        "mss": mss,
    }


def expected_segments(
    headers: bytes, payload: bytes, mss: int, *, v6: bool, udp: bool = False
) -> list[bytes]:
    """Segmentation as RFC 793 and 791 ask for, made here from scratch."""
    made = []
    tcp = 14 + (40 if v6 else 20)
    for index, at in enumerate(range(0, max(len(payload), 1), mss)):
        part = payload[at : at + mss]
        head = bytearray(headers)
        length = len(head) + len(part)
        if v6:
            struct.pack_into(">H", head, 18, length - tcp)
        else:
            struct.pack_into(">HH", head, 16, length - 14, (0xFFFE + index) & 0xFFFF)
            struct.pack_into(">H", head, 24, ones(bytes(head[14:34])) ^ 0xFFFF)
        where = tcp + (6 if udp else 16)
        if udp:
            struct.pack_into(">H", head, tcp + 4, length - tcp)
        else:
            struct.pack_into(">I", head, tcp + 4, (0xFFFF_F000 + at) & 0xFFFF_FFFF)
            if at + mss < len(payload):
                head[tcp + 13] &= ~0x09
        addresses = bytes(head[22:54] if v6 else head[26:34])
        struct.pack_into(">H", head, where, 0)
        pseudo = addresses + struct.pack(">HH", 17 if udp else 6, length - tcp)
        struct.pack_into(">H", head, where, ones(pseudo + bytes(head[tcp:]) + part) ^ 0xFFFF)
        made.append(bytes(head) + part)
    return made


@pytest.fixture
def driver() -> Iterator[E1000Driver]:
    driver = E1000Driver(tx=16)
    driver.start()
    yield driver
    driver.close()


def frames_of(driver: E1000Driver) -> list[bytes]:
    """What is on the wire once the other end has done what was left to do."""
    return [bytes(one) for sent, offload in driver.cable.sent for one in finish([memoryview(sent)], offload)]


def status(driver: E1000Driver, index: int) -> int:
    return driver.memory.view(TX_RING + 16 * index + 12, 1)[0] & 0xF


# ---- descriptors -----------------------------------------------------------------------------------


def test_a_legacy_descriptor_sends_a_frame_and_is_given_back(driver: E1000Driver) -> None:
    driver.write(spec.IMS, spec.ICR_TXDW)
    driver.send(frame(100))
    assert driver.cable.sent == [(frame(100), None)]
    assert (driver.read(spec.TDH), status(driver, 0)) == (1, 1)
    assert driver.line.level
    assert driver.read(spec.ICR) == spec.ICR_TXDW | spec.ICR_TXQE
    assert (driver.card.costs.requests, driver.card.costs.bytes_copied) == (1, 0)


def test_without_rs_nothing_is_written_back(driver: E1000Driver) -> None:
    driver.send(frame(100), spec.TXD_EOP | spec.TXD_IFCS)
    assert (len(driver.cable.sent), driver.read(spec.TDH), status(driver, 0)) == (1, 1, 0)
    assert driver.read(spec.ICR) == spec.ICR_TXQE


def test_a_frame_may_lie_in_many_pieces_and_go_round_the_ring(driver: E1000Driver) -> None:
    for _ in range(10):
        driver.send_data(frame(1)[:1], frame()[1:14], b"", frame()[14:])
    assert [sent for sent, _ in driver.cable.sent] == [frame()] * 10
    assert driver.read(spec.TDH) == 40 % 16


def test_a_short_frame_is_padded_where_tctl_says_so(driver: E1000Driver) -> None:
    driver.send(frame(20))
    driver.write(spec.TCTL, spec.TCTL_EN)
    driver.send(frame(20))
    assert [sent for sent, _ in driver.cable.sent] == [frame(20) + bytes(40), frame(20)]


def test_an_fcs_of_the_drivers_own_does_not_reach_the_cable(driver: E1000Driver) -> None:
    plain = EOP_RS & ~spec.TXD_IFCS
    driver.send(frame(100) + zlib.crc32(frame(100)).to_bytes(4, "little"), plain)
    driver.send(frame(100), plain)
    assert [sent for sent, _ in driver.cable.sent] == [frame(100)] * 2


def test_nothing_is_sent_before_the_transmitter_is_on(driver: E1000Driver) -> None:
    driver.write(spec.TCTL, 0)
    driver.send(frame())
    assert (driver.cable.sent, driver.read(spec.TDH)) == ([], 0)
    driver.write(spec.TCTL, spec.TCTL_EN)
    assert len(driver.cable.sent) == 1


def test_a_long_ring_is_served_in_bounded_steps() -> None:
    driver = E1000Driver(tx=8)
    driver.tx = 1024
    driver.write(spec.TDBAL, 0x10_0000)
    driver.write(spec.TDLEN, 16 * 1024)
    driver.load(0, frame(60))
    one = struct.pack("<QQ", TX_BUFFERS, 60 | EOP_RS << 24)
    driver.memory.view(0x10_0000, 16 * 1024)[:] = one * 1024
    driver.write(spec.TCTL, spec.TCTL_EN)
    driver.write(spec.TDT, 1000)
    assert len(driver.cable.sent) == DESCRIPTORS_A_LOOK
    driver.clock.advance(PAUSE_NS)
    assert len(driver.cable.sent) == 2 * DESCRIPTORS_A_LOOK
    driver.clock.advance(10 * PAUSE_NS)
    assert (len(driver.cable.sent), driver.read(spec.TDH)) == (1000, 1000)
    driver.close()


def test_few_descriptors_left_are_told_of(driver: E1000Driver) -> None:
    driver.write(spec.TXDCTL, 1 << spec.LWTHRESH_SHIFT)
    for _ in range(7):
        driver.put(driver.load(0, frame()), 100 | EOP_RS << 24)
    driver.ring()
    assert not driver.read(spec.ICR) & spec.ICR_TXD_LOW
    for _ in range(8):
        driver.put(driver.load(0, frame()), 100 | EOP_RS << 24)
    driver.ring()
    assert driver.read(spec.ICR) & spec.ICR_TXD_LOW


# ---- checksums and VLAN ----------------------------------------------------------------------------


def test_a_checksum_is_left_to_the_backend_as_virtio_has_it(driver: E1000Driver) -> None:
    headers = tcp_headers()
    driver.set_context(transport=(34, 50, 0))
    driver.send_data(headers, PAYLOAD[:100], popts=spec.POPTS_TXSM)
    assert driver.cable.sent == [(headers + PAYLOAD[:100], Offload(True, 34, 16))]


def test_both_checksums_are_inserted(driver: E1000Driver) -> None:
    headers = tcp_headers()
    driver.set_context(ip=(14, 24, 33), transport=(34, 50, 0))
    driver.send_data(headers, PAYLOAD[:101], popts=SUMS)
    ((sent, offload),) = driver.cable.sent
    assert offload is None
    assert ones(sent[14:34]) == 0xFFFF
    assert int.from_bytes(sent[50:52], "big") == ones(headers[34:] + PAYLOAD[:101]) ^ 0xFFFF
    assert bytes(driver.memory.view(TX_BUFFERS, len(headers))) == headers  # the guest's copy stays


def test_a_checksum_may_end_before_the_frame_does(driver: E1000Driver) -> None:
    driver.set_context(transport=(14, 20, 29))
    driver.send_data(frame(100), popts=spec.POPTS_TXSM)
    ((sent, _),) = driver.cable.sent
    assert sent[:20] + sent[22:] == frame(100)[:20] + frame(100)[22:]
    assert int.from_bytes(sent[20:22], "big") == ones(frame(100)[14:30]) ^ 0xFFFF


def test_the_legacy_checksum_is_inserted(driver: E1000Driver) -> None:
    sent = frame(100)
    driver.put(driver.load(0, sent), 100 | 20 << 16 | (EOP_RS | spec.TXD_IC) << 24 | 14 << 40)
    driver.ring()
    assert driver.cable.sent == [(sent, Offload(True, 14, 6))]


def test_a_checksum_beyond_the_frame_is_not_inserted(driver: E1000Driver) -> None:
    driver.set_context(ip=(200, 210, 220), transport=(14, 99, 0))
    driver.send_data(frame(100), popts=SUMS)
    assert driver.cable.sent == [(frame(100), None)]


def test_vlan_tags_are_inserted(driver: E1000Driver) -> None:
    driver.send(frame(60), EOP_RS | spec.TXD_VLE, special=0x2064)
    driver.write(spec.CTRL, spec.CTRL_RESET | spec.CTRL_VME)
    driver.send(frame(60), EOP_RS | spec.TXD_VLE, special=0x2064)
    driver.send(frame(60), special=0x2064)
    driver.set_context(transport=(34, 50, 0))
    driver.send_data(
        *(frame(60)[:5], frame(60)[5:]), popts=spec.POPTS_TXSM, command=EOP_RS | spec.TXD_VLE, special=7
    )
    tagged = frame(60)[:12] + bytes.fromhex("81002064") + frame(60)[12:]
    assert driver.cable.sent[:3] == [(frame(60), None), (tagged, None), (frame(60), None)]
    assert driver.cable.sent[3] == (tagged[:14] + b"\0\x07" + tagged[16:], Offload(True, 38, 16))


# ---- segmentation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize(
    ("length", "mss"),
    [(10_000, 1448), (2896, 1448), (1448, 1448), (1449, 1448), (5, 1448), (0, 1448), (3001, 536)],
)
def test_a_large_packet_becomes_the_segments_that_software_would_make(
    driver: E1000Driver, v6: bool, length: int, mss: int
) -> None:
    headers, payload = tcp_headers(v6=v6), PAYLOAD[:length]
    driver.set_context(**offload_context(headers, v6=v6, paylen=length, mss=mss))  # type: ignore[arg-type]  # by keyword
    driver.send_data(
        headers, payload[:3000], payload[3000:], popts=spec.POPTS_TXSM if v6 else SUMS, command=TSE
    )
    assert len(driver.cable.sent) == 1  # whole, to be cut by whoever takes it
    wanted = expected_segments(headers, payload, mss, v6=v6)
    assert frames_of(driver) == wanted
    assert (driver.read(TSCTC), driver.read(TSCTFC)) == (1, 0)
    assert (driver.read(GPTC), driver.read(TOTL)) == (len(wanted), sum(len(one) + 4 for one in wanted))
    assert driver.card.costs.bytes_copied == len(headers)


@pytest.mark.parametrize(("v6", "udp"), [(False, False), (False, True), (True, False)])
def test_in_loopback_the_card_itself_cuts(v6: bool, udp: bool) -> None:
    driver = E1000Driver(rx=32, tx=16)
    driver.start(spec.RCTL_UPE | spec.RCTL_SECRC | 3 << 6)
    headers, payload = tcp_headers(v6=v6, protocol=17 if udp else 6), PAYLOAD[:7000]
    driver.set_context(**offload_context(headers, v6=v6, udp=udp, paylen=7000, mss=1400))  # type: ignore[arg-type]
    driver.send_data(headers, payload, popts=spec.POPTS_TXSM if v6 else SUMS, command=TSE)
    got = [one.data for one in driver.received()]
    assert got == expected_segments(headers, payload, 1400, v6=v6, udp=udp)
    assert driver.cable.sent == []
    driver.close()


def test_udp_is_cut_by_the_card(driver: E1000Driver) -> None:
    headers, payload = tcp_headers(protocol=17), PAYLOAD[:3000]
    driver.set_context(**offload_context(headers, udp=True, paylen=3000, mss=1000))  # type: ignore[arg-type]
    driver.send_data(headers + payload, popts=SUMS, command=TSE)
    wanted = expected_segments(headers, payload, 1000, v6=False, udp=True)
    assert driver.cable.sent == [(one, None) for one in wanted]


def test_a_block_of_data_is_cut_behind_a_constant_header(driver: E1000Driver) -> None:
    driver.set_context(command=spec.TXD_TSE, paylen=500, hdrlen=20, mss=200)
    driver.send_data(frame(20) + PAYLOAD[:500], command=TSE)
    parts = [PAYLOAD[:200], PAYLOAD[200:400], PAYLOAD[400:500]]
    assert driver.cable.sent == [(frame(20) + part, None) for part in parts]


def test_segments_get_the_first_descriptors_vlan_tag(driver: E1000Driver) -> None:
    driver.write(spec.CTRL, spec.CTRL_RESET | spec.CTRL_VME)
    headers = tcp_headers()
    driver.set_context(**offload_context(headers, paylen=3000, mss=1448))  # type: ignore[arg-type]
    driver.send_data(headers, PAYLOAD[:3000], popts=SUMS, command=TSE | spec.TXD_VLE, special=0x64)
    plain = expected_segments(headers, PAYLOAD[:3000], 1448, v6=False)
    assert frames_of(driver) == [one[:12] + bytes.fromhex("81000064") + one[12:] for one in plain]
    assert driver.read(TOTL) == sum(len(one) + 8 for one in plain)


@pytest.mark.parametrize(("hdrlen", "mss"), [(0, 1448), (13, 1448), (255, 1448), (66, 0), (66, 1)])
def test_segmentation_that_makes_no_sense_sends_nothing(driver: E1000Driver, hdrlen: int, mss: int) -> None:
    headers = tcp_headers()
    payload = PAYLOAD[:1100] if mss else PAYLOAD[:100]
    if hdrlen == 255:
        payload = b""
    driver.set_context(**offload_context(headers, paylen=1100, mss=mss) | {"hdrlen": hdrlen})  # type: ignore[arg-type]
    driver.send_data(headers, payload, popts=SUMS, command=TSE)
    assert driver.cable.sent == []
    assert driver.card.transmitter.dropped == 1
    assert [driver.read(at) for at in (TSCTFC, TSCTC, GPTC)] == [1, 0, 0]
    driver.send(frame())
    assert frames_of(driver) == [frame()]


# ---- hostile drivers -------------------------------------------------------------------------------


@pytest.mark.parametrize(("address", "length"), [(RAM - 50, 100), (1 << 63, 100), (TX_BUFFERS, 5)])
def test_a_frame_that_cannot_be_sent_is_dropped_and_counted(
    driver: E1000Driver, address: int, length: int
) -> None:
    driver.put(address, length | EOP_RS << 24)
    driver.ring()
    driver.send(frame())
    assert frames_of(driver) == [frame()]
    assert (driver.card.transmitter.dropped, driver.read(GPTC), status(driver, 0)) == (1, 1, 1)


def test_a_frame_without_end_is_dropped_at_its_end(driver: E1000Driver) -> None:
    driver.load(0, frame(100))
    for _ in range(5):
        for _ in range(15):
            driver.put(TX_BUFFERS, 0xFFFF | spec.TXD_RS << 24)
        driver.ring()
        driver.clock.advance(PAUSE_NS)
    assert driver.read(spec.TDH) == driver.read(spec.TDT)
    driver.send(frame(100))
    driver.send(frame(100))
    assert frames_of(driver) == [frame(100)]
    assert driver.card.transmitter.dropped == 1


def test_the_longest_frame_goes_and_one_more_byte_does_not(driver: E1000Driver) -> None:
    for length in (MAX_FRAME, MAX_FRAME + 1):
        high = length | spec.DTYP_DATA << 20 | (EOP_RS | spec.TXD_DEXT) << 24
        driver.put(TX_BUFFERS, high)
    driver.ring()
    assert [len(sent) for sent, _ in driver.cable.sent] == [MAX_FRAME]
    assert driver.card.transmitter.dropped == 1


@pytest.mark.parametrize(
    ("register", "value"), [(spec.TDH, 16), (spec.TDT, 0xFFFF), (spec.TDLEN, 0), (spec.TDBAH, 9)]
)
def test_a_ring_that_cannot_be_sends_nothing(driver: E1000Driver, register: int, value: int) -> None:
    driver.put(driver.load(0, frame()), 100 | EOP_RS << 24)
    driver.write(register, value)
    if register != spec.TDT:
        driver.ring()
    assert driver.cable.sent == []


def test_an_unknown_descriptor_is_passed_over(driver: E1000Driver) -> None:
    driver.put(TX_BUFFERS, 100 | 7 << 20 | (EOP_RS | spec.TXD_DEXT) << 24)
    driver.ring()
    assert (driver.cable.sent, driver.read(spec.TDH), status(driver, 0)) == ([], 1, 1)


# ---- statistics and the way back -------------------------------------------------------------------


def test_statistics_count_what_was_sent(driver: E1000Driver) -> None:
    driver.send(frame(60))
    driver.send(frame(100, b"\xff" * 6))
    driver.send(frame(1518, b"\x01" + bytes(5)))
    counts = {GPTC: 3, TPT: 3, TOTL: 60 + 100 + 1518 + 12, PTC64: 1, PTC127: 1, PTC1522: 1, BPTC: 1, MPTC: 1}
    assert {at: driver.read(at) for at in counts} == counts


def test_looped_frames_pass_the_filter_and_are_received(driver: E1000Driver) -> None:
    driver.write(spec.MDIC, spec.MDIC_WRITE << 26 | 1 << 21 | 0x4140)
    driver.set_context(transport=(14, 20, 0))
    driver.send_data(frame(100, MAC), popts=spec.POPTS_TXSM)
    driver.send(frame(100, PEER))
    (got,) = driver.received()
    assert int.from_bytes(got.data[20:22], "big") == ones(frame()[14:]) ^ 0xFFFF
    assert driver.cable.sent == []
    driver.write(spec.MDIC, spec.MDIC_WRITE << 26 | 1 << 21 | 0x0140)
    driver.send(frame())
    assert len(driver.cable.sent) == 1


def test_an_answer_that_comes_at_once_needs_no_posted_call() -> None:
    driver = E1000Driver(cable=EchoPort())  # type: ignore[arg-type]
    driver.start()
    driver.send(PEER + MAC + b"\x88\xb5\0" + PAYLOAD[:50])
    assert [one.data for one in driver.received()] == [MAC + PEER + b"\x88\xb5\0" + PAYLOAD[:50]]
    assert not driver.posted
    assert driver.read(spec.ICR) & (spec.ICR_TXDW | spec.ICR_RXT0) == spec.ICR_TXDW | spec.ICR_RXT0
    driver.close()
