"""Any control message and any chain on any queue: bounded answers, and no error but the driver's."""

import contextlib
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from emu.devices.virtio.console import MAX_CONTROL, Port, VirtioConsole
from emu.devices.virtio.spec import CONSOLE_F_MULTIPORT
from emu.errors import DriverError
from emu.testing.driver_queue import DriverQueue

MESSAGES = st.builds(
    lambda port, event, value: struct.pack("<IHH", port, event, value),
    st.one_of(st.integers(0, 3), st.integers(0, 0xFFFF_FFFF)),
    st.integers(0, 9),
    st.integers(0, 2),
)
CHAINS = st.lists(st.tuples(st.integers(0, 7), st.one_of(MESSAGES, st.binary(min_size=1, max_size=20))))
ROOMS = st.lists(st.integers(0, 8), min_size=1, max_size=8)


@settings(max_examples=150, deadline=None)
@given(chains=CHAINS, features=st.sampled_from([0, CONSOLE_F_MULTIPORT]), rooms=ROOMS)
def test_any_chain_on_any_queue(chains: list[tuple[int, bytes]], features: int, rooms: list[int]) -> None:
    turns = iter(rooms * (len(chains) + 30))
    ports = [
        Port(number, send=lambda data: min(next(turns, 8), len(data)), host_open=True) for number in (0, 1)
    ]
    console = VirtioConsole(ports)
    console.set_features(features)
    for queue, data in chains:
        driver = DriverQueue(size=8, slot_bytes=128)
        drain = console.drain(queue, driver.device_side())
        driver.add(data)
        driver.add(16)
        for port in ports:
            console.receive(port, b"input")
        with contextlib.suppress(DriverError):
            assert 0 <= drain(8) <= 2
        driver.memory.close()
    assert len(console._control) <= MAX_CONTROL
