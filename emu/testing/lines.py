"""Wires and messages that remember what they saw."""


class RecordingLine:
    """An `IrqLine` that records each level driven onto it, repeats included."""

    def __init__(self) -> None:
        self.levels: list[bool] = []
        self.level = False

    def set(self, level: bool) -> None:
        """Record and take the level."""
        self.levels.append(level)
        self.level = level

    def restore(self, level: bool) -> None:
        """Take the level without recording an edge."""
        self.level = level


class RecordingMsi:
    """An `MsiTarget` that records (address, data)."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, int]] = []

    def send(self, address: int, data: int) -> None:
        """Record one message."""
        self.sent.append((address, data))
