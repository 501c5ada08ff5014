"""The kernel inside of a bzImage, unpacked on the host: seven formats, each by a library.

Source: Linux Documentation/arch/x86/boot.rst ("payload_offset") and scripts/Makefile.lib: the payload ends
with its unpacked size, 4 bytes, which of these formats only gzip has as a part of its own.
"""

import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from emu.errors import EmuError

LIMIT: Final = 1 << 30
"""Unpacked bytes that no kernel comes near to: a damaged file asks for no more."""
SIZE_BYTES: Final = 4
_PIECE: Final = 1 << 22
LZ4_BLOCK: Final = 8 << 20  # of the legacy frame; all but the last are this long
_ELF: Final = b"\x7fELF"

Write = Callable[[bytes], object]


class PayloadError(EmuError):
    """The payload is damaged; the text says how."""


class Unpacker(Protocol):
    """The decompressor objects of the standard library's bz2 and lzma."""

    @property
    def eof(self) -> bool:
        """The stream has ended."""

    @property
    def needs_input(self) -> bool:
        """All that was given has been used up."""

    @property
    def unused_data(self) -> bytes:
        """What was given and lies behind the stream."""

    def decompress(self, data: bytes, max_length: int = ...) -> bytes:
        """Unpack some."""


def method_of(head: bytes) -> str | None:
    """The name of the format that starts with `head`, None for one that is not known here."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)


def unpacked_size(head: bytes, tail: bytes, length: int) -> int:
    """Bytes that a payload of `length` bytes unpacks to, by its first bytes and its last four.

    Raises PayloadError for a size that cannot be.
    """
    if length < 2 * SIZE_BYTES:
        raise PayloadError(f"a compressed kernel of {length} bytes is no kernel")
    if head.startswith(_ELF):
        return length
    size = int.from_bytes(tail, "little")
    if not 0 < size <= LIMIT:
        raise PayloadError(f"its kernel would unpack to {size} bytes")
    return size


def unpack(payload: bytes, write: Write) -> None:
    """Unpack all of `payload`, a piece at a time. Raises PayloadError for damage and unknown formats."""
    name = method_of(payload)
    if name is None:
        raise PayloadError(f"its kernel is compressed in an unknown way ({payload[:4].hex(' ')})")
    limit, done = unpacked_size(payload[:8], payload[-SIZE_BYTES:], len(payload)), 0

    def count(piece: bytes) -> None:
        nonlocal done
        done += len(piece)
        if done > limit:
            raise PayloadError(f"its {name} data goes on after the {limit} bytes that it announces")
        write(piece)

    _METHODS[name](payload, limit, count)
    if done != limit:
        raise PayloadError(f"its {name} data ends after {done} of {limit} bytes")


def _plain(payload: bytes, _limit: int, write: Write) -> None:
    write(payload)


def _gzip(payload: bytes, _limit: int, write: Write) -> None:
    stream = zlib.decompressobj(31)
    left = payload
    while left and not stream.eof:
        try:
            piece = stream.decompress(left, _PIECE)
        except zlib.error as error:
            raise PayloadError(f"its gzip data is damaged: {error}") from error
        left = stream.unconsumed_tail
        write(piece)


def _bzip2(payload: bytes, _limit: int, write: Write) -> None:
    import bz2  # noqa: PLC0415 - one format a run

    _stream(bz2.BZ2Decompressor(), (OSError, ValueError), payload, write)


def _xz(payload: bytes, _limit: int, write: Write) -> None:
    import lzma  # noqa: PLC0415 - one format a run

    _stream(lzma.LZMADecompressor(lzma.FORMAT_XZ), (lzma.LZMAError, MemoryError), payload, write)


def _lzma(payload: bytes, _limit: int, write: Write) -> None:
    import lzma  # noqa: PLC0415 - one format a run

    _stream(lzma.LZMADecompressor(lzma.FORMAT_ALONE), (lzma.LZMAError, MemoryError), payload, write)


def _stream(stream: Unpacker, errors: tuple[type[Exception], ...], payload: bytes, write: Write) -> None:
    data = payload
    while not stream.eof:
        try:
            piece = stream.decompress(data, _PIECE)
        except errors as error:
            raise PayloadError(f"its compressed data is damaged: {error}") from error
        data = b""
        if not piece and stream.needs_input:
            return  # cut short: the caller counts
        write(piece)


def _lz4(payload: bytes, _limit: int, write: Write) -> None:
    """The legacy frame: blocks, each behind its length."""
    import lz4.block  # noqa: PLC0415 - one format a run

    view, at, end = memoryview(payload), len(LZ4_MAGIC), len(payload) - SIZE_BYTES
    while at + 4 <= end:
        (size,) = struct.unpack_from("<I", view, at)
        at += 4
        if size > end - at:
            raise PayloadError("its lz4 data is cut short")
        try:
            piece = lz4.block.decompress(view[at : at + size], uncompressed_size=LZ4_BLOCK)
        except (lz4.block.LZ4BlockError, MemoryError, ValueError) as error:
            raise PayloadError(f"its lz4 data is damaged: {error}") from error
        write(piece)
        at += size


def _zstd(payload: bytes, limit: int, write: Write) -> None:
    import zstandard  # noqa: PLC0415 - one format a run

    try:
        piece = zstandard.ZstdDecompressor().decompress(payload[:-SIZE_BYTES], max_output_size=limit)
    except (zstandard.ZstdError, MemoryError) as error:
        raise PayloadError(f"its zstd data is damaged: {error}") from error
    write(piece)


LZ4_MAGIC: Final = b"\x02\x21\x4c\x18"
_MAGIC: Final[Mapping[bytes, str]] = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x5d\0\0": "lzma",
    LZ4_MAGIC: "lz4",
    b"\x28\xb5\x2f\xfd": "zstd",
    _ELF: "uncompressed",
}
_METHODS: Final[Mapping[str, Callable[[bytes, int, Write], None]]] = {
    "gzip": _gzip,
    "bzip2": _bzip2,
    "xz": _xz,
    "lzma": _lzma,
    "lz4": _lz4,
    "zstd": _zstd,
    "uncompressed": _plain,
}
