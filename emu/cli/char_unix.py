"""A Unix stream socket as a character device: `unix:PATH`, client or server."""

import contextlib
import errno
import socket
import sys
from collections.abc import Callable

from emu.cli.chardev import CHUNK, CannotOpenError, CharDevice, closing_sink, not_attached
from emu.cli.mainloop import MainLoop
from emu.cli.options import key_values, switch
from emu.cli.output import FileSink
from emu.errors import ConfigError
from emu.listening import ListeningSocket


class SocketSource:
    """A connection, or a listener that serves one client after the other. `sink` follows it."""

    terminal = None

    def __init__(
        self, sink: FileSink, connection: socket.socket | None, listener: socket.socket | None
    ) -> None:
        self._sink, self._listener = sink, listener
        self._connection: socket.socket | None = None
        self._paused = False
        self._loop: MainLoop | None = None
        self._on_readable: Callable[[], None] = not_attached
        self._on_open: Callable[[bool], None] = _nobody
        if connection is not None:
            self._take(connection)

    def attach(
        self, loop: MainLoop, on_readable: Callable[[], None], on_open: Callable[[bool], None]
    ) -> None:
        """See `Source`."""
        self._loop, self._on_readable, self._on_open = loop, on_readable, on_open
        if self._connection is not None:
            loop.watch(self._connection.fileno(), on_readable)
            on_open(True)
        elif self._listener is not None:
            loop.watch(self._listener.fileno(), self._accept)

    def _take(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._sink.set_fd(connection.fileno())

    def _accept(self) -> None:
        assert self._listener is not None
        assert self._loop is not None
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it has left already
            return
        self._loop.unwatch(self._listener.fileno())  # the next one waits until this one leaves
        self._take(connection)
        if not self._paused:
            self._loop.watch(connection.fileno(), self._on_readable)
        self._on_open(True)

    def read(self) -> bytes | None:
        """See `Source`."""
        if self._connection is None:
            return None
        try:
            data = self._connection.recv(CHUNK)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            self._hang_up(self._connection)
        return data or None

    def _hang_up(self, connection: socket.socket) -> None:
        loop = self._loop
        assert loop is not None
        loop.unwatch(connection.fileno())
        self._connection = None
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)  # ends a write that waits for it
        self._sink.set_fd(-1)
        connection.close()
        self._on_open(False)
        if self._listener is not None:
            loop.watch(self._listener.fileno(), self._accept)

    def pause(self) -> None:
        """See `Source`."""
        self._paused = True
        if self._connection is not None and self._loop is not None:
            self._loop.unwatch(self._connection.fileno())

    def resume(self) -> None:
        """See `Source`."""
        self._paused = False
        if self._connection is not None and self._loop is not None:
            self._loop.watch(self._connection.fileno(), self._on_readable)

    def close(self) -> None:
        """Hang up; the listener is whose made it."""
        if self._connection is not None:
            self._connection.close()


def open_unix(text: str, stack: contextlib.ExitStack) -> CharDevice:
    """`PATH[,server=][,wait=]`. Raises CannotOpenError."""
    values = dict(key_values(text, "path"))
    path, is_server = values["path"], switch("server", values.get("server", "off"))
    sink = closing_sink(FileSink(-1), stack)
    connection, listener = None, None
    try:
        if is_server:
            listener = _listen(path, stack)
            if switch("wait", values.get("wait", "on")):
                connection = _first(path, listener)
        else:
            connection = _connect(path, stack)
    except OSError as error:
        raise CannotOpenError(f"{path}: {_reason(error)}") from None
    source = SocketSource(sink, connection, listener)
    stack.callback(source.close)
    return CharDevice(sink, source)


def _reason(error: OSError) -> str:
    if error.errno == errno.ECONNREFUSED:
        return "nobody listens there; start the server first, or add server=on"
    if error.errno == errno.ENOENT:
        return f"{error.strerror}; start the server first, or add server=on"
    return error.strerror or str(error)


def _connect(path: str, stack: contextlib.ExitStack) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stack.callback(made.close)
    made.connect(path)
    return made


def _listen(path: str, stack: contextlib.ExitStack) -> socket.socket:
    """A listener at `path`, which does not wait. Raises CannotOpenError."""
    try:
        made = ListeningSocket(path, path)
    except ConfigError as error:
        raise CannotOpenError(str(error)) from None
    stack.callback(made.close)
    return made.sock


def _first(path: str, listener: socket.socket) -> socket.socket:
    """The first client, however long it takes. Raises OSError."""
    print(f"emu: waiting for a connection on unix:{path}", file=sys.stderr, flush=True)
    listener.setblocking(True)
    connection, _ = listener.accept()
    listener.setblocking(False)
    return connection


def _nobody(_is_open: bool) -> None:
    """Nobody minds."""
