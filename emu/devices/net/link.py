"""A stream socket whose other end comes and goes: `-netdev stream` and `-netdev socket`.

The cable is plugged in while somebody is there. Nothing here waits: one descriptor, an epoll, becomes
readable when there is something to do, and `receive` does it.
"""

import ctypes
import errno
import logging
import os
import select
import socket
from collections.abc import Callable
from typing import Final, Protocol

from emu.bus.costs import Costs
from emu.devices.net.stream import PATIENCE_MS, StreamPeer
from emu.devices.net.types import Buffers, Offload
from emu.errors import ConfigError
from emu.listening import ListeningSocket

log = logging.getLogger("emu.net")

Address = str | tuple[str, int]
"""A path, or host and port."""
CONNECT_S: Final = 10.0


class Meeting(Protocol):
    """How the other end is found."""

    def watch(self, epoll: select.epoll, /) -> None:
        """Begin to look; `epoll` tells when `meet` may succeed."""

    def meet(self) -> socket.socket | None:
        """The other end, None where it is not there yet. It is looked for no more then."""

    def close(self) -> None:
        """Release everything."""


class StreamLink:
    """A `NetBackend`. `dropped` counts frames that nobody was there for, and those without room."""

    guest_features = StreamPeer.guest_features

    def __init__(self, meeting: Meeting, name: str) -> None:
        self.name, self._meeting = name, meeting
        self.on_ready: Callable[[], None] = lambda: None
        self.on_link: Callable[[bool], None] = lambda _up: None
        self._epoll = select.epoll()
        self.fd: int | None = self._epoll.fileno()
        self._peer: StreamPeer | None = None
        self._gone, self._dropped = Costs(), 0
        self._accepted = 0
        meeting.watch(self._epoll)

    @property
    def costs(self) -> Costs:
        """See `NetBackend`."""
        return self._gone if self._peer is None else self._gone.total(self._peer.costs)

    @property
    def dropped(self) -> int:
        """So far."""
        return self._dropped + (0 if self._peer is None else self._peer.dropped)

    @property
    def link_up(self) -> bool:
        """See `NetBackend`."""
        return self._peer is not None

    @property
    def left(self) -> Offload | None:
        """See `NetBackend`."""
        return None if self._peer is None else self._peer.left

    def accept(self, features: int) -> None:
        """See `NetBackend`."""
        self._accepted = features
        if self._peer is not None:
            self._peer.accept(features)

    def send(self, frame: Buffers, offload: Offload | None = None) -> None:
        """See `NetBackend`."""
        if self._peer is None:
            self._dropped += 1
        else:
            self._peer.send(frame, offload)

    def receive(self) -> memoryview | None:
        """See `NetBackend`."""
        if self._peer is None:
            self._look()
        return None if self._peer is None else self._peer.receive()

    def _look(self) -> None:
        sock = self._meeting.meet()
        if sock is None:
            return
        self._peer = peer = StreamPeer(sock, self.name, patience_ms=PATIENCE_MS)
        peer.on_link = self._parted
        peer.accept(self._accepted)
        assert peer.fd is not None
        self._epoll.register(peer.fd, select.EPOLLIN)
        log.info("%s: the other end is there", self.name)
        self.on_link(True)

    def _parted(self, _up: bool) -> None:
        """The other end has gone; the peer has said why."""
        self._leave()
        self._meeting.watch(self._epoll)
        self.on_link(False)

    def _leave(self) -> None:
        peer = self._peer
        if peer is not None:
            assert peer.fd is not None
            self._epoll.unregister(peer.fd)
            self._gone, self._dropped, self._peer = self.costs, self.dropped, None
            peer.close()

    def close(self) -> None:
        """See `NetBackend`."""
        if self.fd is not None:
            self._leave()
            self._meeting.close()
            self._epoll.close()
            self.fd = None


class Listening:
    """Waits for one connection after the other. Raises ConfigError.

    A socket file that a dead process left behind is replaced; ours is removed with the link.
    """

    def __init__(self, address: Address, where: str) -> None:
        self._epoll: select.epoll | None = None
        self._file: ListeningSocket | None = None
        place = f"{where}: {shown(address)}"
        if isinstance(address, str):
            self._file = ListeningSocket(address, place)
            self._socket = self._file.sock
        else:
            self._socket = _listening_at(address, place)

    @property
    def address(self) -> Address:
        """Where it listens."""
        found: Address = self._socket.getsockname()[:2] if self._file is None else self._file.path
        return found

    def watch(self, epoll: select.epoll) -> None:
        """See `Meeting`."""
        epoll.register(self._socket.fileno(), select.EPOLLIN)
        self._epoll = epoll

    def meet(self) -> socket.socket | None:
        """See `Meeting`."""
        try:
            sock, _ = self._socket.accept()
        except OSError:
            return None
        if self._epoll is not None:
            self._epoll.unregister(self._socket.fileno())
        return sock

    def close(self) -> None:
        """See `Meeting`."""
        if self._file is None:
            self._socket.close()
        else:
            self._file.close()


