import contextlib
import gzip
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from emu.boot.cache import FileCache
from emu.boot.decompress import PayloadError, unpack
from emu.boot.linux import load_linux
from emu.boot.recognise import recognise
from emu.bus.memory import GuestMemory
from emu.errors import ConfigError
from emu.testing.guest_elf import Load, build_bzimage, build_elf

MIB = 1 << 20
MEMORY = GuestMemory(2 * MIB)
NO_CACHE = FileCache(None)
KERNEL = build_elf([Load(MIB, b"code", 64)], entry=MIB)
GOOD = build_bzimage(gzip.compress(KERNEL))
MAGICS = (b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\0", b"\x5d\0\0\x10", b"\x02\x21\x4c\x18", b"\x28\xb5\x2f\xfd")

header_bytes = st.tuples(st.integers(0x1F1, 0x290), st.integers(0, 255))
payload_bytes = st.tuples(st.integers(0x600, len(GOOD) - 1), st.integers(0, 255))


@settings(max_examples=200, deadline=None)
@given(
    changes=st.lists(st.one_of(header_bytes, payload_bytes), max_size=8),
    length=st.one_of(st.none(), st.integers(0, len(GOOD))),
)
def test_a_damaged_bzimage_is_loaded_or_refused_in_one_line(
    changes: list[tuple[int, int]], length: int | None
) -> None:
    data = bytearray(GOOD)
    for at, value in changes:
        data[at] = value
    with tempfile.NamedTemporaryFile() as file:
        file.write(data[:length])
        file.flush()
        for use in (recognise, lambda path: load_linux(MEMORY, path, cache=NO_CACHE)):
            refusal = ""
            try:
                use(Path(file.name))
            except ConfigError as error:
                refusal = str(error)
            assert "\n" not in refusal


@settings(max_examples=200, deadline=None)
@given(
    magic=st.sampled_from(MAGICS),
    body=st.binary(max_size=200),
    size=st.sampled_from([b"\x10\0\0\0", b"\0\0\0\1", b"\xff" * 4, b"\0" * 4]),
)
def test_any_payload_is_unpacked_or_refused_within_its_size(magic: bytes, body: bytes, size: bytes) -> None:
    written = 0

    def write(piece: bytes) -> None:
        nonlocal written
        written += len(piece)

    with contextlib.suppress(PayloadError):
        unpack(magic + body + size, write)
    assert written <= int.from_bytes(size, "little")
