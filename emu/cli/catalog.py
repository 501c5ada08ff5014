"""The `-device` and `-object` names that can be given, their properties, and those that are still to come.

Names, spelling and defaults are QEMU's (`qemu-system-x86_64 -device NAME,help`); `ours` marks what it lacks.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from emu.cli.options import choice, nearest, number, switch
from emu.errors import ConfigError


class Kind(NamedTuple):
    """A property's values: as the help shows them, and a check `(name, text)` that raises ConfigError."""

    shown: str
    check: Callable[[str, str], object]


def _any_text(name: str, text: str) -> None:
    if not text:
        raise ConfigError(f"{name} needs a value")


def _within(low: int, high: int) -> Kind:
    return Kind(f"{low}..{high}", lambda name, text: number(name, text, low, high))


def _one_of(*words: str) -> Kind:
    return Kind("|".join(words), lambda name, text: choice(name, text, words))


def _queue_size(name: str, text: str) -> None:
    value = number(name, text, 2, 1024)
    if value & (value - 1):
        raise ConfigError(f"{name} is a power of two, not {text}")


def _disk_serial(name: str, text: str) -> None:
    if not 0 < len(text.encode()) <= 20:
        raise ConfigError(f'{name} is 1 to 20 bytes long, not "{text}"')


def _pci_slot(name: str, text: str) -> None:
    slot, _, function = text.partition(".")
    try:
        fits = 0 < int(slot, 16) < 32 and int(function or "0", 16) == 0
    except ValueError:
        fits = False
    if not fits:
        raise ConfigError(f'{name} is a slot from 1 to 1f, hexadecimal, function 0, not "{text}"')


def _mac(name: str, text: str) -> None:
    pieces = text.split(":")
    try:
        numbers = [int(piece, 16) for piece in pieces if 1 <= len(piece) <= 2]
    except ValueError:
        numbers = []
    if len(numbers) != 6 or len(pieces) != 6 or numbers[0] & 1:
        raise ConfigError(f'{name} is six bytes like 52:54:00:12:34:56, the first one even, not "{text}"')


TEXT = Kind("text", _any_text)
SWITCH = Kind("on|off", switch)


class Property(NamedTuple):
    """One property of a device."""

    name: str
    kind: Kind
    help: str
    ours: bool = False


class Driver(NamedTuple):
    """One `-device` name. `required` are the properties without which it makes no sense."""

    name: str
    help: str
    properties: tuple[Property, ...]
    required: tuple[str, ...] = ()


ID = Property("id", TEXT, "a name for the device")
ADDR = Property("addr", Kind("1..1f", _pci_slot), "PCI slot on bus 0, hexadecimal as in QEMU: 4 or 4.0")

RING: tuple[Property, ...] = (
    Property("event_idx", SWITCH, "offer VIRTIO_F_EVENT_IDX, default on"),
    Property("indirect_desc", SWITCH, "offer VIRTIO_F_INDIRECT_DESC, default on"),
    Property("disable-legacy", _one_of("on", "auto"), "only the modern transport is built"),
    Property("disable-modern", _one_of("off", "false"), "only the modern transport is built"),
)
PORT: tuple[Property, ...] = (
    ID,
    Property("bus", TEXT, "ID.0 of a virtio-serial-pci, default the first one before it"),
    Property("nr", _within(0, 30), "the port's number, default the lowest free one"),
    Property("chardev", TEXT, "the id of a -chardev; without it the port leads nowhere"),
    Property("name", TEXT, "the port's name in the guest"),
)

NETDEV = Property("netdev", TEXT, "the id of a -netdev")
MAC = Property("mac", Kind("xx:xx:xx:xx:xx:xx", _mac), "the card's address, default 52:54:00:12:34:56 and on")
ROMFILE = Property(
    "romfile",
    Kind("FILE", lambda _name, _text: None),
    "expansion ROM; empty: none; default the one of ipxe-qemu where firmware may boot from the network",
)
CHARDEV = Property("chardev", TEXT, "the id of a -chardev socket, where the back-end is")
COUNTERS = Property("counters", TEXT, "the file where the back-end keeps what it spends", ours=True)

