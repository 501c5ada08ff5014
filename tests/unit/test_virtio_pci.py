"""virtio-pci as a driver meets it: capabilities, common configuration, interrupts, doorbells."""

import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emu.bus.eventfd import EventFd
from emu.bus.mmio import MmioBus
from emu.bus.pci import PciBus
from emu.bus.pio import PioBus
from emu.bus.types import AccessError
from emu.bus.window import FaultLog
from emu.dataplanes.inline import inline_plane
from emu.dataplanes.iothread import iothread_plane
from emu.dataplanes.local import LocalPlane
from emu.dataplanes.vhost import vhost_plane
from emu.devices.block.raw import RawImage
from emu.devices.virtio.blk import VirtioBlk
from emu.devices.virtio.device import VirtioDevice
from emu.devices.virtio.pci_transport import BAR_SIZE, DEVICE, ISR, NOTIFY, VirtioPci
from emu.devices.virtio.spec import (
    DEVICE_NEEDS_RESET,
    DRIVER_OK,
    F_RING_EVENT_IDX,
    F_VERSION_1,
    NO_VECTOR,
)
from emu.kernel.ioeventfd import Doorbells
from emu.kernel.irqfd import bind_irqfd
from emu.testing.driver_queue import DriverQueue
from emu.testing.lines import RecordingLine

BAR4, BAR1 = 0xE000_0000, 0xE001_0000
SLOT = 3
COMMAND, STATUS_INTERRUPT = 4, 0x8
CONTENT = b"".join(struct.pack("<I", n) * 128 for n in range(64))
MSI_ADDRESS = 0xFEE0_0000


