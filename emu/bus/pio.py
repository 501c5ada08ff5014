"""The port space: 65,536 ports in flat tables, one entry per port and width class.

`read` and `write` have the shape of the CPU engine's port callbacks, so that no frame stands between
guest and chip. A port costs one list add and two look-ups before the chip is called.
"""

from collections.abc import Callable, Iterator
from typing import Final

from emu.bus.types import AccessError, Region
from emu.bus.window import ONES, FaultLog, Unclaimed, Window
from emu.errors import MapError

PORTS: Final = 1 << 16

ReadPort = Callable[[int, int, int, int], int]
"""(engine, port, width, user) -> value."""
WritePort = Callable[[int, int, int, int, int], None]
"""(engine, port, width, value, user)."""


class PioBus:
    """The machine's port space; the vCPU thread's own.

    `reads[port]` and `writes[port]` count every access at its first port. `fail` is told of anything a chip
    raises that is not an AccessError: an error of ours, not of the guest.
    """

    def __init__(self, faults: FaultLog, fail: Callable[[BaseException], None]) -> None:
        self._unclaimed = Window(0, PORTS, Unclaimed(PORTS), "unclaimed port", "device")
        region = self._unclaimed.region
        self._faults, self._fail = faults, fail
        self._windows: list[Window] = [self._unclaimed] * PORTS
        self.reads = [0] * PORTS
        self.writes = [0] * PORTS
        self._offset = list(range(PORTS))
        self._region_read: list[Callable[[int, int], int]] = [region.read] * PORTS
        self._region_write: list[Callable[[int, int, int], None]] = [region.write] * PORTS
        # the widest access the chip itself is given at a port; wider ones become byte cycles
        self._widest = [4] * PORTS
        self.read, self.write = self._make_read(), self._make_write()

    def map(
        self, base: int, ports: int, region: Region, name: str, kind: str = "device", *, wide: bool = False
    ) -> Window:
        """Let `region` answer `ports` ports from `base` on.

        `wide=False`: a chip on 8-bit ISA, the bus makes byte cycles for it. Raises MapError.
        """
        if ports <= 0 or base < 0 or base + ports > PORTS:
            raise MapError(f"{name}: {ports} ports at {base:#06x} do not fit the port space")
        for port in range(base, base + ports):
            taken = self._windows[port]
            if taken is not self._unclaimed:
                raise MapError(f"{name} at port {port:#06x} overlaps {taken.name} ({taken.base:#06x})")
        window = Window(base, ports, region, name, kind)
        self._fill(window, wide=wide)
        return window

    def unmap(self, base: int) -> None:
        """Take away the window that starts at `base`. Raises MapError where none does."""
        window = self._windows[base]
        if window is self._unclaimed or window.base != base:
            raise MapError(f"no window starts at port {base:#06x}")
        free = self._unclaimed.region
        for port in range(base, base + window.size):
            self._windows[port] = self._unclaimed
            self._offset[port], self._widest[port] = port, 4
            self._region_read[port], self._region_write[port] = free.read, free.write

    def _fill(self, window: Window, *, wide: bool) -> None:
        base, region = window.base, window.region
        for port in range(base, base + window.size):
            self._windows[port] = window
            self._offset[port] = port - base
            self._region_read[port], self._region_write[port] = region.read, region.write
            left = base + window.size - port
            self._widest[port] = (4 if left >= 4 else 2 if left >= 2 else 1) if wide else 1

    def window_at(self, port: int) -> Window:
        """The window that decodes `port`; the unclaimed one included."""
        return self._windows[port]

    def find(self, port: int) -> tuple[Window, int]:
        """The window that decodes `port`, and the offset in it."""
        window = self._windows[port]
        return window, port - window.base

    def windows(self) -> Iterator[Window]:
        """All mapped windows by address."""
        before = self._unclaimed
        for window in self._windows:
            if window is not before and window is not self._unclaimed:
                yield window
            before = window

    # ---- the hot path ------------------------------------------------------------------------------

    def _make_read(self) -> ReadPort:
        reads, region_read, offsets, widest, split = (
            self.reads,
            self._region_read,
            self._offset,
            self._widest,
            self._split_read,
        )

        def read(_engine: int, port: int, width: int, _user: int) -> int:
            """Answer one IN; every port read passes here."""
            reads[port] += 1
            try:
                if width <= widest[port]:
                    return region_read[port](offsets[port], width)
                return split(port, width)
            except AccessError as error:
                return self._answer(port, width, error, is_write=False)
            except BaseException as error:  # ours: stop the machine, never unwind into the engine
                self._fail(error)
                return ONES[width]

        return read

    def _make_write(self) -> WritePort:
        writes, region_write, offsets, widest, split = (
            self.writes,
            self._region_write,
            self._offset,
            self._widest,
            self._split_write,
        )

        def write(_engine: int, port: int, width: int, value: int, _user: int) -> None:
            """Carry out one OUT; every port write passes here."""
            writes[port] += 1
            try:
                if width <= widest[port]:
                    region_write[port](offsets[port], width, value)
                else:
                    split(port, width, value)
            except AccessError as error:
                self._answer(port, width, error, is_write=True)
            except BaseException as error:  # ours: stop the machine, never unwind into the engine
                self._fail(error)

        return write

    # ---- the rest ----------------------------------------------------------------------------------

    def _split_read(self, port: int, width: int) -> int:
        """Byte cycles, lowest port first, each decoded by itself; past the last port nothing answers."""
        value = 0
        for i in range(width):
            at, byte = port + i, 0xFF
            if at < PORTS:
                try:
                    byte = self._region_read[at](self._offset[at], 1) & 0xFF
                except AccessError as error:
                    self._answer(at, 1, error, is_write=False)
            value |= byte << (8 * i)
        return value

    def _split_write(self, port: int, width: int, value: int) -> None:
        for i in range(width):
            at = port + i
            if at < PORTS:
                try:
                    self._region_write[at](self._offset[at], 1, value >> (8 * i) & 0xFF)
                except AccessError as error:
                    self._answer(at, 1, error, is_write=True)

    def _answer(self, port: int, width: int, error: AccessError, *, is_write: bool) -> int:
        window = self._windows[port]
        register = window.region.register_name(port - window.base, is_write)
        self._faults.add(window.name, f"{'write' if is_write else 'read'} {register}", error.fault)
        return ONES[width]
