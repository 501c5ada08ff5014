"""From flags to a machine: what they say together, and where they contradict each other."""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from emu.cli.flags import Draft
from emu.cli.options import nearest, switch
from emu.config import DriveConfig, MachineConfig
from emu.errors import ConfigError

IDE_SLOTS: Final = 4


def finish(draft: Draft, is_kernel: Callable[[str], bool]) -> MachineConfig:
    """The machine that the flags ask for. `is_kernel(file)` tells what the positional IMAGE is.

    Raises ConfigError where flags contradict each other.
    """
    serial = _chosen_serial(draft)
    monitor = _chosen_monitor(draft, serial)
    used = _used_chardevs(draft, serial)
    config = _take_sockets(replace(draft.config, serial=serial, monitor=monitor), used)
    vga = not draft.no_defaults if draft.vga is None else draft.vga
    config = replace(config, chardevs=used, vga=vga)
    config = _place_image(config, draft.image, is_kernel)
    if draft.nographic:
        config = replace(config, graphics=False)
    if config.kernel is None and config.bios is None and not config.drives:
        raise ConfigError("nothing to boot: give an IMAGE, -kernel FILE, -drive file=FILE or -bios FILE")
    if config.kernel is None and (config.initrd is not None or config.append):
        raise ConfigError(f"{'-append' if config.append else '-initrd'} needs -kernel FILE")
    drives = tuple(replace(drive, snapshot=True) if draft.snapshot else drive for drive in config.drives)
    config = replace(config, drives=_number_slots(drives))
    _check_references(config)
    users = [device.properties for device in config.devices] + [made.properties for made in config.objects]
    if config.netdevs or any("netdev" in properties for properties in users):
        from emu.cli.flags_net import check_netdevs  # noqa: PLC0415 - most command lines have none

        for name in check_netdevs(config.netdevs, config.devices, config.objects):
            told = f"netdev {name} has no peer; try -device e1000,netdev={name}"
            print(f"emu: warning: {told}", file=sys.stderr)
    return config


def _chosen_serial(draft: Draft) -> str:
    """Where COM1 goes."""
    if len(draft.serials) > 1:
        raise ConfigError(f'-serial: a second port is not supported yet; "{draft.serials[0]}" came before')
    if not draft.serials:
        if draft.config.display == "curses" and not draft.no_defaults:
            return "vc"
        by_device = not draft.nographic and (_device_on_stdio(draft) or draft.monitor == "stdio")
        return "none" if draft.no_defaults or by_device else "mon:stdio"
    kind, _, name = draft.serials[0].partition(":")
    if kind != "chardev":
        return draft.serials[0]
    if name not in draft.chardevs:
        raise ConfigError(f"-serial: no -chardev has id={name}; {nearest(name, draft.chardevs)}")
    return draft.chardevs[name]


def _chosen_monitor(draft: Draft, serial: str) -> str:
    """Where the monitor is. Raises ConfigError where it, COM1 or the display have no place."""
    curses = draft.config.display == "curses"
    if curses and draft.nographic:
        raise ConfigError("-display curses: -nographic is the opposite; leave one out")
    if curses and (serial.endswith("stdio") or draft.monitor == "stdio" or _device_on_stdio(draft)):
        raise ConfigError("-display curses: the terminal is taken by stdio; use vc, pty or file:PATH there")
    if not curses and "vc" in (serial, draft.monitor):
        raise ConfigError("vc is a console of -display curses; give that, or use stdio")
    if draft.monitor == "stdio" and (serial.endswith("stdio") or _device_on_stdio(draft)):
        raise ConfigError("-monitor: stdio is taken by -serial; try -serial null, or mon:stdio for both")
    if draft.monitor is not None:
        return "none" if draft.monitor == "null" else draft.monitor
    return "vc" if curses and not draft.no_defaults else "mux"


def _device_on_stdio(draft: Draft) -> bool:
    """Whether a device's chardev= is standard input and output."""
    named = (device.properties.get("chardev", "") for device in draft.config.devices)
    return any(draft.chardevs.get(name, "").endswith("stdio") for name in named)


def _used_chardevs(draft: Draft, serial: str) -> dict[str, str]:
    """The chardevs that devices name. Each has one user, and so has standard input and output."""
    used: dict[str, str] = {}
    on_stdio = "-serial" if serial.endswith("stdio") else None
    taken = {text.partition(":")[2]: "-serial" for text in draft.serials if text.startswith("chardev:")}
    for user, name in _chardev_users(draft.config):
        if name not in draft.chardevs:
            raise ConfigError(f"{user}: no -chardev has id={name}; {nearest(name, draft.chardevs)}")
        if name in taken:
            raise ConfigError(f"{user}: chardev {name} is taken by {taken[name]}")
        taken[name], used[name] = user.partition(" ")[2], draft.chardevs[name]
        if used[name].endswith("stdio"):
            if on_stdio is not None:
                raise ConfigError(f"{user}: stdio is taken by {on_stdio}; try -serial null")
            on_stdio = user.partition(" ")[2]
    return used


