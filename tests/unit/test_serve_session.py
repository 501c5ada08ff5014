"""A vhost-user session: what each message does to features, memory and rings, and what is refused."""

import logging
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.bus.memory import GuestMemory
from emu.dataplanes.vhost_user.messages import (
    F_LOG_ALL,
    F_PROTOCOL_FEATURES,
    MAX_REGIONS,
    PROTOCOL_F_REPLY_ACK,
    VRING_F_LOG,
    BackendRequest,
    Config,
    Inflight,
    Log,
    ProtocolError,
    Region,
    Request,
    VringAddr,
    VringFd,
    VringState,
    decode_u64,
    encode_regions,
    encode_u64,
)
from emu.devices.block.backend import BlockBackend
from emu.devices.block.raw import RawImage
from emu.devices.virtio.spec import SECTOR
from emu.serve.memory import MAX_SLOTS
from emu.serve.session import PROTOCOL_FEATURES
from emu.testing.driver_queue import DriverQueue
from tests.serve_lab import (
    FEATURES,
    SECTORS,
    USER,
    Desk,
    Direct,
    Front,
    blk_session,
    make_disk,
    open_fds,
    sector,
    shared_maps,
)

INDEX = VringFd(0, has_fd=True).encode()
NO_FD = VringFd(0, has_fd=False).encode()


class Bench:
    """A session and its front-end, without a thread."""

    def __init__(self, disk: BlockBackend, *, event_idx: bool = True) -> None:
        self.disk, self.desk = disk, Desk()
        self.session = blk_session(disk, self.desk, queues=2)
        self.line = Direct(self.session)
        self.front = Front(self.line, event_idx=event_idx)

    def close(self) -> None:
        self.session.close()
        self.front.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[BlockBackend]:
    image = RawImage(make_disk(tmp_path), read_only=False)
    yield image
    image.close()


@pytest.fixture
def bench(disk: BlockBackend) -> Iterator[Bench]:
    made = Bench(disk)
    yield made
    made.close()


# ---- serving -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("event_idx", [False, True])
def test_a_read_is_answered_and_called(disk: BlockBackend, event_idx: bool) -> None:
    bench = Bench(disk, event_idx=event_idx)
    front = bench.front
    front.connect()
    head = front.add_read(7)
    bench.desk.serve()
    assert front.driver.used() == [(head, SECTOR + 1)]
    assert front.driver.written(head) == sector(7) + b"\0"
    assert front.called()
    assert not front.called()
    bench.close()


def test_a_write_reaches_the_disk(bench: Bench, tmp_path: Path) -> None:
    bench.front.connect()
    head = bench.front.add_write(9, b"w" * SECTOR)
    bench.desk.serve()
    assert bench.front.driver.used() == [(head, 1)]
    assert (tmp_path / "disk.img").read_bytes()[9 * SECTOR : 10 * SECTOR] == b"w" * SECTOR


def test_a_ring_is_served_only_once_everything_has_come(bench: Bench) -> None:
    front = bench.front
    front.negotiate()
    front.set_ring()
    assert bench.desk.started == []
    front.start_ring()
    assert bench.desk.started == []
    front.share_memory()
    assert [vring.index for vring in bench.desk.started] == [0]


def test_without_protocol_features_a_ring_starts_enabled(bench: Bench) -> None:
    front = bench.front
    front.negotiate(FEATURES & ~F_PROTOCOL_FEATURES)
    front.share_memory()
    front.set_ring()
    front.tell(Request.SET_VRING_KICK, INDEX, [front.kick.fd])
    assert len(bench.desk.started) == 1


def test_enable_and_disable_stop_and_start_a_ring_where_it_was(bench: Bench) -> None:
    front = bench.front
    front.connect()
    front.add_read(1)
    bench.desk.serve()
    front.tell(Request.SET_VRING_ENABLE, VringState(0, 0).encode())
    assert bench.desk.started == []
    front.add_read(2)
    front.tell(Request.SET_VRING_ENABLE, VringState(0, 1).encode())
    bench.desk.serve()
    assert len(front.driver.used()) == 2
    assert bench.desk.costs.requests == 2