class Msi:
    """An `MsiTarget` that wakes a waiting driver."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, int]] = []
        self.threads: list[str] = []
        self.arrived = threading.Event()

    def send(self, address: int, data: int) -> None:
        self.sent.append((address, data))
        self.threads.append(threading.current_thread().name)
        self.arrived.set()


class Registrar:
    def __init__(self) -> None:
        self.table: dict[int, EventFd] = {}

    def add(self, address: int, event: EventFd) -> None:
        assert address not in self.table
        self.table[address] = event

    def remove(self, address: int) -> None:
        del self.table[address]


class Rig:
    """A disk on a PCI bus, and the driver's hands."""

    def __init__(
        self, path: Path, plane: str = "virtio", queues: int = 1, vectors: int | None = None
    ) -> None:
        path.write_bytes(CONTENT)
        self.failures: list[BaseException] = []
        self.blk = VirtioBlk(RawImage(path, False), queues=queues)
        self.planes: dict[str, LocalPlane] = {
            "virtio": inline_plane(self.blk),
            "virtio-iothread": iothread_plane(self.blk, self.failures.append),
            "vhost": vhost_plane(self.blk, self.failures.append),
        }
        self.driver = DriverQueue(size=16, event_idx=True)
        self.msi, self.line, self.registrar = Msi(), RecordingLine(), Registrar()
        self.posted: list[Callable[[], None]] = []
        self.device = VirtioDevice(
            self.planes[plane], self.driver.memory, name="disk0", post=self.posted.append
        )
        doorbells = Doorbells(self.registrar)
        self.pci = VirtioPci(
            self.device, self.msi, bind_irqfd, vectors=vectors, on_doorbells=doorbells.update
        )
        self.function = self.pci.function
        mmio = MmioBus(FaultLog([].append), self.failures.append)
        bus = PciBus(mmio, PioBus(FaultLog([].append), self.failures.append), [self.line] * 4)
        bus.add(self.function, SLOT)
        self.function.config_write(0x20, 4, BAR4)
        self.function.config_write(0x14, 4, BAR1)
        self.function.config_write(COMMAND, 2, 6)

    def capabilities(self) -> Iterator[tuple[int, int]]:
        at = self.function.config_read(0x34, 1)
        while at:
            yield at, self.function.config_read(at, 1)
            at = self.function.config_read(at + 1, 1)

    def vendor(self, kind: int) -> int:
        return next(
            at for at, cap in self.capabilities() if cap == 9 and self.function.config_read(at + 3, 1) == kind
        )

    def common(self, offset: int, width: int, value: int | None = None) -> int:
        if value is None:
            return self.pci.read(offset, width)
        self.pci.write(offset, width, value)
        return value

    def use_msix(self, vectors: int = 2) -> None:
        at = next(at for at, cap in self.capabilities() if cap == 0x11)
        for vector in range(vectors):
            self.set_vector(vector, MSI_ADDRESS, 0x40 + vector)
        self.function.config_write(at + 2, 2, 0x8000)

    def set_vector(self, vector: int, address: int, data: int, masked: int = 0) -> None:
        table = self.pci.msix.table
        table.write(16 * vector, 4, address)
        table.write(16 * vector + 8, 4, data)
        table.write(16 * vector + 12, 4, masked)

    def power_up(self, vector: int = 1, config_vector: int = 0) -> None:
        features = F_VERSION_1 | F_RING_EVENT_IDX
        for status in (0, 1, 3):
            self.common(20, 1, status)
        for half in (0, 1):
            self.common(8, 4, half)
            self.common(12, 4, features >> 32 * half & 0xFFFF_FFFF)
        self.common(20, 1, 11)
        assert self.common(20, 1) == 11
        self.common(16, 2, config_vector)
        self.common(22, 2, 0)
        self.common(24, 2, self.driver.size)
        self.common(26, 2, vector)
        for field, gpa in (
            (32, self.driver.desc_gpa),
            (40, self.driver.avail_gpa),
            (48, self.driver.used_gpa),
        ):
            self.common(field, 4, gpa)
            self.common(field + 4, 4, 0)
        self.common(28, 2, 1)
        self.common(20, 1, 15)
        self.driver.want_interrupts(True)

    def request(self, sector: int = 1) -> int:
        head = self.driver.add(struct.pack("<IIQ", 0, 0, sector), 512, 1)
        assert self.driver.needs_kick()
        return head

    def notify(self, queue: int = 0) -> None:
        """What the bus seam does: a registered doorbell signals, another write reaches the device."""
        if (event := self.registrar.table.get(BAR4 + NOTIFY + 4 * queue)) is not None:
            event.signal()
        else:
            self.pci.write(NOTIFY + 4 * queue, 2, queue)

    def settle(self, answers: int) -> None:
        """Return once so many requests are answered and the plane has come to rest."""
        deadline = time.monotonic() + 30
        while self.driver.used_words[1] != answers:
            os.sched_yield()
            assert time.monotonic() < deadline
        assert self.device.plane.stop() == {0: answers}

    def close(self) -> None:
        self.device.close()
        self.blk.backend.close()
        assert self.failures == []


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "disk")
    yield made
    made.close()


@pytest.fixture(params=["virtio", "virtio-iothread", "vhost"])
def any_rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "disk", request.param)
    yield made
    made.close()


def test_it_says_what_it_is(rig: Rig) -> None:
    assert rig.function.config_read(0, 4) == 0x1042_1AF4
    assert rig.function.config_read(8, 4) == 0x0100_0001  # mass storage, revision 1
    assert rig.function.config_read(0x3D, 1) == 1  # INTA


@pytest.mark.parametrize(
    ("kind", "offset", "length", "cap_len"),
    [(1, 0, 56, 16), (2, NOTIFY, 4, 20), (3, ISR, 1, 16), (4, DEVICE, 0x1000, 16), (5, 0, 0, 20)],
)
def test_each_structure_is_found_by_its_capability(
    rig: Rig, kind: int, offset: int, length: int, cap_len: int
) -> None:
    at = rig.vendor(kind)
    read = rig.function.config_read
    assert (read(at + 2, 1), read(at + 8, 4), read(at + 12, 4)) == (cap_len, offset, length)
    assert read(at + 4, 1) == (0 if kind == 5 else 4)
    if kind == 2:
        assert read(at + 16, 4) == 4


def test_features_are_read_and_written_in_halves(rig: Rig) -> None:
    whole = 0
    for half in (0, 1):
        rig.common(0, 4, half)
        whole |= rig.common(4, 4) << 32 * half
    assert whole == rig.blk.features | F_VERSION_1
    rig.common(0, 4, 2)
    assert rig.common(4, 4) == 0
    rig.common(8, 4, 1)
    rig.common(12, 4, 0xABCD)
    assert rig.common(12, 4) == 0xABCD
    assert rig.device.driver_features == 0xABCD << 32


