"""Virtio devices on the board: the service, where its queues are served, the PCI function, the doorbells."""

from collections.abc import Mapping

from emu.boards.disks import Disk
from emu.bus.costs import Costs
from emu.bus.eventfd import EventFd
from emu.bus.ledger import Row
from emu.bus.option_rom import OptionRom
from emu.bus.pci import PciBus
from emu.bus.types import MsiTarget
from emu.dataplanes.inline import inline_plane
from emu.dataplanes.iothread import iothread_plane
from emu.dataplanes.local import LocalPlane
from emu.dataplanes.vhost import vhost_plane
from emu.devices.virtio.blk import VirtioBlk
from emu.devices.virtio.device import VirtioDevice
from emu.devices.virtio.pci_transport import CLASS_STORAGE, VirtioPci
from emu.devices.virtio.spec import F_RING_EVENT_IDX, F_RING_INDIRECT_DESC
from emu.devices.virtio.types import DataPlane, Service
from emu.errors import ConfigError
from emu.kernel.ioeventfd import Doorbells
from emu.kernel.irqfd import bind_irqfd
from emu.machine import Machine

FIRST_SLOT = 3


class NativeDoorbells:
    """A `DoorbellRegistrar` at the bus seam: the engine writes the eventfd itself, Python never runs."""

    def __init__(self, machine: Machine, device: str) -> None:
        self._machine, self._device = machine, device
        self._rang: dict[int, int] = {}
        self._active: dict[int, int] = {}
        self._queue_of: dict[int, int] = {}
        machine.ledger.add_source(self)

    def add(self, address: int, event: EventFd) -> None:
        """Let stores to `address` only signal `event`."""
        bells = self._machine.engine.doorbells_of(address)
        if bells is not None and bells.add(address, event.fd):
            self._active[address] = event.fd

    def remove(self, address: int) -> None:
        """Stores to `address` reach the device again."""
        bells = self._machine.engine.doorbells_of(address)
        if self._active.pop(address, None) is not None and bells is not None:
            self._rang[address] = self._rang.get(address, 0) + bells.remove(address)

    def rows(self) -> list[Row]:
        """Light exits by doorbell."""
        counts = dict(self._rang)
        for address in self._active:
            bells = self._machine.engine.doorbells_of(address)
            if bells is not None:
                counts[address] = counts.get(address, 0) + bells.count(address)
        return [
            Row("light", self._device, f"notify.q{(address & 0xFFF) >> 2}", "write", count)
            for address, count in counts.items()
        ]


def add_virtio_blk(machine: Machine, pci: PciBus, msi: MsiTarget, disk: Disk) -> VirtioDevice:
    """Put one virtio-blk-pci on the bus."""
    properties = disk.properties
    queues = int(properties.get("num-queues", "1"), 0)
    queue_size = int(properties.get("queue-size", "256"), 0)
    service = VirtioBlk(
        disk.backend,
        serial=properties.get("serial", ""),
        queues=queues,
        queue_size=queue_size,
        ring_features=ring_features(properties),
    )
    vhost = is_on(properties, "vhost", default=False)
    plane = plane_here(machine, service, disk.name, vhost=vhost, iothread=properties.get("iothread"))
    return put_on_pci(
        machine, pci, msi, plane, disk.name, properties, class_code=CLASS_STORAGE, queue_size=queue_size
    )


def put_on_pci(
    machine: Machine,
    pci: PciBus,
    msi: MsiTarget,
    plane: DataPlane,
    name: str,
    properties: Mapping[str, str],
    *,
    class_code: int,
    queue_size: int,
    vectors: int | None = None,
    rom: OptionRom | None = None,
) -> VirtioDevice:
    """Give a data plane its device, its PCI function and its doorbells.

    The slot is the property `addr`, else the lowest free one. Raises ConfigError where the slot is taken.
    """
    slot = slot_of(pci, name, properties.get("addr"))
    device = VirtioDevice(plane, machine.memory, name=name, queue_size=queue_size, post=machine.post)
    doorbells = Doorbells(NativeDoorbells(machine, name))
    transport = VirtioPci(
        device, msi, bind_irqfd, class_code=class_code, vectors=vectors, on_doorbells=doorbells.update
    )
    if rom is not None:
        transport.function.add_rom(rom)
    pci.add(transport.function, slot)
    machine.on_close.insert(0, device.close)
    machine.ledger.add_costs(transport.costs)

    def costs() -> Costs:
        return device.plane.costs()  # the plane may change while the guest runs

    machine.ledger.add_costs_of(costs)
    return device


def is_on(properties: Mapping[str, str], name: str, *, default: bool) -> bool:
    """A switch among the properties, in any of QEMU's spellings."""
    return properties[name] in ("on", "yes", "true", "y") if name in properties else default


def ring_features(properties: Mapping[str, str]) -> int:
    """The ring's own bits that the user did not switch off."""
    bits = 0
    for name, bit in (("indirect_desc", F_RING_INDIRECT_DESC), ("event_idx", F_RING_EVENT_IDX)):
        if is_on(properties, name, default=True):
            bits |= bit
    return bits


def plane_here(
    machine: Machine, service: Service, owner: str, *, vhost: bool, iothread: str | None
) -> LocalPlane:
    """Serve a device's queues in this process: in the vhost worker, an I/O thread, or the vCPU's own."""
    vcpu = machine.vcpu
    if vhost:
        machine.shares_core = True
        return vhost_plane(service, vcpu.fail, owner, vcpu.forget_stale_code)
    if iothread is not None:
        machine.shares_core = True
        return iothread_plane(service, vcpu.fail, iothread, vcpu.forget_stale_code)
    return inline_plane(service, machine.post, machine.sources if service.sources else None)


def slot_of(pci: PciBus, name: str, address: str | None) -> int:
    """The slot that `addr=` names, else the lowest free one. Raises ConfigError where it is taken."""
    if address is None:
        free = [slot for slot in range(FIRST_SLOT, 32) if pci.function(slot) is None]
        if not free:
            raise ConfigError(f"-device {name}: every PCI slot is taken")
        return free[0]
    slot = int(address.split(".")[0], 16)
    if pci.function(slot) is not None:
        raise ConfigError(f"-device {name}: PCI slot {slot:#x} is taken; choose another addr=")
    return slot
