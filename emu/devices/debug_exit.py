"""QEMU's isa-debug-exit: a guest ends its machine and says how. Source: QEMU, hw/misc/debugexit.c."""

from collections.abc import Callable


class DebugExit:
    """A Region of 4 ports. A write of `value` calls `on_exit` with the status `value << 1 | 1`.

    The status is never 0, and not cut to the 8 bits of a process's exit status.
    """

    size = 4

    def __init__(self, on_exit: Callable[[int], None]) -> None:
        self._on_exit = on_exit

    def read(self, _offset: int, _width: int) -> int:
        """Always 0."""
        return 0

    def write(self, _offset: int, _width: int, value: int) -> None:
        """End the machine."""
        self._on_exit(value << 1 | 1)

    def register_name(self, _offset: int, _is_write: bool) -> str:
        """The device's one register."""
        return "exit"
