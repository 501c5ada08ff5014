import bz2
import gzip
import lzma
import random
import struct
from collections.abc import Callable

import lz4.block
import pytest
import zstandard

from emu.boot.decompress import PayloadError, method_of, unpack, unpacked_size

KERNEL = b"\x7fELF" + random.Random(1).randbytes(100_000) + bytes(300_000)
SIZE = struct.pack("<I", len(KERNEL))


def lz4_legacy(data: bytes, block: int = 8 << 20) -> bytes:
    packed = b"\x02\x21\x4c\x18"
    for at in range(0, len(data), block):
        piece = lz4.block.compress(data[at : at + block], store_size=False)
        packed += struct.pack("<I", len(piece)) + piece
    return packed + struct.pack("<I", len(data))


PACKED: dict[str, Callable[[], bytes]] = {
    "gzip": lambda: gzip.compress(KERNEL),
    "bzip2": lambda: bz2.compress(KERNEL) + SIZE,
    "xz": lambda: (
        lzma.compress(
            KERNEL,
            lzma.FORMAT_XZ,
            lzma.CHECK_CRC32,
            filters=[{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2}],
        )
        + SIZE
    ),
    "lzma": lambda: lzma.compress(KERNEL, lzma.FORMAT_ALONE) + SIZE,
    "lz4": lambda: lz4_legacy(KERNEL),
    "zstd": lambda: (
        zstandard.ZstdCompressor(write_checksum=True, write_content_size=False).compress(KERNEL) + SIZE
    ),
    "uncompressed": lambda: KERNEL,
}


def unpacked(payload: bytes) -> bytes:
    pieces: list[bytes] = []
    unpack(payload, pieces.append)
    return b"".join(pieces)


@pytest.mark.parametrize("name", PACKED)
def test_each_format_that_kernels_use_is_unpacked(name: str) -> None:
    payload = PACKED[name]()
    assert method_of(payload[:8]) == name
    assert unpacked_size(payload[:8], payload[-4:], len(payload)) == len(KERNEL)
    assert unpacked(payload) == KERNEL


def test_a_kernel_of_more_than_one_lz4_block_is_whole() -> None:
    data = bytes(20 << 20) + b"end"
    assert unpacked(lz4_legacy(data)) == data


@pytest.mark.parametrize("name", [name for name in PACKED if name != "uncompressed"])
def test_a_kernel_cut_short_is_refused(name: str) -> None:
    payload = PACKED[name]()
    with pytest.raises(PayloadError):
        unpacked(payload[: len(payload) // 2] + SIZE)


@pytest.mark.parametrize("name", [name for name in PACKED if name != "uncompressed"])
def test_a_damaged_kernel_is_refused(name: str) -> None:
    payload = bytearray(PACKED[name]())
    payload[20:60] = b"\xa5" * 40
    with pytest.raises(PayloadError):
        unpacked(bytes(payload))


def test_more_data_than_announced_is_refused() -> None:
    payload = bz2.compress(KERNEL) + struct.pack("<I", 1000)
    with pytest.raises(PayloadError, match="goes on after the 1000 bytes"):
        unpacked(payload)


def test_a_size_that_no_kernel_has_is_refused() -> None:
    with pytest.raises(PayloadError, match="would unpack to 4294967295 bytes"):
        unpacked(bz2.compress(KERNEL) + b"\xff" * 4)


def test_an_unknown_format_is_named_by_its_bytes() -> None:
    with pytest.raises(PayloadError, match="unknown way \\(89 4c 5a 4f\\)"):
        unpacked(b"\x89LZO\0\0\0\0\0\0")
