"""The port space: 65,536 ports in flat tables, one for each width and direction.

`read` and `write` have the shape of the CPU engine's port callbacks, so that no frame stands between
guest and chip. A port costs one list add and one look-up before the chip is called.
"""

from collections.abc import Callable, Iterator
from typing import Final

from emu.bus.types import AccessError, DirectRegion, Region
from emu.bus.window import ONES, FaultLog, Unclaimed, Window
from emu.errors import MapError

PORTS: Final = 1 << 16
WIDTHS: Final = (1, 2, 4)

ReadPort = Callable[[int, int, int, int], int]
"""(engine, port, width, user) -> value. `engine` and `user` mean nothing, and `user` may be left out."""
WritePort = Callable[[int, int, int, int, int], None]
"""(engine, port, width, value, user). As above."""
Reader = tuple[Callable[[int, int], int], int]
"""A chip's `read` and the offset for it, or `_split_read` and the port."""
Writer = tuple[Callable[[int, int, int], None], int]
"""The same of a write."""


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
        # by width and port: who carries the access out, and the first argument for it
        self._read: list[list[Reader]] = [[(region.read, 0)] * PORTS if w in WIDTHS else [] for w in range(5)]
        self._write: list[list[Writer]] = [
            [(region.write, 0)] * PORTS if w in WIDTHS else [] for w in range(5)
        ]
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
            for width in WIDTHS:
                self._read[width][port], self._write[width][port] = (free.read, 0), (free.write, 0)

    def _fill(self, window: Window, *, wide: bool) -> None:
        base, region = window.base, window.region
        direct = region.direct if isinstance(region, DirectRegion) else None
        for port in range(base, base + window.size):
            self._windows[port] = window
            left = base + window.size - port if wide else 1
            for width in WIDTHS:
                if width > left:
                    self._read[width][port] = self._split_read, port
                    self._write[width][port] = self._split_write, port
                    continue
                read, write = region.read, region.write
                if direct is not None:
                    read, write = direct(port - base, width)
                self._read[width][port], self._write[width][port] = (read, port - base), (write, port - base)

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
        reads, tables = self.reads, self._read

        def read(_engine: int, port: int, width: int, _user: int = 0) -> int:
            """Answer one IN; every port read passes here."""
            reads[port] += 1
            call, offset = tables[width][port]
            try:
                return call(offset, width)
            except AccessError as error:
                return self._answer(port, width, error, is_write=False)
            except BaseException as error:  # ours: stop the machine, never unwind into the engine
                self._fail(error)
                return ONES[width]

        return read

    def _make_write(self) -> WritePort:
        writes, tables = self.writes, self._write

        def write(_engine: int, port: int, width: int, value: int, _user: int = 0) -> None:
            """Carry out one OUT; every port write passes here."""
            writes[port] += 1
            call, offset = tables[width][port]
            try:
                call(offset, width, value)
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
                    call, offset = self._read[1][at]
                    byte = call(offset, 1) & 0xFF
                except AccessError as error:
                    self._answer(at, 1, error, is_write=False)
            value |= byte << (8 * i)
        return value

    def _split_write(self, port: int, width: int, value: int) -> None:
        for i in range(width):
            at = port + i
            if at < PORTS:
                try:
                    call, offset = self._write[1][at]
                    call(offset, 1, value >> (8 * i) & 0xFF)
                except AccessError as error:
                    self._answer(at, 1, error, is_write=True)

    def _answer(self, port: int, width: int, error: AccessError, *, is_write: bool) -> int:
        window = self._windows[port]
        register = window.region.register_name(port - window.base, is_write)
        kind = self._faults.add(window.name, f"{'write' if is_write else 'read'} {register}", error.fault)
        if window is self._unclaimed:  # until something is mapped here
            if is_write:
                self._write[width][port] = kind.writer
            else:
                self._read[width][port] = kind.reader
        return ONES[width]
