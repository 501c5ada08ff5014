"""EventFd: a counter across threads, or a call inside of one."""

import os
import threading

from emu.bus.eventfd import EventFd


def test_a_waiter_takes_all_signals_at_once() -> None:
    event = EventFd()
    event.signal()
    event.signal()
    assert event.wait() == 2
    event.close()


def test_a_blocked_waiter_is_woken_from_another_thread() -> None:
    event, seen = EventFd(), []
    thread = threading.Thread(target=lambda: seen.append(event.wait()))
    thread.start()
    event.signal()
    thread.join(10)
    assert seen == [1]
    event.close()


def test_a_bound_consumer_is_called_and_the_counter_stays_untouched() -> None:
    event, calls = EventFd(), []
    event.bind(lambda: calls.append("called"))
    assert event.bound
    event.signal()
    assert calls == ["called"]
    os.set_blocking(event.fileno(), False)
    event.write()  # past the consumer: the only thing that counts
    assert event.wait() == 1
    event.close()


def test_an_unbound_event_counts_again() -> None:
    event = EventFd()
    event.bind(lambda: None)
    event.unbind()
    assert not event.bound
    event.signal()
    assert event.wait() == 1
    event.close()


def test_the_descriptor_is_not_inherited_and_closing_twice_is_harmless() -> None:
    event = EventFd()
    assert not os.get_inheritable(event.fd)
    event.close()
    event.close()
