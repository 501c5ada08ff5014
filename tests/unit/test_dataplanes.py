"""The data planes: the same requests inline, in an I/O thread and in a vhost worker, and on the move."""

import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emu.bus.costs import Costs
from emu.bus.eventfd import EventFd
from emu.dataplanes.inline import inline_plane
from emu.dataplanes.iothread import iothread_plane
from emu.dataplanes.local import LocalPlane
from emu.dataplanes.runner import QueueRunner
from emu.dataplanes.types import DataPlane
from emu.dataplanes.vhost import vhost_plane
from emu.devices.block.raw import RawImage
from emu.devices.virtio.blk import VirtioBlk
from emu.devices.virtio.device import VirtioDevice
from emu.devices.virtio.spec import (
    ACKNOWLEDGE,
    BLK_F_FLUSH,
    DEVICE_NEEDS_RESET,
    DRIVER,
    DRIVER_OK,
    F_RING_EVENT_IDX,
    F_VERSION_1,
    FEATURES_OK,
)
from emu.devices.virtio.split_queue import Chain, each_chain
from emu.errors import ConfigError
from emu.testing.driver_queue import DriverQueue

SECTORS = 256
CONTENT = b"".join(struct.pack("<I", n) * 128 for n in range(SECTORS))
PLANES = ("virtio", "virtio-iothread", "vhost")
PATIENCE_S = 30


class Bench:
    """A disk device without a bus: this test's thread is its vCPU, `interrupted` its interrupt."""

    def __init__(self, path: Path, plane: str, *, size: int = 64, queues: int = 1) -> None:
        path.write_bytes(CONTENT)
        self.failures: list[BaseException] = []
        self.posted: list[Callable[[], None]] = []
        self.blk = VirtioBlk(RawImage(path, False), queues=queues)
        self.planes: dict[str, LocalPlane] = {
            "virtio": inline_plane(self.blk),
            "virtio-iothread": iothread_plane(self.blk, self.failures.append),
            "vhost": vhost_plane(self.blk, self.failures.append),
        }
        self.drivers = [DriverQueue(size=size, event_idx=True, slot_bytes=1024)]
        memory = self.drivers[0].memory
        for _ in range(1, queues):
            at = self.drivers[-1].end
            self.drivers.append(
                DriverQueue(size=size, event_idx=True, slot_bytes=1024, memory=memory, rings_at=at)
            )
        self.driver = self.drivers[0]
        self.interrupted = threading.Event()
        self.interrupts = 0
        self.device = VirtioDevice(self.planes[plane], memory, post=self.posted.append)
        self.device.attach(self)

    # the device's bus
    def wire(self) -> None:
        for call in self.device.calls:
            call.bind(self._interrupt)

    def doorbells_changed(self) -> None: ...

    def config_interrupt(self) -> None:
        self._interrupt()

    def _interrupt(self) -> None:
        self.interrupts += 1
        self.interrupted.set()

    # the driver
    def power_up(self, features: int = F_RING_EVENT_IDX) -> None:
        device = self.device
        device.set_status(ACKNOWLEDGE)
        device.set_status(ACKNOWLEDGE | DRIVER)
        wanted = features | F_VERSION_1 | BLK_F_FLUSH
        device.set_features(0, wanted & 0xFFFF_FFFF)
        device.set_features(1, wanted >> 32)
        device.set_status(device.status | FEATURES_OK)
        for index, driver in enumerate(self.drivers):
            device.set_queue_size(index, driver.size)
            queue = device.queues[index]
            queue.desc, queue.driver, queue.device = driver.desc_gpa, driver.avail_gpa, driver.used_gpa
            device.enable_queue(index)
        device.set_status(device.status | DRIVER_OK)

    def submit(self, sector: int, queue: int = 0) -> int:
        return self.drivers[queue].add(struct.pack("<IIQ", 0, 0, sector), 512, 1)

    def kick(self, queue: int = 0) -> None:
        if self.drivers[queue].needs_kick():
            self.device.kicks[queue].signal()

    def wait_used(self, queue: int = 0) -> list[tuple[int, int]]:
        """Sleep as a driver does: ask for an interrupt, look again, wait."""
        driver = self.drivers[queue]
        while True:
            self.interrupted.clear()
            driver.want_interrupts(True)
            if used := driver.used():
                return used
            assert self.interrupted.wait(PATIENCE_S), "no interrupt came"

    def close(self) -> None:
        self.device.close()
        self.blk.backend.close()
        assert self.failures == []


