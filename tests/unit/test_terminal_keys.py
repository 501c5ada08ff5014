"""What terminals send becomes keys of a PC, however it arrives; nothing confuses it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.cli.terminal_keys import LONGEST, TerminalKeys
from emu.devices.ps2_keys import ALT, CTRL, KEYS, SHIFT

CODES = {code: name for name, code in KEYS.items()}


def pressed(data: bytes) -> list[str]:
    """The chords by name, once nothing more comes."""
    keys = TerminalKeys()
    return ["-".join(CODES[code] for code in typed.chord) for typed in keys.feed(data) + keys.flush()]


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"a", ["a"]),
        (b"aB", ["a", "shift-b"]),
        (b"\r\x7f\t", ["ret", "backspace", "tab"]),
        (b"\x03\x00", ["ctrl-c", "ctrl-spc"]),
        (b"\x1b", ["esc"]),
        (b"\x1b\x1b", ["esc", "esc"]),
        (b"\x1bx", ["alt-x"]),
        (b"\x1bX", ["alt-shift-x"]),
        (b"\x1b\x03", ["alt-ctrl-c"]),
        (b"\x1b[A\x1bOB", ["up", "down"]),
        (b"\x1b\x1b[A", ["alt-up"]),
        (b"\x1bOP\x1b[12~\x1b[[C\x1b[24~", ["f1", "f2", "f3", "f12"]),
        (b"\x1b[1;5C\x1b[3;2~\x1b[1;8P", ["ctrl-right", "shift-delete", "shift-alt-ctrl-f1"]),
        (b"\x1b[Z", ["shift-tab"]),
        (b"\x1b[", ["alt-["]),
        (b"\x1bO", ["alt-shift-o"]),
        (b"\x1b[99~b", ["", "b"]),
        ("é€".encode(), ["", ""]),
    ],
)
def test_keys_of_the_usual_terminals(data: bytes, keys: list[str]) -> None:
    assert pressed(data) == keys


def test_escape_alone_waits_for_what_may_follow() -> None:
    keys = TerminalKeys()
    assert keys.feed(b"\x1b") == []
    assert keys.undecided
    assert [typed.chord for typed in keys.feed(b"[A")] == [(KEYS["up"],)]
    assert not keys.undecided


def test_alt_digits_are_told_apart() -> None:
    keys = TerminalKeys()
    assert [typed.alt_digit for typed in keys.feed(b"\x1b1\x1b9\x1b0\x1ba1")] == [1, 9, 0, 0, 0]


@given(st.binary(max_size=60), st.integers(0, 60))
def test_any_bytes_are_cut_the_same_way_however_they_arrive(data: bytes, cut: int) -> None:
    whole, pieces = TerminalKeys(), TerminalKeys()
    at_once = whole.feed(data) + whole.flush()
    assert pieces.feed(data[:cut]) + pieces.feed(data[cut:]) + pieces.flush() == at_once
    assert all(len(typed.sent) <= LONGEST for typed in at_once)
    assert all(code in CODES for typed in at_once for code in typed.chord)
    assert (
        "".join(typed.sent for typed in at_once)
        == data.decode(errors="replace")[: sum(len(t.sent) for t in at_once)]
    )
    assert {ALT, CTRL, SHIFT} <= set(CODES)
