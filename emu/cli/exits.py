"""What a run's exits were for, as tables or as JSON. Counts are exact, times this machine's: never mixed."""

import json
from collections.abc import Iterable, Sequence
from typing import TextIO

from emu.bus.ledger import Row
from emu.bus.observe import Spent
from emu.bus.output_file import write_output
from emu.config import ExitsConfig

NAMES = ("kind", "device", "register", "direction")


def write_json(path: str, document: object, out: TextIO) -> None:
    """Write JSON to the file `path`, or to `out` for "-". Raises ConfigError for the file."""
    text = json.dumps(document, indent=2) + "\n"
    if path == "-":
        out.write(text)
        out.flush()
    else:
        write_output(path, text.encode())


def document(
    rows: Iterable[Row], spent: Iterable[Spent] = (), wanted: ExitsConfig | None = None
) -> dict[str, object]:
    """The ledger as JSON has it; `spent` by function or with times, as far as `wanted` asks for them."""
    listed = list(rows)
    found: dict[str, object] = {
        "schema": 1,
        "exits": sum(row.accesses for row in listed),
        "rows": [row._asdict() for row in listed],
    }
    if wanted is not None and (wanted.by_function or wanted.timed):
        columns = _spent_columns(wanted)
        found["spent"] = [{name: getattr(row, name) for name in columns} for row in spent]
    return found


def table(rows: Iterable[Row]) -> str:
    """The exact counts as aligned text, the total last."""
    listed = list(rows)
    total = sum(row.accesses for row in listed)
    cells = [(row.accesses, row.kind, row.device, row.register, row.direction) for row in listed]
    return "\n".join(_aligned(("accesses", *NAMES), [*cells, (total, "in all", "", "", "")])) + "\n"


def spent_table(spent: Iterable[Spent], wanted: ExitsConfig) -> str:
    """By guest function, with times, or both: as `wanted` says."""
    columns = _spent_columns(wanted)
    return (
        "\n".join(_aligned(columns, [tuple(getattr(row, name) for name in columns) for row in spent])) + "\n"
    )


def _spent_columns(wanted: ExitsConfig) -> tuple[str, ...]:
    times = ("ns",) if wanted.timed else ()
    functions = ("function",) if wanted.by_function else ()
    return (*times, "accesses", *NAMES, *functions)


def _aligned(header: Sequence[str], rows: Iterable[Sequence[str | int]]) -> list[str]:
    """Lines of columns two spaces apart; numbers to the right."""
    listed = list(rows)
    numeric = [name in ("accesses", "ns") for name in header]
    texts = [[f"{cell:,}" if isinstance(cell, int) else cell for cell in row] for row in listed]
    widths = [max(len(row[column]) for row in [header, *texts]) for column in range(len(header))]
    lines = []
    for row in [header, *texts]:
        cells = zip(row, widths, numeric, strict=True)
        lines.append(
            "  ".join(f"{cell:>{w}}" if right else f"{cell:<{w}}" for cell, w, right in cells).rstrip()
        )
    return lines
