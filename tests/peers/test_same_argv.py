"""The same words on `qemu-system-x86_64` and on `emu run`: the same status, serial output and files."""

import re
import shlex
import struct
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from emu.cli.flags import TABLE
from tests.guest import lab
from tests.peers.test_firmware import SEABIOS, boot_disk
from tests.peers.test_same_output import FIGURES, IDENTITY

pytestmark = pytest.mark.peer("qemu-system-x86_64", SEABIOS)

EMU = [sys.executable, "-m", "emu", "run"]
QEMU = ["qemu-system-x86_64"]
LIMIT_S = 60
ALWAYS = "-no-reboot -device isa-debug-exit,iobase=0xf4,iosize=0x04"
HELLO = "-kernel hello.elf -display none"
BENCH = "-kernel iobench.elf -display none -serial stdio -append"
DONE = 0x10 << 1 | 1

OURS = {
    "exits": "QEMU counts no exits",
    "trace": "QEMU's -trace is another thing",
    "timeout": "QEMU has no limit of time",
    "engine": "there is one way to drive the CPU in QEMU",
    "help": "spelled -h or --help there",
}
"""Flags that QEMU lacks, each with its reason."""


class Case(NamedTuple):
    """One command line, and how it ends. `shown` is what is compared of each line of standard output."""

    words: str
    status: int = DONE
    shown: str = r".*"


CASES = {
    "a kernel": Case(f"{HELLO} -serial stdio -m 64 -initrd disk.img -append words"),
    "the one board": Case(
        f"{HELLO} -serial stdio -machine pc -cpu qemu64 -smp 1 -name guest -accel tcg,thread=single"
    ),
    "its other names": Case(f"{HELLO} -serial stdio -M pc,accel=tcg -cpu max -smp cpus=1 -m size=64M"),
    "what changes nothing": Case(
        f"{HELLO} -serial stdio -no-user-config -monitor none -qmp null -nic none -vga none"
    ),
    "no network": Case(f"{HELLO} -serial stdio -net none -vga std"),
    "a network card": Case(f"{HELLO} -serial stdio -netdev user,id=n -device virtio-net-pci,netdev=n"),
    "no event timer": Case(f"{HELLO} -serial stdio -no-hpet"),
    "no defaults": Case(f"{HELLO} -nodefaults"),
    "no defaults but a port": Case(f"{HELLO} -nodefaults -serial stdio"),
    "nographic": Case("-kernel hello.elf -nographic -machine accel=tcg", shown="hello$"),
    "mon:stdio": Case(f"{HELLO} -serial mon:stdio"),
    "nowhere": Case(f"{HELLO} -serial null"),
    "a log": Case(f"{HELLO} -serial file:com1.log"),
    "a chardev": Case(f"{HELLO} -chardev file,id=c,path=com1.log -serial chardev:c"),
    "two IDE disks": Case(f"{BENCH} 'path=ide op=read count=20 disk=1' -hda disk.img -hdb pattern.img"),
    "a drive": Case(
        f"{BENCH} 'path=ide op=write count=20' -drive file=pattern.img,format=raw,if=ide,index=0,cache=none"
    ),
    "a snapshot": Case(
        f"{BENCH} 'path=virtio op=write count=20' -drive file=pattern.img,format=raw,if=virtio -snapshot"
    ),
    "a device and its thread": Case(
        f"{BENCH} 'path=virtio op=write qd=4 count=200' -object iothread,id=t "
        "-drive file=pattern.img,format=raw,if=none,id=d "
        "-device virtio-blk-pci,drive=d,iothread=t,serial=S1"
    ),
    "the third IDE disk boots": Case("-hdc disk.img -display none -serial stdio"),
    "the fourth IDE disk boots": Case("-hdd disk.img -display none -serial stdio -boot c"),
    "the CD-ROM boots first": Case(
        "-hda disk.img -cdrom cd.iso -boot order=dc,menu=off -display none -serial stdio"
    ),
    "firmware": Case(
        f"-bios {SEABIOS} -m 48 -hda disk.img -display none -serial stdio "
        "-debugcon file:bios.log -global isa-debugcon.iobase=0x402"
    ),
    "a reset": Case("-kernel faults.elf -append test=reset -display none -serial stdio", status=0),
    "help": Case("-h", status=0, shown=r"(?!)"),
}
LOG_LINES = re.compile(r"^(?:RamSize: .*|Found 1 serial ports|Booting from .*)$", re.MULTILINE)
"""Of firmware's log: what the flags say. The rest tells addresses and times."""
# a boot sector: prints the text behind it on COM1, then out f4, 10; hlt
PRINT = bytes.fromhex("31c08ed8be177cbaf803ac84c07403eeebf8b010e6f4f4") + b"from the CD-ROM\r\n\0"
BLOCK, CATALOG, IMAGE, BLOCKS = 2048, 19, 20, 24


