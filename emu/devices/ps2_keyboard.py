"""An AT keyboard of 102 keys on a PS/2 port.

Source: IBM PS/2 hardware interface technical reference (1988), "Keyboard (101- and 102-Key)": commands from
the system, commands to the system, scan code sets 1 and 2. Typematic repeat is the guest's own affair.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from emu.bus.saved_state import Limits, Saved, pack, unpack
from emu.devices.ps2_keys import EXTENDED, RELEASE, TO_SET_1

SET_LEDS, ECHO, SCAN_SET, IDENTIFY, SET_RATE, ENABLE, DISABLE, DEFAULTS = (
    *(0xED, 0xEE, 0xF0, 0xF2, 0xF3),
    *(0xF4, 0xF5, 0xF6),
)
ALL_TYPEMATIC, ALL_MAKE_TYPEMATIC_BREAK, RESEND, RESET = 0xF7, 0xFA, 0xFE, 0xFF
ACK, SELF_TEST_OK = 0xFA, 0xAA
ID = b"\xab\x83"
FIRST_COMMAND = 0xED
QUEUE = 16
_WITH_DATA = frozenset((SET_LEDS, SCAN_SET, SET_RATE))


@dataclass(slots=True)
class KeyboardState:
    """What a reset forgets."""

    scan_set: int = 2
    leds: int = 0
    enabled: bool = True
    command: int = 0  # whose data byte comes next, 0 for none
    last: int = 0  # for RESEND
    released: bool = False  # a translated F0 has come
    replies: bytearray = field(default_factory=bytearray)
    codes: bytearray = field(default_factory=bytearray)


class Ps2Keyboard:
    """A `Ps2Device`. `ready()` tells the port of new bytes; `translated()` says whether set 1 is wanted.

    Owned by the vCPU thread.
    """

    KIND, VERSION = "ps2-keyboard", 1

    def __init__(self, ready: Callable[[], None], translated: Callable[[], bool]) -> None:
        self._ready, self._translated = ready, translated
        self.state = KeyboardState()

    def reset(self) -> None:
        """Power-on state; the self test's answer is left out."""
        self.state = KeyboardState()

    # ---- the user's side ---------------------------------------------------------------------------

    def key(self, code: int, pressed: bool) -> bool:
        """A key of `ps2_keys.KEYS` goes down or up; False where it is lost: disabled, or too much waits."""
        state = self.state
        data = bytearray()
        if code > 0xFF:
            data.append(EXTENDED)
        if state.scan_set == 1:
            data.append(TO_SET_1[code & 0xFF] | (0 if pressed else 0x80))
        else:
            data += b"" if pressed else bytes((RELEASE,))
            data.append(code & 0xFF)
        if not state.enabled or len(state.codes) + len(data) > QUEUE:
            return False
        state.codes += data
        self._ready()
        return True

    # ---- the controller's side ---------------------------------------------------------------------

    def next_byte(self) -> int:
        """The next byte for the host, or -1. A release prefix becomes bit 7 where codes are translated."""
        state = self.state
        while True:
            queue = state.replies or state.codes
            if not queue:
                return -1
            value = queue.pop(0)
            state.last = value
            if not self._translated():
                state.released = False
                return value
            if value == RELEASE and queue is state.codes:
                state.released = True
                continue
            value = TO_SET_1[value] | (0x80 if state.released and queue is state.codes else 0)
            if queue is state.codes:
                state.released = False
            return value

    def write(self, value: int) -> None:
        """A command, or the data byte of one."""
        state = self.state
        command, state.command = state.command, 0
        if command and value < FIRST_COMMAND:
            self._data(command, value)
        elif value == RESEND:
            state.replies[:] = bytes((state.last,))
        else:
            state.replies.clear()  # answers to what came before are of no use
            self._command(value)
        self._ready()

    def _data(self, command: int, value: int) -> None:
        state = self.state
        if command == SCAN_SET and value > 2:
            state.replies.append(RESEND)  # set 3 is not there
            return
        state.replies.append(ACK)
        if command == SET_LEDS:
            state.leds = value & 0x07
        elif command == SCAN_SET and value == 0:
            state.replies.append(state.scan_set)
        elif command == SCAN_SET:
            state.scan_set = value

    def _command(self, value: int) -> None:
        state = self.state
        if value == ECHO:
            state.replies.append(ECHO)
            return
        known = value in _WITH_DATA or IDENTIFY <= value <= ALL_MAKE_TYPEMATIC_BREAK or value == RESET
        state.replies.append(ACK if known else RESEND)
        if value in _WITH_DATA:
            state.command = value
        elif value == IDENTIFY:
            state.replies += ID
        elif value == ENABLE:
            state.enabled = True
            state.codes.clear()
        elif value in (DISABLE, DEFAULTS):
            self._defaults(enabled=value == DEFAULTS)
        elif value == RESET:
            self._defaults(enabled=True)
            state.replies.append(SELF_TEST_OK)

    def _defaults(self, *, enabled: bool) -> None:
        replies = self.state.replies
        self.state = KeyboardState(enabled=enabled, replies=replies)

    # ---- state -------------------------------------------------------------------------------------

    def save(self) -> dict[str, object]:
        """The state as plain values."""
        return pack(self.KIND, self.VERSION, self.state)

    def load(self, saved: Saved) -> None:
        """Take a saved state. Raises ConfigError."""
        limits: Limits = {"scan_set": range(1, 3), "leds": 7, "replies": QUEUE, "codes": QUEUE}
        self.state = unpack(self.KIND, self.VERSION, saved, KeyboardState(), limits)