def _chardev_users(config: MachineConfig) -> list[tuple[str, str]]:
    """Who names a chardev, and which."""
    users = [(f"-device {each.driver}", each.properties) for each in config.devices]
    users += [(f"-netdev {each.kind}", each.properties) for each in config.netdevs]
    return [(user, properties["chardev"]) for user, properties in users if "chardev" in properties]


def _take_sockets(config: MachineConfig, used: dict[str, str]) -> MachineConfig:
    """Take the sockets of vhost-user back-ends out of `used`, into the configuration."""
    paths: dict[str, str] = {}
    listening: list[str] = []
    for user, name in _chardev_users(config):
        if not user.partition(" ")[2].startswith("vhost-user"):
            continue
        kind, _, rest = used.pop(name).partition(":")
        path, _, role = rest.rpartition(",server=")
        if kind != "unix":
            raise ConfigError(
                f"{user}: chardev {name} is no socket; give -chardev socket,id={name},path=PATH"
            )
        paths[name] = path.replace(",,", ",")
        if role != "off":
            listening.append(name)
    return replace(config, sockets=paths, listening=tuple(listening))


def _place_image(config: MachineConfig, image: str | None, is_kernel: Callable[[str], bool]) -> MachineConfig:
    """The positional IMAGE is the kernel, or the first IDE disk as in QEMU."""
    if image is None:
        return config
    if config.kernel is None and config.bios is None and is_kernel(image):
        return replace(config, kernel=image)
    disk = DriveConfig(file=image, interface="ide", index=0)
    return replace(config, drives=(*config.drives, disk))


def _number_slots(drives: tuple[DriveConfig, ...]) -> tuple[DriveConfig, ...]:
    """Give each IDE and virtio drive its slot: its index, or the lowest free one."""
    taken: set[tuple[str, int]] = set()
    for drive in drives:
        if drive.index is not None:
            slot = (drive.interface, drive.index)
            if slot in taken:
                name = drive.file or "an empty CD-ROM drive"
                raise ConfigError(f"{name}: {drive.interface} index={drive.index} is taken already")
            taken.add(slot)
    placed = []
    for drive in drives:
        index = drive.index
        if index is None and drive.interface != "none":
            index = next(n for n in range(len(drives) + 1) if (drive.interface, n) not in taken)
            taken.add((drive.interface, index))
        if drive.interface == "ide" and index is not None and index >= IDE_SLOTS:
            raise ConfigError(f"{drive.file}: IDE has slots 0 to 3, not {index}; use if=virtio")
        placed.append(replace(drive, index=index))
    return tuple(placed)


def _check_references(config: MachineConfig) -> None:
    """Every id is unique; every drive= and iothread= names one; no drive has two users."""
    ids: set[str] = set()
    names = [drive.id for drive in config.drives] + [made.id for made in config.objects]
    for name in names + [device.properties.get("id") for device in config.devices]:
        if name is not None and name in ids:
            raise ConfigError(f"id={name} is given twice")
        ids.add(name or "")
    drives = {drive.id: drive for drive in config.drives if drive.id is not None}
    threads = [made.id for made in config.objects if made.kind == "iothread"]
    sources = [made.id for made in config.objects if made.kind.startswith("rng-")]
    users: dict[str, str] = {}
    for device in config.devices:
        name = device.properties.get("drive")
        if name is not None:
            if name not in drives:
                raise ConfigError(
                    f"-device {device.driver}: no -drive has id={name}; {nearest(name, drives)}"
                )
            if drives[name].interface != "none":
                raise ConfigError(f"-device {device.driver}: drive {name} is taken; give it if=none")
            if name in users:
                raise ConfigError(f"-device {device.driver}: drive {name} is taken by {users[name]}")
            users[name] = device.driver
        thread = device.properties.get("iothread")
        if thread is not None and thread not in threads:
            raise ConfigError(
                f"-device {device.driver}: no -object iothread has id={thread}; {nearest(thread, threads)}"
            )
        source = device.properties.get("rng")
        if source is not None and source not in sources:
            raise ConfigError(
                f"-device {device.driver}: no -object rng-builtin or rng-random has id={source}; "
                f"{nearest(source, sources)}"
            )
        if thread is not None and switch("vhost", device.properties.get("vhost", "off")):
            raise ConfigError(f"-device {device.driver}: iothread= and vhost=on are two places; choose one")