def test_get_vring_base_stops_the_ring_until_the_next_kick_fd(bench: Bench) -> None:
    front = bench.front
    front.connect()
    for number in range(3):
        front.add_read(number)
    bench.desk.serve()
    assert front.stop_ring() == 3
    assert bench.desk.started == []
    front.tell(Request.SET_VRING_ENABLE, VringState(0, 1).encode())
    assert bench.desk.started == []
    front.start_ring()
    front.add_read(5)
    bench.desk.serve()
    assert len(front.driver.used()) == 4


def test_a_ring_goes_on_from_the_base_it_is_given(bench: Bench) -> None:
    front = bench.front
    front.connect()
    front.add_read(1)
    bench.desk.serve()
    front.stop_ring()
    other = Bench(bench.disk)
    other.front = Front(other.line, queue=front.driver)
    other.front.connect(base=1)
    assert other.front.called()  # the interrupt before may have been lost with the first back-end
    head = front.add_read(2)
    other.desk.serve()
    assert front.driver.used()[-1] == (head, SECTOR + 1)
    other.close()


def test_no_kick_fd_means_that_the_ring_is_looked_at_all_the_time(bench: Bench) -> None:
    front = bench.front
    front.negotiate()
    front.share_memory()
    front.set_ring()
    front.tell(Request.SET_VRING_ENABLE, VringState(0, 1).encode())
    front.tell(Request.SET_VRING_KICK, NO_FD)
    (vring,) = bench.desk.started
    assert vring.polled
    assert vring.kick is None


def test_no_call_fd_means_silence(bench: Bench) -> None:
    front = bench.front
    front.connect()
    front.tell(Request.SET_VRING_CALL, NO_FD)
    front.add_read(1)
    bench.desk.serve()
    assert len(front.driver.used()) == 1
    assert not front.called()


def test_another_call_fd_takes_effect_at_once_and_is_signalled(bench: Bench) -> None:
    front = bench.front
    front.connect()
    old = front.call
    front.call = Front(bench.line).call
    front.tell(Request.SET_VRING_CALL, INDEX, [front.call.fd])
    assert front.called()  # what was answered before may have called the old one
    front.add_read(1)
    bench.desk.serve()
    assert front.called()
    with pytest.raises(BlockingIOError):
        old.wait()


