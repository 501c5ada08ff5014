"""The queue is served on the vCPU thread, inside of the guest's doorbell write."""

from collections.abc import Callable
from typing import Final

from emu.bus.costs import Costs
from emu.dataplanes.local import LocalPlane
from emu.dataplanes.runner import QueueRunner
from emu.dataplanes.types import Watcher
from emu.devices.virtio.types import Post, Service
from emu.errors import DriverError

MAX_LOOKS: Final = 16
"""Looks at the ring within one doorbell: the guest stands still meanwhile, so only a ring that changes under
the device (by its own DMA, or another vCPU) needs more than one."""


class Inline:
    """No thread: a doorbell's signal is the call that serves.

    `later` runs a call on the vCPU thread after the guest has had a turn. `watcher` waits for what the host
    has for a queue; only services with `sources` need one.
    """

    name = "virtio"
    ioeventfd = False
    irqfd = False
    barrier = False

    def __init__(self, later: Post | None, watcher: Watcher | None = None) -> None:
        self._later, self._watcher = later, watcher
        self._runners: list[QueueRunner] = []
        self.costs = Costs()

    def start(self, runners: list[QueueRunner]) -> None:
        """Let each doorbell serve its queue."""
        self._runners = runners
        for runner in runners:
            serve = self._server(runner)
            runner.kick.bind(serve)
            self._watch(runner, serve)

    def _watch(self, runner: QueueRunner, serve: Callable[[], None]) -> None:
        """Serve the queue on the vCPU thread when the host has something for it."""
        watcher, later = self._watcher, self._later
        if watcher is None or later is None:
            return
        asked = False

        def arrived() -> None:
            """On the watcher's thread; what comes until the queue is looked at needs no second call."""
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
            watcher.watch(fd, arrived)

    def stop(self) -> None:
        """Doorbells signal their events again."""
        for runner in self._runners:
            runner.kick.unbind()
            if self._watcher is not None:
                for fd in runner.sources:
                    self._watcher.unwatch(fd)
        self._runners = []

    def _server(self, runner: QueueRunner) -> Callable[[], None]:
        run, later = runner.run, self._later

        def serve() -> None:
            try:
                more = run(MAX_LOOKS)
            except DriverError as error:
                runner.give_up(error)
                return
            if more and later is not None:
                later(again)

        def again() -> None:
            if runner in self._runners:
                serve()

        return serve


def inline_plane(service: Service, later: Post | None = None, watcher: Watcher | None = None) -> LocalPlane:
    """A data plane on the vCPU thread. `later` and `watcher`: see `Inline`."""
    return LocalPlane(service, Inline(later, watcher))
