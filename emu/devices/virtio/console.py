"""virtio-console with many ports. Source: VIRTIO 1.2, section 5.3.

Queues: 0 and 1 are port 0's (to the guest, from it), 2 and 3 the control messages', then two for each port.
"""

import struct
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from emu.bus.costs import Costs
from emu.devices.virtio.spec import (
    CONSOLE_CONSOLE_PORT,
    CONSOLE_DEVICE_ADD,
    CONSOLE_DEVICE_READY,
    CONSOLE_F_EMERG_WRITE,
    CONSOLE_F_MULTIPORT,
    CONSOLE_PORT_NAME,
    CONSOLE_PORT_OPEN,
    CONSOLE_PORT_READY,
    F_RING_EVENT_IDX,
    F_RING_INDIRECT_DESC,
    TYPE_CONSOLE,
)
from emu.devices.virtio.split_queue import Chain, SplitQueue, each_chain
from emu.devices.virtio.types import Drain
from emu.errors import ConfigError, DriverError

CONFIG: Final = struct.Struct("<HHII")  # cols, rows, max_nr_ports, emerg_wr
EMERG_WR_AT: Final = 8
CONTROL: Final = struct.Struct("<IHH")  # port, event, value
CONTROL_IN, CONTROL_OUT = 2, 3
MAX_PORTS: Final = 31
MAX_CONTROL: Final = 16 * MAX_PORTS
"""Control messages that wait for the guest's buffers; a guest that never gives one loses the later ones."""
ENOUGH: Final = 1 << 16
"""Bytes that wait for the guest in each port, if the sender minds `room`."""

Send = Callable[[memoryview], int]
"""Give bytes to the host; returns at once, with how many were taken."""


@dataclass(slots=True)
class Port:
    """One port. `is_console` makes it a terminal of the guest's (hvc), else it is a byte stream.

    `send` is the host's end; without one the guest's bytes are dropped. `name` shows up in the guest.
    `on_room` is called when the guest has taken bytes or begins to.
    """

    number: int
    name: str = ""
    is_console: bool = False
    send: Send | None = None
    host_open: bool = False
    guest_open: bool = False
    waiting: bytearray = field(default_factory=bytearray)
    sent: int = 0
    on_room: Callable[[], None] = lambda: None


