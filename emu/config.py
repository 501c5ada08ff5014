"""What a user asks of one machine, and how the machine ended.

Plain values between the command line (which fills them in) and the board (which builds from them).
Imports nothing of this package; holds no check that needs a device, a file or the host. Named tuples where
nothing speaks for a dataclass: a frozen one takes eight times as long to make at each start.
"""

import enum
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NamedTuple

MIB = 1 << 20

DriveInterface = Literal["ide", "virtio", "none"]
DriveMedia = Literal["disk", "cdrom"]
EngineChoice = Literal["auto", "fast", "public"]
FilePath = str | os.PathLike[str]
"""A file's name; importing `pathlib` for it costs 5 ms of start."""
NONE: Mapping[str, str] = MappingProxyType({})
"""No properties."""


class NetdevConfig(NamedTuple):
    """One `-netdev`: QEMU's kind, and the properties as written, checked by name and kind.

    `forwards` are host ports that lead into the guest: ("tcp" or "udp", host port, guest port).
    """

    kind: str
    id: str
    properties: Mapping[str, str] = NONE
    forwards: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class DriveConfig:
    """One `-drive`. `index` is the slot on its interface (IDE: 0 to 3), None where `interface` is "none".

    `format` None means: look at the file. `snapshot` keeps writes off the file. `cache` is QEMU's word
    ("unsafe": a guest's FLUSH need not reach the medium). A CD-ROM drive whose `file` is "" has no disc.
    """

    file: str
    interface: DriveInterface = "ide"
    format: str | None = None
    read_only: bool = False
    snapshot: bool = False
    id: str | None = None
    index: int | None = None
    cache: str = "writeback"
    media: DriveMedia = "disk"


class DeviceConfig(NamedTuple):
    """One `-device`: QEMU's driver name and the properties as written, checked by name and kind."""

    driver: str
    properties: Mapping[str, str] = NONE


class ObjectConfig(NamedTuple):
    """One `-object`: an iothread, a source of entropy, or a capture of frames."""

    kind: str
    id: str
    properties: Mapping[str, str] = NONE


class ExitsConfig(NamedTuple):
    """What `--exits` wants beyond exact counts. `file` "-" is standard output, None the table on stderr."""

    by_function: bool = False
    timed: bool = False
    file: str | None = None


@dataclass(frozen=True, slots=True)
class MachineConfig:
    """One machine.

    `serial` is where COM1 goes: "stdio", "mon:stdio" (with the Ctrl-A keys), "null", "none" (no input
    either), "file:PATH", "pty", "unix:PATH,server=on|off,wait=on|off" or "vc" (a console of the display);
    the board does not look at it, it calls `serial_out`. `monitor` says the same of the monitor, which
    with "mux" is behind the Ctrl-A keys where COM1 has them, and `chardevs` of the devices' `chardev=ID`.
    `sockets` are those of vhost-user back-ends by their id; of the `listening` ones the machine listens.
    `display` is "none" or "curses". `timeout_s` is host seconds, kept by the command's main loop, which calls
    `Machine.stop`.

    Without `kernel`, or with `bios`, firmware runs: `boot_order` is QEMU's letters; without `graphics` its
    console is COM1; `vga` puts an option ROM for the text screen in. `debugcon` is "stdio", "null" or
    "file:PATH" and belongs to `debugcon_port`; empty, port 0xE9 goes to standard error.
    """

    ram_bytes: int = 128 * MIB
    kernel: str | None = None
    initrd: str | None = None
    append: str = ""
    bios: str | None = None
    boot_order: str = "cad"
    boot_menu: bool = False
    graphics: bool = True
    vga: bool = True
    debugcon: str = ""
    debugcon_port: int = 0xE9
    drives: tuple[DriveConfig, ...] = ()
    devices: tuple[DeviceConfig, ...] = ()
    objects: tuple[ObjectConfig, ...] = ()
    netdevs: tuple[NetdevConfig, ...] = ()
    serial: str = "mon:stdio"
    monitor: str = "mux"
    display: str = "none"
    chardevs: Mapping[str, str] = field(default_factory=dict)
    sockets: Mapping[str, str] = field(default_factory=dict)
    listening: tuple[str, ...] = ()
    no_reboot: bool = False
    hpet: bool = True
    engine: EngineChoice = "auto"
    exits: ExitsConfig | None = None
    trace: str | None = None
    timeout_s: float | None = None
    name: str = ""


class OutcomeKind(enum.Enum):
    """How a machine's run ended."""

    POWER_OFF = "power-off"
    DEBUG_EXIT = "isa-debug-exit"
    TRIPLE_FAULT = "triple fault"
    HALTED = "halted with interrupts off"
    RESET = "reset"
    STOPPED = "stopped from outside"
    TIMEOUT = "timed out"


class Outcome(NamedTuple):
    """The end of a run. `value` is what the guest wrote to isa-debug-exit, else 0."""

    kind: OutcomeKind
    value: int = 0
