"""`-netdev` and `-nic`: what a network card is plugged into, with QEMU's names and values."""

from collections.abc import Mapping, Sequence
from typing import Final

from emu.cli.catalog import check_properties, find_driver
from emu.cli.options import choice, key_values, nearest, number, switch, unique_keys
from emu.config import DeviceConfig, NetdevConfig, ObjectConfig
from emu.errors import ConfigError

KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "user": ("hostfwd", "vhost", "queues"),
    "stream": (
        *("server", "addr.type", "addr.path", "addr.host", "addr.port", "reconnect"),
        *("vhost", "queues"),
    ),
    "socket": ("listen", "connect", "vhost", "queues"),
    "tap": ("ifname", "script", "downscript", "vhost", "queues"),
    "vhost-user": ("chardev", "queues", "counters"),
    "echo": ("vhost", "queues"),
}
"""Kind -> its properties besides type and id."""
LATER: Final[Mapping[str, str]] = {
    "bridge": "tap with ifname= is there",
    "dgram": "stream is there",
    "l2tpv3": "user, stream and vhost-user are there",
    "hubport": "emu serve vhost-user-net is a switch",
    "vde": "emu serve vhost-user-net is a switch",
    "vhost-vdpa": "vhost-user is there",
}
ADDRESSES: Final = {"unix": ("addr.path",), "inet": ("addr.host", "addr.port")}
MAX_PORT: Final = 65535
MODELS: Final = {"e1000": "e1000", "virtio": "virtio-net-pci", "virtio-net-pci": "virtio-net-pci"}
NIC_KEYS: Final = ("model", "mac", "addr")
MAX_QUEUES: Final = 16
MAX_RECONNECT_S: Final = 3600


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
        _check_stream(values)
    if kind == "socket":
        if ("listen" in values) == ("connect" in values):
            raise ConfigError("socket needs listen=[HOST]:PORT or connect=HOST:PORT, one of them")
        host, _, port = values.get("listen", values.get("connect", "")).rpartition(":")
        if "connect" in values and not host:
            raise ConfigError("connect=HOST:PORT needs a host")
        number("port", port, 0 if "listen" in values else 1, MAX_PORT)
    if kind == "tap":
        if not values.get("ifname"):
            raise ConfigError("tap needs ifname=NAME")
        for script in ("script", "downscript"):
            if values.get(script) != "no":
                raise ConfigError(f"no script is run here: give {script}=no, and set the interface up before")


def _check_stream(values: Mapping[str, str]) -> None:
    """A stream has an address, and who connects may do so again. Raises ConfigError."""
    kind = choice("addr.type", values.get("addr.type", ""), ADDRESSES)
    for key in ADDRESSES[kind]:
        if not values.get(key):
            raise ConfigError(f"stream with addr.type={kind} needs {key}=")
    for other, keys in ADDRESSES.items():
        for key in keys:
            if other != kind and key in values:
                raise ConfigError(f"stream with addr.type={kind} has no {key}=")
    server = switch("server", values.get("server", "off"))
    if "addr.port" in values:
        number("addr.port", values["addr.port"], 0 if server else 1, MAX_PORT)
    if "reconnect" in values:
        number("reconnect", values["reconnect"], 0, MAX_RECONNECT_S)
        if server:
            raise ConfigError("reconnect= is for who connects; with server=on leave it out")


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


def check_netdevs(
    netdevs: Sequence[NetdevConfig], devices: Sequence[DeviceConfig], objects: Sequence[ObjectConfig]
) -> list[str]:
    """Every id is unique; every netdev= names one, which has no other card. Raises ConfigError.

    Returns the ids that no card names.
    """
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
    elsewhere = {netdev.id for netdev in netdevs if netdev.kind == "vhost-user"}
    for made in objects:
        name = made.properties.get("netdev")
        if name is not None and name not in ids:
            raise ConfigError(f"-object {made.kind}: no -netdev has id={name}; {nearest(name, ids)}")
        if name in elsewhere:
            raise ConfigError(
                f"-object {made.kind}: the frames of netdev {name} are not seen here; "
                "give --pcap FILE to emu serve vhost-user-net"
            )
    return [netdev.id for netdev in netdevs if netdev.id not in users]
