"""Exceptions and interrupts delivered in Python, for the engine that has no native delivery.

Sources: Intel SDM volume 3A, chapter 6 (interrupts and exceptions), volume 1, 20.1.4 (real mode). Not here:
task gates (answered like a bad gate).
"""

import struct
from typing import Final

from emu.cpu.layout import (
    CR0_PE,
    CS,
    DESC_B,
    DESC_G,
    DESC_L,
    DS,
    ENV_GDT,
    ENV_IDT,
    ENV_LDT,
    ENV_TR,
    ES,
    FS,
    GS,
    HF2_NMI,
    HF_INHIBIT,
    HF_PE,
    RSP,
    SS,
    VM,
    Segment,
)
from emu.cpu.msr import MASK64
from emu.cpu.public.context import Context
from emu.cpu.public.paging import PF, CpuFault, Paging

DE, DB, NMI, UD, DF, TS, NP, SS_FAULT, GP = 0, 1, 2, 6, 8, 10, 11, 12, 13
_CONTRIBUTORY: Final = frozenset({DE, TS, NP, SS_FAULT, GP})
_WITH_ERROR: Final = frozenset({DF, TS, NP, SS_FAULT, GP, PF, 17, 21})
_IF, _TF, _NT, _RF, _AC = 0x200, 0x100, 0x4000, 0x1_0000, 0x4_0000
# descriptor, high dword
_PRESENT, _S, _CODE, _CONFORMING, _WRITABLE = 1 << 15, 1 << 12, 1 << 11, 1 << 10, 1 << 9
_INTERRUPT_16, _TRAP_16, _INTERRUPT, _TRAP = 0x6, 0x7, 0xE, 0xF
_FLAT_CODE64, _FLAT_CODE32, _FLAT_DATA = 0xAF9B00, 0xCF9B00, 0xCF9300


