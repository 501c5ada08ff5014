"""A network card whose data queues are served elsewhere while the VMM serves its control queue.

So it is with Linux' vhost-net and with vhost-user: only the VMM knows the card's filters and its status.
"""

from collections.abc import Callable

from emu.bus.costs import Costs
from emu.bus.eventfd import EventFd
from emu.bus.memory import GuestMemory
from emu.dataplanes.local import LocalPlane
from emu.dataplanes.types import DataPlane, Post, Watcher
from emu.devices.virtio.spec import NET_F_CTRL_VQ, NET_F_MQ
from emu.errors import DriverError

CONTROL_WITHOUT_MQ = 2


class WithControl:
    """A `DataPlane`: all queues of `data`, and the one of `control` behind them, served on the vCPU thread.

    `control` knows the configuration. Its doorbell is an ioeventfd like the others', so `watcher` waits for
    it and `post` brings it to the vCPU thread. `control_features` are the bits that need no data queue.
    """

    def __init__(
        self, data: DataPlane, control: LocalPlane, control_features: int, watcher: Watcher, post: Post
    ) -> None:
        self._data, self._control, self._control_features = data, control, control_features
        self._watcher, self._post = watcher, post
        self.name, self.ioeventfd, self.irqfd = data.name, data.ioeventfd, data.irqfd
        self.device_type, self.queues = data.device_type, data.queues + 1
        self._accepted = 0
        self._kick: EventFd | None = None

    @property
    def features(self) -> int:
        """What either of them offers."""
        return self._data.features | self._control.features & self._control_features

    def _control_index(self) -> int | None:
        """The control queue's number. Source: VIRTIO 1.2, 5.1.2."""
        if not self._accepted & NET_F_CTRL_VQ:
            return None
        return self._data.queues if self._accepted & NET_F_MQ else CONTROL_WITHOUT_MQ

    def _place(self, index: int) -> tuple[DataPlane, int] | None:
        """Who serves a queue, and its number there."""
        if index == self._control_index():
            return self._control, 0
        return (self._data, index) if index < self._data.queues else None

    def set_features(self, features: int) -> None:
        """See `DataPlane`."""
        self._accepted = features
        self._data.set_features(features & ~(self._control_features & ~self._data.features))
        self._control.set_features(features)

    def set_memory(self, memory: GuestMemory) -> None:
        """See `DataPlane`."""
        self._data.set_memory(memory)
        self._control.set_memory(memory)

    def set_vring(self, index: int, num: int, desc: int, avail: int, used: int, base: int) -> None:
        """See `DataPlane`."""
        if place := self._place(index):
            place[0].set_vring(place[1], num, desc, avail, used, base)

    def set_kick(self, index: int, event: EventFd) -> None:
        """See `DataPlane`."""
        if place := self._place(index):
            place[0].set_kick(place[1], event)
            if place[0] is self._control:
                self._kick = event

    def set_call(self, index: int, event: EventFd) -> None:
        """See `DataPlane`."""
        if place := self._place(index):
            place[0].set_call(place[1], event)

    def set_error(self, report: Callable[[int, DriverError], None]) -> None:
        """See `DataPlane`."""
        self._data.set_error(report)
        self._control.set_error(lambda _index, error: report(self._control_index() or 0, error))

    def set_enable(self, index: int, on: bool) -> None:
        """See `DataPlane`."""
        if index == self._control_index():
            self._control.set_enable(0, on)
            if index < self._data.queues:
                self._data.set_enable(index, False)
        elif index < self._data.queues:
            self._data.set_enable(index, on)

    def start(self) -> None:
        """See `DataPlane`."""
        self._control.start()
        if self._kick is not None and self._control_index() is not None:
            kick, post = self._kick, self._post
            self._watcher.watch(kick.fd, lambda: post(kick.signal))
        self._data.start()

    def stop(self) -> dict[int, int]:
        """See `DataPlane`."""
        if self._kick is not None:
            self._watcher.unwatch(self._kick.fd)
            self._kick = None
        bases, control = self._data.stop(), self._control.stop()
        index = self._control_index()
        if control and index is not None:
            bases[index] = control[0]
        return bases

    def config(self, offset: int, length: int) -> bytes:
        """See `DataPlane`."""
        return self._control.config(offset, length)

    def write_config(self, offset: int, data: bytes) -> None:
        """See `DataPlane`."""
        self._control.write_config(offset, data)

    def costs(self) -> Costs:
        """See `DataPlane`."""
        return self._data.costs().total(self._control.costs())
