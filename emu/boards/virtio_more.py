"""Entropy, consoles and the balloon on the board; all served on the vCPU thread."""

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from emu.boards.virtio import is_on, put_on_pci, ring_features
from emu.bus.pci import PciBus
from emu.bus.types import MsiTarget
from emu.config import DeviceConfig, MachineConfig, ObjectConfig
from emu.dataplanes.inline import inline_plane
from emu.devices.virtio.balloon import VirtioBalloon
from emu.devices.virtio.char_port import CharPort
from emu.devices.virtio.console import MAX_PORTS, Port, VirtioConsole
from emu.devices.virtio.device import VirtioDevice
from emu.devices.virtio.rng import UNLIMITED, RandomFile, Source, VirtioRng, host_random
from emu.devices.virtio.types import Service
from emu.errors import ConfigError
from emu.machine import Machine

CLASS_SERIAL: Final = 0x07_8000
CLASS_OTHER: Final = 0x00_FF00
RNG_QUEUE, BALLOON_QUEUE, CONSOLE_QUEUE = 8, 128, 128
PORTS: Final = ("virtconsole", "virtserialport")
BUS: Final = "virtio-serial-bus.0"
"""The bus of a virtio-serial-pci without id; with one it is `ID.0`. QEMU's names."""


class Kicked(Service, Protocol):
    """A service that asks for its queues to be served when the host has something for them."""

    kick: Callable[[int], None]


class VirtioMore:
    """Builds what `config` lists; `balloons` and `consoles` by name. Raises ConfigError."""

    def __init__(self, machine: Machine, pci: PciBus, msi: MsiTarget, config: MachineConfig) -> None:
        self._machine, self._pci, self._msi, self._config = machine, pci, msi, config
        self.balloons: dict[str, VirtioBalloon] = {}
        self.consoles: dict[str, VirtioConsole] = {}
        self.devices: list[VirtioDevice] = []
        self._ports = _ports_by_bus(config)
        adders: Mapping[str, Callable[[DeviceConfig], None]] = {
            "virtio-rng-pci": self._add_rng,
            "virtio-serial-pci": self._add_console,
            "virtio-balloon-pci": self._add_balloon,
        }
        for device in config.devices:
            if device.driver in adders:
                adders[device.driver](device)

    def _name(self, device: DeviceConfig) -> str:
        kind = device.driver.removesuffix("-pci")
        same = sum(made.name.startswith(kind) for made in self.devices)
        return device.properties.get("id", f"{kind}{same}")

    def _put(
        self,
        service: Kicked,
        device: DeviceConfig,
        class_code: int,
        queue_size: int,
        vectors: int | None = None,
    ) -> VirtioDevice:
        made = put_on_pci(
            self._machine,
            self._pci,
            self._msi,
            inline_plane(service, self._machine.post),
            self._name(device),
            device.properties,
            class_code=class_code,
            queue_size=queue_size,
            vectors=vectors,
        )
        self.devices.append(made)
        post, kicks = self._machine.post, made.kicks

        def kick(queue: int) -> None:
            post(lambda: kicks[queue].signal() if made.running else None)

        service.kick = kick
        return made

    def _add_rng(self, device: DeviceConfig) -> None:
        properties = device.properties
        service = VirtioRng(
            self._source(properties.get("rng")),
            self._machine.clock,
            max_bytes=int(properties.get("max-bytes", str(UNLIMITED)), 0),
            period_ms=int(properties.get("period", "65536"), 0),
            ring_features=ring_features(properties),
        )
        self._put(service, device, CLASS_OTHER, RNG_QUEUE)

    def _source(self, name: str | None) -> Source:
        made = next((each for each in self._config.objects if each.id == name), None)
        if made is None or made.kind == "rng-builtin":
            return host_random
        return self._random_file(made)

    def _random_file(self, made: ObjectConfig) -> Source:
        source = RandomFile(made.properties.get("filename", "/dev/urandom"))
        self._machine.on_close.append(source.close)
        return source

    def _add_balloon(self, device: DeviceConfig) -> None:
        properties = device.properties
        service = VirtioBalloon(
            self._machine.memory,
            deflate_on_oom=is_on(properties, "deflate-on-oom", default=False),
            reporting=is_on(properties, "free-page-reporting", default=False),
            ring_features=ring_features(properties),
        )
        made = self._put(service, device, CLASS_OTHER, BALLOON_QUEUE)
        service.config_changed = made.config_changed
        made.on_reset = service.reset
        self.balloons[made.name] = service

    def _add_console(self, device: DeviceConfig) -> None:
        properties = device.properties
        bus = f"{properties['id']}.0" if "id" in properties else BUS
        listed = self._ports.pop(bus, [])
        max_ports = int(properties.get("max_ports", str(MAX_PORTS)), 0)
        ports = _numbered(listed, max_ports)
        try:
            service = VirtioConsole(
                ports,
                max_ports=max_ports,
                emergency_write=is_on(properties, "emergency-write", default=True),
                ring_features=ring_features(properties),
            )
        except ConfigError as error:
            raise ConfigError(f"-device {device.driver}: {error}") from None
        made = self._put(service, device, CLASS_SERIAL, CONSOLE_QUEUE, max_ports + 1)
        made.on_reset = service.reset
        self.consoles[made.name] = service
        for each, port in zip(listed, ports, strict=True):
            end = CharPort(service, port, self._machine.post)
            if "chardev" in each.properties:
                self._machine.char_ports[each.properties["chardev"]] = end


def _ports_by_bus(config: MachineConfig) -> dict[str, list[DeviceConfig]]:
    """The ports that hang on each virtio-serial-pci, without `bus` on the first one before them."""
    found: dict[str, list[DeviceConfig]] = {}
    for device in config.devices:
        if device.driver == "virtio-serial-pci":
            name = device.properties.get("id")
            bus = BUS if name is None else f"{name}.0"
            if bus in found:
                raise ConfigError(f"-device virtio-serial-pci: a second one needs id= (bus {bus} is there)")
            found[bus] = []
        elif device.driver in PORTS:
            bus = device.properties.get("bus", next(iter(found), BUS))
            if bus not in found:
                there = ", ".join(found) or "none"
                raise ConfigError(
                    f"-device {device.driver}: no bus {bus}; give -device virtio-serial-pci before it"
                    f" (there is {there})"
                )
            found[bus].append(device)
    return found


def _numbered(listed: list[DeviceConfig], max_ports: int) -> list[Port]:
    """Each port its number: `nr`, else the lowest free one; 0 is for a virtconsole."""
    ports: list[Port] = []
    taken = {int(each.properties["nr"], 0) for each in listed if "nr" in each.properties}
    for each in listed:
        is_console = each.driver == "virtconsole"
        if "nr" in each.properties:
            number = int(each.properties["nr"], 0)
        else:
            number = 0 if is_console else 1
            while number in taken:
                number += 1
            taken.add(number)
        if number == 0 and not is_console:
            raise ConfigError(f"-device {each.driver}: nr=0 is for a virtconsole; try nr=1")
        if number >= max_ports:
            raise ConfigError(f"-device {each.driver}: nr={number}, but max_ports={max_ports}")
        ports.append(Port(number, each.properties.get("name", ""), is_console))
    return ports
