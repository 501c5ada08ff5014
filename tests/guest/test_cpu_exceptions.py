"""Exceptions and INT n through the IDT: SDM volume 3A, chapter 6. The handlers halt; the frame is read."""

from collections.abc import Iterator

import pytest

from emu.cpu.vcpu import Stop
from emu.testing.cpu_lab import (
    CODE,
    DATA,
    ENGINES,
    GDT,
    HALT,
    IDT,
    IRETQ,
    IST1,
    NX,
    STACK,
    STACK0,
    TSS_SELECTOR,
    USER,
    USER_CODE,
    USER_DATA,
    CpuLab,
    EngineName,
    code,
    imm32,
    imm64,
    to_user,
    wrmsr,
)

DE, DB, BP, UD, NM, DF, TS, NP, SS, GP, PF = 0, 1, 3, 6, 7, 8, 10, 11, 12, 13, 14
HOLE = 1 << 32  # linear, not mapped
ENABLE_NX = wrmsr(0xC0000080, 0xD01)


pytestmark = pytest.mark.timeout(20)


@pytest.fixture(params=ENGINES)
def lab(request: pytest.FixtureRequest) -> Iterator[CpuLab]:
    engine: EngineName = request.param
    with CpuLab(engine) as made:
        yield made


CASES = {
    #                                    program                       vector error  RIP's offset
    "divide error": (code("31c9 f7f1 ; xor ecx, ecx; div ecx"), DE, None, 2),
    "single step": (code("9c 810c2400010000 9d 90 90 ; pushf; or [rsp], TF; popf; nop; nop"), DB, None, 10),
    "INT3": (code("90 cc"), BP, None, 2),
    "INT3 as INT n": (code("90 cd03"), BP, None, 3),
    "invalid opcode": (code("90 0f0b ; ud2"), UD, None, 1),
    "no FPU": (code("0f20c0 83c808 0f22c0 d9c0 ; cr0 |= TS; fld st0"), NM, None, 9),
    "segment not present": (code("66b81800 8ed8 ; mov ax, 0x18; mov ds, ax"), NP, 0x18, 4),
    "stack segment not present": (code("66b81800 8ed0 ; mov ax, 0x18; mov ss, ax"), SS, 0x18, 4),
    "selector past the GDT": (code("66b84800 8ed8 ; mov ax, 0x48; mov ds, ax"), GP, 0x48, 4),
    "unknown MSR read": (imm32("b9", 0x4B564D00) + code("0f32"), GP, 0, 5),
    "unknown MSR write": (imm32("b9", 0x4B564D00) + code("0f30"), GP, 0, 5),
    "CR8 above 15": (code("b810000000 440f22c0 ; mov cr8, rax"), GP, 0, 5),
    "page fault, read": (imm64("48bb", HOLE) + code("8b03 ; mov eax, [rbx]"), PF, 0, 10),
    "page fault, write": (imm64("48bb", HOLE) + code("8903 ; mov [rbx], eax"), PF, 2, 10),
    "page fault, fetch": (imm64("48bb", HOLE) + code("ffe3 ; jmp rbx"), PF, 0x10, None),
    "INT n, no such gate": (code("90 cd81"), NP, 0x81 * 8 + 2, 1),
}


@pytest.mark.parametrize("name", CASES)
def test_an_exception_leaves_vector_error_code_and_address(lab: CpuLab, name: str) -> None:
    program, vector, error, offset = CASES[name]
    lab.put(GDT + 0x18, bytes.fromhex("ffff 0000 00 13 cf 00"))  # writable data, not present
    lab.gate(0x81, HALT, present=False)
    assert lab.long64((ENABLE_NX if error == 0x10 else b"") + program + HALT) is Stop.HALTED
    assert lab.vector() == vector
    frame = lab.frame(error=error is not None)
    assert frame.error == error
    assert frame.rip == (HOLE if offset is None else CODE + offset)
    assert (frame.cs, frame.ss, frame.rsp) == (8, 0x10, STACK)
    if vector == PF:
        assert lab.reg("cr2") == HOLE


