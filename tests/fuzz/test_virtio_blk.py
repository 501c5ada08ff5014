"""Any request in any shape: both loops give the same answers and the same disk, or the same refusal."""

import os
import struct
from pathlib import Path
from typing import NamedTuple

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
    st.lists(st.one_of(st.binary(min_size=1, max_size=48), SIZES.map(lambda n: b"w" * n)), max_size=8),
    st.lists(SIZES, max_size=8),
    st.sampled_from([[], [1]]),
    st.booleans(),
)
Request = tuple[bytes, list[bytes], list[int], list[int], bool]

# A look at requests in a row, such as the bulk path takes, with some of their fields changed.
HEADERS_AT, STATUSES_AT, DATA_AT, SPARE_AT, AREAS_END = 0x4_0000, 0x5_0000, 0x6_0000, 0x8_0000, 0xA_0000
PLACES = st.integers(0, 7).map(lambda n: SPARE_AT + 0x1000 * n) | st.sampled_from(
    [0xF_FFF8, 1 << 40, 2**64 - 8]
)
CHANGES = st.one_of(
    st.tuples(st.just("address"), st.integers(0, 63), PLACES),
    st.tuples(st.just("length"), st.integers(0, 63), st.sampled_from([0, 1, 2, 15, 16, 17, 511, 512, 1024])),
    st.tuples(st.just("flags"), st.integers(0, 63), st.integers(0, 7)),
    st.tuples(st.just("next"), st.integers(0, 63), st.integers(0, 66)),
    st.tuples(st.just("every address"), st.integers(0, 2), st.sampled_from([4, 0x9_F000, 1 << 40])),  # on top
    st.tuples(st.just("every length"), st.integers(0, 2), st.sampled_from([0, 1, 2, 15, 17, 512, 513])),
    st.tuples(st.just("every flags"), st.integers(0, 2), st.integers(0, 7)),
    st.tuples(st.just("every next"), st.integers(0, 2), st.integers(0, 5)),
    st.tuples(st.just("head"), st.integers(0, 15), st.integers(0, 66)),
    st.tuples(st.just("kind"), st.integers(0, 15), st.sampled_from([0, 1, 4, 8, 1 << 31])),
    st.tuples(st.just("sector"), st.integers(0, 15), SECTOR_NUMBERS),
)


class Look(NamedTuple):
    """Requests that are shown at once."""

    requests: int
    write: bool
    length: int
    first_sector: int
    sector_step: int
    header_at: int
    header_step: int
    data_gap: int
    status_step: int
    base: int
    changes: list[tuple[str, int, int]]


LOOKS = st.builds(
    Look,
    requests=st.integers(2, 16),
    write=st.booleans(),
    length=st.sampled_from([512, 1024]),
    first_sector=st.integers(0, 3),
    sector_step=st.sampled_from([1, 1, 1, 0, 2]),
    header_at=st.sampled_from([HEADERS_AT, HEADERS_AT + 8, HEADERS_AT + 4]),
    header_step=st.sampled_from([16, 24, 112, 20]),
    data_gap=st.sampled_from([0, 0, 512, 8]),
    status_step=st.sampled_from([1, 3, 112, 2000]),
    base=st.sampled_from([0, 55, 60, 0xFFFA]),
    changes=st.lists(CHANGES, max_size=2),
)


def show(driver: DriverQueue, look: Look) -> None:
    """Build the requests, then change them, then make them available."""
    table: list[dict[str, int]] = []
    heads, headers = [3 * n for n in range(look.requests)], []
    for n in range(look.requests):
        length, i = look.length, 3 * n
        data = DATA_AT + n * (length + look.data_gap)
        driver.memory.view(data, length)[:] = bytes((0x80 + n,)) * length
        header, status = look.header_at + n * look.header_step, STATUSES_AT + n * look.status_step
        table += [
            {"address": header, "length": 16, "flags": 1, "next": i + 1},
            {"address": data, "length": length, "flags": 1 if look.write else 3, "next": i + 2},
            {"address": status, "length": 1, "flags": 2, "next": 0},
        ]
        sector = look.first_sector + n * look.sector_step * (length // 512)
        headers.append({"at": header, "kind": int(look.write), "sector": sector})
    for what, where, value in look.changes:
        if what == "head":
            heads[where % look.requests] = value
        elif what == "every address":
            for row in table[where::3]:
                row["address"] += value
        elif what.startswith("every "):
            for row in table[where::3]:
                row[what.removeprefix("every ")] = value
        elif what in table[0]:
            i = where % len(table)
            apart = 0x8000 * (i % 3) if what == "address" else 0  # a status within another's data: no order
            table[i][what] = value + apart & (1 << 64) - 1
        else:
            headers[where % look.requests][what] = value
    for i, fields in enumerate(table):
        driver.put(i, fields["address"] % (1 << 64), fields["length"], fields["flags"], fields["next"])
    for header_fields in headers:
        at, kind, sector = header_fields.values()
        driver.memory.view(at, 16)[:] = struct.pack("<IIQ", kind, 77, sector)
    for head in heads:
        driver.publish(head)


class Side:
    """One disk with one loop."""

    def __init__(self, path: Path, fused: bool) -> None:
        path.write_bytes(CONTENT)
        self.path = path
        self.blk = VirtioBlk(RawImage(path, False), serial="fuzz", fused=fused)
        self.fd = os.open(path, os.O_RDWR)

    def serve(self, requests: list[Request]) -> list[object]:
        os.pwrite(self.fd, CONTENT, 0)
        driver = DriverQueue(size=64, indirect=True, slot_bytes=32768)
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

    def serve_at_once(self, look: Look) -> list[object]:
        """Three times the same, so that what was learned of the descriptors is used, too."""
        os.pwrite(self.fd, CONTENT, 0)
        driver = DriverQueue(size=64, slot_bytes=512)
        driver.avail_idx = driver.used_idx = look.base
        queue = driver.device_side(look.base)
        queue.used[1] = look.base
        drain, seen = self.blk.drain(0, queue), list[object]()
        for _ in range(3):
            show(driver, look)
            try:
                seen.append(drain(64))
            except DriverError as error:
                seen.append(str(error))
            memory = bytes(driver.memory.view(HEADERS_AT, AREAS_END - HEADERS_AT))
            seen.append((driver.used(), memory, queue.last_avail, queue.used_idx))
            if isinstance(seen[-2], str):
                break
        return [*seen, os.pread(self.fd, len(CONTENT), 0)]


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> tuple[Side, Side]:
    folder = tmp_path_factory.mktemp("disks")
    return Side(folder / "plain", fused=False), Side(folder / "fused", fused=True)


@settings(max_examples=250, deadline=None)
@given(requests=st.lists(REQUESTS, min_size=1, max_size=4))
def test_the_fused_loop_is_the_plain_one(sides: tuple[Side, Side], requests: list[Request]) -> None:
    plain, fused = sides
    assert plain.serve(requests) == fused.serve(requests)


@settings(max_examples=250, deadline=None)
@given(look=LOOKS)
def test_requests_in_a_row_are_answered_as_by_the_plain_loop(sides: tuple[Side, Side], look: Look) -> None:
    plain, fused = sides
    assert plain.serve_at_once(look) == fused.serve_at_once(look)
