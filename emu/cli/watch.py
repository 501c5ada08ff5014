"""Looking at a guest while it runs: its text screen, and whether it can ever do anything again."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from emu.cli.mainloop import MainLoop
from emu.config import Outcome, OutcomeKind

if TYPE_CHECKING:
    from emu.cpu.engine import Engine
    from emu.machine import Machine

LOOK_S: Final = 0.05
CR0_PE: Final = 1
SELF_JUMPS: Final = (b"\xeb\xfe", b"\xf3\x90\xeb\xfc")
"""`jmp .`, and `1: pause; jmp 1b`, as compilers and people write an endless loop."""


class Screen(Protocol):
    """Who judges the text screen."""

    def see_screen(self, text: str, /) -> bool:
        """Look at it; True once nothing more need be seen."""


class GuestWatch:
    """A part of a session (`emu.cli.session.Part`): looks at the guest every LOOK_S seconds.

    The main loop asks, the vCPU thread looks, whatever the guest does then. `done` is called once `screen`
    has seen enough. A guest that jumps to itself with interrupts off ends as one that has halted so.
    """

    pump: None = None

    def __init__(self, machine: "Machine", screen: Screen, done: Callable[[], None]) -> None:
        self._machine, self._screen, self._done = machine, screen, done
        self._next = 0.0
        self._asked = False
        self._loop_at: int | None = None

    def start(self, loop: MainLoop) -> None:
        """Begin; before the loop starts."""
        loop.wake()

    def stop(self) -> None:
        """The run is over."""
        self._asked = True

    def tick(self) -> bool:
        """Main loop: have the vCPU thread look when it is time."""
        now = time.monotonic()
        if not self._asked and now >= self._next:
            self._asked, self._next = True, now + LOOK_S
            self._machine.post(self._look)
        return True

    def _look(self) -> None:
        self._asked = False
        if self._screen.see_screen(self._machine.screen_text()):
            self._done()
            return
        before, self._loop_at = self._loop_at, endless_loop(self._machine.engine)
        if self._loop_at is not None and self._loop_at == before:
            self._machine.end(Outcome(OutcomeKind.HALTED))


def endless_loop(engine: "Engine") -> int | None:
    """Where the CPU jumps to itself with interrupts off, which only a reset could end, or None."""
    if engine.interrupts_enabled or engine.nmi_pending:
        return None
    found = engine.registers()
    start = found["rip"] + (0 if found["cr0"] & CR0_PE else found["cs"] << 4)
    for code in SELF_JUMPS:
        for at in (start, start - 2) if len(code) > 2 else (start,):
            if engine.read_virtual(at, len(code)) == code:
                return at
    return None
