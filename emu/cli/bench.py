"""`emu bench`: what the machine itself costs, as ratios measured in one run."""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TextIO

from emu.cli.exits import write_json
from emu.cli.options import Option, nearest, parse
from emu.errors import ConfigError

USAGE: Final = """\
usage: emu bench exits|mips|boot|irq [--json FILE]

  exits   an exit through bus, ledger and a chip, against the engine's bare callback
  mips    guest instructions a second, against a bare Unicorn
  boot    hello from the start of the process to its end, beside QEMU where it is installed
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
    report = BENCHES[draft.what]()
    if draft.json is not None:
        write_json(draft.json, {"schema": 1, "bench": draft.what, **report.document}, out)
    if draft.json != "-":
        print_table(draft.what, report, out)
    return 0


def _set_what(draft: Draft, word: str) -> None:
    if draft.what:
        raise ConfigError(f'"{word}": one benchmark a run, "{draft.what}" came before it')
    if word not in BENCHES:
        raise ConfigError(f'"{word}" is no benchmark; {nearest(word, BENCHES)}')
    draft.what = word


def _set_json(draft: Draft, text: str) -> None:
    draft.json = text


def _set_help(draft: Draft, _text: str) -> None:
    draft.help = True


TABLE: Final[tuple[Option[Draft], ...]] = (
    Option("json", "FILE", _set_json, "write JSON to FILE, - for standard output", ours=True),
    Option("help", None, _set_help, "this text"),
    Option("h", None, _set_help, "this text"),
)


# ---- the benchmarks: each loads what it needs when it is called ------------------------------------------


def _exits() -> Report:
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


def _mips() -> Report:
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


def _boot() -> Report:
    from emu.bench import boot  # noqa: PLC0415 - as above
    from emu.cli.images import resolve  # noqa: PLC0415 - as above

    found = boot.measure(resolve(IMAGE))
    document: dict[str, object] = {
        "ours": _process(found.ours),
        "qemu": None if found.qemu is None else _process(found.qemu),
        "ratio": None if found.beside is None else round(found.beside.ratio, 3),
        "phases_ms": {name: round(ms, 2) for name, ms in found.phases.items()},
        "touched_kib": found.touched_kib,
    }
    rows = []
    for name, process in (("emu", found.ours), (boot.QEMU, found.qemu)):
        if process is None:
            rows.append([name, "skipped: not installed", "", ""])
        else:
            mib = f"{process.peak_kib / 1024:.1f}"
            rows.append([name, f"{process.wall:.0f}", f"{process.first_output:.0f}", mib])
    phases = ", ".join(f"{name} {ms:.1f}" for name, ms in found.phases.items())
    foot = f"phases of emu in ms: {phases}; guest RAM touched: {found.touched_kib} KiB."
    if found.beside is not None:
        beside = found.beside
        foot += f"\nwall: {beside.ratio:.2f} x QEMU ({_range(beside.low, beside.high)}). At most 2.5."
    return Report(document, (IMAGE, "wall ms", "first output ms", "peak MiB"), rows, foot)


def _process(process: tuple[float, float, int]) -> dict[str, float]:
    wall, first, peak = process
    return {"wall_ms": round(wall, 1), "first_output_ms": round(first, 1), "peak_kib": peak}


def _irq() -> Report:
    from emu.bench import irq  # noqa: PLC0415 - as above

    found = irq.measure()
    document: dict[str, object] = {name: round(ns) for name, ns in found._asdict().items()}
    rows = [
        ["a chip, in an exit", f"{found.chip:.0f}", f"{found.chip_p99:.0f}"],
        ["another thread", f"{found.thread:.0f}", f"{found.thread_p99:.0f}"],
    ]
    foot = "from the raise at the local APIC to the handler's first instruction, while the guest runs."
    return Report(document, ("raised by", "median ns", "99 % ns"), rows, foot)


BENCHES: Final[dict[str, Callable[[], Report]]] = {
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
