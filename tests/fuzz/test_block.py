"""Images whose bytes anybody may have made, and an overlay against a plain array."""

import struct
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from emu.devices.block.open import open_image
from emu.devices.block.overlay import Overlay
from emu.devices.block.raw import RawImage
from emu.errors import ConfigError, MediumError

SECTORS = 40

header = st.builds(
    lambda version, backing, name, bits, size, crypt, l1_size, l1, rest: (
        struct.pack(">4sIQIIQIIQ", b"QFI\xfb", version, backing, name, bits, size, crypt, l1_size, l1) + rest
    ),
    st.sampled_from([2, 3]) | st.integers(0, 2**32 - 1),
    st.just(0) | st.integers(0, 2**64 - 1),
    st.integers(0, 2000),
    st.integers(9, 21) | st.integers(0, 2**32 - 1),
    st.sampled_from([512, 65536, 1 << 20]) | st.integers(0, 2**64 - 1),
    st.just(0) | st.integers(0, 2**32 - 1),
    st.integers(0, 64),
    st.integers(0, 512) | st.integers(0, 2**64 - 1),
    st.binary(max_size=600),
)


@settings(max_examples=60, deadline=None)
@given(header)
def test_a_hostile_qcow2_header_is_refused_or_fails_as_a_medium(image: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "disk.qcow2"
        path.write_bytes(image)
        try:
            disk = open_image(path, read_only=True)
        except ConfigError:
            return
        with suppress(MediumError):
            disk.readv(0, [memoryview(bytearray(512))])
        disk.close()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("rwz"), st.integers(0, SECTORS - 1), st.integers(1, SECTORS)), max_size=20
    )
)
def test_an_overlay_behaves_as_an_array(steps: list[tuple[str, int, int]]) -> None:
    model = bytearray(bytes(range(256)) * (SECTORS * 2))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "disk.img"
        path.write_bytes(model)
        disk = Overlay(RawImage(path, read_only=True))
        for number, (kind, sector, count) in enumerate(steps):
            start, end = sector * 512, min(sector + count, SECTORS) * 512
            if kind == "r":
                data = bytearray(end - start)
                disk.readv(start, [memoryview(data)[:512], memoryview(data)[512:]])
                assert data == model[start:end]
            elif kind == "w":
                model[start:end] = bytes((number,)) * (end - start)
                disk.writev(start, [bytes(model[start:end][:100]), bytes(model[start:end][100:])])
            else:
                model[start:end] = bytes(end - start)
                disk.write_zeroes(start, end - start, number % 2 == 0)
        disk.close()
        assert path.read_bytes() == bytes(range(256)) * (SECTORS * 2)
