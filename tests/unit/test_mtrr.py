"""Memory type range registers and PAT keep what hardware keeps, and refuse the rest."""

import pytest

from emu.cpu import msr, mtrr

LIMIT = 1 << mtrr.PHYSICAL_BITS


@pytest.fixture
def table() -> msr.MsrTable:
    return msr.MsrTable()


def test_after_reset_they_are_off_and_the_pat_is_the_usual_one(table: msr.MsrTable) -> None:
    assert table.read(mtrr.DEF_TYPE) == 0
    assert table.read(mtrr.PAT) == 0x0007040600070406
    assert table.read(mtrr.MTRR_CAP) == 0x508  # eight ranges, fixed ones, write combining
    table.write(mtrr.DEF_TYPE, 0xC06)
    table.memory_types.reset()
    assert table.read(mtrr.DEF_TYPE) == 0


@pytest.mark.parametrize(
    ("index", "value"),
    [(mtrr.DEF_TYPE, 0xC06), (mtrr.DEF_TYPE, 0), (0x200, 0xE0000000), (0x20E, LIMIT - 0x1000 | 6),
     (0x201, LIMIT - 0x1000 | 0x800), (0x20F, 0), (0x250, 0x0605040100000606), (0x26F, 0x0505050505050505),
     (mtrr.PAT, 0x0007010600070106)],
)  # fmt: skip
def test_what_was_written_reads_back(table: msr.MsrTable, index: int, value: int) -> None:
    assert table.write(index, value)
    assert table.read(index) == value


@pytest.mark.parametrize(
    ("index", "value"),
    [(mtrr.MTRR_CAP, 0x508), (mtrr.DEF_TYPE, 0x1006), (mtrr.DEF_TYPE, 0x106), (mtrr.DEF_TYPE, 0xC02),
     (mtrr.DEF_TYPE, 1 << 40), (0x200, 7), (0x200, 0x100), (0x200, LIMIT), (0x201, 0x400), (0x201, LIMIT),
     (0x250, 2), (0x268, 7 << 56), (mtrr.PAT, 2), (mtrr.PAT, 8 << 32)],
)  # fmt: skip
def test_reserved_bits_and_types_are_gp(table: msr.MsrTable, index: int, value: int) -> None:
    before = table.read(index)
    assert not table.write(index, value)
    assert table.read(index) == before


def test_there_are_eight_variable_ranges_and_no_ninth(table: msr.MsrTable) -> None:
    assert table.read(0x20F) == 0
    assert table.read(0x210) is None


def test_firmware_leaves_write_back_but_for_devices_and_roms(table: msr.MsrTable) -> None:
    table.memory_types.set_up((range(0xE000_0000, 1 << 32), range(1 << 38, 1 << 39)))
    assert table.read(mtrr.DEF_TYPE) == 0xC06
    assert (table.read(0x200), table.read(0x201)) == (0xE000_0000, 0xFF_E000_0800)
    assert (table.read(0x202), table.read(0x203)) == (1 << 38, 0xC0_0000_0800)
    assert table.read(0x204) == table.read(0x205) == 0
    assert [table.read(index) for index in (0x250, 0x258, 0x259)] == [0x0606060606060606] * 2 + [0]
    assert {table.read(index) for index in range(0x268, 0x270)} == {0x0505050505050505}


def test_accesses_are_counted_by_register_and_unknown_ones_together(table: msr.MsrTable) -> None:
    for index in (mtrr.PAT, mtrr.PAT, 0x1234, 0x9999_0000):
        table.read(index)
    table.write(mtrr.DEF_TYPE, 0xC06)
    table.write(mtrr.DEF_TYPE, 1 << 40)
    assert list(table.counts()) == [("PAT", "read", 2), ("unknown", "read", 2), ("0x2ff", "write", 2)]
