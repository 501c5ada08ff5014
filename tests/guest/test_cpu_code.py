"""Code that changes: by itself, through a second mapping, by new page tables; and what the cure is for."""

import random
import struct
from collections.abc import Callable, Iterator

import pytest

from emu.cpu.native.load import remove
from emu.testing.cpu_lab import CODE, ENGINES, HALT, NX, CpuLab, EngineName, code, imm32, wrmsr

pytestmark = pytest.mark.timeout(60)
PAGES, PHYSICAL, TABLE = 4, 0x30_0000, 0x1_F000
EXECUTED, ALIAS = 0x3000_0000, 0x3001_0000  # page i is executed at EXECUTED + i, written at ALIAS + i (NX)
ENABLE_NX = wrmsr(0xC0000080, 0xD01)
RESULTS = 0x20_0000


def store(at: int, value: int) -> bytes:
    """mov dword [at], value."""
    return imm32("be", at) + b"\xc7\x06" + struct.pack("<I", value & 0xFFFF_FFFF)


def call(at: int) -> bytes:
    return imm32("bb", at) + b"\xff\xd3"


def give(value: int) -> bytes:
    """mov eax, value; ret."""
    return imm32("b8", value) + b"\xc3"


def map_aliases(lab: CpuLab) -> None:
    entries = [PHYSICAL + 4096 * (i % 16) | 7 | (NX if i >= 16 else 0) for i in range(32)]
    lab.put(TABLE, struct.pack("<32Q", *entries))
    lab.put(0xC000 + 8 * (EXECUTED >> 21), struct.pack("<Q", TABLE | 7))


@pytest.fixture(params=ENGINES)
def lab(request: pytest.FixtureRequest) -> Iterator[CpuLab]:
    engine: EngineName = request.param
    with CpuLab(engine) as made:
        map_aliases(made)
        yield made


@pytest.fixture
def fast() -> Iterator[CpuLab]:
    with CpuLab("fast") as made:
        map_aliases(made)
        yield made


def alias_used_first(lab: CpuLab) -> list[int]:
    """The alias is written, the page executed, the alias written again: what the two calls gave."""
    lab.put(PHYSICAL + 0x100, give(1))
    program = store(ALIAS + 0x800, 0) + call(EXECUTED + 0x100) + code("4189c0")
    lab.long64(ENABLE_NX + program + store(ALIAS + 0x101, 2) + call(EXECUTED + 0x100) + HALT)
    return [lab.reg("r8"), lab.reg("rax")]


def alias_fresh(lab: CpuLab) -> list[int]:
    """The first store through the alias goes elsewhere in the page, the second into the code."""
    lab.put(PHYSICAL + 0x100, give(1))
    program = call(EXECUTED + 0x100) + code("4189c0") + store(ALIAS, 0)
    lab.long64(ENABLE_NX + program + store(ALIAS + 0x101, 2) + call(EXECUTED + 0x100) + HALT)
    return [lab.reg("r8"), lab.reg("rax")]


Order = Callable[[CpuLab], list[int]]
ALIAS_ORDERS = pytest.mark.parametrize("order", [alias_used_first, alias_fresh])


@ALIAS_ORDERS
def test_code_changed_through_an_nx_mapping_runs_new(lab: CpuLab, order: Order) -> None:
    assert order(lab) == [1, 2]


@ALIAS_ORDERS
def test_without_the_record_the_engine_runs_old_code(fast: CpuLab, order: Order) -> None:
    """Shows the flaw that the cure is for, so that the tests above mean something."""
    assert fast.fast is not None
    remove(fast.fast.record)
    fast.fast.record.cpu, fast.fast.record.uc = fast.fast.fields.cpu, fast.fast._handle
    try:
        assert order(fast) == [1, 1]
    finally:
        from emu.cpu.native.load import install

        install(fast.fast.record)


@pytest.mark.parametrize("seed", range(3))
def test_random_stores_calls_and_flushes_never_run_old_code(lab: CpuLab, seed: int) -> None:
    """Three mappings, two of them executable; host writes; CR3 reloads."""
    dice, wrong, calls = random.Random(seed), 0, 0
    places = [(page, slot) for page in range(PAGES) for slot in range(8)]
    value = dict.fromkeys(places, 0)
    for page, slot in places:
        lab.put(PHYSICAL + 4096 * page + 256 * slot, give(0))
    for batch in range(150):
        program, expected = b"", []
        for _ in range(30):
            page, slot = key = dice.choice(places)
            offset, kind = 4096 * page + 256 * slot, dice.random()
            base = dice.choice((EXECUTED, ALIAS, PHYSICAL)) + offset
            if kind < 0.35:
                value[key] = dice.getrandbits(31)
                program += store(base + 1, value[key])
            elif kind < 0.5:
                program += store(base + 64, 0)
            elif kind < 0.55:
                program += code("0f20d8 0f22d8")  # mov rax, cr3; mov cr3, rax
            else:
                expected.append(value[key])
                program += (
                    call(EXECUTED + offset) + b"\x89\x04\x25" + struct.pack("<I", RESULTS + 4 * len(expected))
                )
        lab.long64(ENABLE_NX + program + HALT)
        found = struct.unpack_from(f"<{len(expected)}I", lab.ram, RESULTS + 4)
        wrong += sum(a != b for a, b in zip(found, expected, strict=True))
        calls += len(expected)
        if dice.random() < 0.2:
            page, slot = key = dice.choice(places)
            value[key] = batch
            lab.put(PHYSICAL + 4096 * page + 256 * slot, give(batch))
    assert (wrong, calls > 1000) == (0, True)


def test_a_store_into_its_own_block_counts_at_once(lab: CpuLab) -> None:
    lab.long64(code("c6050100000005 b801000000 f4 ; mov byte [rip+1], 5: patches the next instruction"))
    assert lab.reg("rax") == 5


def test_code_is_rewritten_and_run_in_turns(lab: CpuLab) -> None:
    lab.put(PHYSICAL, give(0))
    body = code("893c25 01003000 ffd3 01c1 ; mov [PHYSICAL+1], edi; call rbx; add ecx, eax")
    lab.long64(imm32("bb", PHYSICAL) + code("31c9") + imm32("bf", 1000) + body + code("ffcf 75f1 f4"))
    assert lab.reg("rcx") == 500_500


def test_a_store_to_a_block_that_begins_on_the_page_before(lab: CpuLab) -> None:
    at = PHYSICAL + 4093
    lab.put(at, give(1))
    lab.long64(call(at) + code("4189c0") + store(at + 1, 2) + call(at) + HALT)
    assert (lab.reg("r8"), lab.reg("rax")) == (1, 2)


def test_another_page_at_the_same_address_runs_its_own_code(lab: CpuLab) -> None:
    lab.put(PHYSICAL, give(1))
    lab.put(PHYSICAL + 4096, give(2))
    swap = (
        imm32("be", TABLE) + code("c706") + struct.pack("<I", PHYSICAL + 4096 | 7) + code("0f013d 00000000")
    )
    invlpg = imm32("be", EXECUTED) + code("0f013e ; invlpg [rsi]")
    program = call(EXECUTED) + code("4189c0") + swap[:-7] + invlpg + call(EXECUTED) + HALT
    lab.long64(program)
    assert (lab.reg("r8"), lab.reg("rax")) == (1, 2)


def test_a_new_program_at_the_old_place_is_the_one_that_runs(lab: CpuLab) -> None:
    for value in range(5):
        lab.long64(imm32("b8", value) + HALT)
        assert lab.reg("rax") == value
    assert lab.reg("rip") == CODE + 6
