"""The command `emu`: finds the subcommand, and turns every error into one line and an exit status."""

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Final, TextIO

from emu import __version__
from emu.cli.standard_files import FAILURES, forget_output, one_line, set_up
from emu.cli.startup import uncollected
from emu.errors import ConfigError, EmuError

OK, INTERNAL, BAD_COMMAND_LINE, INTERRUPTED, PIPE_BROKEN = 0, 1, 2, 130, 141

COMMANDS: Final = {
    "run": "run a guest in this terminal",
    "compare": "one piece of work over every I/O path, and what each cost",
    "smoke": "run a guest until its output decides",
    "bench": "measure exits, instructions a second, boots",
    "serve": "serve disks or network cards to machines of other processes",
    "paths": "list the ways a request can take",
    "images": "list the guest images",
    "devices": "list what -device takes",
}


class EndedError(BaseException):
    """A signal came that ends the program; `number` is which."""

    def __init__(self, number: int) -> None:
        self.number = number


def main(argv: list[str] | None = None) -> int:
    """Run one command line; return the exit status. No exception leaves it."""
    words = sys.argv[1:] if argv is None else argv
    try:
        set_up()
        with _ended_by_signals():
            status = _dispatch(words, sys.stdout)
            sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except EndedError as ended:
        return 128 + ended.number
    except BrokenPipeError:
        forget_output()
        return PIPE_BROKEN
    except Exception as error:  # the last line of defence: a user never sees a traceback
        if os.environ.get("EMU_DEBUG"):
            raise
        return _tell(error)
    return status


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP let go of files and sockets first, as Ctrl-C does; a second one does not wait."""
    numbers = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_DFL]

    def end(number: int, _frame: object) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)
        raise EndedError(number)

    for each in numbers:
        signal.signal(each, end)
    try:
        yield
    finally:
        for each in numbers:
            signal.signal(each, signal.SIG_DFL)


def _dispatch(words: list[str], out: TextIO) -> int:
    if not words:
        sys.stderr.write(_usage())
        return BAD_COMMAND_LINE
    name, *rest = words
    if name in ("--help", "-h", "-help", "help"):
        out.write(_usage())
        return OK
    if name in ("--version", "-version"):
        out.write(f"emu {__version__}\n")
        return OK
    if name not in COMMANDS:
        from emu.cli.options import nearest  # noqa: PLC0415 - --help starts faster without it

        raise ConfigError(f'"{name}" is no subcommand; {nearest(name, COMMANDS)}')
    return _subcommand(name)(rest, out)


def _subcommand(name: str) -> Callable[[list[str], TextIO], int]:
    """`run` of the subcommand's file. Raises ConfigError where that file does not exist."""
    module = f"emu.cli.{name}"
    try:
        with uncollected():
            found: Callable[[list[str], TextIO], int] = import_module(module).run
    except ModuleNotFoundError as error:
        if error.name == module:
            raise ConfigError(f"{name}: not built yet") from None
        raise
    return found


def _tell(error: Exception) -> int:
    """One line on standard error; the exit status for it."""
    status, text = BAD_COMMAND_LINE, str(error)
    if isinstance(error, EmuError):
        status = BAD_COMMAND_LINE if isinstance(error, ConfigError) else INTERNAL
    elif isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    elif isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        text = f"{error.strerror}; raise the limit (ulimit -n)"
    elif isinstance(error, OSError) and error.errno in FAILURES:
        from emu.bus.output_file import failure  # noqa: PLC0415 - once, at the end

        forget_output()
        text = str(failure("standard output", error))
    else:
        status = INTERNAL
        words = " ".join(text.split())
        text = f"internal error: {type(error).__name__}: {words} (EMU_DEBUG=1 shows where)"
    print(f"emu: {one_line(text)}", file=sys.stderr)
    return status


def _usage() -> str:
    lines = [f"  {name:<10}{text}" for name, text in COMMANDS.items()]
    head = "usage: emu SUBCOMMAND ...\n\nA whole x86-64 PC in Python.\n"
    return "\n".join([head, *lines, "", "emu SUBCOMMAND --help tells more; emu --version.", ""])
