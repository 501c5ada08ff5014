import os
from pathlib import Path

import pytest

from emu.boot.recognise import ImageKind, recognise
from emu.errors import ConfigError
from emu.testing.guest_elf import Load, build_elf, multiboot_header, pvh_note

MIB = 1 << 20


def bz_image() -> bytes:
    image = bytearray(1024)
    image[0x1FE:0x200] = b"\x55\xaa"
    image[0x202:0x206] = b"HdrS"
    image[0x206:0x208] = b"\x0f\x02"
    image[0x211] = 1
    image[0x236] = 1
    return bytes(image)


def iso(*, bootable: bool) -> bytes:
    image = bytearray(0x9000)
    image[0x1FE:0x200] = b"\x55\xaa"  # as hybrid images have it
    image[0x8000:0x8006] = b"\x01CD001"
    if bootable:
        image[0x8800:0x8807] = b"\0CD001\x01"
        image[0x8807 : 0x8807 + 23] = b"EL TORITO SPECIFICATION"
    return bytes(image)


MULTIBOOT_LOAD = [Load(MIB, multiboot_header())]


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        (
            build_elf([Load(MIB, b"a")], notes=pvh_note(MIB)),
            "pvh",
            "ELF64 kernel for x86-64, PVH entry at 0x100000",
        ),
        (build_elf([Load(MIB, b"a")], bits=32, notes=pvh_note(MIB)), "pvh", "ELF32 kernel for i386, PVH"),
        (build_elf(MULTIBOOT_LOAD, bits=32), "multiboot", "ELF32 kernel for i386, multiboot 1"),
        (build_elf(MULTIBOOT_LOAD, notes=pvh_note(MIB)), "pvh", "PVH"),
        (build_elf(MULTIBOOT_LOAD), "elf", "objcopy -O elf32-i386"),
        (build_elf([Load(MIB, b"a")]), "elf", "without PVH note or multiboot header"),
        (multiboot_header(0, [MIB, MIB, 0, 0, MIB]), "multiboot", "by the addresses in its header"),
        (bz_image(), "linux", "Linux bzImage for x86-64, boot protocol 2.15"),
        (bytes(510) + b"\x55\xaa" + bytes(512), "disk", "disk image with a boot sector, 1024 bytes"),
        (iso(bootable=True), "iso", "bootable (El Torito)"),
        (iso(bootable=False), "iso", "not bootable"),
        (b"QFI\xfb\0\0\0\x03" + bytes(100), "qcow2", "qcow2 disk image, version 3"),
        (b"\x1f\x8b\x08" + bytes(100), "other", "gzip-compressed"),
        (b"", "other", "an empty file"),
        (b"hello", "other", "no known image"),
    ],
)
def test_images_are_told_apart_by_their_first_bytes(
    tmp_path: Path, data: bytes, kind: str, text: str
) -> None:
    path = tmp_path / "image"
    path.write_bytes(data)
    found = recognise(path)
    assert found.kind is ImageKind(kind)
    assert text in found.description
    assert "\n" not in found.description
    assert found.bootable == (kind not in ("elf", "other"))


def test_what_cannot_be_read_is_the_users_error(tmp_path: Path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            recognise(path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError, match="cannot be read: Illegal seek"):
        recognise(pipe)
    with pytest.raises(ConfigError, match="null byte"):
        recognise("a\0b")


def test_a_damaged_elf_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "kernel.elf"
    path.write_bytes(build_elf([Load(MIB, b"a")])[:70])
    with pytest.raises(
        ConfigError, match=r"kernel.elf: truncated: the program header table .*; copy it again"
    ):
        recognise(path)
