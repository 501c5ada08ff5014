"""The bulk path of virtio-blk: what it serves at once, and that it leaves everything else alone."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.devices.block.raw import RawImage
from emu.devices.virtio.blk import VirtioBlk
from emu.devices.virtio.blk_bulk import LEAST, bulk_server, evenly_spaced
from emu.devices.virtio.blk_request import Request, transfer_to
from emu.devices.virtio.spec import BLK_F_FLUSH, BLK_T_IN, BLK_T_OUT
from emu.testing.driver_queue import DriverQueue

SECTORS, COUNT, UNSET = 64, 8, 0xFF
CONTENT = b"".join(bytes((n,)) * 512 for n in range(SECTORS))
HEADERS, STATUSES, DATA, HEADER_STEP, STATUS_STEP = 0x4_0000, 0x4_1000, 0x4_4000, 112, 5
LIMITS = ((1 << 64) - 1, (1 << 32) - 1, 0xFFFF, 0xFFFF)


class Ring:
    """COUNT reads or writes of one sector each, the data one after the other in guest memory."""

    def __init__(self, path: Path, kind: int = BLK_T_IN, base: int = 0, read_only: bool = False) -> None:
        path.write_bytes(CONTENT)
        self.path, self.kind = path, kind
        self.disk = VirtioBlk(RawImage(path, read_only))
        self.disk.set_features(BLK_F_FLUSH)
        self.driver = DriverQueue(size=32)
        self.driver.avail_idx = self.driver.used_idx = base
        self.memory = self.driver.memory
        self.ram = self.memory.view(0, self.memory.size)
        self.queue = self.driver.device_side(base)
        self.queue.used[1] = base & 0xFFFF
        self.bulk = bulk_server(self.queue, self.disk, transfer_to(self.disk), 0, self.ram)
        data_flags = 3 if kind == BLK_T_IN else 1
        for n in range(COUNT):
            self.header(n, kind, 3 + n)
            self.ram[STATUSES + STATUS_STEP * n] = UNSET
            self.driver.put(3 * n, HEADERS + HEADER_STEP * n, 16, 1, 3 * n + 1)
            self.driver.put(3 * n + 1, DATA + 512 * n, 512, data_flags, 3 * n + 2)
            self.driver.put(3 * n + 2, STATUSES + STATUS_STEP * n, 1, 2, 0)
            self.driver.publish(3 * n)

    def header(self, n: int, kind: int, sector: int) -> None:
        struct.pack_into("<IIQ", self.ram, HEADERS + HEADER_STEP * n, kind, 0xBEEF, sector)

    def serve(self) -> list[Request | None] | None:
        heads = memoryview(struct.pack(f"<{COUNT}H", *range(0, 3 * COUNT, 3))).cast("H")
        return self.bulk(heads)

    def statuses(self) -> list[int]:
        return [self.ram[STATUSES + STATUS_STEP * n] for n in range(COUNT)]


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Ring]:
    made = Ring(tmp_path / "disk")
    yield made
    made.disk.backend.close()


@pytest.mark.parametrize("base", [0, 20, 31, 0xFFFC])
@pytest.mark.parametrize("kind", [BLK_T_IN, BLK_T_OUT])
def test_neighbours_are_one_transfer_and_one_answer(tmp_path: Path, kind: int, base: int) -> None:
    ring = Ring(tmp_path / "disk", kind, base)
    if kind == BLK_T_OUT:
        ring.ram[DATA : DATA + COUNT * 512] = CONTENT[: COUNT * 512]
    assert ring.serve() == []
    assert ring.disk.costs.syscalls == 1
    assert ring.statuses() == [0] * COUNT
    written = 513 if kind == BLK_T_IN else 1
    assert ring.driver.used() == [(3 * n, written) for n in range(COUNT)]
    assert ring.queue.last_avail == (base + COUNT) & 0xFFFF
    if kind == BLK_T_IN:
        assert bytes(ring.ram[DATA : DATA + COUNT * 512]) == CONTENT[3 * 512 : (3 + COUNT) * 512]
    else:
        assert ring.path.read_bytes()[3 * 512 : (3 + COUNT) * 512] == CONTENT[: COUNT * 512]


def test_the_same_descriptors_are_read_with_new_headers(ring: Ring) -> None:
    for first in (3, 20, 40):
        for n in range(COUNT):
            ring.header(n, BLK_T_IN, first + n)
        assert ring.serve() == []
        assert bytes(ring.ram[DATA : DATA + COUNT * 512]) == CONTENT[first * 512 : (first + COUNT) * 512]


def test_sectors_apart_are_parsed_and_not_served(ring: Ring) -> None:
    numbers = [5, 9, 1 << 40, 63, 64, 0, 7, (1 << 64) - 1]
    for n, sector in enumerate(numbers):
        ring.header(n, BLK_T_IN, sector)
    found = ring.serve()
    assert found is not None
    for n, (sector, request) in enumerate(zip(numbers, found, strict=True)):
        if sector >= SECTORS:
            assert request is None
        else:
            at, data, status = sector * 512, DATA + 512 * n, STATUSES + STATUS_STEP * n
            assert request == (3 * n, BLK_T_IN, at, at + 512, data, data + 512, status, None)
    assert ring.statuses() == [UNSET] * COUNT
    assert ring.driver.used() == []


def test_a_failing_medium_leaves_all_to_be_asked_one_by_one(ring: Ring) -> None:
    ring.path.write_bytes(CONTENT[: 5 * 512])  # somebody cut the file
    found = ring.serve()
    assert found is not None
    assert [request[2] for request in found if request is not None] == [512 * (3 + n) for n in range(COUNT)]
    assert ring.statuses() == [UNSET] * COUNT


@pytest.mark.parametrize("n", [0, 1, 4, COUNT - 1])
@pytest.mark.parametrize(
    ("part", "gpa", "length", "flags", "following"),
    [
        (0, 1, 0, 0, 0),
        (0, 1 << 62, 0, 0, 0),
        (0, 0, 1, 0, 0),
        (0, 0, 0, 2, 0),
        (0, 0, 0, 5, 0),
        (0, 0, 0, 0, 1),
        (1, -1, 0, 0, 0),
        (1, 1 << 40, 0, 0, 0),
        (1, 0, 512, 0, 0),
        (1, 0, -1, 0, 0),
        (1, 0, 0, 1, 0),
        (1, 0, 0, 0, -3),
        (2, 1 << 20, 0, 0, 0),
        (2, 0, 1, 0, 0),
        (2, 0, 0, 1, 0),
        (2, 0, 0, -2, 0),
    ],
)
def test_one_field_that_is_off_leaves_all_alone(
    ring: Ring, n: int, part: int, gpa: int, length: int, flags: int, following: int
) -> None:
    i = 3 * n + part
    was, by = struct.unpack_from("<QIHH", ring.driver.desc, 16 * i), (gpa, length, flags, following)
    ring.driver.put(i, *(old + off & limit for old, off, limit in zip(was, by, LIMITS, strict=True)))
    assert ring.serve() is None
    assert ring.statuses() == [UNSET] * COUNT
    assert ring.driver.used() == []


@pytest.mark.parametrize(
    ("part", "length", "flags", "following"),
    [
        (0, 1, 0, 0),
        (0, 0, 2, 0),
        (0, 0, 3, 0),
        (0, 0, 0, 1),
        (1, -512, 0, 0),
        (1, 1, 0, 0),
        (1, 1 << 20, 0, 0),
        (1, 0, 4, 0),
        (1, 0, -1, 0),
        (1, 0, 0, 3),
        (2, 1, 0, 0),
        (2, 0, 1, 0),
        (2, 0, -2, 0),
    ],
)
def test_a_field_that_is_off_in_every_chain_leaves_all_alone(
    ring: Ring, part: int, length: int, flags: int, following: int
) -> None:
    for i in range(part, 3 * COUNT, 3):
        was, by = struct.unpack_from("<QIHH", ring.driver.desc, 16 * i), (0, length, flags, following)
        ring.driver.put(i, *(old + off & limit for old, off, limit in zip(was, by, LIMITS, strict=True)))
    assert ring.serve() is None
    assert ring.statuses() == [UNSET] * COUNT


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("over", [1, 8, 1 << 40])
def test_addresses_that_leave_ram_leave_all_alone(ring: Ring, part: int, over: int) -> None:
    sizes = (16, 512, 1)
    step = (HEADER_STEP, 512, STATUS_STEP)[part]
    first = ring.memory.size - sizes[part] - step * (COUNT - 1) + over
    for n in range(COUNT):
        _, length, flags, following = struct.unpack_from("<QIHH", ring.driver.desc, 16 * (3 * n + part))
        ring.driver.put(3 * n + part, first + step * n, length, flags, following)
    assert ring.serve() is None


@pytest.mark.parametrize("next_of_status", [0, 7])
def test_the_last_descriptors_index_of_a_next_one_says_nothing(ring: Ring, next_of_status: int) -> None:
    for n in range(COUNT):
        ring.driver.put(3 * n + 2, STATUSES + STATUS_STEP * n, 1, 2, next_of_status and 3 * n + 3)
    assert ring.serve() == []


@pytest.mark.parametrize("n", [0, 3, COUNT - 1])
def test_one_type_that_is_another_leaves_all_alone(ring: Ring, n: int) -> None:
    for kind in (BLK_T_OUT, 8, 1 << 31):
        ring.header(n, kind, 3 + n)
        assert ring.serve() is None


@pytest.mark.parametrize(
    "heads", [(0, 3, 6, 10), (0, 3, 9, 6), (27, 30), (29, 0), (31, 34), (40, 43), (3, 0)]
)
def test_heads_in_another_order_are_left_alone(ring: Ring, heads: tuple[int, ...]) -> None:
    assert ring.bulk(memoryview(struct.pack(f"<{len(heads)}H", *heads)).cast("H")) is None


def test_a_write_to_a_read_only_disk_is_left_alone(tmp_path: Path) -> None:
    assert Ring(tmp_path / "disk", BLK_T_OUT, read_only=True).serve() is None


def test_what_was_understood_is_forgotten_when_a_descriptor_changes(ring: Ring) -> None:
    assert ring.serve() == []
    ring.driver.put(3 * 5 + 1, DATA + 512 * 5, 1024, 3, 3 * 5 + 2)
    assert ring.serve() is None
    ring.driver.put(3 * 5 + 1, DATA + 512 * 5, 512, 3, 3 * 5 + 2)
    assert ring.serve() == []


def test_every_stored_byte_is_reported_before_it_is_shown(ring: Ring) -> None:
    reported: set[int] = set()

    def note(gpa: int, length: int) -> None:
        assert ring.driver.used_words[1] == 0
        reported.update(range(gpa, gpa + length))

    ring.memory.on_written = note
    assert ring.serve() == []
    assert set(range(DATA, DATA + 512 * COUNT)) <= reported
    assert {STATUSES + STATUS_STEP * n for n in range(COUNT)} <= reported


def test_the_drain_takes_the_bulk_path(ring: Ring) -> None:
    assert LEAST <= COUNT
    assert ring.disk.drain(0, ring.queue)(256) == COUNT
    assert ring.disk.costs.syscalls == 1
    assert ring.statuses() == [0] * COUNT


@pytest.mark.parametrize(
    ("column", "found"),
    [
        ([5, 5, 5], (5, 0)),
        ([1, 4, 7], (1, 3)),
        ([1, 4, 8], None),
        ([4, 1], None),
        ([0, (1 << 63) - 1, (1 << 64) - 2], (0, (1 << 63) - 1)),
        ([1 << 63, (1 << 63) + (1 << 62), 0], None),  # it would carry out of the last word
        ([0, 1 << 63, 0, 1 << 63], None),
        ([0, 1 << 63, 1, (1 << 63) + 1], None),  # as one integer: carries between words
    ],
)
def test_even_spacing_has_no_carries(column: list[int], found: tuple[int, int] | None) -> None:
    assert evenly_spaced(struct.pack(f"<{len(column)}Q", *column)) == found
