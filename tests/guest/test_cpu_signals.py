"""Signals to the process reach Python's handlers while a guest runs or sleeps, and do it no harm."""

import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from emu.cpu.vcpu import Stop
from emu.testing.cpu_lab import ENGINES, CpuLab, EngineName, code

pytestmark = pytest.mark.timeout(60)
SIGNALS = 50


@pytest.fixture(params=ENGINES)
def lab(request: pytest.FixtureRequest) -> Iterator[CpuLab]:
    engine: EngineName = request.param
    with CpuLab(engine) as made:
        yield made


@pytest.fixture
def on_signal() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Install a handler of SIGUSR1 for one test."""
    before = signal.getsignal(signal.SIGUSR1)

    def install(call: Callable[[], None]) -> None:
        signal.signal(signal.SIGUSR1, lambda _number, _frame: call())

    yield install
    signal.signal(signal.SIGUSR1, before)


def test_a_halted_guest_sleeps_on_after_a_signal(
    lab: CpuLab, on_signal: Callable[[Callable[[], None]], None]
) -> None:
    halted, seen = threading.Event(), threading.Event()
    lab.on_out = lambda _port, _value: halted.set()
    on_signal(seen.set)
    vcpu = threading.main_thread().ident
    assert vcpu is not None

    def send() -> None:
        halted.wait()
        for _ in range(SIGNALS):
            signal.pthread_kill(vcpu, signal.SIGUSR1)
            seen.wait(0.01)  # one that comes just before the sleep is heard after it
            seen.clear()
        lab.vcpu.request_stop()

    thread = threading.Thread(target=send)
    thread.start()
    assert lab.long64(code("fb e680 f4 ebfd ; sti; out 0x80, al; l: hlt; jmp l")) is Stop.REQUESTED
    thread.join()
