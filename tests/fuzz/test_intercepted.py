"""Prefixes before the opcodes that are carried out in Python, beside another decoder."""

import capstone
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.cpu.intercepted import LONGEST, PREFIXES, prefixes

DECODER = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
REX = range(0x40, 0x50)
LEGACY = st.lists(st.sampled_from([0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x67]), max_size=8).map(bytes)
"""Those that the other decoder takes before any opcode."""
A_REX = st.sampled_from([b"", *(bytes((byte,)) for byte in REX)])


@given(st.binary(max_size=LONGEST))
@settings(max_examples=100)
def test_any_bytes_have_prefixes_within_them(code: bytes) -> None:
    length, rex = prefixes(code)
    assert 0 <= length <= len(code)
    assert set(code[:length]) <= set(PREFIXES)
    assert length == len(code) or code[length] not in PREFIXES
    assert rex == 0 or rex == code[length - 1]


@given(LEGACY, A_REX, st.sampled_from([b"\x0f\x32", b"\x0f\x30", b"\xf4"]))
@settings(max_examples=100)
def test_an_instruction_is_as_long_as_for_the_other_decoder(legacy: bytes, rex: bytes, opcode: bytes) -> None:
    code = legacy + rex + opcode
    _, size, _, _ = next(DECODER.disasm_lite(code + b"\x90" * 15, 0))
    assert (prefixes(code)[0] + len(opcode), prefixes(code)[1]) == (size, int.from_bytes(rex, "little"))


@given(LEGACY, A_REX, st.sampled_from([0x20, 0x22]), st.integers(0, 7))
@settings(max_examples=100)
def test_cr8_goes_to_the_register_of_the_other_decoder(
    legacy: bytes, rex: bytes, opcode: int, register: int
) -> None:
    rex = rex or b"\x44"
    rex = bytes((rex[0] | 4,))  # REX.R: 0 and 4 are CR0 and CR8
    code = legacy + rex + bytes((0x0F, opcode, 0xC0 | register))
    _, size, _, operands = next(DECODER.disasm_lite(code + b"\x90" * 15, 0))
    length, found = prefixes(code)
    names = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{i}" for i in range(8, 16)))
    assert size == length + 3
    assert set(operands.split(", ")) == {"cr8", names[register | (found & 1) << 3]}
