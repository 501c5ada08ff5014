"""ioeventfd: a guest write to an address signals an event, and no device code runs (KVM_IOEVENTFD)."""

from collections.abc import Iterable
from typing import Protocol

from emu.bus.eventfd import EventFd


class DoorbellRegistrar(Protocol):
    """The bus seam's table of doorbells: guest-physical address to event."""

    def add(self, address: int, event: EventFd, /) -> None:
        """From now on a write to `address`, of any width, only signals `event`."""

    def remove(self, address: int, /) -> None:
        """Writes to `address` reach the window below again."""


class Doorbells:
    """One device's doorbells in a registrar, kept in step with its BAR and its queues' place.

    `update` fits `VirtioPci.on_doorbells`. The vCPU thread's own.
    """

    def __init__(self, registrar: DoorbellRegistrar) -> None:
        self._registrar = registrar
        self._registered: dict[int, EventFd] = {}

    def update(self, base: int | None, doorbells: Iterable[tuple[int, int, EventFd]]) -> None:
        """Register exactly these (offset in the BAR, queue, event); none while the BAR is not decoded."""
        wanted = {} if base is None else {base + offset: event for offset, _, event in doorbells}
        for address, event in list(self._registered.items()):
            if wanted.get(address) is not event:
                self._registrar.remove(address)
                del self._registered[address]
        for address, event in wanted.items():
            if address not in self._registered:
                self._registrar.add(address, event)
                self._registered[address] = event