@pytest.fixture(params=PLANES)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "disk", request.param)
    yield made
    made.close()


def test_requests_are_answered_with_the_right_bytes(bench: Bench) -> None:
    bench.power_up()
    for sector in range(200):
        head = bench.submit(sector)
        bench.kick()
        assert bench.wait_used() == [(head, 513)]
        assert bench.driver.written(head) == struct.pack("<I", sector) * 128 + b"\0"
    assert bench.device.plane.costs().requests == 200


def test_each_wake_up_is_counted(bench: Bench) -> None:
    bench.power_up()
    bench.driver.want_interrupts(True)
    bench.submit(1)
    bench.kick()
    assert bench.interrupted.wait(PATIENCE_S)
    plane = bench.device.plane
    bench.device.reset()
    costs = plane.costs()
    inline = plane.name == "virtio"
    assert costs.requests == costs.interrupts == 1
    assert costs.handoffs == (0 if inline else 1)
    assert costs.syscalls == (1 if inline else 3)  # preadv; read of the eventfd, and a barrier
    assert costs.bytes_copied == 512


def test_a_batch_takes_one_kick_and_one_interrupt_inline(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "disk", "virtio")
    bench.power_up()
    bench.driver.want_interrupts(True)
    for sector in range(8):
        bench.submit(sector)
    bench.kick()
    assert len(bench.driver.used()) == 8
    assert bench.interrupts == 1
    bench.close()


def test_starting_and_stopping_twice_is_harmless(bench: Bench) -> None:
    bench.power_up()
    plane = bench.device.plane
    plane.start()
    assert plane.stop() == {0: 0}
    assert plane.stop() == {}
    plane.start()
    head = bench.submit(7)
    bench.kick()
    assert bench.wait_used() == [(head, 513)]


def test_a_violation_asks_for_a_reset_and_the_next_life_works(bench: Bench) -> None:
    posted: list[Callable[[], None]] = []
    arrived = threading.Event()
    bench.device.post = lambda call: (posted.append(call), arrived.set(), None)[-1]
    bench.power_up()
    bench.driver.set_avail_idx(bench.driver.size + 1)
    for _ in range(3):
        bench.device.kicks[0].signal()
    assert arrived.wait(PATIENCE_S)
    bench.device.kicks[0].signal()
    bench.device.plane.stop()
    assert len(posted) == 1
    posted[0]()
    assert bench.device.status & DEVICE_NEEDS_RESET
    assert bench.interrupts == 1  # the configuration interrupt
    assert "queue 0: avail_idx 65 is 65 ahead" in bench.device.last_error
    bench.device.set_status(0)
    assert bench.device.status == 0
    bench.drivers = [DriverQueue(size=64, event_idx=True, slot_bytes=1024, memory=bench.driver.memory)]
    bench.driver = bench.drivers[0]
    bench.driver.memory.view(bench.driver.used_gpa, 4)[:] = bytes(4)
    bench.driver.set_avail_idx(0)
    bench.power_up()
    head = bench.submit(3)
    bench.kick()
    assert bench.wait_used() == [(head, 513)]
    posted[0]()  # an error of the former life changes nothing
    assert not bench.device.status & DEVICE_NEEDS_RESET


