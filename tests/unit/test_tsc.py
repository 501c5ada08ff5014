"""The guest's time stamp counter, its offset and its rate."""

import time

from emu.cpu.tsc import GuestTsc, TscRate

MASK = (1 << 64) - 1


class Host:
    """A counter moved by hand."""

    def __init__(self) -> None:
        self.ticks, self.offset = 5000, 0

    def read(self) -> int:
        return self.ticks

    def set_offset(self, offset: int) -> None:
        self.offset = offset


def test_it_starts_at_0_and_the_engine_adds_the_same_offset() -> None:
    host = Host()
    tsc = GuestTsc(host.read, host.set_offset)
    assert tsc.read() == 0
    host.ticks += 7
    assert tsc.read() == host.ticks + host.offset == 7


def test_a_write_moves_the_adjustment_too_and_the_other_way_round() -> None:
    host, changes = Host(), []
    tsc = GuestTsc(host.read, host.set_offset)
    tsc.on_change = lambda: changes.append(tsc.read())
    assert tsc.write(100)
    assert (tsc.read(), tsc.adjust) == (100, 100)
    assert tsc.write_adjust(30)
    assert (tsc.read(), tsc.adjust) == (30, 30)
    assert tsc.write(MASK)
    assert (tsc.read(), tsc.adjust, changes) == (MASK, MASK, [100, 30, MASK])


def test_the_rate_is_measured_once_and_close() -> None:
    rate = TscRate(lambda: time.monotonic_ns() * 3)
    first = rate.hz()
    assert abs(first - 3_000_000_000) < 3_000_000
    assert rate.hz() == first
