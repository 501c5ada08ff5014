"""The monitor's commands and its line editor; whatever is typed, it answers in lines."""

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.boards.panel import Panel
from emu.boards.pc import PcBoard, assemble_pc
from emu.cli.images import resolve
from emu.cli.monitor import LONGEST_HOLD_MS, Monitor, parse_keys
from emu.cli.monitor_port import LONGEST_LINE, PROMPT, MonitorConsole
from emu.config import DeviceConfig, MachineConfig
from emu.devices.ps2_keys import ALT, CTRL, KEYS
from emu.errors import ConfigError

WORDS = st.sampled_from(
    [
        *("help", "info", "pci", "screen", "version", "status", "balloon", "sendkey", "mouse_move", "nmi"),
        *("mouse_button", "system_reset", "system_powerdown", "quit", "stop", "cont", "?", "q", "a-b", "-"),
        *("1", "-1", "0x10", "99999999999999999999", "ctrl-alt-f1", "\u0663", "1_0", "-" * 50),
    ]
)


@pytest.fixture(scope="module")
def board() -> Iterator[PcBoard]:
    """A machine that does not run: what is posted to it waits."""
    config = MachineConfig(
        ram_bytes=16 << 20, kernel=resolve("hello"), devices=(DeviceConfig("virtio-balloon-pci"),)
    )
    board = assemble_pc(config, lambda _data: None)
    yield board
    board.machine.close()


class Lab:
    def __init__(self, board: PcBoard) -> None:
        self.board, self.quits = board, 0
        self.monitor = Monitor(Panel(board), self.quit)

    def quit(self) -> None:
        self.quits += 1

    def run(self, line: str) -> str:
        answer = self.monitor.execute(line)
        self.board.machine.vcpu.run_calls()
        return answer


@pytest.fixture
def lab(board: PcBoard) -> Lab:
    return Lab(board)


def test_mouse_commands_move_and_press(lab: Lab) -> None:
    mouse = lab.board.mouse
    mouse.reset()
    assert lab.run("mouse_move 5 -3 2") == ""
    assert (mouse.state.x, mouse.state.y, mouse.state.wheel) == (5, 3, -1)
    for bits, buttons in (("1", 1), ("2", 4), ("4", 2), ("7", 7), ("0", 0)):
        lab.run(f"mouse_button {bits}")
        assert mouse.state.buttons == buttons


def test_sendkey_takes_names_joined_by_dashes() -> None:
    assert parse_keys("ctrl-alt-delete") == (CTRL, ALT, KEYS["delete"])
    assert parse_keys("ctrl--") == (CTRL, KEYS["-"])
    assert parse_keys("minus") == parse_keys("-") == (KEYS["-"],)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ctrl-hyper", 'no key is called "hyper"'),
        ("", 'no key is called ""'),
        ("-".join("a" * 17), "17 keys are too many"),
    ],
)
def test_keys_that_are_not_there_are_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_keys(text)


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("", ""),
        ("   ", ""),
        ("quitt", 'Error: unknown command "quitt"; the nearest is quit\n'),
        ("info statsu", 'Error: unknown command "info statsu"; the nearest is status\n'),
        ("mouse_move 1", "Error: usage: mouse_move DX DY [DZ]\n"),
        ("mouse_button 8", "Error: STATE is a number from 0 to 7, not 8\n"),
        ("balloon 0", "Error: MIB is a number from 1 to 1048576, not 0\n"),
        ("sendkey a 0", f"Error: MS is a number from 1 to {LONGEST_HOLD_MS}, not 0\n"),
        ("info balloon", "balloon: actual=16\n"),
        ("help nmi", "nmi -- send a non-maskable interrupt\n"),
        ("info status", "VM status: running\n"),
    ],
)
def test_answers_are_lines(lab: Lab, line: str, answer: str) -> None:
    assert lab.run(line) == answer


def test_what_is_on_the_pci_bus_is_told_as_qemu_tells_it(lab: Lab) -> None:
    told = lab.run("info pci")
    assert told.startswith("  Bus  0, device   0, function 0:\n    Host bridge: PCI device 8086:1237\n")
    assert "  Bus  0, device   1, function 1:\n    IDE controller: PCI device 8086:7010\n" in told


def test_the_balloons_target_is_what_the_guest_keeps(lab: Lab) -> None:
    assert lab.run("balloon 6") == ""
    assert lab.board.virtio_more is not None
    (balloon,) = lab.board.virtio_more.balloons.values()
    assert int.from_bytes(balloon.config(0, 4), "little") == (10 << 20) // 4096


def test_quit_ends_the_run(lab: Lab) -> None:
    lab.run("quit")
    lab.run("q")
    assert lab.quits == 2


@settings(deadline=None)
@given(st.one_of(st.text(max_size=60), st.lists(WORDS, max_size=5).map(" ".join)))
def test_any_line_is_answered_with_lines(board: PcBoard, line: str) -> None:
    monitor = Monitor(Panel(board), lambda: None)
    answer = "" if "registers" in line else monitor.execute(line)
    assert answer == "" or answer.endswith("\n")
    assert all(part.isprintable() for part in answer.split("\n") if line.isprintable())


class Typing:
    """A line editor, what it executed and what it showed."""

    def __init__(self, *, echo: bool = True) -> None:
        self.lines: list[str] = []
        self.shown = ""
        self.console = MonitorConsole(self, self._say, echo=echo)

    def execute(self, line: str) -> str:
        self.lines.append(line)
        return f"ran {line}\n"

    def _say(self, data: bytes) -> None:
        self.shown += data.decode()


@pytest.mark.parametrize(
    ("typed", "lines"),
    [
        (b"info\r", ["info"]),
        (b"info\r\nhelp\n", ["info", "help"]),
        (b"infoo\x7f\r", ["info"]),
        (b"wrong\x15right\r", ["right"]),
        (b"wrong\x03right\r", ["right"]),
        (b"a\x1b[Ab\x1b[1;5Cc\x1bOPd\r", ["abcd"]),
        (b"\x7f\r", [""]),
        (b"x" * (2 * LONGEST_LINE) + b"\r", ["x" * LONGEST_LINE]),
    ],
)
def test_lines_are_edited(typed: bytes, lines: list[str]) -> None:
    typing = Typing()
    typing.console.feed(typed)
    assert typing.lines == lines


def test_a_terminal_sees_what_is_typed_and_a_program_does_not() -> None:
    seen = []
    for echo in (True, False):
        typing = Typing(echo=echo)
        typing.console.feed(b"info\r")
        seen.append(typing.shown)
    assert seen == [f"info\r\nran info\r\n{PROMPT}", f"ran info\r\n{PROMPT}"]


@given(st.binary(max_size=100), st.integers(0, 100))
def test_the_editor_does_not_care_how_bytes_arrive(data: bytes, cut: int) -> None:
    whole, pieces = Typing(), Typing()
    whole.console.feed(data)
    pieces.console.feed(data[:cut])
    pieces.console.feed(data[cut:])
    assert (pieces.lines, pieces.shown) == (whole.lines, whole.shown)
