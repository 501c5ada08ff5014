"""Any sequence of register accesses and messages: only AccessError, no storm, sound priorities."""

from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from emu.bus.types import AccessError
from emu.clock import GuestClock
from emu.devices.lapic import Lapic
from emu.devices.x2apic import x2apic_registers


class Pins:
    def poke(self) -> None: ...

    def poke_from_outside(self) -> None: ...

    def nmi(self) -> None: ...

    def set_a20(self, enabled: bool) -> None: ...

    def reset(self) -> None: ...


class Counter:
    """A time stamp counter of 3 GHz."""

    def __init__(self, clock: GuestClock) -> None:
        self._clock = clock

    def read(self) -> int:
        return 3 * self._clock.now_ns()

    def hz(self) -> int:
        return 3_000_000_000


class NoPic:
    def pending(self) -> bool:
        return False

    def acknowledge(self) -> int:
        return -1


words = st.integers(0, 2**32 - 1)
registers = st.integers(0, 0x3F).map(lambda n: n * 16)
steps = st.one_of(
    st.tuples(st.just("write"), registers, words),
    st.tuples(st.just("write"), st.sampled_from([0xF0]), st.just(0x1FF)),
    st.tuples(st.just("any"), st.integers(0, 4092), st.sampled_from([1, 2, 4])),
    st.tuples(st.just("send"), st.just(0xFEE00000) | st.integers(0, 2**64 - 1), st.integers(0, 255) | words),
    st.tuples(
        st.just("base"),
        st.sampled_from([0xFEE00900, 0xFEE00100, 0xFEE00D00, 0xFEC80900]) | st.integers(0, 2**64 - 1),
        st.just(0),
    ),
    st.tuples(st.just("msr"), st.integers(0x800, 0x840), words | st.integers(0, 2**64 - 1)),
    st.tuples(st.just("deadline"), st.integers(0, 20_000_000) | st.integers(0, 2**64 - 1), st.just(0)),
    st.tuples(st.just("write"), st.just(0x320), st.sampled_from([0x40040, 0x20040, 0x60040])),
    st.tuples(st.just("ack"), st.just(0), st.just(0)),
    st.tuples(st.just("time"), st.integers(0, 10_000_000), st.just(0)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(steps, max_size=60))
def test_a_hostile_kernel_gets_answers_only(script: list[tuple[str, int, int]]) -> None:
    clock = GuestClock()
    lapic = Lapic(clock, Pins(), NoPic())
    lapic.connect_tsc(Counter(clock))
    msrs = x2apic_registers(lapic)
    lapic.virtual_wire()
    for kind, first, second in script:
        if kind == "write":
            lapic.write(first, 4, second)
        elif kind == "any":
            with suppress(AccessError):
                assert 0 <= lapic.read(first, second) < 1 << 8 * second
                lapic.write(first, second, 0xA5)
        elif kind == "send":
            lapic.send(first, second)
        elif kind == "base":
            lapic.write_apic_base(first)
        elif kind == "msr" and first in msrs:
            read, write = msrs[first]
            write(second)
            value = read()
            assert value is None or 0 <= value < 1 << 64
        elif kind == "deadline":
            lapic.write_tsc_deadline(first)
        elif kind == "time":
            clock.advance(first)
        elif kind == "ack":
            ready, ppr = lapic.pending(), lapic.read(0xA0, 4)
            vector = lapic.acknowledge()
            assert (vector >= 0) == ready
            assert vector < 0 or vector >> 4 > ppr >> 4
