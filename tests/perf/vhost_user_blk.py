"""4 KiB random reads over vhost-user-blk: our back-end, by kicks and polling, beside qemu-storage-daemon.

    .venv/bin/python tests/perf/vhost_user_blk.py [READS] [ROUNDS]

The same front-end asks each of them in turn; printed are the median and the range of reads a second, with 1
and with 32 in flight, for one guest and for two at once. Compare in a column only.
"""

import os
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from emu.dataplanes.vhost_user.channel import connect  # noqa: E402 - found by the line above
from emu.dataplanes.vhost_user.messages import PROTOCOL_F_MQ  # noqa: E402
from emu.testing.driver_queue import DriverQueue  # noqa: E402
from tests.serve_lab import Front, OverSocket, wait_readable  # noqa: E402

BLOCK, RING, DISK_BYTES = 4096, 128, 64 << 20


def rate(path: str, depth: int, reads: int) -> float:
    """Reads a second, `depth` in flight, each batch waited for; the chains are built once."""
    with ExitStack() as undo:
        channel = connect(path)
        undo.callback(channel.close)
        driver = DriverQueue(size=RING, event_idx=True, slot_bytes=2 * BLOCK)
        front = Front(OverSocket(channel), queue=driver)
        undo.callback(front.close)
        front.negotiate(protocol=PROTOCOL_F_MQ)
        front.share_memory()
        front.set_ring()
        front.start_ring()
        heads = [driver.prepare(struct.pack("<IIQ", 0, 0, 0), BLOCK, 1) for _ in range(depth)]
        sectors = [driver.memory.view(driver.parts[head][0][0] + 8, 8).cast("Q") for head in heads]
        places = [random.Random(7).randrange(DISK_BYTES // BLOCK) * 8 for _ in range(1024 + depth)]
        avail, used, done = driver.avail, driver.used_words, 0
        started = time.perf_counter()
        while done < reads:
            for i, head in enumerate(heads):
                sectors[i][0] = places[(done + i) & 1023]
                avail[2 + (done + i) % RING] = head
            done += depth
            avail[2 + RING] = done - 1 & 0xFFFF  # the last of them calls
            driver.set_avail_idx(done)
            if driver.needs_kick():
                front.kick.write()
            while used[1] != done & 0xFFFF:
                wait_readable(front.call.fd)
                front.called()
        return done / (time.perf_counter() - started)


@contextmanager
def ours(folder: Path, disk: Path, *flags: str) -> Iterator[list[str]]:
    """`emu serve` with two sockets."""
    paths = [str(folder / f"ours{''.join(flags)}{i}") for i in range(2)]
    words = [word for path in paths for word in ("--socket", path)]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "emu",
            "serve",
            "vhost-user-blk",
            *words,
            "--drive",
            f"file={disk},readonly=on",
            *flags,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    assert process.stdout is not None
    for _ in paths:
        process.stdout.readline()
    try:
        yield paths
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@contextmanager
def theirs(folder: Path, disk: Path, aio: str) -> Iterator[list[str]]:
    """qemu-storage-daemon with two exports of one disk."""
    paths = [str(folder / f"{aio}{i}") for i in range(2)]
    words = []
    for i, path in enumerate(paths):
        words += ["--blockdev", f"driver=file,node-name=f{i},filename={disk},locking=off,aio={aio}"]
        words += ["--blockdev", f"driver=raw,node-name=d{i},file=f{i}"]
        words += [
            "--export",
            f"type=vhost-user-blk,id=e{i},node-name=d{i},addr.type=unix,addr.path={path},writable=on",
        ]
    process = subprocess.Popen(["qemu-storage-daemon", *words], stdout=subprocess.DEVNULL)
    try:
        while not all(map(os.path.exists, paths)) and process.poll() is None:
            time.sleep(0.01)
        yield paths
    finally:
        process.terminate()
        process.wait()


def series(paths: Sequence[str], depth: int, guests: int, reads: int) -> float:
    """All guests' reads a second."""
    with ProcessPoolExecutor(guests, get_context("spawn")) as pool:
        return sum(pool.map(rate, paths[:guests], [depth] * guests, [reads] * guests))


def main() -> None:
    reads, rounds = (int(word) for word in (*sys.argv[1:], "50000", "3")[:2])
    with tempfile.TemporaryDirectory() as name, ExitStack() as undo:
        folder = Path(name)
        disk = folder / "disk.img"
        disk.write_bytes(os.urandom(DISK_BYTES))
        servers = {
            "emu serve": undo.enter_context(ours(folder, disk)),
            "emu serve --poll": undo.enter_context(ours(folder, disk, "--poll")),
            "qsd, aio=threads": undo.enter_context(theirs(folder, disk, "threads")),
            "qsd, aio=io_uring": undo.enter_context(theirs(folder, disk, "io_uring")),
        }
        for depth, guests in ((1, 1), (32, 1), (32, 2)):
            found: dict[str, list[float]] = {name: [] for name in servers}
            for _ in range(rounds):
                for server, paths in servers.items():
                    found[server].append(series(paths, depth, guests, reads if depth > 1 else reads // 5))
            print(f"\n{guests} guest(s), {depth} in flight: reads a second, median [range]", flush=True)
            for server, rates in found.items():
                low, high = min(rates), max(rates)
                print(f"  {server:<20}{statistics.median(rates):>10,.0f} [{low:,.0f} to {high:,.0f}]")


if __name__ == "__main__":
    main()
