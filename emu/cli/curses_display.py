"""`-display curses`: the VGA text screen in this terminal, and its keyboard as the machine's.

Like QEMU's, it has consoles: Alt-1 is the screen, Alt-2 and on are those of `vc` (monitor, serial port).
"""

import contextlib
import io
import os
import select
import sys
import time
from collections.abc import Callable
from typing import Final, Protocol, TextIO

from emu.cli.chardev import FdSource, stdin_fd
from emu.cli.mainloop import TICK_S, MainLoop
from emu.cli.output import BATCH, FileSink
from emu.cli.pump import Pump
from emu.cli.screen_painter import ENTER, LEAVE, Painter
from emu.cli.terminal_keys import TerminalKeys, Typed
from emu.cli.text_console import TextConsole
from emu.devices.ps2_keys import Chord
from emu.devices.vga_text import TextScreen
from emu.errors import ConfigError

ALONE_S: Final = 0.03
"""An escape character with nothing behind it for so long was the Esc key."""
FRAME_S, RESTING_FRAME_S = 0.035, 0.1
"""Between two looks at the screen, and at one that has not changed for RESTING_S: looking costs the host."""
RESTING_S: Final = 1.0
PATIENCE_S: Final = 1.0
"""How long the end of the run waits for a terminal that takes nothing."""
MOST_TOLD: Final = 1 << 16
GRAPHICS: Final = TextScreen((" graphics mode: there is no text to show ",), (bytes((0x70,)) * 41,), None)
KEY_EVENTS: Final = 8
"""A key press with every modifier."""


class Console(Protocol):
    """One of the things that the terminal can show."""

    name: str

    def screen(self) -> TextScreen | None:
        """What it shows; None in a graphics mode."""

    def type(self, typed: Typed, /) -> None:
        """A key press in it."""

    def room(self) -> int:
        """More than 0 where key presses are taken."""


class Keyboard(Protocol):
    """The machine's screen and keyboard; see `emu.boards.panel.Panel`."""

    screen: Callable[[], TextScreen | None]
    key_room: Callable[[], int]

    def press(self, chords: list[Chord], /) -> None:
        """Press and release."""


class VgaConsole:
    """Screen and keyboard of the machine."""

    name = "screen"

    def __init__(self, keyboard: Keyboard) -> None:
        self._keyboard = keyboard
        self.screen = keyboard.screen

    def type(self, typed: Typed) -> None:
        """See `Console`."""
        if typed.chord:
            self._keyboard.press([typed.chord])

    def room(self) -> int:
        """See `Console`."""
        return self._keyboard.key_room() - KEY_EVENTS


class StreamConsole:
    """A stream of bytes shown as a terminal: `send(data)` takes what is typed."""

    def __init__(
        self, name: str, text: TextConsole, send: Callable[[bytes], None], room: Callable[[], int]
    ) -> None:
        self.name, self.screen, self.room, self._send = name, text.screen, room, send
        text.answer = send

    def type(self, typed: Typed) -> None:
        """See `Console`."""
        self._send(typed.sent.encode())


