"""Interrupt wiring: several sources share one pin, none can lower another's level."""

from collections.abc import Callable


class Pin:
    """An interrupt pin. `on_level(level)` is called at each change of the OR of its lines."""

    def __init__(self, on_level: Callable[[bool], None]) -> None:
        self._on_level = on_level
        self._high = 0

    @property
    def level(self) -> bool:
        """The OR of all lines."""
        return self._high > 0

    def line(self) -> "Line":
        """A new wire to this pin, low."""
        return Line(self)

    def move(self, step: int, *, edge: bool) -> None:
        """One line rose (+1) or fell (-1)."""
        before = self._high
        self._high = before + step
        if edge and (before == 0) != (self._high == 0):
            self._on_level(self._high > 0)


class Line:
    """One source's wire; an `IrqLine`."""

    __slots__ = ("_level", "_pin")

    def __init__(self, pin: Pin) -> None:
        self._pin = pin
        self._level = False

    def set(self, level: bool) -> None:
        """Drive the wire."""
        if level != self._level:
            self._level = level
            self._pin.move(1 if level else -1, edge=True)

    def restore(self, level: bool) -> None:
        """Take a saved level without an edge."""
        if level != self._level:
            self._level = level
            self._pin.move(1 if level else -1, edge=False)


class Gate:
    """A wire with a switch in it, closed at first; an `IrqLine`."""

    __slots__ = ("_closed", "_level", "_line")

    def __init__(self, line: Line) -> None:
        self._line = line
        self._level, self._closed = False, True

    def set(self, level: bool) -> None:
        """Drive the wire."""
        self._level = level
        self._line.set(level and self._closed)

    def restore(self, level: bool) -> None:
        """Take a saved level without an edge."""
        self._level = level
        self._line.restore(level and self._closed)

    def switch(self, closed: bool) -> None:
        """Pass the level on, or none."""
        self._closed = closed
        self._line.set(self._level and closed)


class NoLine:
    """A wire that leads nowhere."""

    def set(self, level: bool) -> None:
        """Ignore the level."""

    def restore(self, level: bool) -> None:
        """Ignore the level."""
