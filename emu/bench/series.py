"""Two things measured in turns, and what their ratio is in spite of a busy machine."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple


class Ratio(NamedTuple):
    """`second` over `first`: the median over pairs, and the range without the outer twentieths of them.

    `first` and `second` are the medians themselves, in the unit they were measured in.
    """

    first: float
    second: float
    ratio: float
    low: float
    high: float


def in_turns(measures: Sequence[Callable[[], float]], rounds: int) -> list[list[float]]:
    """Measure each `rounds` times, every other round backwards; one list a measure, by round."""
    found: list[list[float]] = [[] for _ in measures]
    order = list(range(len(measures)))
    for _ in range(rounds):
        for i in order:
            found[i].append(measures[i]())
        order.reverse()
    return found


def ratio(first: Sequence[float], second: Sequence[float]) -> Ratio:
    """Compare two series of the same rounds pair by pair. Raises ValueError where their lengths differ."""
    pairs = sorted(b / a for a, b in zip(first, second, strict=True))
    cut = len(pairs) // 20
    return Ratio(median(first), median(second), median(pairs), pairs[cut], pairs[-1 - cut])


def step(before: Sequence[float], after: Sequence[float]) -> float:
    """What `after` costs more than `before`: the median of the differences by round."""
    return median(b - a for a, b in zip(before, after, strict=True))
