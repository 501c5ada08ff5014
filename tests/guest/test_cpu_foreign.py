"""Code that another process writes: through its own mapping of the guest's memory, telling nobody."""

import mmap
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from emu.testing.cpu_lab import ENGINES, HALT, IRETQ, RAM, CpuLab, EngineName, code, imm32, wrmsr
from tests.guest.test_cpu_code import (
    ALIAS,
    ENABLE_NX,
    EXECUTED,
    PAGES,
    PHYSICAL,
    RESULTS,
    TABLE,
    call,
    give,
    map_aliases,
    store,
)

pytestmark = pytest.mark.timeout(60)
SECOND_LOOK = 0x3001_F000
"""Another address of the first page, executable, that is mapped for one call only."""
VECTOR = 0x40
INVLPG = imm32("be", EXECUTED) + code("0f013e ; invlpg [rsi]")
INVLPG_NEXT = imm32("be", EXECUTED + 4096) + code("0f013e ; invlpg [rsi]")
DISABLE_NX = wrmsr(0xC0000080, 0x501)
RELOAD_CR3 = code("0f20d8 0f22d8 ; mov rax, cr3; mov cr3, rax")
ASK = code("e640 ; out 0x40, al")
KEEP = code("4189c0 ; mov r8d, eax")
WAIT = code("fb f4 fa ; sti; hlt; cli")


class ForeignLab:
    """A CPU, and what another process has of its memory. `OUT 0x40` makes that process write."""

    def __init__(self, lab: CpuLab) -> None:
        self.lab = lab
        self.memory = mmap.mmap(lab.memory.fd, RAM)
        self.writes: list[tuple[int, bytes]] = []
        map_aliases(lab)
        lab.gate(VECTOR, IRETQ)
        lab.on_out = self._out

    def _out(self, _port: int, _value: int) -> None:
        at, data = self.writes.pop(0)
        self.memory[at : at + len(data)] = data

    def interrupt(self, _port: int, _value: int) -> None:
        """Write, then tell the guest, as a back-end does."""
        self._out(0, 0)
        self.lab.engine.foreign_wrote()
        self.lab.vectors.waiting.append(VECTOR)
        self.lab.vcpu.poke()

    def two_calls(self, between: bytes, at: int = EXECUTED) -> list[int]:
        """What the page gives before another process writes it, and after."""
        self.lab.long64(ENABLE_NX + call(at) + KEEP + ASK + between + call(at) + HALT)
        return [self.lab.reg("r8"), self.lab.reg("rax")]

    @property
    def checks(self) -> int:
        assert self.lab.fast is not None
        assert self.lab.fast.foreign is not None
        return self.lab.fast.foreign.checks

    @property
    def changes(self) -> int:
        assert self.lab.fast is not None
        assert self.lab.fast.foreign is not None
        return self.lab.fast.foreign.changes


@contextmanager
def foreign_lab(engine: EngineName = "fast", *, watch: bool = True) -> Iterator[ForeignLab]:
    with CpuLab(engine, foreign_writes=watch) as lab:
        made = ForeignLab(lab)
        try:
            yield made
        finally:
            made.memory.close()


@pytest.fixture
def foreign() -> Iterator[ForeignLab]:
    with foreign_lab() as made:
        yield made


REMAPS = pytest.mark.parametrize("remap", [INVLPG, RELOAD_CR3], ids=["invlpg", "cr3"])


@REMAPS
def test_code_that_another_process_wrote_runs_once_it_is_mapped(foreign: ForeignLab, remap: bytes) -> None:
    foreign.lab.put(PHYSICAL, give(1))
    foreign.writes = [(PHYSICAL, give(2))]
    assert foreign.two_calls(remap) == [1, 2]
    assert foreign.changes == 1


@REMAPS
def test_an_engine_that_does_not_watch_runs_the_old_code(remap: bytes) -> None:
    """Shows what the watch is for."""
    with foreign_lab(watch=False) as foreign:
        foreign.lab.put(PHYSICAL, give(1))
        foreign.writes = [(PHYSICAL, give(2))]
        assert foreign.two_calls(remap) == [1, 1]


def test_a_mapping_that_is_read_before_it_is_executed_is_watched_too(foreign: ForeignLab) -> None:
    """One TLB entry serves both, so the fetch itself fills nothing."""
    foreign.lab.put(PHYSICAL, give(1))
    foreign.writes = [(PHYSICAL, give(2))]
    assert foreign.two_calls(RELOAD_CR3 + code("8b0425") + struct.pack("<I", EXECUTED)) == [1, 2]


