"""Other threads: stops, posts, pokes and DMA reach the guest, and no instruction is done twice or lost."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from emu.cpu.vcpu import Stop
from emu.testing.cpu_lab import DATA, ENGINES, HALT, IRETQ, CpuLab, EngineName, code, imm32

pytestmark = pytest.mark.timeout(60)
VECTOR = 0x30
SPIN = code("ebfe")
BOTH_IF = pytest.mark.parametrize("if_flag", ["fb", "fa"], ids=["IF=1", "IF=0"])


@pytest.fixture(params=ENGINES)
def lab(request: pytest.FixtureRequest) -> Iterator[CpuLab]:
    engine: EngineName = request.param
    with CpuLab(engine) as made:
        made.gate(VECTOR, code("49ffc1") + IRETQ)
        yield made


@contextmanager
def meanwhile(lab: CpuLab, work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Run `work(over)` on another thread; `over` is set at the end of the block, which its failure ends."""
    over = threading.Event()
    failures: list[BaseException] = []

    def call() -> None:
        try:
            work(over)
        except BaseException as error:  # shown by the test
            failures.append(error)
            lab.vcpu.request_stop()

    thread = threading.Thread(target=call)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        if failures:
            raise failures[0]


@BOTH_IF
def test_a_stop_reaches_a_guest_that_spins(lab: CpuLab, if_flag: str) -> None:
    started = threading.Event()
    lab.vcpu.post(started.set)

    def stop(_over: threading.Event) -> None:
        started.wait()
        lab.vcpu.request_stop()

    with meanwhile(lab, stop):
        assert lab.long64(code(if_flag) + SPIN) is Stop.REQUESTED


def test_a_stop_before_the_run_is_not_lost(lab: CpuLab) -> None:
    lab.vcpu.request_stop()
    assert lab.long64(SPIN) is Stop.REQUESTED


def test_a_stop_reaches_a_halted_guest(lab: CpuLab) -> None:
    halted = threading.Event()
    lab.on_out = lambda _port, _value: halted.set()

    def stop(_over: threading.Event) -> None:
        halted.wait()
        lab.vcpu.request_stop()

    with meanwhile(lab, stop):
        assert lab.long64(code("fb e680 f4 ebfd")) is Stop.REQUESTED


@BOTH_IF
def test_a_deadline_armed_after_a_post_does_not_hide_it(lab: CpuLab, if_flag: str) -> None:
    """Another thread posts while a chip is being written, and the chip then arms a timer for much later."""

    def on_out(_port: int, _value: int) -> None:
        poster = threading.Thread(target=lab.vcpu.request_stop)
        poster.start()
        poster.join()
        lab.clock.call_at(lab.clock.now_ns() + 10**15, lambda: None)

    lab.on_out = on_out
    assert lab.long64(code(if_flag) + code("e680") + SPIN) is Stop.REQUESTED


@BOTH_IF
def test_no_post_of_thousands_is_lost(lab: CpuLab, if_flag: str) -> None:
    made: list[int] = []

    def post(_over: threading.Event) -> None:
        for i in range(3000):
            lab.vcpu.post(lambda i=i: made.append(i))
            if i % 3 == 0:
                done = threading.Event()
                lab.vcpu.post(done.set)
                assert done.wait(10)
        lab.vcpu.request_stop()

    with meanwhile(lab, post):
        assert lab.long64(code(if_flag) + SPIN) is Stop.REQUESTED
    assert made == list(range(3000))


def test_stop_and_go_a_thousand_times(lab: CpuLab) -> None:
    """Each round another stop; the guest's counter goes on where it was."""
    lab.start64(code("31c0 48ffc0 ebfb ; xor eax, eax; l: inc rax; jmp l"))
    lab.vcpu.post(lambda: None)
    again = threading.Semaphore(0)

    def stop(_over: threading.Event) -> None:
        for _ in range(1000):
            lab.vcpu.request_stop()
            again.acquire()

    with meanwhile(lab, stop):
        for _ in range(1000):
            assert lab.vcpu.run() is Stop.REQUESTED
            again.release()
    assert lab.reg("rax") > 0


