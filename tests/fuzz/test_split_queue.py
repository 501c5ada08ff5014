"""Whatever bytes lie in the rings, a device sees a chain or a DriverError, and nothing else."""

from hypothesis import given, settings
from hypothesis import strategies as st

from emu.bus.memory import GuestMemory
from emu.devices.virtio.split_queue import MAX_CHAIN, SplitQueue, each_chain
from emu.errors import DriverError
from emu.testing.driver_queue import put_descriptor

MEMORY = GuestMemory(1 << 20)
SIZE = 8
ADDRESSES = st.one_of(st.integers(0, 0x4000), st.integers(0, (1 << 64) - 1))
DESCRIPTORS = st.tuples(
    ADDRESSES,
    st.one_of(st.sampled_from([0, 1, 16, 32, 48]), st.integers(0, (1 << 32) - 1)),
    st.one_of(st.integers(0, 7), st.integers(0, 0xFFFF)),
    st.one_of(st.integers(0, SIZE), st.integers(0, 0xFFFF)),
)


@settings(max_examples=150, deadline=None)
@given(
    table=st.lists(DESCRIPTORS, min_size=SIZE, max_size=SIZE),
    inner=st.lists(DESCRIPTORS, min_size=4, max_size=4),
    ring=st.lists(st.one_of(st.integers(0, SIZE), st.integers(0, 0xFFFF)), min_size=SIZE, max_size=SIZE),
    avail_idx=st.one_of(st.integers(0, SIZE + 1), st.integers(0, 0xFFFF)),
    event_idx=st.booleans(),
    indirect=st.booleans(),
    used_event=st.integers(0, 0xFFFF),
)
def test_any_ring_is_served_or_refused(
    table: list[tuple[int, int, int, int]],
    inner: list[tuple[int, int, int, int]],
    ring: list[int],
    avail_idx: int,
    event_idx: bool,
    indirect: bool,
    used_event: int,
) -> None:
    for i, entry in enumerate(table):
        put_descriptor(MEMORY.view(0x1000, 128), i, *entry)
    for i, entry in enumerate(inner):
        put_descriptor(MEMORY.view(0x0, 64), i, *entry)
    avail = MEMORY.view(0x2000, 6 + 2 * SIZE).cast("H")
    avail[1] = avail_idx
    for i, head in enumerate(ring):
        avail[2 + i] = head
    avail[2 + SIZE] = used_event
    queue = SplitQueue(MEMORY, 0x1000, 0x2000, 0x3000, SIZE, event_idx=event_idx, indirect=indirect)
    try:
        served = each_chain(queue, lambda chain: len(chain.readable) + len(chain.writable))(1000)
    except DriverError:
        return
    assert served == avail_idx <= SIZE
    for element in queue.used_ring[:served]:
        assert 0 < element >> 32 <= MAX_CHAIN
    queue.needs_interrupt()
    queue.set_kicks(True)
