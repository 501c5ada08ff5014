"""One run of one machine under a command: its console, its signals, its end."""

import contextlib
import enum
import errno
import os
import signal
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from typing import Protocol, Self

from emu.bus.output_file import failure
from emu.cli.chardev import CharDevice, Source
from emu.cli.escapes import HELP, NO_MONITOR, Key
from emu.cli.mainloop import ENDING, MainLoop, Signals
from emu.cli.output import FileSink, SerialOutput, Sink
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


class Part(Protocol):
    """What else a session runs: a virtio port, the monitor's device, a display. Main loop's own."""

    @property
    def pump(self) -> Pump | None:
        """What reads the user's side, where there is something to read."""

    def start(self, loop: MainLoop, /) -> None:
        """Begin; before the loop starts. A terminal to read from is raw already."""

    def stop(self) -> None:
        """The run is over."""

    def tick(self) -> bool:
        """Go on where somebody was slow; True to be called again."""


class Display(Part, Protocol):
    """A part that owns the terminal."""

    def refresh(self) -> None:
        """The terminal has another size, or shows something else."""

    def restore(self) -> None:
        """Give it back as it was; harmless when it is so already. Any thread."""


class Cause(enum.Enum):
    """Who ended a run from outside."""

    SIGNAL = "signal"
    TIMEOUT = "timeout"
    QUIT = "Ctrl-A X or the monitor's quit"
    BROKEN = "closed output"
    VERDICT = "verdict"
    FAILED = "the main loop failed"


