"""A comparison as JSON and as text. Exact counts and the times of one machine stand apart."""

import os
import platform
import textwrap
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Final, NamedTuple, TextIO

from emu.compare.counts import Range
from emu.compare.measure import Row, Share
from emu.compare.workloads import Workload

SHORT: Final = ("exits", "light", "irqchip", "irqs", "handoffs", "copied", "dma", "syscalls")
"""The heads of the columns of counts, in the order of `Counts`."""
MEANINGS: Final = (
    ("exits", "guest accesses that ran device code of the VMM on the vCPU thread"),
    ("light", "guest accesses that ended at an ioeventfd"),
    ("irqchip", "accesses to interrupt controllers: local APIC, I/O APIC, PIC"),
    ("irqs", "interrupts delivered to the guest"),
    ("handoffs", "wake-ups of another thread or process on the request's way"),
    ("copied", "bytes that host software copied"),
    ("dma", "bytes that hardware moved by itself"),
    ("syscalls", "host system calls on the data path"),
)
COUNTS_HEAD: Final = "Counts, per request: exact"
COUNTS_NOTE: Final = (
    "equal: to the event what the path must cost, the same on any machine. "
    "within: another thread serves the queue, and how many requests share a doorbell or an interrupt "
    "differs from run to run, within the budget."
)


class Host(NamedTuple):
    """The machine that the times belong to."""

    cpu: str
    cores: int
    kernel: str
    python: str
    unicorn: str

    @staticmethod
    def this() -> "Host":
        """The one we are on; `cores` are those that this process may use."""
        return Host(
            _cpu_model(),
            len(os.sched_getaffinity(0)),
            f"{platform.system()} {platform.release()}",
            platform.python_version(),
            version("unicorn"),
        )

    def line(self) -> str:
        """All of it."""
        return f"{self.cpu}, {self.cores} cores, {self.kernel}, Python {self.python}, Unicorn {self.unicorn}"


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 - one line of a kernel file
            for line in file:
                if line.startswith("model name"):
                    return " ".join(line.partition(":")[2].split())
    except OSError:
        pass
    return platform.processor() or platform.machine()


class Comparison(NamedTuple):
    """All rows of one work; `reasons` says by path why it costs that."""

    work: Workload
    host: Host
    rows: Sequence[Row]
    reasons: Mapping[str, str]
    vms: int = 1

    def title(self) -> str:
        """The work in words."""
        work = self.work
        requests = "1 request" if work.count == 1 else f"{work.count:,} requests"
        guests = f"; {self.vms} guests at once, each" if self.vms > 1 else ""
        return f"{work.op}{guests}, {requests} of {work.bs:,} bytes, {work.qd} in flight"

    def remarks(self) -> list[str]:
        """What several guests at once gain by a back-end that polls, as measured; a line or nothing."""
        found = {row.path: row.iops for row in self.rows if row.verified}
        rung, polled = found.get("vhost-user", 0.0), found.get("vhost-user-poll", 0.0)
        if self.vms == 1 or not rung or not polled:
            return []
        text = f"{self.vms} guests on one back-end: polling serves {polled / rung:.2f} times what kicks do"
        busy = self.vms + 1
        if polled < rung:
            text += f", which is no gain: {busy} threads that do not sleep share {self.host.cores} cores"
        return [f"{text}."]

    def complaints(self) -> list[str]:
        """One line for each row that is not verified or misses its budget."""
        lines = []
        for row in self.rows:
            if not row.verified:
                lines.append(f"{row.path}: not verified: {row.problem}")
            for name in row.misses:
                low, high = getattr(row.budget, name)
                allowed = f"{low:,}" if low == high else f"{low:,} to {high:,}"
                measured = f"{getattr(row.counts, name):,}"
                lines.append(f"{row.path}: {name} {measured} in {row.requests:,} requests; budget {allowed}")
        return lines


def shown_count(value: float) -> str:
    """A count a request: whole where it is, else with what digits it needs."""
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.1f}" if value >= 100 else f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"


def shown_range(allowed: Range, requests: int) -> str:
    """A budget a request."""
    low, high = shown_count(allowed.low / requests), shown_count(allowed.high / requests)
    return low if allowed.exact else f"{low} to {high}"


def shown_time(ns: float) -> str:
    """A latency."""
    if ns >= 1e6:
        return f"{ns / 1e6:,.2f} ms"
    return f"{ns / 1e3:,.1f} us"


def document(comparison: Comparison) -> dict[str, object]:
    """The comparison as JSON has it (`"schema": 1`); `budget` is [low, high] a request."""
    work = comparison.work
    return {
        "schema": 1,
        "host": comparison.host._asdict(),
        "workload": {
            "op": work.op,
            "bs": work.bs,
            "qd": work.qd,
            "count": work.count,
            "vms": comparison.vms,
        },
        "paths": [_row_document(row, comparison.reasons[row.path]) for row in comparison.rows],
        "remarks": comparison.remarks(),
    }


def _row_document(row: Row, reason: str) -> dict[str, object]:
    requests, iops = row.requests, row.iops
    return {
        "path": row.path,
        "requests": requests,
        "verified": row.verified,
        "per_request": {name: value / requests for name, value in row.counts._asdict().items()},
        "latency_ns": {"p50": row.p50_ns, "p99": row.p99_ns},
        "throughput": {"iops": iops, "bytes_per_s": iops * row.work.bs},
        "qd": row.work.qd,
        "budget": {
            name: [allowed.low / requests, allowed.high / requests]
            for name, allowed in row.budget._asdict().items()
        },
        "misses": row.misses,
        "problem": row.problem,
        "reason": reason,
        "guests": [_guest_document(share, row.work) for share in row.guests],
    }


