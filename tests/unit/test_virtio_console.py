"""virtio-console: ports are announced, opened, and carry bytes both ways; a slow host loses none."""

import struct

import pytest

from emu.bus.memory import GuestMemory
from emu.devices.virtio.char_port import CharPort
from emu.devices.virtio.console import ENOUGH, MAX_CONTROL, Port, VirtioConsole
from emu.devices.virtio.spec import (
    CONSOLE_CONSOLE_PORT,
    CONSOLE_DEVICE_ADD,
    CONSOLE_DEVICE_READY,
    CONSOLE_F_MULTIPORT,
    CONSOLE_PORT_NAME,
    CONSOLE_PORT_OPEN,
    CONSOLE_PORT_READY,
)
from emu.errors import ConfigError, DriverError
from emu.testing.driver_queue import DriverQueue


class Host:
    """Takes as many bytes as it has room for."""

    def __init__(self, room: int = 1 << 20) -> None:
        self.room, self.seen = room, b""

    def send(self, data: memoryview) -> int:
        taken = min(self.room, len(data))
        self.room -= taken
        self.seen += data[:taken]
        return taken


class Rig:
    """A console of two ports (hvc at 0, a stream at 1) and its driver's rings."""

    def __init__(self, *, multiport: bool = True) -> None:
        self.hosts = [Host(), Host()]
        self.ports = [Port(0, is_console=True, host_open=True), Port(1, "org.example")]
        for port, host in zip(self.ports, self.hosts, strict=True):
            port.send = host.send
        self.console = VirtioConsole(self.ports)
        self.console.set_features(CONSOLE_F_MULTIPORT if multiport else 0)
        self.memory = GuestMemory(2 << 20)
        self.rings = [
            DriverQueue(size=16, memory=self.memory, rings_at=0x10000 + i * 0x40000, slot_bytes=12288)
            for i in range(6)
        ]
        self.drains = [self.console.drain(i, ring.device_side()) for i, ring in enumerate(self.rings)]
        self.console.kick = self.serve

    def serve(self, queue: int) -> int:
        return self.drains[queue](16)

    def control(self, port: int, event: int, value: int) -> None:
        self.rings[3].add(struct.pack("<IHH", port, event, value))
        self.serve(3)
        self.rings[3].used()

    def told(self) -> list[tuple[int, int, int, bytes]]:
        """What the device said on the control queue."""
        heads = [self.rings[2].add(64) for _ in range(8)]
        self.serve(2)
        found = []
        for head, length in self.rings[2].used():
            data = self.rings[2].written(head)[:length]
            found.append((*struct.unpack("<IHH", data[:8]), data[8:]))
        assert len(found) < len(heads)
        self.rings[2] = DriverQueue(size=16, memory=self.memory, rings_at=0x90000, slot_bytes=12288)
        self.rings[2].memory.view(0x90000, 0x1000)[:] = bytes(0x1000)
        self.drains[2] = self.console.drain(2, self.rings[2].device_side())
        return found

    def received(self, queue: int) -> list[bytes]:
        ring = self.rings[queue]
        return [ring.written(head)[:length] for head, length in ring.used()]


def test_ports_are_announced_and_named_when_the_driver_is_ready() -> None:
    rig = Rig()
    rig.control(0xFFFF_FFFF, CONSOLE_DEVICE_READY, 1)
    assert rig.told() == [(0, CONSOLE_DEVICE_ADD, 1, b""), (1, CONSOLE_DEVICE_ADD, 1, b"")]
    rig.control(0, CONSOLE_PORT_READY, 1)
    rig.control(1, CONSOLE_PORT_READY, 1)
    assert rig.told() == [
        (0, CONSOLE_CONSOLE_PORT, 1, b""),
        (0, CONSOLE_PORT_OPEN, 1, b""),
        (1, CONSOLE_PORT_NAME, 1, b"org.example"),
    ]


def test_the_guest_hears_when_the_host_connects_and_leaves() -> None:
    rig = Rig()
    rig.console.set_host_open(rig.ports[1], True)
    assert rig.told() == []  # the driver is not there yet
    rig.control(0, CONSOLE_DEVICE_READY, 1)
    rig.told()
    rig.console.set_host_open(rig.ports[1], False)
    rig.console.set_host_open(rig.ports[1], True)
    assert [message[:3] for message in rig.told()] == [(1, CONSOLE_PORT_OPEN, 0), (1, CONSOLE_PORT_OPEN, 1)]