def test_a_driver_that_breaks_its_ring_stops_it_and_the_front_end_learns_it(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    front = bench.front
    front.connect()
    front.driver.set_avail_idx(99)
    runner = bench.desk.started[0].runner
    assert runner is not None
    from emu.errors import DriverError

    with caplog.at_level(logging.WARNING):
        try:
            runner.run(1)
        except DriverError as error:
            runner.give_up(error)
    assert "queue 0 stops: avail_idx 99 is 99 ahead, queue size 16" in caplog.text
    assert front.error.wait() == 1
    assert runner.run(1) is False


def test_memory_that_comes_in_slots_and_goes_again(bench: Bench) -> None:
    front = bench.front
    front.negotiate()
    assert decode_u64(front.ask(Request.GET_MAX_MEM_SLOTS), "") == MAX_SLOTS
    front.tell(Request.ADD_MEM_REG, front.region().encode(), [front.memory.fd])
    front.set_ring()
    front.start_ring()
    other = GuestMemory(1 << 20)
    far = Region(1 << 32, 1 << 20, 0x1000, 0)
    front.tell(Request.ADD_MEM_REG, far.encode(), [other.fd])
    driver = front.driver
    head = front.add_read(3)
    driver.put(driver.chains[head][1], (1 << 32) + 0x800, SECTOR, 3, driver.chains[head][2])
    bench.desk.serve()
    assert bytes(other.view(0x800, SECTOR)) == sector(3)
    front.tell(Request.REM_MEM_REG, far.encode())
    with pytest.raises(ProtocolError, match="REM_MEM_REG: region: none of 0x100000 bytes at 0x100000000"):
        front.tell(Request.REM_MEM_REG, far.encode())


def test_a_region_may_begin_anywhere_in_its_file(bench: Bench) -> None:
    front = bench.front
    front.negotiate()
    memory, shift = front.memory, 0x1_0800
    front.tell(
        Request.SET_MEM_TABLE,
        encode_regions([Region(0x4000_0000, memory.size - shift, USER, shift)]),
        [memory.fd],
    )
    view = bench.session.rings.memory.view(0x4000_0000, 16)
    view[:] = b"sixteen bytes are"[:16]
    assert bytes(memory.view(shift, 16)) == b"sixteen bytes ar"


# ---- configuration, status, acknowledgements ---------------------------------------------------------


def test_the_configuration_is_the_disks(bench: Bench) -> None:
    bench.front.negotiate()
    answer = Config.decode(bench.front.ask(Request.GET_CONFIG, Config(0, 0, bytes(8)).encode()), "")
    assert int.from_bytes(answer.data, "little") == SECTORS


def test_configuration_beyond_its_end_is_refused_by_an_empty_reply(bench: Bench) -> None:
    bench.front.negotiate()
    assert bench.front.ask(Request.GET_CONFIG, Config(56, 0, bytes(8)).encode()) == b""


def test_writeback_can_be_switched_off(bench: Bench) -> None:
    bench.front.negotiate(FEATURES | 1 << 11)
    bench.front.tell(Request.SET_CONFIG, Config(32, 0, b"\0").encode())
    answer = Config.decode(bench.front.ask(Request.GET_CONFIG, Config(32, 0, bytes(1)).encode()), "")
    assert answer.data == b"\0"


def test_the_status_is_kept(bench: Bench) -> None:
    bench.front.negotiate()
    bench.front.tell(Request.SET_STATUS, encode_u64(0xF))
    assert decode_u64(bench.front.ask(Request.GET_STATUS), "") == 0xF
    bench.front.tell(Request.RESET_DEVICE)
    assert decode_u64(bench.front.ask(Request.GET_STATUS), "") == 0


def test_an_acknowledgement_comes_only_where_it_was_negotiated_and_asked_for(bench: Bench) -> None:
    send = bench.line.send
    assert send(Request.SET_OWNER, need_reply=True) is None
    send(Request.SET_PROTOCOL_FEATURES, encode_u64(PROTOCOL_F_REPLY_ACK))
    acknowledged = send(Request.SET_OWNER, need_reply=True)
    assert acknowledged is not None
    assert acknowledged.body == encode_u64(0)
    assert send(Request.SET_OWNER) is None
    features = send(Request.GET_FEATURES, need_reply=True)
    assert features is not None
    assert decode_u64(features.body, "") & F_PROTOCOL_FEATURES


def test_a_reset_of_the_device_disables_every_ring(bench: Bench) -> None:
    bench.front.connect()
    bench.front.tell(Request.RESET_DEVICE)
    assert bench.desk.started == []
    assert not bench.session.rings.vrings[0].enabled


def test_a_changed_configuration_is_told_on_the_front_ends_own_channel(bench: Bench) -> None:
    import socket

    from emu.dataplanes.vhost_user.channel import Channel

    ours, theirs = socket.socketpair()
    bench.front.negotiate()
    bench.front.tell(Request.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
    theirs.close()
    bench.session.config_changed()
    channel = Channel(ours, names=BackendRequest)
    assert channel.receive().name == "CONFIG_CHANGE_MSG"
    channel.close()


# ---- the dirty log -----------------------------------------------------------------------------------


def test_what_is_written_is_marked_in_the_log(bench: Bench) -> None:
    front = bench.front
    front.connect()
    log = os.memfd_create("log")
    os.ftruncate(log, 4096)
    front.ask(Request.SET_LOG_BASE, Log(4096, 0).encode(), [log])
    head = front.add_read(3)
    bench.desk.serve()
    assert os.pread(log, 4096, 0) == bytes(4096)  # not before LOG_ALL
    front.tell(Request.SET_FEATURES, encode_u64(FEATURES | F_LOG_ALL))
    head = front.add_read(4)
    bench.desk.serve()
    data_gpa = front.driver.parts[head][1][0]
    marked = {i for i, byte in enumerate(os.pread(log, 4096, 0)) if byte}
    assert marked == {data_gpa >> 15, (data_gpa + SECTOR) >> 15}
    front.set_ring(base=2, flags=VRING_F_LOG)
    front.start_ring()
    front.add_read(5)
    bench.desk.serve()
    assert os.pread(log, 4096, 0)[front.driver.used_gpa >> 15] == 0xFF
    os.close(log)


def test_a_log_that_is_too_short_marks_what_it_has(bench: Bench) -> None:
    front = bench.front
    front.connect()
    log = os.memfd_create("log")
    os.ftruncate(log, 4096)
    front.ask(Request.SET_LOG_BASE, Log(1, 0).encode(), [log])
    front.tell(Request.SET_FEATURES, encode_u64(FEATURES | F_LOG_ALL))
    head = front.add_read(4)
    bench.desk.serve()
    assert front.driver.used() == [(head, SECTOR + 1)]
    assert os.pread(log, 4096, 0)[1:] == bytes(4095)
    os.close(log)


# ---- what is in flight -------------------------------------------------------------------------------


def test_a_new_back_end_finds_what_the_old_one_had_in_hand(bench: Bench) -> None:
    front = bench.front
    front.connect()
    area = front.ask(Request.GET_INFLIGHT_FD, Inflight(0, 0, 2, 16).encode())
    (fd,) = bench.line.fds
    front.tell(Request.SET_INFLIGHT_FD, area, [fd])
    heads = [front.add_read(number) for number in range(4)]
    runner = bench.desk.started[0].runner
    assert runner is not None
    region = bench.session.rings._inflight
    assert region is not None
    queue = region.queue(0)
    assert queue is not None
    queue.take(heads)  # as it does before it serves them; and it dies with the first one answered
    chain = runner.queue.pop()
    assert chain is not None
    runner.queue.push(chain, 0)

    other = Bench(bench.disk)
    other.front = Front(other.line, queue=front.driver)
    other.front.negotiate()
    other.front.share_memory()
    other.front.tell(Request.SET_INFLIGHT_FD, area, [fd])
    other.front.set_ring(base=4)
    other.front.start_ring()
    other.desk.serve()
    assert [head for head, _ in front.driver.used()] == heads
    assert other.desk.costs.requests == 3
    assert front.driver.written(heads[3]) == sector(3) + b"\0"
    other.close()
    os.close(fd)


def test_the_area_is_kept_while_requests_are_served(bench: Bench) -> None:
    front = bench.front
    front.connect()
    area = front.ask(Request.GET_INFLIGHT_FD, Inflight(0, 0, 1, 16).encode())
    (fd,) = bench.line.fds
    front.tell(Request.SET_INFLIGHT_FD, area, [fd])
    head, *_ = [front.add_read(number) for number in range(3)]
    bench.desk.serve()
    shared = os.pread(fd, 16 + 16 * 16, 0)
    assert struct.unpack_from("<HHHH", shared, 8) == (1, 16, head, 3)
    assert not any(shared[16 + 16 * i] for i in range(16))  # none in flight
    os.close(fd)


def test_a_call_whose_counter_is_full_does_not_hold_us_up(bench: Bench) -> None:
    front = bench.front
    os.eventfd_write(front.call.fd, 2**64 - 2)
    os.set_blocking(front.call.fd, True)
    front.connect()
    front.add_read(1)
    bench.desk.serve()
    assert len(front.driver.used()) == 1


def test_a_polled_ring_is_parked_again_with_each_request(bench: Bench) -> None:
    front = bench.front
    front.connect()
    runner = bench.desk.started[0].runner
    assert runner is not None
    for done in range(1, 4):
        front.add_read(done)
        assert runner.poll() == 1
        assert front.driver.avail_event[0] == done + 0x8000
        assert front.called()
        assert len(front.driver.used()) == 1
    assert runner.poll() == 0


def test_an_interrupt_that_is_wished_for_late_comes_with_the_next_look(bench: Bench) -> None:
    front = bench.front
    front.connect()
    runner = bench.desk.started[0].runner
    assert runner is not None
    front.add_read(1)
    front.driver.want_interrupts(False)
    assert runner.poll() == 1
    assert not front.called()
    front.driver.want_interrupts(True)
    assert runner.poll() == 0
    assert front.called()


# ---- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "body", "fault"),
    [
        (Request.POSTCOPY_ADVISE, b"", "POSTCOPY_ADVISE: request: it is not supported"),
        (Request.VRING_KICK, VringState(0, 0).encode(), "VRING_KICK: request: it is not supported"),
        (200, b"", "request 200: request: it is not supported"),
        (Request.SET_FEATURES, encode_u64(1 << 40), "SET_FEATURES: u64: 0x10000000000 was not offered"),
        (Request.SET_PROTOCOL_FEATURES, encode_u64(1 << 11), "SET_PROTOCOL_FEATURES: u64: 0x800 was not"),
        (Request.SET_VRING_NUM, VringState(2, 16).encode(), "SET_VRING_NUM: index: 2, there are 2 queues"),
        (Request.SET_VRING_NUM, VringState(0, 17).encode(), "SET_VRING_NUM: num: 17, a power of two up to"),
        (Request.SET_VRING_NUM, VringState(0, 0).encode(), "SET_VRING_NUM: num: 0, a power of two up to"),
        (Request.SET_VRING_BASE, VringState(0, 1 << 16).encode(), "SET_VRING_BASE: num: 0x10000 is no index"),
        (Request.SET_VRING_ENABLE, VringState(0, 2).encode(), "SET_VRING_ENABLE: num: 2 is neither 0 nor 1"),
        (Request.GET_VRING_BASE, VringState(9, 0).encode(), "GET_VRING_BASE: index: 9, there are 2 queues"),
        (Request.SET_VRING_KICK, INDEX, "SET_VRING_KICK: fds: 0 came, 1 must"),
        (Request.SET_VRING_CALL, encode_u64(0x1FF), "SET_VRING_CALL: index: 255, there are 2 queues"),
        (Request.SET_MEM_TABLE, encode_regions([Region(0, 1, 0, 0)]), "SET_MEM_TABLE: fds: 0 came, 1 must"),
        (Request.SET_STATUS, encode_u64(256), "SET_STATUS: u64: 0x100 is no device status"),
        (Request.SET_LOG_BASE, Log(4096, 0).encode(), "SET_LOG_BASE: fds: 0 came, 1 must"),
        (Request.GET_INFLIGHT_FD, Inflight(0, 0, 0, 8).encode(), "GET_INFLIGHT_FD: num queues: 0, 1 to 256"),
        (Request.GET_INFLIGHT_FD, Inflight(0, 0, 1, 0).encode(), "GET_INFLIGHT_FD: queue size: 0, 1 to 1024"),
    ],
)
def test_a_message_that_cannot_be_done_is_refused_by_name_and_field(
    bench: Bench, request_: int, body: bytes, fault: str
) -> None:
    bench.front.negotiate()
    with pytest.raises(ProtocolError, match=f"^vhost-user {fault}"):
        bench.line.send(request_, body)


@pytest.mark.parametrize(
    "request_",
    [
        Request.GET_CONFIG,
        Request.ADD_MEM_REG,
        Request.GET_INFLIGHT_FD,
        Request.SET_STATUS,
        Request.SET_LOG_BASE,
    ],
)
def test_a_request_of_a_protocol_feature_needs_it(bench: Bench, request_: Request) -> None:
    with pytest.raises(ProtocolError, match=f"{request_.name}: request: its protocol feature was not"):
        bench.line.send(request_)


@pytest.mark.parametrize(
    ("places", "fault"),
    [
        ((USER, USER + 0x20_0000, USER), "used: 0x86 bytes at .* are not in the memory table"),
        ((USER + 1, USER, USER), "vring: desc ring at 0x1 is not aligned to 16 bytes"),
        ((0, USER, USER), "descriptor: 0x100 bytes at 0x0 are not in the memory table"),
        ((2**64 - 16, USER, USER), "descriptor: 0x100 bytes at 0xfffffffffffffff0 are not"),
    ],
)
def test_a_ring_outside_of_the_memory_is_refused(
    bench: Bench, places: tuple[int, int, int], fault: str
) -> None:
    front = bench.front
    front.negotiate()
    front.share_memory()
    front.set_ring()
    descriptor, used, available = places
    front.tell(Request.SET_VRING_ADDR, VringAddr(0, 0, descriptor, used, available, 0).encode())
    front.tell(Request.SET_VRING_ENABLE, VringState(0, 1).encode())
    with pytest.raises(ProtocolError, match=f"SET_VRING_KICK: {fault}"):
        front.tell(Request.SET_VRING_KICK, INDEX, [front.kick.fd])


def test_memory_that_is_not_there_is_refused(bench: Bench) -> None:
    front = bench.front
    front.negotiate()
    too_much = Region(0, front.memory.size + 1, USER, 0)
    with pytest.raises(ProtocolError, match=r"SET_MEM_TABLE: fd: .* cannot be mapped"):
        front.tell(Request.SET_MEM_TABLE, encode_regions([too_much]), [front.memory.fd])
    with pytest.raises(ProtocolError, match=r"ADD_MEM_REG: fd: .* cannot be mapped"):
        front.tell(Request.ADD_MEM_REG, front.region().encode(), [front.kick.fd])


def test_slots_are_bounded_and_disjoint(bench: Bench) -> None:
    front = bench.front
    front.negotiate()
    front.share_memory()
    with pytest.raises(ProtocolError, match=r"ADD_MEM_REG: region guest_addr: .* overlaps the region at 0x0"):
        front.tell(Request.ADD_MEM_REG, front.region().encode(), [front.memory.fd])
    page = [Region(0x1_0000_0000 + 4096 * i, 4096, 4096 * i, 0) for i in range(MAX_SLOTS)]
    for region in page[:-1]:
        front.tell(Request.ADD_MEM_REG, region.encode(), [front.memory.fd])
    with pytest.raises(ProtocolError, match=f"ADD_MEM_REG: region: {MAX_SLOTS} slots are taken"):
        front.tell(Request.ADD_MEM_REG, page[-1].encode(), [front.memory.fd])


def test_a_descriptor_that_is_no_eventfd_is_refused_and_closed(bench: Bench) -> None:
    front = bench.front
    reader, writer = os.pipe()
    before = open_fds()
    with pytest.raises(ProtocolError, match="SET_VRING_KICK: fd: it is no eventfd"):
        front.tell(Request.SET_VRING_KICK, INDEX, [writer])
    front.negotiate()
    with pytest.raises(ProtocolError, match="SET_BACKEND_REQ_FD: fd: it is no socket"):
        front.tell(Request.SET_BACKEND_REQ_FD, fds=[reader])
    assert open_fds() == before
    os.close(reader)
    os.close(writer)


def test_surplus_descriptors_are_refused_and_closed(bench: Bench) -> None:
    front = bench.front
    before = open_fds()
    with pytest.raises(ProtocolError, match="SET_OWNER: fds: 1 came, 0 must"):
        front.tell(Request.SET_OWNER, fds=[front.kick.fd])
    with pytest.raises(ProtocolError, match="SET_VRING_KICK: fds: 1 came, 0 must"):
        front.tell(Request.SET_VRING_KICK, NO_FD, [front.kick.fd])
    with pytest.raises(ProtocolError, match="SET_VRING_KICK: fds: 2 came, 1 must"):
        front.tell(Request.SET_VRING_KICK, INDEX, [front.kick.fd] * 2)
    front.negotiate()
    with pytest.raises(ProtocolError, match="GET_INFLIGHT_FD: fds: 1 came, 0 must"):
        front.ask(Request.GET_INFLIGHT_FD, Inflight(0, 0, 1, 16).encode(), [front.kick.fd])
    assert open_fds() == before


def test_a_session_leaves_no_descriptor_and_no_mapping(disk: BlockBackend) -> None:
    driver = DriverQueue(size=16, event_idx=True)
    fds, maps = open_fds(), shared_maps()
    for _ in range(3):
        bench = Bench(disk)
        bench.front.close()
        bench.front = Front(bench.line, queue=driver)
        front = bench.front
        front.connect()
        log = os.memfd_create("log")
        os.ftruncate(log, 4096)
        front.ask(Request.SET_LOG_BASE, Log(4096, 0).encode(), [log])
        front.tell(Request.SET_LOG_FD, fds=[front.kick.fd])
        area = front.ask(Request.GET_INFLIGHT_FD, Inflight(0, 0, 1, 16).encode())
        (fd,) = bench.line.fds
        front.tell(Request.SET_INFLIGHT_FD, area, [fd])
        os.close(fd)
        os.close(log)
        front.add_read(1)
        bench.desk.serve()
        front.driver.used()
        front.share_memory()
        bench.close()
        assert (open_fds(), shared_maps()) == (fds, maps)


def test_more_regions_than_fit_are_refused(bench: Bench) -> None:
    bench.front.negotiate()
    regions = [Region(4096 * i, 4096, 4096 * i, 0) for i in range(MAX_REGIONS + 1)]
    with pytest.raises(ProtocolError, match="SET_MEM_TABLE: num regions: 9, 1 to 8 are possible"):
        bench.front.tell(Request.SET_MEM_TABLE, encode_regions(regions))


def test_what_is_offered_is_what_can_be_asked_for(bench: Bench) -> None:
    for bit in range(17):
        if PROTOCOL_FEATURES >> bit & 1:
            bench.line.send(Request.SET_PROTOCOL_FEATURES, encode_u64(1 << bit))
