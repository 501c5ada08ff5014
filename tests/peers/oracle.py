"""Our chips beside QEMU's: the same accesses on both, each read compared.

An access is an `Op`. Its `register` is what the table of differences knows it by: the address, or the name of
a register behind an index. Time stands still on both sides.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

from emu.boards.pc import PcBoard
from emu.bus.mmio import MmioBus
from emu.bus.pio import PioBus
from emu.clock import GuestClock
from emu.config import DeviceConfig, DriveConfig, MachineConfig
from emu.machine import Machine
from tests.guest.lab import image
from tests.peers.qtest import Qtest

RAM = 128 << 20
BASE_TIME = 1_150_560_081  # 2006-06-17 16:01:21 UTC
RTC = "base=2006-06-17T16:01:21,clock=vm"
BUSY, POLLS = 0x80, 100_000
WIDTHS = {"b": 1, "w": 2, "l": 4}
SHOWN = 40


class Op(NamedTuple):
    """One access as a qtest command: in, out, read (memory) or write, then b, w or l. Or `settle`, which
    reads a port until its bit 7 is clear; that read is not compared.
    """

    command: str
    address: int
    value: int = 0
    register: str = ""

    @property
    def is_read(self) -> bool:
        return self.command.startswith(("in", "read"))

    @property
    def name(self) -> str:
        return self.register or f"{self.address:#x}"

    @property
    def line(self) -> str:
        value = "" if self.is_read else f" {self.value:#x}"
        return f"{self.command} {self.address:#x}{value}"


@dataclass(frozen=True)
class Difference:
    """What our chip and QEMU's do not do alike, and why ours stays as it is.

    `script` shows it: accesses as qtest commands, whose last reads give `ours` and `theirs`. In random
    sequences the bits `unseen[register]` are not compared, and a write whose value ANDed with `mask` is
    `value` is left out for each (register, mask, value) of `unsent`.
    """

    chip: str
    what: str
    why: str
    script: str
    ours: tuple[int, ...]
    theirs: tuple[int, ...]
    unseen: Mapping[str, int] = field(default_factory=dict)
    unsent: tuple[tuple[str, int, int], ...] = ()


def script(text: str) -> list[Op]:
    """Accesses from text: `outb 0x43 0x34; inb 0x40`."""
    ops = []
    for command in text.split(";"):
        name, *numbers = command.split()
        ops.append(Op(name, *(int(number, 0) for number in numbers)))
    return ops


class Ours:
    """The board `pc` with time standing still, and no CPU on it."""

    def __init__(self, config: MachineConfig) -> None:
        self.machine = Machine(config.ram_bytes)
        self.machine.clock = GuestClock()
        self.machine.pio = PioBus(self.machine.faults, _raise)
        self.machine.mmio = MmioBus(self.machine.faults, _raise)
        self.board = PcBoard(self.machine, config, lambda _data: None)
        rtc = self.board.rtc
        rtc.state.base_ns = rtc.state.checked_ns = BASE_TIME * 1_000_000_000
        self._hot = self.machine.mmio.areas([])[0]  # the chips' end of the 4 GiB
        self._read, self._write = self.machine.pio.read, self.machine.pio.write

    def run(self, op: Op) -> int:
        """Carry one access out; a read's value."""
        command, address, value, _ = op
        if command == "settle":
            return 0
        width = WIDTHS[command[-1]]
        if command.startswith("in"):
            return self._read(0, address, width)
        if command.startswith("out"):
            self._write(0, address, width, value)
        elif command.startswith("read"):
            return self._hot.read(0, address - self._hot.base, width, 0)
        else:
            self._hot.write(0, address - self._hot.base, width, value, 0)
        return 0

    def close(self) -> None:
        """Close the disks and the memory; there is no CPU to close."""
        for close in self.machine.on_close:
            close()
        self.machine.memory.close()


def _raise(error: BaseException) -> None:
    raise error


