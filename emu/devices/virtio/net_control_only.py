"""The control queue and the configuration of a card whose data queues another process serves."""

from emu.bus.costs import Costs
from emu.devices.virtio.net import CONFIG, CONTROL_FEATURES
from emu.devices.virtio.net_control import NetControl, check_mac
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


class NetControlOnly:
    """A `Service` of one queue. Its filters are kept only: the other process does not hear of them."""

    device_type = TYPE_NET
    queues = 1
    sources: tuple[tuple[int, int], ...] = ()

    def __init__(self, mac: bytes, pairs: int, mtu: int = 0) -> None:
        check_mac(mac)
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
