"""Ports, windows and the ledger."""

from collections.abc import Callable

import pytest

from emu.bus.ledger import ExitLedger, Row
from emu.bus.mmio import HOT_BASE, MmioBus
from emu.bus.pio import PioBus
from emu.bus.types import AccessError, Fault
from emu.bus.window import FaultLog
from emu.errors import MapError


class Scratch:
    """A region that remembers its accesses and answers with offset and width."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.seen: list[tuple[int, ...]] = []

    def read(self, offset: int, width: int) -> int:
        self.seen.append((offset, width))
        return 0xA0 + offset

    def write(self, offset: int, width: int, value: int) -> None:
        self.seen.append((offset, width, value))

    def register_name(self, offset: int, is_write: bool) -> str:
        return f"R{offset}"


class Refusing(Scratch):
    def read(self, offset: int, width: int) -> int:
        raise AccessError(Fault.WRITE_ONLY)


class Broken(Scratch):
    def read(self, offset: int, width: int) -> int:
        raise ZeroDivisionError


class Lab:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.failures: list[BaseException] = []
        self.faults = FaultLog(self.lines.append)
        self.pio = PioBus(self.faults, self.failures.append)
        self.mmio = MmioBus(self.faults, self.failures.append)
        self.ledger = ExitLedger(self.pio, self.mmio)
        self.hot, *self.cold = self.mmio.areas([(0, 64 << 20)])


@pytest.fixture
def lab() -> Lab:
    return Lab()


def test_a_port_reaches_its_chip_with_the_offset_in_the_window(lab: Lab) -> None:
    chip = Scratch(8)
    lab.pio.map(0x3F8, 8, chip, "com1")
    assert lab.pio.read(0, 0x3FD, 1, 0) == 0xA5
    lab.pio.write(0, 0x3F9, 1, 7, 0)
    assert chip.seen == [(5, 1), (1, 1, 7)]


def test_an_eight_bit_chip_sees_byte_cycles_lowest_first(lab: Lab) -> None:
    chip = Scratch(4)
    lab.pio.map(0x40, 4, chip, "pit")
    lab.pio.write(0, 0x40, 2, 0xBBAA, 0)
    assert lab.pio.read(0, 0x40, 4, 0) == 0xA3A2A1A0
    assert chip.seen == [(0, 1, 0xAA), (1, 1, 0xBB), (0, 1), (1, 1), (2, 1), (3, 1)]


def test_a_wide_chip_sees_the_access_as_made_unless_it_straddles_the_end(lab: Lab) -> None:
    chip = Scratch(8)
    lab.pio.map(0xCF8, 8, chip, "pci", wide=True)
    lab.pio.read(0, 0xCFC, 4, 0)
    lab.pio.read(0, 0xCFE, 2, 0)
    assert chip.seen == [(4, 4), (6, 2)]
    assert lab.pio.read(0, 0xCFF, 2, 0) == 0xFF00 | 0xA7


class Direct(Scratch):
    """A region whose words at its first port are answered by functions of their own."""

    def direct(
        self, offset: int, width: int
    ) -> tuple[Callable[[int, int], int], Callable[[int, int, int], None]]:
        return (self.read_word, self.write_word) if (offset, width) == (0, 2) else (self.read, self.write)

    def read_word(self, offset: int, width: int) -> int:
        return 0x1234

    def write_word(self, offset: int, width: int, value: int) -> None:
        self.seen.append((-1, value))


def test_a_register_may_have_functions_of_its_own_for_one_width(lab: Lab) -> None:
    chip = Direct(8)
    lab.pio.map(0x1F0, 8, chip, "ide", wide=True)
    assert [lab.pio.read(0, 0x1F0, width) for width in (1, 2, 4)] == [0xA0, 0x1234, 0xA0]
    lab.pio.write(0, 0x1F0, 2, 7)
    lab.pio.write(0, 0x1F1, 2, 8)
    assert chip.seen == [(0, 1), (0, 4), (-1, 7), (1, 2, 8)]
    assert (lab.pio.reads[0x1F0], lab.pio.writes[0x1F0]) == (3, 1)


def test_unclaimed_ports_read_ones_and_are_told_once(lab: Lab) -> None:
    assert [lab.pio.read(0, 0x1234, w, 0) for w in (1, 2, 4, 4)] == [0xFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF]
    assert len(lab.lines) == 1
    assert "0x1234" in lab.lines[0]
    assert lab.pio.read(0, 0xFFFF, 4, 0) == 0xFFFFFFFF


def test_a_refused_access_gives_ones_and_is_counted(lab: Lab) -> None:
    lab.pio.map(0x80, 1, Refusing(1), "post")
    assert lab.pio.read(0, 0x80, 1, 0) == 0xFF
    assert lab.faults.counts == {("post", "read R0", Fault.WRITE_ONLY): 1}


def test_a_chip_that_breaks_is_reported_and_never_unwinds_into_the_engine(lab: Lab) -> None:
    lab.pio.map(0x80, 1, Broken(1), "bad")
    lab.mmio.map(HOT_BASE, Broken(4096), "bad")
    assert lab.pio.read(0, 0x80, 1, 0) == 0xFF
    assert lab.hot.read(0, 0, 4, 0) == 0xFFFFFFFF
    assert [type(f) for f in lab.failures] == [ZeroDivisionError] * 2


def test_overlapping_windows_are_refused_with_both_names(lab: Lab) -> None:
    lab.pio.map(0x20, 2, Scratch(2), "pic0")
    with pytest.raises(MapError, match=r"elcr at port 0x0020 overlaps pic0 \(0x0020\)"):
        lab.pio.map(0x1F, 3, Scratch(3), "elcr")
    lab.mmio.map(0xFEE0_0000, Scratch(4096), "lapic")
    with pytest.raises(MapError, match=r"bar0 at 0xfedf0000 overlaps lapic \(0xfee00000\)"):
        lab.mmio.map(0xFEDF_0000, Scratch(0x20000), "bar0")
    with pytest.raises(MapError, match="do not fit"):
        lab.pio.map(0xFFFF, 2, Scratch(2), "end")


def test_an_unmapped_window_answers_no_more_and_keeps_its_counts(lab: Lab) -> None:
    chip = Scratch(4096)
    lab.mmio.map(HOT_BASE + 0x10000, chip, "bar0")
    assert lab.hot.read(0, 0x10004, 4, 0) == 0xA4
    lab.mmio.unmap(HOT_BASE + 0x10000)
    assert lab.hot.read(0, 0x10004, 4, 0) == 0xFFFFFFFF
    lab.mmio.map(HOT_BASE + 0x20000, chip, "bar0")
    lab.hot.read(0, 0x20004, 4, 0)
    assert Row("device", "bar0", "R4", "read", 2) in lab.ledger.rows()


def test_windows_smaller_than_a_page_share_it(lab: Lab) -> None:
    one, two = Scratch(0x20), Scratch(0x20)
    lab.mmio.map(HOT_BASE + 0x100, one, "one")
    lab.mmio.map(HOT_BASE + 0x200, two, "two")
    assert lab.hot.read(0, 0x104, 4, 0) == 0xA4
    lab.hot.write(0, 0x208, 4, 9, 0)
    assert lab.hot.read(0, 0x11E, 4, 0) == 0xFFFFFFFF
    assert (one.seen, two.seen) == ([(4, 4)], [(8, 4, 9)])
    assert Row("device", "two", "R8", "write", 1) in lab.ledger.rows()
    lab.mmio.unmap(HOT_BASE + 0x100)
    assert lab.hot.read(0, 0x104, 4, 0) == 0xFFFFFFFF
    assert lab.hot.read(0, 0x204, 4, 0) == 0xA4


def test_windows_outside_of_the_flat_area_are_found_too(lab: Lab) -> None:
    chip = Scratch(0x2000)
    lab.mmio.map(0x1_8000_0000, chip, "bar64")
    area = next(a for a in lab.cold if a.base <= 0x1_8000_0000 < a.base + a.size)
    assert area.read(0, 0x1_8000_1004 - area.base, 4, 0) == 0xA0 + 0x1004
    area.write(0, 0x1_8000_0000 - area.base, 1, 3, 0)
    assert chip.seen == [(0x1004, 4), (0, 1, 3)]


def test_areas_cover_everything_but_ram_without_overlap(lab: Lab) -> None:
    spans = sorted([(a.base, a.size) for a in (lab.hot, *lab.cold)] + [(0, 64 << 20)])
    at = 0
    for base, size in spans:
        assert base == at
        at += size
    assert at == 1 << 40


def test_the_ledger_names_device_register_and_direction(lab: Lab) -> None:
    lab.pio.map(0x3F8, 8, Scratch(8), "com1")
    lab.pio.map(0x20, 2, Scratch(2), "pic0", kind="irqchip")
    for _ in range(3):
        lab.pio.write(0, 0x3F8, 1, 65, 0)
    before = lab.ledger.snapshot()
    lab.pio.write(0, 0x20, 1, 0x20, 0)
    assert lab.ledger.rows() == [
        Row("device", "com1", "R0", "write", 3),
        Row("irqchip", "pic0", "R0", "write", 1),
    ]
    assert lab.ledger.snapshot() - before == {("irqchip", "pic0", "R0", "write"): 1}


def test_the_fault_log_is_bounded(lab: Lab) -> None:
    for port in range(0x2000, 0x4000):
        lab.pio.read(0, port, 1, 0)
    assert len(lab.lines) == 9
    assert "counted, not shown" in lab.lines[-1]
    assert len(lab.faults.counts) == 65
    assert sum(lab.faults.counts.values()) == 0x2000


def test_every_access_to_nobody_is_counted_and_a_chip_that_comes_later_answers(lab: Lab) -> None:
    for _ in range(3):
        assert lab.pio.read(0, 0x1234, 2) == 0xFFFF
        lab.pio.write(0, 0x1234, 1, 7)
        assert lab.hot.read(0, 0x5004, 4) == 0xFFFFFFFF
        assert lab.hot.read(0, 0x5004, 1) == 0xFF
        lab.hot.write(0, 0x5004, 4, 7)
    where = f"mmio {HOT_BASE + 0x5000:#010x}"
    assert lab.faults.counts == {
        ("unclaimed port", "read 0x1234", Fault.NO_REGISTER): 3,
        ("unclaimed port", "write 0x1234", Fault.NO_REGISTER): 3,
        (where, "read 0x0004", Fault.NO_REGISTER): 6,
        (where, "write 0x0004", Fault.NO_REGISTER): 3,
    }
    assert len(lab.lines) == 4
    assert (lab.pio.reads[0x1234], lab.pio.writes[0x1234]) == (3, 3)
    lab.pio.map(0x1234, 2, Scratch(2), "late", wide=True)
    lab.mmio.map(HOT_BASE + 0x5000, Scratch(4096), "late")
    assert (lab.pio.read(0, 0x1234, 2), lab.hot.read(0, 0x5004, 4)) == (0xA0, 0xA4)
    lab.pio.unmap(0x1234)
    assert lab.pio.read(0, 0x1234, 2) == 0xFFFF
    assert lab.faults.counts["unclaimed port", "read 0x1234", Fault.NO_REGISTER] == 4
