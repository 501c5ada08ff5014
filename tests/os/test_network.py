"""Debian's kernels bring up e1000 and virtio-net on each data plane and use the network behind them."""

import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.os.debian import Debian
from tests.os.guest import LIMIT_S
from tests.os.network import GATEWAY, GENERIC, OURS, Far, NetGuest, Received, debian_with_network

pytestmark = [pytest.mark.os, pytest.mark.peer("passt"), pytest.mark.timeout(300)]

IOTHREAD = ("-object", "iothread,id=io0", "-device", "virtio-net-pci,netdev=n,iothread=io0")
CARDS = {
    "e1000": (GENERIC, "", ("-device", "e1000,netdev=n")),
    "virtio": ("6.1", "", ("-device", "virtio-net-pci,netdev=n")),
    "iothread": ("6.12", "", IOTHREAD),
    "vhost": ("6.1", ",vhost=on", ("-device", "virtio-net-pci,netdev=n")),
}
"""Kernel, properties of the netdev, and the flags of the card."""
SIZE = {"e1000": 100 << 20, "virtio": 100 << 20, "iothread": 20 << 20, "vhost": 20 << 20}
MAC = "52:54:00:12:34:56"


@pytest.fixture(scope="module")
def debians() -> Callable[[str], Debian]:
    """A kernel by its name, made once."""
    made: dict[str, Debian] = {}

    def get(version: str) -> Debian:
        if version not in made:
            made[version] = debian_with_network(version)
        return made[version]

    return get


@pytest.fixture
def start(debians: Callable[[str], Debian]) -> Iterator[Callable[..., NetGuest]]:
    """`start(card, more)` boots to a shell; `more` are further properties of the netdev."""
    guests: list[NetGuest] = []

    def boot(card: str, more: str = "", *flags: str) -> NetGuest:
        version, properties, words = CARDS[card]
        netdev = ("-netdev", f"user,id=n{properties}{more}")
        guests.append(NetGuest(OURS, debians(version), *netdev, *words, *flags))
        return guests[-1]

    yield boot
    for guest in guests:
        guest.close()


@pytest.fixture
def far(request: pytest.FixtureRequest) -> Iterator[Far]:
    """The host's end of TCP streams."""
    made = Far(request.param)
    yield made
    made.close()


def counters(guest: NetGuest) -> dict[str, int]:
    """What Linux has counted on eth0, and the TCP segments that it sent again."""
    said = guest.ask("grep . /sys/class/net/eth0/statistics/*; grep ^Tcp: /proc/net/snmp | tail -1")
    found = {name: int(value) for name, value in re.findall(r"statistics/(\w+):(\d+)", said)}
    segments = re.search(r"^Tcp: ([\d -]+)", said, re.MULTILINE)
    assert segments is not None, said
    return {**found, "retransmitted": int(segments[1].split()[11])}


def free_port() -> int:
    """A port of the host where nobody listens now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize(("card", "far"), list(SIZE.items()), indirect=["far"], ids=list(SIZE))
def test_a_stream_goes_each_way_and_nothing_is_lost(
    start: Callable[..., NetGuest], card: str, far: Far
) -> None:
    """The guest keeps what the host sends, and sends it back."""
    guest = start(card)
    assert f"BOUND 10.0.2.15 255.255.255.0 {GATEWAY}" in guest.dhcp()
    assert MAC in guest.ask("cat /sys/class/net/eth0/address")
    guest.ask(f"stream get {GATEWAY} {far.source} >/big")
    guest.ask(f"stream put {GATEWAY} {far.sink} </big")
    assert far.received.get(timeout=LIMIT_S) == Received(len(far.data), far.md5)
    seen = counters(guest)
    for direction in ("rx", "tx"):
        assert seen[f"{direction}_errors"] == seen[f"{direction}_dropped"] == 0, seen
        assert seen[f"{direction}_bytes"] > len(far.data)


def test_the_host_reaches_the_guest_by_a_forwarded_port(start: Callable[..., NetGuest]) -> None:
    port = free_port()
    guest = start("virtio", f",hostfwd=tcp::{port}-:7")
    guest.dhcp()
    guest.ask("nc -ll -p 7 -e cat & until netstat -lnt | grep -q ':7 '; do usleep 20000; done")
    with socket.create_connection(("127.0.0.1", port), LIMIT_S) as line:
        line.settimeout(LIMIT_S)
        line.sendall(b"there and back")
        seen = b""
        while len(seen) < 14:
            piece = line.recv(100)
            assert piece
            seen += piece
    assert seen == b"there and back"


@pytest.mark.parametrize(("card", "mtu"), [("e1000", 1500), ("virtio", 65520)])
def test_a_pulled_cable_takes_the_link_down_and_nothing_else(
    start: Callable[..., NetGuest], card: str, mtu: int
) -> None:
    guest = start(card)
    guest.dhcp()
    assert f"\n{mtu}\r" in guest.ask("cat /sys/class/net/eth0/mtu")
    assert "\n1\r" in guest.ask("cat /sys/class/net/eth0/carrier")
    pid = guest.process.pid
    (passt,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(int(passt), signal.SIGKILL)
    guest.ask("until [ $(cat /sys/class/net/eth0/carrier) = 0 ]; do usleep 20000; done")
    if card == "e1000":
        guest.ask("until dmesg | grep -q 'NIC Link is Down'; do usleep 20000; done")
    assert "\ndown\r" in guest.ask("cat /sys/class/net/eth0/operstate")
    assert "\n42\r" in guest.ask("echo $((6 * 7))")
    guest.type("poweroff -f\n")
    assert guest.finish() == 0


def test_two_machines_on_one_cable_ping_each_other_with_large_frames(
    debians: Callable[[str], Debian], tmp_path: Path
) -> None:
    """A frame of the MTU goes whole, a longer packet in as many frames as it needs; both ends count alike."""
    path = f"addr.type=unix,addr.path={tmp_path / 'cable'}"
    debian = debians(GENERIC)
    cards = (("server=on", "e1000"), ("server=off", "virtio-net-pci"))
    guests: list[NetGuest] = []
    try:
        for number, (role, driver) in enumerate(cards, 1):
            netdev = ("-netdev", f"stream,id=n,{role},{path}")
            card = ("-device", f"{driver},netdev=n,mac=52:54:00:00:00:0{number}")
            guests.append(NetGuest(OURS, debian, *netdev, *card))
            guests[-1].ask("echo 1 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6")
            guests[-1].ask(f"ifconfig eth0 10.9.0.{number} netmask 255.255.255.0 mtu 9000 up")
            guests[-1].ask(f"arp -s 10.9.0.{3 - number} 52:54:00:00:00:0{3 - number}")
        first, second = guests
        first.ask("until [ $(cat /sys/class/net/eth0/carrier) = 1 ]; do usleep 20000; done")
        assert "1 packets received" in first.ask("ping -c 1 -W 5 10.9.0.2")
        before = counters(first), counters(second)
        for size, frames in ((56, 1), (8972, 1), (8973, 2), (60000, 7)):
            said = first.ask(f"ping -c 2 -W 5 -s {size} 10.9.0.2")
            assert "2 packets received, 0% packet loss" in said
            after = counters(first), counters(second)
            for old, new in zip(before, after, strict=True):
                for direction in ("rx", "tx"):
                    assert new[f"{direction}_packets"] - old[f"{direction}_packets"] == 2 * frames
                    assert new[f"{direction}_errors"] == new[f"{direction}_dropped"] == 0
            before = after
    finally:
        for guest in guests:
            guest.close()
