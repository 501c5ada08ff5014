"""What the vCPU asks of an engine, and what an engine is given: the seam between fast and public engines."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol

from emu.cpu.state import StartState

PortRead = Callable[[int, int, int, int], int]
"""(engine, port, width, user) -> value. `engine` and `user` mean nothing, and `user` may be left out."""
PortWrite = Callable[[int, int, int, int, int], None]
"""(engine, port, width, value, user). As above."""


class MmioArea(NamedTuple):
    """`size` bytes of guest-physical space from `base` on that are not RAM; offsets count from `base`."""

    base: int
    size: int
    read: PortRead
    write: PortWrite


class RamBlock(NamedTuple):
    """`size` bytes of RAM at guest-physical `gpa`, at `address` of this process.

    Stores to a block that is not `writable` are dropped. Pieces between addresses in `cuts` can be closed
    and opened by themselves (`Engine.protect`).
    """

    gpa: int
    size: int
    address: int
    writable: bool = True
    cuts: tuple[int, ...] = ()

    def pieces(self) -> list[tuple[int, int, int]]:
        """(gpa, size, address) of what lies between the cuts."""
        end = self.gpa + self.size
        edges = [self.gpa, *(cut for cut in self.cuts if self.gpa < cut < end), end]
        return [(start, stop - start, self.address + start - self.gpa) for start, stop in pairwise(edges)]

    def closable(self) -> tuple[int, int] | None:
        """First and last byte of what may drop stores."""
        if not self.writable:
            return self.gpa, self.gpa + self.size - 1
        return (self.cuts[0], self.cuts[-1] - 1) if self.cuts else None


class EngineHooks(NamedTuple):
    """What runs on the vCPU thread when the guest leaves its own code.

    `acknowledge`: an interrupt may be delivered now: its vector, or -1. `cpuid(leaf, subleaf)`. `read_msr`
    gives None and `write_msr` False for #GP. `read_tpr`, `write_tpr`: CR8. `triple_fault`: the CPU has shut
    down. `fail`: an exception of ours that must not unwind through the engine. `apic`: the address of the
    local APIC's `InterruptBlock`, for INTA cycles without Python, and `apic_eoi` that of its EOI register,
    for ends of interrupt without Python; 0 for none. `foreign_writes`: other processes write RAM and do
    not say where.
    """

    port_read: PortRead
    port_write: PortWrite
    areas: Sequence[MmioArea]
    acknowledge: Callable[[], int]
    cpuid: Callable[[int, int], tuple[int, int, int, int]]
    read_msr: Callable[[int], int | None]
    write_msr: Callable[[int, int], bool]
    read_tpr: Callable[[], int]
    write_tpr: Callable[[int], None]
    triple_fault: Callable[[], None]
    fail: Callable[[BaseException], None]
    apic: int = 0
    apic_eoi: int = 0
    foreign_writes: bool = False


class Signals(Protocol):
    """What timers and other threads tell the vCPU thread.

    `alarm` 1: a deadline has passed, or a thread wants attention. `waiting` 1: the vCPU thread waits in
    `Deadline.wait`.
    """

    alarm: int
    waiting: int


class Deadline(Protocol):
    """One deadline for the vCPU thread."""

    writes_event: bool
    """Where the CPU waits when it is due, the wake-up eventfd is written: who reads that needs no `wait`."""

    def arm(self, deadline_ns: int) -> None:
        """Set `Signals.alarm` once the host's monotonic clock reaches `deadline_ns`."""

    def disarm(self) -> None:
        """No deadline."""

    def insist(self) -> None:
        """Set it at once, and again until the next `arm` or `disarm`; from any thread."""

    def now(self) -> int:
        """Have an INTA cycle run soon; from any thread. Returns how many system calls that took."""

    def wait(self) -> None:
        """Sleep until the wake-up eventfd is written or the deadline passes."""

    def close(self) -> None:
        """No more signals."""


class Ioeventfds(Protocol):
    """Stores to guest-physical addresses that only signal an eventfd."""

    def add(self, gpa: int, fd: int) -> bool:
        """Let stores at `gpa` end at eventfd `fd`; False where there is no room."""

    def remove(self, gpa: int) -> int:
        """Take one away; returns how often it rang."""

    def count(self, gpa: int) -> int:
        """How often the bell at `gpa` rang."""


class Engine(Protocol):
    """One CPU that executes guest instructions. Owned by the vCPU thread but for `stop`."""

    name: str

    @property
    def signals(self) -> Signals:
        """The flags that `make_deadline`'s object and other threads set."""

    @property
    def interrupts(self) -> int:
        """Interrupts delivered so far."""

    def make_deadline(self) -> Deadline:
        """The deadline of the calling thread, which becomes the vCPU's."""

    def start_at(self, state: StartState) -> None:
        """Put the CPU into `state`."""

    def execute(self) -> None:
        """Run until HLT, a stop, or a shutdown. Raises EngineError where the engine gives up."""

    def stop(self) -> None:
        """Leave `execute` soon; from any thread. May be lost just before `execute`: repeat it."""

    def request_interrupt(self) -> None:
        """Call `acknowledge` as soon as the guest allows interrupts; vCPU thread."""

    def raise_nmi(self) -> None:
        """Make NMI pending; vCPU thread."""

    @property
    def nmi_pending(self) -> bool:
        """NMI is waiting."""

    @property
    def halted(self) -> bool:
        """`execute` ended at a HLT."""

    @property
    def interrupts_enabled(self) -> bool:
        """RFLAGS.IF."""

    def holds_code(self, gpa: int, length: int) -> bool:
        """The range may hold translated code; any thread."""

    def make_written(self, stale: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """What hears of each write to RAM by a device; calls `stale` where translated code may be hit."""

    def forget_code(self, gpa: int, length: int) -> None:
        """Drop what was translated from the range; the vCPU stands still or this is its thread."""

    def foreign_wrote(self) -> None:
        """Another process has written RAM, who knows where; the guest is about to hear of it. Any thread."""

    def watch_rings(self, used_idx: Sequence[int]) -> None:
        """The guest hears of it by these used indexes (guest addresses), else by interrupts. vCPU thread."""

    def rip(self) -> int:
        """The address of the current instruction: between runs, and exact inside a port hook."""

    def mmio_rip(self) -> int:
        """The same inside an MMIO callback."""

    def doorbells_of(self, gpa: int) -> Ioeventfds | None:
        """The ioeventfds of the area that `gpa` lies in."""

    def registers(self) -> dict[str, int]:
        """General and control registers by name, for reports."""

    def read_virtual(self, address: int, length: int) -> bytes | None:
        """Guest memory through the current page tables, or None where not mapped."""

    def protect(self, gpa: int, size: int, writable: bool) -> None:
        """Whether stores to a piece of RAM are carried out or dropped; vCPU thread, in a hook too."""

    def host_tsc(self) -> int:
        """The counter that RDTSC is made of."""

    def set_tsc_offset(self, offset: int) -> None:
        """RDTSC shows the host's counter plus `offset` (mod 2**64)."""

    def close(self) -> None:
        """Free the engine."""
