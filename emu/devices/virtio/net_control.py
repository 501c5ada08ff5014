"""The control queue of a network card, and which frames its settings let through.

Source: VIRTIO 1.2, 5.1.6.5. A command that is malformed or not negotiated is answered with VIRTIO_NET_ERR.
"""

import struct
from collections.abc import Callable
from typing import Final

from emu.devices.net.types import MIN_FRAME
from emu.devices.virtio.spec import (
    NET_F_CTRL_GUEST_OFFLOADS,
    NET_F_CTRL_MAC_ADDR,
    NET_F_CTRL_RX,
    NET_F_CTRL_RX_EXTRA,
    NET_F_CTRL_VLAN,
    NET_F_GUEST_ANNOUNCE,
    NET_F_MQ,
)
from emu.devices.virtio.split_queue import Chain
from emu.errors import ConfigError

OK, ERR = 0, 1
RX, MAC, VLAN, ANNOUNCE, MQ, GUEST_OFFLOADS = range(6)
PROMISC, ALLMULTI, ALLUNI, NOMULTI, NOUNI, NOBCAST = range(6)
MAC_TABLE_SET, MAC_ADDR_SET = 0, 1
VLAN_ADD, VLAN_DEL = 0, 1
MOST_COMMAND: Final = 1 << 16
MOST_ADDRESSES: Final = 64
"""Beyond that many addresses the card stops filtering of that kind."""
MAC_BYTES: Final = 6
BROADCAST: Final = b"\xff" * 6
TAG: Final = b"\x81\x00"
COUNT: Final = struct.Struct("<I")


class RxFilter:
    """Which frames reach the driver. After a reset all do, until the driver says what it wants."""

    def __init__(self, mac: bytes) -> None:
        self._own = mac
        self.reset()

    def reset(self) -> None:
        """As after power-on."""
        self.mac = self._own
        self.modes = [True, False, False, False, False, False]
        self.unicast: frozenset[bytes] | None = frozenset()
        self.multicast: frozenset[bytes] | None = frozenset()
        self.vlans: set[int] | None = None

    def accepts(self, frame: bytes | bytearray | memoryview) -> bool:
        """True where the driver wants this frame."""
        modes = self.modes
        if modes[PROMISC]:
            return True
        vlan = (
            (frame[14] << 8 | frame[15]) & 0xFFF if frame[12:14] == TAG and len(frame) > MIN_FRAME + 1 else 0
        )
        if self.vlans is not None and vlan and vlan not in self.vlans:
            return False
        to = bytes(frame[:MAC_BYTES])
        if to == BROADCAST:
            return not modes[NOBCAST]
        if to[0] & 1:
            return not modes[NOMULTI] and (modes[ALLMULTI] or self._lists(self.multicast, to))
        return not modes[NOUNI] and (modes[ALLUNI] or to == self.mac or self._lists(self.unicast, to))

    @staticmethod
    def _lists(table: frozenset[bytes] | None, address: bytes) -> bool:
        return table is None or address in table


class NetControl:
    """Executes commands; `filter` is what they set. `set_pairs(n)` is told how many queue pairs to use."""

    def __init__(self, mac: bytes, pairs: int, set_pairs: Callable[[int], None]) -> None:
        self.filter = RxFilter(mac)
        self._pairs, self._set_pairs = pairs, set_pairs
        self.features = 0
        self.announced = False
        """The driver has answered the wish for an announcement."""
        self._commands: dict[int, tuple[int, Callable[[int, bytes], bool]]] = {
            RX: (NET_F_CTRL_RX, self._rx),
            MAC: (0, self._mac),
            VLAN: (NET_F_CTRL_VLAN, self._vlan),
            ANNOUNCE: (NET_F_GUEST_ANNOUNCE, self._announce),
            MQ: (NET_F_MQ, self._mq),
            GUEST_OFFLOADS: (NET_F_CTRL_GUEST_OFFLOADS, self._guest_offloads),
        }

    def set_features(self, features: int) -> None:
        """What the driver accepted; everything begins anew."""
        self.features = features
        self.filter.reset()
        self.announced = False
        if features & NET_F_CTRL_VLAN:
            self.filter.vlans = set()

    def answer(self, chain: Chain) -> int:
        """Execute one command and store its status, where there is room. Returns the bytes written."""
        command = chain.read(MOST_COMMAND)
        done = len(command) >= 2 and self._execute(command[0], command[1], command[2:])
        return chain.write(bytes((OK if done else ERR,)))

    def _execute(self, kind: int, command: int, data: bytes) -> bool:
        needed, run = self._commands.get(kind, (0, _unknown))
        return self.features & needed == needed and run(command, data)

    def _rx(self, command: int, data: bytes) -> bool:
        extra = command >= ALLUNI and not self.features & NET_F_CTRL_RX_EXTRA
        if command > NOBCAST or extra or len(data) != 1:
            return False
        self.filter.modes[command] = bool(data[0])
        return True

    def _mac(self, command: int, data: bytes) -> bool:
        if command == MAC_ADDR_SET:
            if len(data) != MAC_BYTES or not self.features & NET_F_CTRL_MAC_ADDR:
                return False
            self.filter.mac = data
            return True
        if command != MAC_TABLE_SET or not self.features & NET_F_CTRL_RX:
            return False
        tables = []
        for _ in range(2):
            if len(data) < COUNT.size:
                return False
            (count,) = COUNT.unpack_from(data)
            end = COUNT.size + count * MAC_BYTES
            if end > len(data):
                return False
            listed = data[COUNT.size : end]
            pieces = [listed[i : i + MAC_BYTES] for i in range(0, len(listed), MAC_BYTES)]
            tables.append(None if count > MOST_ADDRESSES else frozenset(pieces))
            data = data[end:]
        if data:
            return False
        self.filter.unicast, self.filter.multicast = tables
        return True

    def _vlan(self, command: int, data: bytes) -> bool:
        vlans = self.filter.vlans
        if len(data) != 2 or vlans is None or command not in (VLAN_ADD, VLAN_DEL):
            return False
        number = int.from_bytes(data, "little")
        if number > 0xFFF:
            return False
        if command == VLAN_ADD:
            vlans.add(number)
        else:
            vlans.discard(number)
        return True

    def _announce(self, command: int, data: bytes) -> bool:
        if command or data:
            return False
        self.announced = True
        return True

    def _mq(self, command: int, data: bytes) -> bool:
        pairs = int.from_bytes(data, "little")
        if command or len(data) != 2 or not 1 <= pairs <= self._pairs:
            return False
        self._set_pairs(pairs)
        return True

    def _guest_offloads(self, command: int, data: bytes) -> bool:
        """Frames reach the driver finished, so there is nothing to switch off."""
        return command == 0 and len(data) == 8 and not int.from_bytes(data, "little") & ~self.features


def check_mac(mac: bytes) -> None:
    """Raises ConfigError for what is no card's own address."""
    if len(mac) != MAC_BYTES or mac[0] & 1:
        raise ConfigError(f"mac={mac.hex(':')}: six bytes, the first one even, are an address")


def _unknown(_command: int, _data: bytes) -> bool:
    return False
