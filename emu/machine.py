"""One machine: RAM, buses, CPU, ledger and what ends a run. A board (`emu.boards`) puts the chips in."""

import contextlib
import ctypes
import functools
import mmap
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from emu.bus.interrupt_block import EOIS, InterruptBlock
from emu.bus.ledger import ExitLedger, Row
from emu.bus.memory import GuestMemory
from emu.bus.mmio import MmioBus
from emu.bus.observe import ExitProfile, ExitTrace, Observer, Several, observed_read, observed_write
from emu.bus.pio import PioBus, ReadPort, WritePort
from emu.bus.types import InterruptController
from emu.bus.window import FaultLog
from emu.clock import HostClock
from emu.config import EngineChoice, Outcome, OutcomeKind
from emu.cpu import cpuid, msr
from emu.cpu.choice import make_engine
from emu.cpu.engine import EngineHooks, MmioArea, RamBlock
from emu.cpu.state import RESET_VECTOR, StartState
from emu.cpu.tsc import GuestTsc
from emu.cpu.vcpu import Stop, Vcpu

SWITCH_INTERVAL_S = 1e-4
APIC_EOI = 0xFEE0_00B0

if TYPE_CHECKING:
    from emu.cpu.symbols import Symbols
    from emu.devices.virtio.char_port import CharPort
    from emu.kernel.call_events import CallEvents
    from emu.kernel.listener import Listener
    from emu.kernel.sources import Sources


class LocalApic(InterruptController, Protocol):
    """What the CPU needs of its local APIC beyond the INTA cycle."""

    task_priority: int
    block: InterruptBlock

    @property
    def apic_base(self) -> int:
        """MSR 0x1B."""

    def write_apic_base(self, value: int, /) -> bool:
        """Write it; False is #GP."""

    @property
    def tsc_deadline(self) -> int:
        """MSR 0x6E0."""

    def write_tsc_deadline(self, value: int, /) -> bool:
        """Write it."""

    def connect_tsc(self, tsc: GuestTsc, /) -> None:
        """The counter that deadlines are of."""

    def tsc_changed(self) -> None:
        """The counter was set."""

    def bind_thread(self) -> None:
        """The calling thread is the vCPU's."""


