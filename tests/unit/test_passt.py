"""What goes to passt: frames without Ethernet's padding."""

import socket

import pytest

from emu.devices.net.passt import check_port, unpadded
from emu.errors import ConfigError

HEAD = bytes(12) + b"\x08\x00" + b"\x45\x00"


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (HEAD + b"\x00\x28" + bytes(42), 54),
        (HEAD + b"\x00\x2e" + bytes(42), 60),
        (HEAD + b"\xff\xff" + bytes(42), 60),
        (HEAD + b"\x00\x13" + bytes(42), 60),
        (bytes(12) + b"\x08\x06" + bytes(46), 60),
        (HEAD, 16),
        (b"", 0),
    ],
)
def test_a_frame_ends_with_its_ipv4_packet(frame: bytes, expected: int) -> None:
    assert unpadded(frame) == frame[:expected]


@pytest.mark.parametrize(("kind", "type_"), [("tcp", socket.SOCK_STREAM), ("udp", socket.SOCK_DGRAM)])
def test_a_port_of_the_host_that_is_taken_is_told(kind: str, type_: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, type_) as other:
        other.bind(("", 0))
        port = other.getsockname()[1]
        if kind == "tcp":
            other.listen()
        with pytest.raises(ConfigError, match=f"n: hostfwd={kind}::{port}: Address already in use; try anot"):
            check_port("n", kind, port)
    check_port("n", kind, port)
