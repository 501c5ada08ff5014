"""Stores to ROM, and to shadow RAM that the host bridge has closed, are dropped; on both engines."""

import struct
from collections.abc import Iterator

import pytest

from emu.boards.pc import PcBoard
from emu.config import MachineConfig
from emu.cpu.state import StartState
from emu.machine import Machine
from emu.testing.cpu_lab import ENGINES, imm32
from tests.guest.lab import image

RAM, ROM = 16 << 20, 0xFFFF_0000
CODE, SHADOW, NEIGHBOUR, PAM3 = 0x1000, 0xD_0000, 0xD_4000, 0x8000_005C
CLOSED, OPEN = 0x11, 0x13
LOAD_ESI = b"\x8b\x35"


def store(at: int, value: int) -> bytes:
    return b"\xc7\x05" + struct.pack("<II", at, value)  # mov dword [at], value


def pam3(value: int) -> bytes:
    """The parts at 0xD0000 (low four bits) and 0xD4000 (high)."""
    select = imm32("ba", 0xCF8) + imm32("b8", PAM3) + b"\xef"
    return select + imm32("ba", 0xCFC) + b"\xb0" + bytes((value,)) + b"\xee"


@pytest.fixture(params=ENGINES)
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    made = Machine(RAM)
    try:
        board = PcBoard(made, MachineConfig(ram_bytes=RAM, kernel=image("hello")), lambda _data: None)
        made.add_rom(ROM, b"rom!" * 0x4000)
        made.power_on(board.lapic, request.param)
        yield made
    finally:
        made.close()


def run(machine: Machine, program: bytes) -> dict[str, int]:
    """Run it in protected mode up to its end; the registers then."""
    machine.memory.view(CODE, len(program) + 1)[:] = program + b"\xf4"
    machine.engine.forget_code(CODE, len(program) + 1)
    machine.engine.start_at(StartState("protected32", CODE))
    machine.vcpu.run()
    return machine.engine.registers()


def word(machine: Machine, at: int) -> int:
    return int.from_bytes(machine.memory.view(at, 4), "little")


def test_shadow_ram_takes_stores_while_it_is_open(machine: Machine) -> None:
    run(machine, store(SHADOW, 1) + store(NEIGHBOUR, 2))
    assert (word(machine, SHADOW), word(machine, NEIGHBOUR)) == (0, 0)
    run(machine, store(SHADOW, 1) + pam3(OPEN) + store(SHADOW, 3) + store(NEIGHBOUR, 4))
    assert (word(machine, SHADOW), word(machine, NEIGHBOUR)) == (3, 0)
    run(machine, store(SHADOW, 5) + pam3(CLOSED) + store(SHADOW, 6) + store(0xC_0000 - 4, 7))
    assert (word(machine, SHADOW), word(machine, 0xC_0000 - 4)) == (5, 7)


def test_a_rom_keeps_its_bytes_and_is_read(machine: Machine) -> None:
    found = run(machine, store(ROM, 0) + LOAD_ESI + struct.pack("<I", ROM) + store(0x3000, 9))
    assert found["rsi"] == int.from_bytes(b"rom!", "little")
    assert word(machine, 0x3000) == 9


def test_code_in_shadow_ram_is_what_was_stored_last(machine: Machine) -> None:
    """mov esi, N; jmp eax at 0xD0000: written, run, written while closed, run."""
    back = b"\xff\xe0"  # jmp eax

    def patch(value: int) -> bytes:
        return store(SHADOW, 0xBE | (value & 0xFFFFFF) << 8) + store(SHADOW + 4, 0xE0FF << 8)

    def call(offset: int) -> bytes:
        return imm32("b8", offset) + b"\xe9" + struct.pack("<i", SHADOW - offset)

    assert len(back) == 2
    for number, opened in ((1, OPEN), (2, CLOSED), (3, OPEN)):
        program = pam3(opened) + patch(number)
        end = CODE + len(program) + len(call(0))
        found = run(machine, program + call(end))
        assert found["rsi"] == (1 if number < 3 else 3)
