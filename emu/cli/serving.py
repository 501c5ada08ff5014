"""What the kinds of `emu serve` share: sockets, polling, counters, and how it ends."""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TextIO, TypeVar

from emu.bus.costs import Costs
from emu.cli.mainloop import ENDING
from emu.cli.options import Option, help_text, number, parse
from emu.errors import ConfigError
from emu.serve.counters import Account
from emu.serve.endpoint import Endpoint
from emu.serve.loop import Loop
from emu.serve.types import OpenDevice

MAX_SOCKETS: Final = 64
HIDDEN: Final = ("while-fd",)
"""Flags for the program that starts us, not for people."""


@dataclass(slots=True)
class ServeDraft:
    """What the common flags have said so far."""

    sockets: list[str] = field(default_factory=list)
    poll: bool = False
    counters: str | None = None
    while_fd: int | None = None
    help: bool = False


class Served(NamedTuple):
    """What is served: for each socket what makes a front-end's device, who counts, and what ends it all."""

    devices: list[OpenDevice]
    costs: list[Callable[[], Costs]]
    close: Callable[[], None]


D = TypeVar("D", bound=ServeDraft)


def _add_socket(draft: ServeDraft, text: str) -> None:
    if not text:
        raise ConfigError("needs a path")
    if text in draft.sockets:
        raise ConfigError(f"{text} is there twice; each front-end needs its own")
    if len(draft.sockets) == MAX_SOCKETS:
        raise ConfigError(f"{MAX_SOCKETS} are possible")
    draft.sockets.append(text)


def _set_while_fd(draft: ServeDraft, text: str) -> None:
    draft.while_fd = number("while-fd", text, 0, 1 << 20)
    try:
        os.fstat(draft.while_fd)
    except OSError as error:
        raise ConfigError(f"{text}: {error.strerror}") from error


def common_options(_draft: type[D]) -> tuple[Option[D], ...]:
    """The flags of every kind, for its draft."""
    return (
        Option("socket", "PATH", _add_socket, "listen there; again for each more guest", ours=True),
        Option(
            "poll",
            None,
            lambda draft, _: setattr(draft, "poll", True),
            "look at the rings all the time instead of waiting for kicks: takes a core",
            ours=True,
        ),
        Option(
            "counters",
            "FILE",
            lambda draft, text: setattr(draft, "counters", text),
            "keep what serving cost in FILE, a page of numbers",
            ours=True,
        ),
        Option("while-fd", "N", _set_while_fd, "end when descriptor N reaches its end", ours=True),
        Option("help", None, lambda draft, _: setattr(draft, "help", True), "this text"),
        Option("h", None, lambda draft, _: setattr(draft, "help", True), "this text"),
    )


def read_flags(
    argv: list[str], table: tuple[Option[D], ...], draft: D, usage: str, epilog: str, out: TextIO
) -> bool:
    """Fill the draft from the command line; False where only the help was wanted. Raises ConfigError."""
    parse(argv, table, draft, _no_word)
    if draft.help:
        out.write(help_text(usage, [option for option in table if option.name not in HIDDEN], epilog))
    return not draft.help


def _no_word(_draft: ServeDraft, word: str) -> None:
    raise ConfigError(f'"{word}": this kind takes flags only')


def serve(draft: ServeDraft, make: Callable[[Loop], Served], out: TextIO) -> int:
    """Listen and serve until a signal or the end of --while-fd. Raises ConfigError."""
    if not draft.sockets:
        raise ConfigError("nothing to listen at: give --socket PATH")
    loop = Loop(poll=draft.poll)
    with contextlib.ExitStack() as undo:
        undo.callback(loop.close)
        served = make(loop)
        undo.callback(served.close)
        if draft.counters is not None:
            account = Account(draft.counters, [lambda: loop.costs, *served.costs])
            undo.callback(account.flush)
            loop.before_telling = account.flush
        for path, open_device in zip(draft.sockets, served.devices, strict=True):
            undo.callback(Endpoint(loop, path, open_device).close)
        if draft.while_fd is not None:
            try:
                loop.watch(draft.while_fd, _end_with(loop, draft.while_fd))
            except PermissionError:  # epoll's word for a file
                raise ConfigError(f"--while-fd {draft.while_fd}: a file; give a pipe or a socket") from None
        if draft.poll:
            _warn_of_cores(len(draft.sockets))
        undo.enter_context(_signals(loop))
        for path in draft.sockets:
            print(f"listening on {path}", file=out, flush=True)
        loop.run()
    return 0


def _end_with(loop: Loop, fd: int) -> Callable[[], None]:
    def look() -> None:
        try:
            rest = os.read(fd, 4096)
        except OSError:
            rest = b""
        if not rest:
            loop.stop()

    return look


def _warn_of_cores(guests: int) -> None:
    """Where more threads want to run than there are cores, polling makes everything wait for slices."""
    cores = len(os.sched_getaffinity(0))
    if guests + 1 > cores:
        have = "1 core" if cores == 1 else f"{cores} cores"
        many = "a guest" if guests == 1 else f"{guests} guests"
        print(f"emu: serve: --poll and {many} want {guests + 1} cores, there is {have}", file=sys.stderr)


@contextlib.contextmanager
def _signals(loop: Loop) -> Iterator[None]:
    """The signals that end a program end the loop, but for those ignored before (nohup)."""
    before = {number: signal.getsignal(number) for number in ENDING}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    try:
        for number in before:
            signal.signal(number, lambda _number, _frame: loop.stop())
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
