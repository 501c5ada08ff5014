"""Whether an initial RAM disk is whole: a row of cpio archives, plain and compressed, zeros between them.

Source: Linux Documentation/driver-api/early-userspace/buffer-format.rst, init/initramfs.c. What Linux might
still make sense of is let pass: only what ends in the middle or cannot be unpacked is damage.
"""

import re
import struct
from typing import Final

from emu.boot.image_file import ImageFile
from emu.boot.initrd_streams import CHUNK, DamageError, GoOn, end_of_stream

CPIO: Final = (b"070701", b"070702")
HEADER_SIZE: Final = 110
FILE_SIZE, NAME_SIZE = 6, 11  # of the 13 fields behind the magic, 8 hexadecimal digits each
TRAILER: Final = b"TRAILER!!!\0"
_HEX: Final = re.compile(rb"[0-9a-fA-F]{104}")


def check_archives(image: ImageFile, go_on: GoOn) -> None:
    """Read the file from archive to archive. Raises DamageError, and what `go_on` raises between pieces."""
    at: int | None = 0
    while at is not None and (at := _skip_zeros(image, at, go_on)) < image.size:
        is_cpio = image.head(len(CPIO[0]), at) in CPIO
        at = _end_of_cpio(image, at, go_on) if is_cpio else end_of_stream(image, at, go_on)


def _skip_zeros(image: ImageFile, at: int, go_on: GoOn) -> int:
    while data := image.head(CHUNK, at):
        go_on()
        if rest := data.lstrip(b"\0"):
            return at + len(data) - len(rest)
        at += len(data)
    return image.size


def _end_of_cpio(image: ImageFile, at: int, go_on: GoOn) -> int | None:
    """Behind the trailer, at the file's end where there is none; None for what is no newc archive."""
    if at % 4:
        return None
    while at < image.size:
        go_on()
        header = image.head(HEADER_SIZE + len(TRAILER), at)
        if not header.startswith(CPIO):
            return None
        if len(header) < HEADER_SIZE:
            raise DamageError(f"truncated: the cpio header at byte {at:#x} is incomplete")
        digits = header[6:HEADER_SIZE]
        if not _HEX.fullmatch(digits):
            return None
        fields = struct.unpack(">13I", bytes.fromhex(digits.decode()))
        body = at + HEADER_SIZE + fields[NAME_SIZE]
        end = _align(body) + fields[FILE_SIZE] if fields[FILE_SIZE] else body
        if end > image.size:
            raise DamageError(
                f"truncated: the cpio entry at byte {at:#x} ends at byte {end:#x}, "
                f"the file has {image.size:#x}"
            )
        at = _align(end)
        if fields[NAME_SIZE] == len(TRAILER) and header.endswith(TRAILER):
            return at
    return at


def _align(at: int) -> int:
    return at + 3 & -4
