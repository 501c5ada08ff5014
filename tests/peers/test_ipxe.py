"""iPXE, which nobody of us wrote, boots from our cards' ROMs and asks passt for an address."""

import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from emu.boards.pc import assemble_pc
from emu.config import DeviceConfig, MachineConfig, NetdevConfig
from emu.machine import Machine

SEABIOS, VGA_BIOS = "/usr/share/seabios/bios-256k.bin", "/usr/share/seabios/vgabios-isavga.bin"
E1000_ROM, VIRTIO_ROM = "/usr/lib/ipxe/qemu/pxe-e1000.rom", "/usr/lib/ipxe/qemu/pxe-virtio.rom"
pytestmark = pytest.mark.peer("passt", SEABIOS, VGA_BIOS, E1000_ROM, VIRTIO_ROM)
LIMIT_S = 90
LOOK_S = 0.1
LEASE = re.compile(r"net0: 10\.0\.2\.15/255\.255\.255\.0 gw 10\.0\.2\.2")


def screen_of(machine: Machine, end: Callable[[str], bool]) -> str:
    """Run until the screen shows what `end` looks for, or LIMIT_S are over; the screen."""
    seen = ""
    over = threading.Event()

    def look() -> None:
        nonlocal seen
        for _ in range(int(LIMIT_S / LOOK_S)):
            if over.wait(LOOK_S):
                return
            seen = machine.screen_text()
            if end(seen):
                break
        machine.stop()

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        machine.run()
    finally:
        over.set()
        watcher.join()
        machine.close()
    return seen


def network_pc(driver: str, boot_order: str = "n", log: str = "null", **properties: str) -> Machine:
    """A machine with one card on a passt of its own, and no disk."""
    config = MachineConfig(
        ram_bytes=64 << 20,
        devices=(DeviceConfig(driver, {"netdev": "n", **properties}),),
        netdevs=(NetdevConfig("user", "n", {}, ()),),
        boot_order=boot_order,
        debugcon=log,
        debugcon_port=0x402,
    )
    return assemble_pc(config, lambda _data: None).machine


@pytest.mark.parametrize(
    ("driver", "name"), [("e1000", "82540em"), ("virtio-net-pci", "virtio-net")], ids=["e1000", "virtio"]
)
def test_ipxe_gets_a_lease_through_the_card_from_whose_rom_it_came(driver: str, name: str) -> None:
    screen = screen_of(network_pc(driver), lambda text: "Nothing to boot" in text)
    assert "iPXE (PCI 00:03.0) starting execution" in screen
    assert f"net0: 52:54:00:12:34:56 using {name} on 0000:00:03.0 (open)" in screen
    assert LEASE.search(screen), screen


@pytest.mark.parametrize("order", ["n", "c"])
def test_without_a_rom_or_the_network_in_the_order_nothing_is_booted(order: str, tmp_path: Path) -> None:
    """An empty romfile= takes the ROM away; without `n` in the order there is none."""
    log = tmp_path / "bios.log"
    properties = {"romfile": ""} if order == "n" else {}
    machine = network_pc("e1000", order, f"file:{log}", **properties)
    screen = screen_of(machine, lambda text: "No bootable device" in text)
    assert "No bootable device" in screen
    assert "iPXE" not in screen
    assert "Running option rom at c000:0003" in log.read_text()
    assert "Running option rom at ca00" not in log.read_text()
