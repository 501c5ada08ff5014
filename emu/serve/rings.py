"""The rings of one front-end and what they are made of: vrings, memory, log, what is in flight.

A ring is served while its vring is complete and enabled and there is memory. Whatever it is made of is
changed while it is halted.
"""

import functools
import logging

from emu.bus.eventfd import EventFd
from emu.dataplanes.runner import QueueRunner
from emu.dataplanes.vhost_user.inflight import InflightArea, resume, tracked
from emu.dataplanes.vhost_user.messages import F_LOG_ALL, VRING_F_LOG, ProtocolError, VringAddr
from emu.devices.virtio.spec import DESC_SIZE, F_RING_EVENT_IDX, F_RING_INDIRECT_DESC
from emu.devices.virtio.split_queue import SplitQueue
from emu.devices.virtio.types import Drain
from emu.errors import DriverError
from emu.serve.log import DirtyLog
from emu.serve.memory import MappedMemory, nobody
from emu.serve.types import RingHost, ServedDevice
from emu.serve.vring import Vring, silent

log = logging.getLogger(__name__)


class Rings:
    """Runs the queues of `device` on `host`; `name` is for the log. `features` are those accepted."""

    def __init__(self, device: ServedDevice, host: RingHost, name: str) -> None:
        self._device, self._host, self._name = device, host, name
        self.features = 0
        self.memory = MappedMemory()
        self.vrings = [Vring(i) for i in range(device.queues)]
        self._log: DirtyLog | None = None
        self._inflight: InflightArea | None = None

    def close(self) -> None:
        """Stop every ring and release everything."""
        self.pause()
        for vring in self.vrings:
            vring.close()
        self.set_log(None)
        self.set_inflight(None)
        self.memory.close()

    def set_log(self, dirty: DirtyLog | None) -> None:
        """From the next start on what is written is marked there."""
        self.memory.on_written = nobody
        if self._log is not None:
            self._log.close()
        self._log = dirty

    def set_inflight(self, area: InflightArea | None) -> None:
        """From the next start on what is in hand is kept there."""
        if self._inflight is not None:
            self._inflight.close()
        self._inflight = area

    def holds(self, address: int) -> bool:
        """Is this address of our own process in memory that came from this front-end?"""
        others = (area.area for area in (self._log, self._inflight) if area is not None)
        return self.memory.holds(address) or any(area.holds(address) for area in others)

    def signals(self, event: EventFd) -> bool:
        """Is that one of this front-end's events?"""
        return any(event in (vring.call, vring.error) for vring in self.vrings)

    # ---- starting and stopping ---------------------------------------------------------------------

    def pause(self) -> None:
        """Serve no ring, until `resume`."""
        for vring in self.vrings:
            self.halt(vring)

    def resume(self, message: str) -> None:
        """Serve every ring that can be. Raises ProtocolError, for `message`, where one cannot but should."""
        for vring in self.vrings:
            self.go(vring, message)

    def halt(self, vring: Vring) -> None:
        """Serve this ring no more; nothing of it is in hand then."""
        if vring.runner is None:
            return
        self._host.stop_ring(vring)
        vring.base = vring.runner.queue.last_avail
        vring.runner = None

    def go(self, vring: Vring, message: str) -> None:
        """Serve this ring if all is there. Raises ProtocolError where it cannot be."""
        if vring.runner is not None or vring.addr is None or not vring.startable or not self.memory.regions:
            return
        vring.runner = self._runner(vring, self._queue(vring, vring.addr, message))
        self._host.start_ring(vring)
        if vring.base:
            self._ring_again(vring)

    def set_call(self, vring: Vring, event: EventFd | None) -> None:
        """Signal another event from now on."""
        vring.set_call(event)
        if vring.runner is not None:
            vring.runner.call = self._bound_call(event)
            self._ring_again(vring)

    def _queue(self, vring: Vring, addr: VringAddr, message: str) -> SplitQueue:
        def place(field: str, at: int, length: int) -> int:
            gpa = self.memory.guest_address(at, length)
            if gpa is None:
                raise ProtocolError(
                    message, field, f"{length:#x} bytes at {at:#x} are not in the memory table"
                )
            return gpa

        try:
            return SplitQueue(
                self.memory,
                place("descriptor", addr.descriptor, DESC_SIZE * vring.num),
                place("available", addr.available, 6 + 2 * vring.num),
                place("used", addr.used, 6 + 8 * vring.num),
                vring.num,
                event_idx=bool(self.features & F_RING_EVENT_IDX),
                indirect=bool(self.features & F_RING_INDIRECT_DESC),
                base=vring.base,
            )
        except DriverError as error:
            raise ProtocolError(message, "vring", str(error)) from error

    def _runner(self, vring: Vring, queue: SplitQueue) -> QueueRunner:
        inflight = None if self._inflight is None else self._inflight.queue(vring.index)
        if inflight is not None and inflight.size != vring.num:
            inflight = None
        if inflight is not None:
            resume(queue, inflight)
        drain = self._device.drain(vring.index, queue)
        if inflight is not None:
            drain = tracked(queue, drain, inflight)
        return QueueRunner(
            queue,
            self._logged(vring, drain),
            vring.kick if vring.kick is not None else silent(),
            self._bound_call(vring.call),
            self._host.costs,
            barrier=self._host.barrier,
            index=vring.index,
            report=self._broken,
        )

    def _logged(self, vring: Vring, drain: Drain) -> Drain:
        """The same drain; what it and the device write is in the log, where one is wanted."""
        dirty = self._log
        if dirty is None or not self.features & F_LOG_ALL:
            self.memory.on_written = nobody
            return drain
        self.memory.on_written = dirty.mark
        if vring.addr is None or not vring.addr.flags & VRING_F_LOG:
            return drain
        used_at, used_bytes = vring.addr.log, 6 + 8 * vring.num

        def drain_logged(limit: int) -> int:
            served = drain(limit)
            dirty.mark(used_at, used_bytes)
            return served

        return drain_logged

    def _bound_call(self, event: EventFd | None) -> EventFd:
        """The call of a runner: its signal goes by the host, which counts."""
        if event is None:
            return silent()
        event.bind(functools.partial(self._host.signal, event))
        return event

    def _ring_again(self, vring: Vring) -> None:
        """An interrupt may have been lost with whoever served this ring before: one too many does no harm."""
        if vring.call is not None:
            self._host.signal(vring.call)

    def _broken(self, index: int, error: DriverError) -> None:
        """The guest's driver broke a ring."""
        log.warning("%s: queue %d stops: %s", self._name, index, error)
        if (event := self.vrings[index].error) is not None:
            self._host.signal(event)
