"""An initial RAM disk that ends in the middle or is damaged ends the run; what Linux takes is let pass."""

import bz2
import gzip
import lzma
import random
import struct
import subprocess
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import lz4.block
import pytest
import zstandard

from emu.boards import initrd_check
from emu.boards.initrd_check import InitrdCheck
from emu.boot.cache import FileCache
from emu.boot.image_file import ImageFile
from emu.boot.initrd_archives import check_archives
from emu.boot.initrd_streams import DamageError
from emu.errors import ConfigError
from emu.testing.guest_elf import Load, build_bzimage, build_elf
from tests.cli_lab import command

MIB = 1 << 20


def entry(name: bytes, data: bytes) -> bytes:
    """One file of a cpio archive, format newc."""
    fields = [1, 0o100755, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name + b"\0"
    head += bytes(-len(head) % 4)
    return head + data + bytes(-len(data) % 4)


def cpio(*files: tuple[bytes, bytes]) -> bytes:
    return b"".join(entry(name, data) for name, data in (*files, (b"TRAILER!!!", b"")))


NOISE = random.Random(4).randbytes(150_000)
ARCHIVE = cpio((b"init", NOISE + bytes(400_000)), (b"etc/x", b"#!/bin/sh\n" * 1000))
MICROCODE = cpio((b"kernel/x86/microcode/GenuineIntel.bin", NOISE[:50_001]))
MICROCODE += bytes(-len(MICROCODE) % 512)


def lz4_legacy(data: bytes) -> bytes:
    blocks = [
        lz4.block.compress(data[at : at + (8 << 20)], store_size=False) for at in range(0, len(data), 8 << 20)
    ]
    return b"\x02\x21\x4c\x18" + b"".join(struct.pack("<I", len(block)) + block for block in blocks)


def lzop(data: bytes, level: bool = True, flags: int = 0x1) -> bytes:
    """Blocks that are stored, which the format writes where packing does not help."""
    head = struct.pack(">H", 0x1030 if level else 0x0900) + struct.pack(">H", 0x20A0)
    head += struct.pack(">H", 0x0940) if level else b""
    head += b"\1" + (b"\5" if level else b"") + struct.pack(">III", flags, 0o644, 0)
    head += (bytes(4) if level else b"") + b"\4init" + bytes(4)
    body = b""
    for at in range(0, len(data), 1 << 18):
        piece = data[at : at + (1 << 18)]
        sums = 4 * (flags & 1) + 4 * (flags >> 8 & 1)
        body += struct.pack(">II", len(piece), len(piece)) + bytes(sums) + piece
    return b"\x89LZO\0\r\n\x1a\n" + head + body + bytes(4)


def zstd(data: bytes, **options: bool) -> bytes:
    return zstandard.ZstdCompressor(level=3, **options).compress(data)  # type: ignore[arg-type] # all are bool


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_CRC32),
    "xz for x86": lambda data: lzma.compress(
        data, filters=[{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2}], check=lzma.CHECK_NONE
    ),
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "lz4": lz4_legacy,
    "lzop": lzop,
    "old lzop": lambda data: lzop(data, level=False, flags=0x101),
    "zstd": zstd,
    "zstd with checksum": lambda data: zstd(data, write_checksum=True),
    "zstd without size": lambda data: zstd(data, write_content_size=False),
}
CHECKED = set(PACKED) - {"lz4", "lzop", "old lzop"}
"""The formats whose data this machine can tell damaged: lz4 has no sums, lzop is not unpacked."""
TOOLS = {
    "gzip": "gzip -9", "xz": "xz --check=crc32", "xz of eight threads": "xz -T8", "lzma": "xz --format=lzma",
    "zstd": "zstd -q -19 -T0", "zstd --long": "zstd -q -3 --long=27", "lz4": "lz4 -9 -l -q", "bzip2": "bzip2",
    "lzop": "lzop -9",
}  # fmt: skip
"""As mkinitramfs and dracut call them."""


