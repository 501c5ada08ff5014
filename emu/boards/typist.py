"""Somebody at the machine's keyboard: text becomes key strokes, at a pace that guests keep up with."""

from collections import deque
from collections.abc import Callable
from typing import Final

from emu.clock import Clock
from emu.devices.ps2_keyboard import Ps2Keyboard
from emu.devices.ps2_keys import strokes

PACE_NS: Final = 10_000_000
"""Between two key events: a BIOS holds 15 strokes, and its readers look once a timer tick."""
ENOUGH: Final = 4096
"""Key events that wait at most; more text is dropped."""


class Typist:
    """`type_text` from any thread; the keys move on the vCPU thread."""

    def __init__(
        self, clock: Clock, keyboard: Ps2Keyboard, post: Callable[[Callable[[], None]], None]
    ) -> None:
        self._clock, self._keyboard, self._post = clock, keyboard, post
        self._waiting: deque[tuple[int, bool]] = deque()
        self._busy = False

    def type_text(self, text: str) -> None:
        """Type it on a US keyboard; lines end with a line feed. Returns at once."""
        events = strokes(text)

        def start() -> None:
            self._waiting.extend(events[: max(0, ENOUGH - len(self._waiting))])
            if not self._busy:
                self._busy = True
                self._next()

        self._post(start)

    def _next(self) -> None:
        """One key event; one that the keyboard does not take is tried again."""
        if self._waiting and self._keyboard.key(*self._waiting[0]):
            self._waiting.popleft()
        self._busy = bool(self._waiting)
        if self._busy:
            self._clock.call_at(self._clock.now_ns() + PACE_NS, self._next)
