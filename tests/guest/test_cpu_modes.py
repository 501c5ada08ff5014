"""Start states, real mode and 32-bit interrupts, SYSCALL, SYSENTER, CPUID, MSRs, CR8, time stamp counter."""

import struct
from collections.abc import Iterator

import pytest

from emu.cpu import cpuid
from emu.cpu.vcpu import Stop
from emu.testing.cpu_lab import (
    CODE,
    DATA,
    ENGINES,
    GDT,
    HALT,
    IDT,
    ISR,
    STACK,
    STACK0,
    TSS,
    USER,
    CpuLab,
    EngineName,
    code,
    imm32,
    imm64,
    loop,
    to_user,
    wrmsr,
)

UD, NP, GP = 6, 11, 13
IA32_TSC, TSC_ADJUST, EFER, STAR, LSTAR, FMASK = 0x10, 0x3B, 0xC0000080, 0xC0000081, 0xC0000082, 0xC0000084
SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP, TSC_AUX = 0x174, 0x175, 0x176, 0xC0000103
SYSCALL_ENTRY = 0x3000
SYSCALL_SETUP = (
    wrmsr(EFER, 0xD01) + wrmsr(STAR, 0x0018_0008 << 32) + wrmsr(LSTAR, SYSCALL_ENTRY) + wrmsr(FMASK, 0x200)
)
CPUID_1_ECX = cpuid.build(lambda: 0)(1, 0)[2]

pytestmark = pytest.mark.timeout(20)


@pytest.fixture(params=ENGINES)
def lab(request: pytest.FixtureRequest) -> Iterator[CpuLab]:
    engine: EngineName = request.param
    with CpuLab(engine) as made:
        yield made


# ---- start states ---------------------------------------------------------------------------------------


def test_real_mode_starts_at_segment_times_16_plus_offset(lab: CpuLab) -> None:
    lab.put(0x12345, code("8cc8 e780 f4 ; mov ax, cs; out 0x80, ax; hlt"))
    assert lab.run("real", 0x0345, cs=0x1200) is Stop.HALTED
    assert lab.outs == [(0x80, 0x1200)]
    assert lab.reg("rip") == 0x0345 + 5


def test_protected_mode_is_flat_32_bit_without_paging(lab: CpuLab) -> None:
    lab.put(0x30_0000, code("b878563412 a300002000 f4 ; mov eax, imm; mov [0x200000], eax; hlt"))
    assert lab.run("protected32", 0x30_0000) is Stop.HALTED
    assert (lab.u32(DATA), lab.reg("cr0") & 0x8000_0001) == (0x1234_5678, 1)


def test_one_engine_goes_from_real_mode_to_long_mode(lab: CpuLab) -> None:
    lab.put(0x5000, struct.pack("<HI", 0x2F, GDT))
    real = code(
        "b001 e680 0f01160050 0f20c0 0c01 0f22c0 66ea007d00001800 ; lgdt [0x5000]; PE; ljmp 0x18:0x7d00"
    )
    flat = code("66b81000 8ed8 8ed0 b002 e680 b820000000 0f22e0 b800800000 0f22d8 ; CR4.PAE, CR3")
    flat += code("b9800000c0 0f32 0d00010000 0f30 0f20c0 0d00000080 0f22c0 ea007e00000800 ; LME, PG, ljmp 8:")
    lab.put(0x7C00, real)
    lab.put(0x7D00, flat)
    lab.put(0x7E00, code("48b80000000001000000 48c1e820 e680 f4 ; mov rax, 1 << 32; shr rax, 32; out; hlt"))
    lab.run("real", 0x7C00)
    assert lab.outs == [(0x80, 1), (0x80, 2), (0x80, 1)]
    assert lab.reg("efer") & 0x500 == 0x500


# ---- interrupts outside of long mode -----------------------------------------------------------------------


def real_mode(lab: CpuLab, program: bytes, handler: bytes) -> None:
    """Vector 0x21 and the faults lead to `handler` at 0:0x2000."""
    for vector in (6, 13, 0x21):
        lab.put(4 * vector, struct.pack("<HH", 0x2000, 0))
    lab.put(0x2000, handler)
    lab.put(0x1000, code("bc0040 ; mov sp, 0x4000") + program)
    lab.run("real", 0x1000)


