"""QEMU's flags as `emu run` and `emu smoke` take them: one table. `emu.cli.machine_flags` looks across them.

Source of names and values: qemu(1). The subset is strict: what is accepted means the same on both; what is
known but not built says so; nothing is ignored.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from emu.cli.catalog import OBJECTS, check_properties, find_driver
from emu.cli.options import (
    Option,
    choice,
    key_values,
    number,
    parse,
    seconds,
    size,
    switch,
    unique_keys,
)
from emu.config import (
    DeviceConfig,
    DriveConfig,
    DriveInterface,
    DriveMedia,
    EngineChoice,
    ExitsConfig,
    MachineConfig,
    ObjectConfig,
)
from emu.errors import ConfigError

PAGE = 4096
RAM_MIN, RAM_MAX = 1 << 20, 1 << 40
CACHE_MODES = ("writeback", "none", "writethrough", "directsync", "unsafe")
DRIVE_KEYS = ("file", "if", "format", "readonly", "snapshot", "id", "index", "media", "cache")
MEDIA: Mapping[str, DriveMedia] = {"disk": "disk", "cdrom": "cdrom"}
INTERFACES: Mapping[str, DriveInterface] = {"ide": "ide", "virtio": "virtio", "none": "none"}
ENGINES: Mapping[str, EngineChoice] = {"auto": "auto", "fast": "fast", "public": "public"}
EXITS_WORDS = ("symbols", "time")
BOOT_LETTERS = "acdn"
CHARDEVS = ("stdio", "null", "file", "pty", "socket")
CHARDEV_KEYS = ("backend", "id", "path", "mux", "server", "wait", "reconnect")
SERIALS_LATER = ("tcp", "udp", "telnet", "websocket", "pipe", "msmouse", "braille")

LATER: Mapping[str, str] = {
    "pflash": "-bios FILE gives firmware",
    "L": "-bios FILE gives firmware, also from QEMU's data folders",
    "fda": "-drive file=FILE,if=ide or if=virtio gives a disk",
    "fdb": "-drive file=FILE,if=ide or if=virtio gives a disk",
    "blockdev": "-drive file=FILE,if=none,id=ID gives the same disk",
    "gdb": "--exits=symbols and --trace FILE.json show what the guest does",
    "s": "--exits=symbols and --trace FILE.json show what the guest does",
    "S": "--exits=symbols and --trace FILE.json show what the guest does",
    "d": "--exits=symbols and --trace FILE.json show what the guest does",
    "D": "--exits=symbols and --trace FILE.json show what the guest does",
    "mon": "-monitor stdio, pty or unix:PATH gives a monitor",
    "enable-kvm": "-accel tcg is the accelerator",
    "icount": "guest time is the host's; --exits counts exactly without it",
    "parallel": "-serial is there",
    "vnc": "-display none and -nographic are there",
    "spice": "-display none and -nographic are there",
    "curses": "use -display curses",
    "rtc": "the clock starts at the host's time in UTC, as QEMU's does",
    "usb": "-device virtio-blk-pci and -drive are there",
    "usbdevice": "-device virtio-blk-pci and -drive are there",
    "audio": "there is no sound",
    "fw_cfg": "-append and -initrd reach the guest",
    "smbios": "-append and -initrd reach the guest",
    "acpitable": "-append and -initrd reach the guest",
    "set": "give the property to -device",
    "readconfig": "give the flags themselves",
    "incoming": "start the guest from its image",
    "loadvm": "start the guest from its image",
    "no-shutdown": "power-off always ends the run",
    "action": "-no-reboot is there",
    "watchdog-action": "-no-reboot is there",
    "daemonize": "run it in the background: emu run ... &",
    "pidfile": "run it in the background: emu run ... &",
    "numa": "there is one CPU and one memory",
    "fsdev": "-drive is there",
    "virtfs": "-drive is there",
    "tpmdev": "there is no TPM",
}


@dataclass(slots=True)
class Draft:
    """What the flags have said so far. `serials` are in the order given; `image` is the positional word;
    `extra` holds a subcommand's own flags.
    """

    config: MachineConfig = field(default_factory=MachineConfig)
    image: str | None = None
    serials: list[str] = field(default_factory=list)
    chardevs: dict[str, str] = field(default_factory=dict)
    monitor: str | None = None
    vga: bool | None = None
    no_defaults: bool = False
    nographic: bool = False
    snapshot: bool = False
    help: bool = False
    extra: dict[str, str] = field(default_factory=dict)

    def set_image(self, word: str) -> None:
        """Take the positional IMAGE. Raises ConfigError on a second one."""
        if not word:
            raise ConfigError('"" names no IMAGE; is a variable of the shell not set?')
        if self.image is not None:
            raise ConfigError(f'"{word}": one IMAGE is enough, "{self.image}" came before it')
        self.image = word


def _memory(draft: Draft, text: str) -> None:
    values = unique_keys(key_values(text, "size"), ("size",))
    ram = size("memory", values["size"], "m")
    if not RAM_MIN <= ram <= RAM_MAX:
        raise ConfigError(f"memory of {text} is impossible; 1M to 1T can be asked for, 128M is the default")
    draft.config = replace(draft.config, ram_bytes=-(-ram // PAGE) * PAGE)


def _drive(draft: Draft, text: str) -> None:
    values = unique_keys(key_values(text), DRIVE_KEYS)
    media = MEDIA[choice("media", values.get("media", "disk"), MEDIA)]
    if not values.get("file") and media == "disk":
        raise ConfigError("needs file=FILE")
    interface = INTERFACES[choice("if", values.get("if", "ide"), INTERFACES)]
    if media == "cdrom" and interface != "ide":
        raise ConfigError("media=cdrom needs if=ide")
    index = values.get("index")
    if index is not None and interface == "none":
        raise ConfigError("index= needs if=ide or if=virtio")
    drive = DriveConfig(
        file=values.get("file", ""),
        interface=interface,
        format=choice("format", values["format"], ("raw", "qcow2")) if "format" in values else None,
        read_only=switch("readonly", values.get("readonly", "off")),
        snapshot=switch("snapshot", values.get("snapshot", "off")),
        id=values.get("id"),
        index=None if index is None else number("index", index, 0, 31),
        cache=choice("cache", values.get("cache", "writeback"), CACHE_MODES),
        media=media,
    )
    draft.config = replace(draft.config, drives=(*draft.config.drives, drive))


def _ide(index: int, media: DriveMedia = "disk") -> Callable[[Draft, str], None]:
    def apply(draft: Draft, text: str) -> None:
        drive = DriveConfig(file=text, interface="ide", index=index, media=media)
        draft.config = replace(draft.config, drives=(*draft.config.drives, drive))

    return apply


def _device(draft: Draft, text: str) -> None:
    properties = dict(key_values(text, "driver"))
    driver = find_driver(properties.pop("driver", ""))
    check_properties(driver, properties)
    device = DeviceConfig(driver.name, properties)
    draft.config = replace(draft.config, devices=(*draft.config.devices, device))


def _object(draft: Draft, text: str) -> None:
    properties = dict(key_values(text, "qom-type"))
    driver = find_driver(properties.pop("qom-type", ""), OBJECTS)
    check_properties(driver, properties)
    made = ObjectConfig(driver.name, properties.pop("id"), properties)
    draft.config = replace(draft.config, objects=(*draft.config.objects, made))


def _netdev(draft: Draft, text: str) -> None:
    from emu.cli.flags_net import parse_netdev  # noqa: PLC0415 - most command lines have none

    draft.config = replace(draft.config, netdevs=(*draft.config.netdevs, parse_netdev(text)))


def _nic(draft: Draft, text: str) -> None:
    from emu.cli.flags_net import parse_nic  # noqa: PLC0415 - as above

    made = parse_nic(text, len(draft.config.netdevs))
    if made is not None:
        netdev, device = made
        draft.config = replace(
            draft.config,
            netdevs=(*draft.config.netdevs, netdev),
            devices=(*draft.config.devices, device),
        )


def _serial(draft: Draft, text: str) -> None:
    kind, _, rest = text.partition(":")
    if text in ("stdio", "mon:stdio", "null", "none", "pty", "vc") or (kind in ("file", "chardev") and rest):
        draft.serials.append(text)
        return
    if kind == "unix" and rest:
        values = unique_keys(key_values(rest, "path"), ("path", "server", "wait"))
        draft.serials.append(_unix(values))
        return
    instead = "use stdio, mon:stdio, pty, unix:PATH, file:PATH, null or none"
    if kind in SERIALS_LATER or text.startswith("/dev/"):
        raise ConfigError(f'"{text}" is not supported yet; {instead}')
    raise ConfigError(f'"{text}" is not known; {instead}')


def _monitor(draft: Draft, text: str) -> None:
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest:
        text = _unix(unique_keys(key_values(rest, "path"), ("path", "server", "wait")))
    elif text not in ("none", "null", "stdio", "pty", "vc"):
        raise ConfigError(f'"{text}" is not supported; use stdio, pty, unix:PATH, vc or none')
    draft.monitor = text


def _display(draft: Draft, text: str) -> None:
    kind = choice("display", text, ("none", "curses"))
    draft.config = replace(draft.config, display=kind)


def _unix(values: Mapping[str, str]) -> str:
    """A Unix socket, spelled out; QEMU's defaults."""
    if not values.get("path"):
        raise ConfigError("a socket needs path=")
    server = switch("server", values.get("server", "off"))
    if "wait" in values and not server:
        raise ConfigError("wait= belongs to server=on")
    path = values["path"].replace(",", ",,")
    if not server:
        return f"unix:{path},server=off"
    wait = "on" if switch("wait", values.get("wait", "on")) else "off"
    return f"unix:{path},server=on,wait={wait}"


