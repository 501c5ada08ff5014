"""What goes to passt: frames without Ethernet's padding."""

import pytest

from emu.devices.net.passt import unpadded

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
