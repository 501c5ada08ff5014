"""The split ring: what a driver adds is what a device sees, and each violation is named."""

import pytest

from emu.bus.memory import GuestMemory
from emu.devices.virtio.spec import DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE
from emu.devices.virtio.split_queue import MAX_CHAIN_BYTES, Chain, SplitQueue, each_chain
from emu.errors import DriverError
from emu.testing.driver_queue import DriverQueue, put_descriptor

BUFFER = 0x8000


def reverse_bytes(chain: Chain) -> int:
    return chain.write(chain.read()[::-1])


def reject(driver: DriverQueue, match: str) -> None:
    with pytest.raises(DriverError, match=match):
        driver.device_side().pop()


@pytest.mark.parametrize("indirect", [False, True])
def test_buffers_arrive_in_order_and_answers_come_back(indirect: bool) -> None:
    driver = DriverQueue(size=8, indirect=indirect)
    queue = driver.device_side()
    head = driver.add(b"abc", b"de", 2, 16, indirect=indirect)
    chain = queue.pop()
    assert chain is not None
    assert (chain.read(), chain.writable_bytes) == (b"abcde", 18)
    queue.push(chain, chain.write(b"12345"))
    assert driver.used() == [(head, 5)]
    assert driver.written(head)[:5] == b"12345"
    assert queue.pop() is None


def test_indices_wrap_at_65536() -> None:
    driver = DriverQueue(size=4)
    queue = driver.device_side()
    drain = each_chain(queue, reverse_bytes)
    for n in range(65540):
        head = driver.add(b"x", 1)
        assert drain(16) == 1
        assert driver.used() == [(head, 1)], n
    assert queue.last_avail == queue.used_idx == 4


def test_a_ring_goes_on_where_its_last_owner_stopped() -> None:
    driver = DriverQueue(size=4)
    first = driver.device_side()
    driver.add(b"a", 1)
    each_chain(first, reverse_bytes)(16)
    second = driver.device_side(base=first.last_avail)
    head = driver.add(b"b", 1)
    assert each_chain(second, reverse_bytes)(16) == 1
    assert [entry[0] for entry in driver.used()][-1] == head


def test_writes_are_reported_before_the_answer_is_published() -> None:
    driver = DriverQueue(size=4)
    reported: list[tuple[int, int, int]] = []
    driver.memory.on_written = lambda gpa, n: reported.append((gpa, n, driver.used_words[1]))
    queue = driver.device_side()
    head = driver.add(b"a", 4, 5)
    chain = queue.pop()
    assert chain is not None
    queue.push(chain, 1)
    places = [(gpa, n, 0) for gpa, n, writable in driver.parts[head] if writable]
    assert reported == places


@pytest.mark.parametrize("event_idx", [False, True])
def test_an_interrupt_is_wanted_only_when_asked_for(event_idx: bool) -> None:
    driver = DriverQueue(size=8, event_idx=event_idx)
    queue = driver.device_side()
    drain = each_chain(queue, reverse_bytes)
    driver.want_interrupts(False)
    driver.add(b"a", 1)
    drain(8)
    assert not queue.needs_interrupt()
    driver.used()
    driver.want_interrupts(True)
    driver.add(b"a", 1)
    drain(8)
    assert queue.needs_interrupt()
    assert not queue.needs_interrupt()  # said once


def test_a_late_used_event_still_gets_its_interrupt() -> None:
    driver = DriverQueue(size=8, event_idx=True)
    queue = driver.device_side()
    driver.want_interrupts(False)
    driver.add(b"a", 1)
    each_chain(queue, reverse_bytes)(8)
    assert not queue.needs_interrupt()
    driver.want_interrupts(True)  # stored while the device looked the first time
    assert queue.needs_interrupt()


def test_a_driver_that_polled_for_long_can_still_ask_for_an_interrupt() -> None:
    driver = DriverQueue(size=8, event_idx=True)
    queue = driver.device_side()
    drain = each_chain(queue, reverse_bytes)
    for _ in range(70000):
        driver.want_interrupts(False)
        driver.add(b"a", 1)
        drain(8)
        assert not queue.needs_interrupt()
        driver.used()
    driver.want_interrupts(True)
    driver.add(b"a", 1)
    drain(8)
    assert queue.needs_interrupt()


@pytest.mark.parametrize("event_idx", [False, True])
def test_a_kick_is_wanted_only_when_armed(event_idx: bool) -> None:
    driver = DriverQueue(size=8, event_idx=event_idx)
    queue = driver.device_side()
    driver.add(b"a", 1)
    assert driver.needs_kick()
    queue.set_kicks(False)
    each_chain(queue, reverse_bytes)(8)
    driver.add(b"a", 1)
    assert not driver.needs_kick()
    assert queue.has_work()
    each_chain(queue, reverse_bytes)(8)
    queue.set_kicks(True)
    driver.add(b"a", 1)
    assert driver.needs_kick()


def test_an_index_too_far_ahead_is_the_drivers_fault() -> None:
    driver = DriverQueue(size=4)
    driver.set_avail_idx(5)
    reject(driver, "avail_idx 5 is 5 ahead, queue size 4")


