"""The thread that turns descriptors' events into calls."""

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from emu.bus.eventfd import EventFd
from emu.errors import EmuError
from emu.kernel.listener import Listener

LIMIT_S = 20


@pytest.fixture
def failures() -> list[BaseException]:
    return []


@pytest.fixture
def listener(failures: list[BaseException]) -> Iterator[Listener]:
    made = Listener(failures.append)
    yield made
    made.close()


class Calls:
    """Counts calls and lets a test wait for them."""

    def __init__(self) -> None:
        self.count = threading.Semaphore(0)

    def __call__(self) -> None:
        self.count.release()

    def expect(self) -> None:
        assert self.count.acquire(timeout=LIMIT_S)

    def none_left(self) -> bool:
        return not self.count.acquire(blocking=False)


def test_each_signal_of_an_event_is_a_call_without_its_being_read(listener: Listener) -> None:
    event, calls = EventFd(), Calls()
    listener.watch(event.fd, calls)
    for _ in range(3):
        event.signal()
        calls.expect()
    assert event.wait() == 3


def test_a_peer_that_leaves_is_a_call(listener: Listener) -> None:
    ours, theirs = socket.socketpair()
    calls = Calls()
    listener.watch(ours.fileno(), calls)
    theirs.close()
    calls.expect()
    assert ours.recv(1) == b""
    ours.close()


def test_who_waits_for_the_end_hears_of_no_data(listener: Listener) -> None:
    ours, theirs = socket.socketpair()
    event, ends, others = EventFd(), Calls(), Calls()
    listener.watch(ours.fileno(), ends, hangup=True)
    listener.watch(event.fd, others)
    theirs.send(b"x")
    event.signal()
    others.expect()
    assert ends.none_left()
    theirs.close()
    ends.expect()
    ours.close()


def test_nothing_is_called_after_unwatch(listener: Listener) -> None:
    event, other, calls, others = EventFd(), EventFd(), Calls(), Calls()
    listener.watch(event.fd, calls)
    listener.watch(other.fd, others)
    listener.unwatch(event.fd)
    listener.unwatch(event.fd)
    event.signal()
    other.signal()
    others.expect()
    assert calls.none_left()


def test_unwatch_waits_for_the_call_that_runs(listener: Listener) -> None:
    event, began, may_end = EventFd(), threading.Event(), threading.Event()
    ended: list[bool] = []

    def call() -> None:
        began.set()
        may_end.wait(LIMIT_S)
        ended.append(True)

    listener.watch(event.fd, call)
    event.signal()
    assert began.wait(LIMIT_S)
    threading.Timer(0.01, may_end.set).start()
    listener.unwatch(event.fd)
    assert ended == [True]


def test_a_call_may_unwatch_itself(listener: Listener) -> None:
    event, calls = EventFd(), Calls()

    def once() -> None:
        listener.unwatch(event.fd)
        calls()

    listener.watch(event.fd, once)
    event.signal()
    calls.expect()


def test_what_a_call_raises_is_told_and_the_others_go_on(
    listener: Listener, failures: list[BaseException]
) -> None:
    bad, good, calls, error = EventFd(), EventFd(), Calls(), ValueError("ours")

    def wrong() -> None:
        raise error

    listener.watch(bad.fd, wrong)
    listener.watch(good.fd, calls)
    bad.signal()
    good.signal()
    calls.expect()
    bad.signal()
    good.signal()
    calls.expect()
    assert failures == [error]


def test_a_closed_listener_leaves_no_thread_and_no_descriptor() -> None:
    before, threads = os.listdir("/proc/self/fd"), threading.active_count()  # noqa: PTH208 - the names only
    made, event = Listener(lambda _error: None), EventFd()
    made.watch(event.fd, lambda: None)
    made.close()
    made.close()
    event.close()
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208
    assert threading.active_count() == threads
    with pytest.raises(EmuError):
        made.watch(0, lambda: None)
