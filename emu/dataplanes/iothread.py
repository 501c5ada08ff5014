"""The queue is served by an I/O thread of the VMM; its interrupts take the VMM's way.

The doorbell is an ioeventfd, the completion calls the device's own interrupt code (MSI-X table, masks,
INTx), which belongs to the VMM.
"""

from collections.abc import Callable

from emu.dataplanes.local import LocalPlane
from emu.dataplanes.worker import Threaded
from emu.devices.virtio.types import Service


def iothread_plane(
    service: Service,
    fail: Callable[[BaseException], None],
    name: str = "iothread",
    relax: Callable[[], None] | None = None,
) -> LocalPlane:
    """A data plane in the VMM's thread `name`. `relax`: see `Worker`.

    Raises ConfigError where the host has no membarrier.
    """
    return LocalPlane(service, Threaded("virtio-iothread", name, fail, relax, irqfd=False))