def test_a_new_address_of_the_page_needs_no_flush(foreign: ForeignLab) -> None:
    lab = foreign.lab
    lab.put(PHYSICAL, give(1))
    lab.put(TABLE + 8 * (SECOND_LOOK >> 12 & 511), bytes(8))
    foreign.writes = [(PHYSICAL, give(2))]
    enter = store(TABLE + 8 * (SECOND_LOOK >> 12 & 511), PHYSICAL | 7)
    lab.long64(call(EXECUTED) + KEEP + ASK + enter + call(SECOND_LOOK) + HALT)
    assert (lab.reg("r8"), lab.reg("rax")) == (1, 2)


@pytest.mark.parametrize("remap", [INVLPG_NEXT, RELOAD_CR3], ids=["invlpg", "cr3"])
def test_a_block_that_ends_in_the_page_that_was_written(foreign: ForeignLab, remap: bytes) -> None:
    """The engine looks at the second page only while it compares, with the old block in its hand."""
    foreign.lab.put(PHYSICAL + 4093, give(0x1_0002))
    foreign.writes = [(PHYSICAL + 4096, b"\7")]  # third byte of the number
    assert foreign.two_calls(remap, EXECUTED + 4093) == [0x1_0002, 0x7_0002]


def test_nothing_is_dropped_where_nobody_wrote(foreign: ForeignLab) -> None:
    for page in range(PAGES):
        foreign.lab.put(PHYSICAL + 4096 * page, give(page))
    calls = b"".join(call(EXECUTED + 4096 * page) for page in range(PAGES))
    body = RELOAD_CR3 + calls
    foreign.lab.long64(imm32("bf", 200) + body + code("ffcf 0f85") + struct.pack("<i", -len(body) - 8) + HALT)
    assert foreign.checks > 200 * PAGES
    assert foreign.changes == 0


USED_IDX = 0x28_0000
MOVES = [(PHYSICAL, give(2)), (USED_IDX, b"\1")]


@pytest.mark.parametrize(("moves", "gives"), [(2, 2), (1, 1)], ids=["index moves", "index rests"])
def test_a_page_is_checked_again_once_a_used_index_has_moved(
    foreign: ForeignLab, moves: int, gives: int
) -> None:
    lab = foreign.lab
    lab.engine.watch_rings([USED_IDX + 64, USED_IDX])
    lab.put(PHYSICAL, give(1))
    foreign.writes = MOVES[:moves]
    checked = call(EXECUTED) + RELOAD_CR3 + call(EXECUTED)
    lab.long64(checked + ASK * moves + RELOAD_CR3 + call(EXECUTED) + HALT)
    assert lab.reg("rax") == gives


@pytest.mark.parametrize("watched", [[1 << 40], [RAM - 1], [USED_IDX] * 257])
def test_rings_that_cannot_be_watched_leave_every_page_checked(
    foreign: ForeignLab, watched: list[int]
) -> None:
    foreign.lab.engine.watch_rings(watched)
    foreign.lab.put(PHYSICAL, give(1))
    foreign.writes = MOVES[:1]
    assert foreign.two_calls(RELOAD_CR3) == [1, 2]


def test_nothing_is_checked_twice_while_the_rings_rest(foreign: ForeignLab) -> None:
    foreign.lab.engine.watch_rings([USED_IDX])
    foreign.lab.put(PHYSICAL, give(1))
    for flushes in (1, 100):
        foreign.lab.long64((RELOAD_CR3 + call(EXECUTED)) * flushes + HALT)
    assert 0 < foreign.checks < 10


def test_an_interrupt_counts_where_the_rings_rest(foreign: ForeignLab) -> None:
    foreign.lab.engine.watch_rings([])
    foreign.lab.on_out = foreign.interrupt
    foreign.lab.put(PHYSICAL, give(1))
    foreign.writes = MOVES[:1]
    checked = call(EXECUTED) + RELOAD_CR3 + call(EXECUTED)
    foreign.lab.long64(checked + ASK + WAIT + RELOAD_CR3 + call(EXECUTED) + HALT)
    assert foreign.lab.reg("rax") == 2


def test_data_beside_code_may_change(foreign: ForeignLab) -> None:
    """By the guest and by another process; 64 bytes are looked at as one."""
    foreign.lab.put(PHYSICAL, give(1))
    foreign.writes = [(PHYSICAL + 64, b"data")] * 3
    program = call(EXECUTED) + ASK + store(EXECUTED + 128, 5) + RELOAD_CR3
    foreign.lab.long64(3 * program + call(EXECUTED) + HALT)
    assert foreign.lab.reg("rax") == 1
    assert foreign.changes == 0


def test_code_that_the_guest_changes_is_dropped_at_most_once_more(foreign: ForeignLab) -> None:
    foreign.lab.put(PHYSICAL, give(0))
    rounds = 5
    for value in range(rounds):
        foreign.lab.long64(
            store(PHYSICAL + 1, value) + call(EXECUTED) + 3 * (RELOAD_CR3 + call(EXECUTED)) + HALT
        )
        assert foreign.lab.reg("rax") == value
    assert foreign.changes <= rounds


