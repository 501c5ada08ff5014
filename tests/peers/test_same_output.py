"""Each guest image prints the same and ends the same on `emu run` and on QEMU, by the same flags."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guest import lab

QEMU = ["qemu-system-x86_64", "-machine", "pc", "-accel", "tcg", "-m", "128"]
EMU = [sys.executable, "-m", "emu", "run", "-m", "128"]
FLAGS = [
    *("-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"),
    *("-display", "none", "-serial", "stdio"),
    "-no-reboot",
]
FIGURES = re.compile(r"\b(elapsed_ns|p50_ns|p99_ns|iops|cycles|ns|n|interrupts|notifies|watchdog)=\d+")
IDENTITY = re.compile(r"\b(model|features)=\S+")
LIMIT_S = 100

pytestmark = pytest.mark.peer("qemu-system-x86_64")


def outcome(command: list[str], arguments: list[str]) -> tuple[int, str]:
    """Exit status and serial output with the figures taken out."""
    done = subprocess.run(
        [*command, *FLAGS, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )
    text = done.stdout.decode(errors="replace")
    return done.returncode, IDENTITY.sub(r"\1=*", FIGURES.sub(r"\1=*", text))


def both(arguments: list[str]) -> tuple[tuple[int, str], tuple[int, str]]:
    return outcome(EMU, arguments), outcome(QEMU, arguments)


@pytest.mark.parametrize("image", ["hello", "exits"])
def test_an_image_without_a_disk(image: str) -> None:
    ours, theirs = both(["-kernel", lab.image(image)])
    assert ours == theirs
    assert ours[0] == 33


@pytest.mark.parametrize(
    ("interface", "words"),
    [
        ("ide", "path=ide op=read count=50"),
        ("ide", "path=ide op=write count=50 wait=poll"),
        ("virtio", "path=virtio op=read count=500"),
        ("virtio", "path=virtio op=randread qd=32 count=2000"),
        ("virtio", "path=virtio op=write qd=8 count=500 event_idx=0"),
        ("virtio", "path=virtio op=read bs=65536 count=100 wait=poll"),
    ],
)
def test_iobench(tmp_path: Path, interface: str, words: str) -> None:
    media = []
    results = []
    for name, command in (("ours", EMU), ("theirs", QEMU)):
        disk = lab.pattern_disk(tmp_path / name)
        drive = ["-drive", f"file={disk},format=raw,if={interface}"]
        results.append(outcome(command, ["-kernel", lab.image("iobench"), "-append", words, *drive]))
        media.append(disk.read_bytes())
    assert results[0] == results[1]
    assert results[0][0] == 33
    assert media[0] == media[1]


def test_every_sub_test_of_faults(tmp_path: Path) -> None:
    disks = [lab.pattern_disk(tmp_path / name, 1 << 20) for name in ("ide", "virtio")]
    ours, theirs = both(
        [
            *("-kernel", lab.image("faults"), "-append", "test=all"),
            *("-drive", f"file={disks[0]},format=raw,if=ide"),
            *("-drive", f"file={disks[1]},format=raw,if=none,id=d", "-device", "virtio-blk-pci,drive=d"),
        ]
    )
    assert ours == theirs
    assert ours[0] == 33


@pytest.mark.parametrize("name", ["reset", "reset-cf9", "panic", "list"])
def test_how_a_guest_ends_its_machine(name: str) -> None:
    ours, theirs = both(["-kernel", lab.image("faults"), "-append", f"test={name}"])
    assert ours == theirs
