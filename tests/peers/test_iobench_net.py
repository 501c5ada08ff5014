"""The network half of iobench on QEMU's cards: its drivers are not made for ours alone.

QEMU has no echo port, so the other end of its `-netdev stream` is one of ours behind a socket.
"""

import contextlib
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.devices.net.echo import EchoPort
from tests.guest import lab

LIMIT_S = 100
LENGTH = 4  # bytes in front of each frame, big-endian
RESULT = re.compile(r"iobench: result op=\S+ bs=\d+ qd=\d+ count=400 errors=0 checksum=(\S+) ")

pytestmark = pytest.mark.peer("qemu-system-x86_64")


@contextlib.contextmanager
def echo_port(path: str) -> Iterator[None]:
    """Serve one peer's frames on a socket at `path`."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        thread = threading.Thread(target=answer, args=(listening,))
        thread.start()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            thread.join(LIMIT_S)


def answer(listening: socket.socket) -> None:
    port, data = EchoPort(), b""
    try:
        peer = listening.accept()[0]
    except OSError:  # nobody came
        return
    with peer, contextlib.suppress(ConnectionError):
        while chunk := peer.recv(1 << 20):
            data += chunk
            while len(data) >= LENGTH and len(data) >= (end := LENGTH + int.from_bytes(data[:LENGTH], "big")):
                port.send([memoryview(data)[LENGTH:end]])
                data = data[end:]
            while (frame := port.receive()) is not None:
                peer.sendall(len(frame).to_bytes(LENGTH, "big") + frame)


def on_qemu(card: str, words: str, folder: Path) -> tuple[int, str]:
    """Exit status and output."""
    path = str(folder / "port")
    command = ["qemu-system-x86_64", "-machine", "pc", "-accel", "tcg", "-m", "128", "-nodefaults"]
    command += ["-kernel", lab.image("iobench"), "-append", f"{words} count=400"]
    command += ["-netdev", f"stream,id=n,server=off,addr.type=unix,addr.path={path}"]
    command += ["-device", f"{card},netdev=n", "-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]
    command += ["-display", "none", "-serial", "stdio", "-no-reboot"]
    with echo_port(path):
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S, check=False
        )
    return done.returncode, done.stdout.decode(errors="replace")


@pytest.mark.parametrize("card", ["e1000", "virtio-net-pci"])
@pytest.mark.parametrize(
    "words",
    ["op=net-rr qd=8", "op=net-rr bs=8192 qd=100 wait=poll", "op=net-stream bs=64", "op=net-stream qd=32"],
)
def test_frames_come_back_as_they_were_sent_on_qemus_cards(card: str, words: str, tmp_path: Path) -> None:
    status, text = on_qemu(card, words, tmp_path)
    assert RESULT.search(text), text
    assert status == 33
