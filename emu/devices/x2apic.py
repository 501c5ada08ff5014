"""The local APIC's registers as MSRs 0x800 to 0x8FF: x2APIC mode.

Source: Intel SDM volume 3 (325384), 11.12 "Extended XAPIC (x2APIC)", table 11-6 (register map), 11.12.1.2
(reserved bits are #GP), 11.12.9 (ICR in one piece), 11.12.10 (logical ID), 11.12.11 (SELF IPI).
"""

from collections.abc import Callable
from typing import Final, Protocol

from emu.devices import lapic_spec as spec

FIRST_MSR, SELF_IPI = 0x800, 0x3F
LVT_READ_ONLY: Final = 1 << 12 | 1 << 14  # delivery status, remote IRR: written back as they were read
WRITABLE: Final = {
    spec.TPR: 0xFF,
    spec.EOI: 0,
    spec.SVR: spec.SVR_BITS,
    spec.ESR: 0,
    spec.TIMER_INITIAL: 0xFFFF_FFFF,
    spec.TIMER_DIVIDE: 0xB,
    SELF_IPI: 0xFF,
    **{entry: bits | LVT_READ_ONLY for entry, bits in spec.LVT_BITS.items()},
}
"""Register number -> the bits that may be ones."""
WRITE_ONLY: Final = frozenset((spec.EOI, SELF_IPI))
READ_ONLY: Final = (
    spec.ID, spec.VERSION_REG, spec.PPR, spec.LDR, spec.TIMER_CURRENT,
    *range(spec.ISR, spec.ISR + 8), *range(spec.TMR, spec.TMR + 8), *range(spec.IRR, spec.IRR + 8),
)  # fmt: skip
ICR_SENDABLE: Final = 0xFFFF_FFFF_000C_CFFF

Read = Callable[[], int | None]
Write = Callable[[int], bool]


class Apic(Protocol):
    """The registers behind the MSRs."""

    @property
    def x2apic(self) -> bool:
        """The mode is on; else every access is #GP."""

    def read_register(self, number: int, /) -> int:
        """One register by its number."""

    def write_register(self, number: int, value: int, /) -> None:
        """The same."""

    def read_icr(self) -> int:
        """All 64 bits."""

    def send_ipi(self, icr: int, /) -> None:
        """ICR written in one piece."""


def x2apic_registers(apic: Apic) -> dict[int, tuple[Read, Write]]:
    """MSR number -> read, None for #GP, and write, False for #GP."""
    found = {FIRST_MSR + number: _register(apic, number) for number in (*WRITABLE, *READ_ONLY)}

    def read_icr() -> int | None:
        return apic.read_icr() if apic.x2apic else None

    def write_icr(value: int) -> bool:
        if not apic.x2apic or value & ~ICR_SENDABLE:
            return False
        apic.send_ipi(value)
        return True

    found[FIRST_MSR + spec.ICR_LOW] = read_icr, write_icr
    return found


def _register(apic: Apic, number: int) -> tuple[Read, Write]:
    allowed = WRITABLE.get(number, -1)

    def read() -> int | None:
        return apic.read_register(number) if apic.x2apic and number not in WRITE_ONLY else None

    def write(value: int) -> bool:
        if allowed < 0 or value & ~allowed or not apic.x2apic:
            return False
        if number == SELF_IPI:
            apic.send_ipi(spec.TO_SELF << 18 | value)
        else:
            apic.write_register(number, value)
        return True

    return read, write
