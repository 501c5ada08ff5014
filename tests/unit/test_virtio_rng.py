"""virtio-rng: buffers are filled, the rate is kept, and a source that has nothing is waited for."""

import os
from pathlib import Path

import pytest

from emu.bus.costs import Costs
from emu.bus.eventfd import EventFd
from emu.clock import GuestClock
from emu.dataplanes.runner import QueueRunner
from emu.devices.virtio.rng import MAX_REQUEST, RandomFile, VirtioRng, host_random
from emu.errors import ConfigError, DriverError
from emu.testing.driver_queue import DriverQueue


class Source:
    """Counts upwards; has only what it was given."""

    def __init__(self, stock: int = 1 << 30) -> None:
        self.stock, self.next = stock, 0

    def __call__(self, length: int) -> bytes:
        given = min(length, self.stock)
        data = bytes((self.next + i) & 0xFF for i in range(given))
        self.next, self.stock = self.next + given, self.stock - given
        return data


class Rig:
    def __init__(self, source: Source, **rate: int) -> None:
        self.clock, self.driver = GuestClock(), DriverQueue(size=8, slot_bytes=1 << 17)
        self.rng = VirtioRng(source, self.clock, **rate)
        self.queue = self.driver.device_side()
        self.drain = self.rng.drain(0, self.queue)
        self.rng.kick = lambda _queue: self.run()
        self.kick, self.call = EventFd(), EventFd()
        self.interrupts = 0
        self.call.bind(self._interrupt)
        self.runner = QueueRunner(self.queue, self.drain, self.kick, self.call, Costs())

    def _interrupt(self) -> None:
        self.interrupts += 1

    def run(self) -> None:
        assert not self.runner.run(4), "a queue that waits for the host must not be asked for ever"

    def close(self) -> None:
        self.kick.close()
        self.call.close()


def test_every_buffer_is_filled_with_the_next_bytes() -> None:
    rig = Rig(Source())
    heads = [rig.driver.add(5), rig.driver.add(3, 4)]
    rig.run()
    assert rig.driver.used() == [(heads[0], 5), (heads[1], 7)]
    assert [rig.driver.written(head) for head in heads] == [bytes(range(5)), bytes(range(5, 12))]
    assert rig.rng.costs.bytes_copied == 12
    rig.close()


def test_a_huge_request_gets_part_of_it() -> None:
    rig = Rig(Source())
    head = rig.driver.add(MAX_REQUEST + 1)
    rig.run()
    assert rig.driver.used() == [(head, MAX_REQUEST)]
    rig.close()


def test_a_request_without_room_is_the_drivers_fault() -> None:
    rig = Rig(Source())
    rig.driver.add(b"x")
    with pytest.raises(DriverError, match="without a writable buffer"):
        rig.drain(8)
    rig.close()


def test_the_rate_is_kept_and_the_next_period_goes_on() -> None:
    rig = Rig(Source(), max_bytes=10, period_ms=5)
    heads = [rig.driver.add(8), rig.driver.add(8), rig.driver.add(8)]
    rig.run()
    assert rig.driver.used() == [(heads[0], 8), (heads[1], 2)]
    rig.run()  # a kick in between does not bring more
    assert rig.driver.used() == []
    rig.clock.advance(4_999_999)
    assert rig.driver.used() == []
    rig.clock.advance(1)
    assert rig.driver.used() == [(heads[2], 8)]
    assert rig.interrupts == 2
    rig.close()


def test_a_source_that_has_nothing_is_asked_again() -> None:
    source = Source(stock=0)
    rig = Rig(source)
    head = rig.driver.add(4)
    rig.run()
    rig.clock.advance(50_000_000)
    assert (rig.driver.used(), rig.queue.last_avail) == ([], 0)
    source.stock = 3
    rig.clock.advance(10_000_000)
    assert rig.driver.used() == [(head, 3)]
    rig.close()


def test_the_hosts_generator_and_a_file_never_wait(tmp_path: Path) -> None:
    assert len(host_random(33)) == 33
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    source = RandomFile(str(pipe))
    assert source(4) == b""
    writer = os.open(pipe, os.O_WRONLY)
    assert source(4) == b""
    os.write(writer, b"abcdef")
    assert source(4) == b"abcd"
    os.close(writer)
    source.close()


def test_a_file_or_a_rate_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"-object rng-random: .*none: No such file"):
        RandomFile(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="max-bytes=0"):
        VirtioRng(Source(), GuestClock(), max_bytes=0)