@pytest.mark.parametrize("flushes", [0, 1])
def test_another_process_may_put_back_what_the_guest_changed(foreign: ForeignLab, flushes: int) -> None:
    """The page is then as it was when its first block was made, but not as for the last one."""
    foreign.lab.put(PHYSICAL, give(1))
    foreign.lab.put(PHYSICAL + 32, give(1))  # keeps the page one of code
    foreign.writes = [(PHYSICAL, give(1))]
    change = call(EXECUTED + 32) + store(ALIAS + 1, 2) + flushes * RELOAD_CR3
    foreign.lab.long64(
        call(EXECUTED) + change + call(EXECUTED) + KEEP + ASK + RELOAD_CR3 + call(EXECUTED) + HALT
    )
    assert (foreign.lab.reg("r8"), foreign.lab.reg("rax")) == (2, 1)


@pytest.mark.parametrize("engine", ENGINES)
def test_after_an_interrupt_new_code_runs_where_it_was_mapped_all_along(engine: EngineName) -> None:
    """Firmware's mappings allow everything and never change."""
    with foreign_lab(engine) as foreign:
        lab = foreign.lab
        lab.on_out = foreign.interrupt
        lab.put(PHYSICAL, give(1))
        foreign.writes = [(PHYSICAL, give(2))]
        lab.long64(DISABLE_NX + call(EXECUTED) + KEEP + ASK + WAIT + call(EXECUTED) + HALT)
        assert (lab.reg("r8"), lab.reg("rax")) == (1, 2)


def random_run(foreign: ForeignLab, seed: int) -> tuple[int, int]:
    """Stores, calls, writes from outside, each made known by a new mapping: wrong calls, and all."""
    dice, lab, wrong, calls = random.Random(seed), foreign.lab, 0, 0
    places = [(page, at) for page in range(PAGES) for at in (16, 32, 70, 128, 1000, 4092)]
    value = dict.fromkeys(places, 0)
    for page, at in places:
        lab.put(PHYSICAL + 4096 * page + at, give(0))
    for _ in range(120):
        program, expected = b"", []
        for _ in range(30):
            page, at = key = dice.choice(places)
            offset, kind = 4096 * page + at, dice.random()
            base = dice.choice((EXECUTED, ALIAS, PHYSICAL)) + offset
            if kind < 0.2:
                value[key] = dice.getrandbits(31)
                program += store(base + 1, value[key])
            elif kind < 0.4:
                value[key] = dice.choice((0, 1, value[key] ^ 1 << dice.randrange(31)))
                foreign.writes.append((PHYSICAL + offset, give(value[key])))
                program += ASK
                if dice.random() < 0.5:
                    program += RELOAD_CR3
                else:
                    for start in (EXECUTED, PHYSICAL):
                        for where in (start + offset & -4096, start + offset + 4 & -4096):
                            program += imm32("be", where) + code("0f013e")
            elif kind < 0.45:
                program += RELOAD_CR3
            else:
                expected.append(value[key])
                start = dice.choice((EXECUTED, EXECUTED, PHYSICAL))
                program += call(start + offset) + b"\x89\x04\x25"
                program += struct.pack("<I", RESULTS + 4 * len(expected))
        lab.long64(ENABLE_NX + program + HALT)
        found = struct.unpack_from(f"<{len(expected)}I", lab.ram, RESULTS + 4)
        wrong += sum(a != b for a, b in zip(found, expected, strict=True))
        calls += len(expected)
    return wrong, calls


@pytest.mark.parametrize("seed", range(3))
def test_random_writes_from_outside_never_leave_old_code(foreign: ForeignLab, seed: int) -> None:
    wrong, calls = random_run(foreign, seed)
    assert (wrong, calls > 1000) == (0, True)


def test_without_the_watch_they_do() -> None:
    with foreign_lab(watch=False) as foreign:
        assert random_run(foreign, 0)[0] > 100


def test_invlpg_of_a_large_page_forgets_all_of_its_code() -> None:
    """The engine of its own keeps the blocks beyond the 4 KiB that are named."""
    with CpuLab() as lab:
        entry = 0xC000 + 8 * (EXECUTED >> 21)
        for gpa, value in ((0x40_0000, 1), (0x60_0000, 2)):
            lab.put(gpa + 0x5000, give(value))
        lab.put(entry, struct.pack("<Q", 0x40_0000 | 0x87))
        swap = store(entry, 0x60_0000 | 0x87) + INVLPG
        lab.long64(call(EXECUTED + 0x5000) + KEEP + swap + call(EXECUTED + 0x5000) + HALT)
        assert (lab.reg("r8"), lab.reg("rax")) == (1, 2)
