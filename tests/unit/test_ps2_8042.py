from collections import deque

import pytest

from emu.devices.ps2_8042 import Ps2Controller
from emu.errors import ConfigError
from emu.testing.lines import RecordingLine


class Echo:
    """A device that acknowledges each byte."""

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.queue: deque[int] = deque()

    def write(self, value: int) -> None:
        self.heard.append(value)
        self.queue.append(0xFA)

    def next_byte(self) -> int:
        return self.queue.popleft() if self.queue else -1


class Board:
    """A controller with a keyboard and a mouse, its lines, and the CPU pins it drives."""

    def __init__(self, *, devices: bool = True) -> None:
        self.irq1, self.irq12 = RecordingLine(), RecordingLine()
        self.a20: list[bool] = []
        self.resets = 0
        self.chip = Ps2Controller(self.irq1, self.irq12, self.a20.append, self._reset)
        self.kbd, self.mouse = Echo(), Echo()
        if devices:
            self.chip.keyboard.device, self.chip.aux.device = self.kbd, self.mouse

    def _reset(self) -> None:
        self.resets += 1

    def command(self, value: int, data: int | None = None) -> None:
        self.chip.command.write(0, 1, value)
        if data is not None:
            self.chip.data.write(0, 1, data)

    def status(self) -> int:
        return self.chip.command.read(0, 1)

    def get(self) -> int:
        return self.chip.data.read(0, 1)


def test_self_test_and_interface_tests() -> None:
    board = Board()
    assert board.status() == 0x18
    board.command(0xAA)
    assert board.status() == 0x1D
    assert board.get() == 0x55
    assert board.status() == 0x1C
    for command, answer in ((0xAB, 0), (0xA9, 0), (0xC0, 0x80)):
        board.command(command)
        assert board.get() == answer


def test_the_command_byte_is_kept_and_shown_in_the_status() -> None:
    board = Board()
    board.command(0x20)
    assert board.get() == 0x03
    board.command(0x60, 0x47)
    board.command(0x20)
    assert board.get() == 0x47
    assert board.status() & 4
    assert board.chip.translated


def test_a_keyboard_byte_raises_irq_1_until_it_is_read() -> None:
    board = Board()
    board.chip.data.write(0, 1, 0xF4)
    assert board.kbd.heard == [0xF4]
    assert board.irq1.level
    assert board.status() == 0x19
    assert board.get() == 0xFA
    assert not board.irq1.level
    assert board.get() == 0xFA


def test_each_byte_of_several_makes_an_edge() -> None:
    board = Board()
    board.kbd.queue.extend((1, 2))
    board.chip.keyboard.ready()
    board.irq1.levels.clear()
    assert [board.get(), board.get()] == [1, 2]
    assert board.irq1.levels == [False, True, False]


def test_mouse_bytes_go_through_d4_and_raise_irq_12() -> None:
    board = Board()
    board.command(0xD4, 0xF3)
    assert board.mouse.heard == [0xF3]
    assert board.kbd.heard == []
    assert board.irq12.level
    assert not board.irq1.level
    assert board.status() == 0x39
    assert board.get() == 0xFA
    assert not board.irq12.level


def test_a_closed_port_holds_its_bytes_back() -> None:
    board = Board()
    board.command(0xAD)
    board.command(0xA7)
    board.kbd.queue.append(1)
    board.mouse.queue.append(2)
    board.chip.keyboard.ready()
    assert board.status() == 0x18
    board.command(0xA8)
    assert board.get() == 2
    board.command(0xAE)
    assert board.get() == 1
    board.command(0xAD)
    board.chip.data.write(0, 1, 0xED)
    board.command(0x20)
    assert (board.get(), board.get()) == (0xFA, 0x03)


def test_interrupts_follow_the_command_byte() -> None:
    board = Board()
    board.command(0x60, 0x00)
    board.kbd.queue.append(7)
    board.chip.keyboard.ready()
    assert not board.irq1.level
    board.command(0x60, 0x01)
    assert board.irq1.level


def test_an_empty_port_times_out() -> None:
    board = Board(devices=False)
    board.chip.data.write(0, 1, 0xFF)
    assert board.status() == 0x59
    assert board.get() == 0xFE
    board.command(0xD4, 0xFF)
    assert board.status() == 0x79
    assert board.get() == 0xFE
    assert board.status() == 0x18


def test_bytes_can_be_looped_through_the_buffers() -> None:
    board = Board()
    board.command(0xD2, 0x11)
    assert board.status() == 0x19
    assert board.get() == 0x11
    board.command(0xD3, 0x22)
    assert board.status() == 0x39
    assert board.irq12.level
    assert board.get() == 0x22


def test_a_later_reply_replaces_an_earlier_one_but_no_device_byte() -> None:
    board = Board()
    board.command(0xAA)
    board.command(0xC0)
    assert board.get() == 0x80
    board.kbd.queue.append(5)
    board.chip.keyboard.ready()
    board.command(0xAB)
    board.command(0xAA)
    assert [board.get(), board.get()] == [5, 0x55]
    assert board.status() & 1 == 0


def test_a20_moves_by_the_output_port_and_by_command() -> None:
    board = Board()
    board.command(0xD1, 0xDD)
    board.command(0xDF)
    board.command(0xDD)
    assert board.a20 == [False, True, False]
    board.command(0xD0)
    assert board.get() & 0x03 == 0x01
    assert board.resets == 0


def test_the_output_port_shows_which_buffer_is_full_whatever_was_written_there() -> None:
    board = Board(devices=False)
    board.command(0xD1, 0xE3)  # both buffer bits among them
    board.command(0xAB)
    board.command(0xD0)
    assert board.chip.data.read(0, 1) & 0x30 == 0x10  # the test's answer was in the keyboard's buffer


def test_the_reset_line_is_pulsed_by_fe_and_pulled_by_the_output_port() -> None:
    board = Board()
    board.command(0xFE)
    board.command(0xF0)
    board.command(0xFF)
    assert board.resets == 2
    board.command(0xD1, 0x02)
    assert board.resets == 3


def test_a_command_forgets_the_one_that_waited_for_data() -> None:
    board = Board()
    board.command(0x60)
    board.command(0xAE)
    board.chip.data.write(0, 1, 0x55)
    assert board.kbd.heard == [0x55]


def test_a_saved_controller_goes_on_without_an_edge() -> None:
    board, other = Board(), Board()
    board.chip.data.write(0, 1, 0xF4)
    board.command(0xD1)
    other.chip.load(board.chip.save())
    assert other.irq1.levels == []
    assert other.irq1.level
    assert other.get() == 0xFA
    other.chip.data.write(0, 1, 0xDD)
    assert other.a20 == [False]
    board.chip.reset()
    assert not board.irq1.level
    assert board.status() == 0x18


@pytest.mark.parametrize("change", [{"reply": 0x200}, {"reply_source": 3}, {"own": 1}, {"data": 256}])
def test_a_wrong_saved_state_is_refused(change: dict[str, object]) -> None:
    chip = Board().chip
    with pytest.raises(ConfigError, match=next(iter(change))):
        chip.load(chip.save() | change)


def test_registers_have_names() -> None:
    chip = Board().chip
    assert chip.data.register_name(0, False) == "Output Buffer"
    assert chip.data.register_name(0, True) == "Input Buffer (data)"
    assert chip.command.register_name(0, True) == "Input Buffer (command)"
    assert chip.command.register_name(0, False) == "Status"
