"""The place in front of a running machine: joins its panel with monitor and display."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from emu.cli.session import Cause, Session
from emu.config import MachineConfig

if TYPE_CHECKING:
    from emu.boards.panel import Panel
    from emu.boards.pc import PcBoard
    from emu.cli.chardev import CharDevice
    from emu.cli.curses_display import CursesDisplay
    from emu.cli.monitor import Monitor
    from emu.cli.monitor_port import MonitorConsole
    from emu.cli.output import Sink

ROOM_IN_MONITOR = 1 << 10


class Seat:
    """Loads what is asked for when it is asked for: most runs end without a monitor ever used."""

    def __init__(self, session: Session, board: "PcBoard") -> None:
        self._session, self._board = session, board
        self._panel: Panel | None = None
        self._monitor: Monitor | None = None

    @property
    def panel(self) -> "Panel":
        """The machine's keyboard, mouse, screen and switches."""
        if self._panel is None:
            from emu.boards.panel import Panel  # noqa: PLC0415 - see the class

            self._panel = Panel(self._board)
        return self._panel

    @property
    def monitor(self) -> "Monitor":
        """What executes the monitor's commands."""
        if self._monitor is None:
            from emu.cli.monitor import Monitor  # noqa: PLC0415 - see the class

            self._monitor = Monitor(self.panel, lambda: self._session.stop(Cause.QUIT))
        return self._monitor

    def send_break(self) -> None:
        """Ctrl-A B."""
        self.panel.send_break()

    def console(self, say: Callable[[bytes], None]) -> "MonitorConsole":
        """The monitor on a terminal."""
        from emu.cli.monitor_port import MonitorConsole  # noqa: PLC0415 - see the class

        return MonitorConsole(self.monitor, say, echo=True)

    def add_monitor(self, device: "CharDevice") -> None:
        """The monitor on a device of its own; a terminal sees what is typed, a program does not."""
        from emu.cli.monitor_port import MonitorPort  # noqa: PLC0415 - see the class

        if device.source is None:  # standard input is closed: nobody will say anything
            return
        echo = device.source.terminal is not None
        session = self._session
        session.add_part(MonitorPort(self.monitor, device, session.wake, echo=echo))

    def add_display(self, display: "CursesDisplay", com1: "Sink", config: MachineConfig) -> None:
        """The screen, and a console for everything on `vc`."""
        from emu.cli.curses_display import StreamConsole, VgaConsole  # noqa: PLC0415 - see the class
        from emu.cli.text_console import TextConsole  # noqa: PLC0415 - see the class

        machine = self._board.machine
        display.consoles.append(VgaConsole(self.panel))
        if config.monitor == "vc":
            text = TextConsole()
            monitor = self.console(text.write)
            display.consoles.append(StreamConsole("monitor", text, monitor.feed, lambda: ROOM_IN_MONITOR))
            monitor.greet()
        if com1 is display.serial:
            feed, room = machine.serial_input, machine.serial_room
            display.consoles.append(StreamConsole("serial", display.serial, feed, room))
        self._session.add_display(display)
