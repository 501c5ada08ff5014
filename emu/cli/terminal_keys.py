"""What a terminal sends for its keys, as keys of a PC keyboard.

Sources: xterm's ctlseqs, "PC-Style Function Keys"; console_codes(4); rxvt's rxvtRef, "Key Codes".
"""

import codecs
from typing import Final, NamedTuple

from emu.devices.ps2_keys import ALT, CTRL, KEYS, SHIFT, Chord, chord_of

ESCAPE: Final = "\x1b"
LONGEST: Final = 16
"""Characters of an escape sequence at most."""
BY_LETTER: Final = {
    "A": "up", "B": "down", "C": "right", "D": "left", "F": "end", "H": "home", "M": "kp_enter",
    "P": "f1", "Q": "f2", "R": "f3", "S": "f4",
}  # fmt: skip
"""ESC O letter, and ESC [ letter."""
BY_NUMBER: Final = {
    1: "home", 2: "insert", 3: "delete", 4: "end", 5: "pgup", 6: "pgdn", 7: "home", 8: "end",
    11: "f1", 12: "f2", 13: "f3", 14: "f4", 15: "f5", 17: "f6", 18: "f7", 19: "f8", 20: "f9", 21: "f10",
    23: "f11", 24: "f12", 29: "menu",
}  # fmt: skip
"""ESC [ number ~"""
LINUX: Final = {"A": "f1", "B": "f2", "C": "f3", "D": "f4", "E": "f5"}
"""ESC [ [ letter"""
MODIFIERS: Final = ((1, SHIFT), (2, ALT), (4, CTRL))
"""The bits of a modifier parameter less 1."""


class Typed(NamedTuple):
    """One key press: what the terminal sent, and the keys that make it; no keys where a PC has none."""

    sent: str
    chord: Chord

    @property
    def alt_digit(self) -> int:
        """N for Alt-N, 1 to 9; else 0."""
        is_digit = len(self.sent) == 2 and self.sent[0] == ESCAPE and "1" <= self.sent[1] <= "9"
        return int(self.sent[1]) if is_digit else 0


class TerminalKeys:
    """Cuts a terminal's bytes into key presses, however they arrive."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._begun = ""

    @property
    def undecided(self) -> bool:
        """An escape character has come, and nothing yet that tells whether it is the Esc key's own."""
        return bool(self._begun)

    def feed(self, data: bytes) -> list[Typed]:
        """The key presses that `data` completes."""
        found: list[Typed] = []
        for character in self._decoder.decode(data):
            self._begun += character
            if not _goes_on(self._begun):
                found += _decide(self._begun)
                self._begun = ""
        return found

    def flush(self) -> list[Typed]:
        """Nothing more came: what has begun was all."""
        begun, self._begun = self._begun, ""
        return _decide(begun) if begun else []


def _goes_on(text: str) -> bool:
    """True while `text` is the beginning of something longer: of ESC ESC..., ESC O letter, ESC [ ..."""
    body = text.removeprefix(ESCAPE)
    if body == text or len(text) >= LONGEST:
        return False
    body = body.removeprefix(ESCAPE)  # Alt with a key that sends a sequence
    if not body or body in ("O", "[", "[["):
        return True
    return body[0] == "[" and "\x20" <= body[-1] < "\x40"


def _decide(text: str) -> list[Typed]:
    """The key presses of a complete text; of an unknown sequence none."""
    if text == 2 * ESCAPE:
        return 2 * [Typed(ESCAPE, (KEYS["esc"],))]
    chord = _sequence(text[1:]) if text[0] == ESCAPE else chord_of(text)
    if chord is not None:
        return [Typed(text, chord)]
    rest = text[1:]  # ESC and something else: with Alt
    if rest[:1] == ESCAPE and (held := _sequence(rest[1:])):
        return [Typed(text, (ALT, *held))]
    if len(rest) == 1:
        return [Typed(text, (ALT, *chord_of(rest)) if chord_of(rest) else ())]
    return [Typed(text, ())]


def _sequence(body: str) -> Chord | None:
    """The keys of ESC `body`, None where it is no key's."""
    if not body:
        return (KEYS["esc"],)
    if body[0] == "O" and len(body) == 2:
        return _named(BY_LETTER.get(body[1]))
    if body[0] != "[" or len(body) < 2:
        return None
    if body[1] == "[":
        return _named(LINUX.get(body[2:]))
    if body == "[Z":
        return SHIFT, KEYS["tab"]
    numbers, final = body[1:-1].split(";"), body[-1]
    if not all(word.isascii() and word.isdigit() for word in numbers if word):
        return None
    name = BY_NUMBER.get(int(numbers[0] or 0)) if final == "~" else BY_LETTER.get(final)
    chord = _named(name)
    if chord is None or len(numbers) < 2:
        return chord
    bits = max(int(numbers[1] or 1), 1) - 1
    return *(key for bit, key in MODIFIERS if bits & bit), *chord


def _named(name: str | None) -> Chord | None:
    return None if name is None else (KEYS[name],)
