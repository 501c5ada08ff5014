"""A file that is damaged, of another machine, or not what its flag says: one line, exit status 2."""

import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from emu.cli.main import main
from emu.testing.guest_elf import build_bzimage

HELLO = Path(__file__).resolve().parents[2] / "guest-images/built/hello.elf"
ELF = HELLO.read_bytes()
LIMIT = ("-display", "none", "-nodefaults", "-timeout", "20")
AARCH64, PPC, I386 = 183, 20, 3
ISO_AT, BLOCK = 0x8000, 2048
QCOW2_HEADER = struct.pack(">4sI", b"QFI\xfb", 3)


def elf_of(machine: int, bits: int = 64, order: str = "<") -> bytes:
    """hello's file, its header that of another machine."""
    header = bytearray(ELF[:64])
    header[4], header[5] = bits // 32, 1 if order == "<" else 2
    struct.pack_into(f"{order}H", header, 18, machine)
    return bytes(header) + ELF[64:]


def aarch64_image() -> bytes:
    """Linux Documentation/arch/arm64/booting.rst: the magic is at 0x38."""
    return b"MZ".ljust(0x38, b"\0") + b"ARMd" + bytes(4096)


def iso(blocks: int) -> bytes:
    """A volume that says it has 100 blocks, cut to `blocks`."""
    descriptor = bytearray(BLOCK)
    descriptor[:6], descriptor[80:84], descriptor[128:130] = b"\x01CD001", struct.pack("<I", 100), b"\0\x08"
    return (bytes(ISO_AT) + bytes(descriptor)).ljust(100 * BLOCK, b"\0")[: blocks * BLOCK]


def firmware(start: bytes) -> bytes:
    return bytes(range(256)) * 255 + bytes(240) + start.ljust(16, b"\0")


TEXT = b"this is no kernel\n" * 100
PACKED = gzip.compress(os.urandom(4096), mtime=0)
LINUX = build_bzimage(gzip.compress(ELF, mtime=0))
IMAGE, KERNEL, BIOS, CDROM = (), ("-kernel",), ("-bios",), ("-cdrom",)
INITRD = ("-kernel", "LINUX", "-initrd")
HDA = ("-kernel", str(HELLO), "-hda")

