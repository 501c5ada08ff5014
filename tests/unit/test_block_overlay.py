from pathlib import Path

import pytest

from emu.devices.block.overlay import CLUSTER, MAX_SIZE, Overlay
from emu.devices.block.raw import RawImage
from emu.errors import ConfigError

SIZE = 5 * CLUSTER + 512  # the last cluster is a partial one


@pytest.fixture
def base(tmp_path: Path) -> RawImage:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(n % 251 for n in range(SIZE)))
    return RawImage(path, read_only=True)


def read(medium: Overlay | RawImage, offset: int, length: int) -> bytes:
    data = bytearray(length)
    medium.readv(offset, [memoryview(data)[: length // 2], memoryview(data)[length // 2 :]])
    return bytes(data)


def test_reads_see_the_base_until_a_write(base: RawImage) -> None:
    content = read(base, 0, SIZE)
    disk = Overlay(base)
    assert read(disk, 0, SIZE) == content
    disk.writev(CLUSTER, [b"x" * CLUSTER])
    assert read(disk, 0, SIZE) == content[:CLUSTER] + b"x" * CLUSTER + content[2 * CLUSTER :]
    disk.close()


def test_a_write_across_clusters_keeps_what_is_around_it(base: RawImage) -> None:
    expected = bytearray(read(base, 0, SIZE))
    disk = Overlay(base)
    for offset, length in (
        (512, 512),
        (CLUSTER - 512, 1024),
        (2 * CLUSTER + 512, 2 * CLUSTER),
        (SIZE - 512, 512),
    ):
        disk.writev(offset, [bytes((offset // 512,)) * length])
        expected[offset : offset + length] = bytes((offset // 512,)) * length
    assert read(disk, 0, SIZE) == expected
    disk.close()


def test_zeroes_cover_the_base(base: RawImage) -> None:
    expected = bytearray(read(base, 0, SIZE))
    disk = Overlay(base)
    disk.write_zeroes(512, 3 * CLUSTER, True)
    disk.discard(0, CLUSTER)
    expected[512 : 512 + 3 * CLUSTER] = bytes(3 * CLUSTER)
    assert read(disk, 0, SIZE) == expected
    disk.close()


def test_a_whole_request_in_one_place_is_one_system_call(base: RawImage) -> None:
    disk = Overlay(base)
    read(disk, 0, CLUSTER)
    assert (disk.costs.syscalls, disk.costs.bytes_copied) == (1, CLUSTER)
    disk.writev(0, [bytes(CLUSTER)])
    assert disk.costs.syscalls == 2
    read(disk, 0, CLUSTER)
    assert disk.costs.syscalls == 3
    disk.close()


def test_a_disk_too_large_for_its_table_is_refused(base: RawImage) -> None:
    base.size = MAX_SIZE + 512
    with pytest.raises(ConfigError, match="too large for -snapshot"):
        Overlay(base)
    base.close()
