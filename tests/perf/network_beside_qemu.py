"""TCP streams of a Linux guest on `emu` and on QEMU TCG in turns: `python -m tests.perf.network_beside_qemu`.

Both have a passt of their own at the other end of a Unix stream. Prints ratios with the spread of their pairs
and what is wanted; judges nothing. What is missing is skipped by its name. `--pairs N` for fewer or more.
"""

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from emu.bench.boot import QEMU, emu_command
from emu.bench.series import in_turns, ratio
from emu.cli.bench import Report, print_table
from emu.devices.net.passt import unpadded
from tests.os.debian import Debian
from tests.os.network import GATEWAY, GENERIC, Far, NetGuest, debian_with_network
from tests.perf.linux_beside_qemu import cpu_seconds, numbers

OURS: Final = (*emu_command(), "run")
THEIRS: Final = (QEMU, "-machine", "pc", "-accel", "tcg")
BYTES: Final = 100 << 20
WANTED: Final = "0.7"
PADDED, LENGTH_BYTES, CHUNK = 60, 4, 1 << 18
PASST: Final = (
    *("passt", "--foreground", "--log-file", "/dev/null", "--mtu", "65520", "-t", "none", "-u", "none"),
    *("--address", "10.0.2.15", "--netmask", "24", "--gateway", GATEWAY),
)


class Row(NamedTuple):
    """A card, the MTU of its link (None: what DHCP says) and QEMU's property for our placement."""

    name: str
    card: str
    mtu: int | None = None
    ours: tuple[str, ...] = ()
    vhost: str = ""


ROWS: Final = (
    Row("virtio-net", "virtio-net-pci,netdev=n"),
    Row("virtio-net, MTU 1500", "virtio-net-pci,netdev=n", 1500),
    Row(
        "virtio-net in an iothread",
        "virtio-net-pci,netdev=n",
        ours=("-object", "iothread,id=io0", "-device", "virtio-net-pci,netdev=n,iothread=io0"),
    ),
    Row("virtio-net in vhost", "virtio-net-pci,netdev=n", vhost=",vhost=on"),
    Row("e1000", "e1000,netdev=n"),
)


