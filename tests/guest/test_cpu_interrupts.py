"""External interrupts, NMI, HLT and shadows: SDM volume 3A, 6.8; and the guest's deadlines."""

from collections.abc import Iterator

import pytest

from emu.cpu.vcpu import Stop
from emu.testing.cpu_lab import (
    CODE,
    DATA,
    ENGINES,
    HALT,
    IRETQ,
    CpuLab,
    EngineName,
    code,
    imm32,
    imm64,
    loop,
)

pytestmark = pytest.mark.timeout(20)
NP, PF, VECTOR = 11, 14, 0x30
COUNT_R9 = code("49ffc1") + IRETQ  # inc r9; iretq


@pytest.fixture(params=ENGINES)
def lab(request: pytest.FixtureRequest) -> Iterator[CpuLab]:
    engine: EngineName = request.param
    with CpuLab(engine) as made:
        made.gate(VECTOR, COUNT_R9)
        yield made


def raise_on_out(lab: CpuLab, vector: int = VECTOR) -> None:
    """Each OUT makes a vector pending."""

    def on_out(_port: int, _value: int) -> None:
        lab.vectors.waiting.append(vector)
        lab.vcpu.poke()

    lab.on_out = on_out


def test_an_interrupt_waits_for_if(lab: CpuLab) -> None:
    raise_on_out(lab)
    lab.long64(code("e680 4d89cc 90 90 fb 90 90 fa f4 ; out; mov r12, r9; sti; nop; nop; cli; hlt"))
    assert (lab.reg("r12"), lab.reg("r9")) == (0, 1)


def test_an_interrupt_waits_for_the_instruction_after_sti(lab: CpuLab) -> None:
    raise_on_out(lab)
    lab.long64(code("fa e680 fb 4d89cd 4d89ce fa f4 ; cli; out; sti; mov r13, r9; mov r14, r9; cli; hlt"))
    assert (lab.reg("r13"), lab.reg("r14")) == (0, 1)


def test_an_interrupt_waits_for_the_instruction_after_mov_ss(lab: CpuLab) -> None:
    """The interrupt is asked for by the OUT right before; the frame shows where it came."""
    raise_on_out(lab)
    lab.gate(VECTOR, HALT)
    lab.long64(code("8cd0 fb 90 e680 8ed0 90 90 90 90 f4 ; mov eax, ss; sti; nop; out; mov ss, eax; nop"))
    assert lab.frame(error=False).rip != CODE + 8  # between MOV SS and the next one


def test_interrupts_come_one_after_the_other(lab: CpuLab) -> None:
    lab.gate(VECTOR + 1, code("49ffc2") + IRETQ)
    lab.vectors.waiting.extend([VECTOR, VECTOR + 1, VECTOR])
    lab.start64(code("fb 90 90 90 90 fa f4"))
    lab.vcpu.poke()
    lab.vcpu.run()
    assert (lab.reg("r9"), lab.reg("r10"), lab.engine.interrupts) == (2, 1, 3)


def test_each_of_many_interrupts_is_served_once(lab: CpuLab) -> None:
    raise_on_out(lab)
    rounds = 3000
    lab.long64(code("fb") + loop(rounds, code("e680 90 90 90"))[:-1] + code("90 90 fa f4"))
    assert (lab.reg("r9"), lab.vectors.pending()) == (rounds, False)


def test_an_interrupt_asked_for_by_a_store_comes_after_it_and_the_store_happens_once(lab: CpuLab) -> None:
    def on_store(at: int, value: int) -> None:
        lab.stores.append((at, value))
        lab.vectors.waiting.append(VECTOR)
        lab.vcpu.poke()

    lab.on_store = on_store
    lab.on_load = lambda _at, _width: len(lab.stores)
    body = code("ff03 488903 ; inc dword [rbx]; mov [rbx], rax: three stores")
    lab.long64(code("fb") + imm32("bb", 0xE000_0000) + loop(200, body)[:-1] + code("90 fa f4"))
    assert len(lab.stores) == 600
    assert lab.reg("r9") == 600
    assert [value for _, value in lab.stores[::3]] == list(range(1, 601, 3))


def test_an_interrupt_asked_for_by_a_load_leaves_the_load_single(lab: CpuLab) -> None:
    loads: list[int] = []

    def on_load(at: int, _width: int) -> int:
        loads.append(at)
        lab.vectors.waiting.append(VECTOR)
        lab.vcpu.poke()
        return len(loads)

    lab.on_load = on_load
    body = code("0303 ; add eax, [rbx]")
    lab.long64(code("fb 31c0") + imm32("bb", 0xE000_0000) + loop(100, body)[:-1] + code("90 fa f4"))
    assert (len(loads), lab.reg("rax"), lab.reg("r9")) == (100, sum(range(1, 101)), 100)


def test_string_io_with_interrupts_moves_each_element_once(lab: CpuLab) -> None:
    values = iter(range(1, 1000))

    def on_in(_port: int) -> int:
        lab.vectors.waiting.append(VECTOR)
        lab.vcpu.poke()
        return next(values)

    def on_out(_port: int, value: int) -> None:
        lab.outs.append((0, value))
        lab.vectors.waiting.append(VECTOR)
        lab.vcpu.poke()

    lab.on_in, lab.on_out = on_in, on_out
    program = code("fb ba80000000") + imm32("bf", DATA) + imm32("b9", 50) + code("f366 6d ; rep insw")
    program += imm32("be", DATA) + imm32("b9", 50) + code("f366 6f 90 90 fa f4 ; rep outsw")
    lab.long64(program)
    assert [value for _, value in lab.outs] == list(range(1, 51))
    assert lab.reg("r9") == lab.engine.interrupts
    assert not lab.vectors.pending()


