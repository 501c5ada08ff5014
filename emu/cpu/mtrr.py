"""Memory type range registers and the page attribute table: kept as written, and without effect.

All guest memory is plain RAM of this process, so every type behaves alike; firmware and kernels look at the
registers all the same. Source: Intel SDM volume 3A, 12.11 (MTRRs), 12.12 (PAT).
"""

from collections.abc import Callable
from typing import Final

MTRR_CAP, PHYSBASE0, PHYSMASK0, DEF_TYPE, PAT = 0xFE, 0x200, 0x201, 0x2FF, 0x277
FIX64K, FIX16K, FIX4K = 0x250, (0x258, 0x259), tuple(range(0x268, 0x270))
FIXED: Final = (FIX64K, *FIX16K, *FIX4K)
VARIABLE: Final = 8
CAP_FIXED, CAP_WC = 1 << 8, 1 << 10
CAP: Final = VARIABLE | CAP_FIXED | CAP_WC

UC, WC, WT, WP, WB, UC_MINUS = 0, 1, 4, 5, 6, 7
TYPES: Final = frozenset((UC, WC, WT, WP, WB))
PAT_TYPES: Final = TYPES | {UC_MINUS}
PAT_RESET: Final = 0x0007_0406_0007_0406

DEF_FE, DEF_E = 1 << 10, 1 << 11
MASK_VALID: Final = 1 << 11
PHYSICAL_BITS: Final = 40
"""MAXPHYADDR, as CPUID leaf 0x80000008 shows it."""
ADDRESS: Final = (1 << PHYSICAL_BITS) - (1 << 12)

Read = Callable[[], int]
Write = Callable[[int], bool]


class MemoryTypes:
    """The registers by their MSR number; vCPU thread. Values after RESET# that the SDM leaves open are 0."""

    def __init__(self) -> None:
        self._values: dict[int, int] = {}
        self.reset()

    def reset(self) -> None:
        """RESET#: MTRRs disabled, PAT as it always was."""
        variable = range(PHYSBASE0, PHYSBASE0 + 2 * VARIABLE)
        self._values = dict.fromkeys((*variable, *FIXED, DEF_TYPE), 0) | {PAT: PAT_RESET}

    def registers(self) -> dict[int, tuple[Read, Write]]:
        """How each is read and written; a write returns False for #GP."""
        found = {index: self._register(index) for index in self._values}
        found[MTRR_CAP] = (lambda: CAP, lambda _value: False)
        return found

    def set_up(self, uncached: tuple[range, ...]) -> None:
        """What firmware leaves: write-back but for the `uncached` ranges and, below 1 MiB, video and ROMs.

        Each range is a power of two long and lies at a multiple of its length; at most eight.
        """
        values = self._values
        for index in FIXED:
            values[index] = _eight(WB)
        values[FIX16K[1]] = _eight(UC)  # 0xA0000 to 0xBFFFF
        for index in FIX4K:  # 0xC0000 to 0xFFFFF
            values[index] = _eight(WP)
        for i, window in enumerate(uncached):
            values[PHYSBASE0 + 2 * i] = window.start | UC
            values[PHYSMASK0 + 2 * i] = -len(window) & ADDRESS | MASK_VALID
        values[DEF_TYPE] = DEF_E | DEF_FE | WB

    def _register(self, index: int) -> tuple[Read, Write]:
        allowed = _rule(index)

        def write(value: int) -> bool:
            if not allowed(value):
                return False
            self._values[index] = value
            return True

        return lambda: self._values[index], write


def _eight(kind: int) -> int:
    """One type in all eight fields."""
    return int.from_bytes(bytes((kind,)) * 8, "little")


def _rule(index: int) -> Callable[[int], bool]:
    """Which values a register takes: only types that exist, and no reserved bit."""
    if index == PAT:
        return lambda value: PAT_TYPES.issuperset(value.to_bytes(8, "little"))
    if index in FIXED:
        return lambda value: TYPES.issuperset(value.to_bytes(8, "little"))
    if index == DEF_TYPE:
        return lambda value: not value & ~(0xFF | DEF_FE | DEF_E) and value & 0xFF in TYPES
    if index & 1:
        return lambda value: not value & ~(ADDRESS | MASK_VALID)
    return lambda value: not value & ~(ADDRESS | 0xFF) and value & 0xFF in TYPES