class Machine:
    """A machine without chips; `emu.boards.pc.build_pc` is the way to a whole one.

    Belongs to the thread that calls `run`, but for `stop`, `post` and `serial_input`. Raises ConfigError for
    a memory size that cannot be had and EngineError where no engine works.
    """

    def __init__(self, ram_bytes: int, tell: Callable[[str], None] | None = None) -> None:
        self.memory = GuestMemory(ram_bytes)
        self.clock = HostClock()
        self.vcpu = Vcpu(self.clock)
        self.faults = FaultLog(tell)
        self.pio = PioBus(self.faults, self.vcpu.fail)
        self.mmio = MmioBus(self.faults, self.vcpu.fail)
        self.ledger = ExitLedger(self.pio, self.mmio)
        self.ledger.add_costs(self.vcpu.costs)
        self.ledger.add_costs(self.vcpu.outside)
        self.msrs = msr.MsrTable()
        self.serial_input: Callable[[bytes], None] = _no_serial
        self.serial_room: Callable[[], int] = _no_room
        self.char_ports: dict[str, CharPort] = {}
        self.screen_text: Callable[[], str] = str
        self.type_text: Callable[[str], None] = _no_keyboard
        self.boot: Callable[[], StartState] = _no_boot
        self.on_close: list[Callable[[], None]] = []
        self.on_reset: list[Callable[[], None]] = []
        self.on_post_code: Callable[[int], None] = _no_post
        self.no_reboot = False
        self.foreign_writes = False
        """Set before `power_on`: other processes write the guest's RAM by themselves; see `foreign_rings`."""
        self._foreign_rings: dict[object, Sequence[int]] = {}
        self._roms: list[tuple[int, mmap.mmap]] = []
        self._closable: dict[tuple[int, int], bool] = {}
        self._powered = False
        self.shares_core = False
        """Run the CPU and the threads that it starts on one core: see `_one_core`."""
        self.symbols_of: str | None = None
        self.profile: ExitProfile | None = None
        self.trace: ExitTrace | None = None
        self._symbol_table: Symbols | None = None
        self._outcome: Outcome | None = None
        self._reset_wanted = False
        self._closed = False
        self._running = threading.Lock()
        self.vcpu.on_reset = self._reset

    # ---- observers ---------------------------------------------------------------------------------

    def observe(self, *, by_function: bool = False, timed: bool = False, trace: bool = False) -> None:
        """Look at each exit, for `--exits=time`, `--exits=symbols` and `--trace`; before `power_on`."""
        if by_function:
            self.profile = ExitProfile(self._exit_rip, self._function)
        elif timed:
            self.profile = ExitProfile()
        if trace:
            self.trace = ExitTrace()

    def _exit_rip(self, is_mmio: bool) -> int:
        return self.engine.mmio_rip() if is_mmio else self.engine.rip()

    def _function(self, rip: int) -> str:
        return self._symbols().function(rip) or f"{rip:#x}"

    def _observed(self, areas: list[MmioArea]) -> tuple[ReadPort, WritePort, list[MmioArea]]:
        """The bus's functions, behind observers where there are any."""
        observers: list[Observer] = [seen for seen in (self.profile, self.trace) if seen is not None]
        if not observers:
            return self.pio.read, self.pio.write, areas
        seen = Several(observers)
        find = self.mmio.find
        wrapped = [
            MmioArea(
                area.base,
                area.size,
                observed_read(area.read, find, seen, base=area.base, is_mmio=True),
                observed_write(area.write, find, seen, base=area.base, is_mmio=True),
            )
            for area in areas
        ]
        read = observed_read(self.pio.read, self.pio.find, seen)
        return read, observed_write(self.pio.write, self.pio.find, seen), wrapped

    # ---- construction ------------------------------------------------------------------------------

    @functools.cached_property
    def listener(self) -> "Listener":
        """The thread that waits for other processes and for the host's network; made when first needed."""
        from emu.kernel.listener import Listener  # noqa: PLC0415 - most machines have none

        made = Listener(self.vcpu.fail)
        self.on_close.append(made.close)
        return made

    @functools.cached_property
    def call_events(self) -> "CallEvents":
        """The interrupts of other processes; made when first needed."""
        from emu.kernel.call_events import CallEvents  # noqa: PLC0415 - as above

        made = CallEvents(self.listener, self.vcpu.wake_fd)
        self.on_close.insert(self.on_close.index(self.listener.close), made.close)
        self.ledger.add_costs(made.costs)
        self.vcpu.wait_halted = made.wait
        return made

    @functools.cached_property
    def sources(self) -> "Sources":
        """What brings devices frames; made when first needed."""
        from emu.kernel.sources import Sources  # noqa: PLC0415 - as above

        return Sources(self.call_events, self.clock)

    def power_on(self, apic: LocalApic, engine: EngineChoice = "auto") -> None:
        """Make the CPU, once all windows are mapped; the guest's time starts."""
        self._apic = apic
        base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory.map))
        cuts = sorted({edge for gpa, size in self._closable for edge in (gpa, gpa + size)})
        ram = [
            RamBlock(r.gpa, r.size, base + r.offset, cuts=() if r.gpa else tuple(cuts))
            for r in self.memory.ranges
        ]
        for gpa, memory in self._roms:
            address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            ram.append(RamBlock(gpa, len(memory), address, writable=False))
        areas = [MmioArea(*area) for area in self.mmio.areas([(block.gpa, block.size) for block in ram])]
        port_read, port_write, areas = self._observed(areas)
        hooks = EngineHooks(
            port_read=port_read,
            port_write=port_write,
            areas=areas,
            acknowledge=self.vcpu.acknowledge,
            cpuid=cpuid.build(self._tsc_hz, lambda: bool(apic.apic_base & msr.APIC_ON)),
            read_msr=self.msrs.read,
            write_msr=self.msrs.write,
            read_tpr=lambda: apic.task_priority,
            write_tpr=self._write_tpr,
            triple_fault=self.vcpu.shut_down,
            fail=self.vcpu.fail,
            apic=apic.block.address,
            apic_eoi=0 if self.profile is not None or self.trace is not None else APIC_EOI,
            foreign_writes=self.foreign_writes,
        )
        self.engine = make_engine(engine, ram, hooks, self.vcpu.wake_fd)
        self._powered = True
        for (gpa, size), writable in self._closable.items():
            if not writable:
                self.engine.protect(gpa, size, writable)
        self.engine.watch_rings(())
        self.vcpu.attach(self.engine, apic)
        self.memory.on_written = self.engine.make_written(self.vcpu.memory_written)
        self.tsc = GuestTsc(self.engine.host_tsc, self.engine.set_tsc_offset)
        self.tsc.on_change = apic.tsc_changed
        apic.connect_tsc(self.tsc)
        self._add_msrs(apic, self.tsc)

    def add_rom(self, gpa: int, content: bytes) -> None:
        """Put memory that drops stores outside of RAM at `gpa`, whole pages; before `power_on`."""
        memory = mmap.mmap(-1, len(content))
        memory[:] = content
        self._roms.append((gpa, memory))

    def protect(self, gpa: int, size: int, writable: bool) -> None:
        """Carry stores to a part of low RAM out, or drop them; each part is named before `power_on`."""
        self._closable[gpa, size] = writable
        if self._powered:
            self.engine.protect(gpa, size, writable)

    def _add_msrs(self, apic: LocalApic, tsc: GuestTsc) -> None:
        msrs = self.msrs
        msrs.add(msr.APIC_BASE, lambda: apic.apic_base, apic.write_apic_base)
        msrs.add(msr.TSC, tsc.read, tsc.write)
        msrs.add(msr.TSC_ADJUST, lambda: tsc.adjust, tsc.write_adjust)
        msrs.add(msr.TSC_DEADLINE, lambda: apic.tsc_deadline, apic.write_tsc_deadline)
        self.on_reset.append(msrs.memory_types.reset)

    def _tsc_hz(self) -> int:
        return self.tsc.hz()

    def _write_tpr(self, value: int) -> None:
        self._apic.task_priority = value

    # ---- a run -------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Run the guest to its end, on the calling thread. Raises what a chip of ours raised."""
        with self._running, _short_switches(), _one_core(self.shares_core):
            self._apic.bind_thread()
            self.engine.start_at(self.boot())
            while self._outcome is None:
                self._go_on()
            return self._outcome

    def _go_on(self) -> None:
        """Run until the CPU stops, and see why."""
        stop = self.vcpu.run()
        if self._outcome is not None:
            return
        if self._reset_wanted:
            self._restart()
        elif stop is Stop.TRIPLE_FAULT:
            self._outcome = Outcome(OutcomeKind.TRIPLE_FAULT)
        elif stop is Stop.HALTED:
            self._outcome = Outcome(OutcomeKind.HALTED)

    def _restart(self) -> None:
        """RESET#: chips as after power-on, then the boot again."""
        self._reset_wanted = False
        for reset in self.on_reset:
            reset()
        self.engine.start_at(self.boot())

    @property
    def alive(self) -> bool:
        """The run has not come to its end."""
        return self._outcome is None

    def end(self, outcome: Outcome) -> None:
        """A chip ends the run; vCPU thread."""
        if self._outcome is None:
            self._outcome = outcome
            self.faults.tell = _silence  # a few more instructions run until the engine leaves
        self.vcpu.request_stop()

    def _reset(self) -> None:
        if self.no_reboot:
            self.end(Outcome(OutcomeKind.RESET))
        else:
            self._reset_wanted = True
            self.vcpu.request_stop()

    def stop(self, _reason: str = "") -> None:
        """End the run soon; any thread, also before `run`."""
        if self._outcome is None:
            self._outcome = Outcome(OutcomeKind.STOPPED)
        self.vcpu.request_stop()

    def foreign_wrote(self) -> None:
        """Another process has written RAM, and the guest is about to hear of it; any thread."""
        self.engine.foreign_wrote()

    def foreign_rings(self, device: object, used_idx: Sequence[int]) -> None:
        """Where RAM has the used indexes of a device that another process serves from now on; vCPU thread."""
        self._foreign_rings[device] = used_idx
        self.engine.watch_rings([at for rings in self._foreign_rings.values() for at in rings])

    def post_code(self, code: int) -> None:
        """Port 0x80 was written; whoever set `on_post_code` hears it."""
        self.on_post_code(code)

    def post(self, call: Callable[[], None]) -> None:
        """Run `call` on the vCPU thread soon; see `Vcpu.post`."""
        self.vcpu.post(call)

    # ---- afterwards --------------------------------------------------------------------------------

    def rip_text(self) -> str:
        """Where the guest is, with its symbol where the kernel file has one."""
        rip = self.engine.rip()
        return f"{rip:#x} {self._symbols().name(rip)}".rstrip()

    def _symbols(self) -> "Symbols":
        if self._symbol_table is None:
            from emu.cpu.symbols import Symbols  # noqa: PLC0415 - for reports only

            self._symbol_table = Symbols(self.symbols_of)
        return self._symbol_table

    def rows(self) -> list[Row]:
        """The rows of the ledger that the CPU counts by itself."""
        eois = Row("irqchip", "lapic", "EOI", "write", self._apic.block.words[EOIS])
        msrs = [Row("cpu", "msr", *counted) for counted in self.msrs.counts()]
        return [Row("cpu", "cpu", "HLT", "read", self.vcpu.halts), eois, *msrs]

    def close(self) -> None:
        """Stop the data planes, flush and close the disks, free the CPU. Harmless when repeated."""
        if self._closed:
            return
        self._closed = True
        for close in self.on_close:
            close()
        self.vcpu.close()
        self.memory.close()