DRIVERS: tuple[Driver, ...] = (
    Driver(
        "isa-debug-exit",
        "a port; writing N ends the emulator with status (N << 1) | 1",
        (
            ID,
            Property("iobase", _within(0, 0xFFFF), "first port, default 0x501"),
            Property("iosize", _within(1, 4), "ports, default 2"),
        ),
    ),
    Driver("pc-testdev", "interrupt lines, ports and memory for test kernels", (ID,)),
    Driver(
        "virtio-blk-pci",
        "a virtio 1.2 disk on PCI",
        (
            ID,
            ADDR,
            Property("drive", TEXT, "the id of a -drive with if=none"),
            Property("serial", Kind("text", _disk_serial), "what GET_ID answers, at most 20 bytes"),
            Property("num-queues", _within(1, 16), "request queues, default 1"),
            Property(
                "queue-size", Kind("2..1024", _queue_size), "descriptors a queue, a power of two, default 256"
            ),
            *RING,
            Property("iothread", TEXT, "serve the queues in this -object iothread"),
            Property("vhost", SWITCH, "serve the queues in the host kernel's role", ours=True),
        ),
        required=("drive",),
    ),
    Driver(
        "virtio-rng-pci",
        "virtio 1.2 entropy on PCI",
        (
            ID,
            ADDR,
            Property("rng", TEXT, "the id of an -object rng-builtin or rng-random, default rng-builtin"),
            Property("max-bytes", _within(1, (1 << 63) - 1), "bytes in each period, default unlimited"),
            Property("period", _within(1, (1 << 32) - 1), "milliseconds, default 65536"),
            *RING,
        ),
    ),
    Driver(
        "virtio-serial-pci",
        "a virtio 1.2 console device on PCI, for virtconsole and virtserialport",
        (
            ID,
            ADDR,
            Property("max_ports", _within(1, 31), "ports, default 31"),
            Property("emergency-write", SWITCH, "offer the register for early output, default on"),
            *RING,
        ),
    ),
    Driver("virtconsole", "a port of virtio-serial-pci that is a terminal in the guest (hvc)", PORT),
    Driver("virtserialport", "a port of virtio-serial-pci that is a stream in the guest (vport)", PORT),
    Driver(
        "virtio-balloon-pci",
        "a virtio 1.2 balloon on PCI: memory that the guest does not need goes back to the host",
        (
            ID,
            ADDR,
            Property("deflate-on-oom", SWITCH, "let the guest take pages back in need, default off"),
            Property("free-page-reporting", SWITCH, "let the guest report free pages by itself, default off"),
            *RING,
        ),
    ),
    Driver(
        "e1000",
        "an Intel 82540EM network card on PCI",
        (ID, ADDR, NETDEV, MAC, ROMFILE),
        required=("netdev",),
    ),
    Driver(
        "virtio-net-pci",
        "a virtio 1.2 network card on PCI",
        (
            ID,
            ADDR,
            NETDEV,
            MAC,
            ROMFILE,
            *RING,
            Property("mrg_rxbuf", SWITCH, "offer VIRTIO_NET_F_MRG_RXBUF, default on"),
            Property("csum", SWITCH, "offer checksum and segmentation offload, default on"),
            Property("host_mtu", _within(0, 65535), "the MTU to announce, default none"),
            Property("rx_queue_size", Kind("2..1024", _queue_size), "descriptors a queue, default 256"),
            Property("vectors", _within(0, 64), "MSI-X vectors, default one a queue and one more; 0: INTx"),
            Property("iothread", TEXT, "serve the queues in this -object iothread", ours=True),
        ),
        required=("netdev",),
    ),
    Driver(
        "vhost-user-blk-pci",
        "a virtio 1.2 disk on PCI that another process serves; emu serve vhost-user-blk is one",
        (
            ID,
            ADDR,
            CHARDEV,
            Property("num-queues", _within(1, 64), "request queues, default 1"),
            Property(
                "queue-size", Kind("2..1024", _queue_size), "descriptors a queue, a power of two, default 128"
            ),
            Property("config-wce", SWITCH, "let the driver switch the write cache, default on"),
            *RING,
            COUNTERS,
        ),
        required=("chardev",),
    ),
    Driver(
        "vhost-user-fs-pci",
        "a virtio 1.2 file system on PCI that another process (virtiofsd) serves",
        (
            ID,
            ADDR,
            CHARDEV,
            Property("tag", TEXT, "the name to mount, at most 36 bytes"),
            Property("num-request-queues", _within(1, 63), "request queues, default 1"),
            Property(
                "queue-size", Kind("2..1024", _queue_size), "descriptors a queue, a power of two, default 128"
            ),
            *RING,
        ),
        required=("chardev", "tag"),
    ),
)

