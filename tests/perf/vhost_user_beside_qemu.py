"""`python -m tests.perf.vhost_user_beside_qemu`: the same guest on vhost-user and on QEMU's own iothread.

Our front-end with our back-end and with qemu-storage-daemon, QEMU TCG with an iothread, all in turns; then
how long a guest waits for its first answer when a back-end is killed and started again. Prints ratios with
the spread of their pairs and what is wanted; judges nothing. What is missing is skipped by its name.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

from emu.bench.boot import QEMU, emu_command, flags
from emu.bench.series import in_turns, ratio
from emu.cli.bench import Report, print_table
from emu.cli.images import resolve
from emu.compare.workloads import pattern
from emu.dataplanes.vhost_user.counters import PAGE, read_counters
from tests.peers.backends import STORAGE_DAEMON, storage_daemon

DISK_BYTES: Final = 16 << 20
COUNTS: Final = {1: 8_000, 32: 60_000}
"""Requests of one measurement by depth."""
TIMEOUT_S: Final = 60
LOOK_S: Final = 0.0005
RESULT: Final = re.compile(r"^iobench: result .*errors=0 .* iops=(\d+) ", re.MULTILINE)


def command(program: Sequence[str], append: str, *words: str) -> list[str]:
    """One guest's command line."""
    return [*program, *flags(resolve("iobench")), *words, "-append", append]


def reads(depth: int, count: int) -> str:
    return f"path=virtio op=read bs=4096 qd={depth} count={count} gen=0"


def iops(words: Sequence[str]) -> float:
    """Requests a second of one run, every byte checked by the guest."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    found = RESULT.search(done.stdout)
    return float(found[1]) if found else sys.exit(f"no result\n{done.stdout}{done.stderr}")


def device(path: Path) -> tuple[str, ...]:
    """A disk that the process at `path` serves."""
    return ("-chardev", f"socket,id=c,path={path}", "-device", "vhost-user-blk-pci,chardev=c")


@contextmanager
def serving(disk: Path, path: Path, *words: str) -> Iterator["subprocess.Popen[str]"]:
    """Our back-end, once it listens; it is killed at the end."""
    drive = f"file={disk},format=raw"
    serve = [*emu_command(), "serve", "vhost-user-blk", "--socket", str(path), "--drive", drive, *words]
    with subprocess.Popen(serve, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("listening")
            yield process
        finally:
            process.kill()


def rate_rows(folder: Path, pairs: int) -> Report:
    """Requests a second, ours beside each of the others."""
    disks = [folder / f"{name}.img" for name in ("ours", "daemon", "qemu")]
    for disk in disks:
        disk.write_bytes(pattern(DISK_BYTES // 8, 0).tobytes())
    theirs = (
        *("-drive", f"file={disks[2]},if=none,id=d,format=raw", "-object", "iothread,id=io0"),
        *("-device", "virtio-blk-pci,drive=d,iothread=io0"),
    )
    rows = []
    with ExitStack() as stack:
        stack.enter_context(serving(disks[0], folder / "a"))
        stack.enter_context(storage_daemon(disks[1], folder / "b"))
        run = (*emu_command(), "run")
        for depth, count in COUNTS.items():
            append = reads(depth, count)
            measures: list[Callable[[], float]] = [
                partial(iops, command((QEMU,), append, *theirs)),
                partial(iops, command(run, append, *device(folder / "b"))),
                partial(iops, command(run, append, *device(folder / "a"))),
            ]
            qemu, daemon, ours = in_turns(measures, pairs)
            rows.append([f"depth {depth}: QEMU's iothread", *numbers(qemu, ours), "1.0"])
            rows.append([f"depth {depth}: {STORAGE_DAEMON}", *numbers(daemon, ours), "0.8"])
    foot = "4 KiB reads a second; beside qemu-storage-daemon the front-end is ours, too."
    return Report(
        {}, ("vhost-user beside", "theirs", "ours", "ours/theirs", "of pairs", "wanted"), rows, foot
    )


def numbers(first: Sequence[float], second: Sequence[float]) -> list[str]:
    found = ratio(first, second)
    spread = f"{found.low:.2f}-{found.high:.2f}"
    return [f"{found.first:.0f}", f"{found.second:.0f}", f"{found.ratio:.2f}", spread]


def gap_rows(folder: Path, kills: int) -> Report:
    """A back-end is killed under a guest that reads; the next one's first answer, from when it listens."""
    disk, path = folder / "gap.img", folder / "s"
    disk.write_bytes(pattern(DISK_BYTES // 8, 0).tobytes())
    after_start, in_all = [], []
    with ExitStack() as guests:
        died = 0.0
        for kill in range(kills + 1):
            counters = folder / f"counters{kill}"
            counters.write_bytes(b"EMUCNTR1".ljust(PAGE, b"\0"))
            with serving(disk, path, "--counters", str(counters)):
                listens = time.monotonic()
                if not kill:
                    words = command((*emu_command(), "run"), reads(4, 100_000_000), *device(path))
                    guest = guests.enter_context(
                        subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                    )
                    guests.callback(guest.kill)
                while not read_counters(str(counters)).requests:
                    time.sleep(LOOK_S)
                answered = time.monotonic()
                if kill:
                    after_start.append(1000 * (answered - listens))
                    in_all.append(1000 * (answered - died))
                time.sleep(0.1)  # some load
                died = time.monotonic()
            path.unlink(missing_ok=True)
    rows = [
        [name, f"{median(found):.1f}", f"{min(found):.1f}-{max(found):.1f}", wanted]
        for name, found, wanted in (
            ("from listening to the first answer", after_start, "100"),
            ("from the kill to the first answer", in_all, ""),
        )
    ]
    foot = f"milliseconds; {kills} kills under reads at depth 4."
    return Report({}, ("service gap", "median", "range", "wanted"), rows, foot)


def main() -> None:
    parser = argparse.ArgumentParser(description="vhost-user beside QEMU")
    parser.add_argument("--pairs", type=int, default=5)
    pairs = parser.parse_args().pairs
    missing = [name for name in (QEMU, STORAGE_DAEMON) if shutil.which(name) is None]
    with tempfile.TemporaryDirectory() as name:
        if missing:
            print(f"skipped: {' and '.join(missing)} not installed")
        else:
            print_table("rates", rate_rows(Path(name), pairs), sys.stdout)
        print_table("gap", gap_rows(Path(name), 4 * pairs), sys.stdout)


if __name__ == "__main__":
    main()
