"""The one runner: it joins a queue, its handler, the doorbell and the interrupt. Every placement uses it."""

from collections.abc import Callable, Sequence
from typing import Final

from emu.bus.costs import Costs
from emu.bus.eventfd import EventFd
from emu.devices.virtio.split_queue import AVAIL_IDX, SplitQueue
from emu.devices.virtio.types import Drain
from emu.errors import DriverError

SNAPSHOT: Final = 256
"""Chains taken per look at the available index, after which the driver's wish for an interrupt is checked."""


class QueueRunner:
    """Serves one queue when told to; owned by the thread that calls `run`.

    `barrier` is `private_barrier()` where that is not the guest's thread: the guest's own barriers do nothing
    (see `emu.kernel.membarrier`). `report` is told when the driver broke the protocol. `sources` are
    descriptors that become readable when the host has something for the queue.
    """

    __slots__ = (
        "_barrier",
        "_broken",
        "_drain",
        "_report",
        "call",
        "costs",
        "index",
        "kick",
        "queue",
        "sources",
    )

    def __init__(
        self,
        queue: SplitQueue,
        drain: Drain,
        kick: EventFd,
        call: EventFd,
        costs: Costs,
        *,
        barrier: Callable[[], object] | None = None,
        index: int = 0,
        report: Callable[[int, DriverError], None] | None = None,
        sources: Sequence[int] = (),
    ) -> None:
        self.sources = sources
        self.queue, self._drain, self.kick, self.call, self.costs = queue, drain, kick, call, costs
        self._barrier, self.index, self._report = barrier, index, report
        self._broken = False

    def run(self, looks: int, quiet: bool = False) -> bool:
        """Serve what is waiting, in at most `looks` looks at the ring; True where more is waiting.

        `quiet`: the interrupt waits for `remind`, or for the next run that is not.

        False means: after the doorbell had been armed the ring was empty, or held no more than what the drain
        took nothing of (it waits for the host, or for more chains). Whoever adds a chain kicks, and whoever
        brings what it waits for.
        Raises DriverError. Source of the order: VIRTIO 1.2, 2.7.7.1 and 2.7.10.1, see `private_barrier`.
        """
        queue, drain, barrier = self.queue, self._drain, self._barrier
        avail = queue.avail
        if self._broken:
            return False
        if not queue.event_idx:
            queue.set_kicks(False)
        armed_at = -1
        for _ in range(looks):
            seen = avail[AVAIL_IDX]
            if served := drain(SNAPSHOT):
                armed_at = -1
                self.costs.requests += served
                if not quiet and queue.needs_interrupt():
                    self.interrupt()
                if avail[AVAIL_IDX] != queue.last_avail:
                    continue
            elif armed_at == avail[AVAIL_IDX]:
                return False
            armed_at = avail[AVAIL_IDX]
            queue.set_kicks(True, armed_at)
            if barrier is not None:
                self.costs.syscalls += 1
                barrier()
                if queue.needs_interrupt():  # the driver's used_event may have been on its way
                    self.interrupt()
            if avail[AVAIL_IDX] == queue.last_avail or (not served and avail[AVAIL_IDX] == seen):
                return False
        return True

    def remind(self) -> None:
        """Send the interrupt that has waited, where the driver still wishes for it."""
        if self.queue.needs_interrupt():
            self.interrupt()

    def poll(self) -> int:
        """Serve what is waiting and never ask for a doorbell; return how many. Raises DriverError.

        Whoever polls calls this again and again: an interrupt that the driver wished for late is sent then.
        `SplitQueue.park_kicks` comes first.
        """
        queue = self.queue
        if self._broken:
            return 0
        served = 0
        if queue.avail[AVAIL_IDX] != queue.last_avail and (served := self._drain(SNAPSHOT)):
            self.costs.requests += served
            queue.park_kicks()
        if queue.used_idx != queue.signalled and queue.needs_interrupt():
            self.interrupt()
        return served

    def interrupt(self) -> None:
        """Signal the call."""
        costs, call = self.costs, self.call
        costs.interrupts += 1
        if not call.bound:
            costs.syscalls += 1
        call.signal()

    def give_up(self, error: DriverError) -> None:
        """Serve this queue no more, and tell the device."""
        self._broken = True
        if self._report is not None:
            self._report(self.index, error)
