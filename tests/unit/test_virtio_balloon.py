"""virtio-balloon: pages go back to the host and come back as zeros; figures come when asked for."""

import os
import struct
from collections.abc import Iterator

import pytest

from emu.bus.memory import GuestMemory
from emu.devices.virtio.balloon import MAX_PAGES, VirtioBalloon
from emu.devices.virtio.spec import BALLOON_F_REPORTING, BALLOON_F_STATS_VQ
from emu.errors import DriverError
from emu.testing.driver_queue import DriverQueue

PAGE = 4096
FIRST = 0x100  # the page at 1 MiB


class Rig:
    def __init__(self, role: int = 0, **options: bool) -> None:
        self.memory = GuestMemory(4 << 20)
        self.memory.view(0, self.memory.size)[:] = bytes(self.memory.size)  # so that the host has each page
        self.memory.view(FIRST * PAGE, 64 * PAGE)[:] = b"x" * (64 * PAGE)
        self.driver = DriverQueue(size=8, memory=self.memory, slot_bytes=4096)
        self.balloon = VirtioBalloon(self.memory, **options)
        self.balloon.set_features(self.balloon.features)
        self.drain = self.balloon.drain(role, self.driver.device_side())
        self.written: list[tuple[int, int]] = []
        self.memory.on_written = lambda gpa, length: self.written.append((gpa, length))

    def ask(self, *pages: int) -> None:
        head = self.driver.add(struct.pack(f"<{len(pages)}I", *pages))
        assert self.drain(8) == 1
        assert self.driver.used() == [(head, 0)]

    def host_bytes(self) -> int:
        return os.fstat(self.memory.fd).st_blocks * 512

    def page(self, number: int) -> bytes:
        return bytes(self.memory.view(number * PAGE, PAGE))

    def close(self) -> None:
        self.memory.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


def test_an_inflated_page_is_the_hosts_again_and_reads_as_zeros(rig: Rig) -> None:
    before = rig.host_bytes()
    rig.ask(FIRST + 3, FIRST + 1, FIRST + 2, FIRST + 9)
    assert before - rig.host_bytes() == 4 * PAGE
    assert {rig.page(FIRST + n) for n in (1, 2, 3, 9)} == {bytes(PAGE)}
    assert rig.page(FIRST) == rig.page(FIRST + 4) == b"x" * PAGE
    assert rig.written == [((FIRST + 1) * PAGE, 3 * PAGE), ((FIRST + 9) * PAGE, PAGE)]
    assert rig.balloon.costs.syscalls == 2


def test_a_page_can_be_used_again_after_deflating_or_without(rig: Rig) -> None:
    rig.ask(FIRST)
    rig.memory.view(FIRST * PAGE, 1)[:] = b"y"
    assert rig.page(FIRST)[:2] == b"y\0"


def test_what_is_not_ram_is_left_alone(rig: Rig) -> None:
    before = rig.host_bytes()
    rig.ask(0xFFFF_FFFF, 1024, 0xC0000)
    assert (rig.host_bytes(), rig.written) == (before, [])


@pytest.mark.parametrize("length", [1, 3, 5, 4 * (MAX_PAGES + 1)])
def test_a_list_that_is_none_is_the_drivers_fault(length: int) -> None:
    memory = GuestMemory(2 << 20)
    driver = DriverQueue(size=2, memory=memory, slot_bytes=1 << 18)
    driver.add(bytes(length))
    with pytest.raises(DriverError, match="page numbers"):
        VirtioBalloon(memory).drain(0, driver.device_side())(2)
    memory.close()


def test_deflating_keeps_the_contents(rig: Rig) -> None:
    rig.drain = rig.balloon.drain(1, rig.driver.device_side())
    rig.ask(FIRST)
    assert rig.page(FIRST) == b"x" * PAGE


def test_the_configuration_holds_the_target_and_the_guests_word(rig: Rig) -> None:
    changes: list[int] = []
    rig.balloon.config_changed = lambda: changes.append(1)
    rig.balloon.set_target(10 * PAGE + 5)
    assert struct.unpack("<II", rig.balloon.config(0, 8)) == (10, 0)
    rig.balloon.write_config(0, b"\xff" * 4)
    rig.balloon.write_config(4, struct.pack("<I", 7))
    assert struct.unpack("<II", rig.balloon.config(0, 8)) == (10, 7)
    assert (rig.balloon.actual, changes) == (7 * PAGE, [1])
    rig.balloon.write_config(6, b"\1\0")
    assert rig.balloon.actual == 0x10007 * PAGE
    rig.balloon.write_config(7, b"\0\xff\xff\xff")
    assert rig.balloon.config(8, 4) == b""
    rig.balloon.reset()
    assert rig.balloon.actual == 0


def statistics(free: int) -> bytes:
    return struct.pack("<HQHQHQ", 4, free, 5, 1 << 30, 99, 1) + b"\1"


def test_statistics_are_kept_until_fresh_ones_are_wanted() -> None:
    rig = Rig(role=2)
    kicks: list[int] = []
    rig.balloon.kick = kicks.append
    head = rig.driver.add(statistics(1000))
    assert rig.drain(8) == 0
    assert rig.balloon.statistics == {"free-memory": 1000, "total-memory": 1 << 30}
    assert rig.drain(8) == 0
    rig.balloon.request_statistics()
    assert kicks == [2]
    assert rig.drain(8) == 1
    assert rig.driver.used() == [(head, 0)]
    rig.driver.add(statistics(2000))
    assert rig.drain(8) == 0
    assert rig.balloon.statistics["free-memory"] == 2000
    rig.close()


def test_reported_pages_are_dropped_but_for_the_parts_at_the_ends() -> None:
    rig = Rig(role=3, reporting=True)
    before = rig.host_bytes()
    driver = rig.driver
    driver.put(0, FIRST * PAGE, 8 * PAGE, 2 | 1, 1)
    driver.put(1, (FIRST + 16) * PAGE + 1, 2 * PAGE, 2)
    driver.avail[2] = 0
    driver.set_avail_idx(1)
    assert rig.drain(8) == 1
    assert before - rig.host_bytes() == 9 * PAGE
    assert rig.page(FIRST + 16) == rig.page(FIRST + 18) == b"x" * PAGE
    rig.close()


def test_queues_are_numbered_by_what_was_accepted() -> None:
    rig = Rig(reporting=True)
    rig.balloon.set_features(rig.balloon.features & ~BALLOON_F_STATS_VQ)
    before = rig.host_bytes()
    drain = rig.balloon.drain(2, rig.driver.device_side())
    rig.driver.put(0, FIRST * PAGE, PAGE, 2)
    rig.driver.avail[2] = 0
    rig.driver.set_avail_idx(1)
    assert drain(8) == 1
    assert before - rig.host_bytes() == PAGE
    assert rig.balloon.features & BALLOON_F_REPORTING
    assert rig.balloon.queues == 4
    rig.close()
