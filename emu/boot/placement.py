"""Who has which part of RAM while an image is loaded, and the map of memory that a kernel is told.

Source of the map: ACPI 6.5, 15 (system address map, types 1 and 2), with the holes of the PC.
"""

from typing import NamedTuple

from emu.boot.entry import LoadMemory
from emu.errors import ConfigError

LOW_END = 0x9FC00
"""End of conventional memory: the last KiB below 640 KiB is the firmware's (EBDA)."""
TABLES = 0xE0000
"""Where firmware's own area starts, with its tables; up to 1 MiB."""
MIB = 1 << 20
FOUR_GIB = 1 << 32
PAGE = 4096
TYPE_RAM, TYPE_RESERVED = 1, 2


class MapEntry(NamedTuple):
    """`size` bytes from `base` on, of an E820 type."""

    base: int
    size: int
    kind: int


def memory_map(memory: LoadMemory) -> list[MapEntry]:
    """The machine's RAM and its reserved pieces, by address."""
    found = [MapEntry(0, LOW_END, TYPE_RAM)]
    found.append(MapEntry(LOW_END, 0xA0000 - LOW_END, TYPE_RESERVED))
    found.append(MapEntry(TABLES, MIB - TABLES, TYPE_RESERVED))
    for piece in memory.ranges:
        base, end = max(piece.gpa, MIB), piece.gpa + piece.size
        if end > base:
            found.append(MapEntry(base, end - base, TYPE_RAM))
    return found


class Placement:
    """RAM that a kernel may use, minus what is claimed. Errors are ConfigErrors."""

    def __init__(self, memory: LoadMemory) -> None:
        self._ram = [
            (entry.base, entry.base + entry.size) for entry in memory_map(memory) if entry.kind == TYPE_RAM
        ]
        self._top = max(end for _, end in self._ram)
        self._taken: list[tuple[int, int, str]] = []

    def claim(self, base: int, size: int, what: str) -> None:
        """Take exactly this place; `what` names the taker, file first."""
        end = base + size
        if not any(start <= base and end <= stop for start, stop in self._ram):
            raise ConfigError(
                f"{what} goes to {base:#x}-{end:#x}, which is not RAM; {self._advice(base, end)}",
            )
        for start, stop, other in self._taken:
            if base < stop and start < end:
                raise ConfigError(
                    f"{what} at {base:#x}-{end:#x} overlaps {other} ({start:#x}-{stop:#x}); link it again"
                )
        self._taken.append((base, end, what))

    def _advice(self, base: int, end: int) -> str:
        if self._top <= end < 3 << 30 and base >= MIB:
            return f"try -m {(end + MIB - 1) // MIB}"
        return "link it into RAM"

    def information(self, size: int, what: str) -> int:
        """Take a place for what a kernel is told: high in conventional memory, where kernels put nothing."""
        at = self._find(size, PAGE, LOW_END, 16, from_top=True)
        if at is None:
            at = self._find(size, MIB, FOUR_GIB, 16, from_top=True)
        return self._keep(at, size, what)

    def after(self, size: int, what: str) -> int:
        """Take whole pages behind all that is claimed, or else the lowest that are free above 1 MiB."""
        end = max((stop for _, stop, _ in self._taken if stop > MIB), default=MIB)
        at = self._find(size, end, FOUR_GIB, PAGE, from_top=False)
        if at is None:
            at = self._find(size, MIB, FOUR_GIB, PAGE, from_top=False)
        return self._keep(at, size, what)

    def top(self, size: int, what: str, *, high: int = FOUR_GIB) -> int:
        """Take the highest free whole pages above 1 MiB that end below `high`."""
        return self._keep(self._find(size, MIB, high, PAGE, from_top=True), size, what)

    def _keep(self, at: int | None, size: int, what: str) -> int:
        if at is None:
            raise ConfigError(f"{what}: {size} bytes find no room in RAM; try a larger -m")
        self._taken.append((at, at + size, what))
        return at

    def _find(self, size: int, low: int, high: int, align: int, *, from_top: bool) -> int | None:
        best: int | None = None
        for start, end in self._gaps(low, high):
            at = (end - size) & -align if from_top else (start + align - 1) & -align
            if at < start or at + size > end:
                continue
            if best is None or (at > best) is from_top:
                best = at
        return best

    def _gaps(self, low: int, high: int) -> list[tuple[int, int]]:
        found = []
        for start, end in self._ram:
            at, stop = max(start, low), min(end, high)
            for base, limit, _ in sorted(self._taken):
                if limit <= at or base >= stop:
                    continue
                if base > at:
                    found.append((at, base))
                at = limit
            if stop > at:
                found.append((at, stop))
        return found
