"""virtio-pci's common configuration structure. Source: VIRTIO 1.2, section 4.1.4.3."""

from collections.abc import Callable
from typing import Final

from emu.bus.types import AccessError, Fault
from emu.devices.virtio.device import QueueConfig, VirtioDevice
from emu.devices.virtio.spec import NO_VECTOR

(
    DEVICE_FEATURE_SELECT,
    DEVICE_FEATURE,
    DRIVER_FEATURE_SELECT,
    DRIVER_FEATURE,
    CONFIG_MSIX_VECTOR,
    NUM_QUEUES,
    DEVICE_STATUS,
    CONFIG_GENERATION,
    QUEUE_SELECT,
    QUEUE_SIZE,
    QUEUE_MSIX_VECTOR,
    QUEUE_ENABLE,
    QUEUE_NOTIFY_OFF,
    QUEUE_DESC,
    QUEUE_DRIVER,
    QUEUE_DEVICE,
) = (0, 4, 8, 12, 16, 18, 20, 21, 22, 24, 26, 28, 30, 32, 40, 48)

FIELDS: Final = {
    DEVICE_FEATURE_SELECT: ("device_feature_select", 4),
    DEVICE_FEATURE: ("device_feature", 4),
    DRIVER_FEATURE_SELECT: ("driver_feature_select", 4),
    DRIVER_FEATURE: ("driver_feature", 4),
    CONFIG_MSIX_VECTOR: ("config_msix_vector", 2),
    NUM_QUEUES: ("num_queues", 2),
    DEVICE_STATUS: ("device_status", 1),
    CONFIG_GENERATION: ("config_generation", 1),
    QUEUE_SELECT: ("queue_select", 2),
    QUEUE_SIZE: ("queue_size", 2),
    QUEUE_MSIX_VECTOR: ("queue_msix_vector", 2),
    QUEUE_ENABLE: ("queue_enable", 2),
    QUEUE_NOTIFY_OFF: ("queue_notify_off", 2),
    QUEUE_DESC: ("queue_desc", 4),
    QUEUE_DESC + 4: ("queue_desc", 4),
    QUEUE_DRIVER: ("queue_driver", 4),
    QUEUE_DRIVER + 4: ("queue_driver", 4),
    QUEUE_DEVICE: ("queue_device", 4),
    QUEUE_DEVICE + 4: ("queue_device", 4),
}
"""Offset to name and width; a 64-bit field is two of 32, as drivers access it."""
READ_ONLY: Final = (DEVICE_FEATURE, NUM_QUEUES, CONFIG_GENERATION, QUEUE_NOTIFY_OFF)
U32: Final = 0xFFFF_FFFF


