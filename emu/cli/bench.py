"""`emu bench`: what the machine itself costs, as ratios measured in one run."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, TextIO

from emu.bus.output_file import check_output
from emu.cli.exits import write_json
from emu.cli.options import Option, nearest, parse
from emu.errors import ConfigError

if TYPE_CHECKING:
    from emu.bench.boot import Start

USAGE: Final = """\
usage: emu bench exits|mips|boot|irq [--json FILE] [-kernel FILE [-initrd FILE]]

  exits   an exit through bus, ledger and a chip, against the engine's bare callback
  mips    guest instructions a second, against a bare Unicorn
  boot    hello from the start of the process to its end, beside QEMU where it is installed; to the first
          guest instruction of hello and of -kernel
  irq     from the raise of an interrupt to its handler
"""
IMAGE: Final = "hello"
FLOOR: Final = (
    "callback: the engine calls an empty Python function, with all arguments that unicorn.h declares; "
    "ours takes fewer. At most 1.8."
)


class Draft:
    """What the command line has said."""

    def __init__(self) -> None:
        self.what = ""
        self.json: str | None = None
        self.kernel: str | None = None
        self.initrd: str | None = None
        self.help = False


class Report(NamedTuple):
    """One benchmark's figures: as JSON, and as a table with a line below it."""

    document: dict[str, object]
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    foot: str


def run(argv: list[str], out: TextIO) -> int:
    """Measure, print a table or JSON; return the exit status."""
    draft = parse(argv, TABLE, Draft(), _set_what)
    if draft.help:
        out.write(USAGE)
        return 0
    if not draft.what:
        raise ConfigError(f"bench needs one of {', '.join(BENCHES)}")
    if draft.what != "boot" and (draft.kernel or draft.initrd):
        raise ConfigError(f"-kernel and -initrd are for the benchmark boot, not for {draft.what}")
    if draft.initrd is not None and draft.kernel is None:
        raise ConfigError("-initrd needs -kernel FILE")
    if draft.json not in (None, "-"):
        check_output(draft.json)
    if draft.kernel is not None:
        _check_kernel(draft.kernel, draft.initrd)
    report = BENCHES[draft.what](draft)
    if draft.json is not None:
        write_json(draft.json, {"schema": 1, "bench": draft.what, **report.document}, out)
    if draft.json != "-":
        print_table(draft.what, report, out)
    return 0


def _check_kernel(kernel: str, initrd: str | None) -> None:
    """Say so before anything is measured. Raises ConfigError."""
    from emu.boot.image_file import ImageFile  # noqa: PLC0415 - for one benchmark only
    from emu.boot.recognise import recognise  # noqa: PLC0415 - as above

    found = recognise(kernel)
    if not found.bootable:
        raise ConfigError(f"{kernel}: {found.description}")
    if initrd is not None:
        ImageFile(initrd).close()


def _set_what(draft: Draft, word: str) -> None:
    if draft.what:
        raise ConfigError(f'"{word}": one benchmark a run, "{draft.what}" came before it')
    if word not in BENCHES:
        raise ConfigError(f'"{word}" is no benchmark; {nearest(word, BENCHES)}')
    draft.what = word


def _set_json(draft: Draft, text: str) -> None:
    draft.json = text


def _set_kernel(draft: Draft, text: str) -> None:
    draft.kernel = text


def _set_initrd(draft: Draft, text: str) -> None:
    draft.initrd = text


def _set_help(draft: Draft, _text: str) -> None:
    draft.help = True


TABLE: Final[tuple[Option[Draft], ...]] = (
    Option("json", "FILE", _set_json, "write JSON to FILE, - for standard output", ours=True),
    Option("kernel", "FILE", _set_kernel, "for boot: also start this kernel"),
    Option("initrd", "FILE", _set_initrd, "its initial RAM disk"),
    Option("help", None, _set_help, "this text"),
    Option("h", None, _set_help, "this text"),
)


# ---- the benchmarks: each loads what it needs when it is called ------------------------------------------


def _exits(_draft: Draft) -> Report:
    from emu.bench import exits  # noqa: PLC0415 - the engine loads only for this

    kinds = exits.measure()
    worst = exits.worst(kinds)
    document: dict[str, object] = {
        "floor_ns": round(worst.ratio.first, 1),
        "bus_ns": round(worst.ratio.second, 1),
        "ratio": round(worst.ratio.ratio, 3),
        "worst": worst.name,
    }
    rows = []
    for kind in kinds:
        found, steps = kind.ratio, kind.steps
        document[kind.name] = {
            "floor_ns": round(found.first, 1),
            "bus_ns": round(found.second, 1),
            "ratio": round(found.ratio, 3),
            "low": round(found.low, 3),
            "high": round(found.high, 3),
            "steps_ns": {name: round(ns, 1) for name, ns in steps._asdict().items()},
        }
        times = [f"{ns:.0f}" for ns in (found.first, *steps[1:], found.second)]
        rows.append([kind.name, *times, _ratio(found.ratio), _range(found.low, found.high)])
    head = ("access", "callback ns", "+counter", "+look-up", "+chip", "bus ns", "ratio", "of pairs")
    return Report(document, head, rows, FLOOR)


