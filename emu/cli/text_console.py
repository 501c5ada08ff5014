"""A text console that a display shows: what a serial port or the monitor writes becomes lines of characters.

Understands the part of ECMA-48 and of the VT100 that shells, boot loaders and full-screen programs use;
anything else is left out.
"""

import codecs
import threading
import unicodedata
from collections.abc import Callable
from typing import Final

from emu.devices.vga_text import TextScreen

COLUMNS, ROWS = 80, 25
PLAIN: Final = 0x07
BOLD, REVERSED = 1, 7
VGA_COLOUR: Final = (0, 4, 2, 6, 1, 5, 3, 7)
"""ECMA-48's colour numbers as text mode's."""
TAB: Final = 8
LONGEST_SEQUENCE, MOST = 64, 9999


class TextConsole:
    """`write` and `screen` from any thread. `answer(data)` is what the terminal says by itself."""

    def __init__(self, answer: Callable[[bytes], None] = lambda _data: None) -> None:
        self.answer = answer
        self._lock = threading.Lock()  # guards everything below; `answer` is called without it
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._lines = [[" "] * COLUMNS for _ in range(ROWS)]
        self._attributes = [bytearray((PLAIN,)) * COLUMNS for _ in range(ROWS)]
        self._column = self._row = 0
        self._wraps = False  # the last column is written: the next character starts a line
        self._top, self._bottom = 0, ROWS - 1
        self._saved = (0, 0)
        self._colour, self._is_bold, self._is_reversed = PLAIN, False, False
        self._shows_cursor = True
        self._sequence = ""
        self._answers = b""

    def write(self, data: bytes) -> None:
        """Show it."""
        with self._lock:
            for character in self._decoder.decode(data):
                self._take(character)
            answers, self._answers = self._answers, b""
        if answers:
            self.answer(answers)

    def offer(self, data: bytes | memoryview) -> int:
        """The same, as a `DeviceSink`."""
        self.write(bytes(data))
        return len(data)

    def ready(self) -> bool:
        """Always."""
        return True

    def screen(self) -> TextScreen:
        """What it shows now."""
        with self._lock:
            return TextScreen(
                tuple(map("".join, self._lines)),
                tuple(map(bytes, self._attributes)),
                (self._column, self._row) if self._shows_cursor else None,
                blinks=False,
            )

    # ---- characters --------------------------------------------------------------------------------

    def _take(self, character: str) -> None:
        if self._sequence:
            self._continue(character)
        elif character == "\x1b":
            self._sequence = character
        elif character == "\r":
            self._go(0, self._row)
        elif character in "\n\v\f":
            self._line_feed()
        elif character == "\b":
            self._go(self._column - 1, self._row)
        elif character == "\t":
            self._go((self._column // TAB + 1) * TAB, self._row)
        elif character >= " " and character != "\x7f":
            self._put(character)

    def _put(self, character: str) -> None:
        if self._wraps:
            self._column = 0
            self._line_feed()
        self._lines[self._row][self._column] = _one_cell(character)
        self._attributes[self._row][self._column] = self._attribute()
        self._wraps = self._column == COLUMNS - 1
        self._column = min(self._column + 1, COLUMNS - 1)

    def _attribute(self) -> int:
        colour = self._colour | (0x08 if self._is_bold else 0)
        return (colour & 0x0F) << 4 | colour >> 4 if self._is_reversed else colour

    def _go(self, column: int, row: int) -> None:
        self._column = min(max(column, 0), COLUMNS - 1)
        self._row = min(max(row, 0), ROWS - 1)
        self._wraps = False

    def _line_feed(self) -> None:
        self._wraps = False
        if self._row == self._bottom:
            self._delete_lines(self._top, 1)
        else:
            self._go(self._column, self._row + 1)

    def _delete_lines(self, at: int, count: int) -> None:
        """Take lines away at `at`: those below, as far as the scrolling region, move up."""
        for _ in range(min(count, self._bottom + 1 - at)):
            del self._lines[at], self._attributes[at]
            self._lines.insert(self._bottom, [" "] * COLUMNS)
            self._attributes.insert(self._bottom, bytearray((PLAIN,)) * COLUMNS)

    def _insert_lines(self, at: int, count: int) -> None:
        for _ in range(min(count, self._bottom + 1 - at)):
            del self._lines[self._bottom], self._attributes[self._bottom]
            self._lines.insert(at, [" "] * COLUMNS)
            self._attributes.insert(at, bytearray((PLAIN,)) * COLUMNS)

    def _clear(self, row: int, start: int, end: int) -> None:
        for column in range(max(start, 0), min(end, COLUMNS)):
            self._lines[row][column] = " "
            self._attributes[row][column] = self._colour

    # ---- escape sequences --------------------------------------------------------------------------

    def _continue(self, character: str) -> None:
        sequence = self._sequence + character
        self._sequence = ""
        if len(sequence) == 2 and character in "[]()#P":
            self._sequence = sequence
        elif sequence[1] in "]P":  # a string, up to its end
            if character == "\x1b":
                self._sequence = character
            elif character != "\x07" and len(sequence) < LONGEST_SEQUENCE:
                self._sequence = sequence
        elif sequence[1] == "[":
            if "\x20" <= character < "\x40" and len(sequence) < LONGEST_SEQUENCE:
                self._sequence = sequence
            else:
                self._control(sequence[2:-1], character)
        elif len(sequence) == 2:
            self._escape(character)

    def _escape(self, final: str) -> None:
        if final == "7":
            self._saved = (self._column, self._row)
        elif final == "8":
            self._go(*self._saved)
        elif final in "DE":
            self._line_feed()
            self._column = 0 if final == "E" else self._column
        elif final == "M":
            if self._row == self._top:
                self._insert_lines(self._top, 1)
            else:
                self._go(self._column, self._row - 1)

    def _control(self, text: str, final: str) -> None:
        numbers = [
            min(int(word), MOST) if word.isascii() and word.isdigit() else 0 for word in text.split(";")
        ]
        first = numbers[0]
        count = max(first, 1)
        column, row = self._column, self._row
        if text.startswith("?"):
            if final in "hl" and text == "?25":
                self._shows_cursor = final == "h"
        elif final in "ABCDEF":
            down = {"A": -count, "B": count, "E": count, "F": -count}.get(final, 0)
            right = {"C": count, "D": -count, "E": -column, "F": -column}.get(final, 0)
            self._go(column + right, row + down)
        elif final in "G`":
            self._go(count - 1, row)
        elif final == "d":
            self._go(column, count - 1)
        elif final in "Hf":
            self._go(max(numbers[1], 1) - 1 if len(numbers) > 1 else 0, count - 1)
        elif final in "JK":
            self._erase(final, first)
        elif final in "LM":
            if self._top <= row <= self._bottom:
                (self._insert_lines if final == "L" else self._delete_lines)(row, count)
        elif final in "@PX":
            self._shift(final, count)
        elif final == "m":
            for number in numbers:
                self._set_rendition(number)
        elif final == "r":
            bottom = min(numbers[1], ROWS) if len(numbers) > 1 and numbers[1] else ROWS
            if count < bottom:
                self._top, self._bottom = count - 1, bottom - 1
                self._go(0, 0)
        elif final == "s":
            self._saved = (column, row)
        elif final == "u":
            self._go(*self._saved)
        elif final == "n" and first == 6:
            self._answers = b"\x1b[%d;%dR" % (row + 1, column + 1)

    def _erase(self, final: str, what: int) -> None:
        """To the end, from the beginning, or all of it: the line, or the screen."""
        start, end = (0 if what else self._column), (self._column + 1 if what == 1 else COLUMNS)
        self._clear(self._row, start, end)
        if final == "J":
            rows = {0: range(self._row + 1, ROWS), 1: range(self._row), 2: range(ROWS)}.get(what, range(0))
            for row in rows:
                self._clear(row, 0, COLUMNS)

    def _shift(self, final: str, count: int) -> None:
        """Insert, delete or erase characters at the cursor."""
        line, attributes, at = self._lines[self._row], self._attributes[self._row], self._column
        count = min(count, COLUMNS - at)
        if final == "@":
            line[at:] = [" "] * count + line[at : COLUMNS - count]
            attributes[at:] = bytes((self._colour,)) * count + attributes[at : COLUMNS - count]
        elif final == "P":
            line[at:] = line[at + count :] + [" "] * count
            attributes[at:] = attributes[at + count :] + bytes((self._colour,)) * count
        else:
            self._clear(self._row, at, at + count)

    def _set_rendition(self, number: int) -> None:
        foreground, background = self._colour & 0x0F, self._colour >> 4
        if number == 0:
            self._colour, self._is_bold, self._is_reversed = PLAIN, False, False
        elif number in (BOLD, 22):
            self._is_bold = number == BOLD
        elif number in (REVERSED, 27):
            self._is_reversed = number == REVERSED
        elif 30 <= number <= 37 or number == 39:
            self._colour = background << 4 | (VGA_COLOUR[number - 30] if number != 39 else PLAIN)
        elif 40 <= number <= 47 or number == 49:
            self._colour = (VGA_COLOUR[number - 40] if number != 49 else 0) << 4 | foreground
        elif 90 <= number <= 97:
            self._colour = background << 4 | 0x08 | VGA_COLOUR[number - 90]
        elif 100 <= number <= 107:
            self._colour = (0x08 | VGA_COLOUR[number - 100]) << 4 | foreground


def _one_cell(character: str) -> str:
    """The character, or a question mark for one that takes no cell, or two."""
    if " " <= character <= "~":
        return character
    wide = unicodedata.east_asian_width(character) in "WF" or unicodedata.combining(character)
    return "?" if wide or not character.isprintable() else character
