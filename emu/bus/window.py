"""A window: one region's place in an address space, and what became of the accesses to it."""

import sys
from collections.abc import Callable
from typing import Final

from emu.bus.types import AccessError, Fault, Region

MAX_FAULT_KINDS, MAX_FAULT_LINES = 64, 8
ONES: Final = {1: 0xFF, 2: 0xFFFF, 4: 0xFFFF_FFFF, 8: 0xFFFF_FFFF_FFFF_FFFF}


class Window:
    """`size` addresses from `base` on that lead to `region`.

    `kind` says who answers, for the ledger: "device", "irqchip", "light" (an ioeventfd) or "marker".
    """

    __slots__ = ("base", "kind", "name", "region", "size")

    def __init__(self, base: int, size: int, region: Region, name: str, kind: str) -> None:
        self.base, self.size, self.region, self.name, self.kind = base, size, region, name, kind

    def __repr__(self) -> str:
        return f"{self.name} ({self.base:#06x}-{self.base + self.size - 1:#06x})"


class FaultLog:
    """Guest accesses that did not fit: all are counted, the first few kinds are told once each."""

    def __init__(self, tell: Callable[[str], None] | None = None) -> None:
        self._kinds: dict[tuple[str, str, Fault], Nobody] = {}
        self.tell = tell if tell is not None else _to_stderr

    @property
    def counts(self) -> dict[tuple[str, str, Fault], int]:
        """How many there were by place, register and fault; "others" beyond MAX_FAULT_KINDS."""
        return {key: kind.count for key, kind in self._kinds.items()}

    def add(self, where: str, register: str, fault: Fault) -> "Nobody":
        """Count one; write a line if it is the first of its kind. Returns what may count the next ones."""
        kind = self.kind(where, register, fault)
        kind.count += 1
        return kind

    def kind(self, where: str, register: str, fault: Fault) -> "Nobody":
        """The counter of a kind that is about to be met."""
        kinds, key = self._kinds, (where, register, fault)
        if (found := kinds.get(key)) is not None:
            return found
        if len(kinds) >= MAX_FAULT_KINDS:
            return kinds.setdefault(("others", "", fault), Nobody())
        kinds[key] = found = Nobody()
        if len(kinds) <= MAX_FAULT_LINES:
            self.tell(f"guest: {where} {register}: {fault.value}")
        if len(kinds) == MAX_FAULT_LINES:
            self.tell("guest: further bad accesses are counted, not shown")
        return found


class Nobody:
    """Answers the accesses of one kind that fits nobody, and counts them: a fifth of the time of an error."""

    __slots__ = ("count", "reader", "writer")

    def __init__(self) -> None:
        self.count = 0
        self.reader, self.writer = (self.read, 0), (self.write, 0)  # as the tables of a bus hold them

    def read(self, _offset: int, width: int) -> int:
        """All ones."""
        self.count += 1
        return ONES[width]

    def write(self, _offset: int, _width: int, _value: int) -> None:
        """Nothing."""
        self.count += 1


class Unclaimed:
    """Addresses that nothing decodes: reads give all ones, writes go nowhere."""

    def __init__(self, size: int) -> None:
        self.size = size

    def read(self, _offset: int, _width: int) -> int:
        """All ones, counted as a fault."""
        raise AccessError(Fault.NO_REGISTER)

    def write(self, _offset: int, _width: int, _value: int) -> None:
        """Nothing, counted as a fault."""
        raise AccessError(Fault.NO_REGISTER)

    def register_name(self, offset: int, _is_write: bool) -> str:
        """The bare address."""
        return f"{offset:#06x}"


class Absent:
    """Addresses that are known and deliberately not modelled: no line in the log."""

    def __init__(self, size: int = 1, name: str = "absent", answer: int = 0xFFFF_FFFF) -> None:
        self.size, self._name, self._answer = size, name, answer

    def read(self, _offset: int, width: int) -> int:
        """The fixed answer."""
        return self._answer & ONES[width]

    def write(self, _offset: int, _width: int, _value: int) -> None:
        """Nothing."""

    def register_name(self, offset: int, _is_write: bool) -> str:
        """One name for all."""
        return f"{self._name}+{offset:#x}"


def _to_stderr(line: str) -> None:
    print(f"emu: {line}", file=sys.stderr)
