"""Somebody at the machine's keyboard: text becomes key strokes, at a pace that guests keep up with."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from emu.clock import Clock
from emu.devices.ps2_keyboard import Ps2Keyboard
from emu.devices.ps2_keys import Chord, chord_of

PACE_NS: Final = 10_000_000
"""Between two key events: a BIOS holds 15 strokes, and its readers look once a timer tick."""
ENOUGH: Final = 4096
"""Key events that wait at most; more is dropped."""


class KeyEvent(NamedTuple):
    """A key goes down or up; `pause_ns` later the next one may."""

    code: int
    pressed: bool
    pause_ns: int = PACE_NS


class Typist:
    """`type_text` and `press` from any thread; the keys move on the vCPU thread."""

    def __init__(
        self, clock: Clock, keyboard: Ps2Keyboard, post: Callable[[Callable[[], None]], None]
    ) -> None:
        self._clock, self._keyboard, self._post = clock, keyboard, post
        self._waiting: deque[KeyEvent] = deque()
        self._busy = False

    def type_text(self, text: str) -> None:
        """Type it on a US keyboard; lines end with a line feed. Returns at once."""
        self.press(map(chord_of, text))

    def press(self, chords: Iterable[Chord], hold_ns: int = PACE_NS) -> None:
        """Press each chord, hold it down for so long, and let it go. Returns at once."""
        strokes = [key_events(chord, hold_ns) for chord in chords]

        def start() -> None:
            for events in strokes:
                if len(events) <= self.room():  # never a press without its release
                    self._waiting.extend(events)
            if not self._busy:
                self._busy = True
                self._next()

        self._post(start)

    def room(self) -> int:
        """How many more key events should be given now; any thread."""
        return ENOUGH - len(self._waiting)

    def _next(self) -> None:
        """One key event; one that the keyboard does not take is tried again."""
        pause_ns = PACE_NS
        if self._waiting and self._keyboard.key(self._waiting[0].code, self._waiting[0].pressed):
            pause_ns = self._waiting.popleft().pause_ns
        self._busy = bool(self._waiting)
        if self._busy:
            self._clock.call_at(self._clock.now_ns() + pause_ns, self._next)


def key_events(chord: Chord, hold_ns: int = PACE_NS) -> list[KeyEvent]:
    """Down in order, up in the opposite order; `hold_ns` lie between the last press and the first release."""
    down = [KeyEvent(code, True) for code in chord[:-1]] + [
        KeyEvent(code, True, hold_ns) for code in chord[-1:]
    ]
    return down + [KeyEvent(code, False) for code in reversed(chord)]
