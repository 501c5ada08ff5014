"""Who hears what the host has for a device: the listener, or the doorbells of a guest that rings often."""

import functools
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from emu.bus.eventfd import EventFd
from emu.clock import GuestClock
from emu.dataplanes.inline import inline_plane
from emu.devices.net.stream import StreamPeer
from emu.devices.virtio.net import VirtioNet
from emu.devices.virtio.spec import F_RING_EVENT_IDX, F_VERSION_1, NET_F_MRG_RXBUF
from emu.errors import DriverError
from emu.kernel.call_events import CallEvents
from emu.kernel.listener import Listener
from emu.kernel.sources import OFTEN_NS, Sources
from emu.testing.driver_queue import DriverQueue

LIMIT_S = 20
MAC = bytes.fromhex("525400123456")
PLAIN = bytes(12)
FRAME = MAC + bytes.fromhex("0200000000aa0800") + bytes(46)
FRAMED = len(FRAME).to_bytes(4, "big") + FRAME


class Host:
    """Sources whose time and whose vCPU are the test's; `posted` are calls for that."""

    def __init__(self) -> None:
        self.failures: list[BaseException] = []
        self.wake = EventFd("wake")
        self.clock = GuestClock()
        self.listener = Listener(self.failures.append)
        self.events = CallEvents(self.listener, self.wake.fd)
        self.sources = Sources(self.events, self.clock)
        self.posted: list[Callable[[], None]] = []
        self.arrived = threading.Semaphore(0)
        self.halt()

    def post(self, call: Callable[[], None]) -> None:
        self.posted.append(call)
        self.arrived.release()

    def halt(self) -> None:
        """A HLT that something ends at once."""
        self.wake.write()
        while self.events.wait() != 4:
            pass

    def until_posted(self) -> None:
        """Make the call that the listener has for the vCPU."""
        assert self.arrived.acquire(timeout=LIMIT_S)
        self.posted.pop(0)()

    def settle(self) -> None:
        """Return once the listener has had a look at all events before."""
        mark, heard = EventFd("mark"), threading.Semaphore(0)
        self.events.watch(mark.fd, heard.release)
        mark.write()
        assert heard.acquire(timeout=LIMIT_S)
        self.events.unwatch(mark.fd)

    def close(self) -> None:
        self.events.close()
        self.listener.close()
        assert self.failures == []


@pytest.fixture
def host() -> Iterator[Host]:
    with closing(Host()) as made:
        yield made


class Watched:
    """An eventfd among the sources."""

    def __init__(self, host: Host) -> None:
        self.event, self.ends = EventFd("source"), 0
        host.sources.watch(self.event.fd, lambda: host.post(lambda: None), self.end)
        self._host = host

    def end(self) -> None:
        self.ends += 1

    def rung(self) -> bool:
        return self._host.sources.rung(self.event.fd)


def test_the_second_of_two_doorbells_holds_the_descriptor_back(host: Host) -> None:
    source = Watched(host)
    assert not source.rung()
    source.event.write()
    host.until_posted()
    host.clock.advance(OFTEN_NS - 1)
    assert source.rung()
    source.event.write()
    host.settle()
    assert host.posted == []
    assert source.rung(), "the caller is to look"


def test_doorbells_that_come_seldom_hold_nothing_back(host: Host) -> None:
    source = Watched(host)
    for _ in range(5):
        assert not source.rung()
        host.clock.advance(OFTEN_NS)
    assert source.ends == 0


def test_doorbells_with_a_halt_between_them_hold_nothing_back(host: Host) -> None:
    source = Watched(host)
    for _ in range(5):
        assert not source.rung()
        host.halt()
    assert source.ends == 0


def test_nothing_is_held_back_where_no_halt_is_heard(host: Host) -> None:
    host.events.halts = 0
    source = Watched(host)
    assert not any(source.rung() for _ in range(5))


def test_it_is_held_back_as_long_as_doorbells_come(host: Host) -> None:
    source = Watched(host)
    source.rung()
    assert source.rung()
    for _ in range(20):
        host.clock.advance(OFTEN_NS)
        assert source.rung()
    source.event.write()
    host.clock.advance(OFTEN_NS)
    assert source.ends == 0, "it was rung since the last look"
    host.clock.advance(OFTEN_NS - 1)
    assert source.ends == 0
    host.clock.advance(1)
    assert source.ends == 1
    host.until_posted()
    assert host.clock.timers.next_deadline() is None


def test_a_halt_ends_it_and_the_next_doorbells_begin_anew(host: Host) -> None:
    source = Watched(host)
    assert [source.rung(), source.rung()] == [False, True]
    source.event.write()
    host.halt()
    assert source.ends == 1
    host.until_posted()
    assert [source.rung(), source.rung()] == [False, True]
    host.clock.advance(2 * OFTEN_NS)
    assert source.ends == 2
    assert host.clock.timers.next_deadline() is None, "one timer was armed at a time"


def test_a_descriptor_that_is_watched_no_more_leaves_nothing(host: Host) -> None:
    source = Watched(host)
    source.rung()
    assert source.rung()
    host.sources.unwatch(source.event.fd)
    host.sources.unwatch(source.event.fd)
    source.event.write()
    host.clock.advance(10 * OFTEN_NS)
    host.halt()
    assert (source.ends, host.posted) == (0, [])
    assert host.clock.timers.next_deadline() is None