@pytest.mark.parametrize("halt", [False, True], ids=["spinning", "halted"])
def test_no_interrupt_of_thousands_is_lost(lab: CpuLab, halt: bool) -> None:
    # the slices of the public engine leave the GIL for microseconds: on a busy host each poke waits its turn
    count, served = 2000 if lab.fast is not None else 500, threading.Semaphore(0)
    lab.on_out = lambda _port, _value: served.release()
    lab.gate(VECTOR, code("49ffc1 e680") + IRETQ)

    def poke(_over: threading.Event) -> None:
        for _ in range(count):
            lab.vectors.waiting.append(VECTOR)
            lab.vcpu.poke_from_outside()
            assert served.acquire(timeout=10)

    wait = code("fb f4" if halt else "fb 90")
    with meanwhile(lab, poke):
        lab.long64(wait + imm32("4981f9", count) + code("72f6 fa f4 ; l: cmp r9, count; jb l; cli; hlt"))
    assert lab.reg("r9") == count


# ---- read-modify-write under fire --------------------------------------------------------------------

HAMMER = {
    "inc": code("48ff03"),
    "lock inc": code("f048ff03"),
    "add": code("48830301"),
    "lock add": code("f048830301"),
    "xadd": code("b801000000 480fc103"),
    "lock xadd": code("b801000000 f0480fc103"),
    "cmpxchg": code("488b03 488d4801 480fb10b ; mov rax, [rbx]; lea rcx, [rax+1]; cmpxchg [rbx], rcx"),
    "lock cmpxchg": code("488b03 488d4801 f0480fb10b"),
    "push and pop memory": code("ff33 8f03 48ff03 ; push [rbx]; pop [rbx]; inc qword [rbx]"),
    "xchg": code("488b03 48ffc0 488703 ; mov rax, [rbx]; inc rax; xchg [rbx], rax"),
    "adc": code("f9 48831300 ; stc; adc qword [rbx], 0"),
    "sub": code("48832bff ; sub qword [rbx], -1"),
    "call and ret": code("e803000000 eb04 90 48ff03 c3")[:0] + code("e802000000 eb04 48ff03 c3"),
}


@pytest.mark.parametrize("name", HAMMER)
def test_read_modify_write_is_done_once_under_stops_and_interrupts(lab: CpuLab, name: str) -> None:
    rounds = 10_000_000 if lab.fast is not None else 500_000
    body = HAMMER[name]
    program = code("fb") + imm32("bb", DATA) + imm32("bf", rounds) + body + code("ffcf 0f85")
    program += (-(len(body) + 8)).to_bytes(4, "little", signed=True) + code("fa f4")
    sent = [0, 0]

    def harass(over: threading.Event) -> None:
        while not over.is_set():
            lab.vcpu.post(lambda: None)
            sent[0] += 1
            if len(lab.vectors.waiting) < 8:
                lab.vectors.waiting.append(VECTOR)
                sent[1] += 1
            lab.vcpu.poke_from_outside()
            over.wait(2e-5)

    with meanwhile(lab, harass):
        assert lab.long64(program) is Stop.HALTED
    assert lab.u64(DATA) == rounds
    assert lab.reg("r9") == lab.engine.interrupts
    assert lab.engine.interrupts + len(lab.vectors.waiting) == sent[1]
    assert sent[0] > 50


def test_string_moves_are_whole_under_stops_and_interrupts(lab: CpuLab) -> None:
    """REP STOSB, REP MOVSB and a checksum of the copy, again and again."""
    lab.ram[DATA : DATA + 0x1000] = bytes(i * 7 & 0xFF for i in range(0x1000))
    program = code("fb") + imm32("bd", 150)
    body = imm32("be", DATA) + imm32("bf", DATA + 0x2000) + imm32("b9", 0x1000) + code("f3a4")
    body += imm32("bf", DATA + 0x4000) + imm32("b9", 0x1000) + code("b05a f3aa ffcd 0f85")
    program += body + (-(len(body) + 4)).to_bytes(4, "little", signed=True) + code("fa f4")

    def harass(over: threading.Event) -> None:
        while not over.is_set():
            lab.vcpu.post(lambda: None)
            if not lab.vectors.waiting:
                lab.vectors.waiting.append(VECTOR)
            lab.vcpu.poke_from_outside()
            over.wait(2e-5)

    with meanwhile(lab, harass):
        assert lab.long64(program) is Stop.HALTED
    assert lab.ram[DATA + 0x2000 : DATA + 0x3000] == lab.ram[DATA : DATA + 0x1000]
    assert bytes(lab.ram[DATA + 0x4000 : DATA + 0x5000]) == b"\x5a" * 0x1000