def test_a_head_outside_of_the_table_is_the_drivers_fault() -> None:
    driver = DriverQueue(size=4)
    driver.publish(4)
    reject(driver, "head 4, queue size 4")


def test_a_next_outside_of_the_table_is_the_drivers_fault() -> None:
    driver = DriverQueue(size=4)
    driver.put(0, BUFFER, 16, DESC_F_NEXT, 4)
    driver.publish(0)
    reject(driver, "descriptor 0 goes on at 4, table of 4")


def test_a_loop_is_the_drivers_fault() -> None:
    driver = DriverQueue(size=4)
    driver.put(0, BUFFER, 16, DESC_F_NEXT, 1)
    driver.put(1, BUFFER, 16, DESC_F_NEXT, 0)
    driver.publish(0)
    reject(driver, "longer than 4 descriptors")


def test_a_buffer_outside_of_ram_is_the_drivers_fault() -> None:
    driver = DriverQueue(size=4)
    driver.put(0, driver.memory.size - 8, 16)
    driver.publish(0)
    reject(driver, "are not in RAM")
    driver.put(0, 0xFFFF_FFFF_FFFF_FFF8, 16)
    reject(driver, "are not in RAM")


def test_an_empty_buffer_is_the_drivers_fault() -> None:
    driver = DriverQueue(size=4)
    driver.put(0, BUFFER, 0)
    driver.publish(0)
    reject(driver, "a buffer of 0 bytes at 0x8000")


def test_a_readable_buffer_after_a_writable_one_is_the_drivers_fault() -> None:
    driver = DriverQueue(size=4)
    driver.put(0, BUFFER, 16, DESC_F_NEXT | DESC_F_WRITE, 1)
    driver.put(1, BUFFER, 16)
    driver.publish(0)
    reject(driver, "a readable buffer after a writable one")


def test_a_chain_without_measure_is_the_drivers_fault() -> None:
    memory = GuestMemory(MAX_CHAIN_BYTES)
    driver = DriverQueue(size=4, memory=memory)
    driver.put(0, 0, MAX_CHAIN_BYTES, DESC_F_NEXT, 1)
    driver.put(1, 0, 1)
    driver.publish(0)
    reject(driver, f"more than {MAX_CHAIN_BYTES} bytes")


def test_an_indirect_table_needs_the_feature() -> None:
    driver = DriverQueue(size=4)
    driver.put(0, BUFFER, 16, DESC_F_INDIRECT)
    driver.publish(0)
    reject(driver, "without VIRTIO_F_RING_INDIRECT_DESC")


@pytest.mark.parametrize("length", [0, 8, 24, 16 * 1025])
def test_an_indirect_table_has_whole_entries_and_a_bound(length: int) -> None:
    driver = DriverQueue(size=4, indirect=True)
    driver.put(0, BUFFER, length, DESC_F_INDIRECT)
    driver.publish(0)
    reject(driver, f"indirect table of {length} bytes")


def test_an_indirect_table_outside_of_ram_is_the_drivers_fault() -> None:
    driver = DriverQueue(size=4, indirect=True)
    driver.put(0, driver.memory.size, 32, DESC_F_INDIRECT)
    driver.publish(0)
    reject(driver, "indirect table: 0x20 bytes at .* are not in RAM")


def test_indirect_tables_do_not_nest_nor_continue() -> None:
    driver = DriverQueue(size=4, indirect=True)
    table = driver.memory.view(BUFFER, 32)
    put_descriptor(table, 0, BUFFER, 16, DESC_F_INDIRECT, 0)
    driver.put(0, BUFFER, 32, DESC_F_INDIRECT)
    driver.publish(0)
    reject(driver, "entry 0 is indirect again")
    driver.put(0, BUFFER, 32, DESC_F_INDIRECT | DESC_F_NEXT, 1)
    reject(driver, "indirect descriptor with NEXT set")


def test_a_loop_in_an_indirect_table_is_the_drivers_fault() -> None:
    driver = DriverQueue(size=4, indirect=True)
    put_descriptor(driver.memory.view(BUFFER, 32), 0, BUFFER, 16, DESC_F_NEXT, 0)
    driver.put(0, BUFFER, 32, DESC_F_INDIRECT)
    driver.publish(0)
    reject(driver, "longer than 2 descriptors")


@pytest.mark.parametrize("size", [0, 3, 2048])
def test_a_ring_of_an_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(DriverError, match=f"queue size {size}"):
        SplitQueue(GuestMemory(1 << 20), 0x1000, 0x2000, 0x3000, size)


@pytest.mark.parametrize("places", [(8, 0, 0), (0, 1, 0), (0, 0, 2)])
def test_a_ring_that_is_not_aligned_is_refused(places: tuple[int, int, int]) -> None:
    desc, avail, used = places
    with pytest.raises(DriverError, match="not aligned"):
        SplitQueue(GuestMemory(1 << 20), 0x1000 + desc, 0x2000 + avail, 0x3000 + used, 8)


def test_a_ring_outside_of_ram_is_refused() -> None:
    with pytest.raises(DriverError, match=r"ring of 8 entries: .* not in RAM"):
        SplitQueue(GuestMemory(1 << 20), 0x1000, 0x2000, 0xFFFF8, 8)