@pytest.mark.parametrize(
    ("program", "error"),
    [("8b03", 4), ("8903", 6), ("ffe3", 0x14)],
    ids=["read", "write", "fetch"],
)
def test_a_user_page_fault_has_the_user_bit_and_runs_on_rsp0(lab: CpuLab, program: str, error: int) -> None:
    lab.put(USER, imm64("48bb", HOLE) + code(program))
    lab.long64(ENABLE_NX + to_user())
    frame = lab.frame(error=True)
    assert (lab.vector(), frame.error, lab.reg("cr2")) == (PF, error, HOLE)
    assert (frame.cs, frame.ss, frame.rsp) == (USER_CODE, USER_DATA, 0x4000)
    assert lab.reg("rsp") == STACK0 - 48
    assert (lab.reg("cs"), lab.reg("ss") & ~3) == (8, 0)


def test_a_protection_fault_tells_present_from_absent(lab: CpuLab) -> None:
    lab.put(0xC000 + 8 * 8, (0x100_0000 - 0x20_0000 | 0x81).to_bytes(8, "little"))  # read-only, supervisor
    cr0_wp = code("0f20c0 0d00000100 0f22c0 ; cr0 |= WP")
    lab.long64(cr0_wp + imm32("bb", 0x100_0000) + code("8903"))
    assert (lab.vector(), lab.frame(error=True).error) == (PF, 3)


def test_an_nx_page_faults_on_fetch(lab: CpuLab) -> None:
    lab.put(0xC000 + 8, (0x20_0000 | 0x87 | NX).to_bytes(8, "little"))
    lab.long64(ENABLE_NX + imm32("bb", DATA) + code("ffe3"))
    assert (lab.vector(), lab.frame(error=True).error, lab.frame(error=True).rip) == (PF, 0x11, DATA)


def test_an_ist_gate_changes_the_stack_at_the_same_level(lab: CpuLab) -> None:
    lab.gate(UD, HALT, ist=1)
    lab.long64(code("0f0b"))
    assert (lab.vector(), lab.reg("rsp"), lab.frame(error=False).rsp) == (UD, IST1 - 40, STACK)


def test_an_ist_slot_past_the_tss_is_an_invalid_tss(lab: CpuLab) -> None:
    lab.gate(UD, HALT, ist=7)
    lab.start64(code("0f0b"))
    lab.put(GDT + TSS_SELECTOR, b"\x40\x00")  # the limit
    lab.vcpu.run()
    frame = lab.frame(error=True)
    assert (lab.vector(), (frame.error or 0) & ~1) == (TS, TSS_SELECTOR)


def test_the_stack_is_aligned_before_the_frame(lab: CpuLab) -> None:
    lab.long64(code("4883ec05 0f0b ; sub rsp, 5; ud2"))
    assert (lab.reg("rsp"), lab.frame(error=False).rsp) == (STACK - 16 - 40, STACK - 5)


def test_user_code_may_not_call_a_kernel_gate(lab: CpuLab) -> None:
    lab.put(USER, code("90 cd80"))
    lab.long64(to_user())
    frame = lab.frame(error=True)
    assert (lab.vector(), frame.error, frame.rip) == (GP, 0x80 * 8 + 2, USER + 1)


def test_user_code_may_call_a_user_gate_and_comes_back(lab: CpuLab) -> None:
    lab.gate(0x80, code("49ffc0") + IRETQ, dpl=3)  # inc r8; iretq
    lab.put(USER, code("cd80 cd80 0f0b"))
    lab.long64(to_user())
    assert (lab.vector(), lab.reg("r8"), lab.frame(error=False).rip) == (UD, 2, USER + 4)


@pytest.mark.parametrize(("trap", "kept"), [(False, 0), (True, 0x200)])
def test_an_interrupt_gate_clears_if_and_a_trap_gate_keeps_it(lab: CpuLab, trap: bool, kept: int) -> None:
    lab.gate(0x80, code("9c 4158 fa f4 ; pushf; pop r8; cli; hlt"), trap=trap)
    lab.long64(code("fb 90 cd80"))
    assert lab.reg("r8") & 0x200 == kept


def test_flags_survive_an_exception(lab: CpuLab) -> None:
    lab.gate(UD, code("4883042402") + IRETQ)  # add qword [rsp], 2
    lab.long64(
        code("f9 fd 31db 83eb01 0f0b 9c 4158 fc f4 ; stc; std; sub ebx, 1 borrows; ud2; pushf; pop r8")
    )
    assert lab.reg("r8") & 0xCD5 == 0x495  # DF, SF, AF, PF, CF