# ---- a card on the vCPU thread ---------------------------------------------------------------------


class Card:
    """A network card on a socket, served inline; `interrupts` are those of its two queues."""

    def __init__(self, host: Host, *, event_idx: bool) -> None:
        ours, self.far = socket.socketpair()
        self.far.settimeout(LIMIT_S)
        self.backend = StreamPeer(ours, "cable")
        self.rx = DriverQueue(size=8, slot_bytes=2048, event_idx=event_idx)
        self.tx = DriverQueue(
            size=8, slot_bytes=2048, event_idx=event_idx, memory=self.rx.memory, rings_at=self.rx.end
        )
        self.kicks, self.interrupts = [EventFd(), EventFd()], [0, 0]
        self.plane = plane = inline_plane(VirtioNet(self.backend, mac=MAC), host.post, host.sources)
        plane.set_features(F_VERSION_1 | NET_F_MRG_RXBUF | (F_RING_EVENT_IDX if event_idx else 0))
        plane.set_memory(self.rx.memory)
        for i, ring in enumerate((self.rx, self.tx)):
            plane.set_vring(i, 8, ring.desc_gpa, ring.avail_gpa, ring.used_gpa, 0)
            plane.set_kick(i, self.kicks[i])
            call = EventFd()
            call.bind(functools.partial(self._interrupt, i))
            plane.set_call(i, call)
            plane.set_enable(i, True)
        plane.start()

    def _interrupt(self, queue: int) -> None:
        self.interrupts[queue] += 1

    def send(self) -> None:
        """One frame and its doorbell; the driver takes back what was sent, and wants to hear of this one."""
        self.tx.used()
        self.tx.want_interrupts(True)
        self.tx.add(PLAIN + FRAME)
        self.kicks[1].signal()
        assert self.far.recv(len(FRAMED), socket.MSG_WAITALL) == FRAMED

    def close(self) -> None:
        self.plane.stop()
        self.backend.close()
        self.far.close()


@pytest.fixture(params=[True, False], ids=["event-idx", "flags"])
def card(request: pytest.FixtureRequest, host: Host) -> Iterator[Card]:
    with closing(Card(host, event_idx=request.param)) as made:
        for _ in range(4):
            made.rx.add(1600)
        made.rx.want_interrupts(True)
        yield made


def test_a_card_that_sends_seldom_interrupts_for_each_frame(host: Host, card: Card) -> None:
    for i in range(4):
        card.send()
        assert card.interrupts == [0, i + 1]
        host.halt()


def test_a_card_that_sends_often_takes_what_has_come_and_interrupts_for_that_alone(
    host: Host, card: Card
) -> None:
    card.send()
    card.send()
    assert card.interrupts == [0, 1]
    for i in range(4):
        card.far.sendall(FRAMED)
        assert len(card.rx.used()) == 0
        card.rx.want_interrupts(True)
        card.send()
        assert card.interrupts == [i + 1, 1]
        assert [length for _, length in card.rx.used()] == [len(PLAIN + FRAME)]
    host.settle()
    assert host.posted == []


@pytest.mark.parametrize("end", ["halt", "time", "stop"])
def test_an_interrupt_that_has_waited_comes_at_the_end(host: Host, card: Card, end: str) -> None:
    for _ in range(3):
        card.send()
    assert card.interrupts == [0, 1]
    if end == "halt":
        host.halt()
    elif end == "time":
        host.clock.advance(2 * OFTEN_NS)
    else:
        card.plane.stop()
    assert card.interrupts == [0, 2]


def test_an_interrupt_that_the_driver_wishes_for_no_more_does_not_come(host: Host, card: Card) -> None:
    for _ in range(3):
        card.send()
    card.tx.used()
    card.tx.want_interrupts(False)
    host.halt()
    assert card.interrupts == [0, 1]


def test_what_comes_after_the_last_doorbell_is_heard(host: Host, card: Card) -> None:
    for _ in range(3):
        card.send()
    card.far.sendall(FRAMED)
    host.clock.advance(2 * OFTEN_NS)
    host.until_posted()
    assert card.interrupts == [1, 2]
    card.send()
    host.halt()
    card.far.sendall(FRAMED)
    host.until_posted()
    assert len(card.rx.used()) == 2


def test_a_queue_that_breaks_the_protocol_while_it_is_rung_often_ends_alone(host: Host, card: Card) -> None:
    broken: list[tuple[int, DriverError]] = []
    card.plane.stop()
    card.plane.set_error(lambda index, error: broken.append((index, error)))
    card.plane.start()
    card.tx.used()
    card.rx.add(1600)
    for _ in range(2):
        card.kicks[1].signal()
    card.tx.set_avail_idx(100)
    card.far.sendall(FRAMED)
    card.kicks[1].signal()
    card.kicks[1].signal()
    assert [index for index, _ in broken] == [1]
    assert [length for _, length in card.rx.used()] == [len(PLAIN + FRAME)]
