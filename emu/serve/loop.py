"""One thread that serves the queues of all front-ends: by their kicks, or by looking all the time.

Event driven, an edge-triggered epoll waits for every kick, so a kick costs one system call and no read.
Before the loop sleeps each ring has been armed behind a barrier (`QueueRunner.run`), which a machine of ours
has joined; other front-ends may not have, and their guest's stores may show up late. So a millisecond after
the last request the rings are looked at once more, and only then is the sleep without end.

Polling, no ring is ever armed: its driver sees that it need not kick. After IDLE_S without a request the
loop naps NAP_S between two looks, which is the longest that a request then waits.
"""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

from emu.bus.costs import Costs
from emu.bus.eventfd import EventFd
from emu.dataplanes.runner import QueueRunner
from emu.errors import DriverError, EmuError
from emu.kernel.membarrier import global_barrier
from emu.serve.guard import BusGuard
from emu.serve.vring import Vring

LOOKS: Final = 8
"""Looks at one ring before the other rings, and the front-ends' messages, have their turn."""
SPINS: Final = 32
"""Looks at all polled rings before messages have their turn."""
LATE_S: Final = 0.001
IDLE_S: Final = 0.05
NAP_S: Final = 200e-6

STUCK_S: Final = 0.5

Call = Callable[[], None]


class StuckError(EmuError):
    """A front-end's event blocked whoever signalled it."""


