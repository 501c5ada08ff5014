"""For tests of the front-end: a machine without a CPU, and a back-end that a test can make wrong anywhere."""

import os
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from emu.clock import GuestClock
from emu.dataplanes.vhost_user.channel import Channel, Message
from emu.dataplanes.vhost_user.messages import (
    F_PROTOCOL_FEATURES,
    FLAG_REPLY,
    PROTOCOL_F_BACKEND_REQ,
    PROTOCOL_F_CONFIG,
    PROTOCOL_F_CONFIGURE_MEM_SLOTS,
    PROTOCOL_F_INFLIGHT_SHMFD,
    PROTOCOL_F_MQ,
    PROTOCOL_F_REPLY_ACK,
    PROTOCOL_F_STATUS,
    Config,
    Inflight,
    Request,
    VringState,
    encode_u64,
)
from emu.devices.virtio.spec import BLK_F_FLUSH, F_RING_EVENT_IDX, F_VERSION_1
from emu.errors import PeerError
from emu.kernel.listener import Listener

FEATURES = F_VERSION_1 | F_RING_EVENT_IDX | BLK_F_FLUSH | F_PROTOCOL_FEATURES
PROTOCOL = (
    PROTOCOL_F_MQ
    | PROTOCOL_F_REPLY_ACK
    | PROTOCOL_F_BACKEND_REQ
    | PROTOCOL_F_CONFIG
    | PROTOCOL_F_INFLIGHT_SHMFD
    | PROTOCOL_F_CONFIGURE_MEM_SLOTS
    | PROTOCOL_F_STATUS
)
CONFIG = struct.pack("<Q", 2048) + bytes(52)

LIMIT_S = 20

Answer = Callable[[Channel, Message], None]
"""What a test does instead of the right answer to one request."""


class Host:
    """A machine without a CPU: this test's thread is its vCPU, which makes the posted calls in `until`."""

    def __init__(self) -> None:
        self.clock = GuestClock()
        self.failures: list[BaseException] = []
        self.listener = self.call_events = Listener(self.failures.append)
        self.calls: list[Callable[[], None]] = []
        self._posted = threading.Condition()

    def post(self, call: Callable[[], None]) -> None:
        with self._posted:
            self.calls.append(call)
            self._posted.notify_all()

    def until(self, done: Callable[[], bool]) -> None:
        """Make posted calls until `done`."""
        while not done():
            with self._posted:
                assert self._posted.wait_for(lambda: bool(self.calls), LIMIT_S), "nothing was posted"
                calls, self.calls = self.calls, []
            for call in calls:
                call()


class ScriptedBackend:
    """Listens at `path` (with `dials` connects to it) and serves one front-end after the other on a thread.

    `heard` lists the requests of each connection; `fds` those that came with a request, by (request, vring).
    `wrong` replaces the answers to some requests.
    """

    def __init__(
        self,
        path: Path,
        *,
        features: int = FEATURES,
        protocol: int = PROTOCOL,
        queues: int = 2,
        base: int = 0,
        wrong: Mapping[Request, Answer] | None = None,
        config: bytes = CONFIG,
        dials: bool = False,
    ) -> None:
        self.features, self.protocol, self.queues, self.base = features, protocol, queues, base
        self.wrong = dict(wrong or {})
        """May be changed while it serves."""
        self.heard: list[list[Message]] = []
        self.fds: dict[tuple[Request, int], int] = {}
        self.told = threading.Condition()
        self.config = config
        self.inflight = os.memfd_create("inflight")
        os.ftruncate(self.inflight, 4096)
        self._channel: Channel | None = None
        self._path, self._dials = path, dials
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        if not dials:
            self._listener.bind(str(path))
            self._listener.listen()
        self._closing = False
        self._thread = threading.Thread(target=self._main, daemon=True)
        self._thread.start()

    def names(self, connection: int = -1) -> list[str]:
        """What was asked, in order; nothing before the first connection."""
        with self.told:
            return [message.name for message in self.heard[connection]] if self.heard else []

    def bodies(self, request: Request, connection: int = -1) -> list[bytes]:
        """The payloads of one request."""
        with self.told:
            return [message.body for message in self.heard[connection] if message.request == request]

    def wait_for(self, request: Request, count: int = 1, limit_s: float = 20) -> None:
        """Return once the latest connection has asked so often."""

        def there() -> bool:
            return bool(self.heard) and sum(m.request == request for m in self.heard[-1]) >= count

        with self.told:
            assert self.told.wait_for(there, limit_s), f"{request.name} never came"

    def die(self) -> None:
        """Go away as a killed process does: the connection and the socket's name are gone."""
        if self._closing:
            return
        self._closing = True
        if not self._dials:
            self._path.unlink(missing_ok=True)
            self._listener.shutdown(socket.SHUT_RDWR)
        if self._channel is not None and self._channel.fileno() >= 0:
            with socket.socket(fileno=os.dup(self._channel.fileno())) as copy:
                copy.shutdown(socket.SHUT_RDWR)
        self._thread.join(20)
        self._listener.close()
        for fd in (self.inflight, *self.fds.values()):
            os.close(fd)
        self.fds.clear()

    def _main(self) -> None:
        while not self._closing:
            try:
                sock = self._meet()
            except OSError:
                return
            self._channel = Channel(sock, limit_s=20)
            with self.told:
                self.heard.append([])
            try:
                while True:
                    self._answer(self._channel, self._channel.receive(3600))
            except (PeerError, OSError):
                self._channel.close()
                self._channel = None

    def _meet(self) -> socket.socket:
        if not self._dials:
            return self._listener.accept()[0]
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(str(self._path))
        except OSError:
            sock.close()
            raise
        return sock

    def _answer(self, channel: Channel, message: Message) -> None:
        request = Request(message.request)
        with self.told:
            self.heard[-1].append(message)
            if message.fds and len(message.fds) == 1:
                vring = message.body[0] if message.body else 0
                if (old := self.fds.get((request, vring))) is not None:
                    os.close(old)
                self.fds[request, vring] = message.take_fds(1)[0]
            message.close()
            self.told.notify_all()
        if request in self.wrong:
            self.wrong[request](channel, message)
        elif (body := self._body(request, message)) is not None:
            fds = (self.inflight,) if request is Request.GET_INFLIGHT_FD else ()
            channel.send(request, body, fds, FLAG_REPLY)
        elif message.need_reply:
            channel.send(request, encode_u64(0), (), FLAG_REPLY)

    def _body(self, request: Request, message: Message) -> bytes | None:
        """The right answer, None where there is none but an acknowledgement."""
        if request is Request.GET_VRING_BASE:
            return VringState(VringState.decode(message.body, "").vring, self.base).encode()
        if request is Request.GET_CONFIG:
            wanted = Config.decode(message.body, "")
            return Config(0, 0, self.config[: len(wanted.data)]).encode()
        numbers = {
            Request.GET_FEATURES: self.features,
            Request.GET_PROTOCOL_FEATURES: self.protocol,
            Request.GET_QUEUE_NUM: self.queues,
            Request.GET_MAX_MEM_SLOTS: 32,
            Request.GET_STATUS: 0,
        }
        if request is Request.GET_INFLIGHT_FD:
            return Inflight(4096, 0, 1, 128).encode()
        return encode_u64(numbers[request]) if request in numbers else None
