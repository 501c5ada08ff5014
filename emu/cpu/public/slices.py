"""Slices of guest instructions, and their early end from inside of a hook."""

import threading
from typing import Final

from emu.cpu import library as uc
from emu.cpu.layout import RCX, RDI, RSI
from emu.cpu.library import LIB, LIB_HELD
from emu.cpu.public.context import Context

_PLACE_REGISTERS: Final = (uc.UC_X86_REG_RIP, uc.UC_X86_REG_RCX, uc.UC_X86_REG_RSI, uc.UC_X86_REG_RDI)


class Slices:
    """Runs an engine by the count; the vCPU thread is the one that has called `own`."""

    def __init__(self, handle: int, context: Context) -> None:
        self._handle, self._context = handle, context
        self._thread = 0
        self._running = False
        self.between_blocks = False
        """A hook runs that is no part of an instruction: an end there leaves nothing half done."""
        self.ended_at: tuple[int, ...] | None = None
        """Where a device ended the last slice, in the middle of an instruction."""

    def own(self) -> None:
        """The calling thread runs the slices that follow."""
        self._thread = threading.get_ident()

    def run(self, count: int) -> int:
        """Execute `count` instructions, fewer after `end`; returns the engine's status."""
        self.ended_at, self._running = None, True
        status: int = LIB.uc_emu_start(self._handle, self._context.register(uc.UC_X86_REG_RIP), 0, 0, count)
        self._running = False
        return status

    def end(self) -> None:
        """In a hook: no more instructions than this one. Elsewhere the slice ends soon enough."""
        if self._running and threading.get_ident() == self._thread:
            if self.ended_at is None and not self.between_blocks:
                self.ended_at = tuple(self._context.register(number) for number in _PLACE_REGISTERS)
            LIB_HELD.uc_emu_stop(self._handle)

    def is_half_done(self) -> bool:
        """The instruction at `ended_at` begins anew: in the same round, if a repeated one.

        Loads the context.
        """
        self._context.load()
        cpu = self._context.state
        return self.ended_at == (cpu.rip.value, cpu.regs[RCX], cpu.regs[RSI], cpu.regs[RDI])
