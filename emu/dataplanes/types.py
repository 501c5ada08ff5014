"""The contract of a place where queues are served. The device's side of it is `emu.devices.virtio.types`."""

from collections.abc import Callable
from typing import Protocol

from emu.bus.costs import Costs
from emu.dataplanes.runner import QueueRunner
from emu.devices.virtio.types import DataPlane, Drain, Post, Service

__all__ = ["DataPlane", "Drain", "Placement", "Post", "Service", "Sources", "Watcher"]


class Placement(Protocol):
    """Who calls the runners of one device, and on which thread."""

    @property
    def name(self) -> str:
        """As in `emu paths`."""

    @property
    def ioeventfd(self) -> bool:
        """True where a doorbell only signals its event."""

    @property
    def irqfd(self) -> bool:
        """True where a call passes the VMM by."""

    @property
    def barrier(self) -> bool:
        """True where the runners are on another thread than the guest."""

    @property
    def costs(self) -> Costs:
        """Spent by this placement's thread."""

    def start(self, runners: list[QueueRunner], /) -> None:
        """Serve these queues, none of which is served yet."""

    def stop(self) -> None:
        """Return once no runner is running, and none will."""


class Watcher(Protocol):
    """Who waits for descriptors; see `emu.kernel.listener`."""

    def watch(self, fd: int, call: Callable[[], None], /, *, hangup: bool = False) -> None:
        """Call, on a thread of its own, whenever `fd` becomes readable, or with `hangup` when it ends."""

    def unwatch(self, fd: int, /) -> None:
        """Call no more; returns when no call for it is running."""


class Sources(Protocol):
    """Who waits for what the host has for a device; see `emu.kernel.sources`. vCPU thread."""

    def watch(self, fd: int, call: Callable[[], None], ended: Callable[[], None], /) -> None:
        """Call, on any thread, when `fd` becomes readable, unless it is held back.

        `ended` is called when it is held back no more.
        """

    def unwatch(self, fd: int, /) -> None:
        """Call no more; returns when no call for it is running."""

    def rung(self, fd: int, /) -> bool:
        """The guest rings the device: True where the caller is to look at `fd`, which is held back."""
