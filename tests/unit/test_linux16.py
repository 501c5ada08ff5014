import struct
from pathlib import Path

import pytest

from emu.boot.linux16 import (
    CMDLINE_ADDR,
    CMDLINE_DATA,
    CMDLINE_SIZE,
    INITRD_ADDR,
    INITRD_DATA,
    INITRD_SIZE,
    KERNEL_ADDR,
    KERNEL_DATA,
    KERNEL_SIZE,
    SETUP_ADDR,
    SETUP_DATA,
    SETUP_SIZE,
    kernel_items,
    needs_firmware,
)
from emu.errors import ConfigError

RAM = 64 << 20


def kernel(version: int = 0x207, *, loadflags: int = 1, xloadflags: int = 0, body: bytes = b"code") -> bytes:
    setup = bytearray(1024)
    setup[0x1F1] = 1
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, version)
    setup[0x211] = loadflags
    struct.pack_into("<I", setup, 0x22C, 0x37FF_FFFF)
    struct.pack_into("<H", setup, 0x236, xloadflags)
    return bytes(setup) + body


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "kernel"
    path.write_bytes(kernel())
    return path


def words(items: dict[int, bytes], *keys: int) -> list[int]:
    return [int.from_bytes(items[key], "little") for key in keys]


def test_a_kernel_is_cut_into_setup_and_the_rest(file: Path) -> None:
    items = kernel_items(file, "quiet", None, RAM)
    assert words(items, SETUP_ADDR, SETUP_SIZE) == [0x1_0000, 1024]
    assert words(items, KERNEL_ADDR, KERNEL_SIZE) == [0x10_0000, 4]
    assert words(items, CMDLINE_ADDR, CMDLINE_SIZE, INITRD_ADDR, INITRD_SIZE) == [0x2_0000, 6, 0, 0]
    assert (items[KERNEL_DATA], items[CMDLINE_DATA]) == (b"code", b"quiet\0")
    setup = items[SETUP_DATA]
    assert (setup[0x210], setup[0x211]) == (0xB0, 0x81)
    assert struct.unpack_from("<I", setup, 0x228) == (0x2_0000,)


def test_an_initrd_lies_as_high_as_the_kernel_allows(file: Path, tmp_path: Path) -> None:
    (tmp_path / "initrd").write_bytes(b"i" * 5000)
    items = kernel_items(file, "", tmp_path / "initrd", RAM)
    assert words(items, INITRD_ADDR, INITRD_SIZE) == [RAM - 8192, 5000]
    assert struct.unpack_from("<II", items[SETUP_DATA], 0x218) == (RAM - 8192, 5000)
    assert items[INITRD_DATA] == b"i" * 5000
    assert words(kernel_items(file, "", tmp_path / "initrd", 2 << 30), INITRD_ADDR) == [0x3800_0000 - 8192]


def test_a_zimage_lies_low(tmp_path: Path) -> None:
    path = tmp_path / "zimage"
    path.write_bytes(kernel(loadflags=0))
    items = kernel_items(path, "x", None, RAM)
    assert words(items, SETUP_ADDR, KERNEL_ADDR, CMDLINE_ADDR) == [0x9_0000, 0x1_0000, 0x9_9FF0]


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (kernel(), True),
        (kernel(0x20C), True),
        (kernel(0x20C, xloadflags=1), False),
        (b"\x7fELF" + bytes(1000), False),
        (b"", False),
        (kernel()[:0x220], True),
    ],
)
def test_only_kernels_without_a_64_bit_entry_need_firmware(
    content: bytes, wanted: bool, tmp_path: Path
) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    assert needs_firmware(path) is wanted


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (kernel(body=b""), "it ends within its setup; get the whole file"),
        (kernel()[:0x220], "no Linux setup header; give a bzImage, or leave -bios away"),
        (b"\x7fELF" + bytes(1000), "no Linux setup header; give a bzImage, or leave -bios away"),
    ],
)
def test_what_is_no_such_kernel_is_told_in_one_line(content: bytes, text: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        kernel_items(path, "", None, RAM)
    assert str(error.value) == f"{path}: {text}"


def test_an_initrd_without_room_is_told(file: Path, tmp_path: Path) -> None:
    (tmp_path / "initrd").write_bytes(bytes(2 << 20))
    with pytest.raises(ConfigError, match="the initrd finds no room behind it; try a larger -m"):
        kernel_items(file, "", tmp_path / "initrd", 3 << 20)