def test_an_interrupt_at_a_missing_gate_becomes_a_fault(lab: CpuLab) -> None:
    raise_on_out(lab, 0x31)
    lab.gate(0x31, HALT, present=False)
    lab.long64(code("fb 90 e680 eb00 90 fa f4"))
    assert lab.vector() == NP
    assert (lab.frame(error=True).error or 0) & ~1 == 0x31 * 8 + 2


# ---- HLT -------------------------------------------------------------------------------------------------


def test_hlt_with_interrupts_off_ends_the_run(lab: CpuLab) -> None:
    assert lab.long64(code("fa f4")) is Stop.HALTED
    assert lab.reg("rip") == CODE + 2


def test_sti_hlt_with_a_pending_interrupt_wakes_at_once(lab: CpuLab) -> None:
    raise_on_out(lab)
    lab.long64(code("fa e680 fb f4 4d89cc fa f4 ; cli; out; sti; hlt; mov r12, r9"))
    assert (lab.reg("r12"), lab.vcpu.halts) == (1, 2)


def test_a_deadline_wakes_a_halted_guest(lab: CpuLab) -> None:
    def due() -> None:
        lab.vectors.waiting.append(VECTOR)
        lab.vcpu.poke()

    lab.clock.call_at(lab.clock.now_ns() + 5_000_000, due)
    began = lab.clock.now_ns()
    lab.long64(code("fb f4 fa f4"))
    assert (lab.reg("r9"), lab.reg("rip")) == (1, CODE + 4)
    assert lab.clock.now_ns() - began >= 4_000_000


def test_a_deadline_reaches_a_guest_that_spins(lab: CpuLab) -> None:
    def due() -> None:
        lab.vectors.waiting.append(VECTOR)
        lab.vcpu.poke()

    for i in range(1, 21):
        lab.clock.call_at(lab.clock.now_ns() + 300_000 * i, due)
    lab.long64(code("fb 4983f914 75fa fa f4 ; sti; l: cmp r9, 20; jne l; cli; hlt"))
    assert lab.reg("r9") == 20


def test_a_deadline_is_kept_while_interrupts_are_off(lab: CpuLab) -> None:
    """It moves memory that the spinning guest looks at."""
    lab.clock.call_at(lab.clock.now_ns() + 2_000_000, lambda: lab.ram.__setitem__(DATA, 1))
    lab.long64(code("fa") + imm32("bb", DATA) + code("803b00 74fb f4 ; l: cmp byte [rbx], 0; je l"))
    assert lab.reg("rip") == CODE + 12


def test_a_deadline_that_arms_the_next_one_ticks_on(lab: CpuLab) -> None:
    ticks = [0]

    def tick() -> None:
        ticks[0] += 1
        lab.vectors.waiting.append(VECTOR)
        lab.vcpu.poke()
        lab.clock.call_at(lab.clock.now_ns() + 100_000, tick)

    lab.clock.call_at(0, tick)
    lab.long64(code("fb f4 4983f932 75f9 fa f4 ; sti; l: hlt; cmp r9, 50; jne l; cli; hlt"))
    assert ticks[0] >= 50


# ---- NMI -------------------------------------------------------------------------------------------------


def nmi_on_out(lab: CpuLab) -> None:
    lab.on_out = lambda _port, _value: lab.vcpu.nmi()


def test_nmi_comes_with_interrupts_off(lab: CpuLab) -> None:
    nmi_on_out(lab)
    lab.gate(2, code("49ffc0") + IRETQ)
    lab.long64(code("fa e680 eb00 90 90 e680 eb00 90 90 f4"))
    assert lab.reg("r8") == 2


def test_a_second_nmi_waits_for_iret(lab: CpuLab) -> None:
    """In the handler: count, raise another one at the first entry, note the count after some instructions."""
    nmi_on_out(lab)
    lab.gate(2, code("49ffc0 4983f801 7507 e680 eb00 4d89c5 ; inc r8; first: out; mov r13, r8") + IRETQ)
    lab.long64(code("fa e680 eb00 90 90 f4"))
    assert (lab.reg("r8"), lab.reg("r13")) == (2, 1)


def test_nmi_wakes_a_halted_guest(lab: CpuLab) -> None:
    lab.gate(2, code("49ffc0") + IRETQ)
    lab.clock.call_at(lab.clock.now_ns() + 2_000_000, lab.vcpu.nmi)
    lab.long64(code("fb f4 fa f4 ; sti; hlt; cli; hlt"))
    assert (lab.reg("r8"), lab.reg("rip")) == (1, CODE + 4)


def test_an_interrupt_in_user_code_changes_the_stack(lab: CpuLab) -> None:
    from emu.testing.cpu_lab import STACK0, USER, to_user

    raise_on_out(lab)
    lab.gate(VECTOR, HALT)
    lab.put(USER, code("e680 ebfe"))
    lab.long64(to_user(flags=0x3202))
    frame = lab.frame(error=False)
    assert (frame.cs, frame.ss, frame.rsp, lab.reg("rsp")) == (0x2B, 0x23, 0x4000, STACK0 - 40)


def test_an_interrupt_keeps_the_flags_of_the_code_it_breaks(lab: CpuLab) -> None:
    raise_on_out(lab)
    lab.gate(VECTOR, code("fc 4831c0 49ffc1") + IRETQ)
    lab.long64(code("fb 90 f9 fd e680 90 90 9c 415c fc fa f4 ; stc; std; out; pushf; pop r12"))
    assert lab.reg("r12") & 0x601 == 0x601


def test_a_page_fault_with_an_unmapped_stack_and_interrupts(lab: CpuLab) -> None:
    lab.gate(8, HALT, ist=1)
    lab.long64(imm64("48bc", 1 << 40) + code("cd80"))
    assert lab.vector() == 8