OBJECTS: tuple[Driver, ...] = (
    Driver("iothread", "a thread that serves device queues", (ID,), required=("id",)),
    Driver("rng-builtin", "the host's generator, for virtio-rng-pci", (ID,), required=("id",)),
    Driver(
        "rng-random",
        "a file of random bytes, for virtio-rng-pci",
        (ID, Property("filename", TEXT, "a character device or pipe, default /dev/urandom")),
        required=("id",),
    ),
    Driver(
        "filter-dump",
        "the frames of a netdev in a pcap file",
        (
            ID,
            NETDEV,
            Property("file", TEXT, "the file, which is written anew"),
            Property("maxlen", _within(1, 1 << 20), "bytes kept of each frame, default 65536"),
        ),
        required=("id", "netdev", "file"),
    ),
)

DEVICES_LATER: Mapping[str, str] = {
    "virtio-scsi-pci": "use virtio-blk-pci",
    "virtio-net": 'write its full name, "virtio-net-pci"',
    "vhost-user-net": "give -netdev vhost-user,id=N,chardev=ID and -device virtio-net-pci,netdev=N",
    "virtio-blk": 'write its full name, "virtio-blk-pci"',
    "virtio-rng": 'write its full name, "virtio-rng-pci"',
    "virtio-serial": 'write its full name, "virtio-serial-pci"',
    "virtio-balloon": 'write its full name, "virtio-balloon-pci"',
    "nvme": "use virtio-blk-pci, or -drive if=ide",
    "vhost-user-blk": 'write its full name, "vhost-user-blk-pci"',
    "vhost-user-fs": 'write its full name, "vhost-user-fs-pci"',
    "vhost-vdpa-device-pci": "virtio-blk-pci,vhost=on is the nearest",
    "vfio-pci": "virtio-blk-pci,vhost=on is the nearest",
    "vfio-user-pci": "virtio-blk-pci,vhost=on is the nearest",
    "ide-hd": "use -drive if=ide,index=N",
    "isa-debugcon": "port 0xe9 is there without it",
    "isa-serial": "use -serial",
    "VGA": "use -serial stdio",
}


def find_driver(name: str, drivers: tuple[Driver, ...] = DRIVERS) -> Driver:
    """The driver called `name`. Raises ConfigError with the nearest one."""
    for driver in drivers:
        if driver.name == name:
            return driver
    if drivers is DRIVERS and name in DEVICES_LATER:
        raise ConfigError(f"{name}: not supported yet; {DEVICES_LATER[name]}")
    known = [driver.name for driver in drivers]
    raise ConfigError(f'"{name}" is not known; {nearest(name, known)}')


def check_properties(driver: Driver, properties: Mapping[str, str]) -> None:
    """Raise ConfigError for a property the driver lacks, a wrong value, or one that is missing."""
    known = {prop.name: prop for prop in driver.properties}
    for key, text in properties.items():
        if key not in known:
            raise ConfigError(f'{driver.name} has no property "{key}"; {nearest(key, known)}')
        try:
            known[key].kind.check(key, text)
        except ConfigError as error:
            raise ConfigError(f"{driver.name}: {error}") from None
    for key in driver.required:
        if key not in properties:
            raise ConfigError(f"{driver.name} needs {key}=")
