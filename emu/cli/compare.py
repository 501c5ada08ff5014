"""`emu compare`: one piece of work over every I/O path, and what each cost."""

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, TextIO

from emu.bus.output_file import check_output, write_output
from emu.cli.exits import write_json
from emu.cli.images import resolve
from emu.cli.mainloop import ENDING
from emu.cli.options import Option, help_text, nearest, number, parse
from emu.cli.output import Sink
from emu.cli.paths import PATHS
from emu.cli.session import Session
from emu.compare.machines import paths_of
from emu.compare.measure import Row, measure
from emu.compare.report import Comparison, Host, document, print_plain, print_rich
from emu.compare.workloads import OPS, QUEUE_SIZE, Medium, PatternDisk, PatternFrames, Workload, check
from emu.config import MachineConfig, Outcome
from emu.errors import ConfigError
from emu.machine import Machine

NOT_AS_BUDGETED: Final = 1
MOST_GUESTS: Final = 64
USAGE: Final = """\
usage: emu compare [--paths A,B] [--op OP] [--bs N] [--qd N] [--count N] [--vms N]
                   [--json FILE|-] [--html FILE]

Let the same guest do the same work over each path, check every byte, and print what it cost."""
EPILOG: Final = """\
exit status: 0 all rows verified and in budget, 1 a row is not, 2 bad command line, 128 + N signal N.
emu paths lists the paths and what each does. Counts are exact; times are this machine's."""


@dataclass(slots=True)
class Draft:
    """The command line so far."""

    paths: list[str] = field(default_factory=list)
    op: str = "read"
    bs: int = 4096
    qd: int = 1
    count: int = 1000
    vms: int = 1
    json: str | None = None
    html: str | None = None
    help: bool = False


def _set_paths(draft: Draft, text: str) -> None:
    ready = [path.name for path in PATHS if not path.missing]
    later = {path.name: path.missing for path in PATHS if path.missing}
    draft.paths = []
    for name in text.split(","):
        if name in later:
            raise ConfigError(f'path "{name}" is {later[name]}; there is {", ".join(ready)}')
        if name not in ready:
            raise ConfigError(f'"{name}" is no path; {nearest(name, ready)}')
        if name not in draft.paths:
            draft.paths.append(name)


def _set_op(draft: Draft, text: str) -> None:
    if text not in OPS:
        raise ConfigError(f'"{text}" is no operation; {nearest(text, OPS)}')
    draft.op = text


def _setter(name: str, most: int) -> "Option[Draft]":
    helps = {
        "bs": "bytes a request, a multiple of 512, of a frame one of 64 up to 8192; default 4096",
        "qd": f"requests in flight, 1 to {QUEUE_SIZE}; default 1 (IDE: always 1)",
        "count": "requests; default 1000",
        "vms": "guests at once, a process each, on one back-end where that serves many; default 1",
    }
    return Option(
        name,
        "N",
        lambda draft, text: setattr(draft, name, number(name, text, 1, most)),
        helps[name],
        ours=True,
    )


TABLE: Final[tuple[Option[Draft], ...]] = (
    Option("paths", "A,B", _set_paths, "the paths to take; default: all that are built", ours=True),
    Option("op", "|".join(OPS), _set_op, "what to do; default read", ours=True),
    _setter("bs", 1 << 30),
    _setter("qd", 1 << 16),
    _setter("count", 1 << 40),
    _setter("vms", MOST_GUESTS),
    Option(
        "json",
        "FILE",
        lambda draft, text: setattr(draft, "json", text),
        "write JSON to FILE; -: to standard output, instead of the tables",
        ours=True,
    ),
    Option(
        "html",
        "FILE",
        lambda draft, text: setattr(draft, "html", text),
        "write a report that a browser shows",
        ours=True,
    ),
    Option("help", None, lambda draft, _text: setattr(draft, "help", True), "this text", ours=True),
    Option("h", None, lambda draft, _text: setattr(draft, "help", True), "the same", ours=True),
)


def run(argv: list[str], out: TextIO) -> int:
    """Compare, print, return the exit status."""
    draft = parse(argv, TABLE, Draft(), _refuse)
    if draft.help:
        out.write(help_text(USAGE, TABLE[:-1], EPILOG))
        return 0
    work = Workload(draft.op, draft.bs, draft.qd, draft.count)
    check(work)
    _check_writable(draft)
    paths = _paths(draft)
    runner = Runner()
    rows = measure_all(paths, work, draft.vms, runner)
    if runner.signal_number:
        return 128 + runner.signal_number
    reasons = {path.name: f"{path.server}: {path.doorbell}" for path in PATHS}
    comparison = Comparison(work, Host.this(), rows, reasons, draft.vms)
    _show(comparison, draft, out)
    for line in comparison.complaints():
        print(f"emu: compare: {line}", file=sys.stderr)
    return NOT_AS_BUDGETED if comparison.complaints() else 0


