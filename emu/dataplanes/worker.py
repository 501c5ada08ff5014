"""A thread that waits for doorbells and runs the queues behind them."""

import functools
import select
import threading
from collections.abc import Callable
from typing import Final

from emu.bus.costs import Costs
from emu.dataplanes.runner import QueueRunner
from emu.errors import DriverError

RELAX_S: Final = 0.001
LOOKS: Final = 8
"""Looks at one ring before the other rings, and the wish to stop, are looked at."""


class Worker:
    """One thread for all queues of one device. Started and stopped from the vCPU thread.

    `fail` is told, on this thread, of any error that is ours. `relax` is called while `stop` waits: the
    request in hand may itself need something of the vCPU thread.
    """

    def __init__(
        self, name: str, fail: Callable[[BaseException], None], relax: Callable[[], None] | None = None
    ) -> None:
        self._name, self._fail, self._relax = name, fail, relax
        self._runners: list[QueueRunner] = []
        self._thread: threading.Thread | None = None
        self._stopping = False
        self._busy: list[QueueRunner] = []
        self.costs = Costs()

    def start(self, runners: list[QueueRunner]) -> None:
        """Begin to wait for these queues' doorbells; harmless without queues or when running."""
        if self._thread is not None or not runners:
            return
        self._runners, self._stopping = runners, False
        self._thread = threading.Thread(target=self._main, name=self._name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Return once the thread has answered what it had taken and is gone; harmless when stopped."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stopping = True
        self._runners[0].kick.write()
        while self._relax is not None and thread.is_alive():
            thread.join(RELAX_S)
            self._relax()
        thread.join()

    def _main(self) -> None:
        try:
            if len(self._runners) == 1 and not self._runners[0].sources:
                self._serve_one(self._runners[0])
            else:
                self._serve_many(self._runners)
        except BaseException as error:  # the thread's last words; the machine decides
            self._fail(error)

    def _serve_one(self, runner: QueueRunner) -> None:
        """A blocking read of one event: it wakes 2 to 6 us sooner than a selector."""
        costs, wait = self.costs, runner.kick.wait
        while True:
            wait()
            if self._stopping:
                return
            costs.syscalls += 1
            costs.handoffs += 1
            while self._run(runner) and not self._stopping:
                pass

    def _serve_many(self, runners: list[QueueRunner]) -> None:
        for runner in runners:
            runner.kick.bind(functools.partial(self._rung, runner, threading.get_ident()))
        try:
            self._look_after(runners)
        finally:
            for runner in runners:
                runner.kick.unbind()

    def _rung(self, runner: QueueRunner, thread: int) -> None:
        """Somebody in this process rings: this thread itself, for another of its queues, needs no event."""
        if threading.get_ident() != thread:
            runner.kick.write()
        elif runner not in self._busy:
            self._busy.append(runner)

    def _look_after(self, runners: list[QueueRunner]) -> None:
        costs = self.costs
        self._busy = []
        with select.epoll() as poll:
            by_fd = {runner.kick.fd: runner for runner in runners}
            for fd in by_fd:
                poll.register(fd, select.EPOLLIN)
            by_source = {fd: runner for runner in runners for fd in runner.sources}
            for fd in by_source:
                poll.register(fd, select.EPOLLIN | select.EPOLLET)
            while True:
                ready = poll.poll(0 if self._busy else -1)
                if self._stopping:
                    return
                costs.syscalls += 1
                costs.handoffs += 1 if ready and not self._busy else 0
                for fd, _ in ready:
                    runner = by_fd.get(fd) or by_source[fd]
                    if fd in by_fd:
                        costs.syscalls += 1
                        runner.kick.wait()
                    if runner not in self._busy:
                        self._busy.append(runner)
                busy, self._busy = self._busy, []
                for runner in busy:
                    if self._run(runner) and runner not in self._busy:
                        self._busy.append(runner)

    def _run(self, runner: QueueRunner) -> bool:
        """Run one queue a while; True where more is waiting."""
        try:
            return runner.run(LOOKS)
        except DriverError as error:
            runner.give_up(error)
            return False


class Threaded:
    """A `Placement` on a thread of its own, rung by an ioeventfd; `irqfd`: its interrupts pass the VMM by."""

    ioeventfd = True
    barrier = True

    def __init__(
        self,
        name: str,
        thread: str,
        fail: Callable[[BaseException], None],
        relax: Callable[[], None] | None,
        *,
        irqfd: bool,
    ) -> None:
        self.name, self.irqfd = name, irqfd
        self._worker = Worker(thread, fail, relax)

    @property
    def costs(self) -> Costs:
        """Spent by the thread."""
        return self._worker.costs

    def start(self, runners: list[QueueRunner]) -> None:
        """Start the thread."""
        self._worker.start(runners)

    def stop(self) -> None:
        """End the thread, with no request in hand."""
        self._worker.stop()