def bootable_iso() -> bytes:
    """A disc by El Torito: no emulation, its boot image is PRINT. Source: El Torito 1.0, 2.0 to 2.2."""
    volume = bytearray(b"\1CD001\1".ljust(BLOCK, b"\0"))
    struct.pack_into("<I", volume, 80, BLOCKS)
    struct.pack_into("<H", volume, 128, BLOCK)
    record = b"\0CD001\1EL TORITO SPECIFICATION".ljust(0x47, b"\0") + struct.pack("<I", CATALOG)
    validation = b"\1".ljust(28, b"\0") + b"\xaa\x55\x55\xaa"
    entry = struct.pack("<BBHBBHI", 0x88, 0, 0, 0, 0, 4, IMAGE)
    parts = [bytes(volume), record, b"\xffCD001\1", validation + entry, PRINT]
    return (bytes(16 * BLOCK) + b"".join(part.ljust(BLOCK, b"\0") for part in parts)).ljust(
        BLOCKS * BLOCK, b"\0"
    )


def outcome(command: list[str], case: Case, folder: Path) -> tuple[int, list[str], dict[str, bytes]]:
    """Exit status, lines of output, and what is in the files of a folder of its own."""
    folder.mkdir()
    for name in ("hello", "iobench", "faults"):
        (folder / f"{name}.elf").symlink_to(lab.image(name))
    boot_disk(folder / "disk.img")
    lab.pattern_disk(folder / "pattern.img", 1 << 20)
    (folder / "cd.iso").write_bytes(bootable_iso())
    always = [] if case.words == "-h" else shlex.split(ALWAYS)
    done = subprocess.run(
        [*command, *always, *shlex.split(case.words)],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )
    text = IDENTITY.sub(r"\1=*", FIGURES.sub(r"\1=*", done.stdout.decode(errors="replace")))
    lines = [found.group() for line in text.splitlines() if (found := re.search(case.shown, line))]
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    if "bios.log" in files:
        files["bios.log"] = "\n".join(LOG_LINES.findall(files["bios.log"].decode())).encode()
        assert files["bios.log"]
    return done.returncode, lines, files


@pytest.mark.parametrize("name", CASES)
def test_both_do_the_same(name: str, tmp_path: Path) -> None:
    ours = outcome(EMU, CASES[name], tmp_path / "ours")
    theirs = outcome(QEMU, CASES[name], tmp_path / "theirs")
    assert ours[:2] == theirs[:2]
    assert ours[0] == CASES[name].status
    assert sorted(ours[2]) == sorted(theirs[2])
    assert [file for file in ours[2] if ours[2][file] != theirs[2][file]] == []


def test_every_flag_has_a_case() -> None:
    given = {word[1:] for case in CASES.values() for word in shlex.split(f"{ALWAYS} {case.words}")}
    names = {option.name for option in TABLE}
    assert names - given == set(OURS), "a flag needs a case, or a reason in OURS"
    assert {option.name for option in TABLE if option.ours} == set(OURS)
