"""A pseudo-terminal as a character device: `pty`."""

import contextlib
import os
import pty
import select
import tty
from collections.abc import Callable
from typing import TextIO

from emu.cli.chardev import CHUNK, CannotOpenError, CharDevice, closing_sink, not_attached
from emu.cli.mainloop import MainLoop
from emu.cli.output import FileSink


class PtySource:
    """The master of a new pseudo-terminal, whose other side may come and go.

    While nobody has that open, the master counts as hung up for good: the edge-triggered epoll tells of it
    once, and of each write of the other side.
    """

    terminal = None

    def __init__(self) -> None:
        self.fd, slave = pty.openpty()
        self.path = os.ttyname(slave)
        tty.setraw(slave)
        os.close(slave)
        os.set_blocking(self.fd, False)
        self._edges = select.epoll()
        self._edges.register(self.fd, select.EPOLLIN | select.EPOLLET)
        self._watch: Callable[[], None] = not_attached

    def attach(
        self, loop: MainLoop, on_readable: Callable[[], None], on_open: Callable[[bool], None]
    ) -> None:
        """See `Source`. Counts as connected always."""
        self._loop = loop
        self._watch = lambda: loop.watch(self._edges.fileno(), on_readable)
        self._watch()
        on_open(True)

    def read(self) -> bytes | None:
        """See `Source`."""
        self._edges.poll(0)
        try:
            data = os.read(self.fd, CHUNK)
        except OSError:  # hung up, or nothing there
            return None
        self._edges.modify(self.fd, select.EPOLLIN | select.EPOLLET)  # there may be more: a new edge if so
        return data or None

    def pause(self) -> None:
        """See `Source`."""
        self._loop.unwatch(self._edges.fileno())

    def resume(self) -> None:
        """See `Source`."""
        self._watch()

    def close(self) -> None:
        """Let go of the terminal."""
        self._edges.close()
        os.close(self.fd)


def open_pty(label: str, out: TextIO, stack: contextlib.ExitStack) -> CharDevice:
    """Make one and say where it is, as QEMU does. Raises CannotOpenError."""
    try:
        source = PtySource()
    except OSError as error:
        raise CannotOpenError(f"no pseudo-terminal: {error.strerror}") from None
    stack.callback(source.close)
    print(f"char device redirected to {source.path} (label {label})", file=out, flush=True)
    return CharDevice(closing_sink(FileSink(source.fd, lossy=True), stack), source)
