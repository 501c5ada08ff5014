from emu.devices.ps2_mouse import EXTRA, LEFT, RIGHT, Ps2Mouse


def make() -> Ps2Mouse:
    return Ps2Mouse(lambda: None)


def take(mouse: Ps2Mouse) -> bytes:
    found = bytearray()
    while (value := mouse.next_byte()) >= 0:
        found.append(value)
    return bytes(found)


def ask(mouse: Ps2Mouse, *values: int) -> bytes:
    answers = b""
    for value in values:
        mouse.write(value)
        answers += take(mouse)
    return answers


def knock(mouse: Ps2Mouse, *rates: int) -> None:
    for rate in rates:
        assert ask(mouse, 0xF3, rate) == b"\xfa\xfa"


def test_a_reset_answers_with_self_test_and_identity() -> None:
    mouse = make()
    assert ask(mouse, 0xFF) == b"\xfa\xaa\x00"
    assert ask(mouse, 0xF2) == b"\xfa\x00"
    assert ask(mouse, 0xE9) == b"\xfa\x00\x02\x64"


def test_nothing_is_told_before_the_host_enables_it() -> None:
    mouse = make()
    mouse.move(5, 5)
    assert take(mouse) == b""
    assert ask(mouse, 0xF4) == b"\xfa"  # what moved before is forgotten
    mouse.move(5, -3)
    mouse.press(LEFT)
    assert take(mouse) == bytes((0x08 | 0x20 | 1, 5, 0xFD))
    mouse.press(0)
    assert take(mouse) == b"\x08\0\0"


def test_far_movement_takes_several_packets() -> None:
    mouse = make()
    ask(mouse, 0xF4)
    mouse.move(300, 0)
    mouse.move(-800, 0)
    assert take(mouse) == bytes((0x18, 0x01, 0, 0x18, 0x0B, 0))


def test_sample_rates_switch_the_wheel_and_then_the_buttons_on() -> None:
    mouse = make()
    knock(mouse, 200, 200, 80)
    assert ask(mouse, 0xF2) == b"\xfa\x00"  # the wheel comes first
    knock(mouse, 200, 100, 80)
    assert ask(mouse, 0xF2, 0xF4) == b"\xfa\x03\xfa"
    mouse.move(0, 0, wheel=-1)
    assert take(mouse) == b"\x08\0\0\xff"
    knock(mouse, 200, 200, 80)
    assert ask(mouse, 0xF2) == b"\xfa\x04"
    mouse.press(RIGHT | EXTRA)
    assert take(mouse) == b"\x0a\0\0\x20"
    assert ask(mouse, 0xFF, 0xF2) == b"\xfa\xaa\x00\xfa\x00"


def test_in_remote_mode_the_host_asks_for_packets() -> None:
    mouse = make()
    ask(mouse, 0xF0, 0xF4)
    mouse.move(1, 1)
    assert take(mouse) == b""
    assert ask(mouse, 0xEB) == b"\xfa\x08\x01\x01"
    assert ask(mouse, 0xE9)[1] == 0x60
    assert ask(mouse, 0xEA) == b"\xfa"


def test_wrap_mode_echoes_until_it_ends() -> None:
    mouse = make()
    assert ask(mouse, 0xEE, 0x55, 0xF4, 0xEC, 0xF2) == b"\xfa\x55\xf4\xfa\xfa\x00"


def test_unknown_commands_are_refused_and_the_last_answer_is_sent_again() -> None:
    mouse = make()
    assert ask(mouse, 0x11) == b"\xfe"
    assert ask(mouse, 0xE8, 3, 0xE7, 0xE9) == b"\xfa\xfa\xfa\xfa\x10\x03\x64"
    assert ask(mouse, 0xFE) == b"\x10\x03\x64"
    assert ask(mouse, 0xF6, 0xE9) == b"\xfa\xfa\x00\x02\x64"


def test_state_survives_a_save() -> None:
    mouse, other = make(), make()
    knock(mouse, 200, 100, 80)
    ask(mouse, 0xF4)
    mouse.move(7, 0, 2)
    other.load(mouse.save())
    assert take(other) == b"\x08\x07\0\x02"
