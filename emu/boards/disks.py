"""A machine's disks: the images behind `-drive`, opened once, and who takes them."""

import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from emu.bus.costs import Costs
from emu.config import DriveConfig, MachineConfig
from emu.devices.block.backend import BlockBackend
from emu.devices.ide_seat import CdRom, Seat
from emu.errors import ConfigError
from emu.machine import Machine


class Disk(NamedTuple):
    """An open image and how a virtio device serves it: `properties` are those of its `-device`."""

    name: str
    backend: BlockBackend
    properties: Mapping[str, str]


class Disks:
    """Opens every drive. Raises ConfigError in one line; the machine closes what is open."""

    def __init__(self, machine: Machine, config: MachineConfig) -> None:
        self._config = config
        self._open: dict[int, BlockBackend] = {}
        self._machine = machine
        for i, drive in enumerate(config.drives):
            if drive.file or drive.media == "disk":
                self._open[i] = self._open_one(drive)

    def _open_one(self, drive: DriveConfig) -> BlockBackend:
        from emu.devices.block.open import open_image  # noqa: PLC0415 - a tiny guest has no disk

        read_only = drive.read_only or drive.media == "cdrom"
        if drive.media == "cdrom" and not os.path.exists(drive.file):  # noqa: PTH110 - pathlib costs 5 ms of start
            raise ConfigError(f"{drive.file}: no such file; give an ISO image")
        backend = open_image(drive.file, drive.format, read_only, drive.snapshot and not read_only)
        self._machine.on_close.append(backend.close)
        if drive.media == "cdrom":
            from emu.devices.block.iso import check_iso  # noqa: PLC0415 - as above

            check_iso(drive.file, backend, needs_volume=drive.format is None)
        if drive.cache == "unsafe":
            from emu.devices.block.unsafe import UnsafeCache  # noqa: PLC0415 - as above

            return UnsafeCache(backend)
        return backend

    def seat(self, slot: int) -> Seat:
        """The disk or CD-ROM drive in IDE slot 0 to 3 (primary master first)."""
        for i, drive in enumerate(self._config.drives):
            if drive.interface == "ide" and drive.index == slot:
                return CdRom(self._open.get(i)) if drive.media == "cdrom" else self._open[i]
        return None

    def ide(self, slot: int) -> BlockBackend | None:
        """The disk in IDE slot 0 to 3, where one is."""
        seat = self.seat(slot)
        return None if isinstance(seat, CdRom) else seat

    def ide_costs(self) -> Iterator[Costs]:
        """What the calls to the media on IDE cost."""
        for i, drive in enumerate(self._config.drives):
            if drive.interface == "ide" and i in self._open:
                yield self._open[i].costs

    def virtio(self) -> Iterator[Disk]:
        """The disks of `-drive if=virtio` and of `-device virtio-blk-pci`, in order."""
        number = 0
        for i, drive in enumerate(self._config.drives):
            if drive.interface == "virtio":
                yield Disk(f"virtio-blk{number}", self._open[i], {})
                number += 1
        for device in self._config.devices:
            if device.driver == "virtio-blk-pci":
                wanted = device.properties["drive"]
                backend = self._by_id(wanted)
                yield Disk(device.properties.get("id", f"virtio-blk{number}"), backend, device.properties)
                number += 1

    def _by_id(self, wanted: str) -> BlockBackend:
        for i, drive in enumerate(self._config.drives):
            if drive.id == wanted and drive.interface == "none":
                return self._open[i]
        raise ConfigError(f"-device virtio-blk-pci,drive={wanted}: no -drive if=none,id={wanted}")
