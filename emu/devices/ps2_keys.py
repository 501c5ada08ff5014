"""Key codes of an AT keyboard: scan code set 2, its translation to set 1, and the keys of a US layout.

Source: IBM PS/2 hardware interface technical reference (1988), "Keyboard (101- and 102-Key)", scan codes;
the translation is that of the keyboard controller, same volume. A code of 0xE0xx is sent with the prefix E0.
"""

from typing import Final

RELEASE, EXTENDED = 0xF0, 0xE0
_TRANSLATION: Final = bytes.fromhex(
    "ff43413f3d3b3c586444 42403e0f2959 65382a701d10025a66712c1f1e11035b"
    "672e2d201205045c68392f211413065d 693130232215075e6a7232241608095f"
    "6b332517180b0a606c34352627190c61 6d7328741a0d626e3a361c1b752b6376"
    "55567778797a0e7b7c4f7d4b477e7f6f 5253504c4d480145574e514a37494654"
    "80818241548586"
)
TO_SET_1: Final = _TRANSLATION + bytes(range(len(_TRANSLATION), 0x100))

KEYS: Final[dict[str, int]] = {
    "esc": 0x76, "f1": 0x05, "f2": 0x06, "f3": 0x04, "f4": 0x0C, "f5": 0x03, "f6": 0x0B, "f7": 0x83,
    "f8": 0x0A, "f9": 0x01, "f10": 0x09, "f11": 0x78, "f12": 0x07, "scroll_lock": 0x7E,
    "`": 0x0E, "1": 0x16, "2": 0x1E, "3": 0x26, "4": 0x25, "5": 0x2E, "6": 0x36, "7": 0x3D, "8": 0x3E,
    "9": 0x46, "0": 0x45, "-": 0x4E, "=": 0x55, "backspace": 0x66, "tab": 0x0D, "q": 0x15, "w": 0x1D,
    "e": 0x24, "r": 0x2D, "t": 0x2C, "y": 0x35, "u": 0x3C, "i": 0x43, "o": 0x44, "p": 0x4D, "[": 0x54,
    "]": 0x5B, "\\": 0x5D, "caps_lock": 0x58, "a": 0x1C, "s": 0x1B, "d": 0x23, "f": 0x2B, "g": 0x34,
    "h": 0x33, "j": 0x3B, "k": 0x42, "l": 0x4B, ";": 0x4C, "'": 0x52, "ret": 0x5A, "shift": 0x12,
    "<": 0x61, "z": 0x1A, "x": 0x22, "c": 0x21, "v": 0x2A, "b": 0x32, "n": 0x31, "m": 0x3A, ",": 0x41,
    ".": 0x49, "/": 0x4A, "shift_r": 0x59, "ctrl": 0x14, "alt": 0x11, "spc": 0x29, "alt_r": 0xE011,
    "ctrl_r": 0xE014, "insert": 0xE070, "delete": 0xE071, "home": 0xE06C, "end": 0xE069, "pgup": 0xE07D,
    "pgdn": 0xE07A, "up": 0xE075, "down": 0xE072, "left": 0xE06B, "right": 0xE074, "num_lock": 0x77,
    "kp_divide": 0xE04A, "kp_multiply": 0x7C, "kp_subtract": 0x7B, "kp_add": 0x79, "kp_enter": 0xE05A,
    "kp_decimal": 0x71, "kp_0": 0x70, "kp_1": 0x69, "kp_2": 0x72, "kp_3": 0x7A, "kp_4": 0x6B, "kp_5": 0x73,
    "kp_6": 0x74, "kp_7": 0x6C, "kp_8": 0x75, "kp_9": 0x7D, "meta_l": 0xE01F, "meta_r": 0xE027,
    "menu": 0xE02F, "print": 0xE07C,
}  # fmt: skip
"""By QEMU's names (those of `sendkey`), or the character on the key."""
_NAMES: Final = {
    "minus": "-", "equal": "=", "bracket_left": "[", "bracket_right": "]", "semicolon": ";",
    "apostrophe": "'", "grave_accent": "`", "backslash": "\\", "less": "<", "comma": ",", "dot": ".",
    "slash": "/", "asterisk": "kp_multiply",
}  # fmt: skip
"""QEMU's names of keys that are above by their character."""

Chord = tuple[int, ...]
"""Keys that go down one after the other, and up in the opposite order."""

SHIFT, CTRL, ALT = KEYS["shift"], KEYS["ctrl"], KEYS["alt"]
_SHIFTED: Final = dict(zip('~!@#$%^&*()_+{}|:"<>?', "`1234567890-=[]\\;',./", strict=True))
_PLAIN: Final = {
    "\n": "ret", "\r": "ret", "\t": "tab", "\b": "backspace", "\x7f": "backspace", "\x1b": "esc", " ": "spc",
}  # fmt: skip
_WITH_CTRL: Final = {"\0": "spc", "\x1c": "\\", "\x1d": "]", "\x1e": "6", "\x1f": "-"}


def key_named(name: str) -> int | None:
    """The key of this name of QEMU's, or with this character on it."""
    return KEYS.get(_NAMES.get(name, name))


def chord_of(character: str) -> Chord:
    """The keys that type it; none where no key gives it. Control characters are typed with Ctrl."""
    if character in _PLAIN:
        return (KEYS[_PLAIN[character]],)
    if character in _WITH_CTRL:
        return CTRL, KEYS[_WITH_CTRL[character]]
    if character in _SHIFTED:
        return SHIFT, KEYS[_SHIFTED[character]]
    if "A" <= character <= "Z":
        return SHIFT, KEYS[character.lower()]
    if "\x01" <= character <= "\x1a":
        return CTRL, KEYS[chr(ord(character) + 0x60)]
    return (KEYS[character],) if len(character) == 1 and character in KEYS else ()
