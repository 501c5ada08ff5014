"""The queue is served on the vCPU thread, inside of the guest's doorbell write."""

import functools
from collections.abc import Callable
from typing import Final

from emu.bus.costs import Costs
from emu.dataplanes.local import LocalPlane
from emu.dataplanes.runner import QueueRunner
from emu.dataplanes.types import Sources
from emu.devices.virtio.types import Post, Service
from emu.errors import DriverError

MAX_LOOKS: Final = 16
"""Looks at the ring within one doorbell: the guest stands still meanwhile, so only a ring that changes under
the device (by its own DMA, or another vCPU) needs more than one."""


class Inline:
    """No thread: a doorbell's signal is the call that serves.

    `later` runs a call on the vCPU thread after the guest has had a turn. `sources` waits for what the host
    has for a queue; only services with sources need it.

    A queue that the host feeds is followed by the one that the driver feeds, in all types of device. While
    that one is rung often its doorbells look at both (see `emu.kernel.sources`), and its own interrupts wait
    for the end of that: most drivers take back what was sent when they send again or receive.
    """

    name = "virtio"
    ioeventfd = False
    irqfd = False
    barrier = False

    def __init__(self, later: Post | None, sources: Sources | None = None) -> None:
        self._later, self._sources = later, sources
        self._runners: list[QueueRunner] = []
        self._reticent: list[QueueRunner] = []
        """Those whose interrupts may wait."""
        self.costs = Costs()

    def start(self, runners: list[QueueRunner]) -> None:
        """Let each doorbell serve its queue."""
        self._runners = runners
        for runner in runners:
            runner.kick.bind(self._server(runner))
        if self._sources is not None and self._later is not None:
            for runner in runners:
                if runner.sources:
                    self._watch(runner, self._sources, self._later)

    def _watch(self, runner: QueueRunner, sources: Sources, later: Post) -> None:
        """Serve the queue on the vCPU thread when the host has something for it."""
        serve, asked = self._server(runner), False

        def arrived() -> None:
            """On any thread; what comes until the queue is looked at needs no second call."""
            nonlocal asked
            if not asked:
                asked = True
                later(look)

        def look() -> None:
            nonlocal asked
            asked = False
            if runner in self._runners:
                serve()

        for fd in runner.sources:
            sources.watch(fd, arrived, self._remind)
            for each in self._runners:
                if each.index == runner.index + 1:
                    self._reticent.append(each)
                    each.kick.bind(self._looking_server(each, functools.partial(sources.rung, fd), look))

    def _looking_server(
        self, runner: QueueRunner, often: Callable[[], bool], look: Callable[[], None]
    ) -> Callable[[], None]:
        """What a doorbell calls that looks at another queue, too, while it rings often."""
        serve, serve_quietly = self._server(runner), self._server(runner, quiet=True)

        def rung() -> None:
            if often():
                serve_quietly()
                look()
            else:
                serve()

        return rung

    def _remind(self) -> None:
        """Send the interrupts that have waited."""
        for runner in self._reticent:
            runner.remind()

    def stop(self) -> None:
        """Doorbells signal their events again; no interrupt waits any more."""
        self._remind()
        for runner in self._runners:
            runner.kick.unbind()
            if self._sources is not None:
                for fd in runner.sources:
                    self._sources.unwatch(fd)
        self._runners, self._reticent = [], []

    def _server(self, runner: QueueRunner, *, quiet: bool = False) -> Callable[[], None]:
        run, later = runner.run, self._later

        def serve() -> None:
            try:
                more = run(MAX_LOOKS, quiet)
            except DriverError as error:
                runner.give_up(error)
                return
            if more and later is not None:
                later(again)

        def again() -> None:
            if runner in self._runners:
                serve()

        return serve


def inline_plane(service: Service, later: Post | None = None, sources: Sources | None = None) -> LocalPlane:
    """A data plane on the vCPU thread. `later` and `sources`: see `Inline`."""
    return LocalPlane(service, Inline(later, sources))
