"""A driver of the 82540EM for tests: rings and buffers in guest memory, and a cable that keeps the frames."""

import struct
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from emu.bus.costs import Costs
from emu.bus.memory import GuestMemory
from emu.clock import GuestClock
from emu.devices import e1000_spec as spec
from emu.devices.e1000 import E1000
from emu.devices.net.types import Buffers, Offload
from emu.testing.lines import RecordingLine

RX_RING, TX_RING, RX_BUFFERS, TX_BUFFERS = 0x1000, 0x2000, 0x1_0000, 0x8_0000
BUFFER: Final = 2048
RAM: Final = 2 << 20
MAC: Final = bytes.fromhex("525400123456")
PEER: Final = bytes.fromhex("020000000001")
EOP_RS: Final = spec.TXD_EOP | spec.TXD_IFCS | spec.TXD_RS


class Cable:
    """A `NetBackend` whose other end is the test: `sent` are the card's frames, `offer` gives it some."""

    fd: int | None = None
    name = "cable"
    guest_features = 0
    left: Offload | None = None

    def __init__(self, *, link_up: bool = True) -> None:
        self.costs = Costs()
        self.on_ready: Callable[[], None] = _nobody
        self.on_link: Callable[[bool], None] = _nobody_linked
        self.link_up = link_up
        self.sent: list[tuple[bytes, Offload | None]] = []
        self.waiting: deque[bytes] = deque()

    def accept(self, features: int) -> None:
        """Frames are finished."""

    def send(self, frame: Buffers, offload: Offload | None = None) -> None:
        """Keep it."""
        self.sent.append((b"".join(frame), offload))

    def receive(self) -> bytes | None:
        """The next one that was offered."""
        return self.waiting.popleft() if self.waiting else None

    def offer(self, *frames: bytes) -> None:
        """Frames for the card."""
        self.waiting += frames
        self.on_ready()

    def plug(self, up: bool) -> None:
        """Plug the cable in, or pull it."""
        self.link_up = up
        self.on_link(up)

    def close(self) -> None:
        """Nothing is open."""


class Received(NamedTuple):
    """A descriptor that the card gave back, and its buffer."""

    data: bytes
    checksum: int
    status: int
    errors: int
    special: int


class E1000Driver:
    """A card with its driver; posted calls wait for `run`. `rx` and `tx` are descriptors, a multiple of 8."""

    def __init__(self, *, rx: int = 8, tx: int = 8, cable: Cable | None = None) -> None:
        self.memory = GuestMemory(RAM)
        self.clock = GuestClock()
        self.cable = cable if cable is not None else Cable()
        self.posted: deque[Callable[[], None]] = deque()
        self.card = E1000(self.memory, self.clock, self.cable, MAC, self.posted.append)
        self.line = RecordingLine()
        self.card.function.intx.wire = self.line
        self.rx, self.tx, self._next_rx, self._tail = rx, tx, 0, 0
        self.card.function.config_write(4, 2, 7)

    def close(self) -> None:
        """Give the memory back."""
        self.memory.close()

    def read(self, register: int) -> int:
        """A register."""
        return self.card.read(register, 4)

    def write(self, register: int, value: int) -> None:
        """A register."""
        self.card.write(register, 4, value)

    def run(self) -> None:
        """Make the posted calls."""
        while self.posted:
            self.posted.popleft()()

    # ---- rings -------------------------------------------------------------------------------------

    def start(self, rctl: int = spec.RCTL_BAM | spec.RCTL_SECRC, tctl: int = spec.TCTL_PSP) -> None:
        """Both rings, all receive buffers but one given to the card, receiver and transmitter on."""
        for i in range(self.rx):
            self.set_receive_buffer(i, RX_BUFFERS + i * BUFFER)
        self.write(spec.RDBAL, RX_RING)
        self.write(spec.RDLEN, 16 * self.rx)
        self.write(spec.RDT, self.rx - 1)
        self.write(spec.RCTL, rctl | spec.RCTL_EN)
        self.write(spec.TDBAL, TX_RING)
        self.write(spec.TDLEN, 16 * self.tx)
        self.write(spec.TCTL, tctl | spec.TCTL_EN)

    def set_receive_buffer(self, index: int, address: int) -> None:
        """Descriptor `index`, made new."""
        self.memory.view(RX_RING + 16 * index, 16)[:] = struct.pack("<QQ", address, 0)

    def received(self) -> list[Received]:
        """The buffers that have come back since the last call; their descriptors are the driver's."""
        found: list[Received] = []
        while True:
            raw = self.memory.view(RX_RING + 16 * self._next_rx, 16)
            address, length, checksum, status, errors, special = struct.unpack("<QHHBBH", raw)
            if not status & spec.RXD_DD:
                return found
            raw[12] = 0
            found.append(
                Received(bytes(self.memory.view(address, length)), checksum, status, errors, special)
            )
            self._next_rx = (self._next_rx + 1) % self.rx

    def give_back(self) -> None:
        """All descriptors that were taken are the card's again."""
        self.write(spec.RDT, (self._next_rx - 1) % self.rx)

    # ---- sending -----------------------------------------------------------------------------------

    def put(self, low: int, high: int) -> None:
        """One raw descriptor at the tail, not told to the card."""
        tail = self._tail
        self.memory.view(TX_RING + 16 * tail, 16)[:] = struct.pack("<QQ", low, high)
        self._tail = (tail + 1) % self.tx

    def ring(self) -> None:
        """Tell the card of the descriptors."""
        self.write(spec.TDT, self._tail)

    def load(self, at: int, data: bytes) -> int:
        """Put data into the buffers for sending; its address."""
        self.memory.view(TX_BUFFERS + at, len(data))[:] = data
        return TX_BUFFERS + at

    def send(self, frame: bytes, command: int = EOP_RS, special: int = 0) -> None:
        """One frame by one legacy descriptor."""
        self.put(self.load(0, frame), len(frame) | command << 24 | special << 48)
        self.ring()

    def send_data(self, *pieces: bytes, popts: int = 0, command: int = EOP_RS, special: int = 0) -> None:
        """One frame by a data descriptor for each piece."""
        at = 0
        for i, piece in enumerate(pieces):
            mine = command if i == len(pieces) - 1 else command & ~(spec.TXD_EOP | spec.TXD_RS)
            high = len(piece) | spec.DTYP_DATA << 20 | (mine | spec.TXD_DEXT) << 24
            self.put(self.load(at, piece), high | popts << 40 | special << 48)
            at += len(piece)
        self.ring()

    def set_context(
        self,
        ip: tuple[int, int, int] = (0, 0, 0),
        transport: tuple[int, int, int] = (0, 0, 0),
        command: int = 0,
        paylen: int = 0,
        hdrlen: int = 0,
        mss: int = 0,
    ) -> None:
        """A context descriptor; each triple is start, offset of the checksum, last byte."""
        low = struct.pack("<BBHBBH", *ip, *transport)
        high = paylen | (command | spec.TXD_DEXT) << 24 | hdrlen << 40 | mss << 48
        self.put(int.from_bytes(low, "little"), high)


def _nobody() -> None:
    """No card is plugged in."""


def _nobody_linked(_up: bool) -> None:
    """No card is plugged in."""
