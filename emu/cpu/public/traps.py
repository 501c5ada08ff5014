"""What leaves translated code between two blocks: exceptions, interrupts, and instructions done in Python.

Sources: Intel SDM volume 2 (SYSCALL, SYSENTER, RDTSC), AMD APM volume 2, chapter 15 (SVM exits).
"""

import time
from collections.abc import Callable
from typing import Final

from emu.cpu.control_block import EXIT, EXIT_HLT
from emu.cpu.engine import EngineHooks
from emu.cpu.intercepted import Intercepted, make_cpuid
from emu.cpu.layout import CS, EFLAGS_IF, HF_INHIBIT, RAX, RCX, RDX, RSP, VM
from emu.cpu.msr import MASK64
from emu.cpu.public.context import Context
from emu.cpu.public.events import GP, UD, Events
from emu.cpu.public.paging import Paging

_R11: Final = 11
_RF, _SCE = 1 << 16, 1
_ONE_BYTE: Final = {1: b"\xf1", 3: b"\xcc", 4: b"\xce"}
"""INT1, INT3, INTO: vector to opcode."""


class Traps:
    """Each method takes the CPU's state, changes it and puts it back; vCPU thread.

    `halt` is called for HLT.
    """

    def __init__(
        self,
        context: Context,
        paging: Paging,
        events: Events,
        hooks: EngineHooks,
        halt: Callable[[], None],
    ) -> None:
        self._context, self._cpu, self._paging, self._events = context, context.state, paging, events
        self._triple_fault, self._halt = hooks.triple_fault, halt
        self._intercepted = Intercepted(context.state, hooks, paging.code)
        self._cpuid = make_cpuid(context.state, hooks)
        self.tsc_offset = 0

    # ---- from between two instructions -------------------------------------------------------------

    def interrupt(self, vector: int) -> None:
        """An interrupt or NMI."""
        self._context.load()
        if not self._events.interrupt(vector):
            self._triple_fault()
        self._context.store()

    def fault(self, vector: int, rip: int | None = None) -> None:
        """A fault with error code 0, if it has one, of the instruction at `rip`; None: the current one."""
        self._context.load()
        if rip is not None:
            self._cpu.rip.value = rip
        self._raise(vector, 0)
        self._context.store()

    # ---- hooks -------------------------------------------------------------------------------------

    def event(self, number: int) -> None:
        """An exception, INT n or an SVM exit."""
        cpu = self._cpu
        self._context.load()
        is_int, cpu.is_int.value = cpu.is_int.value, 0
        cpu.old_exception.value = -1
        if number >= EXIT:
            self._svm_exit(number)
        elif is_int:
            after = cpu.rip.value = cpu.next_rip.value
            if not self._events.software(number, after - self._int_length(number, after)):
                self._triple_fault()
        else:
            self._raise(number, cpu.error_code.value)
        self._context.store()

    def invalid(self) -> None:
        """An instruction that the engine does not know."""
        self.event(UD)

    def cpuid(self) -> None:
        """CPUID."""
        self._context.load()
        self._cpuid(0, 0)
        self._context.store()

    def rdtsc(self) -> None:
        """RDTSC."""
        self._context.load()
        self._read_tsc()
        self._context.store()

    def rdtscp(self) -> None:
        """RDTSCP."""
        self._context.load()
        self._read_tsc()
        self._cpu.regs[RCX] = self._cpu.tsc_aux.value & 0xFFFF_FFFF
        self._context.store()

    def syscall(self) -> None:
        """SYSCALL; the engine adds 2 to RIP after this."""
        cpu = self._cpu
        self._context.load()
        if not cpu.efer.value & _SCE or not cpu.is_code64:
            self._raise(UD, 0)
        else:
            flags = self._context.rflags()
            cpu.regs[RCX], cpu.regs[_R11] = cpu.rip.value + 2, flags & ~_RF
            cpu.set_rflags(flags & ~(cpu.fmask.value | _RF) & 0xFFFF_FFFF)
            self._events.enter_flat(cpu.star.value >> 32 & 0xFFFF, code64=True)
            cpu.rip.value = cpu.lstar.value
        cpu.rip.value -= 2
        self._context.store()

    def sysenter(self) -> None:
        """SYSENTER; the engine adds 2 to RIP after this."""
        cpu = self._cpu
        self._context.load()
        selector = cpu.sysenter_cs.value & 0xFFFF
        if not selector & 0xFFFC:
            self._raise(GP, 0)
        else:
            cpu.set_rflags(self._context.rflags() & ~(EFLAGS_IF | _RF | VM))
            self._events.enter_flat(selector, code64=cpu.is_long)
            cpu.regs[RSP], cpu.rip.value = cpu.sysenter_esp.value, cpu.sysenter_eip.value
        cpu.rip.value -= 2
        self._context.store()

    # ---- with the state at hand --------------------------------------------------------------------

    def _raise(self, vector: int, error: int) -> None:
        if not self._events.exception(vector, error):
            self._triple_fault()

    def _read_tsc(self) -> None:
        value = time.monotonic_ns() + self.tsc_offset
        self._cpu.regs[RAX], self._cpu.regs[RDX] = value & 0xFFFF_FFFF, value >> 32 & 0xFFFF_FFFF

    def _int_length(self, vector: int, after: int) -> int:
        """Bytes of the INT that ends at `after`."""
        opcode = _ONE_BYTE.get(vector)
        if opcode is None:
            return 2
        return 1 if self._paging.mapped(self._cpu.segment(CS)[1] + after - 1 & MASK64, 1) == opcode else 2

    def _svm_exit(self, number: int) -> None:
        length = self._intercepted.svm_exit(number)
        if length is None:
            self._raise(GP, 0)
            return
        if number == EXIT_HLT:
            self._halt()
        self._cpu.hflags.value &= ~HF_INHIBIT
        self._cpu.rip.value += length
