"""CPU states a loader may ask for, and what a stopped CPU shows."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

CODE16, DATA16 = 0x9B00, 0x9300
CODE32, DATA32 = 0xCF9B00, 0xCF9300
CODE64 = 0xAF9B00
HFLAGS: Final = {"real": 0x40, "protected32": 0xB0, "long64": 0x40C0B0}
"""CS32, SS32, ADDSEG, PE, LMA, CS64, OSFXSR of the engine's own flag word."""
CR0: Final = {"real": 0x60000010, "protected32": 0x11, "long64": 0x80000031}
CR4: Final = {"real": 0, "protected32": 0, "long64": 0x620}
EFER: Final = {"real": 0, "protected32": 0, "long64": 0xD01}

Mode = Literal["real", "protected32", "long64"]


class StartState(NamedTuple):
    """Where a CPU begins: `mode`, the address of the first instruction, general registers by name.

    In real mode `cs` is the segment (base = cs * 16, or `cs_base` where that is given) and `rip` the offset.
    `cr3` counts in long64 only. `gdt` is the address of a table of flat descriptors, 0 for none; the last is
    the data's. `selectors` are code and data.
    """

    mode: Mode
    rip: int
    registers: Mapping[str, int] = MappingProxyType({})
    cr3: int = 0
    cs: int = 0
    cs_base: int | None = None
    gdt: int = 0
    selectors: tuple[int, int] = (0x08, 0x10)

    @property
    def code_base(self) -> int:
        """The base of CS."""
        if self.mode != "real":
            return 0
        return self.cs << 4 if self.cs_base is None else self.cs_base


RESET_VECTOR: Final = StartState("real", 0xFFF0, {"edx": 0x600}, cs=0xF000, cs_base=0xFFFF_0000)
"""As after RESET#: 16 bytes below 4 GiB, EDX the family. Source: Intel SDM volume 3A, 9.1.1, 9.1.4."""
