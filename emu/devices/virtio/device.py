"""A virtio device without bus and without queues' place. Source: VIRTIO 1.2, sections 2.1 to 2.5 and 3.

Owned by the vCPU thread; a data plane's threads reach it through `post` only.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from emu.bus.eventfd import EventFd
from emu.bus.memory import GuestMemory
from emu.devices.virtio.spec import (
    ACKNOWLEDGE,
    DEVICE_NEEDS_RESET,
    DRIVER,
    DRIVER_OK,
    F_VERSION_1,
    FAILED,
    FEATURES_OK,
    MAX_QUEUE_SIZE,
)
from emu.devices.virtio.types import DataPlane, Post, Transport
from emu.errors import ConfigError, DriverError, EmuError

DRIVER_BITS: Final = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK | FAILED
"""Status bits that a driver may set."""


@dataclass(slots=True)
class QueueConfig:
    """A queue as the driver sets it up; the running one is a `SplitQueue` in a data plane."""

    size: int
    enabled: bool = False
    desc: int = 0
    driver: int = 0
    device: int = 0
    base: int = 0


class VirtioDevice:
    """The state machine in front of a data plane.

    `post` runs a call on the vCPU thread, never inside of itself: an error is dealt with after the doorbell.
    Raises ConfigError for a queue size that is none.
    """

    def __init__(
        self,
        plane: DataPlane,
        memory: GuestMemory,
        *,
        post: Post,
        name: str = "virtio",
        queue_size: int = 256,
    ) -> None:
        if not 0 < queue_size <= MAX_QUEUE_SIZE or queue_size & (queue_size - 1):
            raise ConfigError(
                f"{name}: queue size {queue_size}: it must be a power of two up to {MAX_QUEUE_SIZE}"
            )
        self.name, self.plane, self.queue_size = name, plane, queue_size
        self.device_type = plane.device_type
        self._memory = memory
        self.post = post
        self._transport: Transport | None = None
        self.kicks = tuple(EventFd(f"{name} kick {i}") for i in range(plane.queues))
        self.calls = tuple(EventFd(f"{name} call {i}") for i in range(plane.queues))
        self.driver_errors = 0
        self.last_error = ""
        self.config_generation = 0
        self._dma = True
        self._life = 0  # which reset-to-reset span a posted error belongs to
        self.on_reset: Callable[[], None] = _nobody
        """Told when the driver or the bus resets the device, once no queue is served."""
        self._clear()

    def _clear(self) -> None:
        self.status = 0
        self.driver_features = 0
        self.running = False
        self.queues = [QueueConfig(self.queue_size) for _ in self.kicks]
        for event in self.calls:
            event.bind(_nobody)

    def attach(self, transport: Transport) -> None:
        """Hang the device on its bus; once, before the guest runs."""
        self._transport = transport

    # ---- status and features -----------------------------------------------------------------------

    @property
    def features(self) -> int:
        """What is offered."""
        return self.plane.features | F_VERSION_1

    def set_features(self, half: int, value: int) -> None:
        """Take 32 of the driver's feature bits; ignored once FEATURES_OK is set. Source: 2.2."""
        if not self.status & FEATURES_OK and half < 2:
            mask = 0xFFFF_FFFF << 32 * half
            self.driver_features = self.driver_features & ~mask | value << 32 * half

    def set_status(self, value: int) -> None:
        """The driver writes device_status: 0 resets, other bits can only be added. Source: 2.1, 3.1.1."""
        if value == 0:
            self.reset()
            return
        added = value & ~self.status & DRIVER_BITS
        if added & FEATURES_OK and not self._acceptable():
            added &= ~FEATURES_OK
        if added & DRIVER_OK and not (self.status | added) & FEATURES_OK:
            self._break(DriverError("DRIVER_OK without FEATURES_OK"))
            return
        self.status |= added
        if added & FAILED:
            self._stop()
        elif added & DRIVER_OK:
            self._start()

    def _acceptable(self) -> bool:
        accepted = self.driver_features
        return bool(accepted & F_VERSION_1) and not accepted & ~self.features

    def reset(self) -> None:
        """Back to the state after power-on; returns with no request in hand."""
        self._life += 1
        self._stop()
        self._clear()
        self.on_reset()

    # ---- queues ------------------------------------------------------------------------------------

    def set_queue_size(self, index: int, size: int) -> None:
        """The driver wants a smaller ring. Source: 4.1.4.3.2."""
        if not 0 < size <= self.queue_size or size & (size - 1):
            self._break(
                DriverError(f"queue {index}: size {size}, a power of two up to {self.queue_size} fits")
            )
            return
        self.queues[index].size = size

    def enable_queue(self, index: int) -> None:
        """The driver has set a queue up; one enabled while the device runs joins at once."""
        queue = self.queues[index]
        if queue.enabled:
            return
        queue.enabled = True
        if self.running:
            self._stop()
            self._start()
            self._wake_all()

    def allow_dma(self, allowed: bool) -> None:
        """PCI's bus master bit: without it no queue is served; work that waits is served when it returns."""
        if allowed == self._dma:
            return
        self._dma = allowed
        if not allowed:
            self._stop()
        elif self.status & DRIVER_OK:
            self._start()
            self._wake_all()

    def _start(self) -> None:
        if not self._dma or self.status & (FAILED | DEVICE_NEEDS_RESET):
            return
        plane = self.plane
        plane.set_memory(self._memory)
        plane.set_features(self.driver_features)
        plane.set_error(self._report)
        for i, queue in enumerate(self.queues):
            plane.set_enable(i, queue.enabled)
            if queue.enabled:
                plane.set_vring(i, queue.size, queue.desc, queue.driver, queue.device, queue.base)
                plane.set_kick(i, self.kicks[i])
                plane.set_call(i, self.calls[i])
        if self._transport is not None:
            self._transport.wire()
        try:
            plane.start()
        except DriverError as error:
            self._break(error)
            return
        self.running = True
        if self._transport is not None:
            self._transport.doorbells_changed()

    def _stop(self) -> None:
        if not self.running:
            return
        self.running = False
        if self._transport is not None:
            self._transport.doorbells_changed()
        for i, base in self.plane.stop().items():
            self.queues[i].base = base

    def move_to(self, plane: DataPlane) -> None:
        """Serve the queues elsewhere from now on; nothing is lost, there may be a spurious interrupt.

        Raises ConfigError where the new place cannot do what was negotiated; the old one goes on then.
        """
        missing = self.driver_features & ~(plane.features | F_VERSION_1)
        if missing or plane.queues < len(self.kicks) or plane.device_type != self.device_type:
            raise ConfigError(
                f"{self.name}: {plane.name} cannot take over (features {missing:#x} are missing)"
            )
        old, was_running = self.plane, self.running
        self._stop()
        self.plane = plane
        if not was_running:
            return
        try:
            self._start()
        except EmuError:
            self.plane = old
            self._start()
            raise
        finally:
            self._wake_all()

    def _wake_all(self) -> None:
        """What came in between is waiting; and the driver may have missed what the old place answered."""
        for queue, kick, call in zip(self.queues, self.kicks, self.calls, strict=True):
            if queue.enabled and self.running:
                kick.signal()
                call.signal()

    # ---- configuration -----------------------------------------------------------------------------

    def read_config(self, offset: int, width: int) -> int | None:
        """`width` bytes of the type's own configuration, None where it has none there."""
        data = self.plane.config(offset, width)
        return int.from_bytes(data, "little") if len(data) == width else None

    def write_config(self, offset: int, width: int, value: int) -> None:
        """The driver writes the type's own configuration."""
        self.plane.write_config(offset, struct.pack("<Q", value)[:width])

    def config_changed(self) -> None:
        """The configuration changed by itself, e.g. the disk grew. Source: 2.5."""
        self.config_generation = (self.config_generation + 1) & 0xFF
        if self.status & DRIVER_OK and self._transport is not None:
            self._transport.config_interrupt()

    # ---- the driver's errors -----------------------------------------------------------------------

    def _report(self, index: int, error: DriverError) -> None:
        """A data plane gave a queue up; called from any thread."""
        life = self._life
        text = DriverError(f"queue {index}: {error}")
        self.post(lambda: self._break(text) if life == self._life else None)

    def _break(self, error: DriverError) -> None:
        """Enter the error state: no queue is served until the driver resets the device. Source: 2.1.1."""
        self.driver_errors += 1
        self.last_error = str(error)
        if self.driver_errors == 1:
            import logging  # noqa: PLC0415 - 4 ms of start

            text = "%s: the driver broke the protocol, device needs reset: %s"
            logging.getLogger("emu.virtio").warning(text, self.name, error)
        self._stop()
        announce = self.status & DRIVER_OK and not self.status & DEVICE_NEEDS_RESET
        self.status |= DEVICE_NEEDS_RESET
        if announce and self._transport is not None:
            self._transport.config_interrupt()

    def close(self) -> None:
        """Stop serving and release the events."""
        self._stop()
        for event in (*self.kicks, *self.calls):
            event.close()


def _nobody() -> None:
    """Nobody listens."""
