"""Any sequence of accesses: no traceback but AccessError, nothing outside of the disk."""

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from emu.bus.types import AccessError
from emu.devices.block.raw import RawImage
from emu.devices.ide import IdeChannel
from emu.testing.lines import RecordingLine

opcodes = st.sampled_from(
    [0x20, 0x24, 0x29, 0x30, 0x34, 0x39, 0x40, 0x42, 0x91, 0xC4, 0xC5, 0xC6, 0xEC, 0xEF]
)
small = st.integers(0, 3)
steps = st.one_of(
    st.tuples(st.just("w"), st.integers(1, 6), st.just(1), small | st.integers(0, 255)),
    st.tuples(st.just("w"), st.just(7), st.just(1), opcodes | st.integers(0, 255)),
    st.tuples(st.just("c"), st.just(0), st.just(1), st.integers(0, 255)),
    st.tuples(
        st.sampled_from("rw"), st.integers(0, 7), st.sampled_from([1, 2, 4]), st.integers(0, 2**32 - 1)
    ),
    st.tuples(st.sampled_from("RW"), st.just(0), st.sampled_from([2, 4]), st.integers(1, 600)),
)


@settings(max_examples=120, deadline=None)
@given(st.lists(steps, max_size=40), st.booleans())
def test_a_hostile_driver_gets_answers_only(script: list[tuple[str, int, int, int]], slave: bool) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "disk.img"
        path.write_bytes(bytes(64 * 512))
        disk = RawImage(path, read_only=False)
        line = RecordingLine()
        channel = IdeChannel(line, None if slave else disk, disk if slave else None)
        for kind, offset, width, value in script:
            with suppress(AccessError):
                if kind == "w":
                    channel.command.write(offset, width, value & (1 << 8 * width) - 1)
                elif kind == "c":
                    channel.control.write(0, 1, value)
                elif kind == "r":
                    assert 0 <= channel.command.read(offset, width) < 1 << 8 * width
                else:
                    read, write = channel.command.direct(0, width)
                    for _ in range(value):
                        if kind == "R":
                            read(0, width)
                        else:
                            write(0, width, 0xA5A5A5A5)
        channel.reset()
        assert not line.level
        assert path.stat().st_size == 64 * 512
        disk.close()
