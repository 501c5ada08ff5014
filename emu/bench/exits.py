"""What an exit costs: the engine's bare callback against the whole way through bus, ledger and a chip.

The bare callback is an empty Python function behind the prototype that unicorn.h declares, as anybody would
write it. Ours takes fewer and smaller arguments (`emu.cpu.library.NARROW`), which is why the step from the
bare callback to one that counts may be below zero.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from emu.bench.rig import Bench, RawEngine
from emu.bench.series import Ratio, in_turns, ratio, step
from emu.bus.mmio import HOT_BASE, HOT_SIZE, MmioBus
from emu.bus.pio import PORTS, PioBus
from emu.bus.window import FaultLog
from emu.cpu.engine import MmioArea, PortRead, PortWrite
from emu.cpu.fast import FastEngine
from emu.errors import EmuError

ACCESSES: Final = 2_000
"""In one go: half a millisecond, shorter than most disturbances."""
ROUNDS: Final = 240
PORT: Final = 0x80
ACCESS: Final = {
    "out": b"\xe6\x80",  # out 0x80, al
    "in": b"\xe4\x80",  # in al, 0x80
    "mmio_read": b"\x8b\x03",  # mov eax, [ebx]
    "mmio_write": b"\x89\x03",  # mov [ebx], eax
}
FLOOR, COUNT, LOOK_UP, BUS = range(4)


class Steps(NamedTuple):
    """Nanoseconds of one access: the engine's callback, and what comes on top.

    `counter` is a counting callback of our prototype against the bare one of the engine's.
    """

    callback: float
    counter: float
    look_up: float
    device_call: float


class Kind(NamedTuple):
    """One kind of access: `ratio.first` is the bare callback, `ratio.second` the bus, both in ns."""

    name: str
    ratio: Ratio
    steps: Steps


class Trivial:
    """A chip that does nothing."""

    size = 4096

    def read(self, _offset: int, _width: int) -> int:
        """Nothing there."""
        return 0

    def write(self, _offset: int, _width: int, _value: int) -> None:
        """Nothing to do."""

    def register_name(self, _offset: int, _is_write: bool) -> str:
        """One name for all."""
        return "nothing"


def measure(accesses: int = ACCESSES, rounds: int = ROUNDS) -> list[Kind]:
    """Measure all four kinds; some seconds."""
    benches = [_bare(), _counting(), _looking_up(), _whole_bus()]
    try:
        return [_one(name, benches, accesses, rounds) for name in ACCESS]
    finally:
        for bench in benches:
            bench.close()


def worst(kinds: Sequence[Kind]) -> Kind:
    """The kind with the highest ratio."""
    return max(kinds, key=lambda kind: kind.ratio.ratio)


def _one(name: str, benches: Sequence[Bench], accesses: int, rounds: int) -> Kind:
    code = _loop(ACCESS[name], accesses)
    for bench in benches:
        bench.load(code, {"ebx": HOT_BASE})
        bench.run()  # translates it
    series = in_turns([_timed(bench, accesses) for bench in benches], rounds)
    found = ratio(series[FLOOR], series[BUS])
    steps = Steps(
        found.first,
        step(series[FLOOR], series[COUNT]),
        step(series[COUNT], series[LOOK_UP]),
        step(series[LOOK_UP], series[BUS]),
    )
    return Kind(name, found, steps)


def _timed(bench: Bench, accesses: int) -> Callable[[], float]:
    def measure() -> float:
        began = time.perf_counter_ns()
        bench.run()
        return (time.perf_counter_ns() - began) / accesses

    return measure


def _loop(access: bytes, count: int) -> bytes:
    """`count` times `access`, then HLT."""
    start = b"\xbf" + count.to_bytes(4, "little")  # mov edi, count
    back = -(len(access) + 4) & 0xFF
    return start + access + bytes((0xFF, 0xCF, 0x75, back)) + b"\xf4"  # dec edi; jnz; hlt


# ---- the four ways, each one step longer --------------------------------------------------------------


def _bare() -> Bench:
    def read(_engine: int, _at: int, _width: int, _user: int = 0) -> int:
        return 0

    def write(_engine: int, _at: int, _width: int, _value: int, _user: int = 0) -> None:
        pass

    return _bench(read, write, read, write, RawEngine)


def _counting() -> Bench:
    reads, writes = [0] * PORTS, [0] * PORTS

    def read(_engine: int, at: int, _width: int, _user: int = 0) -> int:
        reads[at] += 1
        return 0

    def write(_engine: int, at: int, _width: int, _value: int, _user: int = 0) -> None:
        writes[at] += 1

    return _bench(read, write, read, write)


def _looking_up() -> Bench:
    """What `PioBus` and `MmioBus` do before they call the chip."""
    counts = [0] * PORTS
    ports = [[(0, 0)] * PORTS] * 5
    known = {0: (counts, 0, 0, 0)}

    def read_port(_engine: int, port: int, width: int, _user: int = 0) -> int:
        counts[port] += 1
        _call, offset = ports[width][port]
        return offset

    def write_port(_engine: int, port: int, width: int, _value: int, _user: int = 0) -> None:
        counts[port] += 1
        _call, _offset = ports[width][port]

    def read_at(_engine: int, at: int, _width: int, _user: int = 0) -> int:
        slots, register, _call, offset = known[at]
        slots[register] += 1
        return offset

    def write_at(_engine: int, at: int, _width: int, _value: int, _user: int = 0) -> None:
        slots, register, _call, _offset = known[at]
        slots[register] += 1

    return _bench(read_port, write_port, read_at, write_at)


def _whole_bus() -> Bench:
    failures: list[BaseException] = []
    faults = FaultLog(_no_fault)
    pio, mmio = PioBus(faults, failures.append), MmioBus(faults, failures.append)
    pio.map(PORT, 1, Trivial(), "trivial")
    mmio.map(HOT_BASE, Trivial(), "trivial")
    area = mmio.areas([(0, HOT_BASE)])[0]
    return _bench(pio.read, pio.write, area.read, area.write)


def _no_fault(line: str) -> None:
    raise EmuError(f"the measured access went astray: {line}")


def _bench(
    read: PortRead,
    write: PortWrite,
    read_at: PortRead,
    write_at: PortWrite,
    engine: type[FastEngine] = FastEngine,
) -> Bench:
    return Bench(read, write, [MmioArea(HOT_BASE, HOT_SIZE, read_at, write_at)], engine)
