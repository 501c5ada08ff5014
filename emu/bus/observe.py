"""Looking at exits one by one, only when asked: wrappers that stand before the bus's own functions.

Nothing of this is there in a plain run. Natively served doorbells never reach Python: they are counted by
the ledger and not seen here.
"""

import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from emu.bus.pio import ReadPort, WritePort
from emu.bus.window import Window

Find = Callable[[int], tuple[Window, int]]
"""An address -> the window that decodes it and the offset in that window."""


class Observer(Protocol):
    """Hears of each access after it was answered; vCPU thread. `ns` is the time device code took."""

    def access(
        self, window: Window, offset: int, width: int, value: int, is_write: bool, ns: int, is_mmio: bool, /
    ) -> None:
        """One access."""


def observed_read(
    read: ReadPort, find: Find, observer: Observer, *, base: int = 0, is_mmio: bool = False
) -> ReadPort:
    """`read`, and tell `observer`. Offsets of the callback count from `base`."""
    now, access = time.perf_counter_ns, observer.access

    def call(engine: int, at: int, width: int, user: int = 0) -> int:
        window, offset = find(base + at)
        began = now()
        value = read(engine, at, width, user)
        access(window, offset, width, value, False, now() - began, is_mmio)
        return value

    return call


def observed_write(
    write: WritePort, find: Find, observer: Observer, *, base: int = 0, is_mmio: bool = False
) -> WritePort:
    """`write`, and tell `observer`. Offsets of the callback count from `base`."""
    now, access = time.perf_counter_ns, observer.access

    def call(engine: int, at: int, width: int, value: int, user: int = 0) -> None:
        window, offset = find(base + at)
        began = now()
        write(engine, at, width, value, user)
        access(window, offset, width, value, True, now() - began, is_mmio)

    return call


class Spent(NamedTuple):
    """Accesses of one register, from one guest function where that was asked for, and their device time."""

    kind: str
    device: str
    register: str
    direction: str
    function: str
    accesses: int
    ns: int


class ExitProfile:
    """Accesses and time by register, and by guest function where `rip` and `function` are given.

    `rip(is_mmio)` is the exact address of the instruction that is being served.
    """

    def __init__(
        self,
        rip: Callable[[bool], int] | None = None,
        function: Callable[[int], str] | None = None,
    ) -> None:
        self._rip, self._function = rip, function
        self._found: dict[tuple[Window, int, bool, int], list[int]] = {}

    def access(
        self, window: Window, offset: int, _width: int, _value: int, is_write: bool, ns: int, is_mmio: bool
    ) -> None:
        """See `Observer`."""
        rip = self._rip(is_mmio) if self._rip is not None else 0
        cell = self._found.setdefault((window, offset, is_write, rip), [0, 0])
        cell[0] += 1
        cell[1] += ns

    def spent(self) -> list[Spent]:
        """What was seen, the most time first."""
        sums: dict[tuple[str, str, str, str, str], list[int]] = {}
        for (window, offset, is_write, rip), (accesses, ns) in self._found.items():
            name = window.region.register_name(offset, is_write)
            function = self._function(rip) if self._function is not None else ""
            key = (window.kind, window.name, name, "write" if is_write else "read", function)
            cell = sums.setdefault(key, [0, 0])
            cell[0] += accesses
            cell[1] += ns
        rows = [Spent(*key, accesses, ns) for key, (accesses, ns) in sums.items()]
        return sorted(rows, key=lambda row: (-row.ns, row[:5]))


MAX_EVENTS = 1_000_000


class ExitTrace:
    """Every access as an event of the Chrome trace format, for a trace viewer; up to MAX_EVENTS."""

    def __init__(self) -> None:
        self._events: list[tuple[int, Window, int, int, int, bool, int]] = []
        self._epoch = time.perf_counter_ns()
        self.dropped = 0

    def access(
        self, window: Window, offset: int, width: int, value: int, is_write: bool, ns: int, _is_mmio: bool
    ) -> None:
        """See `Observer`."""
        if len(self._events) < MAX_EVENTS:
            began = time.perf_counter_ns() - ns - self._epoch
            self._events.append((began, window, offset, width, value, is_write, ns))
        else:
            self.dropped += 1

    def document(self) -> dict[str, object]:
        """The JSON object: times in microseconds since the machine was built."""
        return {
            "displayTimeUnit": "ns",
            "otherData": {"dropped": self.dropped},
            "traceEvents": [self._event(*event) for event in self._events],
        }

    @staticmethod
    def _event(
        began: int, window: Window, offset: int, width: int, value: int, is_write: bool, ns: int
    ) -> dict[str, object]:
        register = window.region.register_name(offset, is_write)
        return {
            "name": f"{window.name} {register} {'write' if is_write else 'read'}",
            "cat": window.kind,
            "ph": "X",
            "ts": began / 1000,
            "dur": ns / 1000,
            "pid": 1,
            "tid": 1,
            "args": {"width": width, "value": f"{value:#x}"},
        }


class Several:
    """More than one observer."""

    def __init__(self, observers: list[Observer]) -> None:
        self._observers = observers

    def access(
        self, window: Window, offset: int, width: int, value: int, is_write: bool, ns: int, is_mmio: bool
    ) -> None:
        """See `Observer`."""
        for observer in self._observers:
            observer.access(window, offset, width, value, is_write, ns, is_mmio)
