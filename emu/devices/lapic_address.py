"""Where a local APIC is: its register window and mode, and which interrupts' destinations name it.

Source: Intel SDM volume 3 (325384), 11.4.4 (IA32_APIC_BASE), 11.6.2 (destinations), 11.12.5 (modes),
11.12.10 (logical ID in x2APIC mode).
"""

from emu.devices.lapic_spec import (
    BASE_ADDRESS,
    BASE_BSP,
    BASE_ENABLE,
    BASE_EXTD,
    DEFAULT_BASE,
    DFR_FLAT,
)

AT_RESET = DEFAULT_BASE | BASE_ENABLE | BASE_BSP


class ApicAddress:
    """IA32_APIC_BASE and what it says; ID, LDR and DFR without the zeros or ones below them.

    `window` is where the registers are in memory, None while the APIC is off or in x2APIC mode (11.12.2),
    where they are MSRs.
    """

    __slots__ = ("_reset_id", "base", "dfr", "enabled", "id", "ldr", "window", "x2apic")

    def __init__(self, apic_id: int) -> None:
        self._reset_id = apic_id
        self.become(AT_RESET)
        self.reset_ids()

    def become(self, base: int) -> None:
        """Set IA32_APIC_BASE to what `may_become` allows, or at a reset."""
        self.base = base
        self.enabled = bool(base & BASE_ENABLE)
        self.x2apic = bool(base & BASE_EXTD)
        self.window = base & BASE_ADDRESS if self.enabled and not self.x2apic else None

    def reset_ids(self) -> None:
        """What the registers have after a reset, and after the APIC was off."""
        self.id, self.ldr, self.dfr = self._reset_id, 0, DFR_FLAT

    def may_become(self, value: int) -> bool:
        """Whether software may write this: no reserved bit, and a step that 11.12.5 allows."""
        if value & ~(BASE_ADDRESS | BASE_BSP | BASE_EXTD | BASE_ENABLE):
            return False
        old, mode = self.base & (BASE_EXTD | BASE_ENABLE), value & (BASE_EXTD | BASE_ENABLE)
        if mode == BASE_EXTD or (not old and mode & BASE_EXTD):
            return False
        return not (old & BASE_EXTD and mode == BASE_ENABLE)

    @property
    def x2apic_logical_id(self) -> int:
        """LDR in x2APIC mode: cluster, and one bit in it."""
        return self.id >> 4 << 16 | 1 << (self.id & 0xF)

    def is_named_by(self, destination: int, logical: bool) -> bool:
        """Physical ID or logical destination, flat or cluster (11.6.2); in x2APIC mode 11.12.10."""
        if destination in (0xFF, 0xFFFFFFFF):  # everyone
            return True
        if not logical:
            return destination == self.id
        if self.x2apic:
            return destination >> 16 == self.id >> 4 and bool(destination >> (self.id & 0xF) & 1)
        if self.dfr == DFR_FLAT:
            return destination & self.ldr != 0
        return destination >> 4 == self.ldr >> 4 and destination & self.ldr & 0xF != 0