class VirtioConsole:
    """Ports between guest and host; a `Service`. Served on the vCPU thread.

    `kick(queue)` asks for a queue that waited to be served. Raises ConfigError for ports that cannot be.
    """

    device_type = TYPE_CONSOLE
    sources: tuple[tuple[int, int], ...] = ()

    def __init__(
        self,
        ports: Iterable[Port] = (),
        *,
        max_ports: int = MAX_PORTS,
        emergency_write: bool = True,
        ring_features: int = F_RING_INDIRECT_DESC | F_RING_EVENT_IDX,
    ) -> None:
        if not 1 <= max_ports <= MAX_PORTS:
            raise ConfigError(f"max_ports={max_ports}: 1 to {MAX_PORTS} are possible")
        self.ports: dict[int, Port] = {}
        for port in ports:
            if port.number in self.ports:
                raise ConfigError(f"nr={port.number}: there is such a port already")
            if not 0 <= port.number < max_ports:
                raise ConfigError(f"nr={port.number}: max_ports={max_ports} allows 0 to {max_ports - 1}")
            self.ports[port.number] = port
        self.costs = Costs()
        self._max_ports = max_ports
        self.features = ring_features
        if max_ports > 1:
            self.features |= CONSOLE_F_MULTIPORT
        if emergency_write:
            self.features |= CONSOLE_F_EMERG_WRITE
        self.queues = 2 if max_ports == 1 else 2 * (max_ports + 1)
        self.kick: Callable[[int], None] = _nobody
        self._multiport = False
        self._ready = False
        self._control: deque[bytes] = deque()

    # ---- the host's side; vCPU thread, but for `room` ----------------------------------------------

    def room(self, port: Port) -> int:
        """How many more bytes should be given; none while the guest has not opened the port. Any thread."""
        return ENOUGH - len(port.waiting) if self._listens(port) else 0

    def receive(self, port: Port, data: bytes) -> None:
        """Bytes for the guest."""
        port.waiting += data
        self.kick(_queue_in(port))

    def resume(self, port: Port) -> None:
        """The host takes bytes again after `send` took fewer than it was given."""
        self.kick(_queue_in(port) + 1)

    def set_host_open(self, port: Port, is_open: bool) -> None:
        """Somebody has connected to the port on the host, or left."""
        if is_open != port.host_open:
            port.host_open = is_open
            if self._ready:
                self._tell(port, CONSOLE_PORT_OPEN, int(is_open))

    def _listens(self, port: Port) -> bool:
        return port.guest_open or not self._multiport

    # ---- features and configuration ----------------------------------------------------------------

    def set_features(self, features: int) -> None:
        """Without MULTIPORT there is port 0 alone, always open."""
        self._multiport = bool(features & CONSOLE_F_MULTIPORT)
        if not self._multiport:
            for port in self.ports.values():
                port.on_room()

    def config(self, offset: int, length: int) -> bytes:
        """See `Service`. The size in characters is not offered."""
        return CONFIG.pack(0, 0, self._max_ports, 0)[offset : offset + length]

    def write_config(self, offset: int, data: bytes) -> None:
        """A character written to `emerg_wr` goes out on port 0, before any queue is there. Source: 5.3.4."""
        if offset == EMERG_WR_AT and self.features & CONSOLE_F_EMERG_WRITE:
            port = self.ports.get(0)
            if port is not None and port.send is not None:
                port.send(memoryview(data[:1]))

    def reset(self) -> None:
        """The device was reset: the guest has opened nothing."""
        self._multiport = self._ready = False
        self._control.clear()
        for port in self.ports.values():
            port.guest_open, port.sent = False, 0
            port.waiting.clear()

    # ---- queues ------------------------------------------------------------------------------------

    def drain(self, index: int, queue: SplitQueue) -> Drain:
        """See `Service`."""
        if self._multiport and index == CONTROL_IN:
            return lambda limit: self._give_control(queue, limit)
        if self._multiport and index == CONTROL_OUT:
            return each_chain(queue, self._take_control)
        port = self.ports.get(0 if index < CONTROL_IN else index // 2 - 1)
        if index & 1:
            return each_chain(queue, _drop) if port is None else lambda limit: self._take(port, queue, limit)
        return _nothing if port is None else lambda limit: self._give(port, queue, limit)

    def _give(self, port: Port, queue: SplitQueue, limit: int) -> int:
        """Fill the guest's buffers with what waits for it."""
        served, most, waiting = 0, min(queue.waiting(), limit), port.waiting
        if not self._listens(port):
            return 0
        while waiting and served < most and (chain := queue.pop()) is not None:
            length = chain.write(waiting[: chain.writable_bytes])
            if not length:
                raise DriverError(f"port {port.number}: a buffer to receive into without room")
            del waiting[:length]
            self.costs.bytes_copied += length
            queue.push(chain, length)
            served += 1
        if served:
            port.on_room()
        return served

    def _take(self, port: Port, queue: SplitQueue, limit: int) -> int:
        """Send the guest's bytes, as many as the host takes now; `sent` are gone of the chain in the ring."""
        served, most = 0, min(queue.waiting(), limit)
        while served < most and (chain := queue.pop()) is not None:
            if port.send is not None and port.host_open and not self._send(port, chain, port.send):
                queue.put_back()
                break
            port.sent = 0
            queue.push(chain, 0)
            served += 1
        return served

    def _send(self, port: Port, chain: Chain, send: Send) -> bool:
        """Go on with a chain where it was left; True when all of it is gone."""
        skip = port.sent
        for buffer in chain.readable:
            if skip >= len(buffer):
                skip -= len(buffer)
                continue
            rest = buffer[skip:]
            skip = 0
            taken = send(rest)
            port.sent += taken
            self.costs.bytes_copied += taken
            if taken < len(rest):
                return False
        return True

    # ---- control messages, 5.3.6.2 -----------------------------------------------------------------

    def _give_control(self, queue: SplitQueue, limit: int) -> int:
        served, most = 0, min(queue.waiting(), limit)
        while self._control and served < most and (chain := queue.pop()) is not None:
            queue.push(chain, chain.write(self._control.popleft()))
            served += 1
        return served

    def _take_control(self, chain: Chain) -> int:
        """One message of the driver's; what is none, or about no port, is ignored."""
        data = chain.read(CONTROL.size)
        if len(data) == CONTROL.size:
            number, event, value = CONTROL.unpack(data)
            if event == CONSOLE_DEVICE_READY:
                self._on_ready(bool(value))
            elif (port := self.ports.get(number)) is not None:
                self._on_port(port, event, bool(value))
        return 0

    def _on_ready(self, is_ready: bool) -> None:
        self._ready = is_ready
        if is_ready:
            for port in self.ports.values():
                self._tell(port, CONSOLE_DEVICE_ADD, 1)

    def _on_port(self, port: Port, event: int, value: bool) -> None:
        if event == CONSOLE_PORT_OPEN:
            port.guest_open = value
            if value:
                self.kick(_queue_in(port))
                port.on_room()
        elif event == CONSOLE_PORT_READY and value:
            if port.is_console:
                self._tell(port, CONSOLE_CONSOLE_PORT, 1)
            if port.name:
                self._tell(port, CONSOLE_PORT_NAME, 1, port.name.encode())
            if port.host_open:
                self._tell(port, CONSOLE_PORT_OPEN, 1)

    def _tell(self, port: Port, event: int, value: int, extra: bytes = b"") -> None:
        if len(self._control) < MAX_CONTROL:
            self._control.append(CONTROL.pack(port.number, event, value) + extra)
            self.kick(CONTROL_IN)


def _queue_in(port: Port) -> int:
    """The queue of buffers that the port's bytes for the guest go into; the next one is the other way."""
    return 2 * (port.number + 1) if port.number else 0


def _drop(_chain: Chain) -> int:
    """Nobody is at that port."""
    return 0


def _nothing(_limit: int) -> int:
    return 0


def _nobody(_queue: int) -> None:
    """No queue is served."""
