"""What a back-end had in hand survives it: the in-flight area, whenever it dies."""

import os
import struct
from collections.abc import Iterator

import pytest

from emu.dataplanes.vhost_user.inflight import InflightArea, InflightQueue, create_area, resume, tracked
from emu.dataplanes.vhost_user.messages import Inflight, ProtocolError
from emu.devices.virtio.split_queue import each_chain
from emu.testing.driver_queue import DriverQueue

SIZE = 16


@pytest.fixture
def area() -> Iterator[InflightArea]:
    fd, inflight = create_area(2, SIZE)
    made = InflightArea(inflight, fd)
    os.close(fd)
    yield made
    made.close()


def region(area: InflightArea, index: int = 0) -> InflightQueue:
    found = area.queue(index)
    assert found is not None
    return found


def test_a_new_area_holds_nothing(area: InflightArea) -> None:
    assert region(area).recover(7) == []
    assert bytes(area.area.view[:16]) == struct.pack("<QHHHH", 0, 1, SIZE, 0, 7)


@pytest.mark.parametrize("heads", [[3], [0, 3, 6, 9], [9, 3, 0, 6]])
@pytest.mark.parametrize("again", [False, True])
def test_whoever_dies_within_a_batch_leaves_the_rest_in_order(
    area: InflightArea, heads: list[int], again: bool
) -> None:
    """The used index tells how many were answered; the area tells which are left."""
    for answered in range(len(heads) + 1):
        queue = region(area)
        queue.recover(100)
        if again:  # the same batch once more takes the short way
            queue.take(heads)
            queue.answered(len(heads), 100)
        assert queue.take(heads)
        assert region(area).recover(100 + answered) == heads[answered:]
        queue.take(heads)
        queue.answered(len(heads), 100)
        assert region(area).recover(100) == []


def test_a_batch_that_was_answered_in_part_leaves_the_rest(area: InflightArea) -> None:
    queue = region(area)
    queue.recover(0)
    queue.take([1, 4, 7])
    queue.answered(1, 1)
    assert region(area).recover(1) == [4, 7]


def test_a_head_that_is_none_is_not_noted(area: InflightArea) -> None:
    queue = region(area)
    queue.recover(0)
    assert not queue.take([SIZE])
    assert not queue.take([])
    assert region(area).recover(0) == []


def test_queues_have_regions_of_their_own(area: InflightArea) -> None:
    for i in range(2):
        region(area, i).recover(i)
        region(area, i).take([i + 1])
    assert [region(area, i).recover(i) for i in range(2)] == [[1], [2]]
    assert area.queue(2) is None


def test_what_another_back_end_answered_out_of_order_is_not_done_again() -> None:
    """It had taken four and answered the second and third; the ring still names those where it stopped."""
    driver = DriverQueue(size=SIZE)
    fd, inflight = create_area(1, SIZE)
    area = InflightArea(inflight, fd)
    heads = [driver.add(bytes([i]), 1) for i in range(5)]
    old = driver.device_side()
    chains = [old.pop() for _ in range(4)]
    first = region(area)
    first.recover(0)
    first.take([heads[0], heads[3]])
    for chain in chains[1:3]:
        assert chain is not None
        old.push(chain, 0)
    struct.pack_into("<H", area.area.view, 14, 2)  # its used_idx

    served: list[int] = []
    new = driver.device_side(base=4)
    queue = region(area)
    resume(new, queue)
    drain = tracked(new, each_chain(new, lambda chain: served.append(chain.read()[0]) or 0), queue)
    assert drain(256) == 3
    assert served == [0, 3, 4]
    assert [head for head, _ in driver.used()] == [heads[1], heads[2], heads[0], heads[3], heads[4]]
    assert region(area).recover(5) == []
    area.close()
    os.close(fd)


@pytest.mark.parametrize(
    ("inflight", "fault"),
    [
        (Inflight(4096, 0, 0, 16), "num queues: 0, 1 to 256 are possible"),
        (Inflight(4096, 0, 257, 16), "num queues: 257, 1 to 256 are possible"),
        (Inflight(4096, 0, 1, 1025), "queue size: 1025, 1 to 1024 are possible"),
        (Inflight(64, 0, 1, 16), "mmap size: 64 bytes for 1 queues of 16"),
        (Inflight(1 << 40, 0, 1, 16), "mmap size: .* bytes for 1 queues of 16"),
        (Inflight(1 << 20, 0, 1, 16), "fd: .* cannot be mapped"),
    ],
)
def test_an_area_that_cannot_be_is_refused(inflight: Inflight, fault: str) -> None:
    fd, _ = create_area(1, 16)
    with pytest.raises(ProtocolError, match=f"^vhost-user SET_INFLIGHT_FD: {fault}"):
        InflightArea(inflight, fd)
    os.close(fd)
