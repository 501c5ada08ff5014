"""The event timer: counter, comparators, wires."""

import pytest

from emu.bus.irq import Gate, Pin
from emu.bus.types import AccessError
from emu.clock import GuestClock
from emu.devices.hpet import Hpet

CAP, CONF, STATUS, COUNTER = 0x00, 0x10, 0x20, 0xF0
LEVEL, ENABLE, PERIODIC, VAL_SET, MODE32 = 1 << 1, 1 << 2, 1 << 3, 1 << 6, 1 << 8
ROUTE2 = 2 << 9


def conf(timer: int) -> int:
    return 0x100 + 0x20 * timer


def comparator(timer: int) -> int:
    return 0x108 + 0x20 * timer


class Wire:
    """A line that counts its rises."""

    def __init__(self) -> None:
        self.level, self.rises = False, 0

    def set(self, level: bool) -> None:
        self.rises += level and not self.level
        self.level = level

    def restore(self, level: bool) -> None:
        self.level = level


class Bench:
    def __init__(self) -> None:
        self.clock = GuestClock()
        self.irq0, self.irq8, self.pin2 = Wire(), Wire(), Wire()
        self.legacy: list[bool] = []
        self.chip = Hpet(self.clock, (self.irq0, self.irq8), {2: self.pin2}, self.legacy.append)

    def __getitem__(self, offset: int) -> int:
        return self.chip.read(offset, 4) | self.chip.read(offset + 4, 4) << 32

    def __setitem__(self, offset: int, value: int) -> None:
        self.chip.write(offset, 4, value)

    def ticks(self, count: int) -> None:
        self.clock.advance(10 * count)

    def rises(self) -> tuple[int, int, int]:
        return self.irq0.rises, self.irq8.rises, self.pin2.rises


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_it_has_three_periodic_comparators_of_64_bits_and_10_ns(bench: Bench) -> None:
    assert bench[CAP] == 0x0098_9680_8086_A201
    assert [bench[conf(timer)] for timer in range(4)] == [0x4_0000_0030] * 3 + [0]
    assert bench[comparator(2)] == (1 << 64) - 1


def test_the_counter_runs_while_it_is_enabled_and_keeps_its_value(bench: Bench) -> None:
    bench.ticks(100)
    assert bench[COUNTER] == 0
    bench[CONF] = 1
    bench.ticks(100)
    assert bench[COUNTER] == 100
    bench[COUNTER] = 5  # not while it runs
    assert bench[COUNTER] == 100
    bench[CONF] = 0
    bench.ticks(100)
    assert bench[COUNTER] == 100
    bench[COUNTER], bench[COUNTER + 4] = 0xFFFF_FFFE, 7
    bench[CONF] = 1
    bench.ticks(2)
    assert bench[COUNTER] == 8 << 32


def test_both_halves_of_a_read_are_of_one_moment(bench: Bench) -> None:
    bench[COUNTER] = 0xFFFF_FFFF
    bench[CONF] = 1
    low = bench.chip.read(COUNTER, 4)
    bench.ticks(1)
    assert (bench.chip.read(COUNTER + 4, 4), low) == (0, 0xFFFF_FFFF)
    bench.ticks(1000)
    assert bench.chip.read(COUNTER + 4, 4) == 1


def test_a_one_shot_fires_once_at_its_value(bench: Bench) -> None:
    bench[conf(0)] = ENABLE | ROUTE2
    bench[comparator(0)], bench[comparator(0) + 4] = 1000, 0
    bench[CONF] = 1
    bench.ticks(999)
    assert bench.rises() == (0, 0, 0)
    bench.ticks(1)
    assert bench.rises() == (0, 0, 1)
    assert (bench[STATUS], bench.pin2.level) == (0, False)  # an edge
    bench.ticks(1 << 33)
    assert bench.rises() == (0, 0, 1)


def test_a_comparator_of_32_bits_matches_each_time_round(bench: Bench) -> None:
    bench[conf(1)] = ENABLE | MODE32 | ROUTE2
    bench[comparator(1)] = 1000
    bench[CONF] = 1
    bench.ticks(2000)
    bench[comparator(1)] = 1500  # has passed
    bench.ticks((1 << 32) - 501)
    assert bench.rises() == (0, 0, 1)
    bench.ticks(1)
    assert bench.rises() == (0, 0, 2)
    bench.ticks(1 << 32)
    assert bench.rises() == (0, 0, 3)


