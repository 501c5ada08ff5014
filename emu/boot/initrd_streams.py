"""Where a compressed stream within an initial RAM disk ends, and whether it is whole; nothing is kept of it.

Sources: each format's library; for lz4, Linux lib/decompress_unlz4.c (the legacy frame has no end marker);
for zstd, RFC 8878, 3.1.1; for lzop, the file format of its own conf.h and Linux lib/decompress_unlzo.c.
An end is a byte of the file, None where it cannot be told. What a library cannot do is no damage.
"""

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from emu.boot.decompress import LZ4_BLOCK, LZ4_MAGIC, Unpacker, method_of
from emu.boot.image_file import ImageFile
from emu.errors import EmuError

if TYPE_CHECKING:
    from typing_extensions import Buffer

GoOn = Callable[[], None]
"""Called between two pieces; what it raises ends the search."""
CHUNK: Final = 1 << 18
_PIECE: Final = 1 << 18  # unpacked at a time: memory stays small, and the search ends soon when it shall


class DamageError(EmuError):
    """A stream ends early or cannot be what was packed; the text says which and how."""


class _Inflate:
    """zlib's object with that face."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(31)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._stream.decompress(self._stream.unconsumed_tail + data, max_length)


def _cut(name: str, at: int) -> DamageError:
    return DamageError(f"truncated: the {name} data from byte {at:#x} on has no end")


def _damaged(name: str, at: int, why: object) -> DamageError:
    return DamageError(f"damaged: the {name} data from byte {at:#x} on: {why}")


def end_of_gzip(image: ImageFile, at: int, go_on: GoOn) -> int | None:
    """Raises DamageError."""
    return _end("gzip", _Inflate(), zlib.error, "Error -3 ", (image, at, go_on))


def end_of_bzip2(image: ImageFile, at: int, go_on: GoOn) -> int | None:
    """Raises DamageError."""
    import bz2  # noqa: PLC0415 - one format a run

    return _end("bzip2", bz2.BZ2Decompressor(), OSError, "Invalid data", (image, at, go_on))


def end_of_xz(image: ImageFile, at: int, go_on: GoOn) -> int | None:
    """Raises DamageError."""
    import lzma  # noqa: PLC0415 - one format a run

    stream = lzma.LZMADecompressor(lzma.FORMAT_XZ)
    return _end("xz", stream, lzma.LZMAError, "Corrupt", (image, at, go_on))


def end_of_lzma(image: ImageFile, at: int, go_on: GoOn) -> int | None:
    """Raises DamageError."""
    import lzma  # noqa: PLC0415 - one format a run

    stream = lzma.LZMADecompressor(lzma.FORMAT_ALONE)
    return _end("lzma", stream, lzma.LZMAError, "Corrupt", (image, at, go_on))


def _end(
    name: str, stream: Unpacker, error: type[Exception], damage: str, where: tuple[ImageFile, int, GoOn]
) -> int | None:
    """Unpack to the end; `damage` is in the text of those errors that are no lack of the library."""
    image, start, go_on = where
    at = start
    try:
        while not stream.eof:
            go_on()
            data = image.head(CHUNK, at) if stream.needs_input else b""
            at += len(data)
            asked = stream.needs_input
            piece = stream.decompress(data, _PIECE)
            if asked and not data and not piece and not stream.eof:
                raise _cut(name, start)
    except error as found:
        if damage not in str(found):
            return None
        raise _damaged(name, start, found) from found
    return at - len(stream.unused_data)


LZ4_PACKED_MOST: Final = LZ4_BLOCK + LZ4_BLOCK // 255 + 16


def end_of_lz4(image: ImageFile, at: int, go_on: GoOn) -> int | None:
    """The legacy frame goes on as long as what follows can be the length of a block. Raises DamageError."""
    import lz4.block  # noqa: PLC0415 - one format a run

    start, at = at, at + len(LZ4_MAGIC)
    while len(head := image.head(4, at)) == 4:
        go_on()
        size = int.from_bytes(head, "little")
        if head != LZ4_MAGIC and not 0 < size <= LZ4_PACKED_MOST:
            return at
        at += 4
        if head == LZ4_MAGIC:  # frames behind each other are one stream
            continue
        block = image.head(size, at)
        if len(block) < size:
            raise _cut("lz4", start)
        try:
            lz4.block.decompress(block, uncompressed_size=LZ4_BLOCK)
        except lz4.block.LZ4BlockError as error:
            raise _damaged("lz4", start, error) from error
        at += size
    if at == start + len(LZ4_MAGIC) or head.strip(b"\0"):
        raise _cut("lz4", start)
    return image.size


class _Frame(io.RawIOBase):
    """The bytes [at, end) of a file, to read from."""

    def __init__(self, image: ImageFile, at: int, end: int) -> None:
        self._image, self._at, self._end = image, at, end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "Buffer") -> int:
        view = memoryview(buffer)
        data = self._image.head(min(len(view), self._end - self._at), self._at)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)


def end_of_zstd(image: ImageFile, at: int, go_on: GoOn) -> int | None:
    """By the lengths of its blocks, then by unpacking them. Raises DamageError."""
    import zstandard  # noqa: PLC0415 - one format a run

    end = _end_of_zstd_frame(image, at, go_on)
    frame = io.BufferedReader(_Frame(image, at, end), CHUNK)
    try:
        with zstandard.ZstdDecompressor().stream_reader(frame, CHUNK) as reader:
            while reader.read(_PIECE):
                go_on()
    except zstandard.ZstdError as error:
        if "corrupt" not in str(error) and "checksum" not in str(error):
            return None
        raise _damaged("zstd", at, error) from error
    return end


def _end_of_zstd_frame(image: ImageFile, start: int, go_on: GoOn) -> int:
    descriptor = image.head(1, start + 4) or b"\0"
    single = descriptor[0] >> 5 & 1
    size_bytes = (single, 2, 4, 8)[descriptor[0] >> 6]
    at = start + 5 + (1 - single) + (0, 1, 2, 4)[descriptor[0] & 3] + size_bytes
    while True:
        go_on()
        header = int.from_bytes(image.head(3, at), "little")
        last, kind, size = header & 1, header >> 1 & 3, header >> 3
        if kind == 3 and at + 3 <= image.size:
            raise _damaged("zstd", start, "a block of no kind")
        at += 3 + (1 if kind == 1 else size)  # 1: one byte, repeated
        if last and at <= image.size:
            at += 4 * (descriptor[0] >> 2 & 1)
        if at > image.size:
            raise _cut("zstd", start)
        if last:
            return at


LZOP_MAGIC: Final = b"\x89LZO\0\r\n\x1a\n"
LZOP_VERSION_WITH_LEVEL: Final = 0x0940
ADLER32_D, ADLER32_C, EXTRA_FIELD, CRC32_D, CRC32_C, FILTER = 0x1, 0x2, 0x40, 0x100, 0x200, 0x800
LZOP_BLOCK_MOST: Final = 64 << 20


def end_of_lzop(image: ImageFile, at: int, go_on: GoOn) -> int | None:
    """By the lengths of its blocks: no library here unpacks it. Raises DamageError for what is cut short."""
    start = at
    head = image.head(64, at)
    if not head.startswith(LZOP_MAGIC[: len(head)]):
        return None
    try:
        (version,) = struct.unpack_from(">H", head, 9)
        has_level = version >= LZOP_VERSION_WITH_LEVEL
        flags_at = 9 + (8 if has_level else 5)
        (flags,) = struct.unpack_from(">I", head, flags_at)
        name_at = flags_at + 4 + (4 if flags & FILTER else 0) + (12 if has_level else 8)
        at += name_at + 1 + head[name_at] + 4
    except (struct.error, IndexError):
        raise _cut("lzop", start) from None
    if flags & EXTRA_FIELD:
        return None
    of_unpacked = 4 * (bool(flags & ADLER32_D) + bool(flags & CRC32_D))
    of_packed = 4 * (bool(flags & ADLER32_C) + bool(flags & CRC32_C))
    while True:
        go_on()
        sizes = image.head(8, at)
        if sizes.startswith(bytes(4)):
            return at + 4
        if len(sizes) < 8:
            raise _cut("lzop", start)
        unpacked, packed = struct.unpack(">II", sizes)
        if packed > unpacked or unpacked > LZOP_BLOCK_MOST:
            raise _damaged("lzop", start, f"a block of {packed} bytes that unpacks to {unpacked}")
        at += 8 + of_unpacked + packed + (of_packed if packed < unpacked else 0)


_STREAMS: Final[Mapping[str, Callable[[ImageFile, int, GoOn], int | None]]] = {
    "gzip": end_of_gzip,
    "bzip2": end_of_bzip2,
    "xz": end_of_xz,
    "lzma": end_of_lzma,
    "lz4": end_of_lz4,
    "zstd": end_of_zstd,
}


def end_of_stream(image: ImageFile, at: int, go_on: GoOn) -> int | None:
    """Whatever it is; None where its first bytes are of no format known here. Raises DamageError."""
    head = image.head(len(LZOP_MAGIC), at)
    is_lzop = head.startswith(LZOP_MAGIC[:4])
    search = end_of_lzop if is_lzop else _STREAMS.get(method_of(head) or "")
    return None if search is None else search(image, at, go_on)
