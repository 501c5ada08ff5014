"""COM1 on a Unix socket and on a pseudo-terminal: a real client types, the guest echoes. Beside QEMU."""

import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.testing.guest_elf import Load, build_elf, pvh_note

LIMIT_S = 30
COMMANDS = {
    "emu": [sys.executable, "-m", "emu", "run"],
    "qemu": ["qemu-system-x86_64", "-display", "none", "-monitor", "none", "-accel", "tcg", "-nodefaults"],
}
SIDES = ["emu", pytest.param("qemu", marks=pytest.mark.peer("qemu-system-x86_64"))]
BASE = 0x10_0000
ECHO = bytes.fromhex(
    "66bafd03"  # wait: mov dx, COM1 LSR
    "ec"  #        in al, dx
    "a801"  #      test al, DR
    "74f7"  #      jz wait
    "66baf803"  #  mov dx, COM1
    "ec"  #        in al, dx
    "3c71"  #      cmp al, 'q'
    "7403"  #      je end
    "ee"  #        out dx, al
    "ebeb"  #      jmp wait
    "66baf400"  # end: mov dx, isa-debug-exit
    "b010"  #      mov al, 0x10
    "ee"  #        out dx, al
    "f4"  #        hlt
)
DONE = 0x10 << 1 | 1


@pytest.fixture
def echo(tmp_path: Path) -> str:
    """A kernel that echoes COM1 and ends at a "q"."""
    path = tmp_path / "echo.elf"
    path.write_bytes(build_elf([Load(BASE, ECHO)], entry=BASE, bits=32, notes=pvh_note(BASE, 4)))
    return str(path)


