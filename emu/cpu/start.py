"""How a CPU starts: its whole state, and the first two instructions that a new engine runs."""

import ctypes as C
from typing import Final

from emu.cpu.engine import Engine
from emu.cpu.layout import (
    CS,
    ENV_GDT,
    ENV_IDT,
    ENV_LDT,
    ENV_TR,
    HF2_GIF,
    HF_GUEST,
    REG_NAMES,
    CpuState,
)
from emu.cpu.state import StartState

_CODE16, _DATA16 = 0x9B00, 0x9300
_CODE32, _DATA32 = 0xCF9B00, 0xCF9300
_CODE64: Final = 0xAF9B00
_HFLAGS: Final = {"real": 0x40, "protected32": 0xB0, "long64": 0x40C0B0}
"""CS32, SS32, ADDSEG, PE, LMA, CS64, OSFXSR of the engine's own flag word."""
_CR0: Final = {"real": 0x60000010, "protected32": 0x11, "long64": 0x80000031}
_CR4: Final = {"real": 0, "protected32": 0, "long64": 0x620}
_EFER: Final = {"real": 0, "protected32": 0, "long64": 0xD01}

PROBE_AT: Final = 0x1000
"""The second page of RAM."""
PROBE: Final = bytes.fromhex("66b8efcdab89 f4")
"""mov eax, 0x89abcdef; hlt."""
PROBE_RAX: Final = 0x89ABCDEF


def enter(cpu: CpuState, start: StartState) -> None:
    """Put the CPU into `start`, all else as after INIT; the TLB is left to the caller."""
    mode = start.mode
    code, data = {"real": (_CODE16, _DATA16), "protected32": (_CODE32, _DATA32)}.get(mode, (_CODE64, _DATA32))
    limit = 0xFFFF if mode == "real" else 0xFFFF_FFFF
    code_selector, data_selector = (start.cs, 0) if mode == "real" else start.selectors
    for i in range(6):
        cpu.set_segment(i, (data_selector, 0, limit, data))
    cpu.set_segment(CS, (code_selector, start.code_base, limit, code))
    cpu.set_segment_at(ENV_TR, (0, 0, 0xFFFF, 0x8B00))
    cpu.set_segment_at(ENV_LDT, (0, 0, 0xFFFF, 0x8200))
    cpu.set_segment_at(ENV_GDT, (0, start.gdt, start.selectors[1] + 7 if start.gdt else 0xFFFF, 0))
    cpu.set_segment_at(ENV_IDT, (0, 0, 0x3FF if mode == "real" else 0, 0))
    cpu.cr[0], cpu.cr[2], cpu.cr[3], cpu.cr[4] = _CR0[mode], 0, start.cr3, _CR4[mode]
    cpu.efer.value = _EFER[mode]
    cpu.hflags.value, cpu.hflags2.value = _HFLAGS[mode] | HF_GUEST, HF2_GIF
    cpu.set_rflags(2)
    cpu.old_exception.value, cpu.is_int.value = -1, 0
    for i, name in enumerate(REG_NAMES):
        cpu.regs[i] = start.registers.get(name, start.registers.get("e" + name[1:], 0))
    cpu.rip.value = start.rip


def probe(engine: Engine, ram: int) -> None:
    """Run PROBE at PROBE_AT in real mode; `ram` is where guest-physical 0 is in this process.

    The bytes of the RAM are put back; the engine's CPU and what it has translated are left as they are.
    """
    place = (C.c_char * len(PROBE)).from_address(ram + PROBE_AT)
    saved, place.raw = place.raw, PROBE
    engine.start_at(StartState("real", PROBE_AT))
    engine.execute()
    place.raw = saved