@contextlib.contextmanager
def _short_switches() -> Iterator[None]:
    """An exit that meets a busy thread waits this long for the GIL; the default is 5 ms."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@contextlib.contextmanager
def _one_core(wanted: bool) -> Iterator[None]:
    """Keep the calling thread, and those it starts meanwhile, on the core where it is now.

    A data plane's thread and the CPU mostly take turns. Waking an idle core costs 20 to 30 us, one that is
    awake 3 to 5; and both hold the GIL in turns anyway. Measured with 4 KiB reads: 50,000 a second instead of
    15,000 at depth 1, 300,000 instead of 110,000 to 330,000 at depth 32.
    """
    allowed = os.sched_getaffinity(0)
    if not wanted or len(allowed) < 2:
        yield
        return
    core = ctypes.CDLL(None).sched_getcpu()
    os.sched_setaffinity(0, {core if core in allowed else min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def _no_serial(_data: bytes) -> None:
    """No serial port."""


def _no_keyboard(_text: str) -> None:
    """No keyboard."""


def _no_post(_code: int) -> None:
    """Nobody watches port 0x80."""


def _silence(_line: str) -> None:
    """The guest has ended its machine."""


def _no_room() -> int:
    return 1


def _no_boot() -> StartState:
    return RESET_VECTOR