def test_queue_registers_follow_the_selector(rig: Rig) -> None:
    assert rig.common(18, 2) == 1
    assert (rig.common(22, 2), rig.common(24, 2), rig.common(30, 2)) == (0, 256, 0)
    rig.common(32, 4, 0x89AB_C000)
    rig.common(36, 4, 0x7)
    assert (rig.common(32, 4), rig.common(36, 4)) == (0x89AB_C000, 7)
    assert rig.common(32, 8) == 0x7_89AB_C000
    rig.common(22, 2, 5)
    assert [rig.common(at, w) for at, w in ((24, 2), (26, 2), (28, 2), (32, 4))] == [0, 0, 0, 0]
    rig.common(24, 2, 8)  # there is no such queue: nothing happens
    assert rig.device.queues[0].size == 256


def test_an_enabled_queue_is_fixed(rig: Rig) -> None:
    rig.power_up()
    rig.common(24, 2, 8)
    rig.common(32, 4, 0)
    rig.common(28, 2, 0)
    assert (rig.common(24, 2), rig.common(28, 2)) == (16, 1)
    assert rig.device.queues[0].desc == rig.driver.desc_gpa


def test_a_vector_that_is_not_there_reads_back_as_none(rig: Rig) -> None:
    assert rig.common(16, 2) == NO_VECTOR
    rig.common(16, 2, 1)
    assert rig.common(16, 2) == 1
    rig.common(16, 2, 2)
    assert rig.common(16, 2) == NO_VECTOR
    rig.common(26, 2, 7)
    assert rig.common(26, 2) == NO_VECTOR


def test_a_narrow_read_gives_the_fields_low_bytes_and_a_narrow_write_is_refused(rig: Rig) -> None:
    rig.pci.write(8, 4, 0x0001_0002)
    assert [rig.pci.read(8, width) for width in (1, 2, 4)] == [0x02, 0x0002, 0x0001_0002]
    with pytest.raises(AccessError):
        rig.pci.write(8, 2, 3)
    assert rig.pci.read(8, 4) == 0x0001_0002


@pytest.mark.parametrize(("offset", "width"), [(1, 2), (20, 4), (24, 4), (57, 1), (1, 4), (60, 4)])
def test_a_field_has_one_width(rig: Rig, offset: int, width: int) -> None:
    with pytest.raises(AccessError):
        rig.pci.read(offset, width)
    with pytest.raises(AccessError):
        rig.pci.write(offset, width, 0)


@pytest.mark.parametrize("offset", [4, 18, 21, 30, ISR])
def test_read_only_fields_refuse_writes(rig: Rig, offset: int) -> None:
    with pytest.raises(AccessError):
        rig.pci.write(offset, {4: 4, 21: 1, ISR: 1}.get(offset, 2), 0)


def test_the_disks_configuration_is_read_through_the_bar(rig: Rig) -> None:
    assert rig.pci.read(DEVICE, 4) == 64
    assert rig.pci.read(DEVICE + 20, 4) == 512
    rig.pci.write(DEVICE + 32, 1, 0)
    assert rig.pci.read(DEVICE + 32, 1) == 0
    with pytest.raises(AccessError):
        rig.pci.read(DEVICE + 0x800, 4)


def test_registers_have_the_specifications_names(rig: Rig) -> None:
    names = [rig.pci.register_name(at, True) for at in (20, 22, ISR, DEVICE + 8, NOTIFY + 4)]
    assert names == ["common.device_status", "common.queue_select", "isr", "device.+8", "notify.q1"]


def test_the_bar_is_reached_through_configuration_space(rig: Rig) -> None:
    at, config = rig.vendor(5), rig.function
    config.config_write(at + 4, 1, 4)
    config.config_write(at + 8, 4, 20)
    config.config_write(at + 12, 4, 1)
    config.config_write(at + 16, 1, 1)
    assert rig.device.status == 1
    config.config_write(at + 8, 4, DEVICE)
    config.config_write(at + 12, 4, 4)
    assert config.config_read(at + 16, 4) == 64