class Events:
    """Delivers events into a `Context` that the caller has loaded and stores afterwards."""

    def __init__(self, context: Context, paging: Paging) -> None:
        self._context, self._cpu, self._paging = context, context.state, paging

    # ---- what the engine calls ---------------------------------------------------------------------

    def exception(self, vector: int, error: int) -> bool:
        """Deliver a fault or trap, and what goes wrong on the way; False is a triple fault."""
        external = 0
        while True:
            try:
                self._deliver(vector, error if vector in _WITH_ERROR else None, ext=external)
            except CpuFault as fault:
                if vector == DF:
                    return False
                vector, error = _combine(vector, fault)
                external = 1
            else:
                return True

    def software(self, vector: int, at: int) -> bool:
        """INT n, INT3, INTO; RIP is the next instruction's, `at` the instruction's own."""
        try:
            self._deliver(vector, None, soft=True)
        except CpuFault as fault:
            self._cpu.rip.value = at
            return self.exception(fault.vector, fault.error)
        return True

    def interrupt(self, vector: int) -> bool:
        """An external interrupt or NMI."""
        cpu = self._cpu
        if vector == NMI:
            cpu.hflags2.value |= HF2_NMI
        try:
            self._deliver(vector, None, ext=1)
        except CpuFault as fault:
            return self.exception(fault.vector, fault.error)
        return True

    def enter_flat(self, selector: int, *, code64: bool) -> None:
        """SYSCALL and SYSENTER: flat CS and SS at CPL 0."""
        cpu = self._cpu
        code = _FLAT_CODE64 if code64 else _FLAT_CODE32
        cpu.set_segment(CS, (selector & 0xFFFC, 0, 0xFFFF_FFFF, code))
        cpu.set_segment(SS, ((selector & 0xFFFC) + 8, 0, 0xFFFF_FFFF, _FLAT_DATA))
        cpu.fix_flags(0)

    def may_use_port(self, port: int, width: int) -> bool:
        """IN and OUT by IOPL and the TSS's bitmap: SDM volume 1, 19.5."""
        cpu = self._cpu
        flags = cpu.eflags.value
        if not cpu.hflags.value & HF_PE or (cpu.cpl <= flags >> 12 & 3 and not flags & VM):
            return True
        try:
            if not cpu.segment_at(ENV_TR)[3] & 0x800:  # a 16-bit TSS has no bitmap
                return False
            bits = self._task_word(self._task_word(102, 2) + port // 8, 2)
        except CpuFault:
            return False
        return not bits >> port % 8 & (1 << width) - 1

    # ---- one delivery ------------------------------------------------------------------------------

    def _deliver(self, vector: int, error: int | None, *, soft: bool = False, ext: int = 0) -> None:
        cpu = self._cpu
        if not cpu.cr[0] & CR0_PE:
            self._real(vector)
        elif cpu.is_long:
            self._long(vector, error, soft=soft, ext=ext)
        else:
            self._protected(vector, error, soft=soft, ext=ext)
        cpu.hflags.value &= ~HF_INHIBIT

    def _real(self, vector: int) -> None:
        cpu = self._cpu
        base, limit = cpu.descriptor_table(ENV_IDT)
        if 4 * vector + 3 > limit:
            raise CpuFault(GP, 0)
        offset, selector = struct.unpack("<HH", self._paging.read(base + 4 * vector, 4))
        flags, (cs, *_), (_, ss_base, _, ss_flags) = (
            self._context.rflags(),
            cpu.segment(CS),
            cpu.segment(SS),
        )
        mask, sp = (0xFFFF_FFFF if ss_flags & DESC_B else 0xFFFF), cpu.regs[RSP]
        for word in (flags, cs, cpu.rip.value):
            sp = sp & ~mask | (sp - 2) & mask
            self._paging.write((ss_base + (sp & mask)) & 0xFFFF_FFFF, struct.pack("<H", word & 0xFFFF))
        cpu.regs[RSP] = sp
        _, _, limit, code = cpu.segment(CS)
        cpu.set_segment(CS, (selector, selector << 4, limit, code))
        cpu.rip.value = offset
        cpu.set_rflags(flags & ~(_IF | _TF | _RF | _AC))

    def _long(self, vector: int, error: int | None, *, soft: bool, ext: int) -> None:
        cpu, paging = self._cpu, self._paging
        bad = 8 * vector + 2 | ext
        base, limit = cpu.descriptor_table(ENV_IDT)
        if 16 * vector + 15 > limit:
            raise CpuFault(GP, bad)
        low, selector, kind, middle, high, _ = struct.unpack("<HHHHII", paging.read(base + 16 * vector, 16))
        if kind >> 8 & 0x1F not in (_INTERRUPT, _TRAP) or (soft and kind >> 13 & 3 < cpu.cpl):
            raise CpuFault(GP, bad)
        if not kind & _PRESENT:
            raise CpuFault(NP, bad)
        code, cpl = self._code_segment(selector, ext)
        if not code[3] & DESC_L or code[3] & DESC_B:
            raise CpuFault(GP, selector & 0xFFFC | ext)
        rsp, inner = cpu.regs[RSP], cpl < cpu.cpl
        if kind & 7:
            rsp = self._task_word(36 + 8 * ((kind & 7) - 1), 8)
        elif inner:
            rsp = self._task_word(4 + 8 * cpl, 8)
        if rsp >> 47 not in (0, 0x1_FFFF):
            raise CpuFault(SS_FAULT, ext)
        flags, ss, rip = self._context.rflags(), cpu.segment(SS)[0], cpu.rip.value
        words = [ss, cpu.regs[RSP], flags, cpu.segment(CS)[0], rip]
        words += [] if error is None else [error & 0xFFFF_FFFF]
        rsp = (rsp & -16) - 8 * len(words) & MASK64
        paging.write(rsp, struct.pack(f"<{len(words)}Q", *reversed(words)), user=cpl == 3)
        if inner:
            cpu.set_segment(SS, (cpl, 0, 0, cpl << 13 | _S | _WRITABLE | _PRESENT))
        cpu.regs[RSP], cpu.rip.value = rsp, low | middle << 16 | high << 32
        self._enter(code, cpl, flags, mask_interrupts=kind >> 8 & 0x1F == _INTERRUPT)

    def _protected(self, vector: int, error: int | None, *, soft: bool, ext: int) -> None:
        cpu, paging = self._cpu, self._paging
        bad = 8 * vector + 2 | ext
        base, limit = cpu.descriptor_table(ENV_IDT)
        if 8 * vector + 7 > limit:
            raise CpuFault(GP, bad)
        low, selector, kind, high = struct.unpack("<HHHH", paging.read(base + 8 * vector, 8))
        gate = kind >> 8 & 0x1F
        if gate not in (_INTERRUPT, _TRAP, _INTERRUPT_16, _TRAP_16) or (soft and kind >> 13 & 3 < cpu.cpl):
            raise CpuFault(GP, bad)
        if not kind & _PRESENT:
            raise CpuFault(NP, bad)
        code, cpl = self._code_segment(selector, ext)
        flags, v86 = self._context.rflags(), cpu.eflags.value & VM
        if v86 and cpl:
            raise CpuFault(GP, selector & 0xFFFC | ext)
        stack, esp = cpu.segment(SS), cpu.regs[RSP]
        words: list[int] = []
        if cpl < cpu.cpl:
            stack, esp = self._inner_stack(cpl, ext)
            if v86:
                words += [cpu.segment(index)[0] for index in (GS, FS, DS, ES)]
            words += [cpu.segment(SS)[0], cpu.regs[RSP]]
        words += [flags, cpu.segment(CS)[0], cpu.rip.value]
        words += [] if error is None else [error]
        esp = self._push(stack, esp, words, 4 if gate & 8 else 2, user=cpl == 3, ext=ext)
        if v86:
            for index in (GS, FS, DS, ES):
                cpu.set_segment(index, (0, 0, 0, 0))
        cpu.set_segment(SS, stack)
        cpu.regs[RSP] = esp
        cpu.rip.value = low | high << 16 if gate & 8 else low
        self._enter(code, cpl, flags, mask_interrupts=gate in (_INTERRUPT, _INTERRUPT_16))

    def _enter(self, code: Segment, cpl: int, flags: int, *, mask_interrupts: bool) -> None:
        """CS, RFLAGS and the privilege level of the handler."""
        cpu = self._cpu
        cpu.set_rflags(flags & ~(_TF | _NT | _RF | VM | (_IF if mask_interrupts else 0)))
        cpu.set_segment(CS, (code[0] & 0xFFFC | cpl, *code[1:]))
        cpu.fix_flags(cpl)

    def _push(self, stack: Segment, esp: int, words: list[int], size: int, *, user: bool, ext: int) -> int:
        _, base, limit, flags = stack
        mask = 0xFFFF_FFFF if flags & DESC_B else 0xFFFF
        for word in words:
            esp = esp & ~mask | (esp - size) & mask
            if not flags & _CONFORMING and (esp & mask) + size - 1 > limit:  # bit 10 is expand-down here
                raise CpuFault(SS_FAULT, ext)
            data = struct.pack("<Q", word & MASK64)[:size]
            self._paging.write(base + (esp & mask) & 0xFFFF_FFFF, data, user=user)
        return esp

    # ---- descriptors -------------------------------------------------------------------------------

    def _descriptor(self, selector: int, vector: int, ext: int) -> tuple[int, int]:
        """The two dwords that a selector means."""
        base, limit = self._cpu.descriptor_table(ENV_LDT if selector & 4 else ENV_GDT)
        if selector | 7 > limit:
            raise CpuFault(vector, selector & 0xFFFC | ext)
        low, high = struct.unpack("<II", self._paging.read(base + (selector & 0xFFF8), 8))
        return low, high

    def _code_segment(self, selector: int, ext: int) -> tuple[Segment, int]:
        """The handler's CS and its privilege level."""
        if not selector & 0xFFFC:
            raise CpuFault(GP, ext)
        low, high = self._descriptor(selector, GP, ext)
        dpl = high >> 13 & 3
        if not (high & _S and high & _CODE) or dpl > self._cpu.cpl:
            raise CpuFault(GP, selector & 0xFFFC | ext)
        if not high & _PRESENT:
            raise CpuFault(NP, selector & 0xFFFC | ext)
        return _segment(selector, low, high), self._cpu.cpl if high & _CONFORMING else dpl

    def _task_word(self, offset: int, size: int) -> int:
        base, limit = self._cpu.descriptor_table(ENV_TR)
        if offset + size - 1 > limit:
            raise CpuFault(TS, self._cpu.segment_at(ENV_TR)[0] & 0xFFFC)
        return int.from_bytes(self._paging.read(base + offset, size), "little")

    def _inner_stack(self, cpl: int, ext: int) -> tuple[Segment, int]:
        """SS and ESP of an inner level from the TSS."""
        wide = self._cpu.segment_at(ENV_TR)[3] & 0x800
        if wide:
            esp, selector = self._task_word(4 + 8 * cpl, 4), self._task_word(8 + 8 * cpl, 2)
        else:
            esp, selector = self._task_word(2 + 4 * cpl, 2), self._task_word(4 + 4 * cpl, 2)
        bad = selector & 0xFFFC | ext
        if not selector & 0xFFFC or selector & 3 != cpl:
            raise CpuFault(TS, bad)
        low, high = self._descriptor(selector, TS, ext)
        if high >> 13 & 3 != cpl or not high & _S or high & _CODE or not high & _WRITABLE:
            raise CpuFault(TS, bad)
        if not high & _PRESENT:
            raise CpuFault(SS_FAULT, bad)
        return _segment(selector, low, high), esp


def _segment(selector: int, low: int, high: int) -> Segment:
    limit = low & 0xFFFF | high & 0xF_0000
    limit = limit << 12 | 0xFFF if high & DESC_G else limit
    return selector, low >> 16 | (high & 0xFF) << 16 | high & 0xFF00_0000, limit, high


def _combine(first: int, second: CpuFault) -> tuple[int, int]:
    """Two exceptions in a row: SDM volume 3A, table 6-5."""
    both = first in _CONTRIBUTORY and second.vector in _CONTRIBUTORY
    if both or (first == PF and (second.vector in _CONTRIBUTORY or second.vector == PF)):
        return DF, 0
    return second.vector, second.error