class CommonConfig:
    """Selectors, and the view through them on a device. The vCPU thread's own.

    `on_vector(queue)` is called when a queue got another vector. `was_reset` is set by a reset through
    device_status, for the owner to take back.
    """

    size = 56

    def __init__(self, device: VirtioDevice, vectors: int, on_vector: Callable[[int], None]) -> None:
        self._device, self._vectors, self._on_vector = device, vectors, on_vector
        self._queues = len(device.kicks)
        self.was_reset = False
        self._forget()

    def _forget(self) -> None:
        self.config_vector = NO_VECTOR
        self.queue_vectors = [NO_VECTOR] * self._queues
        self._device_half = self._driver_half = self._queue = 0

    def reset(self) -> None:
        """Reset the device and forget selectors and vectors."""
        self._device.reset()
        self._forget()

    def register_name(self, offset: int) -> str:
        """The field's name; the offset where there is none."""
        return FIELDS[offset][0] if offset in FIELDS else f"+{offset}"

    def _check(self, offset: int, width: int) -> int:
        """The width of the field at `offset`, which is at least that of the access."""
        field = FIELDS.get(offset)
        if field is None:
            raise AccessError(Fault.NO_REGISTER)
        if field[1] < width:
            raise AccessError(Fault.WIDTH)
        return field[1]

    # ---- reads -------------------------------------------------------------------------------------

    def read(self, offset: int, width: int) -> int:
        """Read a field, or the low bytes of one, as iPXE reads features. Raises AccessError."""
        if width == 8 and offset in (QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE):
            return self.read(offset, 4) | self.read(offset + 4, 4) << 32
        whole = self._check(offset, width)
        value = self._field(offset)
        return value if width == whole else value & (1 << 8 * width) - 1

    def _field(self, offset: int) -> int:
        if offset >= QUEUE_SIZE:
            return self._read_queue(offset) if self._queue < self._queues else 0
        device = self._device
        match offset:
            case 0:
                return self._device_half
            case 4:
                return device.features >> 32 * self._device_half & U32 if self._device_half < 2 else 0
            case 8:
                return self._driver_half
            case 12:
                half = self._driver_half
                return device.driver_features >> 32 * half & U32 if half < 2 else 0
            case 16:
                return self.config_vector
            case 18:
                return self._queues
            case 20:
                return device.status
            case 21:
                return device.config_generation
            case _:
                return self._queue

    def _read_queue(self, offset: int) -> int:
        queue = self._device.queues[self._queue]
        if offset >= QUEUE_DESC:
            return _address(queue, offset & ~7) >> 8 * (offset & 4) & U32
        if offset == QUEUE_SIZE:
            return queue.size
        if offset == QUEUE_MSIX_VECTOR:
            return self.queue_vectors[self._queue]
        if offset == QUEUE_ENABLE:
            return int(queue.enabled)
        return self._queue  # queue_notify_off: doorbells in the queues' order

    # ---- writes ------------------------------------------------------------------------------------

    def write(self, offset: int, width: int, value: int) -> None:
        """Write a field. Raises AccessError."""
        if width == 8 and offset in (QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE):
            self.write(offset, 4, value & U32)
            self.write(offset + 4, 4, value >> 32)
            return
        if self._check(offset, width) != width:
            raise AccessError(Fault.WIDTH)
        if offset in READ_ONLY:
            raise AccessError(Fault.READ_ONLY)
        if offset >= QUEUE_SIZE:
            if self._queue < self._queues:
                self._write_queue(offset, value)
            return
        match offset:
            case 0:
                self._device_half = value
            case 8:
                self._driver_half = value
            case 12:
                self._device.set_features(self._driver_half, value)
            case 16:
                self.config_vector = self._vector(value)
            case 20 if value == 0:
                self.reset()
                self.was_reset = True
            case 20:
                self._device.set_status(value)
            case _:
                self._queue = value

    def _vector(self, value: int) -> int:
        """A vector that is not there reads back as none. Source: 4.1.5.1.2."""
        return value if value < self._vectors else NO_VECTOR

    def _write_queue(self, offset: int, value: int) -> None:
        index = self._queue
        queue = self._device.queues[index]
        if offset == QUEUE_MSIX_VECTOR:
            self.queue_vectors[index] = self._vector(value)
            self._on_vector(index)
        elif queue.enabled:
            return  # fixed until reset
        elif offset == QUEUE_ENABLE:
            if value == 1:
                self._device.enable_queue(index)
        elif offset == QUEUE_SIZE:
            self._device.set_queue_size(index, value)
        else:
            _set_half(queue, offset, value)


def _address(queue: QueueConfig, field: int) -> int:
    if field == QUEUE_DESC:
        return queue.desc
    return queue.driver if field == QUEUE_DRIVER else queue.device


def _set_half(queue: QueueConfig, offset: int, value: int) -> None:
    """Store 32 bits of one of the three ring addresses."""
    shift = 8 * (offset & 4)
    address = _address(queue, offset & ~7) & ~(U32 << shift) | value << shift
    if offset & ~7 == QUEUE_DESC:
        queue.desc = address
    elif offset & ~7 == QUEUE_DRIVER:
        queue.driver = address
    else:
        queue.device = address
