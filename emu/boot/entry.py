"""What a loader needs of the machine, and what it hands over: the CPU's state at the first instruction."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from emu.bus.memory import RamRange

CODE_SELECTOR, DATA_SELECTOR = 0x08, 0x10
FLAT_GDT = bytes(8) + bytes.fromhex("ffff0000009bcf00") + bytes.fromhex("ffff00000093cf00")
"""Null, 32-bit code and data; base 0, limit 4 GiB, ring 0 (Intel SDM volume 3, 3.4.5)."""


class LoadMemory(Protocol):
    """Guest RAM as loaders use it."""

    @property
    def ranges(self) -> Sequence[RamRange]:
        """The pieces of RAM by address."""

    def view(self, gpa: int, length: int, /) -> memoryview:
        """The bytes [gpa, gpa + length), writable. Raises GuestAddressError outside of RAM."""

    def clear(self, gpa: int, length: int, /) -> None:
        """Make the range zero. Raises GuestAddressError outside of RAM."""

    def load(self, gpa: int, length: int, fd: int, offset: int, /) -> None:
        """Take `length` bytes of an open file from `offset` on, zeros behind its end.

        Raises GuestAddressError and OSError.
        """

    def written(self, gpa: int, length: int, /) -> None:
        """The range has new contents."""


class EntryState(NamedTuple):
    """How the CPU starts.

    "protected32": CR0.PE only, A20 open, IF clear, flat segments with the selectors above and the GDT at
    `gdt` (loaded into GDTR). "real": CS base is `rip` without its low 16 bits. "long64": paging with `cr3`.
    `selectors` are code and data, which end the table at `gdt`. Registers that `registers` (by their 32- or
    64-bit names) leaves out are zero.
    """

    mode: Literal["real", "protected32", "long64"]
    rip: int
    registers: Mapping[str, int]
    gdt: int = 0
    cr3: int = 0
    selectors: tuple[int, int] = (CODE_SELECTOR, DATA_SELECTOR)
