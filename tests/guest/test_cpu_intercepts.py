"""Instructions that the engine leaves to Python, wherever their bytes lie and whatever stands before them."""

from collections.abc import Iterator

import pytest

from emu.cpu.vcpu import Stop
from emu.testing.cpu_lab import CODE, ENGINES, HALT, CpuLab, code, imm32

pytestmark = pytest.mark.timeout(60)
FIRST, SECOND = 0x3000_0000, 0x3000_1000
APART = (0x30_0000, 0x30_5000)
"""Where the two pages are in RAM."""
RETURN = b"\xc3"
READ_MSR = code("0f32")
READ_CR8 = code("440f20c0 ; mov rax, cr8")
MSR = 0x8B


@pytest.fixture(params=ENGINES)
def lab(request: pytest.FixtureRequest) -> Iterator[CpuLab]:
    with CpuLab(request.param) as made:
        made.msrs.add(MSR, lambda: 0x1234, lambda _value: True)
        made.task_priority = 0x50
        yield made


def call(lab: CpuLab, at: int) -> None:
    lab.long64(imm32("b9", MSR) + imm32("bb", at) + code("ffd3") + HALT)


@pytest.mark.parametrize(("program", "gives"), [(READ_MSR, 0x1234), (READ_CR8, 5)], ids=["rdmsr", "cr8"])
def test_the_last_bytes_of_the_last_page_are_understood(lab: CpuLab, program: bytes, gives: int) -> None:
    body = program + RETURN
    lab.map_page(FIRST, APART[0])
    lab.put(APART[0] + 4096 - len(body), body)
    call(lab, SECOND - len(body))
    assert lab.reg("rax") == gives


@pytest.mark.parametrize("before", range(1, 4))
@pytest.mark.parametrize(
    ("program", "gives"), [(code("660f32"), 0x1234), (READ_CR8, 5)], ids=["rdmsr", "cr8"]
)
def test_an_instruction_may_lie_on_two_pages(lab: CpuLab, program: bytes, gives: int, before: int) -> None:
    body = program + RETURN
    for linear, gpa in ((FIRST, APART[0]), (SECOND, APART[1])):
        lab.map_page(linear, gpa)
    lab.put(APART[0] + 4096 - before, body[:before])
    lab.put(APART[1], body[before:])
    call(lab, SECOND - before)
    assert lab.reg("rax") == gives


def test_a_halt_may_be_the_last_byte_of_the_last_page(lab: CpuLab) -> None:
    lab.map_page(FIRST, APART[0])
    lab.put(APART[0] + 4095, HALT)
    call(lab, SECOND - 1)
    assert lab.reg("rip") == SECOND


@pytest.mark.parametrize("prefix", ["48", "66", "2e", "f2", "6648", "26664f", "4866", "67676767"])
def test_prefixes_are_skipped_with_the_instruction(lab: CpuLab, prefix: str) -> None:
    lab.long64(imm32("b9", MSR) + code(prefix) + READ_MSR + code("89c3") + code(prefix) + HALT)
    assert (lab.reg("rbx"), lab.reg("rip")) == (0x1234, CODE + 10 + len(prefix))


def test_only_a_rex_right_before_the_opcode_names_a_high_register(lab: CpuLab) -> None:
    lab.long64(code("31c0 4531c0 4166440f20c0 f4 ; xor eax, eax; xor r8d, r8d; mov rax, cr8"))
    assert (lab.reg("rax"), lab.reg("r8")) == (5, 0)


def test_32_bit_code_reads_registers_too(lab: CpuLab) -> None:
    lab.put(CODE, imm32("b9", MSR) + code("2e0f32 f4"))
    assert lab.run("protected32", CODE) is Stop.HALTED
    assert lab.reg("rax") == 0x1234


def test_real_mode_reads_registers_in_its_segment(lab: CpuLab) -> None:
    lab.put(0x2_0100, code("66b98b000000 0f32 f4 ; mov ecx, 0x8b"))
    assert lab.run("real", 0x100, cs=0x2000) is Stop.HALTED
    assert (lab.reg("rax"), lab.reg("rip")) == (0x1234, 0x109)