class Guest:
    """A running guest; `said` is what came before the expected text on standard output."""

    def __init__(self, side: str, kernel: str, *words: str) -> None:
        ending = ["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04", "-no-reboot"]
        self.process = subprocess.Popen(
            [*COMMANDS[side], "-kernel", kernel, *ending, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode()

    def end(self) -> tuple[int, str]:
        _, told = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, told.decode()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def guests() -> Iterator[list[Guest]]:
    made: list[Guest] = []
    yield made
    for guest in made:
        guest.kill()


def connect(path: Path) -> socket.socket:
    """Connect once somebody listens."""
    deadline = time.monotonic() + LIMIT_S
    while True:
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(LIMIT_S)
        try:
            client.connect(str(path))
        except OSError:
            client.close()
            assert time.monotonic() < deadline
            select.select([], [], [], 0.01)
        else:
            return client


def expect(client: socket.socket, text: bytes) -> None:
    seen = b""
    while len(seen) < len(text):
        part = client.recv(4096)
        assert part, seen
        seen += part
    assert seen == text


@pytest.mark.parametrize("side", SIDES)
def test_clients_come_and_go_at_a_listening_socket(
    side: str, echo: str, tmp_path: Path, guests: list[Guest]
) -> None:
    path = tmp_path / "com1"
    guests.append(Guest(side, echo, "-serial", f"unix:{path},server=on,wait=off"))
    for text in (b"first", b"second"):
        with connect(path) as client:
            client.sendall(text)
            expect(client, text)
    with connect(path) as client:
        client.sendall(b"q")
        assert guests[0].end()[0] == DONE
    assert side == "qemu" or not path.exists()  # it leaves its socket behind at isa-debug-exit


@pytest.mark.parametrize("side", SIDES)
def test_the_guest_waits_for_the_first_client(
    side: str, echo: str, tmp_path: Path, guests: list[Guest]
) -> None:
    path = tmp_path / "com1"
    guests.append(Guest(side, echo, "-chardev", f"socket,id=c,path={path},server=on", "-serial", "chardev:c"))
    with connect(path) as client:
        client.sendall(b"abcq")
        expect(client, b"abc")
        status, told = guests[0].end()
    assert status == DONE
    assert "waiting for" in told


@pytest.mark.parametrize("side", SIDES)
def test_the_emulator_is_a_client(side: str, echo: str, tmp_path: Path, guests: list[Guest]) -> None:
    path = tmp_path / "com1"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(LIMIT_S)
        guests.append(Guest(side, echo, "-serial", f"unix:{path}"))
        client, _ = listener.accept()
        with client:
            client.sendall(b"xyzq")
            expect(client, b"xyz")
            assert guests[0].end()[0] == DONE


@pytest.mark.parametrize("side", SIDES)
def test_a_terminal_is_announced_and_carries_bytes_unchanged(
    side: str, echo: str, guests: list[Guest]
) -> None:
    guests.append(Guest(side, echo, "-serial", "pty"))
    line = guests[0].line()
    found = re.fullmatch(r"char device redirected to (/dev/pts/\d+) \(label serial0\)\n", line)
    assert found, line
    sent = b"\x03line\r\n\x7f\xff"
    for _ in range(2):  # it may be opened again
        terminal = os.open(found[1], os.O_RDWR | os.O_NOCTTY)
        try:
            os.write(terminal, sent)
            seen, deadline = b"", time.monotonic() + LIMIT_S
            while len(seen) < len(sent):
                assert select.select([terminal], [], [], deadline - time.monotonic())[0], seen
                seen += os.read(terminal, 4096)
            assert seen == sent
        finally:
            os.close(terminal)
    terminal = os.open(found[1], os.O_RDWR | os.O_NOCTTY)
    os.write(terminal, b"q")
    assert guests[0].end()[0] == DONE
    os.close(terminal)


def test_a_client_that_leaves_without_reading_does_not_hold_the_guest(
    echo: str, tmp_path: Path, guests: list[Guest]
) -> None:
    path = tmp_path / "com1"
    guests.append(Guest("emu", echo, "-serial", f"unix:{path},server=on,wait=off"))
    with connect(path) as client:
        client.setblocking(False)
        sent, deadline = 0, time.monotonic() + LIMIT_S
        while sent < 1 << 20 and time.monotonic() < deadline:
            if not select.select([], [client], [], 0.5)[1]:
                break  # nothing goes on: the echoes fill every buffer
            sent += client.send(b"x" * 4096)
    with connect(path) as client:
        client.sendall(b"q")
        while client.recv(65536):  # echoes of what the first one sent
            pass
        assert guests[0].end()[0] == DONE


def refused(echo: str, *words: str) -> str:
    guest = Guest("emu", echo, *words)
    status, told = guest.end()
    assert status == 2
    assert told.count("\n") == 1
    return told


def test_a_socket_that_cannot_be_had_is_one_line(echo: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen()
        told = refused(echo, "-serial", f"unix:{path},server=on,wait=off")
        assert told == f"emu: -serial: {path}: another process listens there; try another path\n"
        busy.settimeout(0)
        with pytest.raises(BlockingIOError):  # asking did not disturb it
            busy.accept()
    told = refused(echo, "-serial", f"unix:{path}")
    assert told == f"emu: -serial: {path}: nobody listens there; start the server first, or add server=on\n"
    told = refused(echo, "-serial", f"unix:{tmp_path}/none/s,server=on,wait=off")
    assert told == f"emu: -serial: {tmp_path}/none/s: No such file or directory; make its folder first\n"
    told = refused(echo, "-serial", f"unix:{echo},server=on,wait=off")
    assert told == f"emu: -serial: {echo}: it exists and is no socket; try another path\n"
    long = f"{tmp_path}/{'s' * 120}"
    assert refused(echo, "-serial", f"unix:{long}").startswith(f"emu: -serial: {long}: ")
    serial = ("-device", "virtio-serial-pci", "-device", "virtconsole,chardev=c")
    told = refused(echo, *serial, "-chardev", f"file,id=c,path={tmp_path}/none/f")
    assert told == f"emu: -chardev c: {tmp_path}/none/f: No such file or directory; make its folder first\n"


def test_a_socket_left_behind_gives_way(echo: str, tmp_path: Path, guests: list[Guest]) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
    guests.append(Guest("emu", echo, "-serial", f"unix:{path},server=on,wait=off"))
    with connect(path) as client:
        client.sendall(b"q")
        assert guests[0].end()[0] == DONE