def found(path: Path, data: bytes) -> str:
    """What is said of a file with `data`, empty where nothing is."""
    path.write_bytes(data)
    with ImageFile(path) as image:
        try:
            check_archives(image, lambda: None)
        except DamageError as error:
            return str(error)
    return ""


@pytest.mark.parametrize("name", PACKED)
def test_a_whole_file_is_let_pass_and_a_part_of_it_is_not(name: str, tmp_path: Path) -> None:
    whole = PACKED[name](ARCHIVE)
    for before in (b"", MICROCODE):
        for behind in (b"", bytes(512), bytes(3), MICROCODE):
            if not (behind == MICROCODE and name == "lz4"):  # Linux itself cannot tell where lz4 ends
                data = before + whole + (bytes(-len(before + whole) % 4) if behind else b"") + behind
                assert found(tmp_path / "initrd", data) == ""
        for length in {12, 40, len(whole) // 3, len(whole) - 100, len(whole) - 5, len(whole) - 1}:
            said = found(tmp_path / "initrd", before + whole[:length])
            assert said.startswith("truncated: "), length
            assert f"data from byte {len(before):#x} on has no end" in said


@pytest.mark.parametrize("name", sorted(CHECKED))
def test_data_that_is_not_what_was_packed_is_told(name: str, tmp_path: Path) -> None:
    whole = bytearray(PACKED[name](ARCHIVE))
    middle = len(whole) // 2
    whole[middle : middle + 8] = bytes(byte ^ 0xA5 for byte in whole[middle : middle + 8])
    said = found(tmp_path / "initrd", bytes(whole))
    if name not in ("zstd", "zstd without size", "lzma", "xz for x86"):  # these have no sums
        assert said.startswith("damaged: the "), said


def test_damage_behind_the_microcode_is_told_with_its_place(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(ARCHIVE))
    whole[-6] ^= 1  # of the sum
    assert found(tmp_path / "initrd", MICROCODE + whole).startswith(
        f"damaged: the gzip data from byte {len(MICROCODE):#x} on: Error -3 "
    )


@pytest.mark.parametrize(
    "command",
    [pytest.param(line, id=name, marks=pytest.mark.peer(line.split()[0])) for name, line in TOOLS.items()],
)
def test_what_the_real_packers_write_is_let_pass(command: str, tmp_path: Path) -> None:
    words = command.split()
    whole = subprocess.run([*words, "-c"], input=ARCHIVE, capture_output=True, timeout=60, check=True).stdout
    assert found(tmp_path / "initrd", MICROCODE + whole) == ""
    assert "has no end" in found(tmp_path / "initrd", MICROCODE + whole[: len(whole) * 2 // 3])


def test_a_plain_archive_that_ends_in_the_middle_is_told(tmp_path: Path) -> None:
    assert found(tmp_path / "initrd", MICROCODE + ARCHIVE) == ""
    size, last = len(ARCHIVE), len(entry(b"TRAILER!!!", b""))
    for cut in (size - last, size - last - 4):  # without a trailer; Linux does not ask for one
        assert found(tmp_path / "initrd", ARCHIVE[:cut] + bytes(4)) == ""
    data = found(tmp_path / "initrd", ARCHIVE[: size // 2])
    assert data == f"truncated: the cpio entry at byte 0x0 ends at byte 0x864e4, the file has {size // 2:#x}"
    header = found(tmp_path / "initrd", ARCHIVE[: size - last + 60])
    assert header == f"truncated: the cpio header at byte {size - last:#x} is incomplete"


OTHERS = {
    "text": b"#!ipxe\nshell\n" * 100,
    "a file system": bytes(0x438) + b"\x53\xef" + NOISE,
    "a magic of two bytes": b"\x1f\x9e" + NOISE,
    "an archive of another format": b"070707" + NOISE,
    "no hexadecimal digits": b"070701" + b"xyz" * 40,
    "a boot configuration behind": gzip.compress(ARCHIVE) + b"kernel { a = b }\n#BOOTCONFIG\n",
    "lz4 and one behind": lz4_legacy(ARCHIVE) + b"kernel { a = b }\n#BOOTCONFIG\n",
    "xz of tomorrow": b"\xfd7zXZ\0\1\1" + struct.pack("<I", zlib.crc32(b"\1\1")) + NOISE,
    "zstd with a window of 256 MiB": b"\x28\xb5\x2f\xfd\0" + bytes((18 << 3, 1, 0, 0)),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_certainly_damaged_is_let_pass(name: str, tmp_path: Path) -> None:
    assert found(tmp_path / "initrd", OTHERS[name]) == ""


# ---- beside the guest ------------------------------------------------------------------------------------

WAITS = build_elf([Load(MIB, b"\xfb\xf4\xeb\xfd", 64)], entry=MIB)  # sti; 1: hlt; jmp 1b
HALTS = build_elf([Load(MIB, b"\xfa\xf4", 64)], entry=MIB)


@pytest.mark.parametrize("kernel", [WAITS, HALTS], ids=["waits", "halts"])
@pytest.mark.parametrize("how", ["run", "smoke"])
def test_the_run_ends_with_one_line_whatever_the_guest_does(kernel: bytes, how: str, tmp_path: Path) -> None:
    (tmp_path / "bzImage").write_bytes(build_bzimage(gzip.compress(kernel)))
    (tmp_path / "initrd").write_bytes(PACKED["zstd"](ARCHIVE)[:-2000])
    words = [how, *(["--expect", "never"] if how == "smoke" else []), "--timeout", "40", "-nodefaults"]
    words += ["-kernel", str(tmp_path / "bzImage"), "-initrd", str(tmp_path / "initrd")]
    shown = command(*words, env={"XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert (shown.returncode, shown.stdout) == (2, "")
    assert shown.stderr == (
        f"emu: {tmp_path}/initrd: truncated: the zstd data from byte 0x0 on has no end; copy it again\n"
    )


def test_a_whole_one_is_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns
    monkeypatch.setattr("emu.boot.cache.time.time_ns", lambda: now() + 10_000_000_000)
    looks: list[str] = []
    check = check_archives

    def counted(image: ImageFile, go_on: Callable[[], None]) -> None:
        looks.append(image.name)
        check(image, go_on)

    monkeypatch.setattr("emu.boot.initrd_archives.check_archives", counted)
    path = tmp_path / "initrd"
    path.write_bytes(PACKED["xz"](ARCHIVE))
    for folder in ("cache", "cache", "other"):
        look_at(path, FileCache(tmp_path / folder))
    assert len(looks) == 2
    path.write_bytes(PACKED["xz"](ARCHIVE)[:-10])
    for _ in range(2):
        with pytest.raises(ConfigError, match="truncated: the xz data"):
            look_at(path, FileCache(tmp_path / "cache"))
    assert len(looks) == 4


def look_at(path: Path, cache: FileCache) -> None:
    """One start of a machine. Raises ConfigError as its end does."""
    failures: list[BaseException] = []
    check = InitrdCheck(path, failures.append, cache)
    try:
        check.start()
        check.finish()
    finally:
        check.close()
    assert failures == []


def test_a_file_that_changes_meanwhile_is_not_judged(tmp_path: Path) -> None:
    path = tmp_path / "initrd"
    path.write_bytes(PACKED["gzip"](ARCHIVE))
    failures: list[BaseException] = []
    check = InitrdCheck(path, failures.append, FileCache(None))
    path.write_bytes(PACKED["gzip"](ARCHIVE)[:-100])
    check.start()
    check.finish()
    check.close()
    assert failures == []


def test_a_machine_that_closes_does_not_wait_for_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "initrd"
    path.write_bytes(PACKED["gzip"](ARCHIVE))
    monkeypatch.setattr(initrd_check, "HEAD_START_S", 3600.0)
    check = InitrdCheck(path, lambda _error: None, FileCache(None))
    check.start()
    check.close()
    assert "initrd-check" not in {thread.name for thread in threading.enumerate()}


def test_a_file_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(initrd_check, "STEPS", 50)
    path = tmp_path / "initrd"
    path.write_bytes(gzip.compress(bytes(100 * MIB), compresslevel=1)[:-8])
    look_at(path, FileCache(None))