class CursesDisplay:
    """A `Part` of the session that owns the terminal. Main loop's own, but for `restore`.

    `consoles` are added before `start`. From `start` to `restore` what goes to standard error is held back.
    """

    def __init__(self, source: FdSource, fd: int, encoding: str) -> None:
        self._fd, self._sink = fd, FileSink(fd)
        self._painter, self._keys = Painter(encoding), TerminalKeys()
        self._waiting = b""
        self._typed_at = self._painted_at = self._changed_at = 0.0
        self._active = False
        self._stderr: TextIO | None = None
        self._told = _Told()
        self.consoles: list[Console] = []
        self.serial = TextConsole()
        """For COM1 on `vc`."""
        self._shown = 0
        self.pump = Pump(source, keys=False, on_key=lambda _key: None, keep_signals=False)

    def start(self, loop: MainLoop) -> None:
        """See `Part`; the terminal is raw already."""
        self._active, self._loop = True, loop
        self._stderr, sys.stderr = sys.stderr, self._told
        self.refresh()
        self.pump.start(loop, self)
        loop.wake()

    def stop(self) -> None:
        """See `Part`: show the last of it."""
        self.pump.guest = None
        self._draw()

    def refresh(self) -> None:
        """The terminal's size, or what it shows, may have changed."""
        if self._active:
            try:
                size = os.get_terminal_size(self._fd)
            except OSError:  # it has gone
                size = os.terminal_size((80, 24))
            self._painter.resize(size.columns, size.lines)
            self._waiting = ENTER
            self._painted_at = 0.0
            self._typed_at = time.monotonic()
            self._loop.wake()

    def tick(self) -> bool:
        """See `Part`: always on the move."""
        self.pump.tick()
        now = time.monotonic()
        if self._keys.undecided and now - self._typed_at >= ALONE_S:
            self._type(self._keys.flush())
        if now - self._painted_at >= FRAME_S:
            self._painted_at = now
            if self._draw():
                self._changed_at = now
        rests = now - max(self._changed_at, self._typed_at) > RESTING_S
        self._loop.pace_s = RESTING_FRAME_S if rests else TICK_S
        return True

    def restore(self) -> None:
        """Give the terminal back as it was; harmless when it is so already."""
        if not self._active:
            return
        self._active = False
        deadline, rest = time.monotonic() + PATIENCE_S, self._waiting + LEAVE
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while rest and time.monotonic() < deadline:
            rest = rest[self._sink.offer(rest) :]
            if rest:
                poll.poll(100)
        if self._stderr is not None:
            sys.stderr, self._stderr = self._stderr, None
            with contextlib.suppress(OSError):
                sys.stderr.write(self._told.getvalue())

    def close(self) -> None:
        """Release what was opened."""
        self.restore()
        self._sink.close()
        os.close(self._fd)

    # ---- keys --------------------------------------------------------------------------------------

    def input(self, data: bytes) -> None:
        """See `GuestInput`."""
        self._typed_at = time.monotonic()
        self._loop.wake()  # from its slower pace
        self._type(self._keys.feed(data))

    def room(self) -> int:
        """See `GuestInput`."""
        return self.consoles[self._shown].room()

    def _type(self, presses: list[Typed]) -> None:
        for typed in presses:
            if 1 <= typed.alt_digit <= len(self.consoles):
                self._shown = typed.alt_digit - 1
                self._painted_at = 0.0
            else:
                self.consoles[self._shown].type(typed)

    # ---- screen ------------------------------------------------------------------------------------

    def _draw(self) -> bool:
        """Send what is left, then what has changed since; a slow terminal sees fewer states. False: none."""
        if self._flush():
            return True
        screen = self.consoles[self._shown].screen() or GRAPHICS
        self._waiting = self._painter.paint(screen, self._footer())
        has_changed = bool(self._waiting)
        self._flush()
        return has_changed

    def _flush(self) -> bool:
        """Send what the terminal takes at once; True where something is left."""
        while self._waiting and (taken := self._sink.offer(self._waiting[:BATCH])):
            self._waiting = self._waiting[taken:]
        return bool(self._waiting)

    def _footer(self) -> str:
        """The consoles, the one that is shown in brackets."""
        names = [
            f"[Alt-{number} {each.name}]" if number == self._shown + 1 else f" Alt-{number} {each.name} "
            for number, each in enumerate(self.consoles, 1)
        ]
        return " ".join(names) + "  quit in the monitor ends the run" if len(names) > 1 else ""


class _Told(io.StringIO):
    """Standard error while the terminal shows the guest."""

    def write(self, text: str) -> int:
        return super().write(text) if self.tell() < MOST_TOLD else len(text)


def open_display(out: TextIO) -> CursesDisplay:
    """A display on this terminal. Raises ConfigError where there is none."""
    source, target = stdin_fd(), _fd_of(out)
    for name, fd in (("input", source), ("output", target)):
        if fd is None or not os.isatty(fd):
            raise ConfigError(f"-display curses: standard {name} is no terminal; -nographic needs none")
    kind = os.environ.get("TERM", "")
    if kind in ("", "dumb", "unknown"):
        raise ConfigError(
            f'-display curses: TERM="{kind}" cannot place text; set TERM to the terminal\'s name'
        )
    assert source is not None
    assert target is not None
    out.flush()
    try:  # a description of its own: that can be non-blocking without anyone else noticing
        fd = os.open(f"/proc/self/fd/{target}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        fd = os.dup(target)
    return CursesDisplay(FdSource(source), fd, out.encoding or "utf-8")


def _fd_of(out: TextIO) -> int | None:
    with contextlib.suppress(OSError, ValueError):  # io.UnsupportedOperation is both
        return out.fileno()
    return None
