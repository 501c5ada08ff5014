"""virtio-pci, modern only. Source: VIRTIO 1.2, section 4.1.

One 64-bit prefetchable BAR 4 of 16 KiB, laid out as QEMU does it: common configuration at 0, ISR at 0x1000,
the type's configuration at 0x2000, doorbells at 0x3000, four bytes apart; MSI-X in BAR 1.
Owned by the vCPU thread, but for the calls that it binds to the device's call events.
"""

import contextlib
import functools
import struct
from collections.abc import Callable
from typing import Final

from emu.bus.costs import Costs
from emu.bus.eventfd import EventFd
from emu.bus.msix import MsixTable
from emu.bus.pci_bar import Bar, BarKind, BarWindow
from emu.bus.pci_config import PciIdentity
from emu.bus.pci_function import PciFunction
from emu.bus.types import AccessError, Fault, MsiTarget
from emu.devices.virtio.device import VirtioDevice
from emu.devices.virtio.pci_common import CommonConfig
from emu.devices.virtio.spec import (
    CAP_COMMON_CFG,
    CAP_DEVICE_CFG,
    CAP_ISR_CFG,
    CAP_NOTIFY_CFG,
    CAP_PCI_CFG,
    ISR_CONFIG,
    ISR_QUEUE,
    PCI_DEVICE_BASE,
    PCI_REVISION,
    PCI_VENDOR,
)

CAP_VENDOR: Final = 0x09
MODERN_BAR: Final = 4
MSIX_BAR: Final = 1
MSIX_BAR_SIZE: Final = 0x1000
BAR_SIZE: Final = 0x4000
ISR: Final = 0x1000
DEVICE: Final = 0x2000
NOTIFY: Final = 0x3000
NOTIFY_MULTIPLIER: Final = 4
CAPABILITY: Final = struct.Struct("<BBBBxxII")  # cap_len, cfg_type, bar, id, offset, length
PCI_CFG_BAR, PCI_CFG_OFFSET, PCI_CFG_LENGTH, PCI_CFG_DATA = 4, 8, 12, 16  # in the PCI_CFG capability
CLASS_STORAGE: Final = 0x01_0000

Doorbell = tuple[int, int, EventFd]
"""(offset in the BAR, queue, event)."""
OnDoorbells = Callable[[int | None, list[Doorbell]], None]
"""Told of the BAR's base, None while it is not decoded, and the doorbells that need no device code."""
IrqFdBinder = Callable[[EventFd, MsiTarget, int, int], None]
"""See `emu.kernel.irqfd.bind_irqfd`."""