def test_int_in_real_mode_goes_through_the_vector_table(lab: CpuLab) -> None:
    real_mode(
        lab,
        code("f9 fb cd21 fa f4 ; stc; sti; int 0x21; cli; hlt"),
        code("9c 58 41 cf ; pushf; pop ax; inc cx; iret"),
    )
    assert lab.reg("rcx") & 0xFFFF == 1
    assert lab.reg("rax") & 0x201 == 0x001
    assert lab.reg("rsp") & 0xFFFF == 0x4000
    assert lab.u32(0x4000 - 6) & 0xFFFF == 0x1003 + 4


def test_a_real_mode_fault_pushes_no_error_code(lab: CpuLab) -> None:
    real_mode(lab, code("0f0b"), HALT)
    assert lab.reg("rsp") & 0xFFFF == 0x4000 - 6
    assert struct.unpack_from("<HHH", lab.ram, 0x4000 - 6)[:2] == (0x1003, 0)


def protected(lab: CpuLab, program: bytes) -> Stop:
    """32-bit code at CODE with all gates 32-bit interrupt gates that halt, and a TSS for ring 3."""
    for vector in range(256):
        at = ISR + 256 * vector
        lab.put(at, HALT)
        lab.put(
            IDT + 8 * vector,
            struct.pack("<HHHH", at & 0xFFFF, 0x08, 0xEE00 if vector == 0x80 else 0x8E00, at >> 16),
        )
    flat = (0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, 0x00CFFB000000FFFF, 0x00CFF3000000FFFF)
    lab.put(GDT, struct.pack("<6Q", *flat, 0x0000_8900_0000_0067 | TSS << 16))
    lab.put(TSS, struct.pack("<III", 0, STACK0, 0x10).ljust(104, b"\0"))
    lab.put(0x600, struct.pack("<HI", 0x7FF, IDT))
    lab.put(0x610, struct.pack("<HI", 0x2F, GDT))
    setup = code("0f011d00060000 0f011510060000 bc00500000 66b82800 0f00d8 ; lidt; lgdt; mov esp; ltr 0x28")
    lab.put(CODE, setup + program)
    return lab.run("protected32", CODE)


SETUP_32 = 26
"""Bytes of `protected`'s own code."""


def frame32(lab: CpuLab, count: int) -> tuple[int, ...]:
    return struct.unpack_from(f"<{count}I", lab.ram, lab.reg("rsp"))


def test_a_32_bit_gate_pushes_three_dwords(lab: CpuLab) -> None:
    protected(lab, code("0f0b"))
    assert (lab.vector(), lab.reg("rsp")) == (UD, STACK - 12)
    assert frame32(lab, 2) == (CODE + SETUP_32, 8)


def test_a_32_bit_fault_pushes_its_error_code(lab: CpuLab) -> None:
    protected(lab, code("66b84800 8ed8"))
    assert (lab.vector(), frame32(lab, 3)) == (GP, (0x48, CODE + SETUP_32 + 4, 8))


RING3_32 = code("6a23 6800400000 6802020000 6a1b 6800200000 cf ; push ss, esp, eflags, cs, 0x2000; iret")


def test_a_32_bit_gate_takes_the_inner_stack_of_the_tss(lab: CpuLab) -> None:
    lab.put(USER, code("0f0b"))
    protected(lab, RING3_32)
    assert (lab.vector(), lab.reg("rsp"), lab.reg("ss"), lab.reg("cs")) == (UD, STACK0 - 20, 0x10, 8)
    eip, cs, _, esp, ss = frame32(lab, 5)
    assert (eip, cs, esp, ss) == (USER, 0x1B, 0x4000, 0x23)


def test_32_bit_int_n_obeys_the_gates_privilege(lab: CpuLab) -> None:
    lab.put(USER, code("cd80"))
    protected(lab, RING3_32)
    assert (lab.vector(), frame32(lab, 1)) == (0x80, (USER + 2,))
    lab.put(USER, code("90 cd81"))
    protected(lab, RING3_32)
    assert lab.vector() == GP
    assert frame32(lab, 2) == (0x81 * 8 + 2, USER + 1)


def test_32_bit_iret_returns_to_user_code(lab: CpuLab) -> None:
    lab.put(USER, code("cd80 cd80 0f0b"))
    protected(lab, imm32("b8", ISR + 256 * 0x80) + code("66c70041cf") + RING3_32)  # handler: inc ecx; iret
    assert (lab.vector(), lab.reg("rcx"), frame32(lab, 1)) == (UD, 2, (USER + 4,))


