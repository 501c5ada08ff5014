"""Linux guests on the switch of `emu serve`, out of it, and on a cable between two machines."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.os.debian import KERNELS, START, Debian
from tests.os.guest import LIMIT_S, Console
from tests.serve_net_lab import listening

pytestmark = [pytest.mark.os, pytest.mark.timeout(300)]

QEMU = "qemu-system-x86_64"
DRIVERS = ("virtio_pci", "virtio_net", "af_packet")
STREAM = Path(__file__).parent / "programs/built/stream.elf"
SHARED = ("-nodefaults", "-machine", "pc,memory-backend=mem", "-object")
MEMORY = "memory-backend-memfd,id=mem,size=256M,share=on"
PROGRAMS = {
    "emu": ([sys.executable, "-m", "emu", "run", "-timeout", str(LIMIT_S), "-nic", "none"], ""),
    "qemu": ([QEMU, "-accel", "tcg", *SHARED, MEMORY], ",vectors=0"),
}
"""How to start a guest, and what its card needs: QEMU 7.2 crashes with MSI-X and vhost-user-net."""
DHCP = """#!/bin/sh
[ "$1" = bound ] && ifconfig "$interface" "$ip" netmask "$subnet" && route add default gw "$router"
"""
MEGABYTES = 8


@pytest.fixture(scope="module", params=list(KERNELS))
def debian(request: pytest.FixtureRequest) -> Debian:
    """A kernel at its shell."""
    init = f"{START}exec setsid cttyhack sh\n"
    return Debian(request.param, DRIVERS, init, {"bin/stream": STREAM.read_bytes(), "dhcp": DHCP.encode()})


@pytest.fixture
def at_end() -> Iterator[ExitStack]:
    """Ends guests."""
    with ExitStack() as stack:
        yield stack


def guest(at_end: ExitStack, debian: Debian, program: str, path: Path, number: int) -> Console:
    """A guest at its shell, whose card is served at `path`; its address is 10.9.0.`number`."""
    flags = ["-chardev", f"socket,id=c,path={path}", "-netdev", "vhost-user,id=n,chardev=c"]
    return plugged(at_end, debian, program, flags, number)


def plugged(at_end: ExitStack, debian: Debian, program: str, flags: Sequence[str], number: int) -> Console:
    """The same with the netdev n of these flags."""
    words, more = PROGRAMS[program]
    words = [*words, "-m", "256M", "-kernel", debian.kernel, "-initrd", debian.initrd, "-no-reboot"]
    words += ["-append", "console=ttyS0 quiet panic=-1", "-display", "none", "-serial", "stdio"]
    words += [*flags, "-device", f"virtio-net-pci,netdev=n,mac=52:54:00:09:00:{number:02x}{more}"]
    console = Console(words)
    at_end.callback(console.close)
    console.expect("# ")
    console.ask(f"ifconfig eth0 10.9.0.{number} netmask 255.255.255.0 up")
    return console


def sent(there: Console, back: Console, address: str) -> None:
    """A file goes from one guest to the other, whose checksum is the same."""
    said = there.ask(f"dd if=/dev/urandom of=/file bs=1M count={MEGABYTES} 2>/dev/null; md5sum /file")
    found = re.search(r"([0-9a-f]{32})  /file", said)
    assert found, said
    since = len(back.text)
    back.type("nc -l -p 99 | md5sum; echo received\n")
    there.ask(f"until stream put {address} 99 < /file 2>/dev/null; do usleep 50000; done")
    end = back.expect("\nreceived", since)
    assert found[1] in back.text[since:end]


@pytest.mark.peer(QEMU)
@pytest.mark.parametrize("programs", [("emu", "emu"), ("emu", "qemu")])
def test_two_guests_send_each_other_files(
    debian: Debian, at_end: ExitStack, tmp_path: Path, programs: tuple[str, str]
) -> None:
    paths = at_end.enter_context(listening(tmp_path, guests=2))
    one, two = (guest(at_end, debian, programs[i], paths[i], i + 1) for i in range(2))
    sent(one, two, "10.9.0.2")
    sent(two, one, "10.9.0.1")
    for console in (one, two):
        assert re.search(r"eth0:(\s+\d+){2}\s+0\s+0", console.ask("cat /proc/net/dev")), "no error, no drop"


@pytest.mark.peer("passt")
@pytest.mark.parametrize("program", ["emu", pytest.param("qemu", marks=pytest.mark.peer(QEMU))])
def test_a_guest_gets_its_address_by_the_uplink(
    debian: Debian, at_end: ExitStack, tmp_path: Path, program: str
) -> None:
    (path,) = at_end.enter_context(listening(tmp_path, "--uplink", "passt"))
    console = guest(at_end, debian, program, path, 1)
    said = console.ask("ifconfig eth0 0.0.0.0; udhcpc -i eth0 -n -q -t 20 -T 1 -s /dhcp; ifconfig eth0")
    assert "inet addr:10.0.2.15" in said, said
    assert "10.0.2.2" in console.ask("route -n; ping -c 1 -W 1 10.0.2.2; arp -n")


def carrier(console: Console, wanted: int) -> None:
    """Wait until the guest sees that the cable is plugged in, or pulled."""
    console.ask(f"until [ $(cat /sys/class/net/eth0/carrier) = {wanted} ]; do usleep 50000; done")


@pytest.mark.peer(QEMU)
def test_the_other_machine_of_a_cable_leaves_and_comes_back(
    debian: Debian, at_end: ExitStack, tmp_path: Path
) -> None:
    path, capture = tmp_path / "s", tmp_path / "f.pcap"
    here = ["-netdev", f"stream,id=n,server=on,addr.type=unix,addr.path={path}"]
    here += ["-object", f"filter-dump,id=f,netdev=n,file={capture}"]
    one = plugged(at_end, debian, "emu", here, 1)
    carrier(one, 0)
    for _ in range(2):
        with ExitStack() as its_end:
            there = ["-netdev", f"stream,id=n,server=off,addr.type=unix,addr.path={path}"]
            two = plugged(its_end, debian, "qemu", there, 2)
            carrier(one, 1)
            sent(two, one, "10.9.0.1")
        carrier(one, 0)
    assert capture.stat().st_size > 2 * MEGABYTES << 20