def test_bytes_for_the_guest_wait_until_it_opens_the_port_and_has_buffers() -> None:
    rig = Rig()
    assert rig.console.room(rig.ports[1]) == 0
    rig.console.receive(rig.ports[1], b"hello")
    rig.rings[4].add(3)
    assert rig.serve(4) == 0
    rig.control(1, CONSOLE_PORT_OPEN, 1)
    assert rig.received(4) == [b"hel"]
    assert rig.console.room(rig.ports[1]) == ENOUGH - 2
    rig.rings[4].add(1, 8)
    rig.serve(4)
    assert rig.received(4) == [b"lo"]
    rig.control(1, CONSOLE_PORT_OPEN, 0)
    assert rig.console.room(rig.ports[1]) == 0


def test_bytes_of_the_guest_go_to_their_port() -> None:
    rig = Rig()
    rig.rings[1].add(b"on the ", b"terminal")
    rig.rings[5].add(b"lost: nobody is connected")
    assert (rig.serve(1), rig.serve(5)) == (1, 1)
    rig.console.set_host_open(rig.ports[1], True)
    rig.rings[5].add(b"stream")
    rig.serve(5)
    assert [host.seen for host in rig.hosts] == [b"on the terminal", b"stream"]


def test_a_slow_host_gets_every_byte_once_and_the_chain_stays_in_the_ring() -> None:
    rig = Rig()
    rig.hosts[0].room = 4
    head = rig.rings[1].add(b"abc", b"defgh", b"ij")
    assert rig.serve(1) == 0
    assert rig.rings[1].used() == []
    rig.hosts[0].room = 5
    rig.console.resume(rig.ports[0])
    rig.hosts[0].room = 99
    rig.console.resume(rig.ports[0])
    assert rig.rings[1].used() == [(head, 0)]
    assert rig.hosts[0].seen == b"abcdefghij"


def test_without_multiport_there_is_port_0_always_open() -> None:
    rig = Rig(multiport=False)
    rig.rings[0].add(8)
    rig.console.receive(rig.ports[0], b"x")
    assert rig.received(0) == [b"x"]
    rig.rings[1].add(b"y")
    rig.serve(1)
    assert rig.hosts[0].seen == b"y"
    assert VirtioConsole(max_ports=1).queues == 2


def test_a_queue_without_a_port_swallows_what_it_gets() -> None:
    console = VirtioConsole()
    console.set_features(CONSOLE_F_MULTIPORT)
    driver = DriverQueue()
    head = driver.add(b"x")
    assert console.drain(9, driver.device_side())(8) == 1
    assert driver.used() == [(head, 0)]
    assert console.drain(8, DriverQueue().device_side())(8) == 0


def test_a_buffer_to_receive_into_must_be_writable() -> None:
    rig = Rig(multiport=False)
    rig.rings[0].add(b"x")
    with pytest.raises(DriverError, match="port 0: a buffer to receive into without room"):
        rig.console.receive(rig.ports[0], b"y")


def test_nonsense_on_the_control_queue_is_ignored_and_answers_are_bounded() -> None:
    rig = Rig()
    rig.rings[3].add(b"short")
    assert rig.serve(3) == 1
    rig.control(77, CONSOLE_PORT_READY, 1)
    rig.control(1, 99, 1)
    for _ in range(MAX_CONTROL):
        rig.control(0, CONSOLE_DEVICE_READY, 1)
    assert len(rig.console._control) == MAX_CONTROL


def test_an_emergency_character_needs_no_queue() -> None:
    rig = Rig()
    rig.console.write_config(8, b"!\0\0\0")
    rig.console.write_config(4, b"?\0\0\0")
    assert rig.hosts[0].seen == b"!"
    assert struct.unpack("<HHII", rig.console.config(0, 12)) == (0, 0, 31, 0)


def test_a_reset_closes_the_ports() -> None:
    rig = Rig()
    rig.control(1, CONSOLE_PORT_OPEN, 1)
    rig.hosts[0].room = 1
    rig.rings[1].add(b"ab")
    rig.serve(1)
    rig.console.reset()
    assert (rig.ports[1].guest_open, rig.ports[0].sent) == (False, 0)


@pytest.mark.parametrize("numbers", [(0, 0), (31,), (-1,)])
def test_ports_that_cannot_be_are_the_users_error(numbers: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="nr="):
        VirtioConsole([Port(number) for number in numbers])


def test_the_hosts_end_counts_what_is_on_its_way() -> None:
    rig, posted = Rig(multiport=False), []
    end = CharPort(rig.console, rig.ports[0], posted.append)
    rooms: list[int] = []
    end.on_room = lambda: rooms.append(end.room())
    end.input(b"abc")
    end.input(b"de")
    assert end.room() == ENOUGH - 5
    rig.rings[0].add(16)
    rig.rings[0].add(16)
    while posted:
        posted.pop(0)()
    assert rig.received(0) == [b"abc", b"de"]
    assert rooms[-1] == ENOUGH
    end.opened(False)
    assert posted == []  # a terminal of the guest's is always connected
