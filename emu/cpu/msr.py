"""Model-specific registers that the engine does not keep itself. Anything unknown is #GP.

Sources: Intel SDM volume 4. The engine's own (EFER, STAR and the like) never come here; see NATIVE.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from emu.cpu.mtrr import PAT, MemoryTypes

TSC, PLATFORM_ID, APIC_BASE, FEATURE_CONTROL, TSC_ADJUST, BIOS_SIGN_ID = 0x10, 0x17, 0x1B, 0x3A, 0x3B, 0x8B
MISC_FEATURES_ENABLES, MCG_CAP, MCG_STATUS, MISC_ENABLE = 0x140, 0x179, 0x17A, 0x1A0
ARCH_CAPABILITIES: Final = 0x10A
UNAFFECTED: Final = (
    1 << 0 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8      # RDCL_NO, SSB_NO, MDS_NO, IF_PSCHANGE_MC_NO, TAA_NO
    | 1 << 13 | 1 << 14 | 1 << 15 | 1 << 20         # SBDR_SSDP_NO, FBSDP_NO, PSDP_NO, BHI_NO
    | 1 << 24 | 1 << 26 | 1 << 27 | 1 << 62         # PBRSB_NO, GDS_NO, RFDS_NO, ITS_NO
)  # fmt: skip
"""The guest's privilege levels and page tables are the engine's, which no hardware speculates by. Without
this Linux isolates its page tables: each system call and interrupt flushes the engine's TLB twice."""
TSC_DEADLINE: Final = 0x6E0
APIC_ON: Final = 1 << 11
"""Of IA32_APIC_BASE."""

NATIVE: Final = (
    0x174, 0x175, 0x176,                                # SYSENTER_CS, _ESP, _EIP
    0xC0000080, 0xC0000081, 0xC0000082, 0xC0000083, 0xC0000084,   # EFER, STAR, LSTAR, CSTAR, FMASK
    0xC0000100, 0xC0000101, 0xC0000102, 0xC0000103,     # FS_BASE, GS_BASE, KERNEL_GS_BASE, TSC_AUX
)  # fmt: skip
NAMES: Final = {
    TSC: "TSC", APIC_BASE: "APIC_BASE", TSC_ADJUST: "TSC_ADJUST", BIOS_SIGN_ID: "BIOS_SIGN_ID", PAT: "PAT",
    MISC_ENABLE: "MISC_ENABLE", TSC_DEADLINE: "TSC_DEADLINE",
}  # fmt: skip
UNKNOWN: Final = -1
MASK64: Final = (1 << 64) - 1

Read = Callable[[], int | None]
"""Returns None where reading is #GP."""
Write = Callable[[int], bool]
"""Returns False for a value that is #GP."""


class MsrTable:
    """Index -> how to read and write it; vCPU thread."""

    def __init__(self) -> None:
        self._table: dict[int, tuple[Read, Write]] = {}
        self._reads: Counter[int] = Counter()
        self._writes: Counter[int] = Counter()
        for index, value in ((PLATFORM_ID, 0), (MISC_ENABLE, 1), (MISC_FEATURES_ENABLES, 0)):
            self._plain(index, value)
        self.add(ARCH_CAPABILITIES, lambda: UNAFFECTED, lambda _value: False)
        self.add(BIOS_SIGN_ID, lambda: 0, lambda _value: True)
        self.memory_types = MemoryTypes()
        self._table |= self.memory_types.registers()
        self.add(MCG_CAP, lambda: 0, lambda _value: False)  # machine checks, of no bank
        self.add(MCG_STATUS, lambda: 0, lambda value: value == 0)

    def add(self, index: int, read: Read, write: Write) -> None:
        """Define or replace one register."""
        self._table[index] = (read, write)

    def counts(self) -> Iterator[tuple[str, str, int]]:
        """(register, "read" or "write", how often), of those that exist; the others are together."""
        for direction, counted in (("read", self._reads), ("write", self._writes)):
            for index, count in counted.items():
                yield NAMES.get(index, f"{index:#x}" if index >= 0 else "unknown"), direction, count

    def read(self, index: int) -> int | None:
        """The value, or None where the register does not exist (#GP)."""
        entry = self._table.get(index)
        self._reads[index if entry is not None else UNKNOWN] += 1
        value = None if entry is None else entry[0]()
        return None if value is None else value & MASK64

    def write(self, index: int, value: int) -> bool:
        """Store; False where that is #GP."""
        entry = self._table.get(index)
        self._writes[index if entry is not None else UNKNOWN] += 1
        return entry is not None and entry[1](value)

    def _plain(self, index: int, value: int) -> None:
        cell = [value]

        def write(new: int) -> bool:
            cell[0] = new
            return True

        self.add(index, lambda: cell[0], write)
