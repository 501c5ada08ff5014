"""Text becomes key strokes at a pace, and no key stays down."""

from collections.abc import Callable

import pytest

from emu.boards.typist import ENOUGH, PACE_NS, Typist
from emu.clock import GuestClock
from emu.devices.ps2_keyboard import QUEUE, Ps2Keyboard
from emu.devices.ps2_keys import KEYS

CTRL, ALT, DELETE = KEYS["ctrl"], KEYS["alt"], KEYS["delete"]


class Desk:
    """A keyboard in set 2, and what it has sent."""

    def __init__(self) -> None:
        self.clock = GuestClock()
        self.keyboard = Ps2Keyboard(lambda: None, lambda: False)
        self.typist = Typist(self.clock, self.keyboard, self.post)

    def post(self, call: Callable[[], None]) -> None:
        call()

    def taken(self) -> bytes:
        """What the guest reads now."""
        return bytes(iter(self.keyboard.next_byte, -1))


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_keys_move_one_event_a_pace(desk: Desk) -> None:
    desk.typist.type_text("ab")
    assert desk.taken() == b"\x1c"
    desk.clock.advance(PACE_NS - 1)
    assert desk.taken() == b""
    desk.clock.advance(1)
    assert desk.taken() == b"\xf0\x1c"
    desk.clock.advance(2 * PACE_NS)
    assert desk.taken() == b"\x32\xf0\x32"
    desk.clock.advance(PACE_NS)
    assert desk.clock.timers.next_deadline() is None


def test_a_chord_goes_down_in_order_is_held_and_comes_up_in_the_opposite_order(desk: Desk) -> None:
    desk.typist.press([(CTRL, ALT, DELETE)], hold_ns=5 * PACE_NS)
    desk.clock.advance(2 * PACE_NS)
    assert desk.taken() == b"\x14\x11\xe0\x71"
    desk.clock.advance(5 * PACE_NS - 1)
    assert desk.taken() == b""
    desk.clock.advance(1 + 2 * PACE_NS)
    assert desk.taken() == b"\xe0\xf0\x71\xf0\x11\xf0\x14"


def test_keys_wait_for_a_guest_that_does_not_read(desk: Desk) -> None:
    desk.typist.type_text("a" * 10)
    desk.clock.advance(100 * PACE_NS)
    first = desk.taken()
    assert len(first) <= QUEUE
    seen = first
    for _ in range(100):
        desk.clock.advance(PACE_NS)
        seen += desk.taken()
    assert seen == b"\x1c\xf0\x1c" * 10


def test_too_much_is_dropped_by_whole_keys(desk: Desk) -> None:
    desk.typist.type_text("A" * ENOUGH)
    assert 0 <= desk.typist.room() < 4
    seen = b""
    while desk.clock.timers.next_deadline() is not None:
        seen += desk.taken()
        desk.clock.advance(PACE_NS)
    seen += desk.taken()
    one = b"\x12\x1c\xf0\x1c\xf0\x12"
    assert seen == one * (len(seen) // len(one))
    assert len(seen) // len(one) == ENOUGH // 4
