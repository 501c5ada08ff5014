"""Whether an image can be a CD-ROM's disc, as far as its own volume descriptor tells.

Source: ECMA-119, 6.2 (system area), 8.4 (primary volume descriptor).
"""

from emu.config import FilePath
from emu.devices.block.backend import BlockBackend
from emu.errors import ConfigError

BLOCK = 2048
DESCRIPTOR = 16 * BLOCK
PRIMARY = b"\x01CD001"
SPACE_SIZE_AT, BLOCK_SIZE_AT = 80, 128  # little-endian: blocks of the volume; bytes of one


def check_iso(path: FilePath, image: BlockBackend) -> None:
    """Refuse an image without one whole block, or shorter than the volume on it. Raises ConfigError."""
    if image.size < BLOCK:
        raise ConfigError(f"{path}: {image.size} bytes is no CD-ROM image; a block has {BLOCK}")
    if image.size < DESCRIPTOR + BLOCK:
        return
    descriptor = bytearray(BLOCK)
    image.readv(DESCRIPTOR, [memoryview(descriptor)])
    if not descriptor.startswith(PRIMARY):
        return
    blocks = int.from_bytes(descriptor[SPACE_SIZE_AT : SPACE_SIZE_AT + 4], "little")
    volume = blocks * int.from_bytes(descriptor[BLOCK_SIZE_AT : BLOCK_SIZE_AT + 2], "little")
    if volume > image.size:
        raise ConfigError(f"{path}: truncated: the volume has {volume} bytes, the file {image.size}")
