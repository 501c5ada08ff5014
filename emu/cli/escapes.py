"""The Ctrl-A keys of `mon:stdio`. Source: qemu(1), "Keys in the character backend multiplexer"."""

import enum
from typing import Final

CTRL_A: Final = 0x01

HELP: Final = (
    "\r\n"
    "Ctrl-A H      this list\r\n"
    "Ctrl-A X      end the emulator\r\n"
    "Ctrl-A C      from the guest to the monitor and back\r\n"
    "Ctrl-A B      send a break\r\n"
    "Ctrl-A Ctrl-A send Ctrl-A to the guest, also Ctrl-A A\r\n"
)
NO_MONITOR: Final = "\r\nemu: there is no monitor here; Ctrl-A H lists the keys\r\n"


class Key(enum.Enum):
    """What the user asked of the emulator itself."""

    QUIT = "x"
    HELP = "h"
    MONITOR = "c"
    BREAK = "b"


KEYS: Final = {ord(letter): key for key in Key for letter in (key.value, key.value.upper())}
KEYS[ord("?")] = Key.HELP
ITSELF: Final = frozenset((CTRL_A, ord("a"), ord("A")))


class EscapeKeys:
    """Separates the emulator's keys from the guest's bytes, however the bytes arrive."""

    def __init__(self) -> None:
        self._escaped = False

    def feed(self, data: bytes) -> list[bytes | Key]:
        """The guest's bytes and the emulator's keys, in order. Unknown keys are dropped."""
        events: list[bytes | Key] = []
        plain = bytearray()
        for byte in data:
            if not self._escaped:
                if byte == CTRL_A:
                    self._escaped = True
                else:
                    plain.append(byte)
                continue
            self._escaped = False
            if byte in ITSELF:
                plain.append(CTRL_A)
            elif byte in KEYS:
                if plain:
                    events.append(bytes(plain))
                    plain.clear()
                events.append(KEYS[byte])
        if plain:
            events.append(bytes(plain))
        return events