class Pair:
    """The two machines, made alike: COM1 to nowhere, `pc-testdev` for interrupt lines, and `disk` as an IDE
    master or behind virtio.
    """

    def __init__(self, folder: Path, disk: Path | None = None, interface: str = "ide") -> None:
        self._folder, self._disk, self._interface = folder, disk, interface

    def __enter__(self) -> Self:
        arguments = ["-m", str(RAM >> 20), "-rtc", RTC, "-serial", "null", "-device", "pc-testdev"]
        drives: tuple[DriveConfig, ...] = ()
        devices = [DeviceConfig("pc-testdev", {})]
        if self._disk is not None:
            mine = self._disk.with_suffix(".ours")  # each locks its own
            mine.write_bytes(self._disk.read_bytes())
            arguments += ["-drive", f"file={self._disk},format=raw,if=none,id=d"]
            if self._interface == "ide":
                drives = (DriveConfig(str(mine), "ide", "raw", index=0),)
                arguments += ["-device", "ide-hd,drive=d,bus=ide.0,unit=0"]
            else:
                drives = (DriveConfig(str(mine), "none", "raw", id="d"),)
                devices.append(DeviceConfig("virtio-blk-pci", {"drive": "d"}))
                arguments += ["-device", "virtio-blk-pci,drive=d,disable-legacy=on,addr=3"]
        # A kernel that nobody loads: without one firmware would have to turn ACPI on.
        self.ours = Ours(MachineConfig(RAM, kernel=image("hello"), drives=drives, devices=tuple(devices)))
        self.theirs = Qtest(self._folder, *arguments)
        return self

    def __exit__(self, *_error: object) -> None:
        self.theirs.__exit__(None, None, None)
        self.ours.close()

    def run(self, ops: Sequence[Op]) -> list[tuple[Op, int, int]]:
        """Carry `ops` out on both; what each gave."""
        ours = [self.ours.run(op) for op in ops]
        return list(zip(ops, ours, self._ask(ops), strict=True))

    def _ask(self, ops: Iterable[Op]) -> list[int]:
        """QEMU's answers. Its disk is read behind its back: `settle` waits for that."""
        answers: list[int] = []
        lines: list[str] = []
        for op in ops:
            if op.command != "settle":
                lines.append(op.line)
                continue
            answers += [*self.theirs.commands(lines), 0]
            lines = []
            for _ in range(POLLS):
                if not self.theirs.commands([f"inb {op.address:#x}"])[0] & BUSY:
                    break
            else:
                raise TimeoutError(f"QEMU's port {op.address:#x} stays busy")
        return answers + self.theirs.commands(lines)


def reads(done: Iterable[tuple[Op, int, int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What the reads gave, ours and theirs."""
    values = [(ours, theirs) for op, ours, theirs in done if op.is_read]
    return tuple(ours for ours, _ in values), tuple(theirs for _, theirs in values)


def first_difference(done: Sequence[tuple[Op, int, int]], known: Sequence[Difference]) -> str:
    """The first read that differs in a bit that is compared, with the accesses before it; or nothing."""
    for index, (op, ours, theirs) in enumerate(done):
        if op.is_read and (ours ^ theirs) & ~unseen(known, op):
            before = [
                f"{earlier.line} [{earlier.name}]" + (f" -> {a:#x}, {b:#x}" if earlier.is_read else "")
                for earlier, a, b in done[max(0, index - SHOWN) : index + 1]
            ]
            return f"step {index}: {op.name}: ours {ours:#x}, QEMU's {theirs:#x}\n" + "\n".join(before)
    return ""


def unseen(known: Sequence[Difference], op: Op) -> int:
    """The bits of a read that a known difference touches."""
    bits = 0
    for difference in known:
        bits |= difference.unseen.get(op.name, 0)
    return bits


def sendable(known: Sequence[Difference], op: Op) -> bool:
    """False for a write by which a known difference would show."""
    return op.is_read or not any(
        op.name == register and op.value & mask == value
        for difference in known
        for register, mask, value in difference.unsent
    )
