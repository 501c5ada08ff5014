"""`-netdev` and `-nic`: what a network card is plugged into, with QEMU's names and values."""

from collections.abc import Mapping, Sequence
from typing import Final

from emu.cli.catalog import check_properties, find_driver
from emu.cli.options import choice, key_values, nearest, number, switch, unique_keys
from emu.config import DeviceConfig, NetdevConfig
from emu.errors import ConfigError

KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "user": ("hostfwd", "vhost", "queues"),
    "stream": ("server", "addr.type", "addr.path", "vhost", "queues"),
    "vhost-user": ("chardev", "queues", "counters"),
    "echo": ("vhost", "queues"),
}
"""Kind -> its properties besides type and id."""
LATER: Final[Mapping[str, str]] = {
    "tap": "user, stream and vhost-user are there",
    "bridge": "user, stream and vhost-user are there",
    "socket": "stream with addr.type=unix is there",
    "dgram": "stream with addr.type=unix is there",
    "l2tpv3": "user, stream and vhost-user are there",
    "hubport": "emu serve vhost-user-net is a switch",
    "vde": "emu serve vhost-user-net is a switch",
    "vhost-vdpa": "vhost-user is there",
}
MODELS: Final = {"e1000": "e1000", "virtio": "virtio-net-pci", "virtio-net-pci": "virtio-net-pci"}
NIC_KEYS: Final = ("model", "mac", "addr")
MAX_QUEUES: Final = 16


def parse_netdev(text: str, name: str | None = None) -> NetdevConfig:
    """One `-netdev`; `name` is the id of a `-nic`'s. Raises ConfigError."""
    pairs = key_values(text, "type")
    forwards = tuple(_forward(value) for key, value in pairs if key == "hostfwd")
    known = ("type", "id", *sorted({key for keys in KINDS.values() for key in keys}))
    values = unique_keys([pair for pair in pairs if pair[0] != "hostfwd"], known)
    kind = values.pop("type", "")
    if kind in LATER:
        raise ConfigError(f'"{kind}" is not supported yet; {LATER[kind]}')
    choice("type", kind, KINDS)
    made = values.pop("id", name)
    if not made:
        raise ConfigError("needs id=ID")
    for key in (*values, *(["hostfwd"] if forwards else [])):
        if key not in KINDS[kind]:
            raise ConfigError(f'{kind} has no property "{key}"; {nearest(key, KINDS[kind])}')
    _check(kind, values)
    return NetdevConfig(kind, made, values, forwards)


def _check(kind: str, values: Mapping[str, str]) -> None:
    if "vhost" in values:
        switch("vhost", values["vhost"])
    if "queues" in values:
        number("queues", values["queues"], 1, MAX_QUEUES)
    if kind == "vhost-user" and not values.get("chardev"):
        raise ConfigError("vhost-user needs chardev=ID")
    if kind == "stream":
        if switch("server", values.get("server", "off")):
            raise ConfigError("server=on is not supported yet; let the other end listen")
        choice("addr.type", values.get("addr.type", ""), ("unix",))
        if not values.get("addr.path"):
            raise ConfigError("stream needs addr.path=PATH")


def _forward(text: str) -> tuple[str, int, int]:
    """`tcp|udp::HOSTPORT-:GUESTPORT`; addresses are any. Raises ConfigError."""
    kind, _, rest = text.partition(":")
    host, dash, guest = rest.partition("-")
    if dash and kind in ("tcp", "udp") and host.startswith(":") and guest.startswith(":"):
        return kind, number("hostfwd", host[1:], 1, 65535), number("hostfwd", guest[1:], 1, 65535)
    raise ConfigError(f'hostfwd="{text}": tcp::HOSTPORT-:GUESTPORT or udp::... is possible')


def parse_nic(text: str, count: int) -> tuple[NetdevConfig, DeviceConfig] | None:
    """One `-nic`, the `count`th: a netdev and its card; None for `-nic none`. Raises ConfigError."""
    pairs = key_values(text, "type")
    if [value for key, value in pairs if key == "type"] == ["none"]:
        if len(pairs) > 1:
            raise ConfigError("none takes no properties")
        return None
    card = unique_keys([pair for pair in pairs if pair[0] in NIC_KEYS], NIC_KEYS)
    words = [f"{key}={value.replace(',', ',,')}" for key, value in pairs if key not in NIC_KEYS]
    name = f"nic{count}"
    netdev = parse_netdev(",".join(words), name)
    driver = find_driver(MODELS[choice("model", card.pop("model", "e1000"), MODELS)])
    properties = {"netdev": netdev.id, **card}
    check_properties(driver, properties)
    return netdev, DeviceConfig(driver.name, properties)


def check_netdevs(netdevs: Sequence[NetdevConfig], devices: Sequence[DeviceConfig]) -> None:
    """Every id is unique; every netdev= names one, which has no other user. Raises ConfigError."""
    ids: set[str] = set()
    for netdev in netdevs:
        if netdev.id in ids:
            raise ConfigError(f"-netdev: id={netdev.id} is given twice")
        ids.add(netdev.id)
    users: dict[str, str] = {}
    for device in devices:
        name = device.properties.get("netdev")
        if name is None:
            continue
        if name not in ids:
            raise ConfigError(f"-device {device.driver}: no -netdev has id={name}; {nearest(name, ids)}")
        if name in users:
            raise ConfigError(f"-device {device.driver}: netdev {name} is taken by {users[name]}")
        users[name] = device.driver
