"""One end of a vhost-user connection: whole messages with their descriptors, in and out of a Unix socket.

A stream socket cuts messages anywhere; descriptors come with some byte of the message they belong to. So
never more than the rest of the message at hand is read, and what descriptors come meanwhile are its own.
"""

import array
import contextlib
import enum
import os
import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Final

from emu.dataplanes.vhost_user.messages import (
    FLAG_NEED_REPLY,
    FLAG_REPLY,
    HEADER,
    MAX_FDS,
    Header,
    ProtocolError,
    Request,
    encode,
    request_name,
)
from emu.errors import PeerError

LIMIT_S: Final = 5.0
"""Seconds that a message or its answer may take before the peer counts as dead."""


class ConnectionLostError(PeerError):
    """The peer closed the connection, or died; between two messages or within one."""


class Message:
    """One message as it came. Its descriptors are its own: `close` closes all that nobody has taken."""

    __slots__ = ("_names", "body", "fds", "flags", "request")

    def __init__(
        self, header: Header, body: bytes, fds: list[int], names: type[enum.IntEnum] = Request
    ) -> None:
        self.request, self.flags = header.request, header.flags
        self.body, self.fds, self._names = body, fds, names

    @property
    def name(self) -> str:
        """The request's name, for errors."""
        return request_name(self.request, self._names)

    @property
    def need_reply(self) -> bool:
        """The sender wants an acknowledgement."""
        return bool(self.flags & FLAG_NEED_REPLY)

    def expect_fds(self, count: int) -> None:
        """Raises ProtocolError where not exactly so many descriptors came with it."""
        if len(self.fds) != count:
            raise ProtocolError(self.name, "fds", f"{len(self.fds)} came, {count} must")

    def take_fds(self, count: int) -> list[int]:
        """Exactly so many descriptors, which are the caller's from now on. Raises ProtocolError."""
        self.expect_fds(count)
        taken, self.fds = self.fds, []
        return taken

    def close(self) -> None:
        """Close the descriptors that are left. Harmless when repeated."""
        while self.fds:
            os.close(self.fds.pop())


