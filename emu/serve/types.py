"""The contracts inside of `emu serve`: what a session needs of the loop, and what is served."""

from collections.abc import Callable
from typing import Protocol

from emu.bus.costs import Costs
from emu.bus.eventfd import EventFd
from emu.devices.virtio.types import Service
from emu.serve.vring import Vring

Wake = Callable[[int], None]
"""Serve that queue of this front-end's device soon: what it waits for has come. On the loop's thread."""


class ServedDevice(Service, Protocol):
    """What one front-end is given while it is connected."""

    def close(self) -> None:
        """The front-end is gone."""


OpenDevice = Callable[[Wake], ServedDevice]
"""Make the device for a front-end that has just connected."""


class RingHost(Protocol):
    """Who runs the queues of a session."""

    @property
    def costs(self) -> Costs:
        """What serving takes."""

    @property
    def barrier(self) -> Callable[[], object]:
        """See `emu.kernel.membarrier.global_barrier`."""

    def start_ring(self, vring: Vring, /) -> None:
        """Serve this ring, which has a runner, from now on."""

    def stop_ring(self, vring: Vring, /) -> None:
        """Serve it no more; it still has its runner and kick."""

    def signal(self, event: EventFd, /) -> None:
        """Tell a front-end that buffers were used."""
