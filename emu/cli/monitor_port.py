"""Where a person or a program meets the monitor: characters become lines, and answers go back."""

import codecs
from collections.abc import Callable
from typing import Final, Protocol

from emu import __version__
from emu.cli.chardev import CharDevice
from emu.cli.mainloop import MainLoop
from emu.cli.output import BATCH, DeviceSink
from emu.cli.pump import Pump

PROMPT: Final = "(qemu) "
"""QEMU's own: what drives its monitor waits for that."""
GREETING: Final = f"emu {__version__} monitor - type 'help' for more information\n"
LONGEST_LINE: Final = 4096
ENOUGH: Final = 1 << 16
"""Bytes of answers that may wait for their reader before more lines are taken."""
ERASE, KILL, INTERRUPT = "\x7f\b", "\x15", "\x03"
ESCAPE, CSI = "\x1b", "["


class Lines(Protocol):
    """What executes a line and returns its output; see `emu.cli.monitor.Monitor`."""

    def execute(self, line: str, /) -> str:
        """Output lines, each ending with a line feed."""


class MonitorConsole:
    """A line editor in front of the monitor. Main loop's own.

    `say` takes text for the user's side; with `echo` that is a terminal which shows what is typed.
    """

    def __init__(self, monitor: Lines, say: Callable[[bytes], None], *, echo: bool) -> None:
        self._monitor, self._say, self._echo = monitor, say, echo
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._line = ""
        self._escape = ""
        self._after_return = False

    def greet(self) -> None:
        """Somebody is there: say who this is."""
        self._line, self._escape = "", ""
        self._put(GREETING + PROMPT)

    def prompt(self) -> None:
        """Somebody is back."""
        self._put("\n" + PROMPT + self._line)

    def feed(self, data: bytes) -> None:
        """What was typed."""
        for character in self._decoder.decode(data):
            self._take(character)

    def _take(self, character: str) -> None:
        if self._escape or character == ESCAPE:  # the keys that send sequences do nothing here
            self._skip(character)
            return
        after_return, self._after_return = self._after_return, character == "\r"
        if character in "\r\n":
            if character == "\r" or not after_return:
                self._end_line()
        elif character in ERASE:
            if self._line:
                self._line = self._line[:-1]
                self._show("\b \b")
        elif character == KILL:
            self._show("\b \b" * len(self._line))
            self._line = ""
        elif character == INTERRUPT:
            self._line = ""
            self._put("\n" + PROMPT)
        elif character.isprintable() and len(self._line) < LONGEST_LINE:
            self._line += character
            self._show(character)

    def _skip(self, character: str) -> None:
        self._escape += character
        ended = len(self._escape) > 1 and not (self._escape == ESCAPE + CSI or character in "0123456789;O")
        if ended or len(self._escape) > 16:
            self._escape = ""

    def _end_line(self) -> None:
        line, self._line = self._line, ""
        self._show("\n")
        self._put(self._monitor.execute(line) + PROMPT)

    def _show(self, text: str) -> None:
        if self._echo:
            self._put(text)

    def _put(self, text: str) -> None:
        self._say(text.replace("\n", "\r\n").encode())


class MonitorPort:
    """The monitor on a character device of its own; a `Part`. `wake` makes the main loop tick."""

    def __init__(self, monitor: Lines, device: CharDevice, wake: Callable[[], None], *, echo: bool) -> None:
        assert device.source is not None
        self._sink: DeviceSink = device.sink
        self._wake = wake
        self._waiting = bytearray()
        self._console = MonitorConsole(monitor, self._say, echo=echo)
        self.pump = Pump(device.source, keys=device.keys, on_key=_no_key)
        self.pump.on_open = self._opened

    def start(self, loop: MainLoop) -> None:
        """See `Part`."""
        self.pump.start(loop, self)

    def stop(self) -> None:
        """See `Part`."""
        self.pump.guest = None

    def tick(self) -> bool:
        """See `Part`."""
        self.pump.tick()
        return self._flush() or self.pump.paused

    def input(self, data: bytes) -> None:
        """See `GuestInput`."""
        self._console.feed(data)

    def room(self) -> int:
        """See `GuestInput`."""
        return ENOUGH - len(self._waiting)

    def _opened(self, is_open: bool) -> None:
        if is_open:
            self._waiting.clear()
            self._console.greet()

    def _say(self, data: bytes) -> None:
        self._waiting += data
        if self._flush():
            self._wake()

    def _flush(self) -> bool:
        """Send what can be sent at once; True where something is left."""
        while self._waiting and (taken := self._sink.offer(bytes(self._waiting[:BATCH]))):
            del self._waiting[:taken]
        return bool(self._waiting)


def _no_key(_key: object) -> None:
    """The monitor's own device has no Ctrl-A keys."""
