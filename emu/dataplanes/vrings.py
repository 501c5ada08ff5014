"""What a device sets for each of its queues before a data plane serves them."""

from collections.abc import Callable
from dataclasses import dataclass

from emu.bus.eventfd import EventFd
from emu.errors import DriverError


@dataclass(slots=True)
class Vring:
    """What was set for one queue; plain values until `start`."""

    num: int = 0
    desc: int = 0
    avail: int = 0
    used: int = 0
    base: int = 0
    kick: EventFd | None = None
    call: EventFd | None = None
    enabled: bool = False


class VringTable:
    """The part of a `DataPlane` that only takes notes; called on the vCPU thread, as all of it."""

    def __init__(self, queues: int) -> None:
        self.queues = queues
        self._vrings = [Vring() for _ in range(queues)]
        self._accepted = 0
        self._report: Callable[[int, DriverError], None] = _nobody

    def set_features(self, features: int) -> None:
        """See `DataPlane`."""
        self._accepted = features

    def set_vring(self, index: int, num: int, desc: int, avail: int, used: int, base: int) -> None:
        """See `DataPlane`."""
        vring = self._vrings[index]
        vring.num, vring.desc, vring.avail, vring.used, vring.base = num, desc, avail, used, base

    def set_kick(self, index: int, event: EventFd) -> None:
        """See `DataPlane`."""
        self._vrings[index].kick = event

    def set_call(self, index: int, event: EventFd) -> None:
        """See `DataPlane`."""
        self._vrings[index].call = event

    def set_error(self, report: Callable[[int, DriverError], None]) -> None:
        """See `DataPlane`."""
        self._report = report

    def set_enable(self, index: int, on: bool) -> None:
        """See `DataPlane`."""
        self._vrings[index].enabled = on


def _nobody(_index: int, _error: DriverError) -> None:
    """No device listens."""