def _chardev(draft: Draft, text: str) -> None:
    values = unique_keys(key_values(text, "backend"), CHARDEV_KEYS)
    backend = choice("backend", values.get("backend", ""), CHARDEVS)
    name = values.get("id")
    if not name:
        raise ConfigError("needs id=ID")
    if name in draft.chardevs:
        raise ConfigError(f"id={name} is given twice")
    if bool(values.get("path")) != (backend in ("file", "socket")):
        raise ConfigError("path= belongs to the backends file and socket, which need it")
    if backend != "socket" and {"server", "wait", "reconnect"} & set(values):
        raise ConfigError("server=, wait= and reconnect= belong to the backend socket")
    if "reconnect" in values:
        number("reconnect", values["reconnect"], 0, 3600)
    mux = switch("mux", values.get("mux", "off"))
    if mux and backend != "stdio":
        raise ConfigError("mux=on is supported with stdio alone")
    target = {"stdio": "mon:stdio" if mux else "stdio", "file": f"file:{values.get('path')}"}
    draft.chardevs[name] = _unix(values) if backend == "socket" else target.get(backend, backend)


def _machine(draft: Draft, text: str) -> None:
    values = unique_keys(key_values(text, "type"), ("type", "accel", "graphics", "hpet"))
    choice("machine", values.get("type", "pc"), ("pc",))
    if "accel" in values:
        _accel(draft, values["accel"])
    if "graphics" in values:
        draft.config = replace(draft.config, graphics=switch("graphics", values["graphics"]))
    if "hpet" in values:
        draft.config = replace(draft.config, hpet=switch("hpet", values["hpet"]))


