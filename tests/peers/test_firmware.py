"""SeaBIOS, which nobody of us wrote, starts our machine and boots disks on it."""

import subprocess
import sys
from pathlib import Path

import pytest

from emu.boards.pc import assemble_pc
from emu.config import (
    DeviceConfig,
    DriveConfig,
    DriveInterface,
    EngineChoice,
    MachineConfig,
    Outcome,
    OutcomeKind,
)

SEABIOS, VGA_BIOS = "/usr/share/seabios/bios-256k.bin", "/usr/share/seabios/vgabios-isavga.bin"
BOOT_ROM = "/usr/share/qemu/linuxboot_dma.bin"
pytestmark = pytest.mark.peer(SEABIOS, VGA_BIOS)

PACKET_AT = 0x72  # the drive's number is kept at 0x70
SECTOR_1 = b"sector 1 read\r\n"
CODE = bytes.fromhex(
    "31c08ed88ec08ed0bc007c"  # ds = es = ss = 0; sp = 7c00
    "8816707c"  # mov [drive], dl
    "be727cb4428a16707ccd13"  # int 13h function 42h with the packet
    "be007eac84c07405e80700ebf6"  # print what was read
    "b010e6f4f4"  # out f4, 10; hlt
    "bafd0350eca82074fb58baf803eec3"  # putc: wait for room; out 3f8
)
PACKET = bytes.fromhex("10000100007e00000100000000000000")


def boot_disk(path: Path, sectors: int = 4096) -> None:
    """A disk whose boot sector prints sector 1 on COM1 and ends the machine with 0x10."""
    sector = bytearray(512)
    sector[: len(CODE)] = CODE
    sector[PACKET_AT : PACKET_AT + 16] = PACKET
    sector[510:] = b"\x55\xaa"
    path.write_bytes(bytes(sector) + SECTOR_1.ljust(512, b"\0") + bytes((sectors - 2) * 512))


def run(
    disk: Path, interface: DriveInterface, engine: EngineChoice = "auto", **more: bool
) -> tuple[Outcome, bytes, str]:
    """Boot it; how it ended, what COM1 got, what the screen shows."""
    output = bytearray()
    drive = DriveConfig(str(disk), interface, format="raw", index=0)
    debug_exit = DeviceConfig("isa-debug-exit", {"iobase": "0xf4"})
    config = MachineConfig(
        ram_bytes=32 << 20, drives=(drive,), devices=(debug_exit,), no_reboot=True, engine=engine, **more
    )
    machine = assemble_pc(config, output.extend).machine
    try:
        return machine.run(), bytes(output), machine.screen_text()
    finally:
        machine.close()


@pytest.mark.parametrize("interface", ["ide", "virtio"])
def test_seabios_finds_the_disk_and_runs_its_boot_sector(interface: DriveInterface, tmp_path: Path) -> None:
    boot_disk(tmp_path / "disk.img")
    outcome, serial, screen = run(tmp_path / "disk.img", interface)
    assert (outcome, serial) == (Outcome(OutcomeKind.DEBUG_EXIT, 0x10), SECTOR_1)
    assert screen.startswith("SeaBIOS (version ")
    assert "\nBooting from Hard Disk..." in screen


def test_without_graphics_seabios_speaks_on_the_serial_port(tmp_path: Path) -> None:
    boot_disk(tmp_path / "disk.img")
    outcome, serial, _ = run(tmp_path / "disk.img", "ide", graphics=False)
    assert outcome.value == 0x10
    assert b"SeaBIOS (version " in serial
    assert serial.endswith(SECTOR_1)


def test_the_public_engine_boots_it_too(tmp_path: Path) -> None:
    boot_disk(tmp_path / "disk.img")
    outcome, serial, _ = run(tmp_path / "disk.img", "ide", "public", vga=False)
    assert (outcome.value, serial) == (0x10, SECTOR_1)


def test_the_command_line_boots_a_disk_and_logs_the_debug_port(tmp_path: Path) -> None:
    boot_disk(tmp_path / "disk.img")
    words = [sys.executable, "-m", "emu", "run", "-m", "32", "disk.img", "-display", "none"]
    words += ["-device", "isa-debug-exit,iobase=0xf4", "-debugcon", "file:bios.log"]
    words += ["-global", "isa-debugcon.iobase=0x402", "-serial", "stdio"]
    shown = subprocess.run(
        words, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False
    )
    assert (shown.returncode, shown.stdout, shown.stderr) == (33, SECTOR_1, b"")
    log = (tmp_path / "bios.log").read_text()
    lines = ("Running on QEMU (i440fx)", "Found 1 serial ports", "PS2 keyboard initialized")
    for line in (*lines, "ACPI: parse DSDT"):
        assert line in log


@pytest.mark.peer(BOOT_ROM)
def test_a_kernel_of_the_16_bit_protocol_is_started_by_firmware(tmp_path: Path) -> None:
    setup = bytearray(1024)
    setup[0x1F1], setup[0x211] = 1, 1
    setup[0x200:0x208] = b"\xeb\x66HdrS\x07\x02"  # a jump to 0x268, then the header's magic and version
    program = bytes.fromhex("baf803b04bee b010e6f4f4".replace(" ", ""))  # out 3f8, "K"; out f4, 10; hlt
    setup[0x268 : 0x268 + len(program)] = program
    (tmp_path / "kernel").write_bytes(bytes(setup) + b"protected mode part")
    output = bytearray()
    config = MachineConfig(
        ram_bytes=32 << 20,
        kernel=str(tmp_path / "kernel"),
        devices=(DeviceConfig("isa-debug-exit", {"iobase": "0xf4"}),),
        no_reboot=True,
    )
    machine = assemble_pc(config, output.extend).machine
    try:
        assert (machine.run().value, bytes(output)) == (0x10, b"K")
        assert "Booting from ROM..." in machine.screen_text()
    finally:
        machine.close()


@pytest.mark.parametrize(("pattern", "status"), [("^Booting from Hard", 0), ("^Windows", 15)])
def test_smoke_reads_the_screen(pattern: str, status: int, tmp_path: Path) -> None:
    boot_disk(tmp_path / "disk.img")
    words = [sys.executable, "-m", "emu", "smoke", "disk.img", "--expect-screen", pattern]
    words += ["-device", "isa-debug-exit,iobase=0xf4"]
    shown = subprocess.run(words, cwd=tmp_path, capture_output=True, timeout=60, check=False, text=True)
    assert shown.returncode == status, shown.stdout


def test_text_typed_on_the_keyboard_reaches_the_screen_by_the_bios(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    boot_disk(path)
    image = bytearray(path.read_bytes())
    # wait for a key by int 16h, show it by int 10h, until Enter; then out f4, 10
    echo = bytes.fromhex("b400cd16 3c0d 7406 b40ecd10 ebf2 b010e6f4f4".replace(" ", ""))
    image[: len(echo)] = echo
    path.write_bytes(bytes(image))
    config = MachineConfig(
        ram_bytes=32 << 20,
        drives=(DriveConfig(str(path), format="raw", index=0),),
        devices=(DeviceConfig("isa-debug-exit", {"iobase": "0xf4"}),),
    )
    machine = assemble_pc(config, bytes).machine

    def type_once() -> None:
        if "Booting" in machine.screen_text():
            machine.type_text("Hello, (World)!\n")
        else:
            machine.clock.call_at(machine.clock.now_ns() + 10_000_000, type_once)

    machine.post(type_once)
    try:
        assert machine.run().value == 0x10
        assert "Hello, (World)!" in machine.screen_text()
    finally:
        machine.close()
