"""Any request in any shape: both loops give the same answers and the same disk, or the same refusal."""

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.devices.block.raw import RawImage
from emu.devices.virtio.blk import VirtioBlk
from emu.errors import DriverError
from emu.testing.driver_queue import DriverQueue

SECTORS = 16
CONTENT = b"".join(bytes((n,)) * 512 for n in range(1, SECTORS + 1))
KINDS = st.one_of(st.sampled_from([0, 1, 4, 8, 11, 13]), st.integers(0, (1 << 32) - 1))
SECTOR_NUMBERS = st.one_of(st.integers(0, SECTORS + 1), st.integers(0, (1 << 64) - 1))
HEADERS = st.builds(lambda kind, sector: struct.pack("<IIQ", kind, 0, sector), KINDS, SECTOR_NUMBERS)
SIZES = st.one_of(st.sampled_from([1, 16, 20, 21, 511, 512, 513, 1024]), st.integers(1, 1500))
REQUESTS = st.tuples(
    st.one_of(HEADERS, st.binary(min_size=1, max_size=40)),
    st.lists(st.one_of(st.binary(min_size=1, max_size=48), SIZES.map(lambda n: b"w" * n)), max_size=3),
    st.lists(SIZES, max_size=3),
    st.sampled_from([[], [1]]),
    st.booleans(),
)
Request = tuple[bytes, list[bytes], list[int], list[int], bool]


class Side:
    """One disk with one loop."""

    def __init__(self, path: Path, fused: bool) -> None:
        path.write_bytes(CONTENT)
        self.path = path
        self.blk = VirtioBlk(RawImage(path, False), serial="fuzz", fused=fused)
        self.fd = os.open(path, os.O_RDWR)

    def serve(self, requests: list[Request]) -> list[object]:
        os.pwrite(self.fd, CONTENT, 0)
        driver = DriverQueue(size=64, indirect=True, slot_bytes=8192)
        drain = self.blk.drain(0, driver.device_side())
        seen: list[object] = []
        for header, out, room, status, indirect in requests:
            head = driver.add(header, *out, *room, *status, indirect=indirect)
            try:
                drain(64)
            except DriverError as error:
                seen.append(str(error))
                break
            seen.append((driver.used(), driver.written(head)))
        return [*seen, os.pread(self.fd, len(CONTENT), 0)]


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Side, Side]:
    folder = tmp_path_factory.mktemp("disks")
    return Side(folder / "plain", fused=False), Side(folder / "fused", fused=True)


@settings(max_examples=400, deadline=None)
@given(requests=st.lists(REQUESTS, min_size=1, max_size=4))
def test_the_fused_loop_is_the_plain_one(sides: tuple[Side, Side], requests: list[Request]) -> None:
    plain, fused = sides
    assert plain.serve(requests) == fused.serve(requests)