def _guest_document(share: Share, work: Workload) -> dict[str, object]:
    """One guest's part of a row."""
    iops = share.iops(work)
    return {
        "requests": work.count,
        "verified": not share.problem,
        "latency_ns": {"p50": share.p50_ns, "p99": share.p99_ns},
        "iops": iops,
        "bytes_per_s": iops * work.bs,
    }


def counts_cells(row: Row) -> list[str]:
    """One row of the table of counts: what was counted, and the verdict."""
    cells = [shown_count(value / row.requests) for value in row.counts] if row.verified else ["-"] * 8
    return [row.path, *cells, "yes" if row.verified else "NO", budget_cell(row)]


def budget_cell(row: Row) -> str:
    """Whether the row keeps its budget, and how narrow that is."""
    if not row.verified:
        return "-"
    if row.misses:
        return f"missed: {', '.join(row.misses)}"
    return "equal" if all(allowed.exact for allowed in row.budget) else "within"


def times_cells(row: Row) -> list[str]:
    """One row of the table of times."""
    if not row.elapsed_ns:
        return [row.path, "-", "-", "-", "-", str(row.work.qd)]
    iops = row.iops
    speed = f"{iops * row.work.bs / (1 << 20):,.1f}"
    return [
        row.path,
        shown_time(row.p50_ns),
        shown_time(row.p99_ns),
        f"{iops:,.0f}",
        speed,
        str(row.work.qd),
    ]


def shares_cells(row: Row) -> list[str]:
    """One row of the table of shares: each guest's requests a second."""
    return [row.path, *(f"{share.iops(row.work):,.0f}" for share in row.guests), f"{row.iops:,.0f}"]


def shares_columns(comparison: Comparison) -> tuple[str, ...]:
    """The heads of that table."""
    return ("path", *(f"guest {i}" for i in range(comparison.vms)), "together")


SHARES_HEAD: Final = "Requests a second: each guest's by its own clock, and all until the last one was done"
COUNTS_COLUMNS: Final = ("path", *SHORT, "verified", "budget")
TIMES_COLUMNS: Final = ("path", "p50", "p99", "requests/s", "MiB/s", "in flight")


def times_head(host: Host) -> str:
    """The second table's head."""
    return f"Times of this machine ({host.line()})"


def print_plain(comparison: Comparison, out: TextIO) -> None:
    """Aligned text, for files and pipes."""
    counts = [COUNTS_COLUMNS, *(counts_cells(row) for row in comparison.rows)]
    times = [TIMES_COLUMNS, *(times_cells(row) for row in comparison.rows)]
    width = max(len(row.path) for row in comparison.rows)
    lines = [comparison.title(), "", COUNTS_HEAD, *_aligned(counts), *textwrap.wrap(COUNTS_NOTE, 100), ""]
    lines += [times_head(comparison.host), *_aligned(times), ""]
    if comparison.vms > 1:
        shares = [shares_columns(comparison), *(shares_cells(row) for row in comparison.rows)]
        lines += [SHARES_HEAD, *_aligned(shares), *comparison.remarks(), ""]
    lines += ["Why"]
    lines += [f"{row.path:<{width}}  {comparison.reasons[row.path]}" for row in comparison.rows]
    print(*lines, sep="\n", file=out)


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """The first column to the left, the others to the right, the last one to the left again."""
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = []
    for line in cells:
        middle = [f"{cell:>{width}}" for cell, width in zip(line[1:], widths[1:], strict=True)]
        middle[-1] = line[-1]
        lines.append("  ".join([line[0].ljust(widths[0]), *middle]).rstrip())
    return lines


def print_rich(comparison: Comparison, out: TextIO) -> None:
    """Tables in colour, for a terminal."""
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 - 60 ms that only a terminal needs
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    def table(head: str, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> Table:
        made = Table(title=head, box=SIMPLE_HEAD, title_justify="left", title_style="bold", caption=caption)
        made.caption_justify = "left"
        for column in columns:
            left = column in ("path", "budget", "why")
            made.add_column(column, justify="left" if left else "right", no_wrap=column in ("path", *SHORT))
        for row in rows:
            made.add_row(*(_coloured(cell) for cell in row))
        return made

    console = Console(file=out, highlight=False)
    console.print(f"[bold]{comparison.title()}[/]\n")
    rows = comparison.rows
    console.print(table(COUNTS_HEAD, COUNTS_COLUMNS, [counts_cells(row) for row in rows], COUNTS_NOTE))
    console.print(table(times_head(comparison.host), TIMES_COLUMNS, [times_cells(row) for row in rows]))
    if comparison.vms > 1:
        shares = [shares_cells(row) for row in rows]
        console.print(table(SHARES_HEAD, shares_columns(comparison), shares, " ".join(comparison.remarks())))
    why = [[row.path, comparison.reasons[row.path]] for row in rows]
    console.print(table("Why", ("path", "why"), why))


def _coloured(cell: str) -> str:
    colour = {"yes": "green", "equal": "green", "within": "green", "NO": "bold red"}.get(cell)
    if cell.startswith("missed"):
        colour = "bold red"
    return f"[{colour}]{cell}[/]" if colour else cell
