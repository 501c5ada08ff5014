"""vhost-user-net: the data queues of a network card for each front-end, plugged into a backend of its own.

The control queue, the address and the filters are the front-end's.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from emu.bus.costs import Costs
from emu.dataplanes.vhost_user.messages import (
    PROTOCOL_F_CONFIG,
    PROTOCOL_F_INFLIGHT_SHMFD,
    PROTOCOL_F_MTU,
    PROTOCOL_F_RARP,
    Request,
)
from emu.devices.net.types import MAX_FRAME, MIN_FRAME, NetBackend
from emu.devices.virtio.net import MAX_PAIRS, OFFLOAD_FEATURES
from emu.devices.virtio.net_queues import NetQueues, Turn
from emu.devices.virtio.spec import (
    F_RING_EVENT_IDX,
    F_RING_INDIRECT_DESC,
    NET_F_GUEST_ANNOUNCE,
    NET_F_MQ,
    NET_F_MRG_RXBUF,
    NET_F_MTU,
    TYPE_NET,
)
from emu.devices.virtio.split_queue import SplitQueue
from emu.devices.virtio.types import Drain
from emu.errors import ConfigError
from emu.serve.types import OpenDevice, Request64, ServedDevice, Wake

TURN: Final = Turn(frames=64, bytes=1 << 17)
LEAST_MTU: Final = 68
"""RFC 791: what every network carries."""
RARP_HEAD: Final = bytes.fromhex("8035 0001 0800 06 04 0003")
"""EtherType, then a reverse request of Ethernet and IPv4. Source: RFC 903."""
SHORTEST_ON_WIRE: Final = 60


class ServedNet:
    """One front-end's card on `backend`, which is closed with it; then `closed` is called."""

    device_type = TYPE_NET
    sources: tuple[tuple[int, int], ...] = ()
    unused_protocol_features = PROTOCOL_F_CONFIG | PROTOCOL_F_INFLIGHT_SHMFD
    """Its configuration is the front-end's; a frame that was taken by a back-end which dies is lost, as on
    any wire."""

    def __init__(
        self, backend: NetBackend, pairs: int, wake: Wake, closed: Callable[["ServedNet"], None]
    ) -> None:
        self._closed = closed
        self.data = NetQueues(backend, pairs, TURN)
        self.data.kick = wake
        self._backend, self._pairs = backend, pairs
        self.queues = 2 * pairs
        self.features = F_RING_INDIRECT_DESC | F_RING_EVENT_IDX | NET_F_MRG_RXBUF | NET_F_MTU
        self.features |= OFFLOAD_FEATURES | NET_F_GUEST_ANNOUNCE | backend.guest_features
        self.features |= NET_F_MQ if pairs > 1 else 0
        self.own_requests: Mapping[int, Request64] = MappingProxyType(
            {
                Request.SEND_RARP: Request64(PROTOCOL_F_RARP, self._send_rarp),
                Request.NET_SET_MTU: Request64(PROTOCOL_F_MTU, self._set_mtu),
            }
        )

    @property
    def costs(self) -> Costs:
        """The queues' and the backend's."""
        return self.data.costs.total(self._backend.costs)

    def set_features(self, features: int) -> None:
        """See `Service`."""
        self.data.set_features(features)
        self.data.used_pairs = self._pairs  # which of them run is what `wake` answers

    def config(self, _offset: int, _length: int) -> bytes:
        """There is none here."""
        return b""

    def write_config(self, _offset: int, _data: bytes) -> None:
        """There is none here."""

    def drain(self, index: int, queue: SplitQueue) -> Drain:
        """See `Service`."""
        return self.data.drain(index, queue)

    def close(self) -> None:
        """See `ServedDevice`."""
        self._backend.close()
        self._closed(self)

    def _send_rarp(self, value: int) -> bool:
        """The guest has come here from another machine: tell the network where its address is now."""
        mac = value.to_bytes(8, "little")[:6]
        if mac[0] & 1:
            return False
        frame = b"\xff" * 6 + mac + RARP_HEAD + (mac + bytes(4)) * 2
        self._backend.send([memoryview(frame.ljust(SHORTEST_ON_WIRE, b"\0"))])
        return True

    def _set_mtu(self, mtu: int) -> bool:
        return LEAST_MTU <= mtu <= MAX_FRAME - MIN_FRAME


class Cards:
    """Makes the front-ends' cards, of `pairs` queue pairs each, and knows what they have cost.

    Raises ConfigError for a number of pairs that cannot be.
    """

    def __init__(self, pairs: int) -> None:
        if not 1 <= pairs <= MAX_PAIRS:
            raise ConfigError(f"{pairs} queue pairs: 1 to {MAX_PAIRS} are possible")
        self._pairs = pairs
        self._open: list[ServedNet] = []
        self._gone = Costs()

    def plugged_into(self, plug: Callable[[], NetBackend]) -> OpenDevice:
        """What makes a card for a front-end that comes; `plug` returns the far end of its cable."""

        def open_device(wake: Wake) -> ServedDevice:
            card = ServedNet(plug(), self._pairs, wake, self._closed)
            self._open.append(card)
            return card

        return open_device

    def _closed(self, card: ServedNet) -> None:
        if card in self._open:
            self._open.remove(card)
            self._gone = self._gone.total(card.costs)

    def costs(self) -> Costs:
        """Of all cards so far."""
        total = self._gone
        for card in self._open:
            total = total.total(card.costs)
        return total
