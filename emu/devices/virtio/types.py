"""The contracts between a virtio device, what it does with a request, and where its queues are served."""

from collections.abc import Callable, Sequence
from typing import Protocol

from emu.bus.costs import Costs
from emu.bus.eventfd import EventFd
from emu.bus.memory import GuestMemory
from emu.devices.virtio.split_queue import SplitQueue
from emu.errors import DriverError

Drain = Callable[[int], int]
"""Serve the chains of one look at the available index, at most so many; return how many were answered.

Publishes each answer as it is done. Chains that it leaves in the ring wait for the host; whoever brings what
they wait for kicks the queue. Raises DriverError.
"""

Post = Callable[[Callable[[], None]], None]
"""Run a call on the vCPU thread soon; may be used from any thread."""


class Service(Protocol):
    """What a kind of device does: features, configuration, requests. Knows no thread and no bus."""

    @property
    def device_type(self) -> int:
        """VIRTIO 1.2, section 5."""

    @property
    def queues(self) -> int:
        """How many queues there are."""

    @property
    def features(self) -> int:
        """What is offered: the type's own bits and the ring's."""

    @property
    def sources(self) -> Sequence[tuple[int, int]]:
        """Descriptors that become readable when the host has something for a queue: (fd, queue)."""

    @property
    def costs(self) -> Costs:
        """Spent below the queue, e.g. by the medium."""

    def set_features(self, features: int, /) -> None:
        """What the driver accepted; before the first `drain`."""

    def config(self, offset: int, length: int, /) -> bytes:
        """Bytes of the configuration, fewer where it ends."""

    def write_config(self, offset: int, data: bytes, /) -> None:
        """The driver writes; what is read-only stays as it is."""

    def drain(self, index: int, queue: SplitQueue, /) -> Drain:
        """The loop that serves a queue; called when the queue starts."""


class DataPlane(Protocol):
    """Where a device's queues are served; the operations of vhost and vDPA.

    Called on the vCPU thread. `stop` returns with no request in hand: everything taken has been answered.
    """

    @property
    def name(self) -> str:
        """As in `emu paths`."""

    @property
    def ioeventfd(self) -> bool:
        """True where a doorbell only signals its event, so that no device code need run for it."""

    @property
    def irqfd(self) -> bool:
        """True where a call goes straight to the interrupt controller, past the VMM."""

    @property
    def device_type(self) -> int:
        """VIRTIO 1.2, section 5."""

    @property
    def queues(self) -> int:
        """How many queues can be served."""

    @property
    def features(self) -> int:
        """What may be offered to the driver."""

    def set_features(self, features: int, /) -> None:
        """What the driver accepted."""

    def set_memory(self, memory: GuestMemory, /) -> None:
        """All guest RAM, with the memfd and ranges another process needs."""

    def set_vring(self, index: int, num: int, desc: int, avail: int, used: int, base: int, /) -> None:
        """Size, the three guest addresses, and the available index to start at."""

    def set_kick(self, index: int, event: EventFd, /) -> None:
        """What the driver's doorbell signals."""

    def set_call(self, index: int, event: EventFd, /) -> None:
        """What to signal when the driver wants an interrupt."""

    def set_error(self, report: Callable[[int, DriverError], None], /) -> None:
        """Whom to tell, from any thread, that a queue was given up for a violation."""

    def set_enable(self, index: int, on: bool, /) -> None:
        """Whether `start` takes the queue."""

    def start(self) -> None:
        """Serve every enabled queue. Raises DriverError for rings that cannot be; harmless when running."""

    def stop(self) -> dict[int, int]:
        """Serve no more; return the available index each queue stopped at. Empty when not running."""

    def config(self, offset: int, length: int, /) -> bytes:
        """Bytes of the configuration."""

    def write_config(self, offset: int, data: bytes, /) -> None:
        """The driver writes the configuration."""

    def costs(self) -> Costs:
        """The sum of what was spent here so far."""


class Transport(Protocol):
    """What a device asks of the bus it hangs on. Called on the vCPU thread."""

    def wire(self) -> None:
        """The device is about to start: join each queue's call to its interrupt."""

    def doorbells_changed(self) -> None:
        """The device started, stopped, or its queues moved."""

    def config_interrupt(self) -> None:
        """Tell the driver to look at status and configuration."""