def _mips(_draft: Draft) -> Report:
    from emu.bench import mips  # noqa: PLC0415 - as above

    speeds = mips.measure()
    document: dict[str, object] = {"ratio": round(min(speed.ratio.ratio for speed in speeds), 3)}
    rows = []
    for name, found in speeds:
        document[name] = {
            "bare_mips": round(found.first),
            "machine_mips": round(found.second),
            "ratio": round(found.ratio, 3),
            "low": round(found.low, 3),
            "high": round(found.high, 3),
        }
        rows.append(
            [
                name,
                f"{found.first:.0f}",
                f"{found.second:.0f}",
                _ratio(found.ratio),
                _range(found.low, found.high),
            ]
        )
    head = ("loop", "bare Unicorn", "machine", "ratio", "of pairs")
    foot = "million instructions a second; bare: no hooks, with no_exit_request and the cure. At least 0.9."
    return Report(document, head, rows, foot)


def _boot(draft: Draft) -> Report:
    from emu.bench import boot  # noqa: PLC0415 - as above
    from emu.cli.images import resolve  # noqa: PLC0415 - as above

    found = boot.measure(resolve(IMAGE))
    starts = {IMAGE: found.start}
    if draft.kernel is not None:
        starts[draft.kernel] = boot.measure_start(draft.kernel, draft.initrd)
    document: dict[str, object] = {
        "ours": _process(found.ours),
        "qemu": None if found.qemu is None else _process(found.qemu),
        "ratio": None if found.beside is None else round(found.beside.ratio, 3),
        "first_instruction": {name: _start(start) for name, start in starts.items()},
    }
    rows = []
    for name, process in (("emu", found.ours), (boot.QEMU, found.qemu)):
        if process is None:
            rows.append([name, "skipped: not installed", "", ""])
        else:
            mib = f"{process.peak_kib / 1024:.1f}"
            rows.append([name, f"{process.wall:.0f}", f"{process.first_output:.0f}", mib])
    foot = "\n".join(_start_text(name, start) for name, start in starts.items())
    if found.beside is not None:
        beside = found.beside
        foot += f"\nwall: {beside.ratio:.2f} x QEMU ({_range(beside.low, beside.high)}). At most 2.5."
    return Report(document, (IMAGE, "wall ms", "first output ms", "peak MiB"), rows, foot)


def _start(start: "Start") -> dict[str, object]:
    phases = {name: round(ms, 2) for name, ms in start.phases.items()}
    times = {"ms": round(start.first, 1), "low": round(start.low, 1), "high": round(start.high, 1)}
    return {**times, "phases_ms": phases, "touched_kib": start.touched_kib}


def _start_text(name: str, start: "Start") -> str:
    phases = ", ".join(f"{phase} {ms:.1f}" for phase, ms in start.phases.items() if phase != "run")
    return (
        f"{name}: {start.first:.0f} ms to the first guest instruction "
        f"({start.low:.0f}-{start.high:.0f}; {phases}), RAM touched {start.touched_kib} KiB. At most 120."
    )


def _process(process: tuple[float, float, int]) -> dict[str, float]:
    wall, first, peak = process
    return {"wall_ms": round(wall, 1), "first_output_ms": round(first, 1), "peak_kib": peak}


def _irq(_draft: Draft) -> Report:
    from emu.bench import irq  # noqa: PLC0415 - as above

    found = irq.measure()
    document: dict[str, object] = {name: round(ns) for name, ns in found._asdict().items()}
    rows = [
        ["a chip, in an exit", f"{found.chip:.0f}", f"{found.chip_p99:.0f}"],
        ["another thread", f"{found.thread:.0f}", f"{found.thread_p99:.0f}"],
    ]
    foot = "from the raise at the local APIC to the handler's first instruction, while the guest runs."
    return Report(document, ("raised by", "median ns", "99 % ns"), rows, foot)


BENCHES: Final[dict[str, Callable[[Draft], Report]]] = {
    "exits": _exits,
    "mips": _mips,
    "boot": _boot,
    "irq": _irq,
}


# ---- how it looks --------------------------------------------------------------------------------------


def _ratio(value: float) -> str:
    return f"{value:.2f}"


def _range(low: float, high: float) -> str:
    return f"{low:.2f}-{high:.2f}"


def print_table(title: str, report: Report, out: TextIO) -> None:
    """A table with colours on a terminal, aligned text elsewhere."""
    if out.isatty():
        from rich.console import Console  # noqa: PLC0415 - 60 ms, for a terminal only
        from rich.table import Table  # noqa: PLC0415 - as above

        table = Table(title=title, caption=report.foot)
        for i, name in enumerate(report.head):
            table.add_column(name, justify="right" if i else "left")
        for row in report.rows:
            table.add_row(*row)
        Console(file=out).print(table)
        return
    lines = [report.head, *report.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(report.head))]
    print(title, file=out)
    for line in lines:
        first, *rest = line
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        print("  " + "  ".join(cells).rstrip(), file=out)
    print(report.foot, file=out)
