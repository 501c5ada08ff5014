"""The queue is served by an I/O thread of the VMM; its interrupts take the VMM's way.

The doorbell is an ioeventfd, the completion calls the device's own interrupt code (MSI-X table, masks,
INTx), which belongs to the VMM.
"""

from collections.abc import Callable

from emu.bus.costs import Costs
from emu.dataplanes.local import LocalPlane
from emu.dataplanes.runner import QueueRunner
from emu.dataplanes.worker import Worker
from emu.devices.virtio.types import Service


class IoThread:
    """The VMM's thread `name`."""

    name = "virtio-iothread"
    ioeventfd = True
    irqfd = False
    barrier = True

    def __init__(
        self, name: str, fail: Callable[[BaseException], None], relax: Callable[[], None] | None = None
    ) -> None:
        self._worker = Worker(name, fail, relax)

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


def iothread_plane(
    service: Service,
    fail: Callable[[BaseException], None],
    name: str = "iothread",
    relax: Callable[[], None] | None = None,
) -> LocalPlane:
    """A data plane in the VMM's thread `name`. `relax`: see `Worker`.

    Raises ConfigError where the host has no membarrier.
    """
    return LocalPlane(service, IoThread(name, fail, relax))