@pytest.mark.parametrize(("bar", "offset", "length"), [(0, 0, 4), (4, BAR_SIZE, 4), (4, 1, 2), (4, 0, 3)])
def test_a_bad_window_reaches_nothing(rig: Rig, bar: int, offset: int, length: int) -> None:
    at, config = rig.vendor(5), rig.function
    config.config_write(at + 4, 1, bar)
    config.config_write(at + 8, 4, offset)
    config.config_write(at + 12, 4, length)
    config.config_write(at + 16, 4, 1)
    assert config.config_read(at + 16, 4) == 1  # what was stored, no more
    assert rig.device.status == 0


def test_a_window_on_a_field_of_another_width_writes_nothing(rig: Rig) -> None:
    at, config = rig.vendor(5), rig.function
    config.config_write(at + 4, 1, 4)
    config.config_write(at + 8, 4, 20)
    config.config_write(at + 12, 4, 4)
    config.config_write(at + 16, 4, 1)
    assert rig.device.status == 0
    assert config.config_read(at + 16, 4) == 0xFFFF_FFFF


def test_a_completion_sends_the_queues_vector(any_rig: Rig) -> None:
    rig = any_rig
    rig.use_msix()
    rig.power_up()
    head = rig.request()
    rig.notify()
    assert rig.msi.arrived.wait(30)
    assert rig.msi.sent == [(MSI_ADDRESS, 0x41)]
    assert rig.driver.used() == [(head, 513)]
    assert rig.driver.written(head)[:4] == struct.pack("<I", 1)
    expected = {"virtio": "MainThread", "virtio-iothread": "iothread", "vhost": "vhost-emu"}
    assert rig.msi.threads == [expected[rig.device.plane.name]]


def test_a_masked_vector_waits_for_its_unmasking(any_rig: Rig) -> None:
    rig = any_rig
    rig.use_msix()
    rig.power_up()
    rig.set_vector(1, MSI_ADDRESS, 0x41, masked=1)
    rig.request()
    rig.notify()
    rig.settle(1)
    assert rig.msi.sent == []
    assert rig.pci.msix.pending.read(0, 4) == 2
    rig.set_vector(1, MSI_ADDRESS, 0x55)
    assert rig.msi.sent == [(MSI_ADDRESS, 0x55)]


def test_a_redirected_vector_is_followed(any_rig: Rig) -> None:
    rig = any_rig
    rig.use_msix()
    rig.power_up()
    rig.set_vector(1, MSI_ADDRESS | 0x1000, 0x77)
    rig.request()
    rig.notify()
    assert rig.msi.arrived.wait(30)
    assert rig.msi.sent == [(MSI_ADDRESS | 0x1000, 0x77)]


def test_without_a_vector_there_is_no_interrupt(any_rig: Rig) -> None:
    rig = any_rig
    rig.use_msix()
    rig.power_up(vector=NO_VECTOR)
    rig.request()
    rig.notify()
    rig.settle(1)
    assert len(rig.driver.used()) == 1
    assert rig.msi.sent == []
    assert rig.line.levels == []


def test_without_msix_the_pin_rises_and_reading_isr_lowers_it(rig: Rig) -> None:
    rig.power_up()
    rig.request()
    rig.notify()
    assert rig.line.level
    assert rig.pci.read(ISR, 1) == 1
    assert not rig.line.level
    assert rig.pci.read(ISR, 1) == 0


def test_without_vectors_the_driver_finds_no_msix(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "disk", vectors=0)
    assert 0x11 not in {kind for _, kind in rig.capabilities()}
    rig.power_up(vector=NO_VECTOR, config_vector=NO_VECTOR)
    assert rig.common(26, 2, 0) == 0
    assert rig.common(26, 2) == NO_VECTOR
    rig.request()
    rig.notify()
    assert rig.line.level


@pytest.mark.parametrize("plane", ["virtio-iothread", "vhost"])
def test_from_a_thread_the_pin_is_left_to_the_vcpu(tmp_path: Path, plane: str) -> None:
    rig = Rig(tmp_path / "disk", plane)
    rig.power_up()
    rig.request()
    rig.notify()
    rig.settle(1)
    assert rig.line.levels == []
    (call,) = rig.posted
    call()
    assert rig.line.level
    rig.close()


