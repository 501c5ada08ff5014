"""Linux finds keyboard and mouse, and what is typed and moved arrives: from monitor and terminal."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.os.debian import Debian
from tests.os.guest import Guest
from tests.os.monitor import MonitorClient
from tests.os.terminal import Terminal

pytestmark = [pytest.mark.os, pytest.mark.timeout(300)]

KERNEL = r"^linux-image-6\.1\..*[0-9]-amd64$"
"""The cloud kernels have no driver for a PS/2 mouse."""
INIT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /usr/bin /sbin /usr/sbin
/bin/busybox --install -s
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
while read -r module; do insmod "/modules/$module"; done < /modules/order
openvt -c 1 sh
stty -F /dev/ttyS0 -echo
exec < /dev/ttyS0 > /dev/ttyS0 2> /dev/null
echo ready
while read -r line; do eval "$line"; done
"""
NAMES = {
    "a": "a",
    " ": "spc",
    "-": "minus",
    "$": "shift-4",
    "(": "shift-9",
    ")": "shift-0",
    "+": "shift-equal",
}
INTELLIMOUSE = r"\363\310\363\144\363\120"
"""What asks /dev/input/mice for four bytes a packet: the wheel's, too."""


@pytest.fixture(scope="module")
def debian() -> Debian:
    return Debian(KERNEL, ("psmouse", "evdev", "button"), INIT)


class Seat(Guest):
    """A guest with a shell on COM1 and one on the VGA console, and its monitor."""

    def __init__(self, debian: Debian, folder: Path) -> None:
        disk = folder / "disk.img"
        disk.write_bytes(bytes(1 << 20))
        where = f"unix:{folder / 'monitor'},server=on,wait=off"
        super().__init__(debian.kernel, debian.initrd, disk, "quiet", "-monitor", where)
        self.monitor = MonitorClient(folder / "monitor")
        self.expect("ready\r\n")
        self.run(
            "while ! grep -q Mouse /proc/bus/input/devices; do usleep 20000; done"
        )  # the probe takes time

    def run(self, line: str) -> str:
        """What a line prints on COM1's shell, which neither echoes nor prompts."""
        begin = len(self.text)
        self.type(f"{line}; echo done\n")
        end = self.expect("done\r\n", begin)
        return self.text[begin:end].replace("\r\n", "\n").removesuffix("done\n")

    def close(self) -> None:
        self.monitor.close()
        super().close()


@pytest.fixture(scope="module")
def seat(debian: Debian, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seat]:
    guest = Seat(debian, tmp_path_factory.mktemp("seat"))
    yield guest
    guest.close()


def test_both_devices_are_found_with_their_drivers(seat: Seat) -> None:
    listed = seat.run("grep -h . /sys/bus/serio/devices/*/driver/description; cat /proc/bus/input/devices")
    assert "AT and PS/2 keyboard driver" in listed
    assert "PS/2 mouse driver" in listed
    assert 'N: Name="AT Translated Set 2 keyboard"' in listed
    assert 'N: Name="ImExPS/2 Generic Explorer Mouse"' in listed


def press(seat: Seat, text: str) -> None:
    for character in text:
        assert seat.monitor.command(f"sendkey {NAMES.get(character, character)} 20") == ""


def screen_shows(seat: Seat, line: str) -> str:
    """Wait until the VGA screen has that line; the guest's clock decides when to look again."""
    while line not in (lines := seat.monitor.command("info screen").split("\n")):
        seat.run("usleep 20000")
        assert seat.process.poll() is None
    return "\n".join(lines)


def test_keystrokes_of_the_monitor_arrive_at_the_shell_on_the_vga_console(seat: Seat) -> None:
    press(seat, "echo typed-$((40+2))")
    seat.monitor.command("sendkey ret")
    shown = screen_shows(seat, "typed-42")
    assert "/ # echo typed-$((40+2))" in shown


def test_ctrl_c_by_keys_interrupts_what_runs_on_the_vga_console(seat: Seat) -> None:
    press(seat, "sleep 1000")
    seat.monitor.command("sendkey ret")
    seat.run("while ! pidof sleep; do usleep 20000; done")
    seat.monitor.command("sendkey ctrl-c")
    seat.run("while pidof sleep; do usleep 20000; done")


def test_other_consoles_open_by_alt_and_a_function_key(seat: Seat) -> None:
    assert seat.run("echo > /dev/tty2; cat /sys/class/tty/tty0/active") == "tty1\n"
    for number in (2, 1):
        seat.monitor.command(f"sendkey alt-f{number}")
        seat.run(f"while ! grep -q tty{number} /sys/class/tty/tty0/active; do usleep 20000; done")


def test_caps_lock_lights_its_lamp(seat: Seat) -> None:
    lamp = "/sys/class/leds/input*capslock/brightness"
    for value in (1, 0):
        seat.monitor.command("sendkey caps_lock")
        seat.run(f"while ! grep -q {value} {lamp}; do usleep 20000; done")