class Session:
    """Runs a machine on the calling (main) thread with a main loop beside it.

    `sink` gets COM1's output in batches. `source` feeds COM1; a terminal there is made raw, and with `keys`
    the Ctrl-A keys work: `make_monitor` is called for the first Ctrl-A C, `on_break` for each Ctrl-A B. Enter
    the session, build the machine, `add_port`, `add_part`, `run`, close the machine, leave.
    `cause` tells who stopped it (None: the guest), `signal_number` with what.
    """

    def __init__(self, config: MachineConfig, sink: Sink, source: Source | None, *, keys: bool) -> None:
        self._config = config
        self._com1 = None if source is None else Pump(source, keys=keys, on_key=self._on_com1_key)
        self._front: Multiplexer | None = None
        self._parts: list[Part] = []
        self._display: Display | None = None
        self._machine: Machine | None = None
        self._terminal: RawTerminal | None = None
        self.output = SerialOutput(sink, self.wake)
        self.cause: Cause | None = None
        self.signal_number = 0
        self.lost: FileSink | None = None
        self._moving = threading.Lock()  # held while parts tick: one that was stopped looks at no machine
        self._is_over = False
        self.on_stop: Callable[[], None] = lambda: None
        self.make_monitor: Callable[[Callable[[bytes], None]], Console] | None = None
        self.on_break: Callable[[], None] = lambda: None
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

    def lose(self, sink: FileSink) -> None:
        """End the run: what was asked for cannot be written. Any thread."""
        self.lost = sink
        self.stop(Cause.BROKEN)

    def check_output(self) -> None:
        """After the run. Raises ConfigError where a sink took no more, unless its reader has just left."""
        error = None if self.lost is None else self.lost.failure
        if self.lost is not None and error is not None and error.errno not in (errno.EPIPE, errno.EIO):
            raise failure(self.lost.name, error)

    def __enter__(self) -> Self:
        """From here on signals end the run, so that none comes between a machine and its disks."""
        self._signals = Signals((*ENDING, signal.SIGCONT, signal.SIGWINCH))
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
        self.add_part(PortPump(port, device.sink, pump, self.wake))

    def add_part(self, part: Part) -> None:
        """Run this, too; before `run`."""
        self._parts.append(part)

    def add_display(self, display: Display) -> None:
        """The same for what owns the terminal."""
        self._display = display
        self.add_part(display)

    def run(self, machine: Machine) -> Outcome:
        """Run to the end and hand out the last output; the terminal is as before. Once a session."""
        self._machine = machine
        with self._raw_terminal():
            if self._com1 is not None:
                self._front = Multiplexer(machine)
                self._com1.start(self._loop, self._front)
            for part in self._parts:
                part.start(self._loop)
            self._loop.start()
            try:
                outcome = Outcome(OutcomeKind.STOPPED) if self.cause is not None else machine.run()
            finally:
                self._machine = None
                if self._com1 is not None:
                    self._com1.guest = None
                with self._moving:
                    self._is_over = True
                    for part in self._parts:
                        part.stop()
                self.output.flush()
        if self.cause is Cause.TIMEOUT and outcome.kind is OutcomeKind.STOPPED:
            return Outcome(OutcomeKind.TIMEOUT)
        return outcome

    def _tick(self) -> bool:
        """Main loop: left-over output, and input that waits for the guest."""
        with self._moving:
            waiting = self._com1 is not None and self._com1.tick()
            busy = [not self._is_over and part.tick() for part in self._parts]
        return self.output.tick() or waiting or any(busy)

    def wake(self) -> None:
        """Have the main loop tick. Any thread."""
        self._loop.wake()

    @contextlib.contextmanager
    def _raw_terminal(self) -> Iterator[None]:
        """The terminal is raw inside, where there is one."""
        for pump in (self._com1, *(part.pump for part in self._parts)):
            if pump is not None and pump.source.terminal is not None:
                with contextlib.suppress(OSError, termios.error):
                    self._terminal = RawTerminal(pump.source.terminal, keep_signals=pump.keep_signals)
                    self._terminal.enter()
        try:
            yield
        finally:
            self._restore_terminal()

    def _restore_terminal(self) -> None:
        if self._display is not None:
            self._display.restore()
        if self._terminal is not None:
            with contextlib.suppress(OSError, termios.error):
                self._terminal.restore()

    def _on_com1_key(self, key: Key) -> None:
        """One of the Ctrl-A keys where COM1 and the monitor share a terminal."""
        front = self._front
        if key is Key.BREAK:
            self.on_break()
        elif key is Key.MONITOR and front is not None and self.make_monitor is not None:
            if front.monitor is None:
                front.monitor = self.make_monitor(self.output.insert)
            front.switch()
            if not front.in_monitor:
                self.output.insert(b"\r\n")
        else:
            self._on_key(key)

    def _on_key(self, key: Key) -> None:
        if key is Key.QUIT:
            self.stop(Cause.QUIT)
        elif key is not Key.BREAK:
            print(HELP if key is Key.HELP else NO_MONITOR, end="", file=sys.stderr, flush=True)

    def _refresh(self) -> None:
        if self._display is not None and self.cause is None:
            self._display.refresh()

    def _on_signals(self, numbers: list[int]) -> None:
        """Main loop: the first ending signal stops the machine, the second the process."""
        for number in numbers:
            if number == signal.SIGCONT:
                if self._terminal is not None and self.cause is None:
                    self._terminal.enter()
                self._refresh()
            elif number == signal.SIGWINCH:
                self._refresh()
            elif number in ENDING:
                if self.signal_number:
                    self._restore_terminal()
                    os._exit(128 + number)
                self.signal_number = number
                self.stop(Cause.SIGNAL)


class Console(Protocol):
    """The monitor's line editor; see `emu.cli.monitor_port.MonitorConsole`."""

    def greet(self) -> None:
        """Somebody is there for the first time."""

    def prompt(self) -> None:
        """Somebody is back."""

    def feed(self, data: bytes, /) -> None:
        """What was typed."""


class Multiplexer:
    """COM1 as a pump sees it, and the monitor behind the same keys. Main loop's own."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.monitor: Console | None = None
        self.in_monitor = False
        self._has_greeted = False

    def switch(self) -> None:
        """From the guest to the monitor, or back."""
        self.in_monitor = not self.in_monitor
        if self.in_monitor and self.monitor is not None:
            if self._has_greeted:
                self.monitor.prompt()
            else:
                self.monitor.greet()
            self._has_greeted = True

    def input(self, data: bytes) -> None:
        """See `GuestInput`."""
        if self.in_monitor and self.monitor is not None:
            self.monitor.feed(data)
        else:
            self._machine.serial_input(data)

    def room(self) -> int:
        """See `GuestInput`."""
        return 1 if self.in_monitor else self._machine.serial_room()
