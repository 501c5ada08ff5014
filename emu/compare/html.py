"""A comparison as one HTML file that needs nothing else: no script, font, picture or network."""

from collections.abc import Sequence
from html import escape
from typing import Final

from emu.compare.counts import Counts
from emu.compare.report import (
    COUNTS_COLUMNS,
    COUNTS_HEAD,
    COUNTS_NOTE,
    MEANINGS,
    SHARES_HEAD,
    TIMES_COLUMNS,
    Comparison,
    counts_cells,
    shares_cells,
    shares_columns,
    shown_range,
    times_cells,
    times_head,
)

VERIFIED: Final = (
    "verified: every byte that a guest read or wrote was compared with the medium; of frames, every byte of "
    "an answer was compared with its request, or the other end's count and sum with what was sent."
)
STYLE: Final = """\
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --line: #d0d7de;
  --good: #1a7f37; --bad: #cf222e }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --paper: #0d1117; --line: #30363d; --good: #3fb950; --bad: #ff7b72 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 72rem; margin: 2rem auto; padding: 0 1rem }
div { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap }
th:first-child, td:first-child, .text td, .text th { text-align: left }
.text td { white-space: normal }
.good { color: var(--good) } .bad { color: var(--bad); font-weight: 600 }
"""


def page(comparison: Comparison) -> str:
    """The whole file."""
    rows = comparison.rows
    budgets = [[row.path, *(shown_range(allowed, row.requests) for allowed in row.budget)] for row in rows]
    parts = [
        f"<h1>{escape(comparison.title())}</h1>",
        *(f'<p class="bad">{escape(line)}</p>' for line in comparison.complaints()),
        f"<h2>{COUNTS_HEAD}</h2>",
        _table(COUNTS_COLUMNS, [counts_cells(row) for row in rows]),
        "<h2>Budget, per request</h2>",
        f"<p>{escape(COUNTS_NOTE)}</p>",
        _table(("path", *Counts._fields), budgets),
        f"<h2>{escape(times_head(comparison.host))}</h2>",
        "<p>From showing a request to the device until the guest saw it done, by the guest's own clock.</p>",
        _table(TIMES_COLUMNS, [times_cells(row) for row in rows]),
        *_shares(comparison),
        "<h2>Why</h2>",
        _table(
            ("path", "who answers, and what the doorbell does"),
            [[row.path, comparison.reasons[row.path]] for row in rows],
            "text",
        ),
        "<h2>What is counted</h2>",
        _table(("column", "meaning, for each request that was completed"), MEANINGS, "text"),
        f"<p>{escape(VERIFIED)}</p>",
    ]
    head = f'<meta charset="utf-8"><title>emu compare: {escape(comparison.title())}</title>'
    view = '<meta name="viewport" content="width=device-width">'
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>{head}{view}\n<style>\n{STYLE}</style></head>\n'
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _shares(comparison: Comparison) -> list[str]:
    """The part about several guests."""
    if comparison.vms == 1:
        return []
    rows = [shares_cells(row) for row in comparison.rows]
    remarks = [f"<p>{escape(line)}</p>" for line in comparison.remarks()]
    return [f"<h2>{SHARES_HEAD}</h2>", _table(shares_columns(comparison), rows), *remarks]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "\n".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    opening = f'<table class="{kind}">' if kind else "<table>"
    return f"<div>{opening}<thead><tr>{top}</tr></thead><tbody>\n{body}\n</tbody></table></div>"


def _cell(text: str) -> str:
    good, bad = text in ("yes", "equal", "within"), text == "NO" or text.startswith("missed")
    mark = ' class="good"' if good else ' class="bad"' if bad else ""
    return f"<td{mark}>{escape(text)}</td>"
