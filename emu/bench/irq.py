"""How long an interrupt takes while the guest runs: from the raise to the handler's first instruction."""

import struct
import threading
import time
from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple

from emu.bench.rig import CODE, WholeMachine
from emu.cpu.state import StartState
from emu.cpu.tsc import TscRate

ROUNDS: Final = 2_000
PAUSE_S: Final = 0.0003
PAUSES: Final = 1000
RING: Final = 0xF5
"""The port whose chip raises the interrupt."""
VECTOR: Final = 0x40
MSI_ADDRESS: Final = 0xFEE0_0000
GDT, IDT, HANDLER = 0x3000, 0x4000, 0x5000
STAMP, STOP = 0x6000, 0x6040

TAKE: Final = (
    b"\x0f\x31"  # rdtsc
    b"\xa3\x00\x60\x00\x00"  # mov [STAMP], eax
    b"\x89\x15\x04\x60\x00\x00"  # mov [STAMP + 4], edx
    b"\xc7\x05\xb0\x00\xe0\xfe\x00\x00\x00\x00"  # mov dword [0xfee000b0], 0: EOI
    b"\xcf"  # iretd
)
SET_UP: Final = (
    b"\x0f\x01\x1d\x00\x3e\x00\x00"  # lidt [0x3e00]
    b"\xbc\x00\x00\x08\x00"  # mov esp, 0x80000
    b"\xfb"  # sti
)
END: Final = b"\xfa\xf4"  # cli; hlt
SPIN: Final = b"\x83\x3d\x40\x60\x00\x00\x00\x74\xf7"  # cmp dword [STOP], 0; jz
RING_LOOP: Final = b"\xe6\xf5\x90\x90\xff\xc9\x75\xf8"  # out 0xf5, al; nop; nop; dec ecx; jnz


class Latency(NamedTuple):
    """Nanoseconds, as medians and 99th percentiles: raised by a chip in an exit, and by another thread."""

    chip: float
    chip_p99: float
    thread: float
    thread_p99: float


class Ring:
    """A port whose write raises an interrupt; notes when, and when the handler before it began."""

    size = 1

    def __init__(self, whole: WholeMachine) -> None:
        self._machine, self._send = whole.machine, whole.board.lapic.send
        self._raised = 0
        self.ticks: list[int] = []

    def read(self, _offset: int, _width: int) -> int:
        """Nothing there."""
        return 0

    def write(self, _offset: int, _width: int, _value: int) -> None:
        """Raise it."""
        self.note()
        self._raised = self._machine.engine.host_tsc()
        self._send(MSI_ADDRESS, VECTOR)

    def note(self) -> None:
        """Take down what the handler has left."""
        if self._raised:
            self.ticks.append(stamp(self._machine.memory.view(STAMP, 8)) - self._raised)

    def register_name(self, _offset: int, _is_write: bool) -> str:
        """One name."""
        return "RING"


def stamp(view: memoryview) -> int:
    """The guest's RDTSC."""
    return int(struct.unpack("<Q", view)[0])


def measure(rounds: int = ROUNDS) -> Latency:
    """Measure both ways; a second or two."""
    whole = WholeMachine()
    ring = Ring(whole)
    whole.machine.pio.map(RING, 1, ring, "ring")
    try:
        whole.power_on()
        engine = whole.machine.engine
        rate = TscRate(engine.host_tsc)
        engine.set_tsc_offset(0)
        _write_tables(whole)
        _run(whole, SET_UP + b"\xb9" + struct.pack("<I", rounds) + RING_LOOP + END)
        ring.note()
        outside = _from_thread(whole, rounds)
        ns = 1e9 / rate.hz()
    finally:
        whole.close()
    chip, thread = sorted(ring.ticks), sorted(outside)
    return Latency(median(chip) * ns, _p99(chip) * ns, median(thread) * ns, _p99(thread) * ns)


def _p99(ticks: Sequence[int]) -> int:
    return ticks[len(ticks) * 99 // 100]


def _run(whole: WholeMachine, code: bytes) -> None:
    whole.load(code)
    whole.run(StartState("protected32", CODE, gdt=GDT))


def _from_thread(whole: WholeMachine, rounds: int) -> list[int]:
    """Ticks from `send` in another thread to the handler, while the guest spins."""
    machine, send = whole.machine, whole.board.lapic.send
    view, stop = machine.memory.view(STAMP, 8), machine.memory.view(STOP, 4)
    found: list[int] = []

    def raise_them() -> None:
        time.sleep(0.01)  # the guest is on its way
        for _ in range(rounds):
            raised = machine.engine.host_tsc()
            send(MSI_ADDRESS, VECTOR)
            for _ in range(PAUSES):  # more than one where the host is busy
                time.sleep(PAUSE_S)
                if (ticks := stamp(view) - raised) > 0:
                    found.append(ticks)
                    break
        stop[0] = 1

    thread = threading.Thread(target=raise_them)
    thread.start()
    _run(whole, SET_UP + SPIN + END)
    thread.join()
    return found


def _write_tables(whole: WholeMachine) -> None:
    """Flat segments, one interrupt gate, and the handler."""
    memory = whole.machine.memory
    struct.pack_into("<3Q", memory.view(GDT, 24), 0, 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF)
    struct.pack_into("<HHHH", memory.view(IDT + 8 * VECTOR, 8), 0, HANDLER, 0x08, 0x8E00, 0)
    struct.pack_into("<HI", memory.view(0x3E00, 6), 0, 0x7FF, IDT)
    memory.view(HANDLER, len(TAKE))[:] = TAKE
