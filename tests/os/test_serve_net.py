"""Linux guests whose cards `emu serve vhost-user-net` serves: on one switch, and out of it."""

import re
import sys
from collections.abc import Iterator
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
    """A guest at its shell, with the card at `path`; its address is 10.9.0.`number`."""
    words, more = PROGRAMS[program]
    words = [*words, "-m", "256M", "-kernel", debian.kernel, "-initrd", debian.initrd, "-no-reboot"]
    words += ["-append", "console=ttyS0 quiet panic=-1", "-display", "none", "-serial", "stdio"]
    words += ["-chardev", f"socket,id=c,path={path}", "-netdev", "vhost-user,id=n,chardev=c"]
    words += ["-device", f"virtio-net-pci,netdev=n,mac=52:54:00:09:00:{number:02x}{more}"]
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
