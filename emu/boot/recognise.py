"""What an image file is, by its first bytes.

Sources: System V ABI (ELF), Multiboot 0.6.96, Linux Documentation/arch/x86/boot.rst, ECMA-119 and El Torito
1.0 (ISO), the qcow2 specification, and the two signature bytes of a PC boot sector.
"""

import enum
from typing import NamedTuple

from emu.boot.elf import EM_X86_64, is_elf, notes, parse_elf
from emu.boot.image_file import ImageFile
from emu.boot.multiboot import SEARCH, find_header
from emu.boot.pvh import pvh_entry
from emu.config import FilePath

SECTOR = 512
ISO_DESCRIPTOR, ISO_BOOT_RECORD, ISO_MAGIC = 0x8000, 0x8800, b"CD001"
EL_TORITO = b"EL TORITO SPECIFICATION"
QCOW2_MAGIC = b"QFI\xfb"
LINUX_MAGIC_AT, LINUX_MAGIC = 0x202, b"HdrS"
LINUX_VERSION_AT, LINUX_LOADFLAGS_AT, LINUX_XLOADFLAGS_AT = 0x206, 0x211, 0x236
ARM64_MAGIC_AT, ARM64_MAGIC = 0x38, b"ARMd"
_COMPRESSED = {b"\x1f\x8b": "gzip", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2"}


class ImageKind(enum.Enum):
    """How an image is started."""

    PVH = "pvh"
    MULTIBOOT = "multiboot"
    LINUX = "linux"
    DISK = "disk"
    ISO = "iso"
    QCOW2 = "qcow2"
    ELF = "elf"
    OTHER = "other"


class Recognised(NamedTuple):
    """A kind, one line about it for a user, and whether it says how it is booted.

    `linux` is True for a kernel that is certainly Linux, whichever way it is booted.
    """

    kind: ImageKind
    description: str
    linux: bool = False

    @property
    def bootable(self) -> bool:
        """False for files that carry no sign of how to start them."""
        return self.kind not in {ImageKind.ELF, ImageKind.OTHER}


def recognise(path: FilePath) -> Recognised:
    """Look at a file. Raises ConfigError where it cannot be read or is a damaged ELF file."""
    with ImageFile(path) as image:
        head = image.head(SEARCH)
        if is_elf(head):
            return _elf(image, head)
        if head.startswith(QCOW2_MAGIC):
            version = int.from_bytes(head[4:8], "big")
            return Recognised(ImageKind.QCOW2, f"qcow2 disk image, version {version}")
        descriptor = image.head(6, ISO_DESCRIPTOR)
        if descriptor[1:] == ISO_MAGIC:
            return _iso(image)
        if head[LINUX_MAGIC_AT : LINUX_MAGIC_AT + 4] == LINUX_MAGIC:
            return _linux(head)
        if find_header(head) is not None:
            return Recognised(
                ImageKind.MULTIBOOT, "multiboot 1 kernel, loaded by the addresses in its header"
            )
        if head[SECTOR - 2 : SECTOR] == b"\x55\xaa":
            return Recognised(ImageKind.DISK, f"disk image with a boot sector, {image.size} bytes")
        return _other(head)


def _elf(image: ImageFile, head: bytes) -> Recognised:
    elf = parse_elf(image)
    machine = "x86-64" if elf.machine == EM_X86_64 else "i386"
    about = f"ELF{elf.bits} kernel for {machine}"
    multiboot = find_header(head) is not None
    if multiboot and elf.bits == 32 and elf.machine != EM_X86_64:
        return Recognised(ImageKind.MULTIBOOT, f"{about}, multiboot 1")
    linux = elf.bits == 64 and any(name == b"Linux" for name, _, _ in notes(image, elf))
    if (entry := pvh_entry(image, elf)) is not None:
        return Recognised(ImageKind.PVH, f"{about}, PVH entry at {entry:#x}", linux)
    if linux:
        return Recognised(ImageKind.LINUX, f"{about}, Linux", linux)
    if multiboot:
        return Recognised(
            ImageKind.ELF, f'{about}: multiboot wants a 32-bit file; convert it with "objcopy -O elf32-i386"'
        )
    return Recognised(
        ImageKind.ELF, f"{about} without PVH note or multiboot header; build one of them into it"
    )


def _iso(image: ImageFile) -> Recognised:
    record = image.head(64, ISO_BOOT_RECORD)
    if record[:1] == b"\0" and record[1:6] == ISO_MAGIC and record[7 : 7 + len(EL_TORITO)] == EL_TORITO:
        return Recognised(ImageKind.ISO, "ISO 9660 image, bootable (El Torito)")
    return Recognised(ImageKind.ISO, "ISO 9660 image, not bootable (no El Torito record)")


def _linux(head: bytes) -> Recognised:
    version = int.from_bytes(head[LINUX_VERSION_AT : LINUX_VERSION_AT + 2], "little")
    is_64 = version >= 0x020C and len(head) > LINUX_XLOADFLAGS_AT and head[LINUX_XLOADFLAGS_AT] & 1
    big = version >= 0x0200 and len(head) > LINUX_LOADFLAGS_AT and head[LINUX_LOADFLAGS_AT] & 1
    return Recognised(
        ImageKind.LINUX,
        f"Linux {'bzImage' if big else 'zImage'} for {'x86-64' if is_64 else 'i386'}, "
        f"boot protocol {version >> 8}.{version & 0xFF:02d}",
        bool(is_64),
    )


def _other(head: bytes) -> Recognised:
    if not head:
        return Recognised(ImageKind.OTHER, "an empty file")
    if head[ARM64_MAGIC_AT : ARM64_MAGIC_AT + 4] == ARM64_MAGIC:
        return Recognised(ImageKind.OTHER, "a Linux Image for AArch64, this is an x86 machine")
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            return Recognised(ImageKind.OTHER, f"{name}-compressed data; decompress it first")
    return Recognised(ImageKind.OTHER, "no known image: not ELF, multiboot, bzImage, disk, ISO or qcow2")
