"""Running the built guest images in this process."""

import threading
from dataclasses import dataclass, field
from pathlib import Path

from emu.boards.pc import PcBoard, assemble_pc
from emu.config import DeviceConfig, DriveConfig, MachineConfig, Outcome

BUILT = Path(__file__).parents[2] / "guest-images" / "built"
DEBUG_EXIT = DeviceConfig("isa-debug-exit", {"iobase": "0xf4", "iosize": "4"})
LIMIT_S = 60
PATTERN_STEP, PATTERN_KEY = 0x9E3779B97F4A7C15, 0xE5C0DE5EEDF00D11


@dataclass
class GuestRun:
    """What one run gave."""

    outcome: Outcome
    text: str
    board: PcBoard
    rows: dict[tuple[str, str, str, str], int] = field(default_factory=dict)


def image(name: str) -> str:
    return str(BUILT / f"{name}.elf")


def pattern_disk(path: Path, size: int = 4 << 20) -> Path:
    """A disk of iobench's pattern (guest-images/README.md)."""
    mask = (1 << 64) - 1
    words = ((w * PATTERN_STEP & mask) ^ PATTERN_KEY for w in range(1, size // 8 + 1))
    path.write_bytes(b"".join(word.to_bytes(8, "little") for word in words))
    return path


def build(
    name: str,
    append: str = "",
    *,
    ide: Path | None = None,
    virtio: Path | None = None,
    properties: dict[str, str] | None = None,
    engine: str = "auto",
    no_reboot: bool = True,
) -> tuple[PcBoard, bytearray]:
    drives: tuple[DriveConfig, ...] = ()
    devices: tuple[DeviceConfig, ...] = (DEBUG_EXIT,)
    if ide is not None:
        drives += (DriveConfig(str(ide), "ide", "raw", index=0),)
    if virtio is not None:
        drives += (DriveConfig(str(virtio), "none", "raw", id="d0"),)
        devices += (DeviceConfig("virtio-blk-pci", {"drive": "d0", **(properties or {})}),)
    output = bytearray()
    path = name if "/" in name else image(name)
    config = MachineConfig(
        kernel=path, append=append, drives=drives, devices=devices, engine=engine, no_reboot=no_reboot
    )
    return assemble_pc(config, output.extend), output


def finish(board: PcBoard, output: bytearray) -> GuestRun:
    """Run to the end, at most LIMIT_S."""
    machine = board.machine
    watchdog = threading.Timer(LIMIT_S, machine.stop)
    watchdog.start()
    try:
        outcome = machine.run()
        rows = dict(machine.ledger.snapshot())
    finally:
        watchdog.cancel()
        watchdog.join()
        machine.close()
    return GuestRun(outcome, output.decode(), board, rows)


def run(name: str, append: str = "", **options: object) -> GuestRun:
    return finish(*build(name, append, **options))
