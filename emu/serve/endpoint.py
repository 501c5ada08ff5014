"""A socket where one front-end after the other connects, and the one that is connected."""

import contextlib
import logging
import os
import socket
from typing import Final

from emu.bus.eventfd import EventFd
from emu.dataplanes.vhost_user.channel import LIMIT_S, Channel, ConnectionLostError, Message
from emu.dataplanes.vhost_user.messages import FLAG_REPLY, encode_u64
from emu.errors import EmuError, PeerError
from emu.listening import ListeningSocket
from emu.serve.loop import Loop
from emu.serve.session import Session
from emu.serve.types import OpenDevice

log = logging.getLogger(__name__)

BACKLOG: Final = 16
MESSAGES_A_TURN: Final = 16
RETRY_S: Final = 1.0


class Endpoint:
    """Listens at `path` and serves one front-end at a time; the next one waits. Raises ConfigError.

    A socket file that nobody listens at any more is replaced. A message that is not whole after `limit_s`
    ends its connection.
    """

    def __init__(self, loop: Loop, path: str, open_device: OpenDevice, limit_s: float = LIMIT_S) -> None:
        self._loop, self.path, self._open_device, self.limit_s = loop, path, open_device, limit_s
        self._connection: Connection | None = None
        self._listening = ListeningSocket(path, f"--socket {path}", BACKLOG)
        self._socket = self._listening.sock
        self._watch()

    def _watch(self) -> None:
        self._loop.watch(self._socket.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            sock, _ = self._socket.accept()
        except BlockingIOError:
            return  # it went away
        except OSError as error:
            log.warning("%s: no connection taken: %s", self.path, error.strerror)
            self._loop.unwatch(self._socket.fileno())
            self._loop.set_timer(id(self), RETRY_S, self._watch)
            return
        self._loop.unwatch(self._socket.fileno())
        try:
            self._connection = Connection(self, self._loop, sock, self._open_device)
        except EmuError as error:
            log.warning("%s: %s", self.path, error)
            sock.close()
            self._watch()

    def finished(self) -> None:
        """The front-end has gone: the next one may come."""
        self._connection = None
        self._watch()

    def close(self) -> None:
        """End the connection and the socket; the file goes if it is still ours."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        else:
            self._loop.clear_timer(id(self))
            with contextlib.suppress(KeyError):  # it waits for its timer
                self._loop.unwatch(self._socket.fileno())
        self._listening.close()


class Connection:
    """One connected front-end."""

    def __init__(self, endpoint: Endpoint, loop: Loop, sock: socket.socket, open_device: OpenDevice) -> None:
        self._endpoint, self._loop = endpoint, loop
        self._session = Session(open_device(self._wake), loop, endpoint.path)  # which wakes nobody yet
        self._channel = Channel(sock)
        loop.watch(self._channel.fileno(), self._readable)
        loop.on_fault(id(self), self._faulted)

    def _faulted(self, what: int | EventFd) -> None:
        rings = self._session.rings
        if isinstance(what, EventFd):
            if rings.signals(what):
                log.warning("%s: the front-end's event blocks whoever signals it", self._endpoint.path)
                self._end()
        elif rings.holds(what):
            log.warning("%s: the front-end took memory away that it shares", self._endpoint.path)
            self._end()

    def _wake(self, index: int) -> bool:
        runner = self._session.rings.vrings[index].runner
        if runner is None:
            return False
        self._loop.wake(runner)
        return True

    def _readable(self) -> None:
        try:
            for _ in range(MESSAGES_A_TURN):
                message = self._channel.poll_message()
                if message is None:
                    break
                self._loop.clear_timer(id(self))
                self._answer(message)
        except ConnectionLostError as error:
            if self._channel.within_message:
                log.warning("%s: %s", self._endpoint.path, error)
            self._end()
        except PeerError as error:
            log.warning("%s: %s", self._endpoint.path, error)
            self._end()
        else:
            self._watch_the_clock()

    def _watch_the_clock(self) -> None:
        """A message that has begun must end, however slowly its bytes come."""
        if not self._channel.within_message:
            self._loop.clear_timer(id(self))
        elif not self._loop.has_timer(id(self)):
            self._loop.set_timer(id(self), self._endpoint.limit_s, self._stalled)

    def _stalled(self) -> None:
        log.warning("%s: the front-end sent a part of a message only", self._endpoint.path)
        self._end()

    def _answer(self, message: Message) -> None:
        try:
            reply = self._session.answer(message)
        except PeerError:
            if self._session.wants_ack(message):
                with contextlib.suppress(PeerError):
                    self._channel.offer(message.request, encode_u64(1), flags=FLAG_REPLY)
            raise
        if reply is None:
            return
        self._loop.tell()
        try:
            self._channel.offer(message.request, reply.body, reply.fds, FLAG_REPLY)
        finally:
            for fd in reply.fds:
                os.close(fd)

    def _end(self) -> None:
        self.close()
        self._endpoint.finished()

    def close(self) -> None:
        """Release everything that came on this connection."""
        self._loop.clear_timer(id(self))
        self._loop.forget_fault(id(self))
        self._loop.unwatch(self._channel.fileno())
        self._session.close()
        self._channel.close()
