"""Virtio devices on the board: identities, slots, ports by number, and a kick from another thread."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.boards.pc import PcBoard, assemble_pc
from emu.config import DeviceConfig, MachineConfig, ObjectConfig
from emu.errors import ConfigError

HELLO = str(Path(__file__).resolve().parents[2] / "guest-images/built/hello.elf")


def build(*devices: tuple[str, dict[str, str]], objects: tuple[ObjectConfig, ...] = ()) -> PcBoard:
    listed = tuple(DeviceConfig(driver, properties) for driver, properties in devices)
    return assemble_pc(MachineConfig(kernel=HELLO, devices=listed, objects=objects), lambda data: None)


@pytest.fixture
def board() -> Iterator[PcBoard]:
    made = build(
        ("virtio-rng-pci", {"addr": "9"}),
        ("virtio-serial-pci", {"id": "vs", "max_ports": "4"}),
        ("virtserialport", {"chardev": "a", "name": "org.example"}),
        ("virtconsole", {"chardev": "b", "bus": "vs.0"}),
        ("virtserialport", {"nr": "1"}),
        ("virtio-balloon-pci", {"free-page-reporting": "on", "event_idx": "off"}),
    )
    yield made
    made.machine.close()


def identity(board: PcBoard, slot: int) -> tuple[int, int, int]:
    function = board.pci.function(slot)
    assert function is not None
    return function.config.get(0, 2), function.config.get(2, 2), function.config.get(8, 4) >> 8


def test_each_device_has_its_identity_and_class(board: PcBoard) -> None:
    assert identity(board, 9) == (0x1AF4, 0x1044, 0x00FF00)
    assert identity(board, 3) == (0x1AF4, 0x1043, 0x078000)
    assert identity(board, 4) == (0x1AF4, 0x1045, 0x00FF00)


def test_ports_take_the_lowest_free_number_and_0_is_the_consoles(board: PcBoard) -> None:
    ports = board.virtio_more.consoles["vs"].ports
    assert {number: (port.is_console, port.name) for number, port in ports.items()} == {
        0: (True, ""),
        1: (False, ""),
        2: (False, "org.example"),
    }
    assert set(board.machine.char_ports) == {"a", "b"}


def test_ring_features_can_be_switched_off(board: PcBoard) -> None:
    rng, console, balloon = board.virtio_more.devices
    assert [device.features >> 28 & 3 for device in (rng, console, balloon)] == [3, 3, 1]
    assert (len(rng.kicks), len(console.kicks), len(balloon.kicks)) == (1, 10, 4)


def test_a_source_of_entropy_may_be_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "entropy")
    source = ObjectConfig("rng-random", "r", {"filename": str(tmp_path / "entropy")})
    build(("virtio-rng-pci", {"rng": "r"}), objects=(source,)).machine.close()


@pytest.mark.parametrize(
    ("devices", "told"),
    [
        ([("virtconsole", {})], "no bus virtio-serial-bus.0; give -device virtio-serial-pci before it"),
        ([("virtio-serial-pci", {}), ("virtconsole", {"bus": "x.0"})], "no bus x.0"),
        ([("virtio-serial-pci", {}), ("virtio-serial-pci", {})], "a second one needs id="),
        ([("virtio-serial-pci", {}), ("virtserialport", {"nr": "0"})], "nr=0 is for a virtconsole"),
        ([("virtio-serial-pci", {"max_ports": "1"}), ("virtserialport", {})], "nr=1, but max_ports=1"),
        ([("virtio-serial-pci", {})] + 2 * [("virtconsole", {"nr": "3"})], "there is such a port already"),
        (2 * [("virtio-rng-pci", {"addr": "5"})], "PCI slot 0x5 is taken"),
        ([("virtio-rng-pci", {"addr": "1"})], "PCI slot 0x1 is taken"),
        (30 * [("virtio-rng-pci", {})], "every PCI slot is taken"),
    ],
)
def test_what_cannot_be_built_is_one_line(devices: list[tuple[str, dict[str, str]]], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build(*devices)