def _boot(draft: Draft, text: str) -> None:
    values = unique_keys(key_values(text, "order"), ("order", "once", "menu", "strict"))
    for key in ("once", "strict"):
        if key in values:
            raise ConfigError(f"{key}= is not supported yet; order= and menu= are")
    order = values.get("order", draft.config.boot_order)
    if not order or set(order) - set(BOOT_LETTERS) or len(set(order)) < len(order):
        raise ConfigError(f'"{order}" is no order of a (floppy), c (disk), d (CD), n (network), each once')
    menu = switch("menu", values.get("menu", "off"))
    draft.config = replace(draft.config, boot_order=order, boot_menu=menu)


def _debugcon(draft: Draft, text: str) -> None:
    kind, _, rest = text.partition(":")
    if text not in ("stdio", "null") and (kind != "file" or not rest):
        raise ConfigError(f'"{text}" is not known; use stdio, null or file:PATH')
    draft.config = replace(draft.config, debugcon=text)


def _global(draft: Draft, text: str) -> None:
    name, _, value = text.partition("=")
    if name != "isa-debugcon.iobase":
        raise ConfigError(f'"{name}" is not supported yet; isa-debugcon.iobase=PORT is')
    port = number("isa-debugcon.iobase", value, 0, 0xFFFF)
    draft.config = replace(draft.config, debugcon_port=port)


def _vga(draft: Draft, text: str) -> None:
    choice("vga", text, ("std", "none"))
    draft.vga = text == "std"


def _accel(_draft: Draft, text: str) -> None:
    values = unique_keys(key_values(text, "accel"), ("accel", "thread"))
    choice("accelerator", values.get("accel", ""), ("tcg",))
    choice("thread", values.get("thread", "single"), ("single", "multi"))