def test_an_error_of_ours_is_reported_from_the_worker(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "disk", "vhost")
    told = threading.Event()
    failures: list[BaseException] = []
    bench.device.plane = vhost_plane(bench.blk, lambda error: (failures.append(error), told.set(), None)[-1])
    bench.power_up()

    def broken() -> None:
        raise ZeroDivisionError

    bench.device.calls[0].bind(broken)
    bench.driver.want_interrupts(True)
    bench.submit(0)
    bench.kick()
    assert told.wait(PATIENCE_S)
    assert isinstance(failures[0], ZeroDivisionError)
    bench.close()


@pytest.mark.parametrize("plane", PLANES)
def test_several_queues_are_served_by_one_plane(tmp_path: Path, plane: str) -> None:
    bench = Bench(tmp_path / "disk", plane, queues=3)
    bench.power_up()
    for sector in range(60):
        queue = sector % 3
        head = bench.submit(sector, queue)
        bench.kick(queue)
        assert bench.wait_used(queue) == [(head, 513)]
        assert bench.drivers[queue].written(head)[:4] == struct.pack("<I", sector)
    bench.close()


def test_a_plane_that_lacks_a_feature_cannot_take_over(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "disk", "virtio")
    bench.power_up()
    (tmp_path / "other").write_bytes(CONTENT)
    lesser = VirtioBlk(RawImage(tmp_path / "other", True))
    lesser.__class__ = type("Lesser", (VirtioBlk,), {"features": 0})
    with pytest.raises(ConfigError, match="virtio cannot take over"):
        bench.device.move_to(inline_plane(lesser))
    head = bench.submit(3)
    bench.kick()
    assert bench.wait_used() == [(head, 513)]
    bench.close()


def test_without_bus_mastering_requests_wait(bench: Bench) -> None:
    bench.power_up()
    bench.device.allow_dma(False)
    head = bench.submit(9)
    assert bench.driver.used() == []
    bench.device.allow_dma(True)
    assert bench.wait_used() == [(head, 513)]


class Loose:
    """A runner that this test calls itself; `during_barrier` happens while it gets ready to sleep."""

    def __init__(self, handle: Callable[[Chain], int] | None = None) -> None:
        self.driver = DriverQueue(size=4, event_idx=True)
        self.queue = self.driver.device_side()
        self.interrupts = 0
        self.during_barrier: list[Callable[[], object]] = []
        call = EventFd()
        call.bind(self._count)
        drain = each_chain(self.queue, handle if handle is not None else lambda _chain: 0)
        self.runner = QueueRunner(self.queue, drain, EventFd(), call, Costs(), barrier=self._barrier)

    def _count(self) -> None:
        self.interrupts += 1

    def _barrier(self) -> None:
        if self.during_barrier:
            self.during_barrier.pop()()


def test_a_chain_that_becomes_visible_at_the_barrier_is_not_slept_over() -> None:
    loose = Loose()
    loose.driver.add(b"x")
    loose.during_barrier = [lambda: loose.driver.add(b"y")]
    assert loose.runner.run(16) is False
    assert len(loose.driver.used()) == 2


def test_a_used_event_that_becomes_visible_at_the_barrier_is_not_slept_over() -> None:
    loose = Loose()
    loose.driver.want_interrupts(False)
    loose.driver.add(b"x")
    loose.during_barrier = [lambda: loose.driver.want_interrupts(True)]
    assert loose.runner.run(16) is False
    assert loose.interrupts == 1


def test_work_in_one_go_is_bounded() -> None:
    served = 0

    def endless(_chain: Chain) -> int:
        """A request that makes itself available again, as DMA into the ring can."""
        nonlocal served
        served += 1
        loose.driver.publish(0)
        return 0

    loose = Loose(endless)
    loose.driver.add(b"x")
    assert loose.runner.run(16) is True
    assert served == 16


def test_inline_work_that_is_left_goes_on_when_the_guest_has_had_its_turn(tmp_path: Path) -> None:
    bench, later = Bench(tmp_path / "disk", "virtio", size=8), []
    bench.device.plane = inline_plane(bench.blk, later.append)
    bench.power_up()
    driver = bench.driver
    bench.submit(0)

    def again(_gpa: int, length: int) -> None:
        if length == 1 and driver.avail_idx < 40:  # the status byte
            driver.publish(0)

    driver.memory.on_written = again
    bench.kick()
    assert len(later) == 1
    while later:
        later.pop()()
    assert not bench.device.status & DEVICE_NEEDS_RESET
    assert driver.used_words[1] == 40
    bench.close()


