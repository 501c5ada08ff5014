"""A machine with a card whose queues `emu serve vhost-user-net` serves, and that command."""

import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from emu.bus.memory import GuestMemory
from emu.dataplanes.vhost_user.channel import connect
from emu.dataplanes.vhost_user.messages import (
    F_PROTOCOL_FEATURES,
    PROTOCOL_F_MQ,
    PROTOCOL_F_MTU,
    PROTOCOL_F_RARP,
    PROTOCOL_F_REPLY_ACK,
    Request,
    encode_u64,
)
from emu.devices.virtio.spec import F_RING_EVENT_IDX, F_VERSION_1, NET_F_MRG_RXBUF
from emu.testing.driver_queue import RINGS_AT, DriverQueue
from tests.serve_lab import Direct, Front, OverSocket, wait_readable

FEATURES = F_VERSION_1 | F_PROTOCOL_FEATURES | F_RING_EVENT_IDX | NET_F_MRG_RXBUF
PROTOCOL = PROTOCOL_F_REPLY_ACK | PROTOCOL_F_MQ | PROTOCOL_F_RARP | PROTOCOL_F_MTU
HEADER, RECEIVED = bytes(12), bytes(10) + b"\x01\x00"
BROADCAST = b"\xff" * 6
KIND = b"\x88\xb5"
LIMIT_S = 20.0
ROOT = Path(__file__).parents[1]
SECOND_RING = 1 << 20


def mac(number: int) -> bytes:
    return struct.pack(">HI", 0x5254, number)


def frame(to: bytes, source: bytes, payload: bytes = b"", kind: bytes = KIND) -> bytes:
    return to + source + kind + payload.ljust(46, b"\0")


class NetFront(Front):
    """A machine with a card: the ring of `driver` receives, `tx` sends."""

    def __init__(self, line: Direct | OverSocket, features: int = FEATURES) -> None:
        memory = GuestMemory(4 * SECOND_RING)
        rings = [
            DriverQueue(64, event_idx=True, memory=memory, rings_at=at) for at in (RINGS_AT, 2 * SECOND_RING)
        ]
        super().__init__(line, queue=rings[0])
        self.features, self.tx = features, rings[1]

    def negotiate(self, features: int | None = None) -> None:
        """As a front-end that knows what net has."""
        self.ask(Request.GET_FEATURES)
        self.ask(Request.GET_PROTOCOL_FEATURES)
        self.tell(Request.SET_PROTOCOL_FEATURES, encode_u64(PROTOCOL))
        self.tell(Request.SET_OWNER)
        self.tell(Request.SET_FEATURES, encode_u64(self.features if features is None else features))

    def plug(self) -> None:
        """Everything, with 32 buffers to receive into."""
        self.negotiate()
        self.share_memory()
        for _ in range(32):
            self.driver.add(2000)
        self.driver.want_interrupts(True)
        for index, ring in ((0, self.driver), (1, self.tx)):
            self.driver, kept = ring, self.driver
            self.set_ring(index)
            self.start_ring(index)
            self.driver = kept

    def send(self, data: bytes) -> None:
        """One frame; its kick is written."""
        self.tx.used()
        self.tx.add(HEADER + data)
        self.kick.write()

    def received(self) -> list[bytes]:
        """Frames that have come; as many new buffers are given."""
        found: list[bytes] = []
        while used := self.driver.used():
            found += [self.driver.written(head)[:length] for head, length in used]
            for _ in used:
                self.driver.add(2000)
            self.driver.want_interrupts(True)  # then look again: one may have come just before
        if found and self.driver.needs_kick():
            self.kick.write()
        return found

    def expect(self, count: int) -> list[bytes]:
        """Wait for so many frames."""
        found = self.received()
        while len(found) < count:
            wait_readable(self.call.fd, LIMIT_S)
            self.called()
            found += self.received()
        assert len(found) == count
        return found


@contextmanager
def listening(folder: Path, *words: str, guests: int = 1) -> Iterator[list[Path]]:
    """The command once it listens at these paths; it must end cleanly."""
    paths = [folder / f"s{i}" for i in range(guests)]
    sockets = [word for path in paths for word in ("--socket", str(path))]
    command = [sys.executable, "-m", "emu", "serve", "vhost-user-net", *sockets, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            assert process.stdout is not None
            for path in paths:
                assert process.stdout.readline() == f"listening on {path}\n"
            yield paths
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(LIMIT_S)
    assert process.returncode == 0
    assert not any(path.exists() for path in paths)


@contextmanager
def plugged(path: Path) -> Iterator[NetFront]:
    """A front-end whose card is served there."""
    with ExitStack() as undo:
        channel = connect(str(path))
        undo.callback(channel.close)
        front = NetFront(OverSocket(channel))
        undo.callback(front.close)
        front.plug()
        front.ask(Request.GET_FEATURES)  # all that came before is done once this is answered
        yield front


@contextmanager
def serving(folder: Path, *words: str, guests: int = 1) -> Iterator[list[NetFront]]:
    """The command, and a front-end plugged into each of its sockets."""
    with listening(folder, *words, guests=guests) as paths, ExitStack() as undo:
        yield [undo.enter_context(plugged(path)) for path in paths]