def test_mouse_movement_buttons_and_wheel_arrive(seat: Seat) -> None:
    seat.run(f"exec 3<>/dev/input/mice; printf '{INTELLIMOUSE}' >&3")
    assert seat.run("dd bs=64 count=1 <&3 2>/dev/null | od -An -tx1") == " fa\n"
    for command, packet in (
        ("mouse_move 5 3", "28 05 fd 00"),  # the monitor's y points down, the mouse's up
        ("mouse_move -7 -100", "18 f9 64 00"),
        ("mouse_button 1", "09 00 00 00"),
        ("mouse_button 6", "0e 00 00 00"),
        ("mouse_move 1 0", "0e 01 00 00"),
        ("mouse_button 0", "08 00 00 00"),
        ("mouse_move 0 0 1", "08 00 00 ff"),  # up
        ("mouse_move 0 0 -1", "08 00 00 01"),
    ):
        seat.monitor.command(command)
        shown = seat.run("dd bs=64 count=1 <&3 2>/dev/null | od -An -tx1")
        assert (command, shown.strip()) == (command, packet)
    seat.run("exec 3>&-")


def test_a_long_movement_arrives_whole(seat: Seat) -> None:
    seat.run("exec 3<>/dev/input/mice")
    seat.monitor.command("mouse_move 1000 0")
    moved = 0
    while moved < 1000:
        packet = bytes.fromhex(seat.run("dd bs=3 count=1 <&3 2>/dev/null | od -An -tx1"))
        assert packet[2] == 0
        moved += packet[1]
    assert moved == 1000
    seat.run("exec 3>&-")


def test_a_paused_guest_stands_still_and_goes_on(seat: Seat) -> None:
    begin = len(seat.text)
    seat.monitor.command("stop")
    assert seat.monitor.command("info status") == "VM status: paused\n"
    seat.type("echo on-$((1+1))\n")
    first, second = (seat.monitor.command("info registers") for _ in range(2))
    assert first == second
    assert "CR3=" in first
    assert "on-2" not in seat.text[begin:]
    seat.monitor.command("cont")
    seat.expect("on-2", begin)
    assert seat.monitor.command("info status") == "VM status: running\n"


def test_the_power_button_reaches_the_guest(debian: Debian, tmp_path: Path) -> None:
    guest = Seat(debian, tmp_path)
    try:
        found = guest.run("cat /proc/bus/input/devices")
        assert "Power Button" in found
        names = guest.run("grep -l Power /sys/class/input/event*/device/name")
        event = names.strip().replace("/sys/class", "/dev").removesuffix("/device/name")
        guest.run(f"exec 4< {event}")
        guest.monitor.command("system_powerdown")
        packet = guest.run("dd bs=24 count=1 <&4 | od -An -tx1 | tail -n1")
        assert packet == " 01 00 74 00 01 00 00 00\n"  # EV_KEY, KEY_POWER, pressed
        guest.type("poweroff -f\n")
        assert guest.finish() == 0
    finally:
        guest.close()


def test_a_person_types_in_the_terminal_and_sees_the_vga_console(debian: Debian) -> None:
    words = ["-display", "curses", "-m", "256M", "-kernel", debian.kernel, "-initrd", debian.initrd]
    terminal = Terminal([*words, "-append", "quiet console=tty0"])
    try:
        terminal.expect("/ #")
        terminal.type("echo typed-$((40+2))\r")
        terminal.expect("\ntyped-42")
        terminal.type("\x1b[A\x1b[D\x1b[D1")  # the last line again, and a digit before its last but one
        terminal.expect("/ # echo typed-$((40+2))".replace("2))", "21))"))
        terminal.type("\x7f\r")
        terminal.wait(lambda: terminal.shown().count("\ntyped-42") == 2, "the same again")
        terminal.type("sleep 1000\r")
        terminal.expect("sleep 1000")
        terminal.type(b"\x03")
        terminal.expect("^C\n/ #")
        terminal.type("printf '\\033[31mred\\033[1;34;47mblue\\033[0m\\n'\r")
        terminal.expect("\nredblue")
        row = next(n for n, line in enumerate(terminal.screen.display) if line.startswith("redblue"))
        red, blue = terminal.screen.buffer[row][0], terminal.screen.buffer[row][3]
        assert (red.fg, red.bg) == ("red", "black")
        assert (blue.fg, blue.bg) == ("brightblue", "white")
        terminal.resize(70, 20)
        terminal.type("echo small-$((1+1))\r")
        terminal.expect("\nsmall-2")
        terminal.type("\x1bOP\x1b[24~\x1b2")
        terminal.expect("(qemu)")
        terminal.type("quit\r")
        assert terminal.finish() == 0
    finally:
        terminal.close()
