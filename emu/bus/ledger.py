"""The exit ledger: what the guest's accesses cost, read from counters that the bus keeps anyway.

Kinds: "device" (VMM device code ran), "irqchip" (an interrupt controller), "light" (an ioeventfd),
"marker" (the benchmark's own), "cpu" (CPUID, MSR and the like).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol

from emu.bus.costs import Costs
from emu.bus.mmio import MmioBus, Place
from emu.bus.pio import PORTS, PioBus


class Row(NamedTuple):
    """`accesses` of one kind: who answered, at which register, "read" or "write"."""

    kind: str
    device: str
    register: str
    direction: str
    accesses: int


class Source(Protocol):
    """Something that counts exits by itself: native doorbells, the CPU's own intercepts."""

    def rows(self) -> Iterable[Row]:
        """The counts so far."""


Counts = Counter[tuple[str, str, str, str]]
"""(kind, device, register, direction) -> accesses."""


class ExitLedger:
    """Reads the bus's slots when asked; costs nothing before."""

    def __init__(self, pio: PioBus, mmio: MmioBus) -> None:
        self._pio, self._mmio = pio, mmio
        self._sources: list[Source] = []
        self._costs: list[Callable[[], Costs]] = []

    def add_source(self, source: Source) -> None:
        """Ask `source` too."""
        self._sources.append(source)

    def add_costs(self, costs: Costs) -> None:
        """Count one role's costs in."""
        self._costs.append(lambda: costs)

    def add_costs_of(self, ask: Callable[[], Costs]) -> None:
        """Count in what `ask` gives whenever costs are wanted."""
        self._costs.append(ask)

    def rows(self) -> list[Row]:
        """Every register that was touched, most often first."""
        counts = self.snapshot()
        rows = [Row(*key, count) for key, count in counts.items() if count]
        return sorted(rows, key=lambda row: (-row.accesses, row[:4]))

    def snapshot(self) -> Counts:
        """The counts now; subtract two to see what lies between."""
        counts: Counts = Counter()
        for row in self._all():
            counts[row[:4]] += row.accesses
        return counts

    def costs(self) -> Costs:
        """The sum over all roles now."""
        total = Costs()
        for ask in self._costs:
            total = total.total(ask())
        return total

    def _all(self) -> Iterator[Row]:
        yield from self._ports(self._pio.reads, "read")
        yield from self._ports(self._pio.writes, "write")
        for place in self._mmio.places():
            yield from _slots(place, place.reads, "read")
            yield from _slots(place, place.writes, "write")
        for source in self._sources:
            yield from source.rows()

    def _ports(self, counts: list[int], direction: str) -> Iterator[Row]:
        if not any(counts):
            return
        for port in range(PORTS):
            count = counts[port]
            if count:
                window = self._pio.window_at(port)
                name = window.region.register_name(port - window.base, direction == "write")
                yield Row(window.kind, window.name, name, direction, count)


def _slots(place: Place, counts: list[int], direction: str) -> Iterator[Row]:
    window = place.window
    for slot, count in enumerate(counts):
        if count:
            name = window.region.register_name(slot * 4, direction == "write")
            yield Row(window.kind, window.name, name, direction, count)
