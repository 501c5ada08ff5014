"""The control queue and the configuration of a card whose data queues another process serves."""

from typing import Final

from emu.bus.costs import Costs
from emu.devices.virtio.net import CONFIG, CONTROL_FEATURES
from emu.devices.virtio.net_control import NetControl
from emu.devices.virtio.spec import (
    NET_F_GUEST_ANNOUNCE,
    NET_F_MAC,
    NET_F_MQ,
    NET_F_MTU,
    NET_F_STATUS,
    NET_S_LINK_UP,
    TYPE_NET,
)
from emu.devices.virtio.split_queue import SplitQueue, each_chain
from emu.devices.virtio.types import Drain
from emu.errors import ConfigError

MAC_BYTES: Final = 6


class NetControlOnly:
    """A `Service` of one queue. Its filters are kept only: the other process does not hear of them."""

    device_type = TYPE_NET
    queues = 1
    sources: tuple[tuple[int, int], ...] = ()

    def __init__(self, mac: bytes, pairs: int, mtu: int = 0) -> None:
        if len(mac) != MAC_BYTES or mac[0] & 1:
            raise ConfigError(f"mac={mac.hex(':')}: six bytes, the first one even, are an address")
        self.costs = Costs()
        self.features = NET_F_MAC | NET_F_STATUS | CONTROL_FEATURES & ~NET_F_GUEST_ANNOUNCE
        self.features |= (NET_F_MTU if mtu else 0) | (NET_F_MQ if pairs > 1 else 0)
        self._data = CONFIG.pack(mac, NET_S_LINK_UP, pairs, mtu, 0xFFFF_FFFF, 0xFF)
        self.control = NetControl(mac, pairs, lambda _pairs: None)

    def set_features(self, features: int) -> None:
        """See `Service`."""
        self.control.set_features(features)

    def config(self, offset: int, length: int) -> bytes:
        """See `Service`."""
        return self._data[offset : offset + length]

    def write_config(self, offset: int, data: bytes) -> None:
        """Nothing can be written by a driver of the modern interface."""

    def drain(self, _index: int, queue: SplitQueue) -> Drain:
        """See `Service`."""
        return each_chain(queue, self.control.answer)
