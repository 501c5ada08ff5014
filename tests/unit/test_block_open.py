import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from emu.devices.block.backend import BlockBackend
from emu.devices.block.open import open_image
from emu.devices.block.overlay import Overlay
from emu.devices.block.raw import RawImage
from emu.errors import ConfigError, MediumError


def read(medium: BlockBackend, offset: int, length: int) -> bytes:
    data = bytearray(length)
    medium.readv(offset, [memoryview(data)])
    return bytes(data)


def qemu_img(*arguments: str | Path) -> None:
    if shutil.which("qemu-img") is None:
        assert not os.environ.get("EMU_REQUIRE_PEERS"), "qemu-img is missing"
        pytest.skip("qemu-img is missing")
    subprocess.run(["qemu-img", *map(str, arguments)], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file"),
        (lambda path: path.mkdir(), "is a directory"),
        (os.mkfifo, "neither a file nor a block device"),
        (lambda path: path.write_bytes(b""), "the image is empty"),
        (lambda path: path.write_bytes(bytes(513)), 'try "truncate -s 1024'),
        (lambda path: path.symlink_to(path), "cannot be opened"),
        (lambda path: path.write_bytes(b"QFI\xfb" + bytes(508)), "not a usable qcow2 image"),
        (lambda path: path.write_bytes(b"QFI\xfb"), "not a usable qcow2 image"),
    ],
)
def test_what_cannot_be_opened_is_refused_in_one_line(tmp_path: Path, make: object, message: str) -> None:
    assert callable(make)
    path = tmp_path / "disk.img"
    make(path)
    with pytest.raises(ConfigError, match=message) as caught:
        open_image(path, read_only=True)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_formats_are_checked_against_the_file(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(512))
    with pytest.raises(ConfigError, match="format vmdk is not supported; use raw or qcow2"):
        open_image(path, "vmdk")
    with pytest.raises(ConfigError, match="is not a qcow2 image"):
        open_image(path, "qcow2")


def test_a_raw_image_that_may_be_written_is_opened_directly(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1024))
    image = open_image(path)
    assert isinstance(image, RawImage)
    assert (image.size, image.read_only) == (1024, False)
    image.close()


def test_format_raw_shows_a_qcow2_files_own_bytes(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(b"QFI\xfb" + bytes(508))
    image = open_image(path, "raw", read_only=True)
    assert read(image, 0, 4) == b"QFI\xfb"
    image.close()


def test_a_snapshot_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(b"\xaa" * 16384)
    image = open_image(path, snapshot=True)
    assert isinstance(image, Overlay)
    image.writev(4608, [b"\x01" * 512])
    image.flush()
    assert read(image, 4096, 1536) == b"\xaa" * 512 + b"\x01" * 512 + b"\xaa" * 512
    image.close()
    assert path.read_bytes() == b"\xaa" * 16384


def test_a_writable_qcow2_is_refused_with_both_ways_out(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(b"QFI\xfb" + bytes(508))
    with pytest.raises(ConfigError, match=r"add -snapshot .* or readonly=on"):
        open_image(path)


@pytest.mark.peer("qemu-img")
@pytest.mark.parametrize("options", [[], ["-c"], ["-o", "cluster_size=4k"]])
def test_a_qcow2_image_reads_as_its_source(tmp_path: Path, options: list[str]) -> None:
    source, path = tmp_path / "disk.img", tmp_path / "disk.qcow2"
    content = os.urandom(70_000).ljust(1 << 20, b"\x00") + b"end".ljust(512, b"\x00")
    source.write_bytes(content)
    qemu_img("convert", "-f", "raw", "-O", "qcow2", *options, source, path)
    image = open_image(path, read_only=True)
    assert image.size == len(content)
    assert read(image, 0, len(content)) == content
    assert read(image, 69_632, 1024) == content[69_632:70_656]
    with pytest.raises(MediumError):
        image.writev(0, [bytes(512)])
    image.close()
    image = open_image(path, snapshot=True)
    image.writev(512, [b"new".ljust(512, b"\x00")])
    assert read(image, 0, 1536) == content[:512] + b"new".ljust(512, b"\x00") + content[1024:1536]
    image.close()


@pytest.mark.peer("qemu-img")
def test_beyond_a_short_backing_file_there_are_zeroes(tmp_path: Path) -> None:
    base, middle, top = (tmp_path / name for name in ("base.img", "middle.qcow2", "top.qcow2"))
    base.write_bytes(b"\xbb" * 1536)
    qemu_img("create", "-f", "qcow2", "-b", "base.img", "-F", "raw", middle, "64K")
    qemu_img("create", "-f", "qcow2", "-b", "middle.qcow2", "-F", "qcow2", top, "256K")
    image = open_image(top, read_only=True)
    assert read(image, 0, 262144) == (b"\xbb" * 1536).ljust(262144, b"\x00")
    image.close()


@pytest.mark.peer("qemu-img")
def test_a_chain_that_loops_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "loop.qcow2"
    qemu_img("create", "-f", "qcow2", "-u", "-b", "loop.qcow2", "-F", "qcow2", path, "64K")
    with pytest.raises(ConfigError, match="does the chain loop"):
        open_image(path, read_only=True)


@pytest.mark.peer("qemu-img")
def test_a_damaged_table_is_a_medium_error(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    qemu_img("create", "-f", "qcow2", path, "1M")
    with path.open("r+b") as file:
        (l1_offset,) = struct.unpack(">Q", os.pread(file.fileno(), 8, 40))
        os.pwrite(file.fileno(), struct.pack(">Q", 1 << 63 | 1 << 40), l1_offset)
    image = open_image(path, read_only=True)
    with pytest.raises(MediumError, match="damaged"):
        read(image, 0, 512)
    image.close()
