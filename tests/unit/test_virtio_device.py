"""The device state machine: status bits, feature halves, and who is told when a driver breaks the rules."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from emu.bus.memory import GuestMemory
from emu.dataplanes.inline import inline_plane
from emu.devices.block.raw import RawImage
from emu.devices.virtio.blk import VirtioBlk
from emu.devices.virtio.device import VirtioDevice
from emu.devices.virtio.spec import (
    ACKNOWLEDGE,
    DEVICE_NEEDS_RESET,
    DRIVER,
    DRIVER_OK,
    F_VERSION_1,
    FAILED,
    FEATURES_OK,
)
from emu.errors import ConfigError

READY = ACKNOWLEDGE | DRIVER | FEATURES_OK


class Bus:
    def __init__(self) -> None:
        self.events: list[str] = []

    def wire(self) -> None:
        self.events.append("wire")

    def doorbells_changed(self) -> None:
        self.events.append("doorbells")

    def config_interrupt(self) -> None:
        self.events.append("config")


def _no_threads(_call: Callable[[], None]) -> None:
    raise AssertionError("nothing here is on another thread")


@pytest.fixture
def device(tmp_path: Path) -> VirtioDevice:
    (tmp_path / "disk").write_bytes(bytes(4096))
    blk = VirtioBlk(RawImage(tmp_path / "disk", False))
    return VirtioDevice(inline_plane(blk), GuestMemory(1 << 20), post=_no_threads, name="disk0", queue_size=8)


def negotiate(device: VirtioDevice, features: int = F_VERSION_1) -> None:
    device.set_status(ACKNOWLEDGE)
    device.set_status(ACKNOWLEDGE | DRIVER)
    device.set_features(0, features & 0xFFFF_FFFF)
    device.set_features(1, features >> 32)
    device.set_status(READY)


def set_up(device: VirtioDevice, desc: int = 0x1000) -> None:
    queue = device.queues[0]
    queue.desc, queue.driver, queue.device = desc, 0x2000, 0x3000
    device.enable_queue(0)


def test_a_driver_goes_through_the_states(device: VirtioDevice) -> None:
    negotiate(device)
    assert device.status == READY
    set_up(device)
    device.set_status(READY | DRIVER_OK)
    assert device.status == READY | DRIVER_OK
    assert device.running
    device.set_status(0)
    assert (device.status, device.running, device.driver_features) == (0, False, 0)
    assert not device.queues[0].enabled


def test_bits_once_set_stay_until_reset(device: VirtioDevice) -> None:
    negotiate(device)
    device.set_status(ACKNOWLEDGE)
    assert device.status == READY


def test_a_driver_cannot_set_the_devices_own_bits(device: VirtioDevice) -> None:
    device.set_status(0xFF & ~(FAILED | DRIVER_OK))
    assert device.status == ACKNOWLEDGE | DRIVER


@pytest.mark.parametrize("features", [0, 1, F_VERSION_1 | 1 << 63])
def test_features_not_offered_or_too_old_are_not_ok(device: VirtioDevice, features: int) -> None:
    negotiate(device, features)
    assert not device.status & FEATURES_OK


def test_features_are_fixed_once_they_are_ok(device: VirtioDevice) -> None:
    negotiate(device)
    device.set_features(0, 0xFFFF_FFFF)
    device.set_features(5, 0xFFFF_FFFF)
    assert device.driver_features == F_VERSION_1


def test_driver_ok_without_features_ok_needs_a_reset(device: VirtioDevice) -> None:
    device.set_status(ACKNOWLEDGE | DRIVER | DRIVER_OK)
    assert device.status & DEVICE_NEEDS_RESET
    assert not device.running


def test_rings_outside_of_ram_need_a_reset_and_are_told_once(
    device: VirtioDevice, caplog: pytest.LogCaptureFixture
) -> None:
    bus = Bus()
    device.attach(bus)
    with caplog.at_level(logging.WARNING, "emu.virtio"):
        for _ in range(3):
            negotiate(device)
            set_up(device, desc=1 << 40)
            device.set_status(READY | DRIVER_OK)
            assert device.status & DEVICE_NEEDS_RESET
            device.set_status(0)
    assert device.driver_errors == 3
    assert len(caplog.records) == 1
    assert "disk0: the driver broke the protocol" in caplog.text
    assert bus.events.count("config") == 3  # DRIVER_OK was set: the driver is told


@pytest.mark.parametrize("size", [0, 3, 16, 0xFFFF])
def test_an_impossible_queue_size_needs_a_reset(device: VirtioDevice, size: int) -> None:
    negotiate(device)
    device.set_queue_size(0, size)
    assert device.status & DEVICE_NEEDS_RESET
    assert f"size {size}" in device.last_error


def test_a_driver_that_gives_up_is_served_no_more(device: VirtioDevice) -> None:
    negotiate(device)
    set_up(device)
    device.set_status(READY | DRIVER_OK)
    device.set_status(READY | DRIVER_OK | FAILED)
    assert not device.running


def test_a_queue_enabled_late_joins(device: VirtioDevice) -> None:
    negotiate(device)
    device.set_status(READY | DRIVER_OK)
    set_up(device)
    assert device.running
    assert device.plane.stop() == {0: 0}


def test_a_changed_configuration_counts_up_and_interrupts(device: VirtioDevice) -> None:
    bus = Bus()
    device.attach(bus)
    device.config_changed()
    assert (device.config_generation, bus.events) == (1, [])  # nobody drives it yet
    negotiate(device)
    device.set_status(READY | DRIVER_OK)
    device.config_changed()
    assert (device.config_generation, bus.events[-1]) == (2, "config")


def test_configuration_has_an_end(device: VirtioDevice) -> None:
    assert device.read_config(0, 4) == 8
    assert device.read_config(58, 2) == 0
    assert device.read_config(58, 4) is None
    assert device.read_config(1 << 20, 1) is None
    device.write_config(0xFFF, 4, 0xFFFF_FFFF)


def test_a_queue_size_that_no_ring_has_is_the_users_error(device: VirtioDevice) -> None:
    with pytest.raises(ConfigError, match="queue size 100"):
        VirtioDevice(device.plane, GuestMemory(1 << 20), post=_no_threads, queue_size=100)