def _cpu(_draft: Draft, text: str) -> None:
    choice("CPU", text, ("qemu64", "max"))


def _smp(_draft: Draft, text: str) -> None:
    keys = ("cpus", "maxcpus", "sockets", "dies", "cores", "threads")
    for key, value in unique_keys(key_values(text, "cpus"), keys).items():
        if value != "1":
            raise ConfigError(f"{key}={value}: there is one CPU; use -smp 1")


def _exits(draft: Draft, text: str) -> None:
    words = key_values(text, "what") if text else []
    exits = ExitsConfig()
    for key, value in words:
        word = value if key == "what" else key
        if word == "symbols":
            exits = exits._replace(by_function=True)
        elif word == "time":
            exits = exits._replace(timed=True)
        elif word == "-" or "." in word or "/" in word:
            exits = exits._replace(file=word)
        else:
            raise ConfigError(f'"{word}" is neither {" nor ".join(EXITS_WORDS)} nor a FILE.json')
    draft.config = replace(draft.config, exits=exits)


def _name(draft: Draft, text: str) -> None:
    values = unique_keys(key_values(text, "guest"), ("guest",))
    draft.config = replace(draft.config, name=values["guest"])


def _changes_nothing(_draft: Draft, _text: str) -> None:
    """It is so anyway."""


def _only(*words: str, instead: str) -> Callable[[Draft, str], None]:
    """A flag of which only these values are built, and those ask for what is so anyway."""

    def apply(_draft: Draft, text: str) -> None:
        if text not in words:
            raise ConfigError(f'"{text}" is not supported yet; {instead}')

    return apply


def _set_text(name: str) -> Callable[[Draft, str], None]:
    """A flag whose value is a field of the configuration."""
    setters: Mapping[str, Callable[[MachineConfig, str], MachineConfig]] = {
        "kernel": lambda config, text: replace(config, kernel=text),
        "bios": lambda config, text: replace(config, bios=text),
        "initrd": lambda config, text: replace(config, initrd=text),
        "append": lambda config, text: replace(config, append=text),
        "trace": lambda config, text: replace(config, trace=text),
        "timeout": lambda config, text: replace(config, timeout_s=seconds("timeout", text)),
        "engine": lambda config, text: replace(config, engine=ENGINES[choice("engine", text, ENGINES)]),
        "no-reboot": lambda config, _text: replace(config, no_reboot=True),
        "no-hpet": lambda config, _text: replace(config, hpet=False),
    }
    setter = setters[name]

    def apply(draft: Draft, text: str) -> None:
        draft.config = setter(draft.config, text)

    return apply


def _mark(name: str) -> Callable[[Draft, str], None]:
    """A flag without value that the draft remembers."""

    def apply(draft: Draft, _text: str) -> None:
        setattr(draft, name, True)

    return apply


_NO_NET = _only("none", instead="use -nic or -netdev")

