"""Text screens on a terminal: what changed, as ECMA-48 sequences."""

from itertools import zip_longest
from typing import Final

from emu.devices.vga_text import TextScreen

ENTER: Final = b"\x1b[?1049h\x1b[0m\x1b[2J"
LEAVE: Final = b"\x1b[0m\x1b[?25h\x1b[?1049l"
HIDE_CURSOR, SHOW_CURSOR, PLAIN, CLEAR = "\x1b[?25l", "\x1b[?25h", "\x1b[0m", "\x1b[2J"
ECMA_COLOUR: Final = (0, 4, 2, 6, 1, 5, 3, 7)
"""Text mode's colour numbers as ECMA-48's."""


class Painter:
    """Remembers what a terminal of `columns` by `rows` shows. `encoding` is the terminal's."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self.resize(0, 0)

    def resize(self, columns: int, rows: int) -> None:
        """The terminal has this size now; nothing of what it shows is known."""
        self._columns, self._rows = columns, rows
        self._shown: list[tuple[str, bytes] | None] = [None] * rows
        self._blinks = False
        self._cursor: tuple[int, int] | None = None
        self._is_known = False

    def paint(self, screen: TextScreen, footer: str) -> bytes:
        """What makes the terminal show `screen`, and `footer` in the last row if that is free.

        b"" where it does already. A screen larger than the terminal is shown around its cursor.
        """
        left, top = self._place(screen)
        wanted = [
            (line[left : left + self._columns], attributes[left : left + self._columns])
            for line, attributes in zip(
                screen.lines[top : top + self._rows], screen.attributes[top : top + self._rows], strict=True
            )
        ]
        if footer and len(wanted) < self._rows:
            blank = [("", b"")] * (self._rows - len(wanted) - 1)
            wanted += [*blank, (footer[: self._columns], b"\x08" * len(footer[: self._columns]))]
        pieces: list[str] = []
        if not self._is_known or screen.blinks != self._blinks:
            pieces.append(PLAIN + CLEAR)
            self._shown, self._blinks = [None] * self._rows, screen.blinks
        for row, (new, old) in enumerate(zip_longest(wanted, self._shown, fillvalue=None)):
            if row < self._rows and (new or ("", b"")) != (old or ("", b"")):
                pieces += self._row(row, new or ("", b""), old)
                self._shown[row] = new
        cursor = None
        if screen.cursor is not None:
            column, row = screen.cursor[0] - left, screen.cursor[1] - top
            cursor = (column, row) if column < self._columns and row < self._rows else None
        if pieces or cursor != self._cursor or not self._is_known:
            pieces.insert(0, HIDE_CURSOR)
            if cursor is not None:
                pieces.append(f"\x1b[{cursor[1] + 1};{cursor[0] + 1}H{SHOW_CURSOR}")
        self._cursor, self._is_known = cursor, True
        return "".join(pieces).encode(self._encoding, "replace")

    def _place(self, screen: TextScreen) -> tuple[int, int]:
        """The screen's column and row that come first."""
        column, row = screen.cursor or (0, 0)
        width = max(map(len, screen.lines), default=0)
        left = min(max(0, column + 1 - self._columns), max(0, width - self._columns))
        top = min(max(0, row + 1 - self._rows), max(0, len(screen.lines) - self._rows))
        return left, top

    def _row(self, row: int, new: tuple[str, bytes], old: tuple[str, bytes] | None) -> list[str]:
        """From the first cell that differs to the last one."""
        (text, attributes), (old_text, old_attributes) = new, old or ("", b"")
        first = 0
        while first < min(len(text), len(old_text)) and (
            (text[first], attributes[first]) == (old_text[first], old_attributes[first])
        ):
            first += 1
        end = len(text)
        while (
            end > first
            and len(old_text) == len(text)
            and ((text[end - 1], attributes[end - 1]) == (old_text[end - 1], old_attributes[end - 1]))
        ):
            end -= 1
        pieces = [f"\x1b[{row + 1};{first + 1}H"]
        while first < end:
            run = first + 1
            while run < end and attributes[run] == attributes[first]:
                run += 1
            pieces.append(self._rendition(attributes[first]) + text[first:run])
            first = run
        pieces.append(PLAIN)
        if len(text) < len(old_text) and len(text) < self._columns:
            pieces.append("\x1b[K")
        return pieces

    def _rendition(self, attribute: int) -> str:
        """Select a text mode attribute."""
        foreground, background = attribute & 0x0F, attribute >> 4
        blink = ""
        if self._blinks and background & 8:
            background, blink = background & 7, ";5"
        front = (90 if foreground & 8 else 30) + ECMA_COLOUR[foreground & 7]
        back = (100 if background & 8 else 40) + ECMA_COLOUR[background & 7]
        return f"\x1b[0;{front};{back}{blink}m"
