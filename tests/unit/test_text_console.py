"""The display's own terminal, beside an independent one."""

import pyte
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.cli.text_console import COLUMNS, ROWS, TextConsole

PIECES = st.sampled_from(
    [
        *("hello ", "x" * 79, "\r", "\n", "\r\n", "\b", "\t", "\x1b[K", "\x1b[1K", "\x1b[2K", "\x1b[J"),
        *("\x1b[2J", "\x1b[H", "\x1b[5;70H", "\x1b[3A", "\x1b[2B", "\x1b[7C", "\x1b[4D", "\x1b[2P"),
        *("\x1b[4X", "\x1b[31m", "\x1b[1m", "\x1b[0m", "\x1b[10d", "\x1b[20G", "\x1bM", "\x1bD"),
        *("\x1b(B", "é", "\x1b[?25l"),
    ]
)
"""Without insertion, deletion of lines, margins, NEL and a saved cursor, which that one does otherwise."""


def shown(console: TextConsole) -> list[str]:
    return list(console.screen().lines)


@given(st.lists(PIECES, max_size=40))
def test_it_shows_what_another_terminal_shows(pieces: list[str]) -> None:
    console, other = TextConsole(), pyte.Screen(COLUMNS, ROWS)
    stream = pyte.Stream(other)
    for piece in pieces:
        if other.cursor.x == COLUMNS and piece[0] < " ":  # a full line, where the other is beyond its end
            console.write(b"\r")
            stream.feed("\r")
        console.write(piece.encode())
        stream.feed(piece)
    assert shown(console) == other.display


@given(st.binary(max_size=200))
def test_no_bytes_break_it(data: bytes) -> None:
    console = TextConsole()
    console.write(b"\x1b[" + data)
    console.write(data)
    screen = console.screen()
    assert [len(line) for line in screen.lines] == [COLUMNS] * ROWS
    assert [len(line) for line in screen.attributes] == [COLUMNS] * ROWS
    assert all(character.isprintable() for line in screen.lines for character in line)


def test_lines_are_inserted_and_deleted_inside_of_the_scrolling_region() -> None:
    console = TextConsole()
    console.write(b"a\r\nb\r\nc\r\nd\r\ne\x1b[2;4r\x1b[2;1H\x1b[L")
    assert [line.rstrip() for line in shown(console)[:5]] == ["a", "", "b", "c", "e"]
    console.write(b"\x1b[2M")
    assert [line.rstrip() for line in shown(console)[:5]] == ["a", "c", "", "", "e"]
    console.write(b"\x1b[1;1H\x1b[9M")
    assert [line.rstrip() for line in shown(console)[:5]] == ["a", "c", "", "", "e"]


def test_colours_are_text_modes() -> None:
    console = TextConsole()
    console.write(b"\x1b[31ma\x1b[1;44mb\x1b[7mc\x1b[0md")
    assert console.screen().attributes[0][:4] == bytes((0x04, 0x1C, 0xC1, 0x07))


def test_it_says_where_the_cursor_is() -> None:
    answers: list[bytes] = []
    console = TextConsole(answers.append)
    console.write(b"abc\r\nd\x1b[6n")
    assert answers == [b"\x1b[2;2R"]
    assert console.screen().cursor == (1, 1)


@pytest.mark.parametrize("character", ["\u4e2d", "\u0301", "\x9b"])
def test_a_character_that_would_shift_the_line_is_a_question_mark(character: str) -> None:
    console = TextConsole()
    console.write(f"a{character}b".encode())
    assert shown(console)[0].rstrip() == "a?b"


def test_next_line_is_a_line_feed_and_a_carriage_return() -> None:
    console = TextConsole()
    console.write(b"one\x1bEtwo")
    assert [line.rstrip() for line in shown(console)[:2]] == ["one", "two"]


def test_margins_keep_the_lines_outside_where_they_are() -> None:
    console = TextConsole()
    console.write(b"\x1b[1;1Hfirst\x1b[5;1Hfifth\x1b[2;4r")
    console.write(b"\x1bMabove")  # the cursor is at home, above the margins, and stays there
    console.write(b"\x1b[4;1Hlast\ncontinued")
    lines = [line.rstrip() for line in shown(console)[:5]]
    assert lines == ["above", "", "last", "    continued", "fifth"]


def test_a_saved_cursor_is_restored_as_often_as_one_likes() -> None:
    console = TextConsole()
    console.write(b"ab\x1b7cd\x1b8\x1b8X\x1b8Y")
    assert shown(console)[0].rstrip() == "abYd"