def _paths(draft: Draft) -> list[str]:
    """Those that were asked for, or all that carry the operation. Raises ConfigError."""
    possible = paths_of(draft.op)
    for name in draft.paths:
        if name not in possible:
            raise ConfigError(f'path "{name}" does not carry {draft.op}; {", ".join(possible)} do')
    return draft.paths or list(possible)


def _refuse(_draft: Draft, word: str) -> None:
    raise ConfigError(f'"{word}": compare takes flags only; --help lists them')


def _check_writable(draft: Draft) -> None:
    """Say so before the work is done, not after. Raises ConfigError."""
    for name in (draft.json, draft.html):
        if name is not None and name != "-":
            check_output(name)


def _show(comparison: Comparison, draft: Draft, out: TextIO) -> None:
    if draft.html is not None:
        from emu.compare.html import page  # noqa: PLC0415 - only where it is asked for

        write_output(draft.html, page(comparison).encode())
    if draft.json is not None:
        write_json(draft.json, document(comparison), out)
    if draft.json != "-":
        (print_rich if out.isatty() else print_plain)(comparison, out)


def measure_all(paths: list[str], work: Workload, vms: int, runner: "Runner") -> list[Row]:
    """One row a path, in order; fewer where a signal came. Raises ConfigError."""
    image = resolve("iobench")
    if not os.path.exists(image):  # noqa: PTH110 - as above
        raise ConfigError("the guest image iobench is missing; make images builds it")
    rows: list[Row] = []
    with _folder() as folder, _progress(len(paths)) as progress:
        progress(0, "frames" if work.nets else "disk")
        media = [_medium(work, folder, guest) for guest in range(vms)]
        for done, path in enumerate(paths):
            progress(done, path)
            found = _measure(path, work, media, image, runner)
            if runner.signal_number:
                break
            rows += found
    return rows


def _medium(work: Workload, folder: str, guest: int) -> Medium:
    """What one guest works on."""
    if work.nets:
        return PatternFrames(work)
    return PatternDisk(os.path.join(folder, f"pattern-{guest}.img"), work)  # noqa: PTH118 - as above


def _measure(path: str, work: Workload, media: list[Medium], image: str, runner: "Runner") -> list[Row]:
    """One row; none where a signal came first."""
    if len(media) == 1:
        return [measure(path, work, media[0], image, runner)]
    from emu.compare.fleet import measure_all_at_once  # noqa: PLC0415 - only where it is asked for

    rows: list[Row] = []
    with runner.ended_by_signals():
        rows.append(measure_all_at_once(path, work, media, image))
    return rows


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    """A place for the disk. Raises ConfigError where there is none."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="emu-compare-")
    except OSError as error:
        raise ConfigError(f"no folder for a disk: {error.strerror}; set TMPDIR to one with room") from error
    with folder as name:
        yield name


class _EndedError(BaseException):
    """A signal came."""


class Runner:
    """Runs machines so that a signal ends them cleanly; then `signal_number` is not 0."""

    def __init__(self) -> None:
        self.signal_number = 0

    def __call__(self, machine: Machine) -> Outcome:
        """Run one machine to its end, on this thread."""
        with Session(MachineConfig(), _Nothing(), None, keys=False) as session:
            outcome = session.run(machine)
        self._note(session.signal_number)
        return outcome

    @contextlib.contextmanager
    def ended_by_signals(self) -> Iterator[None]:
        """Machines of other processes are run inside; a signal leaves it early."""

        def leave(number: int, _frame: object) -> None:
            for each in ENDING:
                signal.signal(each, signal.SIG_IGN)
            raise _EndedError(number)

        before = {number: signal.signal(number, leave) for number in ENDING}
        try:
            yield
        except _EndedError as ended:
            self._note(ended.args[0])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int) -> None:
        self.signal_number = number
        if number:
            print(f"emu: compare: ended by {signal.Signals(number).name}", file=sys.stderr)


class _Nothing(Sink):
    """The console goes another way."""

    def write(self, data: bytes) -> None:
        """Forget it."""

    def ready(self) -> bool:
        """Always."""
        return True


@contextlib.contextmanager
def _progress(steps: int) -> "Iterator[_Progress]":
    """A bar on standard error, where that is a terminal, gone at the end.

    It moves between the paths only: a thread that drew it would take the interpreter from the guest.
    """
    progress = _Progress(steps, sys.stderr if sys.stderr is not None and sys.stderr.isatty() else None)
    try:
        yield progress
    finally:
        progress.clear()


class _Progress:
    """Call it with the steps done and the name of the next one."""

    def __init__(self, steps: int, out: TextIO | None) -> None:
        self._steps, self._out = steps, out

    def __call__(self, done: int, name: str) -> None:
        """Draw."""
        if self._out is not None:
            bar = "#" * (20 * done // self._steps)
            print(f"\r[{bar:<20}] {done}/{self._steps} {name:<16}", end="", file=self._out, flush=True)

    def clear(self) -> None:
        """Leave an empty line."""
        if self._out is not None:
            print("\r\x1b[K", end="", file=self._out, flush=True)
