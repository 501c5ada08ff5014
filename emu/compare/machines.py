"""The machine of each path: the same board, the disk or the card another one, or in another place."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from emu.compare.backend import Backend
from emu.compare.workloads import GUEST_RAM, NET_OPS, QUEUE_SIZE, Workload
from emu.config import DeviceConfig, DriveConfig, MachineConfig, NetdevConfig, ObjectConfig

DISK_PATHS: Final = ("ide-pio", "virtio", "virtio-iothread", "vhost", "vhost-user", "vhost-user-poll")
NET_PATHS: Final = ("e1000", "virtio", "virtio-iothread", "vhost", "vhost-user", "vhost-user-poll")
SERVED: Final[Mapping[str, tuple[str, ...]]] = {"vhost-user": (), "vhost-user-poll": ("--poll",)}
"""Path -> flags of the `emu serve` that serves it."""
EXIT_PORT: Final = DeviceConfig("isa-debug-exit", {"iobase": "0xf4", "iosize": "4"})
IOTHREAD: Final = ObjectConfig("iothread", "io0")
CHARDEV: Final = "backend"


def paths_of(op: str) -> tuple[str, ...]:
    """The paths that carry `op`."""
    return NET_PATHS if op in NET_OPS else DISK_PATHS


class Place(NamedTuple):
    """What one guest works on: its kernel, its disk's file, the pattern's generation, and, on SERVED paths,
    its socket and the file of counters.
    """

    image: str
    disk: str = ""
    generation: int = 0
    socket: str = ""
    counters: str = ""


def serve_flags(path: str, work: Workload, disks: list[str]) -> tuple[str, tuple[str, ...]]:
    """Kind and flags of the `emu serve` that serves a SERVED path's guests, who have these disks."""
    if work.nets:
        return "vhost-user-net", (*SERVED[path], "--echo")
    drives: list[str] = []
    for disk in disks:
        drives += ["--drive", f"file={disk.replace(',', ',,')},format=raw"]
    return "vhost-user-blk", (*SERVED[path], *drives)


def at_socket(place: Place, backend: Backend, guest: int) -> Place:
    """The same place behind a back-end's socket."""
    return place._replace(socket=backend.sockets[guest], counters=backend.counters)


def machine_config(path: str, work: Workload, place: Place) -> MachineConfig:
    """The machine of one path."""
    append = work.command_line(path, place.generation)
    device = _card(path) if work.nets else _disk(path, place)
    return MachineConfig(
        ram_bytes=GUEST_RAM,
        kernel=place.image,
        append=append,
        drives=() if work.nets or path in SERVED else (_drive(path, place),),
        netdevs=(_netdev(path, place),) if work.nets else (),
        devices=(EXIT_PORT, device) if device is not None else (EXIT_PORT,),
        objects=(IOTHREAD,) if path == "virtio-iothread" else (),
        sockets={CHARDEV: place.socket} if path in SERVED else {},
    )


def _drive(path: str, place: Place) -> DriveConfig:
    if path == "ide-pio":
        return DriveConfig(place.disk, "ide", "raw", index=0)
    return DriveConfig(place.disk, "none", "raw", id="disk")


def _disk(path: str, place: Place) -> DeviceConfig | None:
    """The disk's device; None where it is on the board's own channel."""
    if path == "ide-pio":
        return None
    properties = {"queue-size": str(QUEUE_SIZE), **_placement(path)}
    if path in SERVED:
        return DeviceConfig(
            "vhost-user-blk-pci", {**properties, "chardev": CHARDEV, "counters": place.counters}
        )
    if path == "vhost":
        properties["vhost"] = "on"
    return DeviceConfig("virtio-blk-pci", {**properties, "drive": "disk"})


def _card(path: str) -> DeviceConfig:
    if path == "e1000":
        return DeviceConfig("e1000", {"netdev": "net"})
    return DeviceConfig("virtio-net-pci", {"netdev": "net", **_placement(path)})


def _placement(path: str) -> dict[str, str]:
    return {"iothread": IOTHREAD.id} if path == "virtio-iothread" else {}


def _netdev(path: str, place: Place) -> NetdevConfig:
    if path in SERVED:
        return NetdevConfig("vhost-user", "net", {"chardev": CHARDEV, "counters": place.counters})
    return NetdevConfig("echo", "net", {"vhost": "on"} if path == "vhost" else {})
