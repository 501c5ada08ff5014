"""`python tests/perf/beside_qemu.py`: `emu` and QEMU TCG in turns, same flags.

SeaBIOS with a boot sector, and our guest images. Prints ratios with the spread of their pairs and what is
wanted; judges nothing. Rows whose program is missing are skipped by its name.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from emu.bench.boot import BOARD, DONE, QEMU, emu_command, flags, spawn
from emu.bench.series import Ratio, in_turns, ratio
from emu.cli.bench import Report, print_table
from emu.cli.images import resolve
from emu.compare.workloads import pattern

DISK_BYTES: Final = 8 << 20
PAIRS: Final = 5
FIRMWARE_PAIRS: Final = 9
BOOT_SECTOR: Final = bytes.fromhex(
    "baf803b058ee"  # out 3f8, 'X'
    "baf40066b81000000066ef"  # out f4, 10h
    "faf4"  # cli; hlt
)
TIMEOUT_S: Final = 60
RESULT: Final = re.compile(r"^iobench: result .*errors=0 .* iops=(\d+) ", re.MULTILINE)
ROW: Final = re.compile(r"^exits: name=(\S+) cycles=\d+ ns=(\d+) ", re.MULTILINE)


class Cell(NamedTuple):
    """One row: our flags and QEMU's for the same disk, the guest's command line, the ratio that is wanted."""

    name: str
    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    append: str
    wanted: float


def drive(interface: str) -> str:
    return f"file=DISK,format=raw,if={interface}" + (",id=d" if interface == "none" else "")


VIRTIO: Final = ("-drive", drive("virtio"))
IDE: Final = ("-drive", drive("ide"))
VHOST: Final = ("-drive", drive("none"), "-device", "virtio-blk-pci,drive=d,vhost=on")
IOTHREAD: Final = (
    *("-drive", drive("none"), "-object", "iothread,id=io0"),
    *("-device", "virtio-blk-pci,drive=d,iothread=io0"),
)
WORK: Final = (  # name, command line, wanted of virtio, wanted of vhost and iothread
    ("4 KiB, depth 1", "op=read bs=4096 qd=1 count=5000", 3.0, 1.0),
    ("4 KiB, depth 32", "op=read bs=4096 qd=32 count=20000", 1.5, 1.0),
    ("64 KiB, depth 32", "op=read bs=65536 qd=32 count=2000", 0.7, 0.7),
)
CELLS: Final = (
    *(Cell(f"virtio {name}", VIRTIO, VIRTIO, work, wanted) for name, work, wanted, _ in WORK),
    *(Cell(f"vhost {name}", VHOST, IOTHREAD, work, wanted) for name, work, _, wanted in WORK),
    *(Cell(f"virtio-iothread {name}", IOTHREAD, IOTHREAD, work, wanted) for name, work, _, wanted in WORK),
    Cell("ide-pio 4 KiB", IDE, IDE, "path=ide op=read bs=4096 count=200", 0.2),
)


def guest(command: Sequence[str], disk: str) -> str:
    """The serial output of one run to its good end."""
    words = [word.replace("DISK", disk) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode != DONE:
        sys.exit(f"{' '.join(words)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def disk_rows(disk: str, pairs: int) -> Report:
    """Requests a second of iobench, every byte checked by the guest."""
    image, rows = resolve("iobench"), []
    for cell in CELLS:
        both = ([QEMU, *flags(image), *cell.theirs], [*emu_command(), "run", *flags(image), *cell.ours])

        def iops(command: Sequence[str], cell: Cell = cell) -> float:
            shown = guest([*command, "-append", cell.append], disk)
            found = RESULT.search(shown)
            return float(found[1]) if found else sys.exit(f"{cell.name}: no result\n{shown}")

        series = in_turns([bind(iops, command) for command in both], pairs)
        rows.append([cell.name, *numbers(ratio(*series)), f"{cell.wanted:.1f}"])
    foot = "requests a second; vhost and virtio-iothread stand beside QEMU's iothread."
    return Report({}, ("iobench read", "QEMU", "emu", "emu/QEMU", "of pairs", "wanted"), rows, foot)


def exit_rows(pairs: int) -> Report:
    """The rows of the image `exits` in ns; the ratio is time, so less is better."""
    image = resolve("exits")
    both = ([QEMU, *flags(image)], [*emu_command(), "run", *flags(image)])
    found: list[list[dict[str, float]]] = [[], []]
    for _ in range(pairs):
        for command, seen in zip(both, found, strict=True):
            seen.append({name: float(ns) for name, ns in ROW.findall(guest(command, ""))})
    rows = []
    for name in found[0][0]:
        theirs, ours = ([max(run[name], 1.0) for run in runs if name in run] for runs in found)
        if len(theirs) == len(ours) == pairs:
            rows.append([name, *numbers(ratio(theirs, ours))])
    foot = "nanoseconds of one access."
    return Report({}, ("exits", "QEMU", "emu", "emu/QEMU", "of pairs"), rows, foot)


def firmware_rows(disk: Path, pairs: int) -> Report:
    """From the start of the command to the first byte that a boot sector sends."""
    disk.write_bytes(BOOT_SECTOR.ljust(510, b"\0") + b"\x55\xaa" + bytes(DISK_BYTES))

    def first_byte(command: Sequence[str]) -> float:
        return spawn(command).first_output

    rows = []
    for interface, vga in (("ide", "none"), ("virtio", "none"), ("ide", "std")):
        drive = f"file={disk},format=raw,if={interface}"
        words = [*BOARD, "-nodefaults", "-vga", vga, "-drive", drive]
        both = ([QEMU, *words], [*emu_command(), "run", *words])
        for command in both:
            spawn(command)
        series = in_turns([bind(first_byte, command) for command in both], pairs)
        rows.append([f"{interface}, -vga {vga}", *numbers(ratio(*series)), "3.0"])
    foot = "milliseconds to the first byte; less is better."
    return Report({}, ("SeaBIOS, boot sector", "QEMU", "emu", "emu/QEMU", "of pairs", "wanted"), rows, foot)


def bind(measure: Callable[[Sequence[str]], float], command: Sequence[str]) -> Callable[[], float]:
    return lambda: measure(command)


def numbers(found: Ratio) -> list[str]:
    spread = f"{found.low:.2f}-{found.high:.2f}"
    return [f"{found.first:.0f}", f"{found.second:.0f}", f"{found.ratio:.2f}", spread]


def main() -> None:
    if shutil.which(QEMU) is None:
        print(f"skipped: {QEMU} is not installed")
        return
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "disk.img"
        print_table("firmware", firmware_rows(disk, FIRMWARE_PAIRS), sys.stdout)
        disk.write_bytes(pattern(DISK_BYTES // 8, 0).tobytes())
        print_table("disk", disk_rows(str(disk), PAIRS), sys.stdout)
    print_table("exits", exit_rows(3), sys.stdout)


if __name__ == "__main__":
    main()
