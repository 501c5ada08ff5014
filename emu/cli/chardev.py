"""Character devices of the host: what a serial port or a virtio port is connected to.

Source of names and behaviour: qemu(1), "Character device options".
"""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol, TextIO

from emu.bus.output_file import open_output
from emu.cli.mainloop import MainLoop
from emu.cli.output import DeviceSink, Discard, FileSink
from emu.errors import ConfigError

CHUNK: Final = 4096


class Source(Protocol):
    """Bytes from the host; the main loop's own. `terminal` is a terminal to make raw, where it is one."""

    @property
    def terminal(self) -> int | None:
        """The terminal's file descriptor."""

    def attach(
        self, loop: MainLoop, on_readable: Callable[[], None], on_open: Callable[[bool], None], /
    ) -> None:
        """Call `on_readable` while there is something to read, `on_open` when somebody connects or leaves."""

    def read(self) -> bytes | None:
        """What is there, None where there is nothing, b"" once there will never be any."""

    def pause(self) -> None:
        """Watch no more."""

    def resume(self) -> None:
        """Watch again."""


@dataclass
class CharDevice:
    """An open device: where bytes go, where they come from, and whether the Ctrl-A keys are the emulator's.

    `vital` means: a run whose output nobody can read any more is of no use.
    """

    sink: DeviceSink
    source: Source | None = None
    keys: bool = False
    vital: bool = False


class FdSource:
    """Reads a file descriptor that somebody else opened."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.terminal = fd if os.isatty(fd) else None
        self._watch: Callable[[], None] = not_attached

    def attach(
        self, loop: MainLoop, on_readable: Callable[[], None], on_open: Callable[[bool], None]
    ) -> None:
        """See `Source`."""
        self._loop = loop
        self._watch = lambda: loop.watch(self._fd, on_readable)
        self._watch()
        on_open(True)

    def read(self) -> bytes | None:
        """See `Source`."""
        try:
            return os.read(self._fd, CHUNK)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def pause(self) -> None:
        """See `Source`."""
        self._loop.unwatch(self._fd)

    def resume(self) -> None:
        """See `Source`."""
        self._watch()


@contextlib.contextmanager
def open_device(target: str, label: str, flag: str, out: TextIO) -> Iterator[CharDevice]:
    """Open what `MachineConfig.serial` or `chardevs` names, for the time of the context.

    `label` is QEMU's name of it. Raises ConfigError, which begins with `flag`, where it cannot be had.
    """
    with contextlib.ExitStack() as stack:
        try:
            yield _open(target, label, out, stack)
        except CannotOpenError as error:
            raise ConfigError(f"{flag}: {error}") from None


class CannotOpenError(Exception):
    """What the user reads behind the flag."""


def _open(target: str, label: str, out: TextIO, stack: contextlib.ExitStack) -> CharDevice:
    kind, _, rest = target.partition(":")
    if kind in ("null", "none"):
        return CharDevice(Discard())
    if kind == "file":
        return CharDevice(_file_sink(rest, stack), vital=True)
    if kind == "pty":
        from emu.cli.char_pty import open_pty  # noqa: PLC0415 - most runs have none

        return open_pty(label, out, stack)
    if kind == "unix":
        from emu.cli.char_unix import open_unix  # noqa: PLC0415 - as above; socket costs 5 ms of start

        return open_unix(rest, stack)
    out.flush()
    fd = stdin_fd()
    source = FdSource(fd) if fd is not None else None
    sink = closing_sink(FileSink(out.fileno(), "standard output"), stack)
    return CharDevice(sink, source, keys=kind == "mon", vital=True)


def closing_sink(sink: FileSink, stack: contextlib.ExitStack) -> FileSink:
    """The sink, closed with the stack."""
    stack.callback(sink.close)
    return sink


def _file_sink(path: str, stack: contextlib.ExitStack) -> FileSink:
    try:
        fd = open_output(path)
    except ConfigError as error:
        raise CannotOpenError(str(error)) from None
    stack.callback(os.close, fd)
    return closing_sink(FileSink(fd, path), stack)


def stdin_fd() -> int | None:
    """The descriptor of standard input, None where there is none."""
    try:
        return sys.stdin.fileno() if sys.stdin is not None else None
    except (ValueError, io.UnsupportedOperation):
        return None


def not_attached() -> None:
    """Nobody is to be told yet."""
