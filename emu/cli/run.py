"""`emu run`: one machine in this terminal."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, TextIO

from emu.cli.chardev import CharDevice, open_device
from emu.cli.flags import TABLE, parse_flags
from emu.cli.machine_flags import finish
from emu.cli.options import help_text
from emu.cli.output import FileSink
from emu.cli.seat import Seat
from emu.cli.session import Cause, Session
from emu.cli.startup import uncollected
from emu.config import MachineConfig, Outcome, OutcomeKind
from emu.errors import ConfigError

if TYPE_CHECKING:
    from emu.boards.pc import PcBoard
    from emu.cli.curses_display import CursesDisplay
    from emu.machine import Machine

USAGE: Final = "usage: emu run [flags] [IMAGE]\n\nRun a guest. Flags are spelled and valued as QEMU's."
EPILOG: Final = """\
exit status: (N << 1) | 1 when the guest writes N to isa-debug-exit; 0 power-off, reset with -no-reboot,
Ctrl-A X, the monitor's quit; 1 internal error; 2 bad command line; 3 triple fault; 4 guest halted with
interrupts off, --timeout; 128 + N after signal N.

keys of -nographic and mon:stdio: Ctrl-A X ends the run, Ctrl-A C goes to the monitor and back, Ctrl-A B
sends a break, Ctrl-A Ctrl-A a Ctrl-A, Ctrl-A H lists them; every other key, Ctrl-C too, is the guest's.
keys of -display curses: Alt-1 shows the screen, Alt-2 the monitor, where quit ends the run, Alt-3 COM1;
every other key is the guest's. Alt-x and Esc x are the same."""

POWER_OFF, TRIPLE_FAULT, HANG = 0, 3, 4
STATUS: Final = {
    OutcomeKind.POWER_OFF: POWER_OFF,
    OutcomeKind.RESET: POWER_OFF,
    OutcomeKind.STOPPED: POWER_OFF,
    OutcomeKind.TRIPLE_FAULT: TRIPLE_FAULT,
    OutcomeKind.HALTED: HANG,
    OutcomeKind.TIMEOUT: HANG,
}


def run(argv: list[str], out: TextIO) -> int:
    """Run the machine that `argv` asks for; return the exit status."""
    draft = parse_flags(argv)
    if draft.help:
        out.write(help_text(USAGE, TABLE, EPILOG))
        return 0
    if draft.image is not None:
        draft.image = find_image(draft.image)
    return run_machine(finish(draft, is_kernel), out)


def run_machine(config: MachineConfig, out: TextIO) -> int:
    """Run one machine with COM1 where `config.serial` says."""
    check_reports(config)
    with contextlib.ExitStack() as stack:
        display = open_terminal(config, out, stack)
        console = stack.enter_context(open_serial(config, display, out))
        chardevs = stack.enter_context(open_chardevs(config, out))
        monitor = None
        if config.monitor not in ("mux", "vc", "none"):
            monitor = stack.enter_context(open_device(config.monitor, "compat_monitor0", "-monitor", out))
        session = stack.enter_context(Session(config, console.sink, console.source, keys=console.keys))
        connect(session, console)
        board = build(config, session)
        machine = stack.enter_context(contextlib.closing(board.machine))
        connect_ports(session, machine, chardevs)
        seat = Seat(session, board)
        if console.keys:
            session.on_break = seat.send_break
            session.make_monitor = None if config.monitor == "none" else seat.console
        if monitor is not None:
            connect(session, monitor)
            seat.add_monitor(monitor)
        if display is not None:
            seat.add_display(display, console.sink, config)
        outcome = run_board(session, board)
        report(session, outcome, machine.rip_text)
        write_reports(config, machine, out)
    return exit_status(session, outcome)


def build(config: MachineConfig, session: Session) -> "PcBoard":
    """The board, its COM1 joined with the session. Raises ConfigError."""
    with uncollected():
        from emu.boards.pc import assemble_pc  # noqa: PLC0415 - the engine loads only when a machine is built

        return assemble_pc(config, serial_out=session.output.write)


def run_board(session: Session, board: "PcBoard") -> Outcome:
    """Run to the end. Raises ConfigError where that came from a bad file, or one that took no more."""
    outcome = session.run(board.machine)
    session.check_output()
    if session.cause is None:
        board.check_inputs()
    return outcome


def exit_status(session: Session, outcome: Outcome) -> int:
    """The status that says how the run ended."""
    if outcome.kind is OutcomeKind.DEBUG_EXIT:
        return (outcome.value << 1 | 1) & 0xFF
    if session.cause is Cause.SIGNAL:
        return 128 + session.signal_number
    if session.cause is Cause.BROKEN:
        return 128 + signal.SIGPIPE
    return STATUS[outcome.kind]