def test_device_accesses_are_done_once_under_stops_and_interrupts(lab: CpuLab) -> None:
    values = iter(range(1 << 30))
    lab.on_load = lambda _at, _width: next(values)
    rounds = 20_000
    body = code("8b03 8903 ; mov eax, [rbx]; mov [rbx], eax")
    program = code("fb") + imm32("bb", 0xE000_0000) + imm32("bf", rounds) + body + code("ffcf 0f85")
    program += (-(len(body) + 8)).to_bytes(4, "little", signed=True) + code("fa f4")

    def harass(over: threading.Event) -> None:
        while not over.is_set():
            lab.vcpu.post(lambda: None)
            if not lab.vectors.waiting:
                lab.vectors.waiting.append(VECTOR)
            lab.vcpu.poke_from_outside()
            over.wait(2e-5)

    with meanwhile(lab, harass):
        assert lab.long64(program) is Stop.HALTED
    assert [value for _, value in lab.stores] == list(range(rounds))


# ---- failures ----------------------------------------------------------------------------------------


class BrokenError(Exception):
    pass


def broken(*_arguments: object) -> int:
    raise BrokenError


@pytest.mark.parametrize(
    "hook", ["out", "in", "load", "store", "rdmsr", "wrmsr", "acknowledge", "timer", "post"]
)
def test_an_exception_of_ours_ends_the_run_as_itself(lab: CpuLab, hook: str) -> None:
    lab.msrs.add(0x1B, broken, broken)
    programs = {
        "out": "e680",
        "in": "e480",
        "load": "bb000000e0 8b03",
        "store": "bb000000e0 8903",
        "rdmsr": "b91b000000 0f32",
        "wrmsr": "b91b000000 0f30",
    }
    if hook == "out":
        lab.on_out = broken
    if hook == "in":
        lab.on_in = broken
    if hook == "load":
        lab.on_load = broken
    if hook == "store":
        lab.on_store = broken
    if hook == "acknowledge":
        lab.vectors.acknowledge = broken
        lab.vectors.waiting.append(VECTOR)
    if hook == "timer":
        lab.clock.call_at(lab.clock.now_ns() + 1_000_000, broken)
    if hook == "post":
        lab.vcpu.post(broken)
    with pytest.raises(BrokenError):
        lab.long64(code("fb 90") + code(programs.get(hook, "90")) + SPIN)


# ---- DMA into code -----------------------------------------------------------------------------------

FUNCTION = 0x30_0000


def give(value: int) -> bytes:
    return imm32("b8", value) + b"\xc3"


def test_dma_from_a_hook_changes_code_before_the_next_instruction(lab: CpuLab) -> None:
    lab.put(FUNCTION, give(1))
    lab.on_out = lambda _port, _value: lab.put(FUNCTION, give(2))
    call = imm32("bb", FUNCTION) + code("ffd3")
    lab.long64(call + code("89c1 e680") + call + HALT)
    assert (lab.reg("rcx"), lab.reg("rax")) == (1, 2)


def test_dma_at_a_doorbell_changes_code_before_the_next_instruction(lab: CpuLab) -> None:
    lab.put(FUNCTION, give(1))
    rings = [0]

    def on_store(_at: int, value: int) -> None:
        rings[0] += 1
        lab.put(FUNCTION, give(value))

    lab.on_store = on_store
    call = imm32("bb", FUNCTION) + code("ffd3")
    program = call + imm32("be", 0xE000_0000)
    for value in (5, 6, 7):
        program += imm32("b8", value) + code("8906") + call + code("41 01c0")  # add r8d, eax
    lab.long64(program + HALT)
    assert (lab.reg("r8"), rings[0]) == (18, 3)


def test_dma_from_another_thread_changes_code_that_runs(lab: CpuLab) -> None:
    """The guest calls the function for ever; each new value is seen before the next is written."""
    lab.put(FUNCTION, give(0))
    lab.on_load = lambda _at, _width: 0

    def write(_over: threading.Event) -> None:
        for value in range(1, 200):
            lab.put(FUNCTION, give(value))
            lab.ram[DATA : DATA + 4] = value.to_bytes(4, "little")

    # l: mov esi, [DATA]; call; cmp eax, esi; jb fail; cmp eax, 199; jb l; hlt; fail: ud2
    program = imm32("bb", FUNCTION) + imm32("bd", DATA)
    program += code("8b7500 ffd3 39f0 720a 3dc7000000 72f0 f4 90 0f0b 0f0b")
    with meanwhile(lab, write):
        assert lab.long64(code("fa") + program) is Stop.HALTED
    assert (lab.vector(), lab.reg("rax")) == (-1, 199)