def test_a_broken_driver_gets_the_configuration_interrupt(rig: Rig) -> None:
    rig.use_msix()
    rig.power_up()
    rig.driver.set_avail_idx(100)
    rig.notify()
    (call,) = rig.posted
    call()
    assert rig.common(20, 1) & DEVICE_NEEDS_RESET
    assert rig.msi.sent == [(MSI_ADDRESS, 0x40)]
    rig.notify()  # nobody is there
    assert rig.pci.costs.syscalls == 0


def test_reset_forgets_vectors_and_interrupts(rig: Rig) -> None:
    rig.power_up()
    rig.request()
    rig.notify()
    rig.common(20, 1, 0)
    assert rig.common(20, 1) == 0
    assert not rig.line.level
    assert (rig.common(16, 2), rig.common(26, 2)) == (NO_VECTOR, NO_VECTOR)
    assert rig.common(28, 2) == 0
    assert rig.common(24, 2) == 256


def test_a_reset_of_the_bus_resets_the_device(any_rig: Rig) -> None:
    any_rig.power_up()
    any_rig.function.reset()
    assert any_rig.device.status == 0
    assert any_rig.registrar.table == {}


def test_inline_doorbells_are_not_registered(rig: Rig) -> None:
    rig.power_up()
    assert rig.registrar.table == {}


def test_doorbells_follow_the_bar_and_the_device(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "disk", "vhost")
    assert rig.registrar.table == {}
    rig.power_up()
    assert list(rig.registrar.table) == [BAR4 + NOTIFY]
    rig.function.config_write(0x20, 4, BAR4 + 0x10_0000)
    assert list(rig.registrar.table) == [BAR4 + 0x10_0000 + NOTIFY]
    rig.function.config_write(COMMAND, 2, 4)  # not decoded any more
    assert rig.registrar.table == {}
    rig.function.config_write(COMMAND, 2, 6)
    assert list(rig.registrar.table) == [BAR4 + 0x10_0000 + NOTIFY]
    rig.device.move_to(rig.planes["virtio"])
    assert rig.registrar.table == {}
    rig.device.move_to(rig.planes["virtio-iothread"])
    assert len(rig.registrar.table) == 1
    rig.common(20, 1, 0)
    assert rig.registrar.table == {}
    rig.close()


def test_a_doorbell_that_nobody_registered_is_signalled_by_hand(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "disk", "vhost")
    rig.use_msix()
    rig.power_up()
    rig.registrar.table.clear()
    rig.pci.on_doorbells = None
    rig.request()
    rig.notify()
    assert rig.msi.arrived.wait(30)
    assert rig.pci.costs.syscalls == 1
    rig.close()


def test_without_bus_mastering_nothing_is_served(rig: Rig) -> None:
    rig.power_up()
    rig.function.config_write(COMMAND, 2, 2)
    rig.request()
    rig.notify()
    assert rig.driver.used() == []
    rig.function.config_write(COMMAND, 2, 6)
    assert len(rig.driver.used()) == 1


def test_a_doorbell_of_a_queue_that_is_not_there_is_ignored(rig: Rig) -> None:
    rig.power_up()
    rig.pci.write(NOTIFY + 4, 2, 1)
    rig.pci.write(BAR_SIZE - 1, 1, 1)
    assert rig.pci.read(NOTIFY, 2) == 0
    assert rig.common(20, 1) & DRIVER_OK


def test_moving_keeps_interrupts_going(rig: Rig) -> None:
    rig.use_msix()
    rig.power_up()
    for name in ("vhost", "virtio-iothread", "virtio", "vhost"):
        rig.device.move_to(rig.planes[name])
        rig.driver.used()
        rig.driver.want_interrupts(True)
        while rig.msi.sent:
            rig.msi.sent.pop()  # the move itself may interrupt
        rig.msi.arrived.clear()
        head = rig.request(5)
        rig.notify()
        assert rig.msi.arrived.wait(30)
        assert rig.driver.used() == [(head, 513)]
