import pytest

from emu.devices.ps2_8042 import Ps2Controller
from emu.devices.ps2_keyboard import Ps2Keyboard
from emu.devices.ps2_keys import KEYS, TO_SET_1, chord_of, key_named
from emu.testing.lines import RecordingLine


class Lab:
    """A keyboard whose bytes are taken off one by one."""

    def __init__(self, *, translated: bool = False) -> None:
        self.translated = translated
        self.ready = 0
        self.kbd = Ps2Keyboard(self._ready, lambda: self.translated)

    def _ready(self) -> None:
        self.ready += 1

    def take(self) -> bytes:
        found = bytearray()
        while (value := self.kbd.next_byte()) >= 0:
            found.append(value)
        return bytes(found)

    def ask(self, *values: int) -> bytes:
        answers = b""
        for value in values:
            self.kbd.write(value)
            answers += self.take()
        return answers


def test_every_command_has_its_answer() -> None:
    lab = Lab()
    assert lab.ask(0xFF) == b"\xfa\xaa"
    assert lab.ask(0xEE) == b"\xee"
    assert lab.ask(0xF2) == b"\xfa\xab\x83"
    assert lab.ask(0xED, 0x07) == b"\xfa\xfa"
    assert lab.kbd.state.leds == 7
    assert lab.ask(0xF3, 0x20) == b"\xfa\xfa"
    assert [lab.ask(value) for value in (0xF4, 0xF5, 0xF6, 0xF7, 0xFA)] == [b"\xfa"] * 5
    assert [lab.ask(value) for value in (0xEF, 0xF1, 0xFB, 0x00)] == [b"\xfe"] * 4


def test_scan_code_sets_one_and_two_are_there_and_three_is_not() -> None:
    lab = Lab()
    assert lab.ask(0xF0, 0) == b"\xfa\xfa\x02"
    assert lab.ask(0xF0, 1) == b"\xfa\xfa"
    assert lab.kbd.key(KEYS["up"], True)
    assert lab.kbd.key(KEYS["up"], False)
    assert lab.take() == b"\xe0\x48\xe0\xc8"
    assert lab.ask(0xF0, 3) == b"\xfa\xfe"
    assert lab.ask(0xF0, 0) == b"\xfa\xfa\x01"


def test_keys_are_told_in_set_two_with_prefixes() -> None:
    lab = Lab()
    for key in ("a", "delete"):
        assert lab.kbd.key(KEYS[key], True)
        assert lab.kbd.key(KEYS[key], False)
    assert lab.take() == bytes.fromhex("1c f0 1c e0 71 e0 f0 71")
    assert lab.ready == 4


def test_the_controllers_translation_makes_set_one_of_codes_and_identity() -> None:
    lab = Lab(translated=True)
    for key in ("a", "right", "f7"):
        assert lab.kbd.key(KEYS[key], True)
        assert lab.kbd.key(KEYS[key], False)
    assert lab.take() == bytes.fromhex("1e 9e e0 4d e0 cd 41 c1")
    assert lab.ask(0xF2) == b"\xfa\xab\x41"
    assert lab.ask(0xF0, 0) == b"\xfa\xfa\x41"
    assert len(TO_SET_1) == 256
    assert TO_SET_1[0xFA] == 0xFA


def test_answers_go_before_keys_and_a_reset_forgets_those() -> None:
    lab = Lab()
    lab.kbd.key(KEYS["b"], True)
    lab.kbd.write(0xF2)
    assert lab.take() == b"\xfa\xab\x83\x32"
    lab.kbd.key(KEYS["b"], True)
    assert lab.ask(0xFF) == b"\xfa\xaa"


def test_a_disabled_keyboard_and_a_full_queue_lose_keys() -> None:
    lab = Lab()
    lab.ask(0xF5)
    assert not lab.kbd.key(KEYS["a"], True)
    lab.ask(0xF4)
    assert [lab.kbd.key(KEYS["a"], True) for _ in range(17)] == [True] * 16 + [False]
    assert lab.take() == b"\x1c" * 16


def test_the_last_byte_is_sent_again() -> None:
    lab = Lab()
    assert lab.ask(0xEE, 0xFE, 0xFE) == b"\xee\xee\xee"


def test_a_data_byte_that_is_a_command_is_one() -> None:
    lab = Lab()
    assert lab.ask(0xED, 0xF4) == b"\xfa\xfa"
    assert (lab.kbd.state.leds, lab.kbd.state.command) == (0, 0)


def test_state_survives_a_save_in_the_middle_of_a_command() -> None:
    lab, other = Lab(), Lab()
    lab.kbd.key(KEYS["a"], True)
    lab.ask(0xF0)
    lab.kbd.key(KEYS["b"], False)
    other.kbd.load(lab.kbd.save())
    assert other.ask(1) == b"\xfa\xf0\x32"
    assert other.kbd.state.scan_set == 1


def test_a_character_is_a_chord_of_a_us_keyboard() -> None:
    shift, ctrl = KEYS["shift"], KEYS["ctrl"]
    assert [chord_of(each) for each in "aA|\x03\u20ac"] == [
        (0x1C,), (shift, 0x1C), (shift, 0x5D), (ctrl, 0x21), (),
    ]  # fmt: skip
    typed = [chord_of(chr(code)) for code in range(0x20, 0x7F)]
    assert all(len(chord) == 1 or (len(chord) == 2 and chord[0] == shift) for chord in typed)
    assert len(set(typed)) == len(typed)


def test_every_control_character_but_those_with_a_key_is_typed_with_ctrl() -> None:
    without = [code for code in range(0x20) if chord_of(chr(code))[0] != KEYS["ctrl"]]
    assert without == [0x08, 0x09, 0x0A, 0x0D, 0x1B]


@pytest.mark.parametrize(
    ("name", "code"), [("ret", 0x5A), ("minus", 0x4E), ("-", 0x4E), ("f12", 0x07), ("delete", 0xE071)]
)
def test_keys_go_by_the_names_of_qemus_monitor(name: str, code: int) -> None:
    assert key_named(name) == code
    assert key_named("hyper") is None


def test_through_the_controller_a_key_interrupts_once_a_byte() -> None:
    irq1, irq12 = RecordingLine(), RecordingLine()
    chip = Ps2Controller(irq1, irq12, lambda _open: None, lambda: None)
    kbd = Ps2Keyboard(chip.keyboard.ready, lambda: chip.translated)
    chip.keyboard.device = kbd
    chip.command.write(0, 1, 0x60)
    chip.data.write(0, 1, 0x41)
    kbd.key(KEYS["left"], False)
    assert [chip.data.read(0, 1), chip.data.read(0, 1)] == [0xE0, 0xCB]
    assert irq1.levels.count(True) == 2
