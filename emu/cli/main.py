"""The command `emu`: finds the subcommand, and turns every error into one line and an exit status."""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Final, TextIO

from emu import __version__
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


def main(argv: list[str] | None = None) -> int:
    """Run one command line; return the exit status. No exception leaves it."""
    words = sys.argv[1:] if argv is None else argv
    if sys.stdout is None:  # started with standard output closed
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - lives as long as we do
    try:
        status = _dispatch(words, sys.stdout)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # the flush at exit must not fail again
        return PIPE_BROKEN
    except Exception as error:  # the last line of defence: a user never sees a traceback
        if os.environ.get("EMU_DEBUG"):
            raise
        return _tell(error)
    return status


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
    if isinstance(error, EmuError):
        print(f"emu: {error}", file=sys.stderr)
        return BAD_COMMAND_LINE if isinstance(error, ConfigError) else INTERNAL
    if isinstance(error, OSError) and error.filename is not None:
        print(f"emu: {error.filename}: {error.strerror}", file=sys.stderr)
        return BAD_COMMAND_LINE
    text = " ".join(str(error).split())
    print(f"emu: internal error: {type(error).__name__}: {text} (EMU_DEBUG=1 shows where)", file=sys.stderr)
    return INTERNAL


def _usage() -> str:
    lines = [f"  {name:<10}{text}" for name, text in COMMANDS.items()]
    head = "usage: emu SUBCOMMAND ...\n\nA whole x86-64 PC in Python.\n"
    return "\n".join([head, *lines, "", "emu SUBCOMMAND --help tells more; emu --version.", ""])
