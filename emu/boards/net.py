"""Network cards on the board, and what each is plugged into: `-device e1000|virtio-net-pci`, `-netdev`."""

from collections.abc import Callable, Mapping
from typing import Final

from emu.boards.vhost_user import vhost_user_plane
from emu.boards.virtio import is_on, plane_here, put_on_pci, ring_features, slot_of
from emu.bus.option_rom import OptionRom
from emu.bus.pci import PciBus
from emu.bus.types import MsiTarget
from emu.config import DeviceConfig, MachineConfig, NetdevConfig
from emu.dataplanes.inline import Inline
from emu.dataplanes.local import LocalPlane
from emu.dataplanes.split_control import WithControl
from emu.dataplanes.types import DataPlane
from emu.dataplanes.vhost_user.frontend import Kind
from emu.devices.host_bridge import INTEL
from emu.devices.net.dump import MAX_LENGTH, Dumped, PcapFile
from emu.devices.net.echo import EchoPort
from emu.devices.net.link import Address, Connecting, Listening, StreamLink, connected
from emu.devices.net.stream import PATIENCE_MS, StreamPeer
from emu.devices.net.types import NetBackend
from emu.devices.virtio import spec
from emu.devices.virtio.device import VirtioDevice
from emu.devices.virtio.net import CONTROL_FEATURES, VirtioNet
from emu.devices.virtio.net_control_only import NetControlOnly
from emu.errors import ConfigError
from emu.machine import Machine

CLASS_ETHERNET: Final = 0x02_0000
FIRST_MAC: Final = bytes.fromhex("525400123456")
"""Of the first card without mac=; the next ones count on. QEMU's."""
DATA_FEATURES: Final = (
    spec.NET_F_CSUM
    | spec.NET_F_GUEST_CSUM
    | spec.NET_F_GUEST_TSO4
    | spec.NET_F_GUEST_TSO6
    | spec.NET_F_GUEST_ECN
    | spec.NET_F_GUEST_UFO
    | spec.NET_F_HOST_TSO4
    | spec.NET_F_HOST_TSO6
    | spec.NET_F_HOST_ECN
    | spec.NET_F_HOST_UFO
    | spec.NET_F_MRG_RXBUF
    | spec.NET_F_MQ
)
"""What another process may offer for the data queues."""


