"""x2APIC mode: the local APIC's registers as MSRs."""

import pytest

from emu.devices.x2apic import x2apic_registers
from tests.unit.test_lapic import Board

ID, VERSION, TPR, PPR, EOI, LDR, SVR = 0x802, 0x803, 0x808, 0x80A, 0x80B, 0x80D, 0x80F
ISR, IRR, ESR, ICR, LVT_TIMER, CURRENT, DIVIDE, SELF_IPI = (
    0x810,
    0x820,
    0x828,
    0x830,
    0x832,
    0x839,
    0x83E,
    0x83F,
)
ON, OFF = 0xFEE00D00, 0xFEE00100


class Msrs:
    """The registers by number; a write tells whether it was taken."""

    def __init__(self, apic_id: int = 0) -> None:
        self.board = Board(apic_id=apic_id)
        self._table = x2apic_registers(self.board.lapic)

    def read(self, index: int) -> int | None:
        return self._table[index][0]() if index in self._table else None

    def write(self, index: int, value: int) -> bool:
        return index in self._table and self._table[index][1](value)


@pytest.fixture
def msrs() -> Msrs:
    found = Msrs()
    assert found.board.lapic.write_apic_base(ON)
    return found


def test_outside_of_the_mode_every_register_is_gp() -> None:
    msrs = Msrs()
    assert [index for index in range(0x800, 0x900) if msrs.read(index) is not None] == []
    assert [index for index in range(0x800, 0x900) if msrs.write(index, 0)] == []


def test_the_map_is_that_of_the_manual(msrs: Msrs) -> None:
    """SDM table 11-6; no CMCI here."""
    readable = {0x802, 0x803, 0x808, 0x80A, 0x80D, 0x80F, *range(0x810, 0x829), 0x830, *range(0x832, 0x83A)}
    assert {index for index in range(0x800, 0x900) if msrs.read(index) is not None} == readable | {0x83E}
    writable = {0x808, 0x80B, 0x80F, 0x828, *range(0x832, 0x839), 0x83E}
    assert {i for i in range(0x800, 0x900) if i not in (ICR, SELF_IPI) and msrs.write(i, 0)} == writable


@pytest.mark.parametrize(
    ("index", "value"),
    [(TPR, 0x100), (EOI, 1), (SVR, 0x400), (ESR, 1), (LVT_TIMER, 1 << 19), (DIVIDE, 4), (ICR, 1 << 20),
     (SELF_IPI, 0x100), (0x838, 1 << 32)],
)  # fmt: skip
def test_reserved_bits_are_gp(msrs: Msrs, index: int, value: int) -> None:
    assert not msrs.write(index, value)


def test_the_ids_have_their_wide_form() -> None:
    msrs = Msrs(apic_id=0x25)
    msrs.board.lapic.write_apic_base(ON)
    assert (msrs.read(ID), msrs.read(LDR)) == (0x25, 2 << 16 | 1 << 5)


def test_an_interrupt_comes_and_ends_by_msrs(msrs: Msrs) -> None:
    assert msrs.write(SVR, 0x1FF)
    assert msrs.write(SELF_IPI, 0x61)
    assert msrs.read(IRR + 3) == 1 << 1
    assert msrs.board.lapic.acknowledge() == 0x61
    assert (msrs.read(ISR + 3), msrs.read(PPR)) == (1 << 1, 0x60)
    assert msrs.write(EOI, 0)
    assert (msrs.read(ISR + 3), msrs.read(PPR)) == (0, 0)


@pytest.mark.parametrize(
    ("destination", "reaches"),
    [(0 << 32, True), (1 << 32, False), (0xFFFFFFFF << 32, True),
     (0x1 << 32 | 1 << 11, True), (0x2 << 32 | 1 << 11, False), (0x10001 << 32 | 1 << 11, False)],
)  # fmt: skip
def test_an_ipi_goes_to_its_destination_in_one_write(msrs: Msrs, destination: int, reaches: bool) -> None:
    msrs.write(SVR, 0x1FF)
    assert msrs.write(ICR, destination | 0x62)
    assert msrs.board.lapic.acknowledge() == (0x62 if reaches else -1)
    assert msrs.read(ICR) == destination | 0x62


def test_the_mode_ends_by_turning_the_apic_off(msrs: Msrs) -> None:
    msrs.write(TPR, 0x50)
    assert msrs.board.lapic.write_apic_base(OFF)
    assert msrs.read(TPR) is None
    assert msrs.board.lapic.write_apic_base(0xFEE00900)
    assert msrs.board[0x80] == 0