CASES: dict[str, tuple[tuple[str, ...], bytes, str]] = {
    "kernel empty": (KERNEL, b"", "an empty file"),
    "kernel text": (KERNEL, TEXT, "no known image"),
    "kernel compressed": (KERNEL, PACKED, "gzip-compressed data; decompress it first"),
    "kernel truncated in its segment": (KERNEL, ELF[: len(ELF) // 2], "truncated: segment 0 ends at"),
    "kernel truncated in its header": (KERNEL, ELF[:80], "truncated: the program header table"),
    "bzImage truncated": (KERNEL, LINUX[:-100], "truncated: the compressed kernel ends at"),
    "bzImage truncated in its setup": (KERNEL, LINUX[:600], "truncated: the setup header ends at"),
    "kernel for AArch64": (KERNEL, elf_of(AARCH64), "an ELF file for AArch64, this is an x86 machine"),
    "Image for AArch64": (KERNEL, aarch64_image(), "a Linux Image for AArch64, this is an x86 machine"),
    "kernel for PowerPC": (KERNEL, elf_of(PPC, 32, ">"), "an ELF file of class 1, big-endian"),
    "kernel for i386": (KERNEL, elf_of(I386, 32), "an ELF file without segments"),
    "kernel is an ISO": (KERNEL, iso(100), "ISO 9660 image, not bootable"),
    "kernel is a qcow2": (KERNEL, QCOW2_HEADER + bytes(500), "qcow2 disk image, version 3; as -kernel"),
    "image text": (IMAGE, TEXT, "no known image"),
    "image empty": (IMAGE, b"", "an empty file"),
    "image for AArch64": (IMAGE, elf_of(AARCH64), "for AArch64"),
    "initrd empty": (INITRD, b"", "an empty file; as -initrd give"),
    "initrd text": (INITRD, TEXT, "neither a cpio archive nor a compressed one nor a file system"),
    "initrd is a kernel": (INITRD, ELF, "neither a cpio archive"),
    "firmware empty": (BIOS, b"", "0 bytes; firmware of a PC is a multiple of 65536 bytes"),
    "firmware truncated": (BIOS, firmware(b"\xea")[:-100], "65436 bytes; firmware of a PC is a multiple"),
    "firmware of zeroes": (BIOS, bytes(0x10000), "no jump in its last 16 bytes"),
    "firmware of another machine": (BIOS, firmware(b"\xd5\x03\x20\x1f"), "no jump in its last 16 bytes"),
    "CD-ROM empty": (CDROM, b"", "the image is empty"),
    "CD-ROM text": (CDROM, TEXT, "1800 bytes is not a multiple of 512"),
    "CD-ROM truncated": (CDROM, iso(80), "truncated: the volume has 204800 bytes, the file 163840"),
    "CD-ROM truncated in its system area": (CDROM, iso(16), "no ISO 9660 or UDF volume"),
    "CD-ROM is something else": (CDROM, bytes(100 * BLOCK), "no ISO 9660 or UDF volume"),
    "disk empty": (HDA, b"", "the image is empty"),
    "disk truncated": (HDA, bytes(1000), "1000 bytes is not a multiple of 512"),
    "qcow2 truncated": (
        (*HDA[:2], "-snapshot", "-hda"),
        QCOW2_HEADER,
        "not a usable qcow2 image (truncated)",
    ),
    "qcow2 is none": (
        (*HDA[:2], "-drive", "format=qcow2,file="),
        bytes(512),
        "is not a qcow2 image (no magic)",
    ),
}


def refusal(words: tuple[str, ...], file: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What `emu run` says on standard error, which is one line, with status 2."""
    joined = bool(words) and words[-1].endswith("=")
    given = (*words[:-1], words[-1] + file) if joined else (*words, file)
    status = main(["run", *given, *LIMIT])
    shown = capsys.readouterr()
    assert (status, shown.out) == (2, ""), shown
    assert shown.err.startswith("emu: ")
    assert shown.err.count("\n") == 1
    assert shown.err.endswith("\n")
    assert file.replace("\0", "\\x00") in shown.err
    return shown.err


@pytest.mark.parametrize("name", CASES)
def test_what_is_not_what_its_flag_says_is_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, content, message = CASES[name]
    (tmp_path / "good").write_bytes(LINUX)
    (tmp_path / "input").write_bytes(content)
    words = tuple(str(tmp_path / "good") if word == "LINUX" else word for word in words)
    assert message in refusal(words, str(tmp_path / "input"), capsys)


def a_folder(path: Path) -> str:
    path.mkdir()
    return str(path)


def a_pipe(path: Path) -> str:
    os.mkfifo(path)
    return str(path)


def without_permission(path: Path) -> str:
    path.touch(mode=0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    return str(path)


MAKERS: dict[str, Callable[[Path], str]] = {
    "nothing": str,
    "a folder": a_folder,
    "a pipe": a_pipe,
    "a device": lambda _path: "/dev/zero",
    "a file without permission": without_permission,
    "a name with a zero byte": lambda path: f"{path}\0x",
}


@pytest.mark.parametrize("words", [IMAGE, KERNEL, INITRD, BIOS, CDROM, HDA], ids=lambda words: words[-1:])
@pytest.mark.parametrize("name", MAKERS)
def test_what_is_no_file_is_one_line(
    name: str, words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "good").write_bytes(LINUX)
    words = tuple(str(tmp_path / "good") if word == "LINUX" else word for word in words)
    refusal(words, MAKERS[name](tmp_path / "input"), capsys)
