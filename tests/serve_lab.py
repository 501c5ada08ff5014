"""A front-end for tests of `emu serve`: real guest memory, real events, messages right or wrong."""

import contextlib
import gc
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Protocol

from emu.bus.costs import Costs
from emu.bus.eventfd import EventFd
from emu.bus.memory import GuestMemory
from emu.dataplanes.vhost_user.channel import Channel, Message
from emu.dataplanes.vhost_user.messages import (
    F_PROTOCOL_FEATURES,
    FLAG_NEED_REPLY,
    VERSION,
    Header,
    Region,
    Request,
    VringAddr,
    VringFd,
    VringState,
    encode_regions,
    encode_u64,
)
from emu.devices.block.backend import BlockBackend
from emu.devices.virtio.spec import BLK_F_FLUSH, F_RING_EVENT_IDX, F_VERSION_1, SECTOR
from emu.serve.blk import blk_devices
from emu.serve.loop import Loop
from emu.serve.session import PROTOCOL_FEATURES, Reply, Session
from emu.serve.types import RingHost
from emu.serve.vring import Vring
from emu.testing.driver_queue import DriverQueue

USER = 0x7E00_0000_0000
"""User addresses begin there; nothing may take one for a guest address."""
FEATURES = F_VERSION_1 | F_PROTOCOL_FEATURES | F_RING_EVENT_IDX | BLK_F_FLUSH
SECTORS = 2048


def sector(number: int) -> bytes:
    """What the test disk has there: every sector differs."""
    return b"%07d\n" % number * 64


def make_disk(folder: Path, name: str = "disk.img") -> Path:
    """A disk of SECTORS sectors."""
    path = folder / name
    path.write_bytes(b"".join(sector(n) for n in range(SECTORS)))
    return path


def open_fds() -> int:
    """How many descriptors this process has, without those of garbage."""
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def shared_maps() -> int:
    """How many shared mappings this process has."""
    lines = Path("/proc/self/maps").read_text(encoding="ascii").splitlines()
    return sum(line.split()[1].endswith("s") for line in lines)


class Desk:
    """A `RingHost` without a thread: `serve` runs the rings that are started."""

    def __init__(self) -> None:
        self.costs = Costs()
        self.started: list[Vring] = []

    def barrier(self) -> None:
        """One thread needs none."""

    def start_ring(self, vring: Vring) -> None:
        """See `RingHost`."""
        self.started.append(vring)

    def stop_ring(self, vring: Vring) -> None:
        """See `RingHost`."""
        self.started.remove(vring)

    def signal(self, event: EventFd) -> None:
        """See `RingHost`."""
        with contextlib.suppress(BlockingIOError):
            event.write()

    def serve(self) -> None:
        """Run every started ring once."""
        for vring in self.started:
            assert vring.runner is not None
            vring.runner.run(8)


class Line(Protocol):
    """How messages go to the back-end."""

    def ask(self, request: int, body: bytes, fds: Sequence[int], *, reply: bool) -> bytes:
        """Send one message; return the payload of its reply."""


class Direct:
    """Straight into a session, with copies of the descriptors as a socket makes them."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.fds: tuple[int, ...] = ()

    def send(
        self, request: int, body: bytes = b"", fds: Sequence[int] = (), *, need_reply: bool = False
    ) -> Reply | None:
        """One message; what the session answers."""
        flags = VERSION | (FLAG_NEED_REPLY if need_reply else 0)
        header = Header(request, flags, len(body))
        return self.session.answer(Message(header, body, [os.dup(fd) for fd in fds]))

    def ask(self, request: int, body: bytes, fds: Sequence[int], *, reply: bool) -> bytes:
        """See `Line`."""
        answer = self.send(request, body, fds)
        assert (answer is not None) == reply
        self.fds = () if answer is None else answer.fds
        return b"" if answer is None else answer.body


class OverSocket:
    """Over a channel."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    def ask(self, request: int, body: bytes, fds: Sequence[int], *, reply: bool) -> bytes:
        """See `Line`."""
        self.channel.send(request, body, fds)
        return self.channel.receive_reply(request) if reply else b""


