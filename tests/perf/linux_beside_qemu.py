"""Debian's kernels on `emu` and on QEMU TCG in turns, same flags: `python -m tests.perf.linux_beside_qemu`.

Prints ratios with the spread of their pairs and what is wanted; judges nothing. What is missing is skipped by
its name. `--pairs N` for fewer or more of them.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from emu.bench.boot import ENVIRONMENT, QEMU, emu_command
from emu.bench.series import Ratio, in_turns, ratio
from emu.cli.bench import Report, print_table
from tests.os.debian import DRIVERS, KERNELS, SHELL, Debian
from tests.os.guest import DISKS, Console, linux_flags

DISK_BYTES: Final = 256 << 20
OURS: Final = (*emu_command(), "run")
THEIRS: Final = (QEMU, "-machine", "pc", "-accel", "tcg")
READS: Final = (("4k", 20_000), ("1M", 2_000))  # block size, reads in one measurement
WANTED_READS: Final = 0.8
DRIVES: Final = (*DRIVERS, "ata_piix", "sd_mod")
IDLE_S: Final = 10


class Start(NamedTuple):
    """One boot: seconds to the first program, and the most memory the process had, in MiB."""

    seconds: float
    peak: float


def command(program: Sequence[str], debian: Debian, disk: Path, append: str, path: str) -> list[str]:
    """One command line; QEMU has no vhost for a file: its iothread stands beside ours."""
    if program == THEIRS and path == "vhost":
        path = "iothread"
    return [*program, *linux_flags(debian.kernel, debian.initrd, disk, append, path)]


def shell(program: Sequence[str], debian: Debian, disk: Path, path: str) -> Console:
    """A guest at its prompt, its disk there."""
    console = Console(command(program, debian, disk, "quiet", path))
    console.expect("# ")
    console.ask(f"until [ -b {device(path)} ]; do usleep 10000; done")
    return console


def device(path: str) -> str:
    return "/dev/sda" if path == "ide" else "/dev/vda"


def reads_per_second(console: Console, path: str, size: str, count: int, cpu_us: list[float]) -> float:
    """`dd` with direct reads, over the whole disk again and again, timed on the host.

    `cpu_us` gets the process' CPU time of one read, which a busy host disturbs less.
    """
    once = min(count, DISK_BYTES // (4096 if size == "4k" else 1 << 20))
    rounds = -(-count // once)
    work = f"dd if={device(path)} of=/dev/null bs={size} count={once} iflag=direct 2>/dev/null"
    before, began = cpu_seconds(console.process.pid), time.monotonic()
    console.ask(f"for i in $(seq {rounds}); do {work}; done")
    seconds = time.monotonic() - began
    cpu_us.append(1e6 * (cpu_seconds(console.process.pid) - before) / (once * rounds))
    return once * rounds / seconds


def read_rows(debian: Debian, folder: Path, pairs: int) -> Report:
    """Both guests are up and read in turns; who waits is idle."""
    rows = []
    for path in DISKS:
        disks = [folder / "qemu.img", folder / "emu.img"]
        guests = [
            shell(program, debian, disk, path) for program, disk in zip((THEIRS, OURS), disks, strict=True)
        ]
        for size, count in READS:
            cpu: list[list[float]] = [[], []]
            work = [
                partial(reads_per_second, guest, path, size, count, seen)
                for guest, seen in zip(guests, cpu, strict=True)
            ]
            rows.append([f"{path} {size}", *numbers(ratio(*in_turns(work, pairs)), 0), f"{WANTED_READS:.1f}"])
            rows.append([f"{path} {size}, CPU us of one", *numbers(ratio(*cpu), 0), ""])
        for guest in guests:
            guest.close()
    foot = "direct reads a second, more is better; CPU time, less is; vhost stands beside QEMU's iothread."
    return Report({}, ("dd in Debian 6.1", "QEMU", "emu", "emu/QEMU", "of pairs", "wanted"), rows, foot)


def start(words: Sequence[str], cache: Path) -> Start:
    """From the start of the process to the guest's first program."""
    began = time.monotonic()
    console = Console(words, {**ENVIRONMENT, "XDG_CACHE_HOME": str(cache)})
    console.expect("INIT-START")
    seconds = time.monotonic() - began
    console.expect("# ")
    peak = peak_mib(console.process.pid)
    console.close()
    return Start(seconds, peak)


