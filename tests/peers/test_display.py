"""`-display curses` with SeaBIOS as the guest: what the terminal shows, which keys go where, how it ends."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.os.terminal import Terminal

SEABIOS, VGA_BIOS = "/usr/share/seabios/bios-256k.bin", "/usr/share/seabios/vgabios-isavga.bin"
pytestmark = pytest.mark.peer(SEABIOS, VGA_BIOS)

Start = Callable[..., Terminal]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(*flags)`: a machine with a blank disk, on a terminal."""
    (tmp_path / "disk.img").write_bytes(bytes(1 << 20))
    terminals: list[Terminal] = []

    def begin(*flags: str, columns: int = 100, rows: int = 30) -> Terminal:
        words = ["-display", "curses", "-drive", f"file={tmp_path / 'disk.img'},format=raw", *flags]
        terminals.append(Terminal(words, columns=columns, rows=rows))
        return terminals[-1]

    yield begin
    for terminal in terminals:
        terminal.close()


def test_the_terminal_shows_the_text_screen_with_its_cursor(start: Start) -> None:
    terminal = start()
    terminal.expect("No bootable device.")
    lines = terminal.shown().split("\n")
    assert lines[0].startswith("SeaBIOS (version ")
    assert "Booting from Hard Disk..." in lines
    assert lines[29].startswith("[Alt-1 screen]  Alt-2 monitor   Alt-3 serial ")
    row = next(number for number, line in enumerate(lines) if line.startswith("No bootable"))
    terminal.wait(lambda: (terminal.screen.cursor.x, terminal.screen.cursor.y) == (0, row + 1), "cursor")
    cell = terminal.screen.buffer[0][0]
    assert (cell.fg, cell.bg) == ("white", "black")


def test_a_key_is_the_guests_and_alt_with_a_digit_is_not(start: Start) -> None:
    terminal = start("-boot", "menu=on")
    terminal.expect("Press ESC for boot menu.")
    terminal.type("\x1b")
    terminal.expect("Select boot device:")
    terminal.type("\x1b2")
    terminal.expect("(qemu)")
    terminal.type("info status\r")
    terminal.expect("VM status: running")
    terminal.type("\x1b1")
    terminal.expect("Select boot device:")
    assert "VM status" not in terminal.shown()
    terminal.type("1")
    terminal.expect("Booting from")


def test_monitor_and_serial_port_have_consoles(start: Start) -> None:
    terminal = start("-bios", SEABIOS, "-machine", "pc,graphics=off")
    terminal.expect("[Alt-1 screen]")
    terminal.type("\x1b3")
    terminal.expect("Booting from Hard Disk...")
    terminal.type("\x1b2")
    terminal.expect("(qemu)")
    terminal.type("info version\r")
    terminal.expect("\nemu ")
    terminal.type("quit\r")
    assert terminal.finish() == 0
    assert terminal.log.endswith("\x1b[?1049l")


def test_a_resized_terminal_shows_what_fits(start: Start) -> None:
    terminal = start()
    terminal.expect("No bootable device.")
    terminal.resize(40, 5)
    terminal.expect("No bootable device.  Retrying in 60 seco"[:40])
    assert "SeaBIOS" not in terminal.shown()
    terminal.resize(120, 40)
    terminal.expect("SeaBIOS (version")
    terminal.expect("[Alt-1 screen]")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_run_and_gives_the_terminal_back(start: Start, number: signal.Signals) -> None:
    terminal = start()
    terminal.expect("SeaBIOS")
    terminal.signal(number)
    assert terminal.finish() == 128 + number
    left = terminal.log.rindex("\x1b[?1049l")
    assert f"emu: ended by {number.name}" in terminal.log[left:]


def test_ctrl_c_is_the_guests(start: Start) -> None:
    terminal = start()
    terminal.expect("No bootable device.")
    terminal.type(b"\x03\x1b2info status\r")
    terminal.expect("VM status: running")


def test_a_stopped_and_continued_run_shows_its_screen_again(start: Start) -> None:
    terminal = start()
    terminal.expect("No bootable device.")
    since = len(terminal.log)
    terminal.signal(signal.SIGSTOP)
    terminal.signal(signal.SIGCONT)
    terminal.expect_log("\x1b[?1049h", since)
    terminal.expect("No bootable device.")


def test_a_paused_machine_can_be_reset_and_goes_on(start: Start) -> None:
    terminal = start("-debugcon", "null")
    terminal.expect("SeaBIOS")
    terminal.type("\x1b2stop\rsystem_reset\rinfo status\r")
    terminal.expect("VM status: paused")
    terminal.type("cont\r\x1b1")
    terminal.expect("SeaBIOS")
    terminal.type("\x1b2quit\r")
    assert terminal.finish() == 0


@pytest.mark.parametrize(
    ("kind", "redirect", "message"),
    [
        ("xterm", True, "emu: -display curses: standard output is no terminal; -nographic needs none\n"),
        (
            "dumb",
            False,
            'emu: -display curses: TERM="dumb" cannot place text; set TERM to the terminal\'s name',
        ),
    ],
)
def test_what_is_no_terminal_is_told_in_one_line(kind: str, redirect: bool, message: str) -> None:
    words = ["-display", "curses", "hello"]
    if redirect:
        shown = subprocess.run(
            [sys.executable, "-m", "emu", "run", *words],
            capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert (shown.returncode, shown.stdout) == (2, "")
        assert shown.stderr.replace("input", "output") == message
        return
    terminal = Terminal(words, kind=kind)
    try:
        assert terminal.finish() == 2
        assert terminal.log.strip() == message
    finally:
        terminal.close()
