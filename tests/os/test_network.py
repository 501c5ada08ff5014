"""Debian's kernels bring up e1000 and virtio-net on each data plane and use the network behind them."""

import re
from collections.abc import Callable, Iterator

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
SIZE = {"e1000": 20 << 20, "virtio": 100 << 20, "iothread": 100 << 20, "vhost": 100 << 20}
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


@pytest.mark.parametrize(("card", "far"), list(SIZE.items()), indirect=["far"], ids=list(SIZE))
def test_a_stream_goes_each_way_and_nothing_is_lost(
    start: Callable[..., NetGuest], card: str, far: Far
) -> None:
    """The guest keeps what the host sends, and sends it back."""
    guest = start(card)
    assert f"BOUND 10.0.2.15 255.255.255.0 {GATEWAY}" in guest.dhcp()
    assert MAC in guest.ask("cat /sys/class/net/eth0/address")
    guest.ask(f"stream get {GATEWAY} {far.source} >/big")
    assert str(len(far.data)) in guest.ask("wc -c /big")
    guest.ask(f"stream put {GATEWAY} {far.sink} </big")
    assert far.received.get(timeout=LIMIT_S) == Received(len(far.data), far.md5)
    seen = counters(guest)
    for direction in ("rx", "tx"):
        assert seen[f"{direction}_errors"] == seen[f"{direction}_dropped"] == 0, seen
        assert seen[f"{direction}_bytes"] > len(far.data)