class Loop:
    """A `RingHost`. `poll`: look at the rings instead of waiting for kicks. Raises ConfigError.

    Owned by the thread that calls `run`; `stop` may be called by a signal handler or another thread.
    `before_telling` is called before a front-end learns of anything, and before the loop sleeps.
    """

    def __init__(self, *, poll: bool = False) -> None:
        self.costs = Costs()
        self.barrier = global_barrier()
        self.before_telling: Call | None = None
        self._poll = poll
        self._epoll = select.epoll()
        self._calls: dict[int, Call] = {}
        self._timers: dict[int, tuple[float, Call]] = {}
        self._kicks: dict[int, QueueRunner] = {}
        self._runners: list[QueueRunner] = []
        self._polled: list[QueueRunner] = []
        self._busy: list[QueueRunner] = []
        self._late = False
        self._idle_since = 0.0
        self._stopping = False
        self._guard = BusGuard()
        self._on_fault: dict[int, Callable[[int | EventFd], None]] = {}
        self._telling: EventFd | None = None
        self._last_told = 0
        self._stuck: list[EventFd] = []
        self._stop = EventFd("stop")
        self._epoll.register(self._stop.fd, select.EPOLLIN)

    # ---- what else is waited for -------------------------------------------------------------------

    def watch(self, fd: int, call: Call, *, edge: bool = False) -> None:
        """Call `call` whenever `fd` is readable; `edge`: only when more has come."""
        self._calls[fd] = call
        self._epoll.register(fd, select.EPOLLIN | (select.EPOLLET if edge else 0))

    def unwatch(self, fd: int) -> None:
        """No more; before `fd` is closed."""
        del self._calls[fd]
        self._epoll.unregister(fd)

    def set_timer(self, key: int, seconds: float, call: Call) -> None:
        """Call `call` once, so many seconds from now, unless the timer is cleared. `key` is the caller's."""
        self._timers[key] = (time.monotonic() + seconds, call)

    def clear_timer(self, key: int) -> None:
        """Forget it; harmless where there is none."""
        self._timers.pop(key, None)

    def has_timer(self, key: int) -> bool:
        """Is it still to come?"""
        return key in self._timers

    def on_fault(self, key: int, call: Callable[[int | EventFd], None]) -> None:
        """Call `call` when a front-end misused what it shares: a page of memory that is gone, by its address,
        or an event that could not be signalled.
        """
        self._on_fault[key] = call

    def forget_fault(self, key: int) -> None:
        """No more; harmless where there is none."""
        self._on_fault.pop(key, None)

    # ---- rings -------------------------------------------------------------------------------------

    def start_ring(self, vring: Vring) -> None:
        """See `RingHost`."""
        runner = vring.runner
        if runner is None:
            return
        self._runners.append(runner)
        if self._poll or vring.kick is None:
            runner.queue.park_kicks()
            self._polled.append(runner)
        else:
            self._kicks[vring.kick.fd] = runner
            self._epoll.register(vring.kick.fd, select.EPOLLIN | select.EPOLLET)
            self.wake(runner)

    def stop_ring(self, vring: Vring) -> None:
        """See `RingHost`."""
        runner = vring.runner
        if runner is None:
            return
        self._runners.remove(runner)
        if runner in self._busy:
            self._busy.remove(runner)
        if runner in self._polled:
            self._polled.remove(runner)
        else:
            del self._kicks[runner.kick.fd]
            self._epoll.unregister(runner.kick.fd)

    def wake(self, runner: QueueRunner) -> None:
        """Serve this ring soon: what it waited for has come. On the loop's thread."""
        if runner not in self._busy:
            self._busy.append(runner)

    def signal(self, event: EventFd) -> None:
        """See `RingHost`."""
        self.costs.syscalls += 1
        self.tell()
        self._telling = event
        try:
            while not self._wrote(event):
                pass
        except (BlockingIOError, StuckError):
            return  # its counter is full: the front-end has not even looked yet
        finally:
            self._telling = None

    def _wrote(self, event: EventFd) -> bool:
        """False where the watchdog's tick came between: Python does not write again by itself."""
        try:
            event.write()
        except InterruptedError:
            return False
        return True

    def tell(self) -> None:
        """A front-end is about to learn something."""
        if self.before_telling is not None:
            self.before_telling()

    # ---- running -----------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until `stop`."""
        self._guard.install()
        try:
            with self._watchdog():
                while not self._stopping:
                    self.turn()
                    if address := self._guard.take():
                        self._fault(address)
                    while self._stuck:
                        self._fault(self._stuck.pop())
        finally:
            self._guard.close()

    def _fault(self, what: int | EventFd) -> None:
        for call in list(self._on_fault.values()):
            call(what)

    @contextlib.contextmanager
    def _watchdog(self) -> Iterator[None]:
        """End a signal that blocks. An event's non-blocking flag is its front-end's as well as ours.

        Signals reach the main thread only; elsewhere there is no watchdog.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGALRM, self._tick)
        signal.setitimer(signal.ITIMER_REAL, STUCK_S, STUCK_S)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def _tick(self, _number: int, _frame: FrameType | None) -> None:
        event, told = self._telling, self.costs.syscalls
        if event is not None and told == self._last_told:  # since the last tick
            self._stuck.append(event)
            raise StuckError("a front-end's event blocks")
        self._last_told = told

    def turn(self) -> None:
        """Wait until something comes, where nothing is there and no ring is polled, and do it."""
        if self._polled:
            self._look_around()
        else:
            self._wait()

    def stop(self) -> None:
        """Let `run` return. From a signal handler or any thread."""
        self._stopping = True
        self._stop.write()

    def close(self) -> None:
        """Release what the loop owns; nobody is served any more."""
        self._epoll.close()
        self._stop.close()

    def _wait(self) -> None:
        """Sleep until something comes, then do it; one turn for each ring that has work."""
        if self._busy:
            self.costs.syscalls += 1
            ready = self._epoll.poll(0)
        else:
            ready = self._epoll.poll(self._patience())
        if ready:
            self._dispatch(ready)
        elif self._late and not self._busy:
            self._look_again()
        if self._timers:
            self._expire()
        if self._busy:
            self._run_busy()

    def _patience(self) -> float:
        """Seconds to sleep at most, -1 for any time."""
        self.tell()
        patience = LATE_S if self._late else -1.0
        if self._timers:
            first = max(0.0, min(when for when, _ in self._timers.values()) - time.monotonic())
            patience = min(patience, first) if self._late else first
        return patience

    def _dispatch(self, ready: list[tuple[int, int]]) -> None:
        kicks, asleep, rung = self._kicks, not self._busy, False
        for fd, _ in ready:
            if fd in kicks:
                rung = True
                self.wake(kicks[fd])
            elif (call := self._calls.get(fd)) is not None:
                call()
        if rung and asleep:
            self.costs.handoffs += 1
            self.costs.syscalls += 1

    def _run_busy(self) -> None:
        """One turn for each ring that has work; those that have more keep their place."""
        busy, self._busy = self._busy, []
        for runner in busy:
            if runner not in self._polled and self._serve(runner):
                self.wake(runner)

    def _serve(self, runner: QueueRunner) -> bool:
        """Run one ring a while; True where more is waiting."""
        costs = self.costs
        before = costs.requests
        try:
            more = runner.run(LOOKS)
        except DriverError as error:
            runner.give_up(error)
            return False
        if costs.requests != before:
            self._late = True
        return more

    def _look_again(self) -> None:
        """What a front-end without our barrier did may show up only now."""
        self._late = False
        for runner in self._runners:
            if runner.queue.has_work():
                self.wake(runner)
            if runner.queue.needs_interrupt():
                runner.interrupt()

    def _expire(self) -> None:
        now = time.monotonic()
        for key, (when, call) in list(self._timers.items()):
            if when <= now and self._timers.pop(key, None) is not None:
                call()

    # ---- polling -----------------------------------------------------------------------------------

    def _look_around(self) -> None:
        """Look at every polled ring many times, then at everything else once."""
        served = self._spin()
        now = time.monotonic()
        if served:
            self._idle_since = now
            ready = self._epoll.poll(0)
        elif self._busy or now - self._idle_since < IDLE_S:
            os.sched_yield()  # where there are more threads than cores, a guest should have this one
            ready = self._epoll.poll(0)
        else:
            ready = self._nap()
        if ready:
            self._dispatch(ready)
        if self._timers:
            self._expire()
        if self._busy:
            self._run_busy()

    def _spin(self) -> int:
        """Look at the polled rings; return how many requests there were."""
        served = 0
        for _ in range(SPINS):
            for runner in self._polled:
                try:
                    served += runner.poll()
                except DriverError as error:
                    runner.give_up(error)
        return served

    def _nap(self) -> list[tuple[int, int]]:
        """Rest a little; messages end it. An interrupt that a driver wished for meanwhile comes first."""
        self.barrier()
        for runner in self._polled:
            if runner.queue.needs_interrupt():
                runner.interrupt()
        self.tell()
        select.select([self._epoll], [], [], NAP_S)
        return self._epoll.poll(0)
