"""DMA and packet commands end alike on our IDE function and on QEMU's: status bits, registers and data."""

import random
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from emu.config import DriveConfig, MachineConfig
from tests.peers.oracle import Ours, script
from tests.peers.qtest import Qtest

pytestmark = pytest.mark.peer("qemu-system-x86_64")

RAM = 128 << 20
TABLE, BUFFER, BMIDE = 0x1000, 0x10_0000, 0xC000
DRQ, POLLS = 0x08, 10_000
SET_UP = "outl 0xcf8 0x80000920; outl 0xcfc 0xc000; outl 0xcf8 0x80000904; outl 0xcfc 5"
IDE0, IDE1 = 0x1F0, 0x170


class Side(NamedTuple):
    """One machine: port accesses as a script, with the reads' values; and memory."""

    ports: Callable[[str], list[int]]
    store: Callable[[int, bytes], None]
    load: Callable[[int, int], bytes]


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Side, Side]]:
    folder = tmp_path_factory.mktemp("ide")
    disk, disc = folder / "disk.img", folder / "disc.iso"
    disk.write_bytes(random.Random(1).randbytes(1 << 20))
    disc.write_bytes(random.Random(2).randbytes(200 * 2048))
    mine = folder / "mine.img"
    mine.write_bytes(disk.read_bytes())
    drives = (DriveConfig(str(mine), format="raw", index=0), _cd_rom(disc))
    ours = Ours(MachineConfig(ram_bytes=RAM, drives=drives))
    arguments = ["-m", "128", "-drive", f"file={disk},format=raw,if=ide,index=0", "-cdrom", str(disc)]
    with Qtest(folder, *arguments) as theirs:
        pair = our_side(ours), their_side(theirs)
        for side in pair:
            side.ports(SET_UP)
        yield pair
    ours.machine.close()


def _cd_rom(disc: Path) -> DriveConfig:
    return DriveConfig(str(disc), format="raw", index=2, media="cdrom", read_only=True)


def our_side(machine: Ours) -> Side:
    memory = machine.machine.memory

    def ports(text: str) -> list[int]:
        return [value for op, value in ((op, machine.run(op)) for op in script(text)) if op.is_read]

    def store(gpa: int, data: bytes) -> None:
        memory.view(gpa, len(data))[:] = data

    return Side(ports, store, lambda gpa, length: bytes(memory.view(gpa, length)))


def their_side(qtest: Qtest) -> Side:
    def ports(text: str) -> list[int]:
        ops = script(text)
        answers = qtest.commands([op.line for op in ops])
        return [answer for op, answer in zip(ops, answers, strict=True) if op.is_read]

    def store(gpa: int, data: bytes) -> None:
        data += bytes(-len(data) % 4)
        words = struct.unpack(f"<{len(data) // 4}I", data)
        qtest.commands([f"writel {gpa + 4 * i:#x} {word:#x}" for i, word in enumerate(words)])

    def load(gpa: int, length: int) -> bytes:
        answers = qtest.commands([f"readl {gpa + at:#x}" for at in range(0, length, 4)])
        return struct.pack(f"<{len(answers)}I", *answers)[:length]

    return Side(ports, store, load)


def both(sides: tuple[Side, Side], run: Callable[[Side], object]) -> object:
    """Run on both; what ours gave, which is what QEMU's did."""
    ours, theirs = run(sides[0]), run(sides[1])
    assert ours == theirs
    return ours


def wait(side: Side, control: int) -> None:
    """Until the drive is done: QEMU's moves data behind its back."""
    for _ in range(POLLS):
        if not side.ports(f"inb {control:#x}")[0] & (0x80 | DRQ):
            return
    raise TimeoutError(f"port {control:#x} stays busy")


def table(side: Side, base: int, pieces: list[tuple[int, int]]) -> None:
    entries = b"".join(struct.pack("<II", address, size) for address, size in pieces)
    side.store(TABLE, entries[:-1] + b"\x80")
    side.ports(f"outl {base + 4:#x} {TABLE:#x}; outb {base + 2:#x} 6")


@pytest.mark.parametrize("opcode", [0xC8, 0x25])
@pytest.mark.parametrize(
    "pieces",
    [
        [(BUFFER, 2048)],
        [(BUFFER, 510), (BUFFER + 0x1000, 1538)],
        [(BUFFER, 4096)],
        [(BUFFER, 1024), (BUFFER + 1024, 1024), (BUFFER + 0x2000, 64)],
        [(BUFFER, 1024)],
    ],
)
def test_a_disk_read_ends_alike(sides: tuple[Side, Side], opcode: int, pieces: list[tuple[int, int]]) -> None:
    def run(side: Side) -> object:
        side.store(BUFFER, bytes(0x2100))
        table(side, BMIDE, pieces)
        high = "outb 0x1f2 0; outb 0x1f3 0; outb 0x1f4 0; outb 0x1f5 0; " if opcode == 0x25 else ""
        side.ports(f"{high}outb 0x1f2 4; outb 0x1f3 7; outb 0x1f4 0; outb 0x1f5 0")
        side.ports(f"outb 0x1f6 0xe0; outb 0x1f7 {opcode}")
        side.ports(f"outb {BMIDE:#x} 9")
        wait(side, 0x3F6)
        ended = side.ports(f"inb {BMIDE + 2:#x}; inb 0x3f6; inb 0x1f1")
        side.ports(f"outb {BMIDE:#x} 0; inb 0x1f7")
        return ended, side.ports(f"inb {BMIDE + 2:#x}"), side.load(BUFFER, 0x2040)

    both(sides, run)