TABLE: tuple[Option[Draft], ...] = (
    Option("m", "[size=]MEGS", _memory, "guest memory, default 128M; MiB, or with a suffix K, M, G"),
    Option("kernel", "FILE", _set_text("kernel"), "boot this kernel: ELF (PVH, multiboot), bzImage"),
    Option("initrd", "FILE", _set_text("initrd"), "the kernel's first module or initial RAM disk"),
    Option("append", "TEXT", _set_text("append"), "the kernel's command line"),
    Option("bios", "FILE", _set_text("bios"), "run this firmware; without a kernel SeaBIOS runs"),
    Option("boot", "[order=]LETTERS[,menu=on]", _boot, "firmware's order: c disk, d CD, a floppy, n network"),
    Option("debugcon", "stdio|file:PATH|null", _debugcon, "where the debug port goes"),
    Option("global", "isa-debugcon.iobase=PORT", _global, "the debug port's number, default 0xe9"),
    Option(
        "drive",
        "file=FILE[,if=ide|virtio|none][,...]",
        _drive,
        "a disk; also format=raw|qcow2, readonly=, snapshot=, id=, index=, media=disk|cdrom, cache=",
    ),
    Option("hda", "FILE", _ide(0), "the first IDE disk; -hdb, -hdc, -hdd are the others"),
    Option("hdb", "FILE", _ide(1), "the second IDE disk"),
    Option("hdc", "FILE", _ide(2), "the third IDE disk"),
    Option("hdd", "FILE", _ide(3), "the fourth IDE disk"),
    Option(
        "cdrom", "ISO", _ide(2, "cdrom"), 'the third IDE slot is a CD-ROM drive, with this disc; "": none'
    ),
    Option("snapshot", None, _mark("snapshot"), "keep every write off the disk files"),
    Option("device", "DRIVER[,PROP=VALUE...]", _device, "add a device; see emu devices"),
    Option("object", "KIND,id=ID[,...]", _object, "what a -device refers to; see emu devices"),
    Option(
        "serial",
        "stdio|mon:stdio|pty|unix:PATH[,server=on][,wait=off]|file:PATH|null|none|chardev:ID",
        _serial,
        "where COM1 goes, default mon:stdio",
    ),
    Option(
        "chardev",
        "stdio|pty|socket|file|null,id=ID[,path=][,server=][,wait=][,reconnect=][,mux=]",
        _chardev,
        "a target for -serial chardev:ID and -device ...,chardev=ID",
    ),
    Option(
        "nographic",
        None,
        _mark("nographic"),
        "COM1 on mon:stdio: Ctrl-A X ends the run, Ctrl-A C is the monitor, Ctrl-A H lists the keys",
    ),
    Option(
        "display", "none|curses", _display, "curses: the text screen in this terminal; its keys are below"
    ),
    Option("vga", "std|none", _vga, "firmware's text screen, or none"),
    Option(
        "monitor",
        "stdio|pty|unix:PATH[,server=on][,wait=off]|vc|none",
        _monitor,
        "where the monitor is (help lists its commands), default Ctrl-A C where COM1 is on mon:stdio",
    ),
    Option("qmp", "null", _only("null", instead="use -monitor; null is the default"), "no such monitor"),
    Option(
        "netdev",
        "user|stream|vhost-user|echo,id=ID[,...]",
        _netdev,
        "what a -device ...,netdev=ID is plugged into; vhost=on: served in the host kernel's role",
    ),
    Option("nic", "none|user|stream|...[,model=e1000|virtio][,mac=]", _nic, "a netdev and its card in one"),
    Option("net", "none", _NO_NET, "no network device"),
    Option("nodefaults", None, _mark("no_defaults"), "no serial port and no text screen unless asked for"),
    Option("no-user-config", None, _changes_nothing, "no configuration files are read in any case"),
    Option("no-reboot", None, _set_text("no-reboot"), "a guest's reset ends the run, status 0"),
    Option("no-hpet", None, _set_text("no-hpet"), "no high precision event timer; as -machine hpet=off"),
    Option("machine", "pc[,accel=tcg][,hpet=off]", _machine, "the board"),
    Option("M", "pc[,accel=tcg][,hpet=off]", _machine, "the same as -machine"),
    Option("accel", "tcg", _accel, "guest code is translated"),
    Option("cpu", "qemu64|max", _cpu, "both name the one CPU there is"),
    Option("smp", "1", _smp, "one CPU"),
    Option("name", "NAME", _name, "a name for reports"),
    Option(
        "exits",
        "FILE.json|symbols|time",
        _exits,
        "print what the exits were for; symbols: by guest function too, time: how long; joined by commas",
        ours=True,
        bare=True,
    ),
    Option("trace", "FILE.json", _set_text("trace"), "write every exit as a trace event", ours=True),
    Option("timeout", "S", _set_text("timeout"), "end after S seconds, status 4", ours=True),
    Option("engine", "auto|fast|public", _set_text("engine"), "how the CPU is driven", ours=True),
    Option("help", None, _mark("help"), "print this", ours=True),
    Option("h", None, _mark("help"), "print this"),
)


def parse_flags(argv: list[str], extra: Sequence[Option[Draft]] = ()) -> Draft:
    """Read a command line, `extra` being a subcommand's own flags; `machine_flags.finish` checks it.

    Raises ConfigError.
    """
    return parse(argv, (*extra, *TABLE), Draft(), Draft.set_image, LATER)


def extra_option(name: str, value: str, text: str) -> Option[Draft]:
    """A subcommand's own flag, kept in `Draft.extra`; once is enough."""

    def apply(draft: Draft, given: str) -> None:
        if name in draft.extra:
            raise ConfigError("is given twice")
        draft.extra[name] = given

    return Option(name, value, apply, text, ours=True)
