"""Devices whose queues another process serves: `vhost-user-blk-pci`, `vhost-user-fs-pci`."""

import functools
import struct
from collections.abc import Callable, Mapping
from typing import Final

from emu.boards.virtio import is_on, put_on_pci
from emu.bus.pci import PciBus
from emu.bus.types import MsiTarget
from emu.config import DeviceConfig, MachineConfig
from emu.dataplanes.vhost_user.channel import Channel
from emu.dataplanes.vhost_user.connection import Connection
from emu.dataplanes.vhost_user.counters import read_counters
from emu.dataplanes.vhost_user.dialling import Client, Dialler, Server
from emu.dataplanes.vhost_user.frontend import Kind, VhostUserPlane
from emu.devices.virtio import spec
from emu.devices.virtio.device import VirtioDevice
from emu.devices.virtio.pci_transport import CLASS_STORAGE
from emu.errors import ConfigError
from emu.machine import Machine

BLK_FEATURES: Final = (
    spec.BLK_F_SIZE_MAX
    | spec.BLK_F_SEG_MAX
    | spec.BLK_F_GEOMETRY
    | spec.BLK_F_RO
    | spec.BLK_F_BLK_SIZE
    | spec.BLK_F_FLUSH
    | spec.BLK_F_TOPOLOGY
    | spec.BLK_F_CONFIG_WCE
    | spec.BLK_F_DISCARD
    | spec.BLK_F_WRITE_ZEROES
)
BLK_CONFIG_SIZE: Final = 60
BLK_QUEUES_AT: Final = 34  # num_queues in struct virtio_blk_config
FS_CONFIG: Final = struct.Struct("<36sI")  # struct virtio_fs_config: tag, num_request_queues
FS_TAG_BYTES: Final = 36
CLASS_FS: Final = 0x01_8000


class VhostUserDevices:
    """Builds what `config` lists; `devices` and their `planes` in that order. Raises ConfigError."""

    def __init__(self, machine: Machine, pci: PciBus, msi: MsiTarget, config: MachineConfig) -> None:
        self._machine, self._pci, self._msi, self._config = machine, pci, msi, config
        self.devices: list[VirtioDevice] = []
        self.planes: list[VhostUserPlane] = []
        adders: Mapping[str, Callable[[DeviceConfig], None]] = {
            "vhost-user-blk-pci": self._add_blk,
            "vhost-user-fs-pci": self._add_fs,
        }
        for device in config.devices:
            if device.driver in adders:
                adders[device.driver](device)

    def _add_blk(self, device: DeviceConfig) -> None:
        properties = device.properties
        queues = int(properties.get("num-queues", "1"), 0)
        features = BLK_FEATURES | (spec.BLK_F_MQ if queues > 1 else 0)
        if not is_on(properties, "config-wce", default=True):
            features &= ~spec.BLK_F_CONFIG_WCE
        kind = Kind(spec.TYPE_BLK, features, BLK_CONFIG_SIZE, own={BLK_QUEUES_AT: struct.pack("<H", queues)})
        self._put(device, kind, queues, int(properties.get("queue-size", "128"), 0), CLASS_STORAGE)

    def _add_fs(self, device: DeviceConfig) -> None:
        properties = device.properties
        tag = properties["tag"].encode()
        if not 0 < len(tag) <= FS_TAG_BYTES:
            raise ConfigError(f"-device {device.driver}: tag is 1 to {FS_TAG_BYTES} bytes long")
        requests = int(properties.get("num-request-queues", "1"), 0)
        kind = Kind(spec.TYPE_FS, 0, config=FS_CONFIG.pack(tag, requests))
        self._put(device, kind, 1 + requests, int(properties.get("queue-size", "128"), 0), CLASS_FS)

    def _put(self, device: DeviceConfig, kind: Kind, queues: int, queue_size: int, class_code: int) -> None:
        driver, properties = device.driver, device.properties
        plane = vhost_user_plane(
            self._machine,
            self._config,
            properties["chardev"],
            kind,
            queues,
            queue_size,
            f"-device {driver}",
            properties.get("counters"),
        )
        name = properties.get("id", f"{driver.removesuffix('-pci')}{len(self.devices)}")
        made = put_on_pci(
            self._machine,
            self._pci,
            self._msi,
            plane,
            name,
            properties,
            class_code=class_code,
            queue_size=queue_size,
        )
        plane.on_config = made.config_changed
        self.devices.append(made)
        self.planes.append(plane)


def vhost_user_plane(
    machine: Machine,
    config: MachineConfig,
    chardev: str,
    kind: Kind,
    queues: int,
    queue_size: int,
    where: str,
    counters: str | None = None,
) -> VhostUserPlane:
    """A data plane at the back-end behind the socket `chardev`; the machine closes it.

    `counters` is a file where the back-end keeps what it spends. Raises ConfigError that begins with `where`.
    """
    path = config.sockets[chardev]
    where = f"{where},chardev={chardev} ({path})"
    dialler: Dialler = Server(path, where) if chardev in config.listening else Client(path)
    machine.on_close.insert(0, dialler.close)

    def negotiate(channel: Channel) -> Connection:
        try:
            return Connection(channel, queues)
        except BaseException:
            channel.close()
            raise

    plane = VhostUserPlane(
        lambda: negotiate(dialler.first()),
        kind,
        queues,
        queue_size,
        machine,
        where=where,
        spent_there=None if counters is None else functools.partial(read_counters, counters),
        again=lambda: negotiate(dialler()),
    )
    machine.foreign_writes = True
    plane.on_call = machine.foreign_wrote
    plane.on_rings = functools.partial(machine.foreign_rings, plane)
    machine.on_close.insert(0, plane.close)
    return plane