class Hammer:
    """A driver on a thread of its own that keeps requests in flight; `turn` is the vCPU thread's turn."""

    def __init__(self, bench: Bench, requests: int, depth: int, *, polling: bool) -> None:
        self.bench, self.requests, self.depth, self.polling = bench, requests, depth, polling
        self.turn = threading.Lock()  # held by whoever runs device code of the vCPU thread
        self.done = self.wrong = 0
        self.errors: list[BaseException] = []
        self.thread = threading.Thread(target=self._main, daemon=True)

    def _main(self) -> None:
        try:
            self._drive()
        except BaseException as error:
            self.errors.append(error)

    def _drive(self) -> None:
        bench, driver = self.bench, self.bench.driver
        sent, sector_of = 0, {}
        quiet_until = time.monotonic() + PATIENCE_S
        while self.done < self.requests:
            while sent < self.requests and len(sector_of) < self.depth:
                sector = sent * 7 % SECTORS
                sector_of[bench.submit(sector)] = sector
                sent += 1
            if driver.needs_kick():
                with self.turn:
                    bench.device.kicks[0].signal()
            if self.polling:
                driver.want_interrupts(False)
                used = driver.used()
                if not used:
                    os.sched_yield()
                    assert time.monotonic() < quiet_until, f"stuck after {self.done}"
                    continue
            else:
                used = bench.wait_used()
            quiet_until = time.monotonic() + PATIENCE_S
            for head, written in used:
                expected = struct.pack("<I", sector_of.pop(head))
                self.wrong += written != 513 or driver.memory.view(driver.parts[head][1][0], 4) != expected
                self.done += 1


@pytest.mark.parametrize("polling", [False, True])
def test_a_queue_moves_between_planes_while_the_driver_goes_on(tmp_path: Path, polling: bool) -> None:
    bench = Bench(tmp_path / "disk", "virtio")
    bench.power_up()
    hammer = Hammer(bench, 1 << 30, 16, polling=polling)
    hammer.thread.start()
    for n in range(200):
        before = hammer.done
        with hammer.turn:
            plane: DataPlane = bench.planes[PLANES[(n + 1) % 3]]
            bench.device.move_to(plane)
        deadline = time.monotonic() + PATIENCE_S
        while hammer.done == before and hammer.thread.is_alive():
            os.sched_yield()
            assert time.monotonic() < deadline, f"nothing was answered after move {n} to {plane.name}"
    hammer.requests = hammer.done + 100
    hammer.thread.join(PATIENCE_S)
    assert (hammer.errors, hammer.wrong) == ([], 0)
    assert hammer.done == hammer.requests
    bench.close()


def soak(tmp_path: Path, plane: str, requests: int, *, polling: bool, depth: int) -> None:
    bench = Bench(tmp_path / "disk", plane)
    bench.power_up()
    hammer = Hammer(bench, requests, depth, polling=polling)
    hammer.thread.start()
    hammer.thread.join()
    assert (hammer.errors, hammer.wrong, hammer.done) == ([], 0, requests)
    bench.close()


@pytest.mark.parametrize("polling", [False, True])
@pytest.mark.parametrize("plane", PLANES)
def test_no_request_hangs(tmp_path: Path, plane: str, polling: bool) -> None:
    soak(tmp_path, plane, 10_000, polling=polling, depth=4)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("polling", [False, True])
@pytest.mark.parametrize("plane", ["virtio-iothread", "vhost"])
def test_a_million_requests_do_not_hang(tmp_path: Path, plane: str, polling: bool) -> None:
    soak(tmp_path, plane, int(os.environ.get("EMU_SOAK_REQUESTS", "1000000")), polling=polling, depth=4)
