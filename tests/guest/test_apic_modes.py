"""The local APIC's window, its feature bit and its MSRs, as a guest meets them; on both engines."""

import struct
from collections.abc import Iterator

import pytest

from emu.boards.pc import LAPIC, PcBoard
from emu.config import MachineConfig
from emu.cpu.state import StartState
from emu.machine import Machine
from emu.testing.cpu_lab import ENGINES, imm32, wrmsr
from tests.guest.lab import image

RAM, CODE, APIC_BASE, VERSION = 16 << 20, 0x1000, 0x1B, 0x30
ON, X2APIC, OFF, MOVED = LAPIC | 0x900, LAPIC | 0xD00, LAPIC | 0x100, 0xFEC8_0000
NOBODY, FOUND = 0xFFFF_FFFF, 0x0005_0014
EOI, SELF_IPI, SVR, VERSION_MSR = 0x80B, 0x83F, 0x80F, 0x803
VECTOR, IDT, GDT, HANDLER = 0x40, 0x4000, 0x3000, 0x5000
COUNT = 0x6000


def load(at: int) -> bytes:
    return b"\x8b\x35" + struct.pack("<I", at)  # mov esi, [at]


@pytest.fixture(params=ENGINES)
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    made = Machine(RAM, lambda _line: None)
    try:
        board = PcBoard(made, MachineConfig(ram_bytes=RAM, kernel=image("hello")), lambda _data: None)
        made.power_on(board.lapic, request.param)
        board.lapic.bind_thread()
        yield made
    finally:
        made.close()


def run(machine: Machine, program: bytes, gdt: int = 0) -> dict[str, int]:
    """Run it in protected mode up to its end; the registers then."""
    machine.memory.view(CODE, len(program) + 2)[:] = program + b"\xfa\xf4"
    machine.engine.forget_code(CODE, len(program) + 2)
    machine.engine.start_at(StartState("protected32", CODE, gdt=gdt))
    machine.vcpu.run()
    return machine.engine.registers()


@pytest.mark.parametrize(
    ("base", "at", "found"),
    [(ON, LAPIC, FOUND), (OFF, LAPIC, NOBODY), (X2APIC, LAPIC, NOBODY), (MOVED | 0x900, LAPIC, NOBODY),
     (MOVED | 0x900, MOVED, FOUND), (0x20_0900, 0x20_0000, 0), (0xFEC0_0900, 0xFEC0_0000, NOBODY)],
)  # fmt: skip
def test_the_window_is_where_the_base_says_and_not_over_ram_or_chips(
    machine: Machine, base: int, at: int, found: int
) -> None:
    assert run(machine, wrmsr(APIC_BASE, base) + load(at + VERSION))["rsi"] == found


def test_an_apic_that_was_off_answers_again(machine: Machine) -> None:
    program = wrmsr(APIC_BASE, OFF) + wrmsr(APIC_BASE, ON) + load(LAPIC + VERSION)
    assert run(machine, program)["rsi"] == FOUND


@pytest.mark.parametrize(("base", "bit"), [(ON, 1), (OFF, 0), (X2APIC, 1)])
def test_the_feature_bit_follows_the_global_enable(machine: Machine, base: int, bit: int) -> None:
    found = run(machine, wrmsr(APIC_BASE, base) + imm32("b8", 1) + b"\x0f\xa2")
    assert found["rdx"] >> 9 & 1 == bit


def test_registers_are_msrs_in_x2apic_mode(machine: Machine) -> None:
    found = run(machine, wrmsr(APIC_BASE, X2APIC) + imm32("b9", VERSION_MSR) + b"\x0f\x32")
    assert (found["rax"], found["rdx"]) == (FOUND, 0)


def test_interrupts_come_and_end_by_msrs_without_a_window(machine: Machine) -> None:
    """Fifty SELF IPIs, each ended by WRMSR; one that was not ended would keep the next away."""
    view = machine.memory.view
    struct.pack_into("<3Q", view(GDT, 24), 0, 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF)
    struct.pack_into("<HHHH", view(IDT + 8 * VECTOR, 8), 0, HANDLER, 0x08, 0x8E00, 0)
    struct.pack_into("<HI", view(0x3E00, 6), 0, 0x7FF, IDT)
    handler = (
        b"\xff\x05" + struct.pack("<I", COUNT) + wrmsr(EOI, 0) + b"\xcf"
    )  # inc dword [COUNT]; ...; iretd
    view(HANDLER, len(handler))[:] = handler
    body = wrmsr(SELF_IPI, VECTOR) + b"\x90" * 4
    turns = b"\xbf\x32\x00\x00\x00" + body + b"\xff\xcf\x0f\x85" + struct.pack("<i", -(len(body) + 8))
    set_up = b"\x0f\x01\x1d\x00\x3e\x00\x00" + b"\xbc\x00\x00\x08\x00"  # lidt [0x3e00]; mov esp, 0x80000
    program = set_up + wrmsr(APIC_BASE, X2APIC) + wrmsr(SVR, 0x1FF) + b"\xfb" + turns
    run(machine, program, gdt=GDT)
    assert int.from_bytes(view(COUNT, 4), "little") == 50
