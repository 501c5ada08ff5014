"""Any page list, statistics and configuration write: the device stays within RAM and within bounds."""

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from emu.bus.memory import GuestMemory
from emu.devices.virtio.balloon import STATISTICS, VirtioBalloon
from emu.errors import DriverError
from emu.testing.driver_queue import DriverQueue

SIZE = 2 << 20
PAGES = st.one_of(st.integers(0x100, 0x200), st.integers(0, 0xFFFF_FFFF))
LISTS = st.lists(PAGES, min_size=1, max_size=40).map(lambda pages: struct.pack(f"<{len(pages)}I", *pages))
BUFFERS = st.one_of(LISTS, st.binary(min_size=1, max_size=60))
MEMORY = GuestMemory(SIZE)


@settings(max_examples=200, deadline=None)
@given(queue=st.integers(0, 3), buffers=st.lists(BUFFERS, min_size=1, max_size=4), room=st.integers(0, 9000))
def test_any_request_is_answered_or_the_drivers_fault(queue: int, buffers: list[bytes], room: int) -> None:
    reported: list[tuple[int, int]] = []
    MEMORY.on_written = lambda gpa, length: reported.append((gpa, length))
    driver = DriverQueue(size=16, memory=MEMORY, slot_bytes=12288)
    balloon = VirtioBalloon(MEMORY, reporting=True)
    drain = balloon.drain(queue, driver.device_side())
    driver.add(*buffers, *([room] if room else []))
    try:
        drain(16)
    except DriverError:
        assert queue < 2
    assert all(0 <= gpa <= gpa + length <= SIZE for gpa, length in reported)
    assert set(balloon.statistics) <= set(STATISTICS)


@given(offset=st.integers(0, 4100), data=st.binary(min_size=1, max_size=8))
def test_any_configuration_write_keeps_the_configuration_whole(offset: int, data: bytes) -> None:
    balloon = VirtioBalloon(MEMORY)
    balloon.write_config(offset, data)
    assert len(balloon.config(0, 16)) == 8
    assert balloon.config(0, 4) == bytes(4)
