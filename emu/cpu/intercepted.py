"""The instructions that every engine leaves to Python: HLT, RDMSR, WRMSR, MOV to and from CR8, CPUID.

Source: Intel SDM volume 2. Who calls has the CPU's state at hand and moves RIP.
"""

from collections.abc import Callable
from typing import Final

from emu.cpu.control_block import EXIT_CR8_READ, EXIT_CR8_WRITE, EXIT_HLT, EXIT_MSR
from emu.cpu.engine import EngineHooks
from emu.cpu.layout import RAX, RBX, RCX, RDX, CpuState
from emu.errors import EngineError

LONGEST: Final = 15
"""Bytes of an instruction."""
PREFIXES: Final = bytes(
    (*range(0x40, 0x50), 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3)
)
"""What may stand before an opcode: 2.1.1, 2.2.1. Outside of 64-bit mode 40 to 4F are no REX but instructions,
which no engine leaves to us."""


def prefixes(code: bytes) -> tuple[int, int]:
    """How many prefix bytes an instruction begins with, and its REX, which is the last of them, or 0."""
    length = len(code) - len(code.lstrip(PREFIXES))
    rex = code[length - 1] if length else 0
    return length, rex if rex & 0xF0 == 0x40 else 0


def make_cpuid(cpu: CpuState, hooks: EngineHooks) -> Callable[[int, int], int]:
    """CPUID as a hook of the engine; it never raises."""
    regs, cpuid, fail = cpu.regs, hooks.cpuid, hooks.fail

    def hook(_engine: int, _user: int) -> int:
        try:
            regs[RAX], regs[RBX], regs[RCX], regs[RDX] = cpuid(
                regs[RAX] & 0xFFFF_FFFF, regs[RCX] & 0xFFFF_FFFF
            )
        except BaseException as error:  # ours: never unwind into the engine
            fail(error)
        return 1

    return hook


class Intercepted:
    """Carries out SVM exits on `cpu` by what `hooks` answer; vCPU thread.

    `fetch` gives LONGEST bytes from the current instruction on, fewer where they end.
    """

    def __init__(self, cpu: CpuState, hooks: EngineHooks, fetch: Callable[[], bytes]) -> None:
        self._cpu, self._regs, self._hooks, self._fetch = cpu, cpu.regs, hooks, fetch

    def svm_exit(self, number: int) -> int | None:
        """What an SVM exit asks for: the instruction's length, or None for #GP. Raises EngineError."""
        if number == EXIT_MSR:
            return self._two_bytes()[0] + 2 if self._msr() else None
        if number in (EXIT_CR8_READ, EXIT_CR8_WRITE):
            return self._mov_cr8(is_write=number == EXIT_CR8_WRITE)
        if number == EXIT_HLT:
            return prefixes(self._fetch())[0] + 1
        raise EngineError(f"the engine left with an unknown code {number:#x}")

    def _two_bytes(self) -> tuple[int, int, bytes]:
        """Prefix bytes and REX before the 0F of the current instruction; all of its bytes."""
        code = self._fetch()
        length, rex = prefixes(code)
        if not code.startswith(b"\x0f", length):
            raise EngineError(f"no instruction of two bytes at {self._cpu.rip.value:#x}")
        return length, rex, code

    def _msr(self) -> bool:
        regs = self._regs
        index = regs[RCX] & 0xFFFF_FFFF
        if self._cpu.error_code.value:  # WRMSR
            value = (regs[RDX] & 0xFFFF_FFFF) << 32 | regs[RAX] & 0xFFFF_FFFF
            return self._hooks.write_msr(index, value)
        found = self._hooks.read_msr(index)
        if found is None:
            return False
        regs[RAX], regs[RDX] = found & 0xFFFF_FFFF, found >> 32
        return True

    def _mov_cr8(self, *, is_write: bool) -> int | None:
        """0F 20 and 0F 22, ModRM. CR8 is bits 7:4 of the task priority."""
        regs, (length, rex, code) = self._regs, self._two_bytes()
        if len(code) < length + 3:
            raise EngineError(f"CR8 access at {self._cpu.rip.value:#x} not understood")
        register = code[length + 2] & 7 | (rex & 1) << 3
        if not is_write:
            regs[register] = self._hooks.read_tpr() >> 4
        elif regs[register] > 0xF:
            return None
        else:
            self._hooks.write_tpr(regs[register] << 4)
        return length + 3
