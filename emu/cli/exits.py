"""What a run's exits were for, as a table or as JSON."""

import json
from collections.abc import Iterable
from typing import TextIO

from emu.bus.ledger import Row

HEADER = ("accesses", "kind", "device", "register", "direction")


def write_json(path: str, document: object, out: TextIO) -> None:
    """Write JSON to the file `path`, or to `out` for "-". Raises OSError."""
    text = json.dumps(document, indent=2) + "\n"
    if path == "-":
        out.write(text)
        out.flush()
    else:
        with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123 - pathlib costs 3 ms of start
            file.write(text)


def document(rows: Iterable[Row]) -> dict[str, object]:
    """The rows as JSON has them."""
    listed = list(rows)
    return {
        "schema": 1,
        "exits": sum(row.accesses for row in listed),
        "rows": [row._asdict() for row in listed],
    }


def table(rows: Iterable[Row]) -> str:
    """The rows as aligned text, the total last."""
    listed = list(rows)
    cells = [HEADER] + [
        (f"{row.accesses:,}", row.kind, row.device, row.register, row.direction) for row in listed
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADER))]
    lines = []
    for line in cells:
        first, *rest = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        lines.append(f"{first.strip():>{widths[0]}}  {'  '.join(rest).rstrip()}")
    total = sum(row.accesses for row in listed)
    return "\n".join([*lines, f"{total:>{widths[0]},}  in all"]) + "\n"
