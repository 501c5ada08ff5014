"""The contracts inside of `emu serve`: what a session needs of the loop, and what is served."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from emu.bus.costs import Costs
from emu.bus.eventfd import EventFd
from emu.devices.virtio.types import Service
from emu.serve.vring import Vring

Wake = Callable[[int], bool]
"""Serve that queue of this front-end's device soon: what it waits for has come. On the loop's thread.

False where the front-end has not started that queue.
"""


class Request64(NamedTuple):
    """A request that one type of device has, with its u64; legal once `feature`, its protocol feature, is."""

    feature: int
    handle: Callable[[int], bool]
    """False: it cannot be done, which is the front-end's fault."""


class ServedDevice(Service, Protocol):
    """What one front-end is given while it is connected."""

    @property
    def unused_protocol_features(self) -> int:
        """Protocol features of the session that make no sense with this type."""

    @property
    def own_requests(self) -> Mapping[int, Request64]:
        """Requests of this type alone."""

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