def test_a_disk_write_ends_alike_and_is_read_back(sides: tuple[Side, Side]) -> None:
    data = random.Random(3).randbytes(1024)

    def run(side: Side) -> object:
        found = []
        for opcode, direction in ((0xCA, 1), (0xC8, 9)):
            side.store(BUFFER, data if direction == 1 else bytes(1024))
            table(side, BMIDE, [(BUFFER, 1024)])
            side.ports("outb 0x1f2 2; outb 0x1f3 99; outb 0x1f4 0; outb 0x1f5 0")
            side.ports(f"outb 0x1f6 0xe0; outb 0x1f7 {opcode}")
            side.ports(f"outb {BMIDE:#x} {direction}")
            wait(side, 0x3F6)
            found += side.ports(f"inb {BMIDE + 2:#x}; inb 0x1f7; outb {BMIDE:#x} 0; inb {BMIDE + 2:#x}")
        return found, side.load(BUFFER, 1024)

    found = both(sides, run)
    assert isinstance(found, tuple)
    assert found[1] == data


PACKETS = {
    "TEST UNIT READY": "00",
    "REQUEST SENSE": "03000000 12",
    "READ CAPACITY": "25",
    "READ(10)": "28000000 00090000 02",
    "READ(12)": "a8000000 00c70000 0001",
    "READ(10) past the end": "28000000 00c80000 01",
    "READ(10) of nothing": "28",
    "READ TOC": "43000000 00000000 64",
    "READ TOC as MSF": "43020000 00000000 64",
    "READ TOC, lead-out": "43000000 0000aa00 64",
    "READ TOC, a track that is not there": "43000000 00000200 64",
    "GET EVENT STATUS": "4a010000 10000000 08",
    "GET EVENT STATUS, not polled": "4a000000 10000000 08",
    "MECHANISM STATUS": "bd000000 00000000 0008",
    "PREVENT": "1e000000 01",
    "ALLOW": "1e",
    "SEEK": "2b000000 0010",
    "an unknown packet": "c7",
}


@pytest.mark.parametrize("limit", [0xFFFE, 2048, 6])
@pytest.mark.parametrize("name", list(PACKETS))
def test_a_packet_ends_alike(sides: tuple[Side, Side], name: str, limit: int) -> None:
    packet = bytes.fromhex(PACKETS[name]).ljust(12, b"\0")
    both(sides, lambda side: send(side, packet, limit))


def send(side: Side, packet: bytes, limit: int) -> list[object]:
    """One packet by PIO, its data block by block, and then the sense key and code."""
    seen: list[object] = []
    failed = 0
    for each in (packet, bytes.fromhex("03000000 12").ljust(12, b"\0")):
        side.ports(f"outb 0x176 0xa0; outb 0x171 0; outb 0x174 {limit & 0xFF}; outb 0x175 {limit >> 8}")
        side.ports("outb 0x177 0xa0")
        seen.append(side.ports("inb 0x376; inb 0x172"))
        side.ports("; ".join(f"outw 0x170 {word}" for word in struct.unpack("<6H", each)))
        data = b""
        while side.ports("inb 0x377; inb 0x376")[1] & (DRQ | 0x80):
            status, reason, low, high = side.ports("inb 0x376; inb 0x172; inb 0x174; inb 0x175")
            if status & 0x80:
                continue
            seen.append((status, reason, low, high))
            words = side.ports("; ".join(["inw 0x170"] * ((low | high << 8) // 2 or 1)))
            data += struct.pack(f"<{len(words)}H", *words)
        # DSC of a command that failed is left to the drive
        status, reason, error = side.ports("inb 0x177; inb 0x172; inb 0x171")
        seen.append((status & ~0x10 if status & 1 else status, reason, error))
        if each == packet:
            failed = status & 1
            seen.append(_plain(each[0], data))
        elif failed:  # QEMU's sense outlives a command that succeeds
            seen.append((data[2], data[12]))
    return seen


def _plain(opcode: int, data: bytes) -> bytes:
    """Without what differs: QEMU marks sense data's information, which is zero, as valid, and a lead-out as
    `copy permitted`, unlike the track; its event data's length leaves out two bytes of the header (MMC-5,
    6.7.2.2: the bytes that follow).
    """
    if opcode == 0x4A:
        return data[2:]
    if opcode == 0x03:
        return bytes((data[0] & 0x7F,)) + data[1:]
    return data.replace(b"\x16\xaa", b"\x14\xaa") if opcode == 0x43 else data


def test_packet_data_arrives_alike_by_dma(sides: tuple[Side, Side]) -> None:
    def run(side: Side) -> object:
        side.store(BUFFER, bytes(0x3000))
        table(side, BMIDE + 8, [(BUFFER, 2048), (BUFFER + 0x1000, 4096)])
        side.ports("outb 0x176 0xa0; outb 0x171 1; outb 0x174 0; outb 0x175 0; outb 0x177 0xa0")
        packet = bytes.fromhex("28000000 00090000 02").ljust(12, b"\0")
        side.ports("; ".join(f"outw 0x170 {word}" for word in struct.unpack("<6H", packet)))
        side.ports(f"outb {BMIDE + 8:#x} 9")
        wait(side, 0x376)
        status, *ended = side.ports(f"inb {BMIDE + 10:#x}; inb 0x177; inb 0x172; outb {BMIDE + 8:#x} 0")
        # QEMU's bus master is never active after a packet, even where its table has more room
        return status & ~0x01, ended, side.load(BUFFER, 0x2000)

    both(sides, run)