class Front:
    """A machine with one ring, as a front-end has it."""

    def __init__(self, line: Line, *, event_idx: bool = True, queue: DriverQueue | None = None) -> None:
        self.line = line
        self.driver = queue if queue is not None else DriverQueue(size=16, event_idx=event_idx)
        self.features = FEATURES if self.driver.event_idx else FEATURES & ~F_RING_EVENT_IDX
        self.kick, self.call, self.error = EventFd("kick"), EventFd("call"), EventFd("error")
        for event in (self.call, self.error):
            os.set_blocking(event.fd, False)

    @property
    def memory(self) -> GuestMemory:
        """The machine's RAM."""
        return self.driver.memory

    def tell(self, request: int, body: bytes = b"", fds: Sequence[int] = ()) -> None:
        """A message without a reply."""
        self.line.ask(request, body, fds, reply=False)

    def ask(self, request: int, body: bytes = b"", fds: Sequence[int] = ()) -> bytes:
        """A message with a reply."""
        return self.line.ask(request, body, fds, reply=True)

    def negotiate(self, features: int | None = None, protocol: int = PROTOCOL_FEATURES) -> None:
        """Features and protocol features."""
        self.ask(Request.GET_FEATURES)
        self.ask(Request.GET_PROTOCOL_FEATURES)
        self.tell(Request.SET_PROTOCOL_FEATURES, encode_u64(protocol))
        self.tell(Request.SET_OWNER)
        self.tell(Request.SET_FEATURES, encode_u64(self.features if features is None else features))

    def region(self) -> Region:
        """All RAM."""
        return Region(0, self.memory.size, USER, 0)

    def share_memory(self) -> None:
        """Give all RAM as one region."""
        self.tell(Request.SET_MEM_TABLE, encode_regions([self.region()]), [self.memory.fd])

    def set_ring(self, index: int = 0, base: int = 0, flags: int = 0) -> None:
        """Size, base and addresses, call and error events."""
        driver = self.driver
        self.tell(Request.SET_VRING_NUM, VringState(index, driver.size).encode())
        self.tell(Request.SET_VRING_BASE, VringState(index, base).encode())
        places = (USER + driver.desc_gpa, USER + driver.used_gpa, USER + driver.avail_gpa)
        self.tell(Request.SET_VRING_ADDR, VringAddr(index, flags, *places, driver.used_gpa).encode())
        self.tell(Request.SET_VRING_CALL, VringFd(index, has_fd=True).encode(), [self.call.fd])
        self.tell(Request.SET_VRING_ERR, VringFd(index, has_fd=True).encode(), [self.error.fd])

    def start_ring(self, index: int = 0) -> None:
        """The kick, then enable."""
        self.tell(Request.SET_VRING_KICK, VringFd(index, has_fd=True).encode(), [self.kick.fd])
        self.tell(Request.SET_VRING_ENABLE, VringState(index, 1).encode())

    def connect(self, base: int = 0) -> None:
        """Everything, so that requests are served."""
        self.negotiate()
        self.share_memory()
        self.set_ring(base=base)
        self.start_ring()

    def stop_ring(self, index: int = 0) -> int:
        """Stop it; return its base."""
        return VringState.decode(self.ask(Request.GET_VRING_BASE, VringState(index, 0).encode()), "").num

    def add_read(self, number: int, length: int = SECTOR) -> int:
        """Make a read available; return its head."""
        self.driver.want_interrupts(True)
        return self.driver.add(struct.pack("<IIQ", 0, 0, number), length, 1)

    def add_write(self, number: int, data: bytes) -> int:
        """Make a write available; return its head."""
        self.driver.want_interrupts(True)
        return self.driver.add(struct.pack("<IIQ", 1, 0, number) + data, 1)

    def called(self) -> bool:
        """True where the call was signalled since the last look."""
        try:
            return self.call.wait() > 0
        except BlockingIOError:
            return False

    def close(self) -> None:
        """Release what is the machine's own."""
        for event in (self.kick, self.call, self.error):
            event.close()


def blk_session(backend: BlockBackend, host: RingHost, queues: int = 1) -> Session:
    """A session that serves a disk without a socket."""
    return Session(blk_devices(backend, queues)(lambda _index: False), host)


@contextmanager
def running(loop: Loop) -> Iterator[Loop]:
    """The loop on a thread of its own, until the end of the block; what it raised is raised here."""
    failure: list[BaseException] = []

    def main() -> None:
        try:
            loop.run()
        except BaseException as error:  # shown by the test
            failure.append(error)

    thread = Thread(target=main)
    thread.start()
    try:
        yield loop
    finally:
        loop.stop()
        thread.join(10)
    assert not thread.is_alive()
    if failure:
        raise failure[0]


def wait_readable(fd: int, seconds: float = 10.0) -> None:
    """Wait for an event, with a limit."""
    import select

    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(seconds * 1000), f"nothing came within {seconds} s"