def peak_mib(pid: int) -> float:
    """The most resident memory of a process so far. Guest memory is in it: both programs map it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def start_rows(kernels: dict[str, Debian], folder: Path, pairs: int) -> Report:
    """Start to init, cold and warm, and peak memory."""
    rows = []
    for version, debian in kernels.items():
        found: list[list[Start]] = [[], []]
        for name, wanted in (("cold", 1.0), ("warm", 0.8)):
            work = [
                partial(
                    keep, seen, command(program, debian, folder / "emu.img", "quiet", "virtio"), folder, name
                )
                for program, seen in zip((THEIRS, OURS), found, strict=True)
            ]
            rows.append([f"{version} to init, {name}, s", *numbers(ratio(*in_turns(work, pairs)), 2)])
            rows[-1].append(f"{wanted:.1f}")
        peaks = ratio(*([run.peak for run in seen] for seen in found))
        rows.append([f"{version} peak memory, MiB", *numbers(peaks, 0), "1.0"])
    foot = "less is better; cold: the cache of unpacked kernels is empty."
    return Report({}, ("start", "QEMU", "emu", "emu/QEMU", "of pairs", "wanted"), rows, foot)


def keep(seen: list[Start], words: Sequence[str], folder: Path, name: str) -> float:
    """One boot; a cold one has an empty cache of its own."""
    cache = folder / ("warm" if name == "warm" else f"cold{len(seen)}")
    if name == "warm" and not cache.exists():
        start(words, cache)
    seen.append(start(words, cache))
    if name == "cold":
        shutil.rmtree(cache, ignore_errors=True)
    return seen[-1].seconds


def idle_rows(debian: Debian, disk: Path) -> Report:
    """CPU time of a guest at its shell."""
    shares = []
    for program in (THEIRS, OURS):
        console = shell(program, debian, disk, "virtio")
        console.ask("sleep 3")  # the kernel's own work after boot is over
        before, began = cpu_seconds(console.process.pid), time.monotonic()
        console.ask(f"sleep {IDLE_S}")
        share = (cpu_seconds(console.process.pid) - before) / (time.monotonic() - began)
        shares.append(f"{100 * share:.1f} %")
        console.close()
    rows = [["CPU share", *shares, "", "", "< 1 %"]]
    return Report(
        {}, ("idle at a shell", "QEMU", "emu", "emu/QEMU", "of pairs", "wanted"), rows, "of one core."
    )


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def numbers(found: Ratio, digits: int) -> list[str]:
    values = [f"{found.first:.{digits}f}", f"{found.second:.{digits}f}", f"{found.ratio:.2f}"]
    return [*values, f"{found.low:.2f}-{found.high:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Debian's kernels on emu and on QEMU TCG in turns")
    parser.add_argument("--pairs", type=int, default=5)
    pairs = parser.parse_args().pairs
    if shutil.which(QEMU) is None:
        print(f"skipped: {QEMU} is not installed")
        return
    try:
        kernels = {version: Debian(version, DRIVES, SHELL) for version in KERNELS}
    except pytest.skip.Exception as missing:
        print(f"skipped: {missing}")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for disk in ("qemu.img", "emu.img"):
            with (folder / disk).open("wb") as file:
                for _ in range(DISK_BYTES >> 20):
                    file.write(os.urandom(1 << 20))
        print_table("start", start_rows(kernels, folder, pairs), sys.stdout)
        print_table("idle", idle_rows(kernels["6.1"], folder / "emu.img"), sys.stdout)
        print_table("dd", read_rows(kernels["6.1"], folder, pairs), sys.stdout)


if __name__ == "__main__":
    main()
