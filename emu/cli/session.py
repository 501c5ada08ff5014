"""One run of one machine under a command: its console, its signals, its end."""

import contextlib
import enum
import os
import signal
import sys
import termios
from collections.abc import Callable, Iterator
from typing import Protocol, Self

from emu.cli.chardev import CharDevice, Source
from emu.cli.escapes import HELP, NO_MONITOR, Key
from emu.cli.mainloop import ENDING, MainLoop, Signals
from emu.cli.output import SerialOutput, Sink
from emu.cli.pump import Port, PortPump, Pump
from emu.cli.terminal import RawTerminal
from emu.config import MachineConfig, Outcome, OutcomeKind


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

    `sink` gets COM1's output in batches. `source` feeds COM1; a terminal there is made raw, and with `keys`
    the Ctrl-A keys work. Enter the session, build the machine, `add_port`, `run`, close the machine, leave.
    `cause` tells who stopped it (None: the guest), `signal_number` with what.
    """

    def __init__(self, config: MachineConfig, sink: Sink, source: Source | None, *, keys: bool) -> None:
        self._config = config
        self._com1 = None if source is None else Pump(source, keys=keys, on_key=self._on_key)
        self._ports: list[PortPump] = []
        self._machine: Machine | None = None
        self._terminal: RawTerminal | None = None
        self.output = SerialOutput(sink, self._wake)
        self.cause: Cause | None = None
        self.signal_number = 0
        self.on_stop: Callable[[], None] = lambda: None
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

    def add_port(self, device: CharDevice, port: Port) -> None:
        """Join a device of the host and a virtio port; before `run`."""
        pump = None if device.source is None else Pump(device.source, keys=device.keys, on_key=self._on_key)
        self._ports.append(PortPump(port, device.sink, pump, self._wake))

    def run(self, machine: Machine) -> Outcome:
        """Run to the end and hand out the last output; the terminal is as before. Once a session."""
        self._machine = machine
        with self._raw_terminal():
            if self._com1 is not None:
                self._com1.start(self._loop, _Com1(machine))
            for port in self._ports:
                port.start(self._loop)
            self._loop.start()
            try:
                outcome = Outcome(OutcomeKind.STOPPED) if self.cause is not None else machine.run()
            finally:
                self._machine = None
                if self._com1 is not None:
                    self._com1.guest = None
                for port in self._ports:
                    port.stop()
                self.output.flush()
        if self.cause is Cause.TIMEOUT and outcome.kind is OutcomeKind.STOPPED:
            return Outcome(OutcomeKind.TIMEOUT)
        return outcome

    def _tick(self) -> bool:
        """Main loop: left-over output, and input that waits for the guest."""
        waiting = self._com1 is not None and self._com1.tick()
        blocked = [port.tick() for port in self._ports]
        return self.output.tick() or waiting or any(blocked)

    def _wake(self) -> None:
        self._loop.wake()

    @contextlib.contextmanager
    def _raw_terminal(self) -> Iterator[None]:
        """The terminal is raw inside, where there is one."""
        for pump in (self._com1, *(port.pump for port in self._ports)):
            if pump is not None and pump.source.terminal is not None:
                with contextlib.suppress(OSError, termios.error):
                    self._terminal = RawTerminal(pump.source.terminal, keep_signals=pump.keys is None)
                    self._terminal.enter()
        try:
            yield
        finally:
            self._restore_terminal()

    def _restore_terminal(self) -> None:
        if self._terminal is not None:
            with contextlib.suppress(OSError, termios.error):
                self._terminal.restore()

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


class _Com1:
    """COM1 as a pump sees it."""

    def __init__(self, machine: Machine) -> None:
        self.input, self.room = machine.serial_input, machine.serial_room