def report(session: Session, outcome: Outcome, rip_text: Callable[[], str]) -> None:
    """Say on standard error what the status alone does not: where the guest was."""
    if outcome.kind is OutcomeKind.TRIPLE_FAULT:
        print(f"emu: triple fault at {rip_text()}", file=sys.stderr)
    elif outcome.kind is OutcomeKind.HALTED:
        print(f"emu: guest halted with interrupts off at {rip_text()}", file=sys.stderr)
    elif outcome.kind is OutcomeKind.TIMEOUT:
        print(f"emu: timed out, guest at {rip_text()}", file=sys.stderr)
    elif session.cause is Cause.SIGNAL:
        name = signal.Signals(session.signal_number).name
        print(f"emu: ended by {name}, guest at {rip_text()}", file=sys.stderr)


def write_reports(config: MachineConfig, machine: "Machine", out: TextIO) -> None:
    """Write what `--exits` and `--trace` ask for: tables to standard error, JSON to files."""
    if config.exits is None and config.trace is None:
        return
    from emu.cli.exits import document, spent_table, table, write_json  # noqa: PLC0415 - most runs do not ask

    if config.trace is not None and machine.trace is not None:
        write_json(config.trace, machine.trace.document(), out)
    if config.exits is None:
        return
    rows = machine.ledger.rows()
    spent = machine.profile.spent() if machine.profile is not None else []
    if config.exits.file is not None:
        write_json(config.exits.file, document(rows, spent, config.exits), out)
        return
    sys.stderr.write(table(rows))
    if machine.profile is not None:
        sys.stderr.write("\n" + spent_table(spent, config.exits))


def check_reports(config: MachineConfig) -> None:
    """Say before the run what cannot be written after it. Raises ConfigError."""
    for name in (config.trace, None if config.exits is None else config.exits.file):
        if name is not None and name != "-":
            from emu.bus.output_file import check_output  # noqa: PLC0415 - most runs do not ask

            check_output(name)


def find_image(word: str) -> str:
    """The file that an IMAGE on the command line means: itself, or a built guest image's name."""
    if os.path.exists(word):  # noqa: PTH110 - pathlib costs 3 ms of start
        return word
    from emu.cli.images import resolve  # noqa: PLC0415 - hashes and folders, for names only

    return resolve(word)


def connect(session: Session, device: CharDevice) -> None:
    """A vital sink that nobody reads ends the session, and an ending session waits for no reader."""
    sink, before = device.sink, session.on_stop
    if isinstance(sink, FileSink):
        if device.vital:
            sink.on_broken = lambda: session.lose(sink)

        def cancel() -> None:
            before()
            sink.cancel()

        session.on_stop = cancel


def open_terminal(config: MachineConfig, out: TextIO, stack: contextlib.ExitStack) -> "CursesDisplay | None":
    """The display, where one is asked for. Raises ConfigError where it cannot be."""
    if config.display == "none":
        return None
    from emu.cli.curses_display import open_display  # noqa: PLC0415 - most runs have none

    display = open_display(out)
    stack.callback(display.close)
    return display


def open_serial(
    config: MachineConfig, display: "CursesDisplay | None", out: TextIO
) -> contextlib.AbstractContextManager[CharDevice]:
    """Where COM1 goes: a console of the display, or a device of the host."""
    if config.serial == "vc" and display is not None:
        return contextlib.nullcontext(CharDevice(display.serial))
    return open_device(config.serial, "serial0", "-serial", out)


@contextlib.contextmanager
def open_chardevs(config: MachineConfig, out: TextIO) -> Iterator[dict[str, CharDevice]]:
    """Every `-chardev` that a device uses, by its id. Raises ConfigError where one cannot be had."""
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(open_device(target, name, f"-chardev {name}", out))
            for name, target in config.chardevs.items()
        }


def connect_ports(session: Session, machine: "Machine", chardevs: Mapping[str, CharDevice]) -> None:
    """Join each virtio port with its `-chardev`."""
    for name, port in machine.char_ports.items():
        connect(session, chardevs[name])
        session.add_port(chardevs[name], port)


def is_kernel(path: str) -> bool:
    """True for a kernel that boots without firmware, False for a disk. Raises ConfigError for neither."""
    from emu.boot.recognise import ImageKind, recognise  # noqa: PLC0415 - only where an IMAGE is given

    found = recognise(path)
    if not found.bootable:
        raise ConfigError(f"{path}: {found.description}")
    return found.kind in (ImageKind.PVH, ImageKind.MULTIBOOT, ImageKind.LINUX)
