"""virtio-net: frames between the driver's rings and a backend. Source: VIRTIO 1.2, section 5.1.

Queues 2n and 2n + 1 receive and transmit (`net_queues`), the control queue comes last (`net_control`).
"""

import struct
from collections.abc import Callable
from typing import Final

from emu.bus.costs import Costs
from emu.devices.net.types import NetBackend
from emu.devices.virtio.net_control import NetControl, check_mac
from emu.devices.virtio.net_queues import NetQueues
from emu.devices.virtio.spec import (
    F_RING_EVENT_IDX,
    F_RING_INDIRECT_DESC,
    NET_F_CSUM,
    NET_F_CTRL_MAC_ADDR,
    NET_F_CTRL_RX,
    NET_F_CTRL_RX_EXTRA,
    NET_F_CTRL_VLAN,
    NET_F_CTRL_VQ,
    NET_F_GUEST_ANNOUNCE,
    NET_F_HOST_TSO4,
    NET_F_HOST_TSO6,
    NET_F_MAC,
    NET_F_MQ,
    NET_F_MRG_RXBUF,
    NET_F_MTU,
    NET_F_STATUS,
    NET_S_ANNOUNCE,
    NET_S_LINK_UP,
    TYPE_NET,
)
from emu.devices.virtio.split_queue import SplitQueue, each_chain
from emu.devices.virtio.types import Drain
from emu.errors import ConfigError

CONFIG: Final = struct.Struct("<6sHHHIB")  # mac, status, max_virtqueue_pairs, mtu, speed, duplex
MAX_PAIRS: Final = 16
CONTROL_FEATURES: Final = (
    NET_F_CTRL_VQ
    | NET_F_CTRL_RX
    | NET_F_CTRL_RX_EXTRA
    | NET_F_CTRL_VLAN
    | NET_F_CTRL_MAC_ADDR
    | NET_F_GUEST_ANNOUNCE
)
"""What needs the control queue."""
OFFLOAD_FEATURES: Final = NET_F_CSUM | NET_F_HOST_TSO4 | NET_F_HOST_TSO6
"""What a driver may leave to the card."""


class VirtioNet:
    """A card plugged into `backend`; a `Service`. `kick(queue)` asks for a queue to be served.

    `mac` has six bytes; `mtu` 0 is not announced. Raises ConfigError for what cannot be.
    """

    device_type = TYPE_NET

    def __init__(
        self,
        backend: NetBackend,
        *,
        mac: bytes,
        pairs: int = 1,
        mtu: int = 0,
        mergeable: bool = True,
        offloads: bool = True,
        ring_features: int = F_RING_INDIRECT_DESC | F_RING_EVENT_IDX,
    ) -> None:
        check_mac(mac)
        if not 1 <= pairs <= MAX_PAIRS:
            raise ConfigError(f"{pairs} queue pairs: 1 to {MAX_PAIRS} are possible")
        self.backend, self.pairs, self._mac, self._mtu = backend, pairs, mac, mtu
        self.queues = 2 * pairs + 1
        self.features = ring_features | NET_F_MAC | NET_F_STATUS | CONTROL_FEATURES
        self.features |= NET_F_MRG_RXBUF if mergeable else 0
        self.features |= OFFLOAD_FEATURES | backend.guest_features if offloads else 0
        self.features |= NET_F_MTU if mtu else 0
        self.features |= NET_F_MQ if pairs > 1 else 0
        self.sources = () if backend.fd is None else ((backend.fd, 0),)
        self.kick: Callable[[int], None] = _nobody
        self.config_changed: Callable[[], None] = lambda: None
        self.control = NetControl(mac, pairs, self._set_pairs)
        self.data = NetQueues(backend, pairs)
        self.data.kick, self.data.accepts = self._kick, self.control.filter.accepts
        self._accepted = 0
        self._announcing = False
        backend.on_link = lambda _up: self.config_changed()

    @property
    def costs(self) -> Costs:
        """The card's and the backend's."""
        return self.data.costs.total(self.backend.costs)

    @property
    def dropped(self) -> int:
        """Frames of the driver's that were none, and frames for it that fitted nowhere."""
        return self.data.dropped

    # ---- features and configuration ----------------------------------------------------------------

    def set_features(self, features: int) -> None:
        """See `Service`."""
        self._accepted = features
        self.control.set_features(features)
        self.data.set_features(features)
        self._announcing = False

    def _set_pairs(self, pairs: int) -> None:
        self.data.used_pairs = pairs

    def announce(self) -> None:
        """Let the driver tell the network where it is now, e.g. after a migration. Source: 5.1.6.5.4."""
        if self._accepted & NET_F_GUEST_ANNOUNCE:
            self._announcing, self.control.announced = True, False
            self.config_changed()

    def config(self, offset: int, length: int) -> bytes:
        """See `Service`."""
        status = NET_S_LINK_UP if self.backend.link_up else 0
        if self._announcing and not self.control.announced:
            status |= NET_S_ANNOUNCE
        data = CONFIG.pack(self._mac, status, self.pairs, self._mtu, 0xFFFF_FFFF, 0xFF)
        return data[offset : offset + length]

    def write_config(self, offset: int, data: bytes) -> None:
        """Nothing can be written by a driver of the modern interface."""

    # ---- queues ------------------------------------------------------------------------------------

    def drain(self, index: int, queue: SplitQueue) -> Drain:
        """See `Service`."""
        control = 2 * self.pairs if self._accepted & NET_F_MQ else 2
        if index == control and self._accepted & NET_F_CTRL_VQ:
            return each_chain(queue, self.control.answer)
        if index >= 2 * self.pairs:
            return lambda _limit: 0
        return self.data.drain(index, queue)

    def _kick(self, queue: int) -> bool:
        self.kick(queue)
        return True


def _nobody(_queue: int) -> None:
    """No queue is served."""