# ---- system calls ------------------------------------------------------------------------------------


def test_syscall_and_sysret_change_ring_and_flags(lab: CpuLab) -> None:
    lab.put(
        SYSCALL_ENTRY,
        code("49ffc0 4d89dd 418ccf 4889cb 9c 415e 480f07 ; inc r8; r13 = r11; r15 = cs; rbx = rcx"),
    )
    lab.put(USER, code("f9 0f05 0f05 0f0b"))
    lab.long64(SYSCALL_SETUP + to_user())
    assert (lab.vector(), lab.reg("r8"), lab.reg("r15")) == (UD, 2, 8)
    assert (lab.reg("rbx"), lab.frame(error=False).rip) == (USER + 5, USER + 5)
    assert (lab.frame(error=False).cs, lab.frame(error=False).ss) == (0x2B, 0x23)
    assert lab.reg("r13") & 0x201 == 0x201
    assert lab.reg("r14") & 0x201 == 0x001


@pytest.mark.parametrize("where", ["kernel", "user"])
def test_syscall_without_sce_is_an_invalid_opcode(lab: CpuLab, where: str) -> None:
    lab.put(USER, code("90 0f05"))
    program = wrmsr(EFER, 0xD00)
    if where == "user":
        lab.long64(program + to_user())
        assert lab.frame(error=False).rip == USER + 1
    else:
        lab.long64(program + code("0f05"))
        assert lab.frame(error=False).rip == CODE + len(program)
    assert lab.vector() == UD


def test_sysenter_enters_through_its_msrs(lab: CpuLab) -> None:
    lab.put(SYSCALL_ENTRY, code("9c 58 fa f4 ; pushf; pop rax; cli; hlt"))
    setup = wrmsr(SYSENTER_CS, 8) + wrmsr(SYSENTER_ESP, 0x5400) + wrmsr(SYSENTER_EIP, SYSCALL_ENTRY)
    lab.put(USER, code("0f34"))
    lab.long64(setup + to_user())
    assert (lab.reg("rip"), lab.reg("rsp"), lab.reg("cs")) == (SYSCALL_ENTRY + 4, 0x5400, 8)
    assert lab.reg("rax") & 0x200 == 0


@pytest.mark.parametrize("asked_by", ["deadlines", "stores to a port"])
@pytest.mark.parametrize(
    ("instruction", "expected"),
    [
        pytest.param("4c8d3d02000000 0f05 ; lea r15, [rip + 2]; syscall", 1, id="syscall"),
        pytest.param("4c8d3d02000000 0f34 ; lea r15, [rip + 2]; sysenter", 1, id="sysenter"),
        pytest.param("b801000000 0fa2 4901c9 ; mov eax, 1; cpuid; add r9, rcx", CPUID_1_ECX, id="cpuid"),
    ],
)
def test_an_instruction_is_whole_where_the_engine_is_left_before_it(
    lab: CpuLab, instruction: str, expected: int, asked_by: str
) -> None:
    """With interrupts off, in the block that is being executed."""
    count = 20_000 if lab.fast else 2_000
    before = code("ffc2" * 200)  # inc edx
    if asked_by == "deadlines":

        def ring() -> None:
            lab.clock.call_at(lab.clock.now_ns() + 20_000, ring)

        ring()
    else:
        lab.on_out = lambda _port, _value: lab.vcpu.post(lambda: None)
        before += code("e680 ; out 0x80, al")
    lab.put(SYSCALL_ENTRY, code("49ffc1 41ffe7 ; inc r9; jmp r15"))
    sysenter = wrmsr(SYSENTER_CS, 8) + wrmsr(SYSENTER_ESP, STACK) + wrmsr(SYSENTER_EIP, SYSCALL_ENTRY)
    lab.long64(
        SYSCALL_SETUP + sysenter + code("4d31c9 ; xor r9, r9") + loop(count, before + code(instruction))
    )
    assert lab.reg("r9") == count * expected


def test_sysenter_with_a_null_selector_is_refused(lab: CpuLab) -> None:
    lab.put(USER, code("90 0f34"))
    lab.long64(wrmsr(SYSENTER_CS, 0) + to_user())
    frame = lab.frame(error=True)
    assert (lab.vector(), frame.error, frame.rip) == (GP, 0, USER + 1)


# ---- CPUID, MSRs, CR8, TSC ---------------------------------------------------------------------------

