"""One run of one machine under a command: its console, its signals, its end."""

import contextlib
import enum
import os
import signal
import sys
import termios
from collections.abc import Callable, Iterator
from typing import Protocol, Self

from emu.cli.escapes import HELP, NO_MONITOR, EscapeKeys, Key
from emu.cli.mainloop import ENDING, MainLoop, Signals
from emu.cli.output import SerialOutput, Sink
from emu.cli.terminal import RawTerminal
from emu.config import MachineConfig, Outcome, OutcomeKind

INPUT_CHUNK = 4096


class Machine(Protocol):
    """What a command needs of a machine; `run` blocks the calling thread, `stop` comes from any."""

    def run(self) -> Outcome:
        """Run the guest to its end. A `stop` that came before ends it at once."""

    def stop(self, reason: str, /) -> None:
        """End the run soon."""

    def serial_input(self, data: bytes, /) -> None:
        """Bytes for COM1."""

    def serial_room(self) -> int:
        """How many more bytes should be given now; the rest had better wait where it is."""

    def rip_text(self) -> str:
        """Where the guest is: `0x100123 main+0x13`."""

    def close(self) -> None:
        """Flush the disks and let go of everything."""


class Cause(enum.Enum):
    """Who ended a run from outside."""

    SIGNAL = "signal"
    TIMEOUT = "timeout"
    QUIT = "Ctrl-A X"
    BROKEN = "closed output"
    VERDICT = "verdict"
    FAILED = "the main loop failed"


class Session:
    """Runs a machine on the calling (main) thread with a main loop beside it.

    `sink` gets COM1's output in batches. `input_fd` feeds COM1; a terminal there is made raw, and with `keys`
    the Ctrl-A keys work. Enter the session, build the machine, `run`, close the machine, leave.
    `cause` tells who stopped it (None: the guest), `signal_number` with what.
    """

    def __init__(self, config: MachineConfig, sink: Sink, input_fd: int | None, *, keys: bool) -> None:
        self._config = config
        self._input_fd = input_fd
        self._keys = EscapeKeys() if keys else None
        self._machine: Machine | None = None
        self._terminal: RawTerminal | None = None
        self.output = SerialOutput(sink, self._wake)
        self.cause: Cause | None = None
        self.signal_number = 0
        self.on_stop: Callable[[], None] = lambda: None
        self._input_paused = False
        self._loop = MainLoop(self._tick, config.timeout_s, lambda: self.stop(Cause.TIMEOUT))
        self._loop.on_error = lambda: self.stop(Cause.FAILED)

    def stop(self, cause: Cause) -> None:
        """End the run; the first cause counts. Any thread."""
        if self.cause is None:
            self.cause = cause
        self.on_stop()
        machine = self._machine
        if machine is not None:
            machine.stop(cause.value)

    def __enter__(self) -> Self:
        """From here on signals end the run, so that none comes between a machine and its disks."""
        self._signals = Signals((*ENDING, signal.SIGCONT))
        self._loop.watch(self._signals.fd, lambda: self._on_signals(self._signals.take()))
        return self

    def __exit__(self, *_error: object) -> None:
        """End the main loop. Raises what a callback raised there."""
        try:
            self._loop.close()
        finally:
            self._signals.close()

    def run(self, machine: Machine) -> Outcome:
        """Run to the end and hand out the last output; the terminal is as before. Once a session."""
        self._machine = machine
        with self._raw_terminal():
            if self._input_fd is not None:
                self._loop.watch(self._input_fd, self._on_input)
            self._loop.start()
            try:
                outcome = Outcome(OutcomeKind.STOPPED) if self.cause is not None else machine.run()
            finally:
                self._machine = None
                self.output.flush()
        if self.cause is Cause.TIMEOUT and outcome.kind is OutcomeKind.STOPPED:
            return Outcome(OutcomeKind.TIMEOUT)
        return outcome

    def _tick(self) -> bool:
        """Main loop: left-over output, and input that waits for the guest."""
        if self._input_paused and self._machine is not None and self._machine.serial_room() > 0:
            self._input_paused = False
            assert self._input_fd is not None
            self._loop.watch(self._input_fd, self._on_input)
        return self.output.tick() or self._input_paused

    def _wake(self) -> None:
        self._loop.wake()

    @contextlib.contextmanager
    def _raw_terminal(self) -> Iterator[None]:
        """The terminal is raw inside, where there is one."""
        if self._input_fd is not None and os.isatty(self._input_fd):
            with contextlib.suppress(OSError, termios.error):
                self._terminal = RawTerminal(self._input_fd, keep_signals=self._keys is None)
                self._terminal.enter()
        try:
            yield
        finally:
            self._restore_terminal()

    def _restore_terminal(self) -> None:
        if self._terminal is not None:
            with contextlib.suppress(OSError, termios.error):
                self._terminal.restore()

    def _on_input(self) -> None:
        """Main loop: bytes for COM1, or their end."""
        fd, machine = self._input_fd, self._machine
        if fd is None:
            return
        if machine is None:  # the run is over: what is typed now is for the shell
            self._loop.unwatch(fd)
            return
        try:
            data = os.read(fd, INPUT_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._loop.unwatch(fd)
            return
        for event in self._keys.feed(data) if self._keys is not None else [data]:
            if isinstance(event, bytes):
                machine.serial_input(event)
            else:
                self._on_key(event)
        if machine.serial_room() <= 0:
            self._input_paused = True
            self._loop.unwatch(fd)
            self._loop.wake()

    def _on_key(self, key: Key) -> None:
        if key is Key.QUIT:
            self.stop(Cause.QUIT)
        else:
            print(HELP if key is Key.HELP else NO_MONITOR, end="", file=sys.stderr, flush=True)

    def _on_signals(self, numbers: list[int]) -> None:
        """Main loop: the first ending signal stops the machine, the second the process."""
        for number in numbers:
            if number == signal.SIGCONT:
                if self._terminal is not None and self.cause is None:
                    self._terminal.enter()
            elif number in ENDING:
                if self.signal_number:
                    self._restore_terminal()
                    os._exit(128 + number)
                self.signal_number = number
                self.stop(Cause.SIGNAL)