@pytest.mark.parametrize(("opcode", "length"), [("cc", 1), ("cd03", 2)])
def test_a_faulting_breakpoint_leaves_rip_on_it(lab: CpuLab, opcode: str, length: int) -> None:
    lab.gate(BP, HALT, present=False)
    lab.long64(code("90" + opcode))
    frame = lab.frame(error=True)
    assert (lab.vector(), frame.error, frame.rip) == (NP, BP * 8 + 2, CODE + 1)


@pytest.mark.parametrize(
    ("first", "absent", "vector"),
    [
        ("0f0b", UD, NP),  # benign, then contributory: the second one
        ("31c9f7f1", DE, DF),  # contributory twice
        ("48bb0000000001000000 8b03", PF, DF),  # page fault, then contributory
    ],
    ids=["benign", "contributory", "page fault"],
)
def test_a_fault_on_the_way_to_a_handler(lab: CpuLab, first: str, absent: int, vector: int) -> None:
    lab.gate(absent, HALT, present=False)
    lab.long64(code(first))
    frame = lab.frame(error=True)
    assert lab.vector() == vector
    assert (frame.error or 0) & ~1 == (0 if vector == DF else absent * 8 + 2)


def test_a_double_fault_that_cannot_be_delivered_ends_the_run(lab: CpuLab) -> None:
    for vector in (PF, NP, DF):
        lab.gate(vector, HALT, present=False)
    assert lab.long64(imm64("48bb", HOLE) + code("8b03")) is Stop.TRIPLE_FAULT


def test_after_a_triple_fault_the_next_start_is_clean(lab: CpuLab) -> None:
    lab.put(IDT, bytes(4096))
    assert lab.long64(code("cd80")) is Stop.TRIPLE_FAULT
    lab.gate(PF, HALT)
    assert lab.long64(imm64("48bb", HOLE) + code("8b03")) is Stop.HALTED
    assert lab.vector() == PF


def test_a_stack_overflow_is_a_double_fault_on_its_ist(lab: CpuLab) -> None:
    lab.gate(DF, HALT, ist=1)
    lab.long64(imm64("48bc", HOLE + 0x1000) + code("0f0b"))  # no stack for #UD, nor for its #PF
    assert (lab.vector(), lab.reg("rsp"), lab.frame(error=True).rip) == (DF, IST1 - 48, CODE + 10)


def test_ports_are_closed_to_user_code_without_a_bitmap(lab: CpuLab) -> None:
    lab.put(USER, code("90 b007 e680"))
    lab.long64(to_user())
    frame = lab.frame(error=True)
    assert (lab.vector(), frame.error, frame.rip, lab.outs) == (GP, 0, USER + 3, [])


def test_a_refused_in_changes_nothing(lab: CpuLab) -> None:
    lab.put(USER, imm32("b8", 0x12345678) + code("e480"))
    lab.long64(to_user())
    assert (lab.vector(), lab.reg("rax"), lab.frame(error=True).rip) == (GP, 0x12345678, USER + 5)


def test_user_code_with_iopl_3_may_use_ports(lab: CpuLab) -> None:
    lab.put(USER, code("b007 e680 0f0b"))
    lab.long64(to_user(flags=0x3202))
    assert (lab.vector(), lab.outs) == (UD, [(0x80, 7)])


def test_a_jump_into_a_hole_is_an_invalid_opcode(lab: CpuLab) -> None:
    lab.on_load = lambda _at, width: (1 << 8 * width) - 1
    lab.long64(imm32("bb", 0xD000_0000) + code("ffe3"))
    assert (lab.vector(), lab.frame(error=False).rip) == (UD, 0xD000_0000)


def test_an_instruction_that_runs_from_ram_into_a_hole_faults_at_its_start(lab: CpuLab) -> None:
    lab.on_load = lambda _at, width: (1 << 8 * width) - 1
    lab.put(0xFF_FFFD, code("90 90 0f"))
    lab.long64(imm32("bb", 0xFF_FFFD) + code("ffe3"))
    assert (lab.vector(), lab.frame(error=False).rip) == (UD, 0xFF_FFFF)
