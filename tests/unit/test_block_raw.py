import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from emu.devices.block.raw import IOV_MAX, FileMedium, RawImage
from emu.errors import ConfigError, MediumError


def disk(folder: Path, content: bytes) -> Path:
    path = folder / "disk.img"
    path.write_bytes(content)
    return path


def numbered(sectors: int) -> bytes:
    return b"".join(n.to_bytes(2, "little") * 256 for n in range(sectors))


def read(medium: FileMedium, offset: int, length: int) -> bytes:
    data = bytearray(length)
    medium.readv(offset, [memoryview(data)])
    return bytes(data)


def test_buffers_are_filled_in_order_from_the_offset(tmp_path: Path) -> None:
    image = RawImage(disk(tmp_path, numbered(8)), read_only=True)
    first, second = bytearray(512), bytearray(1024)
    image.readv(512, [memoryview(first), memoryview(second)])
    assert bytes(first + second) == numbered(8)[512:2048]
    assert (image.costs.syscalls, image.costs.bytes_copied) == (1, 1536)
    image.close()


def test_what_is_written_is_in_the_file_after_flush(tmp_path: Path) -> None:
    path = disk(tmp_path, bytes(4096))
    image = RawImage(path, read_only=False)
    image.writev(1024, [b"a" * 512, memoryview(b"b" * 512)])
    image.flush()
    assert path.read_bytes() == bytes(1024) + b"a" * 512 + b"b" * 512 + bytes(2048)
    assert (image.costs.syscalls, image.costs.bytes_copied) == (2, 1024)
    image.close()


def test_more_buffers_than_one_call_takes_are_split(tmp_path: Path) -> None:
    count = IOV_MAX * 2 + 5
    content = os.urandom(count * 8).ljust(20480, b"\x00")
    image = RawImage(disk(tmp_path, bytes(20480)), read_only=False)
    image.writev(0, [content[n * 8 : n * 8 + 8] for n in range(count)])
    data = bytearray(count * 8)
    view = memoryview(data)
    image.readv(0, [view[n * 8 : n * 8 + 8] for n in range(count)])
    assert bytes(data) == content[: count * 8]
    image.close()


def test_a_write_that_stops_half_way_goes_on_and_reports_the_hosts_error(tmp_path: Path) -> None:
    image = RawImage(disk(tmp_path, bytes(4096)), read_only=False)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with pytest.raises(MediumError) as caught:
            image.writev(512, [b"x" * 512, b"y" * 512])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG
    assert read(image, 512, 512) == b"x" * 512
    image.close()


def test_a_file_cut_while_in_use_is_a_medium_error(tmp_path: Path) -> None:
    path = disk(tmp_path, bytes(4096))
    image = RawImage(path, read_only=True)
    os.truncate(path, 1024)
    with pytest.raises(MediumError, match="ends before byte 2048") as caught:
        read(image, 512, 1536)
    assert caught.value.errno == errno.EIO
    image.close()


def test_no_space_is_told_apart_by_its_errno() -> None:
    medium = FileMedium(os.open("/dev/full", os.O_RDWR), 4096, False, "full")
    with pytest.raises(MediumError, match="No space left") as caught:
        medium.writev(0, [b"x" * 512])
    assert caught.value.errno == errno.ENOSPC
    medium.read_only = True
    medium.close()


@pytest.mark.parametrize("unmap", [False, True])
def test_zeroes_are_written_and_the_rest_is_kept(tmp_path: Path, unmap: bool) -> None:
    path = disk(tmp_path, b"\xff" * 1048576)
    image = RawImage(path, read_only=False)
    image.write_zeroes(4608, 700_416, unmap)
    assert path.read_bytes() == b"\xff" * 4608 + bytes(700_416) + b"\xff" * (1048576 - 4608 - 700_416)
    image.close()


def test_zeroes_are_written_by_hand_where_the_host_has_no_fallocate(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()  # a pipe has neither fallocate nor an offset: the fallback's write fails
    medium = FileMedium(write_end, 4096, False, "pipe")
    with pytest.raises(MediumError) as caught:
        medium.write_zeroes(0, 512, False)
    assert caught.value.errno == errno.ESPIPE
    os.close(read_end)
    medium.read_only = True
    medium.close()


def test_discard_gives_room_back_and_keeps_the_size(tmp_path: Path) -> None:
    path = disk(tmp_path, b"\xff" * 1048576)
    image = RawImage(path, read_only=False)
    image.flush()
    before = path.stat().st_blocks
    image.discard(0, 524288)
    assert path.stat().st_size == 1048576
    assert path.stat().st_blocks <= before
    image.close()


def test_a_read_only_image_refuses_writes(tmp_path: Path) -> None:
    image = RawImage(disk(tmp_path, bytes(512)), read_only=True)
    attempts: list[Callable[[], None]] = [
        lambda: image.writev(0, [bytes(512)]),
        lambda: image.discard(0, 512),
        lambda: image.write_zeroes(0, 512, True),
    ]
    for attempt in attempts:
        with pytest.raises(MediumError) as caught:
            attempt()
        assert caught.value.errno == errno.EBADF
    image.close()


def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    image = RawImage(disk(tmp_path, bytes(512)), read_only=False)
    image.close()
    image.close()


def test_two_readers_share_and_a_writer_is_alone(tmp_path: Path) -> None:
    path = disk(tmp_path, bytes(512))
    readers = [RawImage(path, read_only=True), RawImage(path, read_only=True)]
    with pytest.raises(ConfigError, match="in use by another"):
        RawImage(path, read_only=False)
    for reader in readers:
        reader.close()
    writer = RawImage(path, read_only=False)
    for read_only in (True, False):
        with pytest.raises(ConfigError, match="in use by another"):
            RawImage(path, read_only=read_only)
    writer.close()
    RawImage(path, read_only=False).close()


@pytest.mark.peer("qemu-img")
def test_a_disk_in_use_is_refused_by_qemu_too(tmp_path: Path) -> None:
    if shutil.which("qemu-img") is None:
        assert not os.environ.get("EMU_REQUIRE_PEERS"), "qemu-img is missing"
        pytest.skip("qemu-img is missing")
    path = disk(tmp_path, bytes(4096))
    command = ["qemu-img", "convert", "-f", "raw", "-O", "raw", str(path), str(tmp_path / "copy.img")]
    image = RawImage(path, read_only=True)
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    image.close()
    image = RawImage(path, read_only=False)
    refused = subprocess.run(command, capture_output=True, check=False, text=True)
    assert refused.returncode != 0
    assert "lock" in refused.stderr
    image.close()


def test_a_partial_sector_is_refused_with_the_fix(tmp_path: Path) -> None:
    path = disk(tmp_path, bytes(1000))
    with pytest.raises(ConfigError) as caught:
        RawImage(path, read_only=True)
    assert str(caught.value) == (
        f'{path}: 1000 bytes is not a multiple of 512; try "truncate -s 1024 {path}"'
    )
