"""Several guests at once, each in a process of its own; on SERVED paths all on one back-end.

They begin together: each waits at its first mark for the last one. What a back-end spends is nobody's alone,
so it is read once for all of them, while every guest stands at a mark; their machines are given a copy of its
counters that stands still, whose questions still make the back-end note all that it did.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Final

from emu.bus.costs import Costs
from emu.compare.backend import Backend, served
from emu.compare.counts import Counts
from emu.compare.guest import Job, Report
from emu.compare.machines import SERVED, Place, at_socket, serve_flags
from emu.compare.markers import quiet
from emu.compare.measure import NOTHING, Row, Share, judge, row_of
from emu.compare.workloads import Medium, Workload
from emu.dataplanes.vhost_user.counters import read_counters
from emu.errors import ConfigError

MARKS: Final = ("begin", "end")
PATIENCE_S: Final = 20
ONE_CORE: Final = ("virtio-iothread", "vhost")
"""Paths whose machines keep to the core they begin on."""


class Guest:
    """One process and what it said last."""

    def __init__(self, job: Job) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "emu.compare.guest"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.said = ""
        self._tell(job.line())

    def listen(self, mark: str) -> bool:
        """Wait until it stands at `mark`; False where it has come to its end without."""
        assert self._process.stdout is not None
        if not self.said or self.said in MARKS:
            self.said = self._process.stdout.readline().rstrip("\n")
        return self.said == mark

    def go(self) -> None:
        """Let it leave its mark."""
        self._tell("go")

    def report(self) -> Report:
        """Its last words."""
        self.listen("")
        if self.said:
            return Report.read(self.said)
        return Report(refused=f"a guest's process ended with status {self._process.wait()}")

    def close(self) -> None:
        """End it, whatever it does; harmless at its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it is gone, which `listen` sees
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()


def measure_all_at_once(path: str, work: Workload, media: Sequence[Medium], image: str) -> Row:
    """Do `work` over `path` in as many guests as there are `media`, one for each.

    Raises ConfigError where the host cannot have these machines.
    """
    work = work.on(path)
    places = [Place(image, medium.file, medium.next_generation()) for medium in media]
    with contextlib.ExitStack() as stack:
        backend = None
        if path in SERVED:
            kind, flags = serve_flags(path, work, [medium.file for medium in media])
            backend = stack.enter_context(served(kind, flags, len(media)))
            still = shutil.copyfile(backend.counters, f"{backend.counters}-still")
            places = [at_socket(place, backend, i)._replace(counters=still) for i, place in enumerate(places)]
        cores = _cores(path, len(places))
        jobs = [Job(path, work, place, core) for place, core in zip(places, cores, strict=True)]
        guests = stack.enter_context(_running(jobs))
        there = _run(guests, backend)
        reports = [guest.report() for guest in guests]
    for report in reports:
        if report.refused:
            raise ConfigError(report.refused)
    shares = [_judge(work, medium, report) for medium, report in zip(media, reports, strict=True)]
    return row_of(path, work, shares, _sum([report.counts or NOTHING for report in reports], there))


def _cores(path: str, guests: int) -> list[int]:
    """Machines whose threads take turns on one core are spread over all; -1: the host shall choose."""
    if path not in ONE_CORE:
        return [-1] * guests
    allowed = sorted(os.sched_getaffinity(0))
    return [allowed[guest % len(allowed)] for guest in range(guests)]


@contextlib.contextmanager
def _running(jobs: Sequence[Job]) -> Iterator[list[Guest]]:
    with contextlib.ExitStack() as stack:
        guests = []
        for job in jobs:
            with _signals_wait():
                guests.append(guest := Guest(job))
                stack.callback(guest.close)
        yield guests


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """A handler that raises does so afterwards: no process is begun that nobody ends."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run(guests: Sequence[Guest], backend: Backend | None) -> Costs:
    """Lead all guests from mark to mark; what the back-end spent between the two."""
    readings = []
    for mark in MARKS:
        standing = [guest for guest in guests if guest.listen(mark)]
        readings.append(quiet(lambda: read_counters(backend.counters)) if backend is not None else Costs())
        for guest in standing:
            guest.go()
    return readings[1].minus(readings[0])


def _judge(work: Workload, medium: Medium, report: Report) -> Share:
    return judge(work, medium, report.text, report.outcome, report.counts is not None)


def _sum(counts: Sequence[Counts], there: Costs) -> Counts:
    """Of all guests, and of the back-end that serves them."""
    total = Counts(*map(sum, zip(*counts, strict=True)))
    return total._replace(
        handoffs=total.handoffs + there.handoffs,
        bytes_copied=total.bytes_copied + there.bytes_copied,
        bytes_dma=total.bytes_dma + there.bytes_dma,
        syscalls=total.syscalls + there.syscalls,
    )
