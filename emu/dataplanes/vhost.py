"""The queue is served by the kernel's worker: ioeventfd in, irqfd out, no VMM code on the way.

The host kernel's role (drivers/vhost): the doorbell signals an event at the bus seam, a worker thread serves
the ring, its call event is bound to a message route (`emu.kernel.irqfd`).
"""

from collections.abc import Callable

from emu.dataplanes.local import LocalPlane
from emu.dataplanes.worker import Threaded
from emu.devices.virtio.types import Service


def vhost_plane(
    service: Service,
    fail: Callable[[BaseException], None],
    owner: str = "emu",
    relax: Callable[[], None] | None = None,
) -> LocalPlane:
    """A data plane in the kernel's worker. `relax`: see `Worker`.

    Raises ConfigError where the host has no membarrier.
    """
    return LocalPlane(service, Threaded("vhost", f"vhost-{owner}", fail, relax, irqfd=True))
