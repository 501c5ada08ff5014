"""CPU states a loader may ask for."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

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
