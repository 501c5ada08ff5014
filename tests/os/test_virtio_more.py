"""Debian's kernels find and use virtio-rng, virtio-serial and virtio-balloon."""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emu.boards.pc import assemble_pc
from emu.config import DeviceConfig, MachineConfig
from tests.os.debian import DRIVERS, KERNELS, Debian
from tests.os.guest import LIMIT_S, Guest

pytestmark = [pytest.mark.os, pytest.mark.timeout(300)]

MORE = (*DRIVERS, "virtio_console", "virtio_rng", "virtio_balloon")


@pytest.fixture(scope="module", params=list(KERNELS))
def debian(request: pytest.FixtureRequest) -> Debian:
    """A kernel whose initramfs has the drivers of these devices, too."""
    return Debian(request.param, MORE)


@pytest.fixture
def start(debian: Debian, tmp_path: Path) -> Iterator[Callable[..., Guest]]:
    """`start(*flags)` boots to a shell on COM1."""
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    guests: list[Guest] = []

    def boot(*flags: str) -> Guest:
        guests.append(Guest(debian.kernel, debian.initrd, disk, "quiet job=shell", *flags))
        guests[-1].expect("# ")
        return guests[-1]

    yield boot
    for guest in guests:
        guest.close()


def test_the_generator_feeds_hwrng(start: Callable[..., Guest]) -> None:
    guest = start("-object", "rng-random,id=r", "-device", "virtio-rng-pci,rng=r")
    guest.type("cat /sys/class/misc/hw_random/rng_current\n")
    guest.expect("virtio_rng.0")
    guest.type("dd if=/dev/hwrng bs=512 count=8 | wc -c; echo e-$((1+1))\n")
    guest.expect("e-2")
    assert "\n4096\r\n" in guest.text


def test_ports_carry_bytes_both_ways(start: Callable[..., Guest], tmp_path: Path) -> None:
    path, log = tmp_path / "stream", tmp_path / "hvc.log"
    guest = start(
        *("-chardev", f"socket,id=s,path={path},server=on,wait=off", "-chardev", f"file,id=f,path={log}"),
        *("-device", "virtio-serial-pci", "-device", "virtconsole,chardev=f"),
        *("-device", "virtserialport,chardev=s,name=org.example"),
    )
    guest.type(
        "cat /sys/class/virtio-ports/vport*p1/name; echo on-the-console > /dev/hvc0; echo e-$((1+1))\n"
    )
    guest.expect("org.example")
    guest.expect("e-2")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(path))
        guest.type(
            "P=$(echo /dev/vport*p1); exec 3<>$P; echo to-the-host >&3; read line <&3; echo got-$line\n"
        )
        seen = b""
        while b"to-the-host\n" not in seen:
            seen += client.recv(4096)
        client.sendall(b"to-the-guest\n")
        guest.expect("got-to-the-guest")
        guest.type("head -c 3000000 /dev/zero >&3; echo sent-$((1+1))\n")
        left = 3_000_000
        while left:
            part = client.recv(65536)
            assert part
            left -= len(part)
        guest.expect("sent-2")
    deadline = time.monotonic() + LIMIT_S
    while "on-the-console" not in log.read_text():
        assert time.monotonic() < deadline


def test_the_guests_terminal_can_be_on_a_virtconsole(start: Callable[..., Guest], tmp_path: Path) -> None:
    path = tmp_path / "hvc"
    guest = start(
        *("-chardev", f"socket,id=s,path={path},server=on,wait=off"),
        *("-device", "virtio-serial-pci,max_ports=2", "-device", "virtconsole,chardev=s"),
    )
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(str(path))
        guest.type("setsid sh -c 'exec sh </dev/hvc0 >/dev/hvc0 2>&1'\n")
        seen = b""
        while b"# " not in seen:
            seen += client.recv(4096)
        client.sendall(b"echo typed-$((40+2)); poweroff -f\n")
        while b"typed-42" not in seen:
            seen += client.recv(4096)
    assert guest.finish() == 0


def test_the_balloon_gives_memory_back(debian: Debian) -> None:
    """A balloon of 64 MiB, then none; the host's share of the memory follows."""
    output = bytearray()
    config = MachineConfig(
        ram_bytes=256 << 20,
        kernel=debian.kernel,
        initrd=debian.initrd,
        append="console=ttyS0 quiet job=shell",
        devices=(DeviceConfig("virtio-balloon-pci", {"free-page-reporting": "on"}),),
    )
    board = assemble_pc(config, output.extend)
    machine = board.machine
    assert board.virtio_more is not None
    balloon = board.virtio_more.balloons["virtio-balloon0"]
    seen: dict[str, int] = {}

    def wait(done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not done() and machine.alive and time.monotonic() < deadline:
            time.sleep(0.01)

    def host_bytes() -> int:
        return os.fstat(machine.memory.fd).st_blocks * 512

    def play() -> None:
        try:
            wait(lambda: b"# " in output)
            machine.serial_input(
                b"dd if=/dev/zero of=/big bs=1M count=100 2>/dev/null; rm /big; echo e-$((1+1))\n"
            )
            wait(lambda: b"e-2" in output)
            seen["before"] = host_bytes()
            machine.post(lambda: balloon.set_target(160 << 20))
            wait(lambda: balloon.actual == 160 << 20)
            seen["inflated"], seen["actual"] = host_bytes(), balloon.actual
            machine.post(balloon.request_statistics)
            wait(lambda: "total-memory" in balloon.statistics)
            seen["total"] = balloon.statistics.get("total-memory", 0)
            machine.post(lambda: balloon.set_target(0))
            wait(lambda: balloon.actual == 0)
            seen["deflated"] = balloon.actual
            machine.serial_input(b"poweroff -f\n")
            wait(lambda: not machine.alive)
        finally:
            machine.stop()

    player = threading.Thread(target=play)
    player.start()
    try:
        machine.run()
    finally:
        player.join()
        machine.close()
    assert seen["actual"] == 160 << 20, output[-500:]
    assert seen["before"] - seen["inflated"] > 60 << 20
    assert seen["deflated"] == 0
    assert 150 << 20 < seen["total"] < 256 << 20
