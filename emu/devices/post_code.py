"""Port 0x80, the POST code display: remembers the last code. A benchmark marks its phases here."""

from collections.abc import Callable


class PostCode:
    """One port. `on_code(value)` hears each write; reads give the last value back."""

    size = 1

    def __init__(self) -> None:
        self.last = 0
        self.on_code: Callable[[int], None] = _nobody

    def read(self, _offset: int, _width: int) -> int:
        """The last code."""
        return self.last

    def write(self, _offset: int, _width: int, value: int) -> None:
        """Show a code."""
        self.last = value & 0xFF
        self.on_code(value)

    def register_name(self, _offset: int, _is_write: bool) -> str:
        """One register."""
        return "POST"


def _nobody(_value: int) -> None:
    """Nobody watches the display."""
