"""What CPUID shows: only what the engine and the board really do. Source: Intel SDM volume 2A, CPUID.

SMAP is hidden (a Linux kernel hangs with it on this engine), ERMS too (REP MOVSB is a byte loop here), BMI2
(SHLX is #UD here while CR4.OSFXSR is 0, as it is when a kernel unpacks itself), and
XSAVE, AVX, MONITOR and 1 GiB pages, which the engine does not have.
"""

from collections.abc import Callable
from typing import Final

from emu.cpu.mtrr import PHYSICAL_BITS

Regs = tuple[int, int, int, int]
"""EAX, EBX, ECX, EDX."""

SIGNATURE: Final = 0x306C4
MAX_BASIC, MAX_EXTENDED = 0x16, 0x80000008

_SSE3, _SSSE3, _CX16, _SSE41, _SSE42 = 1 << 0, 1 << 9, 1 << 13, 1 << 19, 1 << 20
_X2APIC, _TSC_DEADLINE = 1 << 21, 1 << 24
_MOVBE, _POPCNT, _AES, _RDRAND, _HYPERVISOR = 1 << 22, 1 << 23, 1 << 25, 1 << 30, 1 << 31
_LEAF1_ECX = (
    _SSE3 | _SSSE3 | _CX16 | _SSE41 | _SSE42 | _X2APIC | _MOVBE | _POPCNT | _TSC_DEADLINE | _AES | _RDRAND
    | _HYPERVISOR
)  # fmt: skip
_FPU, _DE, _PSE, _TSC, _MSR, _PAE, _MCE, _CX8, _APIC = (1 << i for i in (0, 2, 3, 4, 5, 6, 7, 8, 9))
_SEP, _MTRR, _PGE, _MCA, _CMOV, _PAT, _CLFSH, _MMX, _FXSR, _SSE, _SSE2 = (
    1 << i for i in (11, 12, 13, 14, 15, 16, 19, 23, 24, 25, 26)
)
_LEAF1_EDX = (
    _FPU | _DE | _PSE | _TSC | _MSR | _PAE | _MCE | _CX8 | _APIC | _SEP | _MTRR | _PGE
    | _MCA | _CMOV | _PAT | _CLFSH | _MMX | _FXSR | _SSE | _SSE2
)  # fmt: skip
_TSC_ADJUST, _BMI1, _SMEP = 1 << 1, 1 << 3, 1 << 7
_ARCH_CAPABILITIES = 1 << 29  # leaf 7, EDX
_SYSCALL, _NX, _RDTSCP, _LM = 1 << 11, 1 << 20, 1 << 27, 1 << 29
_LAHF_LM = 1 << 0
_INVARIANT_TSC = 1 << 8
_BRAND: Final = b"emu x86-64 virtual CPU".ljust(48, b"\0")
_LEGACY_EDX: Final = (
    _FPU | _DE | _PSE | _TSC | _MSR | _PAE | _CX8 | _APIC | _MTRR | _PGE | _CMOV | _PAT | _MMX | _FXSR
)


TOPOLOGY: Final[tuple[Regs, ...]] = ((0, 1, 0x100, 0), (0, 1, 0x201, 0))
"""Leaf 0xB: one thread a core, one core; x2APIC ID 0."""


def always() -> bool:
    """The local APIC is on."""
    return True


def build(tsc_hz: Callable[[], int], apic_on: Callable[[], bool] = always) -> Callable[[int, int], Regs]:
    """A function (leaf, subleaf) -> registers. `tsc_hz` is asked when leaf 0x15 or 0x16 is, and `apic_on`
    (IA32_APIC_BASE bit 11) for the feature bit that follows it.
    """
    ebx, ecx, edx = (int.from_bytes(part, "little") for part in (b"Genu", b"ntel", b"ineI"))
    fixed: dict[int, Regs] = {
        0x0: (MAX_BASIC, ebx, ecx, edx),
        0x1: (SIGNATURE, 0x00010800, _LEAF1_ECX, _LEAF1_EDX),
        0x2: (0x00000001, 0, 0, 0),
        0x80000000: (MAX_EXTENDED, 0, 0, 0),
        0x80000001: (SIGNATURE, 0, _LAHF_LM, _LEGACY_EDX | _SYSCALL | _NX | _RDTSCP | _LM),
        0x80000006: (0, 0, 0x02008040, 0),
        0x80000007: (0, 0, 0, _INVARIANT_TSC),
        0x80000008: (0x3000 | PHYSICAL_BITS, 0, 0, 0),
    }
    for i in range(3):
        part = _BRAND[16 * i : 16 * i + 16]
        words = tuple(int.from_bytes(part[j : j + 4], "little") for j in (0, 4, 8, 12))
        fixed[0x80000002 + i] = (words[0], words[1], words[2], words[3])
    nothing: Regs = (0, 0, 0, 0)

    def cpuid(leaf: int, subleaf: int) -> Regs:
        found = fixed.get(leaf)
        if found is not None:
            if leaf & 0xFFFF == 1 and not apic_on():
                return (*found[:3], found[3] & ~_APIC)
            return found
        if leaf == 0x7:
            if subleaf:
                return nothing
            return (0, _TSC_ADJUST | _BMI1 | _SMEP, 0, _ARCH_CAPABILITIES)
        if leaf == 0xB:
            return TOPOLOGY[subleaf] if subleaf < len(TOPOLOGY) else (0, 0, subleaf & 0xFF, 0)
        if leaf == 0x15:
            return (1, 1, tsc_hz() & 0xFFFF_FFFF, 0)
        if leaf == 0x16:
            mhz = round(tsc_hz() / 1e6)
            return (mhz, mhz, 100, 0)
        # a leaf past the last basic one shows the last basic one's data (Intel's rule)
        if MAX_BASIC < leaf < 0x40000000:
            return cpuid(MAX_BASIC, subleaf)
        return nothing

    return cpuid