LEAVES = (0, 1, 2, 7, 0x15, 0x16, 0x40000000, 0x80000000, 0x80000001, 0x80000002, 0x80000008, 0x12345)


@pytest.mark.parametrize("leaf", LEAVES, ids=hex)
def test_cpuid_shows_the_table(lab: CpuLab, leaf: int) -> None:
    lab.long64(imm32("b8", leaf) + code("31c9 0fa2 f4"))
    expected = cpuid.build(lambda: 1_000_000_000)(leaf, 0)
    assert tuple(lab.reg(name) for name in ("rax", "rbx", "rcx", "rdx")) == expected


def test_an_msr_of_ours_is_read_and_written(lab: CpuLab) -> None:
    seen: list[int] = []
    lab.msrs.add(0x1B, lambda: 0xFEE0_0900, lambda value: not seen.append(value))
    program = wrmsr(0x1B, 0x1_FEE0_0800) + imm32("b9", 0x1B) + code("0f32 f4")
    lab.long64(program)
    assert (seen, lab.reg("rax"), lab.reg("rdx")) == ([0x1_FEE0_0800], 0xFEE0_0900, 0)


def test_an_msr_access_with_prefixes_is_skipped_whole(lab: CpuLab) -> None:
    lab.long64(imm32("b9", 0x8B) + code("480f32 90 b007 e680 f4 ; rex.w rdmsr"))
    assert lab.outs == [(0x80, 7)]


def test_a_value_that_an_msr_refuses_is_a_general_protection_fault(lab: CpuLab) -> None:
    lab.msrs.add(0x1B, lambda: 0, lambda _value: False)
    lab.long64(wrmsr(0x1B, 1) + HALT)
    assert (lab.vector(), lab.frame(error=True).rip) == (GP, CODE + 15)


def test_an_msr_right_after_an_int_is_seen_at_its_own_address(lab: CpuLab) -> None:
    seen: list[int] = []
    lab.msrs.add(0x1B, lambda: seen.append(lab.engine.rip()) or 0, lambda _value: True)
    lab.gate(0x80, code("48cf"))
    lab.long64(imm32("b9", 0x1B) + code("cd80 0f32 cd80 0f32 f4"))
    assert seen == [CODE + 7, CODE + 11]


def test_cr8_is_the_task_priority(lab: CpuLab) -> None:
    lab.long64(code("b809000000 440f22c0 31c0 440f20c3 41b90a000000 450f22c1 450f20c2 f4"))
    # mov cr8, rax; mov rbx, cr8; mov cr8, r9; mov r10, cr8
    assert (lab.task_priority, lab.reg("rbx"), lab.reg("r10")) == (0xA0, 9, 0xA)


def test_the_time_stamp_counter_never_goes_back(lab: CpuLab) -> None:
    body = code("0f31 48c1e220 4809d0 4839d8 7301 f4 4889c3 ; rdtsc into rax; below rbx: hlt; rbx = rax")
    lab.long64(
        imm32("bf", 3000)
        + code("31db")
        + body
        + code("ffcf")
        + b"\x75"
        + bytes((256 - len(body) - 4,))
        + HALT
    )
    assert lab.reg("rdi") & 0xFFFF_FFFF == 0
    assert lab.reg("rbx") > 0


def test_the_time_stamp_counter_starts_where_it_is_set(lab: CpuLab) -> None:
    lab.engine.set_tsc_offset(-lab.engine.host_tsc())
    lab.long64(code("0f31 f4"))
    assert lab.reg("rdx") == 0
    lab.engine.set_tsc_offset(-lab.engine.host_tsc() + (5 << 32))
    lab.long64(wrmsr(TSC_AUX, 0x77) + code("0f01f9 f4 ; rdtscp"))
    assert (lab.reg("rdx"), lab.reg("rcx")) == (5, 0x77)


def test_reports_read_memory_through_the_page_tables(lab: CpuLab) -> None:
    lab.put(DATA, b"hello")
    lab.long64(HALT)
    assert lab.engine.read_virtual(DATA, 5) == b"hello"
    assert lab.engine.read_virtual(1 << 32, 5) is None
    assert lab.reg("rip") == CODE + 1


def test_a_64_bit_value_survives_every_register(lab: CpuLab) -> None:
    value = 0x0123_4567_89AB_CDEF
    lab.long64(imm64("48bb", value) + imm64("49bf", ~value) + HALT)
    assert (lab.reg("rbx"), lab.reg("r15")) == (value, ~value & (1 << 64) - 1)
