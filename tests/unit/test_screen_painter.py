"""What the painter sends makes a terminal show the screen, from whatever it showed before."""

import pyte
from hypothesis import given
from hypothesis import strategies as st

from emu.cli.screen_painter import ENTER, LEAVE, Painter
from emu.devices.vga_text import TextScreen

ROWS = st.lists(st.tuples(st.text("ab é█", max_size=12), st.integers(0, 255)), min_size=1, max_size=6)
NAMES = ("black", "blue", "green", "cyan", "red", "magenta", "brown", "white")


def screen_of(rows: list[tuple[str, int]], cursor: tuple[int, int] | None = None) -> TextScreen:
    width = max(len(text) for text, _ in rows)
    lines = tuple(text.ljust(width) for text, _ in rows)
    return TextScreen(
        lines, tuple(bytes((attribute,)) * width for _, attribute in rows), cursor, blinks=False
    )


class Lab:
    def __init__(self, columns: int = 14, rows: int = 7) -> None:
        self.terminal = pyte.Screen(columns, rows)
        self.stream = pyte.ByteStream(self.terminal)
        self.painter = Painter("utf-8")
        self.painter.resize(columns, rows)

    def paint(self, screen: TextScreen, footer: str = "") -> bytes:
        data = self.painter.paint(screen, footer)
        self.stream.feed(data)
        return data

    def shown(self) -> list[str]:
        return [line.rstrip() for line in self.terminal.display]


@given(st.lists(ROWS, min_size=1, max_size=4))
def test_the_terminal_shows_the_last_screen(screens: list[list[tuple[str, int]]]) -> None:
    lab = Lab()
    for rows in screens:
        lab.paint(screen_of(rows))
    wanted = [text.rstrip() for text, _ in screens[-1]]
    assert lab.shown() == wanted + [""] * (7 - len(wanted))
    for row, (text, attribute) in enumerate(screens[-1]):
        for column in range(len(text)):
            cell = lab.terminal.buffer[row][column]
            assert cell.fg == ("bright" if attribute & 8 else "") + NAMES[attribute & 7]
            background = cell.bg.replace("bfight", "bright")  # so that terminal spells its magenta
            assert background == ("bright" if attribute & 0x80 else "") + NAMES[attribute >> 4 & 7]


def test_only_what_changed_is_sent() -> None:
    lab = Lab()
    lab.paint(screen_of([("hello", 7), ("world", 7)], (0, 0)))
    assert lab.paint(screen_of([("hello", 7), ("world", 7)], (0, 0))) == b""
    data = lab.paint(screen_of([("hello", 7), ("wOrld", 7)], (0, 0)))
    assert b"O" in data
    assert b"w" not in data
    assert b"hello" not in data


def test_the_cursor_is_where_it_belongs_or_hidden() -> None:
    lab = Lab()
    lab.paint(screen_of([("hello", 7), ("world", 7)], (3, 1)))
    assert (lab.terminal.cursor.x, lab.terminal.cursor.y, lab.terminal.cursor.hidden) == (3, 1, False)
    lab.paint(screen_of([("hello", 7), ("world", 7)]))
    assert lab.terminal.cursor.hidden


def test_a_small_terminal_shows_the_part_around_the_cursor() -> None:
    lab = Lab(columns=4, rows=2)
    rows = [(f"line {number}", 7) for number in range(5)]
    lab.paint(screen_of(rows, (5, 3)))
    assert lab.shown() == ["ne 2", "ne 3"]
    assert (lab.terminal.cursor.x, lab.terminal.cursor.y) == (3, 1)
    lab.paint(screen_of(rows, (0, 0)))
    assert lab.shown() == ["line", "line"]


def test_a_terminal_of_no_size_is_sent_no_text() -> None:
    lab = Lab()
    lab.painter.resize(0, 0)
    assert b"x" not in lab.painter.paint(screen_of([("x", 7)], (0, 0)), "footer")


def test_the_footer_has_the_last_row_if_that_is_free() -> None:
    lab = Lab(rows=3)
    lab.paint(screen_of([("a", 7)]), "the footer")
    assert lab.shown() == ["a", "", "the footer"]
    lab.paint(screen_of([("a", 7), ("b", 7), ("c", 7)]), "the footer")
    assert lab.shown() == ["a", "b", "c"]


def test_blinking_is_a_background_bit() -> None:
    lab = Lab()
    screen = TextScreen(("x",), (b"\xc7",), None, blinks=True)
    lab.paint(screen)
    cell = lab.terminal.buffer[0][0]
    assert (cell.blink, cell.bg, cell.fg) == (True, "red", "white")


def test_the_terminal_is_entered_and_left_by_the_alternate_screen() -> None:
    assert b"\x1b[?1049h" in ENTER
    assert LEAVE.endswith(b"\x1b[?25h\x1b[?1049l")
