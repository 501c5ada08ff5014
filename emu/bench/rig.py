"""What the measurements run on: an engine without a machine, and a machine without a kernel."""

import ctypes as C
import struct
import sys
from collections.abc import Sequence
from typing import Final

from emu.boards.pc import PcBoard
from emu.bus.memory import GuestMemory
from emu.config import MachineConfig
from emu.cpu import library as uc
from emu.cpu.engine import EngineHooks, MmioArea, PortRead, PortWrite, RamBlock
from emu.cpu.fast import FastEngine
from emu.cpu.layout import Fields
from emu.cpu.library import DOCUMENTED, LIB, LIB_HELD, P
from emu.cpu.native.load import MachineRecord, install, remove
from emu.cpu.state import StartState
from emu.machine import SWITCH_INTERVAL_S, Machine

RAM_BYTES: Final = 16 << 20
CODE: Final = 0x2000
PAGE: Final = 4096
_PML4, _PDPT, _PD = 0x10000, 0x11000, 0x12000
_PRESENT_WRITABLE, _LARGE = 0x3, 0x80
_UNTIL_HLT: Final = 0xFFFF_FFFF_FFFF_F000


class RawEngine(FastEngine):
    """The engine with callbacks as unicorn.h declares them."""

    prototypes = DOCUMENTED


class Bench:
    """An engine whose exits end in the given functions; 32-bit code at CODE, nothing else."""

    def __init__(
        self,
        port_read: PortRead,
        port_write: PortWrite,
        areas: Sequence[MmioArea],
        engine: type[FastEngine] = FastEngine,
    ) -> None:
        self._memory = GuestMemory(RAM_BYTES)
        self._failures: list[BaseException] = []
        hooks = EngineHooks(
            port_read=port_read,
            port_write=port_write,
            areas=areas,
            acknowledge=lambda: -1,
            cpuid=lambda _leaf, _subleaf: (0, 0, 0, 0),
            read_msr=lambda _index: None,
            write_msr=lambda _index, _value: False,
            read_tpr=lambda: 0,
            write_tpr=lambda _value: None,
            triple_fault=lambda: None,
            fail=self._failures.append,
        )
        self._engine = engine([RamBlock(0, RAM_BYTES, _address(self._memory))], hooks, 0)

    def load(self, code: bytes, registers: dict[str, int]) -> None:
        """Take `code`, which ends with HLT."""
        self._memory.view(CODE, len(code))[:] = code
        self._engine.forget_code(CODE, len(code))
        self._start = StartState("protected32", CODE, registers)

    def run(self) -> None:
        """Run it once. Raises what a callback raised."""
        self._engine.start_at(self._start)
        self._engine.execute()
        if self._failures:
            raise self._failures[0]

    def close(self) -> None:
        """Free engine and memory."""
        self._engine.close()
        self._memory.close()


class BareUnicorn:
    """Unicorn as `uc_open` gives it, in 64-bit mode: no hook, no intercept, no device, no paging.

    It has two settings of ours, without which it would be another engine: `no_exit_request` and the cure of
    stores to executable pages.
    """

    def __init__(self) -> None:
        self._memory = GuestMemory(RAM_BYTES)
        self._handle = uc.open_x86()
        uc.map_memory(self._handle, 0, RAM_BYTES, uc.UC_PROT_ALL, _address(self._memory))
        fields = Fields(self._handle)
        fields.no_exit_request.value = 1
        pages = RAM_BYTES // PAGE
        self._has_code = (C.c_uint8 * pages)()
        self._record = MachineRecord(
            0, self._handle, fields.cpu, C.addressof(self._has_code), pages, 0, 0, 0, 0, 1
        )
        install(self._record)

    def load(self, code: bytes) -> None:
        """Take `code`, which ends with HLT and has not run here before."""
        self._memory.view(CODE, len(code))[:] = code
        uc.check(LIB_HELD.uc_ctl(P(self._handle), uc.UC_CTL_FLUSH_TB), "a flush")

    def run(self) -> None:
        """Run it once. Raises EngineError."""
        uc.check(LIB.uc_emu_start(self._handle, CODE, _UNTIL_HLT, 0, 0), "to run")

    def close(self) -> None:
        """Free engine and memory."""
        remove(self._record)
        LIB_HELD.uc_close(P(self._handle))
        self._memory.close()


class WholeMachine:
    """The board `pc` with all its chips, in 64-bit mode with paging, and code where a kernel would be."""

    def __init__(self) -> None:
        self.machine = Machine(RAM_BYTES, lambda _line: None)
        self.board = PcBoard(self.machine, MachineConfig(ram_bytes=RAM_BYTES), lambda _data: None)

    def power_on(self) -> None:
        """Make the CPU; windows are mapped before."""
        self.machine.power_on(self.board.lapic)
        self.board.lapic.bind_thread()
        self.board.lapic.virtual_wire()
        for chip in (self.board.pic.primary, self.board.pic.secondary):
            chip.write(1, 1, 0xFF)  # the timer ticks, and nobody has a handler for it
        self._map_low_memory()

    def _map_low_memory(self) -> None:
        memory = self.machine.memory
        struct.pack_into("<Q", memory.view(_PML4, 8), 0, _PDPT | _PRESENT_WRITABLE)
        struct.pack_into("<Q", memory.view(_PDPT, 8), 0, _PD | _PRESENT_WRITABLE)
        for i in range(RAM_BYTES >> 21):
            struct.pack_into("<Q", memory.view(_PD + 8 * i, 8), 0, i << 21 | _PRESENT_WRITABLE | _LARGE)

    def load(self, code: bytes) -> None:
        """Take `code`, which ends with HLT and interrupts off."""
        self.machine.memory.view(CODE, len(code))[:] = code
        self.machine.engine.forget_code(CODE, len(code))

    def run(self, start: StartState | None = None) -> None:
        """Run it once. Raises what a chip raised."""
        before = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_INTERVAL_S)  # as Machine.run, which ends the machine for good
        try:
            self.machine.engine.start_at(start or StartState("long64", CODE, cr3=_PML4))
            self.machine.vcpu.run()
        finally:
            sys.setswitchinterval(before)

    def close(self) -> None:
        """Free it all."""
        self.machine.on_close.append(lambda: None)
        self.machine.close()


def _address(memory: GuestMemory) -> int:
    return C.addressof(C.c_char.from_buffer(memory.map))