def test_a_periodic_timer_is_set_as_linux_does_it(bench: Bench) -> None:
    """The first match by VAL_SET, then the period; in legacy replacement mode on IRQ 0."""
    bench[CONF] = 3
    bench.ticks(100)
    bench[conf(0)] = ENABLE | PERIODIC | VAL_SET | MODE32
    bench[comparator(0)] = 400_100
    bench[comparator(0)] = 400_000
    assert bench[conf(0)] == 0x4_0000_0030 | ENABLE | PERIODIC | MODE32  # VAL_SET is over
    bench.ticks(400_000)
    assert bench.rises() == (1, 0, 0)
    assert bench[comparator(0)] == 800_100
    bench.ticks(9 * 400_000)
    assert bench.rises() == (10, 0, 0)


def test_periods_that_are_too_short_are_dropped_and_the_comparator_goes_on(bench: Bench) -> None:
    bench[conf(0)] = ENABLE | PERIODIC | VAL_SET | MODE32 | ROUTE2
    bench[comparator(0)] = 7
    bench[CONF] = 1
    bench.ticks(100_000)  # 1 ms; the last of five comes at tick 80,007
    assert bench.rises() == (0, 0, 5)
    assert bench[comparator(0)] == 80_010


def test_a_level_lasts_until_its_status_is_cleared(bench: Bench) -> None:
    bench[conf(2)] = ENABLE | LEVEL | ROUTE2
    bench[comparator(2)], bench[comparator(2) + 4] = 10, 0
    bench[CONF] = 1
    bench.ticks(10)
    assert (bench[STATUS], bench.pin2.level) == (4, True)
    bench[STATUS] = 3
    assert bench.pin2.level
    bench[STATUS] = 4
    assert (bench[STATUS], bench.pin2.level) == (0, False)


def test_a_disabled_level_timer_shows_its_status_alone(bench: Bench) -> None:
    bench[conf(2)] = LEVEL | ROUTE2
    bench[comparator(2)], bench[comparator(2) + 4] = 10, 0
    bench[CONF] = 1
    bench.ticks(10)
    assert (bench[STATUS], bench.pin2.level) == (4, False)
    bench[conf(2)] = ENABLE | LEVEL | ROUTE2
    assert bench.pin2.level


def test_legacy_replacement_moves_the_first_two_timers_and_tells_the_board(bench: Bench) -> None:
    for timer in range(3):
        bench[conf(timer)] = ENABLE | LEVEL | ROUTE2
        bench[comparator(timer)], bench[comparator(timer) + 4] = 10, 0
    bench[CONF] = 3
    bench.ticks(10)
    assert (bench.irq0.level, bench.irq8.level, bench.pin2.level) == (True, True, True)
    bench[STATUS] = 4
    assert (bench.irq0.level, bench.irq8.level, bench.pin2.level) == (True, True, False)
    bench[CONF] = 1
    assert (bench.irq0.level, bench.irq8.level, bench.pin2.level) == (False, False, True)
    assert bench.legacy == [True, False]


def test_a_route_that_is_not_there_is_not_taken(bench: Bench) -> None:
    bench[conf(0)] = ROUTE2
    bench[conf(0)] = 5 << 9
    assert bench[conf(0)] == 0x4_0000_0030 | ROUTE2


def test_reset_halts_it_and_lowers_its_wires(bench: Bench) -> None:
    bench[conf(0)] = ENABLE | LEVEL
    bench[comparator(0)], bench[comparator(0) + 4] = 10, 0
    bench[CONF] = 3
    bench.ticks(10)
    bench.chip.reset()
    assert (bench[CONF], bench[STATUS], bench[COUNTER], bench.irq0.level) == (0, 0, 0, False)
    assert bench.legacy == [True, False]
    bench.ticks(1000)
    assert bench.rises() == (1, 0, 0)


@pytest.mark.parametrize(("offset", "width"), [(0xF0, 1), (0xF0, 2), (0xF2, 4)])
def test_only_whole_halves_are_taken(bench: Bench, offset: int, width: int) -> None:
    with pytest.raises(AccessError):
        bench.chip.read(offset, width)
    with pytest.raises(AccessError):
        bench.chip.write(offset, width, 0)


def test_a_gate_holds_a_level_back_and_lets_it_through_again() -> None:
    levels: list[bool] = []
    gate = Gate(Pin(levels.append).line())
    gate.set(True)
    gate.switch(False)
    gate.set(False)
    gate.set(True)
    gate.switch(True)
    assert levels == [True, False, True]