class VirtioPci:
    """A `VirtioDevice` behind a PCI function, and the `Region` of its BAR.

    `function` goes into a PCI slot. `msi` takes the messages. `on_doorbells` is told when doorbells appear,
    move or go; a doorbell that nobody takes there is signalled by hand, one system call counted in `costs`.
    """

    size = BAR_SIZE

    def __init__(
        self,
        device: VirtioDevice,
        msi: MsiTarget,
        bind_irqfd: IrqFdBinder,
        *,
        class_code: int = CLASS_STORAGE,
        vectors: int | None = None,
        on_doorbells: OnDoorbells | None = None,
    ) -> None:
        self.device, self.costs = device, Costs()
        self.on_doorbells = on_doorbells
        self._msi, self._bind_irqfd = msi, bind_irqfd
        queues = len(device.kicks)
        count = queues + 1 if vectors is None else vectors
        self.msix = MsixTable(count or 1, msi)
        self.common = CommonConfig(device, count, self._vector_changed)
        self._kicks: tuple[EventFd, ...] = ()  # empty while the device does not run
        self._by_hand = False
        self._isr = 0
        self.bar_base: int | None = None
        number = PCI_DEVICE_BASE + device.device_type
        self.function = PciFunction(
            PciIdentity(PCI_VENDOR, number, class_code, PCI_REVISION, PCI_VENDOR, 0x1100),
            device.name,
            bars=(
                Bar(MSIX_BAR, BarKind.MEM32, MSIX_BAR_SIZE, self.msix.windows(device.name)),
                Bar(
                    MODERN_BAR,
                    BarKind.MEM64,
                    BAR_SIZE,
                    [BarWindow(0, self, device.name)],
                    prefetch=True,
                    on_move=self._moved,
                ),
            ),
            intx_pin=1,
        )
        if count:  # without, the driver finds no MSI-X and takes the interrupt pin
            self.msix.attach(self.function, MSIX_BAR)
        self.msix.on_change = self._route_changed
        self._add_capabilities(queues)
        self.function.on_reset.append(self.reset)
        self.function.on_command.append(self._command_changed)
        device.attach(self)
        self._command_changed()

    def _add_capabilities(self, queues: int) -> None:
        config = self.function.config
        body = CAPABILITY.pack(CAPABILITY.size + 6, CAP_PCI_CFG, 0, 0, 0, 0) + bytes(4)
        mask = bytes((0, 0, 0xFF, 0, 0, 0)) + b"\xff" * 12
        self._window = config.add_capability(
            CAP_VENDOR, body, mask, before_read=self._window_read, after_write=self._window_write
        )
        for kind, offset, length in (
            (CAP_COMMON_CFG, 0, self.common.size),
            (CAP_ISR_CFG, ISR, 1),
            (CAP_DEVICE_CFG, DEVICE, 0x1000),
        ):
            config.add_capability(CAP_VENDOR, CAPABILITY.pack(16, kind, MODERN_BAR, 0, offset, length))
        notify = CAPABILITY.pack(20, CAP_NOTIFY_CFG, MODERN_BAR, 0, NOTIFY, NOTIFY_MULTIPLIER * queues)
        config.add_capability(CAP_VENDOR, notify + struct.pack("<I", NOTIFY_MULTIPLIER))

    # ---- the BAR -----------------------------------------------------------------------------------

    def read(self, offset: int, width: int) -> int:
        """See `Region`."""
        if offset < ISR:
            return self.common.read(offset, width)
        if offset < DEVICE:
            return self._read_isr(offset)
        if offset < NOTIFY:
            value = self.device.read_config(offset - DEVICE, width)
            if value is None:
                raise AccessError(Fault.NO_REGISTER)
            return value
        return 0

    def write(self, offset: int, width: int, value: int) -> None:
        """See `Region`. Doorbells come first: theirs is the hot path."""
        if offset >= NOTIFY:
            kicks, index = self._kicks, (offset - NOTIFY) >> 2
            if index < len(kicks):
                if self._by_hand:
                    self.costs.syscalls += 1
                kicks[index].signal()
        elif offset < ISR:
            self.common.write(offset, width, value)
            if self.common.was_reset:
                self._clear()
        elif offset >= DEVICE:
            self.device.write_config(offset - DEVICE, width, value)
        else:
            raise AccessError(Fault.READ_ONLY)

    def register_name(self, offset: int, _is_write: bool) -> str:
        """The specification's name of the field."""
        if offset < ISR:
            return f"common.{self.common.register_name(offset)}"
        if offset < DEVICE:
            return "isr"
        if offset < NOTIFY:
            return f"device.+{offset - DEVICE}"
        return f"notify.q{(offset - NOTIFY) // NOTIFY_MULTIPLIER}"

    def _read_isr(self, offset: int) -> int:
        """Reading takes the reasons and lets the line go. Source: 4.1.4.5."""
        if offset != ISR:
            raise AccessError(Fault.NO_REGISTER)
        isr, self._isr = self._isr, 0
        self.function.intx.set(False)
        return isr

    # ---- reset -------------------------------------------------------------------------------------

    def reset(self) -> None:
        """The bus was reset."""
        self.common.reset()
        self._clear()

    def _clear(self) -> None:
        self.common.was_reset = False
        self._isr = 0
        self.function.intx.set(False)

    # ---- PCI_CFG: the BAR through configuration space, 4.1.4.9 -------------------------------------

    def _window_access(self) -> tuple[int, int] | None:
        """(offset, width) that the driver set up, None where they are not valid."""
        config, at = self.function.config, self._window
        bar = config.get(at + PCI_CFG_BAR, 1)
        offset, width = config.get(at + PCI_CFG_OFFSET, 4), config.get(at + PCI_CFG_LENGTH, 4)
        if bar != MODERN_BAR or width not in (1, 2, 4) or offset % width or offset + width > BAR_SIZE:
            return None
        return offset, width

    def _window_read(self, offset: int, width: int) -> None:
        access = self._window_access() if offset + width > PCI_CFG_DATA else None
        if access is None:
            return
        try:
            value = self.read(*access)
        except AccessError:
            value = 0xFFFF_FFFF
        self.function.config.put(self._window + PCI_CFG_DATA, access[1], value & (1 << 8 * access[1]) - 1)

    def _window_write(self, offset: int, width: int) -> None:
        access = self._window_access() if offset + width > PCI_CFG_DATA else None
        if access is None:
            return
        value = self.function.config.get(self._window + PCI_CFG_DATA, access[1])
        with contextlib.suppress(AccessError):  # as on the bus, only without a line in its log
            self.write(*access, value)

    # ---- interrupts; `Transport` -------------------------------------------------------------------

    def wire(self) -> None:
        """Join each queue's call to its vector."""
        for index in range(len(self.device.calls)):
            self._bind_call(index)

    def _bind_call(self, index: int) -> None:
        call, vector = self.device.calls[index], self.common.queue_vectors[index]
        plane = self.device.plane
        # The VMM's own thread asks the table at each interrupt. Inline the answer is kept: 0.6 us less.
        by_vmm = plane.ioeventfd and not plane.irqfd
        route = None if by_vmm else self.msix.route(vector)
        if route is not None:
            self._bind_irqfd(call, self._msi, *route)
        elif plane.ioeventfd:
            call.bind(functools.partial(self._interrupt_from_thread, index))
        else:
            call.bind(functools.partial(self._interrupt, index))

    def _interrupt(self, index: int) -> None:
        """The VMM's way, on the vCPU thread."""
        if self.msix.enabled:
            self.msix.notify(self.common.queue_vectors[index])
        else:
            self._raise(ISR_QUEUE)

    def _interrupt_from_thread(self, index: int) -> None:
        """The VMM's way, on a queue's thread: a message may leave from here, the pin may not."""
        if self.msix.enabled:
            self.msix.notify(self.common.queue_vectors[index])
        else:
            self.device.post(self._raise_queue_late)

    def _raise_queue_late(self) -> None:
        if self.device.running and not self.msix.enabled:
            self._raise(ISR_QUEUE)

    def _raise(self, reason: int) -> None:
        self._isr |= reason
        self.function.intx.set(True)

    def config_interrupt(self) -> None:
        """See `Transport`."""
        if self.msix.enabled:
            self.msix.notify(self.common.config_vector)
        else:
            self._raise(ISR_CONFIG)

    def _route_changed(self, vector: int) -> None:
        """The guest masked, unmasked or redirected a vector, or switched MSI-X."""
        if self.msix.enabled and self._isr:
            self._isr = 0
            self.function.intx.set(False)
        for index, used in enumerate(self.common.queue_vectors):
            if used == vector and self.device.running:
                self._bind_call(index)

    def _vector_changed(self, index: int) -> None:
        if self.device.running:
            self._bind_call(index)

    # ---- doorbells ---------------------------------------------------------------------------------

    def doorbells(self) -> list[Doorbell]:
        """The doorbells that need no device code now."""
        if not (self.device.running and self.device.plane.ioeventfd):
            return []
        return [
            (NOTIFY + NOTIFY_MULTIPLIER * i, i, kick)
            for i, kick in enumerate(self.device.kicks)
            if self.device.queues[i].enabled
        ]

    def doorbells_changed(self) -> None:
        """See `Transport`."""
        self._kicks = self.device.kicks if self.device.running else ()
        self._by_hand = self.device.plane.ioeventfd
        if self.on_doorbells is not None:
            self.on_doorbells(self.bar_base, self.doorbells())

    def _moved(self, base: int | None) -> None:
        self.bar_base = base
        if self.on_doorbells is not None:
            self.on_doorbells(base, self.doorbells())

    def _command_changed(self) -> None:
        self.device.allow_dma(self.function.bus_master)