def _listening_at(address: tuple[str, int], place: str) -> socket.socket:
    """A TCP listener that does not wait. Raises ConfigError, which begins with `place`."""
    made = None
    try:
        made = socket.socket(_family(address), socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(1)
        made.setblocking(False)
    except OSError as error:
        if made is not None:
            made.close()
        raise ConfigError(f"{place}: {_reason(error)}") from error
    return made


class Connecting:
    """Connects, and again `seconds` after each failure. Raises ConfigError for a name that is none."""

    def __init__(self, address: Address, seconds: int, where: str) -> None:
        self._address, self._family = resolved(address, where)
        self._timer = Timer(seconds)
        self._epoll: select.epoll | None = None
        self._socket: socket.socket | None = None

    def watch(self, epoll: select.epoll) -> None:
        """See `Meeting`."""
        self._epoll = epoll
        epoll.register(self._timer.fd, select.EPOLLIN)
        self._timer.arm(at_once=True)

    def meet(self) -> socket.socket | None:
        """See `Meeting`."""
        if self._timer.expired():
            self._forget()
            self._try()
        sock = self._socket
        if sock is None or self._epoll is None or not _connected(sock):
            return None
        self._epoll.unregister(sock.fileno())
        self._epoll.unregister(self._timer.fd)
        self._timer.disarm()
        self._socket = None
        return sock

    def _try(self) -> None:
        assert self._epoll is not None
        sock = socket.socket(self._family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        if sock.connect_ex(self._address) in (0, errno.EINPROGRESS):
            self._epoll.register(sock.fileno(), select.EPOLLOUT)
            self._socket = sock
        else:
            sock.close()

    def _forget(self) -> None:
        if self._socket is not None:
            if self._epoll is not None:
                self._epoll.unregister(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def close(self) -> None:
        """See `Meeting`."""
        self._forget()
        self._timer.close()


def connected(address: Address, where: str) -> socket.socket:
    """A socket that is connected now. Raises ConfigError."""
    place, family = resolved(address, where)
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(CONNECT_S)
        sock.connect(place)
    except OSError as error:
        sock.close()
        raise ConfigError(f"{where}: {shown(address)}: {_reason(error)}") from error
    return sock


def resolved(address: Address, where: str) -> tuple[Address, socket.AddressFamily]:
    """The address in numbers, and its family. Raises ConfigError."""
    if isinstance(address, str):
        return address, socket.AF_UNIX
    try:
        family, _, _, _, place = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise ConfigError(f"{where}: {shown(address)}: {_reason(error)}") from error
    return (str(place[0]), int(place[1])), family


def shown(address: Address) -> str:
    """For people."""
    return address if isinstance(address, str) else f"{address[0]}:{address[1]}"


def _family(address: Address) -> socket.AddressFamily:
    if isinstance(address, str):
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


class _TimerSpec(ctypes.Structure):
    """struct itimerspec."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


class Timer:
    """A descriptor that becomes readable every `seconds` while armed. Source: timerfd_create(2).

    Python has it from 3.13 on only.
    """

    _CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC = 1, os.O_NONBLOCK | os.O_CLOEXEC

    def __init__(self, seconds: int) -> None:
        self._libc, self._seconds = ctypes.CDLL(None, use_errno=True), seconds
        self.fd = self._libc.timerfd_create(self._CLOCK_MONOTONIC, self._NONBLOCK_CLOEXEC)
        if self.fd < 0:
            raise ConfigError(f"timerfd_create: {os.strerror(ctypes.get_errno())}")

    def arm(self, *, at_once: bool) -> None:
        """Begin; the first time at once, or after `seconds`."""
        self._set(0 if at_once else self._seconds, 1 if at_once else 0, self._seconds)

    def disarm(self) -> None:
        """Stop."""
        self._set(0, 0, 0)

    def _set(self, value_s: int, value_ns: int, interval_s: int) -> None:
        spec = _TimerSpec(interval_s, 0, value_s, value_ns)
        self._libc.timerfd_settime(self.fd, 0, ctypes.byref(spec), None)

    def expired(self) -> bool:
        """Whether it has become readable since the last call."""
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Harmless when repeated."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
