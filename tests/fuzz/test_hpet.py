"""Any sequence of register accesses: only AccessError, values that fit, and no storm of timers."""

from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from emu.bus.types import AccessError
from emu.clock import GuestClock
from emu.devices.hpet import NS_MIN_PERIOD, TIMERS, Hpet
from tests.unit.test_hpet import Wire

offsets = st.sampled_from([4 * n for n in range(64 + 24)]) | st.integers(0, 0x3FF)
values = st.integers(0, 2**32 - 1) | st.integers(0, 64) | st.sampled_from([0x1, 0x3, 0x4C, 0x14C, 0x44E])
steps = st.one_of(
    st.tuples(st.just("write"), offsets, values),
    st.tuples(st.just("read"), offsets, st.sampled_from([1, 2, 4])),
    st.tuples(st.just("time"), st.integers(0, 5_000_000) | st.just(50_000_000_000), st.just(0)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, max_size=50))
def test_a_hostile_guest_gets_answers_only(script: list[tuple[str, int, int]]) -> None:
    clock, wires = GuestClock(), (Wire(), Wire(), Wire())
    chip = Hpet(clock, wires[:2], {2: wires[2]}, lambda _on: None)
    for kind, first, second in script:
        if kind == "time":
            if first > 5_000_000:
                chip.write(0x10, 4, 0)  # what runs would fire for a minute
            before = sum(wire.rises for wire in wires)
            clock.advance(first)
            fired = sum(wire.rises for wire in wires) - before
            assert fired <= TIMERS * (first // NS_MIN_PERIOD + 3)
        else:
            with suppress(AccessError):
                if kind == "write":
                    chip.write(first, 4, second)
                else:
                    assert 0 <= chip.read(first, second) < 1 << 8 * second
    assert len(clock.timers._heap) <= 2 * len(script) + TIMERS
