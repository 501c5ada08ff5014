"""Interrupts of other processes: by the listener while the guest runs, by the halted CPU's own thread."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emu.bus.eventfd import EventFd
from emu.kernel.call_events import CallEvents
from emu.kernel.listener import Listener

LIMIT_S = 20
EPOLL_WAITS = ("232 ", "281 ")
"""epoll_wait and epoll_pwait of x86-64, as /proc shows them."""


class Rig:
    """The events, and threads that were called."""

    def __init__(self) -> None:
        self.failures: list[BaseException] = []
        self.wake, self.call = EventFd("wake"), EventFd("call")
        self.listener = Listener(self.failures.append)
        self.events = CallEvents(self.listener, self.wake.fd)
        self.owner, self.waiting = threading.get_ident(), False
        self.threads: list[int] = []
        self.called = threading.Semaphore(0)
        self.events.watch(self.call.fd, self.hear)

    def hear(self) -> None:
        """As the vCPU is poked: one that is about to halt is woken."""
        self.threads.append(threading.get_ident())
        self.called.release()
        if self.waiting and threading.get_ident() != self.owner:
            self.waiting = False
            self.wake.write()

    def halt(self) -> None:
        """As the vCPU's idle loop: first the flag, then a look, then the wait."""
        self.waiting = True
        if not self.called.acquire(blocking=False):
            assert self.events.wait() >= 3
        else:
            self.called.release()
        self.waiting = False

    def close(self) -> None:
        self.events.close()
        self.listener.close()
        assert self.failures == []


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig()
    yield made
    made.close()


def later(call: Callable[[], None]) -> threading.Thread:
    """Call on another thread, which the kernel runs when this one waits."""
    thread = threading.Thread(target=call)
    thread.start()
    return thread


def test_a_running_guest_is_called_by_the_listener(rig: Rig) -> None:
    for _ in range(3):
        rig.call.write()
        assert rig.called.acquire(timeout=LIMIT_S)
    assert rig.owner not in rig.threads
    assert rig.events.costs.syscalls == 2 * 3


def wait_asleep(native_id: int) -> None:
    """Until that thread of ours waits in the kernel for an epoll set."""
    place, deadline = Path(f"/proc/self/task/{native_id}/syscall"), time.monotonic() + LIMIT_S
    while not place.read_text().startswith(EPOLL_WAITS):
        assert time.monotonic() < deadline, "it does not wait"


def test_a_halted_cpu_hears_by_itself_and_the_listener_sleeps(rig: Rig) -> None:
    looks, owner = rig.events.costs.syscalls, threading.get_native_id()

    def write() -> None:
        wait_asleep(owner)
        rig.call.write()

    for _ in range(50):
        thread = later(write)
        rig.halt()
        assert rig.called.acquire(blocking=False)
        thread.join()
    assert rig.threads == [rig.owner] * 50
    assert rig.events.costs.syscalls == looks


def test_the_wake_up_event_ends_the_wait_and_is_taken(rig: Rig) -> None:
    rig.wake.write()
    assert rig.events.wait() == 4
    os.set_blocking(rig.wake.fd, False)
    with pytest.raises(BlockingIOError):
        rig.wake.wait()
    assert rig.threads == []


def test_each_signal_is_heard_once_however_the_cpu_halts_and_runs(rig: Rig) -> None:
    total, done = 2000, threading.Event()

    def signal() -> None:
        for _ in range(total):
            rig.call.write()
            assert heard.acquire(timeout=LIMIT_S), "it was not heard"
        done.set()

    heard = threading.Semaphore(0)
    thread = later(signal)
    while len(rig.threads) < total:
        if rig.called.acquire(blocking=False):
            heard.release()
        else:
            rig.halt()
    heard.release()
    thread.join(LIMIT_S)
    assert done.is_set()
    assert len(rig.threads) == total


def test_an_event_that_is_held_back_is_heard_when_it_is_released(rig: Rig) -> None:
    ended: list[int] = []
    rig.events.hold(rig.call.fd, lambda: ended.append(1))
    assert rig.events.holds(rig.call.fd)
    rig.call.write()
    other, heard = EventFd("other"), threading.Semaphore(0)
    rig.events.watch(other.fd, heard.release)
    other.write()
    assert heard.acquire(timeout=LIMIT_S)
    assert (rig.threads, ended) == ([], [])
    rig.events.release(rig.call.fd)
    assert rig.called.acquire(timeout=LIMIT_S)
    assert (ended, rig.events.holds(rig.call.fd)) == ([1], False)
    rig.call.write()
    assert rig.called.acquire(timeout=LIMIT_S)


def test_a_cpu_that_halts_releases_what_is_held_back_and_looks_again_before_it_sleeps(rig: Rig) -> None:
    ended: list[int] = []
    rig.events.hold(rig.call.fd, lambda: ended.append(rig.events.halts))
    assert rig.events.wait() == 1
    assert (ended, rig.events.holds(rig.call.fd)) == ([1], False)
    rig.call.write()
    while not rig.called.acquire(blocking=False):
        rig.halt()
    assert rig.events.halts >= 1
    assert ended == [1]


def test_what_is_held_back_is_forgotten_with_its_event(rig: Rig) -> None:
    rig.events.hold(rig.call.fd, lambda: pytest.fail("it is gone"))
    rig.events.unwatch(rig.call.fd)
    assert not rig.events.holds(rig.call.fd)
    rig.wake.write()
    assert rig.events.wait() == 4


def test_nothing_is_called_any_more_after_unwatch(rig: Rig) -> None:
    rig.events.unwatch(rig.call.fd)
    rig.events.unwatch(rig.call.fd)
    rig.call.write()
    rig.wake.write()
    rig.events.wait()
    other = EventFd("other")
    heard = threading.Semaphore(0)
    rig.events.watch(other.fd, heard.release)
    other.write()
    assert heard.acquire(timeout=LIMIT_S)
    assert rig.threads == []
    rig.events.unwatch(other.fd)
