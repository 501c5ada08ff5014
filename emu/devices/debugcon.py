"""The debug console of Bochs and QEMU at port 0xE9. Source: Bochs user manual, "port_e9_hack"."""

from collections.abc import Callable

PRESENT = 0xE9  # what a read gives, so that a guest can tell the port is there

_BYTES = tuple(bytes((value,)) for value in range(256))


class Debugcon:
    """A Region of one port; `out(data)` takes each byte written."""

    size = 1

    def __init__(self, out: Callable[[bytes], object]) -> None:
        self._out = out

    def read(self, _offset: int, _width: int) -> int:
        """Always 0xE9."""
        return PRESENT

    def write(self, _offset: int, _width: int, value: int) -> None:
        """Put one byte out."""
        self._out(_BYTES[value & 0xFF])

    def register_name(self, _offset: int, _is_write: bool) -> str:
        """The device's one register."""
        return "debugcon"
