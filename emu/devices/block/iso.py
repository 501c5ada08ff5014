"""Whether an image can be a CD-ROM's disc, as far as its own volume descriptor tells.

Source: ECMA-119, 6.2 (system area), 8.4 (primary volume descriptor).
"""

from emu.config import FilePath
from emu.devices.block.backend import BlockBackend
from emu.errors import ConfigError

BLOCK = 2048
DESCRIPTOR = 16 * BLOCK
PRIMARY = b"\x01CD001"
IDENTIFIERS = (b"CD001", b"BEA01")  # the first descriptor's, behind its type: ISO 9660, UDF
SPACE_SIZE_AT, BLOCK_SIZE_AT = 80, 128  # little-endian: blocks of the volume; bytes of one


def check_iso(path: FilePath, image: BlockBackend, *, needs_volume: bool = False) -> None:
    """Refuse an image without one whole block, or shorter than the volume on it. Raises ConfigError.

    With `needs_volume` there must be one.
    """
    if image.size < BLOCK:
        raise ConfigError(f"{path}: {image.size} bytes is no CD-ROM image; a block has {BLOCK}")
    descriptor = bytearray(BLOCK)
    if image.size >= DESCRIPTOR + BLOCK:
        image.readv(DESCRIPTOR, [memoryview(descriptor)])
    if needs_volume and descriptor[1:6] not in IDENTIFIERS:
        raise ConfigError(
            f"{path}: no CD-ROM image: it has no ISO 9660 or UDF volume; for a disc of plain data try "
            f'"-drive file={path},format=raw,media=cdrom"'
        )
    if not descriptor.startswith(PRIMARY):
        return
    blocks = int.from_bytes(descriptor[SPACE_SIZE_AT : SPACE_SIZE_AT + 4], "little")
    volume = blocks * int.from_bytes(descriptor[BLOCK_SIZE_AT : BLOCK_SIZE_AT + 2], "little")
    if volume > image.size:
        raise ConfigError(f"{path}: truncated: the volume has {volume} bytes, the file {image.size}")
