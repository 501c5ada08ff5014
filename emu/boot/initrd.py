"""Whether a file can be Linux' initial RAM disk, by its first bytes.

Sources: Linux Documentation/driver-api/early-userspace/buffer-format.rst (cpio archives, compressed or not,
with zeroes between them); for file systems, each one's superblock.
"""

from typing import Final

from emu.boot.image_file import ImageFile

ARCHIVES: Final = (b"070701", b"070702", b"\0")
COMPRESSED: Final = (
    *(b"\x1f\x8b", b"\x1f\x9e", b"BZh", b"\xfd7zXZ\0", b"\x5d\0\0", b"\x89LZO", b"\x02\x21L\x18"),
    b"\x28\xb5\x2f\xfd",
)
FILE_SYSTEMS: Final = {0: (b"-rom1fs-", b"hsqs", b"\x45\x3d\xcd\x28"), 0x410: (b"\x7f\x13", b"\x8f\x13")}
EXT_AT, EXT_MAGIC = 0x438, b"\x53\xef"
HEAD: Final = EXT_AT + 2


def check_initrd(image: ImageFile) -> None:
    """Raise ConfigError for a file that Linux would find neither archive nor file system in."""
    head = image.head(HEAD)
    systems = {**FILE_SYSTEMS, EXT_AT: (EXT_MAGIC,)}
    if head.startswith(ARCHIVES + COMPRESSED):
        return
    if any(head.startswith(magics, at) for at, magics in systems.items()):
        return
    what = "neither a cpio archive nor a compressed one nor a file system" if head else "an empty file"
    raise image.error(what, "as -initrd give a kernel an initramfs")