class Wire:
    """A passt behind a socket; `path` is where a guest connects.

    Where `trims`, a thread between them cuts Ethernet's padding off: passt of 2023 takes it for data.
    """

    def __init__(self, folder: Path, name: str, *, trims: bool) -> None:
        end = folder / f"{name}.passt"
        self._passt = subprocess.Popen(
            [*PASST, "--socket", end], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while not end.exists():
            assert self._passt.poll() is None, "passt has ended"
            time.sleep(0.01)
        self.path = folder / f"{name}.guest" if trims else end
        self._relay: subprocess.Popen[bytes] | None = None
        if trims:
            words = [sys.executable, "-m", "tests.perf.network_beside_qemu"]
            self._relay = subprocess.Popen([*words, "--relay", self.path, end])
            while not self.path.exists():
                assert self._relay.poll() is None, "the relay has ended"
                time.sleep(0.01)

    def close(self) -> None:
        """End both."""
        for process in (self._passt, self._relay):
            if process is not None:
                process.kill()
                process.wait()


def relay(guest_path: str, passt_path: str) -> None:
    """Hand frames on, those of the guest without padding."""
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as passt:
        passt.connect(passt_path)
        server.bind(guest_path)
        server.listen()
        guest, _ = server.accept()
        with guest:
            for line in (guest, passt):
                line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            threading.Thread(target=_hand_on, args=(passt, guest), daemon=True).start()
            pending = b""
            while data := guest.recv(CHUNK):
                done, pending = _trimmed(pending + data)
                passt.sendall(done)


def _hand_on(source: socket.socket, target: socket.socket) -> None:
    while data := source.recv(CHUNK):
        target.sendall(data)


def _trimmed(data: bytes) -> tuple[bytes, bytes]:
    """Whole frames, the padded ones cut, and what is left of the last one."""
    pieces, begin, at = [], 0, 0
    while len(data) - at >= LENGTH_BYTES:
        length = int.from_bytes(data[at : at + LENGTH_BYTES], "big")
        end = at + LENGTH_BYTES + length
        if end > len(data):
            break
        if length == PADDED:
            frame = unpadded(data[at + LENGTH_BYTES : end])
            pieces += [data[begin:at], len(frame).to_bytes(LENGTH_BYTES, "big"), frame]
            begin = end
        at = end
    return b"".join((*pieces, data[begin:at])), data[at:]


def guest(program: Sequence[str], debian: Debian, row: Row, wire: Wire) -> NetGuest:
    """A guest that has its address."""
    netdev = f"stream,id=n,server=off,addr.type=unix,addr.path={wire.path}"
    card = ["-device", row.card]
    if program == OURS:
        netdev += row.vhost
        card = list(row.ours) or card
    made = NetGuest(program, debian, "-netdev", netdev, *card)
    assert "BOUND" in made.dhcp(), made.text
    if row.mtu is not None:
        made.ask(f"ifconfig eth0 mtu {row.mtu}")
    return made


def seconds(console: NetGuest, command: str, cpu: list[float]) -> float:
    """How long the guest takes; `cpu` gets its process' CPU time."""
    before, began = cpu_seconds(console.process.pid), time.monotonic()
    console.ask(command)
    cpu.append(cpu_seconds(console.process.pid) - before)
    return time.monotonic() - began


def report(debian: Debian, folder: Path, far: Far, pairs: int, row: Row) -> Report:
    """Both guests are up and stream in turns; who waits is idle."""
    made = []
    trims = row.card.startswith("e1000")
    wires = [Wire(folder, f"{ROWS.index(row)}{side}", trims=trims) for side in ("qemu", "emu")]
    guests = [guest(program, debian, row, wire) for program, wire in zip((THEIRS, OURS), wires, strict=True)]
    for name, command in (
        ("to the guest", f"stream get {GATEWAY} {far.source} >/dev/null"),
        ("to the host", f"stream put {GATEWAY} {far.sink} {BYTES}"),
    ):
        cpu: list[list[float]] = [[], []]
        work = [partial(seconds, each, command, seen) for each, seen in zip(guests, cpu, strict=True)]
        found = ratio(*[[BYTES / 1e6 / each for each in side] for side in in_turns(work, pairs)])
        made.append([name, *numbers(found, 0), WANTED])
        per_cpu = ratio(*[[BYTES / 1e6 / max(each, 0.01) for each in side] for side in cpu])
        made.append([f"{name}, by CPU time", *numbers(per_cpu, 0), ""])
    for each in guests:
        each.close()
    for wire in wires:
        wire.close()
    foot = "MB/s, more is better; by CPU time: MB for each second of CPU that the guest's process used."
    return Report({}, (row.name, "QEMU", "emu", "emu/QEMU", "of pairs", "wanted"), made, foot)


def main() -> None:
    parser = argparse.ArgumentParser(description="TCP streams on emu and on QEMU TCG in turns")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose name has it")
    parser.add_argument("--relay", nargs=2, metavar="PATH", help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.relay:
        relay(*words.relay)
        return
    for program in (QEMU, "passt"):
        if shutil.which(program) is None:
            print(f"skipped: {program} is not installed")
            return
    try:
        debian = debian_with_network(GENERIC)
    except pytest.skip.Exception as missing:
        print(f"skipped: {missing}")
        return
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)  # noqa: PTH101 - passt, started by root, becomes nobody
        far = Far(BYTES)
        try:
            for row in ROWS:
                if words.only in row.name:
                    made = report(debian, Path(name), far, words.pairs, row)
                    print_table(row.name, made, sys.stdout)
                    sys.stdout.flush()
        finally:
            far.close()


if __name__ == "__main__":
    main()