class Channel:
    """A connected socket, owned by this object and by one thread.

    `send` and `receive` wait, at most `limit_s` for a whole message; `poll_message` and `offer` never wait.
    Each raises ProtocolError for a malformed message, ConnectionLostError when the peer is gone and PeerError
    when it is too slow; the channel is good for `close` only after that. `names` are those of the requests on
    it, for errors.
    """

    def __init__(
        self, sock: socket.socket, *, limit_s: float = LIMIT_S, names: type[enum.IntEnum] = Request
    ) -> None:
        sock.setblocking(False)
        self._socket, self._limit_s, self._names = sock, limit_s, names
        self._header: Header | None = None
        self._data = bytearray()
        self._fds: list[int] = []

    def fileno(self) -> int:
        """The descriptor, for selectors; -1 once closed."""
        return self._socket.fileno()

    @property
    def within_message(self) -> bool:
        """A part of a message has come, the rest has not."""
        return self._header is not None or bool(self._data)

    def close(self) -> None:
        """Close the socket and the descriptors of a message that did not end. Harmless when repeated."""
        self._socket.close()
        while self._fds:
            os.close(self._fds.pop())

    # ---- waiting -----------------------------------------------------------------------------------

    def send(self, request: int, body: bytes = b"", fds: Sequence[int] = (), flags: int = 0) -> None:
        """Send one message; the descriptors stay the caller's."""
        data = encode(request, body, flags)
        deadline = time.monotonic() + self._limit_s
        sent = self._send_some(data, fds)
        while sent < len(data):
            name = request_name(request, self._names)
            self._wait(select.POLLOUT, deadline, f"took {sent} of {len(data)} bytes of {name}")
            sent += self._send_some(data[sent:], fds if not sent else ())

    def receive(self, limit_s: float | None = None) -> Message:
        """The next message, whatever it is."""
        deadline = time.monotonic() + (self._limit_s if limit_s is None else limit_s)
        while (message := self.poll_message()) is None:
            what = "a part of a message only" if self.within_message else "no message"
            self._wait(select.POLLIN, deadline, f"sent {what}")
        return message

    def receive_reply(self, request: int, fds: int = 0) -> bytes:
        """The payload of the answer to `request`, which brings no descriptors."""
        message = self.receive_reply_message(request)
        try:
            message.expect_fds(fds)
        finally:
            message.close()
        return message.body

    def receive_reply_message(self, request: int) -> Message:
        """The answer to `request`, with its descriptors."""
        message = self.receive()
        if message.request != request or not message.flags & FLAG_REPLY:
            message.close()
            wanted = request_name(request, self._names)
            raise ProtocolError(message.name, "request", f"it is no reply to {wanted}")
        return message

    def _wait(self, event: int, deadline: float, so_far: str) -> None:
        left = deadline - time.monotonic()
        poll = select.poll()
        poll.register(self._socket, event)
        if left <= 0 or not poll.poll(left * 1000):
            raise PeerError(f"vhost-user: the peer {so_far} in time")

    # ---- not waiting -------------------------------------------------------------------------------

    def offer(self, request: int, body: bytes = b"", fds: Sequence[int] = (), flags: int = 0) -> None:
        """Send one message at once; a peer that has no room for it does not read its answers: PeerError."""
        data = encode(request, body, flags)
        if self._send_some(data, fds) != len(data):
            raise PeerError(
                f"vhost-user {request_name(request, self._names)}: the peer does not read replies"
            )

    def poll_message(self) -> Message | None:
        """The next message if it has come, None while it has not wholly."""
        try:
            return self._next_message()
        except BaseException:
            while self._fds:
                os.close(self._fds.pop())
            raise

    def _next_message(self) -> Message | None:
        if self._header is None:
            if not self._fill(HEADER.size):
                return None
            self._header = Header.decode(bytes(self._data), self._names)
            self._data.clear()
        if not self._fill(self._header.size):
            return None
        message = Message(self._header, bytes(self._data), self._fds, self._names)
        self._header, self._fds = None, []
        self._data.clear()
        return message

    def _fill(self, size: int) -> bool:
        """Read until `size` bytes are there; False where the peer has not sent them yet."""
        while len(self._data) < size:
            try:
                data, ancillary, flags, _ = self._socket.recvmsg(
                    size - len(self._data),
                    socket.CMSG_SPACE(MAX_FDS * 4),
                    socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT,
                )
            except BlockingIOError:
                return False
            except OSError as error:
                raise ConnectionLostError(f"vhost-user: connection lost: {error.strerror}") from error
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    self._fds += array.array("i", content[: len(content) & -4])
            if flags & socket.MSG_CTRUNC or len(self._fds) > MAX_FDS:
                name = "header" if self._header is None else request_name(self._header.request, self._names)
                raise ProtocolError(name, "fds", f"more than {MAX_FDS} came")
            if not data:
                where = " within a message" if self.within_message else ""
                raise ConnectionLostError(f"vhost-user: the peer closed the connection{where}")
            self._data += data
        return True

    def _send_some(self, data: bytes, fds: Sequence[int]) -> int:
        """Send what is taken at once; return how many bytes that was."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            return self._socket.sendmsg([data], rights, socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ConnectionLostError(f"vhost-user: connection lost: {error.strerror}") from error


def connect(path: str, *, limit_s: float = LIMIT_S) -> Channel:
    """A channel to the back-end that listens at `path`. Raises OSError, also when it is too slow."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    with contextlib.ExitStack() as undo:
        undo.callback(sock.close)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(limit_s))
        sock.connect(path)
        undo.pop_all()
    return Channel(sock, limit_s=limit_s)


def _timeval(seconds: float) -> bytes:
    """`struct timeval`."""
    return struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))
