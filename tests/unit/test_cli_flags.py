"""QEMU's flags: what they mean, and what a wrong one is told."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.cli.flags import LATER, TABLE, parse_flags
from emu.cli.machine_flags import finish
from emu.cli.options import key_values, nearest, size
from emu.config import MIB, DeviceConfig, DriveConfig, ExitsConfig, MachineConfig, ObjectConfig
from emu.errors import ConfigError


def machine(*words: str) -> MachineConfig:
    return finish(parse_flags(list(words)), is_kernel=lambda file: file.endswith(".elf"))


def refused(*words: str) -> str:
    with pytest.raises(ConfigError) as error:
        machine(*words)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_an_image_alone_is_a_whole_machine() -> None:
    assert machine("hello.elf") == MachineConfig(kernel="hello.elf", ram_bytes=128 * MIB, serial="mon:stdio")


@pytest.mark.parametrize("dashes", ["-", "--"])
def test_one_dash_and_two_mean_the_same(dashes: str) -> None:
    config = machine(f"{dashes}kernel", "k", f"{dashes}append", "-x --y", f"{dashes}timeout", "2.5")
    assert (config.kernel, config.append, config.timeout_s) == ("k", "-x --y", 2.5)


def test_our_flags_take_their_value_after_an_equals_sign_too() -> None:
    config = machine("k.elf", "--timeout=3", "--engine=public", "-trace=t.json")
    assert (config.timeout_s, config.engine, config.trace) == (3.0, "public", "t.json")


def test_a_qemu_flag_with_an_equals_sign_is_told_how_qemu_spells_it() -> None:
    assert refused("-m=64", "k.elf") == '-m=64: write the value as the next word: "-m 64"'


@pytest.mark.parametrize(
    ("text", "mib"), [("64", 64), ("64M", 64), ("1G", 1024), ("size=2g", 2048), ("1.5G", 1536), ("2048k", 2)]
)
def test_memory_is_in_mebibytes_or_has_a_suffix(text: str, mib: int) -> None:
    assert machine("-m", text, "k.elf").ram_bytes == mib * MIB


@pytest.mark.parametrize("text", ["0", "-5", "3T", "inf", "nan", "x", "", "1e99G", "0x", "0xzz", "512b", "G"])
def test_impossible_memory_is_refused(text: str) -> None:
    assert refused("-m", text, "k.elf").startswith("-m: ")


def test_a_drive_takes_every_supported_key() -> None:
    text = "file=a,,b.img,if=none,format=qcow2,readonly=on,snapshot=on,id=d0,media=disk,cache=unsafe"
    assert machine("k.elf", "-drive", text).drives == (
        DriveConfig("a,b.img", "none", "qcow2", read_only=True, snapshot=True, id="d0", cache="unsafe"),
    )


def test_a_drive_is_ide_unless_told_otherwise_and_takes_the_lowest_free_slot() -> None:
    words = ("-hda", "a", "-drive", "file=b", "-drive", "file=c,if=virtio", "-drive", "file=d,index=1")
    places = {drive.file: (drive.interface, drive.index) for drive in machine("k.elf", *words).drives}
    assert places == {"a": ("ide", 0), "b": ("ide", 2), "c": ("virtio", 0), "d": ("ide", 1)}


def test_a_cd_rom_is_the_third_ide_drive_unless_told_otherwise() -> None:
    config = machine("k.elf", "-cdrom", "a.iso", "-drive", "file=b")
    assert config.drives == (DriveConfig("a.iso", index=2, media="cdrom"), DriveConfig("b", index=0))
    config = machine("k.elf", "-drive", "if=ide,media=cdrom", "-drive", "file=c.iso,media=cdrom,index=3")
    assert config.drives == (
        DriveConfig("", index=0, media="cdrom"),
        DriveConfig("c.iso", index=3, media="cdrom"),
    )
    assert refused("k.elf", "-cdrom", "a", "-hdc", "b") == "b: ide index=2 is taken already"
    assert refused("k.elf", "-drive", "file=a,media=cdrom,if=virtio") == "-drive: media=cdrom needs if=ide"


def test_snapshot_covers_every_drive_wherever_it_stands() -> None:
    drives = machine("-drive", "file=a", "-snapshot", "-hdb", "b", "k.elf").drives
    assert [drive.snapshot for drive in drives] == [True, True]


def test_with_a_kernel_the_image_is_the_first_disk_as_in_qemu() -> None:
    config = machine("-kernel", "k", "disk.img")
    assert config.drives == (DriveConfig("disk.img", "ide", index=0),)


def test_a_device_its_drive_and_its_thread_find_each_other() -> None:
    words = ("-object", "iothread,id=t0", "-drive", "if=none,id=d0,file=x")
    device = "virtio-blk-pci,drive=d0,iothread=t0,num-queues=4"
    config = machine("k.elf", *words, "-device", device)
    assert config.objects == (ObjectConfig("iothread", "t0"),)
    properties = {"drive": "d0", "iothread": "t0", "num-queues": "4"}
    assert config.devices == (DeviceConfig("virtio-blk-pci", properties),)


@pytest.mark.parametrize(
    ("words", "vga"),
    [("", True), ("-nodefaults", False), ("-vga std -nodefaults", True), ("-vga none", False)],
)
def test_without_defaults_there_is_no_text_screen(words: str, vga: bool) -> None:
    assert machine("k.elf", *words.split()).vga is vga


@pytest.mark.parametrize(
    ("words", "serial"),
    [
        ((), "mon:stdio"),
        (("-nographic",), "mon:stdio"),
        (("-nographic", "-serial", "stdio"), "stdio"),
        (("-nodefaults",), "none"),
        (("-nodefaults", "-serial", "null"), "null"),
        (("-serial", "file:/tmp/a,b"), "file:/tmp/a,b"),
        (("-serial", "chardev:c", "-chardev", "stdio,id=c,mux=on"), "mon:stdio"),
        (("-chardev", "file,id=c,path=o.log", "-serial", "chardev:c"), "file:o.log"),
        (("-serial", "pty"), "pty"),
        (("-serial", "unix:a,,b"), "unix:a,,b,server=off"),
        (("-serial", "unix:s,server"), "unix:s,server=on,wait=on"),
        (
            ("-chardev", "socket,id=c,path=s,server=on,wait=off", "-serial", "chardev:c"),
            "unix:s,server=on,wait=off",
        ),
        (
            ("-chardev", "stdio,id=c", "-device", "virtio-serial-pci", "-device", "virtconsole,chardev=c"),
            "none",
        ),
    ],
)
def test_com1_goes_where_the_flags_say(words: tuple[str, ...], serial: str) -> None:
    assert machine("k.elf", *words).serial == serial


@pytest.mark.parametrize(
    ("flag", "exits"),
    [
        ("--exits", ExitsConfig()),
        ("--exits=symbols", ExitsConfig(by_function=True)),
        ("--exits=time,out.json", ExitsConfig(timed=True, file="out.json")),
        ("--exits=-", ExitsConfig(file="-")),
    ],
)
def test_exits_takes_words_and_a_file(flag: str, exits: ExitsConfig) -> None:
    assert machine(flag, "k.elf").exits == exits


def test_a_disk_boots_by_firmware_and_flags_say_how() -> None:
    assert machine("disk.img").drives == (DriveConfig("disk.img", "ide", index=0),)
    config = machine("-bios", "b.bin", "-boot", "order=dc,menu=on", "-vga", "none", "-nographic")
    assert (config.bios, config.boot_order, config.boot_menu) == ("b.bin", "dc", True)
    assert (config.vga, config.graphics, config.kernel) == (False, False, None)
    assert machine("k.elf", "-boot", "n").boot_order == "n"
    assert not machine("-M", "pc,graphics=off", "k.elf").graphics


def test_the_debug_port_goes_where_it_is_told() -> None:
    config = machine("d.img", "-debugcon", "file:log", "-global", "isa-debugcon.iobase=0x402")
    assert (config.debugcon, config.debugcon_port) == ("file:log", 0x402)


@pytest.mark.parametrize(
    ("words", "serial", "monitor"),
    [
        ("", "mon:stdio", "mux"),
        ("-monitor none", "mon:stdio", "none"),
        ("-monitor stdio", "none", "stdio"),
        ("-monitor unix:m,server=on,wait=off", "mon:stdio", "unix:m,server=on,wait=off"),
        ("-display curses", "vc", "vc"),
        ("-display curses -serial pty -monitor none", "pty", "none"),
        ("-display curses -nodefaults", "none", "mux"),
        ("-display curses -nodefaults -serial vc", "vc", "mux"),
    ],
)
def test_serial_port_and_monitor_have_a_place_without_being_told(
    words: str, serial: str, monitor: str
) -> None:
    config = machine("k.elf", *words.split())
    assert (config.serial, config.monitor) == (serial, monitor)


def test_exits_leaves_the_next_word_alone() -> None:
    assert machine("--exits", "k.elf").kernel == "k.elf"


def test_flags_that_ask_for_what_is_so_anyway_change_nothing() -> None:
    valued = {
        "-M": "pc,accel=tcg",
        "-accel": "tcg,thread=single",
        "-cpu": "max",
        "-smp": "cpus=1",
        "-qmp": "null",
    }
    words = [word for pair in valued.items() for word in pair]
    for name in ("-display", "-nic", "-net"):
        words += [name, "none"]
    assert machine("k.elf", *words, "-no-user-config") == machine("k.elf")


REFUSALS = {
    "-kernal k": "-kernal: no such flag; the nearest is -kernel",
    "--timout 3": "--timout: no such flag; the nearest is -timeout",
    "-L x": "-L: not supported yet; -bios FILE gives firmware, also from QEMU's data folders",
    "-boot x": '-boot: "x" is no order of a (floppy), c (disk), d (CD), n (network), each once',
    "-boot cc": '-boot: "cc" is no order of a (floppy), c (disk), d (CD), n (network), each once',
    "-boot once=d": "-boot: once= is not supported yet; order= and menu= are",
    "-debugcon x": '-debugcon: "x" is not known; use stdio, null or file:PATH',
    "-global x.y=1": '-global: "x.y" is not supported yet; isa-debugcon.iobase=PORT is',
    "-kernel": "-kernel: needs a value: -kernel FILE",
    "--no-reboot=1": "-no-reboot: takes no value",
    "-append x": "nothing to boot: give an IMAGE, -kernel FILE, -drive file=FILE or -bios FILE",
    "-bios b -append x": "-append needs -kernel FILE",
    "a.elf b.elf": '"b.elf": one IMAGE is enough, "a.elf" came before it',
    "k.elf -device virtio-blk-pc": '-device: "virtio-blk-pc" is not known; the nearest is virtio-blk-pci',
    "k.elf -device e1000": "-device: e1000 needs netdev=",
    "k.elf -device e1000,netdev=n": "-device e1000: no -netdev has id=n; there is none",
    "k.elf -netdev l2tpv3,id=n": (
        '-netdev: "l2tpv3" is not supported yet; user, stream and vhost-user are there'
    ),
    "k.elf -nic user,model=rtl8139": (
        '-nic: model "rtl8139" is not supported; there is e1000, virtio, virtio-net-pci'
    ),
    "k.elf -device virtio-blk-pci": "-device: virtio-blk-pci needs drive=",
    "k.elf -device virtio-blk-pci,driv=d0": (
        '-device: virtio-blk-pci has no property "driv"; the nearest is drive'
    ),
    "k.elf -device virtio-blk-pci,drive=d0": "-device virtio-blk-pci: no -drive has id=d0; there is none",
    "k.elf -device isa-debug-exit,iosize=9": (
        "-device: isa-debug-exit: iosize is a number from 1 to 4, not 9"
    ),
    "k.elf -drive file=a,id=d -device virtio-blk-pci,drive=d": (
        "-device virtio-blk-pci: drive d is taken; give it if=none"
    ),
    "k.elf -drive file=a,if=scsi": '-drive: if "scsi" is not supported; there is ide, none, virtio',
    "k.elf -drive a.img": (
        '-drive: "a.img" is not known here; there is cache, file, format, id, if, index, '
        "media, readonly, snapshot"
    ),
    "k.elf -drive if=ide": "-drive: needs file=FILE",
    "k.elf -hda a -drive file=b,index=0": "b: ide index=0 is taken already",
    "k.elf -drive file=b,index=4": "b: IDE has slots 0 to 3, not 4; use if=virtio",
    "k.elf -drive file=a,id=x -drive file=b,id=x": "id=x is given twice",
    "k.elf -smp 2": "-smp: cpus=2: there is one CPU; use -smp 1",
    "k.elf -M q35": '-M: machine "q35" is not supported; there is pc',
    "k.elf -accel kvm": '-accel: accelerator "kvm" is not supported; there is tcg',
    "k.elf -serial vc": "vc is a console of -display curses; give that, or use stdio",
    "k.elf -monitor vc": "vc is a console of -display curses; give that, or use stdio",
    "k.elf -monitor tcp::1": '-monitor: "tcp::1" is not supported; use stdio, pty, unix:PATH, vc or none',
    "k.elf -nographic -monitor stdio": (
        "-monitor: stdio is taken by -serial; try -serial null, or mon:stdio for both"
    ),
    "k.elf -display gtk": '-display: display "gtk" is not supported; there is curses, none',
    "k.elf -display curses -nographic": "-display curses: -nographic is the opposite; leave one out",
    "k.elf -display curses -serial mon:stdio": (
        "-display curses: the terminal is taken by stdio; use vc, pty or file:PATH there"
    ),
    "k.elf -serial unix:s,wait=off": "-serial: wait= belongs to server=on",
    "k.elf -serial unix:s,sever=on": '-serial: "sever" is not known here; the nearest is server',
    "k.elf -chardev socket,id=c": "-chardev: path= belongs to the backends file and socket, which need it",
    "k.elf -chardev pty,id=c,server=on": (
        "-chardev: server=, wait= and reconnect= belong to the backend socket"
    ),
    "k.elf -chardev null,id=c -chardev null,id=c": "-chardev: id=c is given twice",
    "k.elf -device virtio-serial-pci -device virtconsole,chardev=c": (
        "-device virtconsole: no -chardev has id=c; there is none"
    ),
    "k.elf -serial chardev:c -chardev null,id=c -device virtconsole,chardev=c": (
        "-device virtconsole: chardev c is taken by -serial"
    ),
    "k.elf -nographic -chardev stdio,id=c -device virtconsole,chardev=c": (
        "-device virtconsole: stdio is taken by -serial; try -serial null"
    ),
    "k.elf -device virtio-rng-pci,rng=r": (
        "-device virtio-rng-pci: no -object rng-builtin or rng-random has id=r; there is none"
    ),
    "k.elf -object rng-random,id=r -device virtio-rng-pci,rng=r,period=0": (
        "-device: virtio-rng-pci: period is a number from 1 to 4294967295, not 0"
    ),
    "k.elf -serial chardev:x": "-serial: no -chardev has id=x; there is none",
    "k.elf -netdev user": "-netdev: needs id=ID",
    "k.elf --engine=quick": '--engine: engine "quick" is not supported; there is auto, fast, public',
    "k.elf --exits=symbol": '--exits: "symbol" is neither symbols nor time nor a FILE.json',
    "k.elf --timeout 0": '--timeout: timeout is a positive number of seconds, not "0"',
}


@pytest.mark.parametrize("line", REFUSALS)
def test_what_is_not_supported_is_one_line_that_names_flag_and_nearest(line: str) -> None:
    assert refused(*line.split()) == REFUSALS[line]


def test_no_flag_is_both_built_and_still_to_come() -> None:
    names = [option.name for option in TABLE]
    assert len(set(names)) == len(names)
    assert not set(names) & set(LATER)


def test_a_doubled_comma_is_a_comma_and_a_bare_word_is_on() -> None:
    assert key_values("x=a,,b,,,y=,readonly", None) == [("x", "a,b,"), ("y", ""), ("readonly", "on")]


@given(
    st.lists(st.tuples(st.from_regex(r"[a-z]{1,5}", fullmatch=True), st.text(alphabet="ab,=c", max_size=8)))
)
def test_any_value_survives_with_its_commas_doubled(pairs: list[tuple[str, str]]) -> None:
    text = ",".join(f"{key}={value.replace(',', ',,')}" for key, value in pairs)
    if pairs and not any(value.endswith(",") for _, value in pairs):
        assert key_values(text) == pairs


@given(st.text(max_size=12))
def test_a_size_is_a_number_or_one_line(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert isinstance(size("memory", text), int)


@given(st.lists(st.text(max_size=20), max_size=6))
def test_no_command_line_ends_in_anything_but_a_machine_or_one_line(words: list[str]) -> None:
    with contextlib.suppress(ConfigError):
        machine(*words)


def test_a_short_list_is_shown_whole() -> None:
    assert nearest("zzz", ["b", "a"]) == "there is a, b"


def test_the_chardevs_that_devices_use_are_kept_by_id() -> None:
    words = ("-chardev", "pty,id=a", "-chardev", "null,id=b", "-device", "virtio-serial-pci")
    config = machine("k.elf", *words, "-device", "virtserialport,chardev=a")
    assert config.chardevs == {"a": "pty"}
