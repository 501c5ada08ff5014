"""The queue is served by the kernel's worker: ioeventfd in, irqfd out, no VMM code on the way.

The host kernel's role (drivers/vhost): the doorbell signals an event at the bus seam, a worker thread serves
the ring, its call event is bound to a message route (`emu.kernel.irqfd`).
"""

from collections.abc import Callable

from emu.bus.costs import Costs
from emu.dataplanes.local import LocalPlane
from emu.dataplanes.runner import QueueRunner
from emu.dataplanes.worker import Worker
from emu.devices.virtio.types import Service


class VhostWorker:
    """The kernel's thread `vhost-<owner>`."""

    name = "vhost"
    ioeventfd = True
    irqfd = True
    barrier = True

    def __init__(
        self, owner: str, fail: Callable[[BaseException], None], relax: Callable[[], None] | None = None
    ) -> None:
        self._worker = Worker(f"vhost-{owner}", fail, relax)

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


def vhost_plane(
    service: Service,
    fail: Callable[[BaseException], None],
    owner: str = "emu",
    relax: Callable[[], None] | None = None,
) -> LocalPlane:
    """A data plane in the kernel's worker. `relax`: see `Worker`.

    Raises ConfigError where the host has no membarrier.
    """
    return LocalPlane(service, VhostWorker(owner, fail, relax))
