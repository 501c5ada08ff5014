"""A PS/2 mouse with a wheel and five buttons, as IntelliMouse and IntelliMouse Explorer report them.

Sources: IBM PS/2 hardware interface technical reference (1988), "Mouse"; Microsoft, "Enhanced PS/2 Device
Protocol" (the sample rates by which a driver asks for wheel and buttons 4 and 5).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from emu.bus.saved_state import Limits, Saved, pack, unpack

SCALE_1, SCALE_2, RESOLUTION, STATUS, STREAM, READ_DATA, END_WRAP, WRAP, REMOTE = (
    *(0xE6, 0xE7, 0xE8, 0xE9, 0xEA),
    *(0xEB, 0xEC, 0xEE, 0xF0),
)
IDENTIFY, SAMPLE_RATE, ENABLE, DISABLE, DEFAULTS, RESEND, RESET = 0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xFE, 0xFF
ACK, NAK, SELF_TEST_OK = 0xFA, 0xFE, 0xAA
PLAIN_ID, WHEEL_ID, EXPLORER_ID = 0, 3, 4
WHEEL_KNOCK, EXPLORER_KNOCK = bytes((200, 100, 80)), bytes((200, 200, 80))
LEFT, RIGHT, MIDDLE, SIDE, EXTRA = 1, 2, 4, 8, 16
ALWAYS, X_SIGN, Y_SIGN = 0x08, 0x10, 0x20
FARTHEST = 1 << 16
_KNOWN = frozenset(
    (
        *(SCALE_1, SCALE_2, RESOLUTION, STATUS, STREAM, READ_DATA, END_WRAP, WRAP, REMOTE),
        *(IDENTIFY, SAMPLE_RATE, ENABLE, DISABLE, DEFAULTS, RESET),
    )
)


@dataclass(slots=True)
class MouseState:
    """What a reset forgets, but for the buttons."""

    remote: bool = False
    wrap: bool = False
    enabled: bool = False
    scale_2: bool = False
    resolution: int = 2
    rate: int = 100
    identity: int = PLAIN_ID
    knock: bytearray = field(default_factory=lambda: bytearray(3))  # the last three sample rates
    command: int = 0  # whose data byte comes next, 0 for none
    x: int = 0  # moved and not yet told
    y: int = 0
    wheel: int = 0
    buttons: int = 0
    told: int = 0  # the buttons the host knows of
    last: bytes = b"\xaa"
    replies: bytearray = field(default_factory=bytearray)


class Ps2Mouse:
    """A `Ps2Device`. `ready()` tells the port of new bytes. Movement adds up until the host takes it.

    Owned by the vCPU thread.
    """

    KIND, VERSION = "ps2-mouse", 1

    def __init__(self, ready: Callable[[], None]) -> None:
        self._ready = ready
        self.state = MouseState()

    def reset(self) -> None:
        """Power-on state; the self test's answer is left out."""
        self.state = MouseState(buttons=self.state.buttons)

    # ---- the user's side ---------------------------------------------------------------------------

    def move(self, right: int, up: int, wheel: int = 0) -> None:
        """Counts moved since the last call; `wheel` notches towards the user are positive."""
        state = self.state
        state.x = _bounded(state.x + right, FARTHEST)
        state.y = _bounded(state.y + up, FARTHEST)
        state.wheel = _bounded(state.wheel + wheel, 0x7F)
        self._ready()

    def press(self, buttons: int) -> None:
        """The buttons that are down now: LEFT, RIGHT, MIDDLE, SIDE, EXTRA."""
        self.state.buttons = buttons & 0x1F
        self._ready()

    # ---- the controller's side ---------------------------------------------------------------------

    def next_byte(self) -> int:
        """The next byte for the host, or -1. In stream mode a packet begins once there is news."""
        state = self.state
        if not state.replies and state.enabled and not state.remote and self._news():
            self._answer(self._packet())
        return state.replies.pop(0) if state.replies else -1

    def write(self, value: int) -> None:
        """A command, or the data byte of one."""
        state = self.state
        command, state.command = state.command, 0
        state.replies.clear()
        if state.wrap and value not in (END_WRAP, RESET):
            self._answer(bytes((value,)))
        elif command:
            self._data(command, value)
        elif value == RESEND:
            state.replies += state.last
        elif value in _KNOWN:
            self._answer(bytes((ACK,)))
            self._command(value)
        else:
            self._answer(bytes((NAK,)))
        self._ready()

    def _answer(self, data: bytes) -> None:
        self.state.replies += data
        self.state.last = data

    def _data(self, command: int, value: int) -> None:
        state = self.state
        if command == RESOLUTION:
            state.resolution = value & 3
        else:
            state.rate = value
            state.knock = state.knock[1:] + bytes((value,))
            if state.knock == WHEEL_KNOCK:
                state.identity = WHEEL_ID
            elif state.knock == EXPLORER_KNOCK and state.identity == WHEEL_ID:
                state.identity = EXPLORER_ID
        self._answer(bytes((ACK,)))

    def _command(self, value: int) -> None:
        state = self.state
        if value in (RESOLUTION, SAMPLE_RATE):
            state.command = value
        elif value in (SCALE_1, SCALE_2):
            state.scale_2 = value == SCALE_2
        elif value in (STREAM, REMOTE):
            state.remote = value == REMOTE
        elif value in (WRAP, END_WRAP):
            state.wrap = value == WRAP
        elif value in (ENABLE, DISABLE):
            state.enabled = value == ENABLE
            state.x = state.y = state.wheel = 0
        elif value == STATUS:
            self._answer(self._status())
        elif value == READ_DATA:
            self._answer(self._packet())
        elif value == IDENTIFY:
            self._answer(bytes((state.identity,)))
        else:
            self._defaults(identity=PLAIN_ID if value == RESET else state.identity)
            if value == RESET:
                self._answer(bytes((SELF_TEST_OK, PLAIN_ID)))

    def _defaults(self, *, identity: int) -> None:
        state = self.state
        self.state = MouseState(
            identity=identity,
            buttons=state.buttons,
            told=state.buttons,
            replies=state.replies,
            last=state.last,
        )

    def _status(self) -> bytes:
        state = self.state
        flags = (
            (0x40 if state.remote else 0) | (0x20 if state.enabled else 0) | (0x10 if state.scale_2 else 0)
        )
        left, right, middle = (state.buttons & bit for bit in (LEFT, RIGHT, MIDDLE))
        flags |= (4 if left else 0) | (2 if middle else 0) | (1 if right else 0)
        return bytes((flags, state.resolution, state.rate))

    def _news(self) -> bool:
        state = self.state
        return bool(state.x or state.y or state.wheel or state.buttons != state.told)

    def _packet(self) -> bytes:
        """Three or four bytes: as much of the movement as fits."""
        state = self.state
        x, y = _bounded(state.x, 0xFF), _bounded(state.y, 0xFF)
        state.x, state.y, state.told = state.x - x, state.y - y, state.buttons
        first = ALWAYS | state.buttons & 7 | (X_SIGN if x < 0 else 0) | (Y_SIGN if y < 0 else 0)
        packet = bytes((first, x & 0xFF, y & 0xFF))
        if state.identity == PLAIN_ID:
            state.wheel = 0
            return packet
        wheel = _bounded(state.wheel, 7)
        state.wheel -= wheel
        if state.identity == WHEEL_ID:
            return packet + bytes((wheel & 0xFF,))
        return packet + bytes((wheel & 0x0F | state.buttons >> 3 << 4,))

    # ---- state -------------------------------------------------------------------------------------

    def save(self) -> dict[str, object]:
        """The state as plain values."""
        return pack(self.KIND, self.VERSION, self.state)

    def load(self, saved: Saved) -> None:
        """Take a saved state. Raises ConfigError."""
        far, notches = range(-FARTHEST, FARTHEST + 1), range(-0x7F, 0x80)
        limits: Limits = {
            "x": far,
            "y": far,
            "wheel": notches,
            "last": 4,
            "replies": 8,
            "resolution": 3,
            "identity": EXPLORER_ID,
            "buttons": 0x1F,
            "told": 0x1F,
        }
        self.state = unpack(self.KIND, self.VERSION, saved, MouseState(), limits)


def _bounded(value: int, limit: int) -> int:
    return max(-limit, min(limit, value))
