"""What a run cost, and what it may cost: the same fields as numbers and as ranges."""

from typing import NamedTuple


class Range(NamedTuple):
    """From `low` to `high`, both included."""

    low: int
    high: int

    def holds(self, value: int) -> bool:
        """True where `value` is within."""
        return self.low <= value <= self.high

    @property
    def exact(self) -> bool:
        """True where only one value is right."""
        return self.low == self.high


class Counts(NamedTuple):
    """What a run cost, all requests together. Fields in the order of every report."""

    exits: int
    light_exits: int
    irqchip_exits: int
    interrupts: int
    handoffs: int
    bytes_copied: int
    bytes_dma: int
    syscalls: int


class Budget(NamedTuple):
    """The ranges of the same fields."""

    exits: Range
    light_exits: Range
    irqchip_exits: Range
    interrupts: Range
    handoffs: Range
    bytes_copied: Range
    bytes_dma: Range
    syscalls: Range

    def plus(self, other: "Budget") -> "Budget":
        """Of two guests."""
        return Budget(*(Range(a.low + b.low, a.high + b.high) for a, b in zip(self, other, strict=True)))

    def misses(self, counts: Counts) -> list[str]:
        """The fields that are out of their range."""
        pairs = zip(Counts._fields, self, counts, strict=True)
        return [name for name, allowed, count in pairs if not allowed.holds(count)]


def exactly(value: int) -> Range:
    """One value."""
    return Range(value, value)


def polled(kicked: Budget, count: int) -> Budget:
    """As `kicked`, but the one who serves polls. Its system calls are the caller's to say.

    It may answer each of the `count` requests by itself, and interrupt for it.
    """
    most = max(kicked.interrupts.high, count + 1)
    return kicked._replace(
        light_exits=Range(0, count // 10),
        irqchip_exits=Range(kicked.irqchip_exits.low, most),
        interrupts=Range(kicked.interrupts.low, most),
        handoffs=Range(1, 2 * most),
    )
