"""Guest instructions a second: in the whole machine against a bare Unicorn that runs the same loops."""

import struct
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from emu.bench.rig import BareUnicorn, WholeMachine
from emu.bench.series import Ratio, in_turns, ratio

ROUNDS: Final = 9
INSTRUCTIONS: Final = 20_000_000


class Loop(NamedTuple):
    """A loop of 64-bit code: what runs once, what is repeated, and how many instructions one round has.

    RCX counts the rounds; `after` stands behind the loop's HLT.
    """

    name: str
    before: bytes
    body: bytes
    instructions: int
    after: bytes = b""


ALU: Final = Loop(
    "alu",
    b"",
    b"\x48\x01\xc8"  # add rax, rcx
    b"\x48\x31\xc2"  # xor rdx, rax
    b"\x48\xc1\xc2\x05"  # rol rdx, 5
    b"\x48\x8d\x5c\x10\x07"  # lea rbx, [rax + rdx + 7]
    b"\x48\x29\xd8"  # sub rax, rbx
    b"\x48\x0f\xaf\xc2",  # imul rax, rdx
    6,
)
COPY: Final = Loop(
    "copy",
    b"\xbe\x00\x00\x40\x00"  # mov esi, 0x400000
    b"\xbf\x00\x18\x61\x00",  # mov edi, 0x611800: not the TLB entry of the source
    b"\x48\x0f\xb6\xd1"  # movzx rdx, cl
    b"\x48\x8b\x04\xd6"  # mov rax, [rsi + rdx * 8]
    b"\x48\x89\x04\xd7"  # mov [rdi + rdx * 8], rax
    b"\x48\x8b\x5c\xd6\x08"  # mov rbx, [rsi + rdx * 8 + 8]
    b"\x48\x89\x5c\xd7\x08",  # mov [rdi + rdx * 8 + 8], rbx
    5,
)
CALL: Final = Loop(
    "call",
    b"\xbc\x00\x00\x80\x00",  # mov esp, 0x800000
    b"\xe8\x05\x00\x00\x00",  # call the function: over dec, jnz, hlt
    5,
    b"\x55"  # push rbp
    b"\x48\x89\xe5"  # mov rbp, rsp
    b"\x5d"  # pop rbp
    b"\xc3",  # ret
)
LOOPS: Final = (ALU, COPY, CALL)


class Speed(NamedTuple):
    """One loop: `ratio.first` is the bare engine, `ratio.second` the machine, in million a second."""

    name: str
    ratio: Ratio


def measure(instructions: int = INSTRUCTIONS, rounds: int = ROUNDS) -> list[Speed]:
    """Measure all loops; some seconds."""
    bare, whole = BareUnicorn(), WholeMachine()
    try:
        whole.power_on()
        return [_one(loop, bare, whole, instructions, rounds) for loop in LOOPS]
    finally:
        bare.close()
        whole.close()


def _one(loop: Loop, bare: BareUnicorn, whole: WholeMachine, instructions: int, rounds: int) -> Speed:
    each = loop.instructions + 2
    count = instructions // each
    code = assemble(loop, count)
    bare.load(code)
    whole.load(code)
    bare.run()  # translates it
    whole.run()
    series = in_turns([_timed(bare.run, count * each), _timed(whole.run, count * each)], rounds)
    return Speed(loop.name, ratio(*series))


def _timed(run: Callable[[], None], instructions: int) -> Callable[[], float]:
    def measure() -> float:
        began = time.perf_counter_ns()
        run()
        return instructions * 1e3 / (time.perf_counter_ns() - began)

    return measure


def assemble(loop: Loop, count: int) -> bytes:
    """The loop's code with its end: dec ecx; jnz; hlt."""
    start = loop.before + b"\xb9" + struct.pack("<I", count)  # mov ecx, count
    back = struct.pack("<b", -(len(loop.body) + 4))
    return start + loop.body + b"\xff\xc9\x75" + back + b"\xf4" + loop.after