class Nets:
    """Builds the cards that `config` lists; `boots`: firmware may boot from them. Raises ConfigError."""

    def __init__(
        self, machine: Machine, pci: PciBus, msi: MsiTarget, config: MachineConfig, *, boots: bool = False
    ) -> None:
        self._machine, self._pci, self._msi, self._config, self._boots = machine, pci, msi, config, boots
        self._netdevs = {each.id: each for each in config.netdevs}
        self.devices: list[VirtioDevice] = []
        self.cards = 0
        adders: Mapping[str, Callable[[DeviceConfig, NetdevConfig], None]] = {
            "e1000": self._add_e1000,
            "virtio-net-pci": self._add_virtio,
        }
        for device in config.devices:
            if device.driver in adders:
                adders[device.driver](device, self._netdevs[device.properties["netdev"]])
                self.cards += 1

    def _mac(self, device: DeviceConfig) -> bytes:
        if "mac" in device.properties:
            return bytes(int(piece, 16) for piece in device.properties["mac"].split(":"))
        return FIRST_MAC[:5] + bytes((FIRST_MAC[5] + self.cards & 0xFF,))

    def _open(self, netdev: NetdevConfig) -> NetBackend:
        """The far end of a cable; closed with the machine."""
        backend = open_netdev(netdev)
        self._machine.on_close.append(backend.close)
        for made in self._config.objects:
            if made.kind == "filter-dump" and made.properties["netdev"] == netdev.id:
                length = int(made.properties.get("maxlen", str(MAX_LENGTH)), 0)
                file = PcapFile(f"-object filter-dump,id={made.id}", made.properties["file"], length)
                self._machine.on_close.append(file.close)
                self._machine.ledger.add_costs(file.costs)
                backend = Dumped(backend, file)
        return backend

    def _rom(self, device: DeviceConfig, default: str, identity: tuple[int, int]) -> OptionRom | None:
        if not self._boots and not device.properties.get("romfile"):
            return None
        from emu.boards.option_roms import rom_of  # noqa: PLC0415 - most machines have none

        return rom_of(device.driver, device.properties, default, identity, boots=self._boots)

    # ---- e1000 -------------------------------------------------------------------------------------

    def _add_e1000(self, device: DeviceConfig, netdev: NetdevConfig) -> None:
        from emu.devices.e1000 import DEVICE_ID, E1000  # noqa: PLC0415 - most machines have none

        if netdev.kind == "vhost-user" or is_on(netdev.properties, "vhost", default=False):
            raise ConfigError(
                f"-device e1000: netdev {netdev.id} serves virtio queues; use -device virtio-net-pci"
            )
        machine, backend = self._machine, self._open(netdev)
        name = device.properties.get("id", f"e1000-{self.cards}" if self.cards else "e1000")
        card = E1000(machine.memory, machine.clock, backend, self._mac(device), machine.post, name)
        if (rom := self._rom(device, "pxe-e1000.rom", (INTEL, DEVICE_ID))) is not None:
            card.function.add_rom(rom)
        self._pci.add(card.function, slot_of(self._pci, name, device.properties.get("addr")))
        machine.ledger.add_costs(card.costs)
        machine.ledger.add_costs_of(lambda: backend.costs)
        if backend.fd is not None:
            machine.listener.watch(backend.fd, card.frames_wait)
            fd = backend.fd
            machine.on_close.insert(0, lambda: machine.listener.unwatch(fd))

    # ---- virtio-net --------------------------------------------------------------------------------

    def _add_virtio(self, device: DeviceConfig, netdev: NetdevConfig) -> None:
        properties, machine = device.properties, self._machine
        name = properties.get("id", f"virtio-net{self.cards}")
        mac, mtu = self._mac(device), int(properties.get("host_mtu", "0"), 0)
        size = int(properties.get("rx_queue_size", "256"), 0)
        service: VirtioNet | None
        plane: DataPlane
        if netdev.kind == "vhost-user":
            service, plane = None, self._elsewhere(netdev, mac, mtu, size)
        else:
            pairs = int(netdev.properties.get("queues", "1"), 0)
            backend = self._open(netdev)
            service = VirtioNet(
                backend,
                mac=mac,
                pairs=pairs,
                mtu=mtu,
                mergeable=is_on(properties, "mrg_rxbuf", default=True),
                offloads=is_on(properties, "csum", default=True),
                ring_features=ring_features(properties),
            )
            vhost = is_on(netdev.properties, "vhost", default=False)
            plane = plane_here(machine, service, netdev.id, vhost=vhost, iothread=properties.get("iothread"))
        vectors = int(properties["vectors"], 0) if "vectors" in properties else None
        made = put_on_pci(
            machine,
            self._pci,
            self._msi,
            plane,
            name,
            properties,
            class_code=CLASS_ETHERNET,
            queue_size=size,
            vectors=vectors,
            rom=self._rom(device, "pxe-virtio.rom", (spec.PCI_VENDOR, spec.PCI_DEVICE_BASE + spec.TYPE_NET)),
        )
        self.devices.append(made)
        if service is not None:
            service.kick = lambda queue: made.kicks[queue].signal()
            service.config_changed = lambda: machine.post(made.config_changed)

    def _elsewhere(self, netdev: NetdevConfig, mac: bytes, mtu: int, size: int) -> DataPlane:
        """Data queues in another process, the control queue here."""
        machine, pairs = self._machine, int(netdev.properties.get("queues", "1"), 0)
        features = DATA_FEATURES if pairs > 1 else DATA_FEATURES & ~spec.NET_F_MQ
        plane = vhost_user_plane(
            machine,
            self._config,
            netdev.properties["chardev"],
            Kind(spec.TYPE_NET, features, mtu=mtu),
            2 * pairs,
            size,
            "-netdev vhost-user",
            netdev.properties.get("counters"),
        )
        control = NetControlOnly(mac, pairs, mtu)
        inline = LocalPlane(control, Inline(machine.post))
        return WithControl(plane, inline, CONTROL_FEATURES | control.features, machine.listener, machine.post)


def open_netdev(netdev: NetdevConfig) -> NetBackend:
    """What a `-netdev` names. Raises ConfigError."""
    properties, where = netdev.properties, f"-netdev {netdev.kind},id={netdev.id}"
    if netdev.kind == "echo":
        return EchoPort()
    if netdev.kind == "user":
        from emu.devices.net.passt import Passt  # noqa: PLC0415 - it starts a process

        return Passt(where, forwards=netdev.forwards, patience_ms=PATIENCE_MS)
    if netdev.kind == "tap":
        from emu.devices.net.tap import Tap  # noqa: PLC0415 - as above

        return Tap(properties["ifname"], where)
    address = stream_address(netdev)
    if "listen" in properties or is_on(properties, "server", default=False):
        return StreamLink(Listening(address, where), netdev.id)
    if seconds := int(properties.get("reconnect", "0"), 0):
        return StreamLink(Connecting(address, seconds, where), netdev.id)
    return StreamPeer(connected(address, where), netdev.id, patience_ms=PATIENCE_MS)


def stream_address(netdev: NetdevConfig) -> Address:
    """Where a `-netdev stream` or `socket` listens or connects; without a host at all addresses."""
    properties = netdev.properties
    if "addr.path" in properties:
        return properties["addr.path"]
    text = properties.get("listen", properties.get("connect", ""))
    host, _, port = text.rpartition(":") if text else (properties["addr.host"], "", properties["addr.port"])
    return host or "0.0.0.0", int(port, 0)
