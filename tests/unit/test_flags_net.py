"""`-netdev`, `-nic` and `-object filter-dump`: what is taken, and what is said of the rest."""

import subprocess

import pytest

from emu.boards.net import stream_address
from emu.cli.flags import parse_flags
from emu.cli.flags_net import check_netdevs, parse_netdev, parse_nic
from emu.cli.machine_flags import finish
from emu.config import DeviceConfig, NetdevConfig, ObjectConfig
from emu.errors import ConfigError

GOOD = (
    "user,id=n",
    "user,id=n,hostfwd=tcp::8080-:80,hostfwd=udp::53-:53",
    "stream,id=n,server=off,addr.type=unix,addr.path=/s",
    "stream,id=n,server=on,addr.type=unix,addr.path=/s",
    "stream,id=n,addr.type=unix,addr.path=/s,reconnect=1",
    "stream,id=n,server=on,addr.type=inet,addr.host=127.0.0.1,addr.port=0",
    "stream,id=n,addr.type=inet,addr.host=h,addr.port=77,reconnect=3600",
    "socket,id=n,listen=:1234",
    "socket,id=n,listen=127.0.0.1:0",
    "socket,id=n,connect=host:1234",
    "tap,id=n,ifname=tap0,script=no,downscript=no",
    "vhost-user,id=n,chardev=c,queues=16",
    "echo,id=n,vhost=on",
)
BAD = {
    "user": "needs id=ID",
    "user,id=": "needs id=ID",
    "bridge,id=n": '"bridge" is not supported yet; tap with ifname= is there',
    "user,id=n,hostfwd=tcp:80:80": 'hostfwd="tcp:80:80": tcp::HOSTPORT-:GUESTPORT',
    "user,id=n,hostfwd=tcp::0-:80": "hostfwd",
    "echo,id=n,hostfwd=tcp::1-:1": 'echo has no property "hostfwd"',
    "user,id=n,ifname=x": 'user has no property "ifname"',
    "echo,id=n,queues=17": "queues",
    "echo,id=n,vhost=maybe": "vhost",
    "vhost-user,id=n": "vhost-user needs chardev=ID",
    "stream,id=n": "addr.type",
    "stream,id=n,addr.type=fd": "addr.type",
    "stream,id=n,addr.type=unix": "stream with addr.type=unix needs addr.path=",
    "stream,id=n,addr.type=inet,addr.host=h": "stream with addr.type=inet needs addr.port=",
    "stream,id=n,addr.type=unix,addr.path=/s,addr.port=1": "stream with addr.type=unix has no addr.port=",
    "stream,id=n,addr.type=inet,addr.host=h,addr.port=0": "addr.port",
    "stream,id=n,addr.type=inet,addr.host=h,addr.port=65536": "addr.port",
    "stream,id=n,addr.type=unix,addr.path=/s,server=on,reconnect=1": "reconnect= is for who connects",
    "stream,id=n,addr.type=unix,addr.path=/s,reconnect=-1": "reconnect",
    "stream,id=n,addr.type=unix,addr.path=/s,server=perhaps": "server",
    "socket,id=n": "socket needs listen=",
    "socket,id=n,listen=:1,connect=h:1": "one of them",
    "socket,id=n,listen=:x": "port",
    "socket,id=n,listen=:65536": "port",
    "socket,id=n,connect=:1": "connect=HOST:PORT needs a host",
    "socket,id=n,connect=h:0": "port",
    "socket,id=n,connect=h": "needs a host",
    "tap,id=n": "tap needs ifname=NAME",
    "tap,id=n,ifname=t": "give script=no",
    "tap,id=n,ifname=t,script=no": "give downscript=no",
    "tap,id=n,ifname=t,script=/x,downscript=no": "give script=no",
}


@pytest.mark.parametrize("text", GOOD)
def test_a_netdev_of_qemus_is_taken(text: str) -> None:
    made = parse_netdev(text)
    assert (made.kind, made.id) == (text.partition(",")[0], "n")


@pytest.mark.parametrize("text", BAD)
def test_a_netdev_that_cannot_be_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_netdev(text)
    assert BAD[text] in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("socket,id=n,listen=:1234", ("0.0.0.0", 1234)),
        ("socket,id=n,connect=h:1", ("h", 1)),
        ("stream,id=n,addr.type=inet,addr.host=h,addr.port=0x10", ("h", 16)),
        ("stream,id=n,addr.type=unix,addr.path=/a:b", "/a:b"),
    ],
)
def test_an_address_is_a_path_or_host_and_port(text: str, address: object) -> None:
    assert stream_address(parse_netdev(text)) == address


def test_a_nic_is_a_netdev_and_its_card() -> None:
    made = parse_nic("tap,ifname=t,script=no,downscript=no,model=virtio,mac=52:54:00:00:00:01", 2)
    assert made is not None
    netdev, card = made
    assert (netdev.kind, netdev.id) == ("tap", "nic2")
    assert card == DeviceConfig("virtio-net-pci", {"netdev": "nic2", "mac": "52:54:00:00:00:01"})
    assert parse_nic("none", 0) is None
    with pytest.raises(ConfigError, match="none takes no properties"):
        parse_nic("none,model=e1000", 0)


USER = NetdevConfig("user", "n")
AWAY = NetdevConfig("vhost-user", "v", {"chardev": "c"})
CARD = DeviceConfig("e1000", {"netdev": "n"})


def dump(netdev: str) -> ObjectConfig:
    return ObjectConfig("filter-dump", "f", {"netdev": netdev, "file": "f"})


@pytest.mark.parametrize(
    ("netdevs", "cards", "objects", "said"),
    [
        ([USER, USER], [], [], "id=n is given twice"),
        ([USER], [CARD, CARD], [], "netdev n is taken by e1000"),
        ([], [CARD], [], "no -netdev has id=n; there is none"),
        ([USER], [], [dump("m")], "-object filter-dump: no -netdev has id=m"),
        ([AWAY], [], [dump("v")], "give --pcap FILE to emu serve vhost-user-net"),
    ],
)
def test_names_that_do_not_fit_together_are_one_line(
    netdevs: list[NetdevConfig], cards: list[DeviceConfig], objects: list[ObjectConfig], said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        check_netdevs(netdevs, cards, objects)
    assert said in str(refused.value)


def test_a_netdev_may_have_a_card_and_a_capture() -> None:
    assert check_netdevs([USER, AWAY], [CARD], [dump("n"), ObjectConfig("iothread", "t")]) == ["v"]


def test_a_netdev_without_a_card_is_told_and_the_run_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["hello.elf", "-netdev", "user,id=n", "-netdev", "echo,id=m", "-device", "e1000,netdev=m"]
    finish(parse_flags(words), lambda _path: True)
    told = "emu: warning: netdev n has no peer; try -device e1000,netdev=n\n"
    assert capsys.readouterr() == ("", told)


@pytest.mark.peer("qemu-system-x86_64")
def test_what_qemu_says_of_it_is_the_same() -> None:
    words = [
        "qemu-system-x86_64",
        "-display",
        "none",
        "-netdev",
        "user,id=n",
        "-nic",
        "user",
        "-monitor",
        "stdio",
    ]
    shown = subprocess.run(words, input="quit\n", capture_output=True, text=True, timeout=60, check=True)
    assert shown.stderr == "qemu-system-x86_64: warning: netdev n has no peer\n"
