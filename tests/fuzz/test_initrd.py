import bz2
import gzip
import lzma
import tempfile
from pathlib import Path

import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.boot.image_file import ImageFile
from emu.boot.initrd_archives import check_archives
from emu.boot.initrd_streams import DamageError

ENTRY = (
    b"070701"
    + b"%08X" * 13 % (1, 0o100644, 0, 0, 1, 0, 9, 0, 0, 0, 0, 5, 0)
    + b"init\0\0"
    + b"#!/bin/sh\0\0\0"
)
LZOP = bytes.fromhex("894c5a4f000d0a1a0a103020a00940010500000001000001a4000000000000000004696e697400000000")
LZOP += bytes.fromhex("0000000500000005") + b"suumhello" + bytes(4)
GOOD = (
    *(ENTRY, gzip.compress(ENTRY), bz2.compress(ENTRY), lzma.compress(ENTRY)),
    *(lzma.compress(ENTRY, lzma.FORMAT_ALONE), zstandard.ZstdCompressor().compress(ENTRY * 9), LZOP),
    *(b"\x02\x21\x4c\x18\x06\0\0\0\x50hello", bytes(7)),
)
STEPS = 2000


class TooLongError(Exception):
    """More pieces than so few bytes have."""


@settings(max_examples=250, deadline=None)
@given(
    pieces=st.lists(st.one_of(st.sampled_from(GOOD), st.binary(max_size=20)), max_size=4),
    changes=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=4),
    length=st.one_of(st.none(), st.integers(0, 400)),
)
def test_any_initial_ram_disk_is_let_pass_or_told_in_one_line(
    pieces: list[bytes], changes: list[tuple[int, int]], length: int | None
) -> None:
    data = bytearray(b"".join(pieces))
    for at, value in changes:
        if data:
            data[at % len(data)] = value
    steps, said = 0, "truncated: "

    def go_on() -> None:
        nonlocal steps
        steps += 1
        if steps > STEPS:
            raise TooLongError

    with tempfile.NamedTemporaryFile() as file:
        file.write(data[:length])
        file.flush()
        with ImageFile(Path(file.name)) as image:
            try:
                check_archives(image, go_on)
            except DamageError as error:
                said = str(error)
    assert said.startswith(("truncated: ", "damaged: "))
    assert "\n" not in said
