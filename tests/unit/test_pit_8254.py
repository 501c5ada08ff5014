import pytest

from emu.clock import GuestClock
from emu.devices.pit_8254 import FREQUENCY_HZ, MIN_PERIOD_NS, NS, Pit8254
from emu.errors import ConfigError
from emu.testing.lines import RecordingLine

CONTROL = 3


def after(clocks: int) -> int:
    """The first ns at which that many input clocks have passed."""
    return -(-clocks * NS // FREQUENCY_HZ)


class Pit(Pit8254):
    """A PIT with its OUT0 line and a clock moved by hand."""

    def __init__(self) -> None:
        self.time = GuestClock()
        self.line = RecordingLine()
        super().__init__(self.time, self.line)
        self.line.levels.clear()

    def program(self, counter: int, mode: int, count: int, bcd: int = 0) -> None:
        self.write(CONTROL, 1, counter << 6 | 0x30 | mode << 1 | bcd)
        self.write(counter, 1, count & 0xFF)
        self.write(counter, 1, count >> 8)

    def count(self, counter: int) -> int:
        self.write(CONTROL, 1, counter << 6)
        return self.read(counter, 1) | self.read(counter, 1) << 8

    def to(self, clocks: int) -> None:
        self.time.advance(after(clocks) - self.time.now_ns())

    def edges(self) -> int:
        return self.line.levels.count(True)


def test_mode_0_rises_once_at_the_terminal_count() -> None:
    pit = Pit()
    pit.program(0, 0, 1000)
    pit.time.advance(after(1000) - 1)
    assert not pit.line.level
    assert pit.count(0) == 1
    pit.time.advance(1)
    assert pit.line.level
    assert pit.count(0) == 0
    pit.to(1001)
    assert pit.count(0) == 0xFFFF
    pit.time.advance(NS)
    assert pit.edges() == 1
    pit.program(0, 0, 10)
    assert not pit.line.level


def test_mode_2_rises_each_period_without_drift() -> None:
    pit = Pit()
    pit.program(0, 2, 11932)
    for period in range(1, 50):
        pit.time.advance(after(11932 * period) - 1 - pit.time.now_ns())
        assert pit.edges() == period - 1
        assert pit.count(0) == 1
        pit.time.advance(1)
        assert pit.edges() == period
        assert pit.count(0) == 11932


def test_mode_3_counts_down_by_two() -> None:
    pit = Pit()
    pit.program(2, 3, 8)
    pit.set_gate2(True)
    seen = []
    for clock in range(10):
        pit.to(clock)
        seen.append((pit.count(2), pit.out2()))
    high = [(8, True), (6, True), (4, True), (2, True)]
    assert seen == [*high, (8, False), (6, False), (4, False), (2, False), *high[:2]]


def test_mode_3_with_an_odd_count_is_high_one_clock_longer() -> None:
    pit = Pit()
    pit.program(2, 3, 5)
    pit.set_gate2(True)
    seen = []
    for clock in range(6):
        pit.to(clock)
        seen.append((pit.count(2), pit.out2()))
    assert seen == [(4, True), (2, True), (0, True), (4, False), (2, False), (4, True)]


def test_mode_4_strobes_once() -> None:
    pit = Pit()
    pit.program(0, 4, 100)
    pit.time.advance(after(100) - 1)
    assert pit.edges() == 0
    pit.time.advance(1)
    assert pit.line.levels[-2:] == [True, False]
    pit.time.advance(NS)
    assert pit.edges() == 1


@pytest.mark.parametrize("mode", [1, 5])
def test_hardware_triggered_modes_wait_for_the_gate(mode: int) -> None:
    pit = Pit()
    pit.program(2, mode, 50)
    pit.to(100)
    assert pit.out2()
    pit.set_gate2(True)
    assert pit.out2() == (mode == 5)
    pit.to(149)
    pit.set_gate2(False)
    assert pit.out2() == (mode == 5)
    pit.to(150)
    assert pit.out2() == (mode == 1)
    pit.to(152)
    assert pit.out2()
    pit.program(0, mode, 50)
    pit.time.advance(NS)
    assert pit.edges() == 0


def test_the_gate_pauses_mode_0() -> None:
    pit = Pit()
    pit.set_gate2(True)
    pit.program(2, 0, 100)
    pit.to(40)
    pit.set_gate2(False)
    pit.to(1000)
    assert pit.count(2) == 60
    pit.set_gate2(True)
    pit.to(1059)
    assert not pit.out2()
    pit.to(1061)
    assert pit.out2()


def test_the_gate_restarts_mode_2() -> None:
    pit = Pit()
    pit.set_gate2(True)
    pit.program(2, 2, 100)
    pit.to(99)
    assert not pit.out2()
    pit.set_gate2(False)
    assert pit.out2()
    pit.to(500)
    pit.set_gate2(True)
    assert pit.count(2) == 100


def test_a_count_of_zero_is_the_largest() -> None:
    pit = Pit()
    pit.program(0, 2, 0)
    assert pit.count(0) == 0
    pit.to(1)
    assert pit.count(0) == 0xFFFF
    pit.to(0x10000)
    assert pit.edges() == 1


def test_bcd_counts_in_decimal() -> None:
    pit = Pit()
    pit.program(0, 0, 0x1000, bcd=1)
    pit.to(1)
    assert pit.count(0) == 0x0999
    pit.to(1001)
    assert pit.count(0) == 0x9999
    pit.program(0, 2, 0, bcd=1)
    assert pit.counters[0].state.count == 10_000


def test_a_latched_count_waits_and_a_second_latch_is_ignored() -> None:
    pit = Pit()
    pit.program(0, 2, 0x1234)
    pit.write(CONTROL, 1, 0x00)
    pit.to(16)
    pit.write(CONTROL, 1, 0x00)
    assert (pit.read(0, 1), pit.read(0, 1)) == (0x34, 0x12)
    assert (pit.read(0, 1), pit.read(0, 1)) == (0x24, 0x12)


@pytest.mark.parametrize(("access", "count", "byte"), [(1, 0x56, 0x56), (2, 0x5600, 0x56)])
def test_one_byte_access_modes(access: int, count: int, byte: int) -> None:
    pit = Pit()
    pit.write(CONTROL, 1, access << 4 | 4)
    pit.write(0, 1, 0x56)
    assert pit.counters[0].state.count == count
    assert pit.read(0, 1) == byte
    pit.write(CONTROL, 1, 0)
    assert pit.read(0, 1) == byte


def test_read_back_latches_status_then_count_of_several_counters() -> None:
    pit = Pit()
    pit.program(0, 2, 0x1234)
    pit.program(2, 0, 0x0102)
    pit.write(CONTROL, 1, 0xC0 | 0x0A)
    assert [pit.read(0, 1) for _ in range(3)] == [0xB4, 0x34, 0x12]
    assert [pit.read(2, 1) for _ in range(3)] == [0x30, 0x02, 0x01]
    pit.write(CONTROL, 1, 0x36)
    pit.write(CONTROL, 1, 0xE2)
    assert pit.read(0, 1) == 0xF6
    pit.write(CONTROL, 1, 0xD2)
    pit.write(0, 1, 0x10)
    pit.write(0, 1, 0x20)
    assert not pit.counters[0].state.status_latched


def test_a_half_written_count_stops_mode_0() -> None:
    pit = Pit()
    pit.program(0, 0, 100)
    pit.write(0, 1, 50)
    pit.to(200)
    assert not pit.line.level
    pit.write(0, 1, 0)
    pit.to(249)
    assert not pit.line.level
    pit.to(251)
    assert pit.line.level


def test_a_tiny_period_interrupts_no_faster_than_the_limit() -> None:
    pit = Pit()
    pit.program(0, 2, 2)
    pit.time.advance(NS // 100)
    assert 450 <= pit.edges() <= NS // 100 // MIN_PERIOD_NS


def test_edges_missed_while_the_machine_stood_still_are_skipped() -> None:
    class Late(GuestClock):
        """Reaches its timers only after the whole time has passed, as a busy host does."""

        def jump(self, ns: int) -> None:
            self._now_ns += ns
            self.timers.run_due(self._now_ns)

    time, line = Late(), RecordingLine()
    pit = Pit8254(time, line)
    pit.write(CONTROL, 1, 0x34)
    pit.write(0, 1, 0xE8)
    pit.write(0, 1, 0x03)
    line.levels.clear()
    time.jump(after(10_500))
    assert line.levels.count(True) == 1
    time.jump(after(11_000) - 1 - time.now_ns())
    assert line.levels.count(True) == 1
    time.jump(1)
    assert line.levels.count(True) == 2


def test_reprogramming_in_a_loop_leaves_few_timers() -> None:
    pit = Pit()
    for count in range(2000):
        pit.program(0, 2, 5000 + count)
    assert len(pit.time.timers._heap) < 10


def test_a_saved_pit_goes_on_at_the_same_edge() -> None:
    pit, other = Pit(), Pit()
    pit.program(0, 2, 1000)
    pit.program(2, 0, 77)
    other.load(pit.save())
    assert other.line.levels == []
    other.time.advance(after(1000) - 1)
    assert other.edges() == 0
    other.time.advance(1)
    assert other.edges() == 1
    assert other.save() == pit.save()
    pit.reset()
    assert pit.counters[0].state.mode == 3


@pytest.mark.parametrize("change", [{"count": 0x10001}, {"mode": 6}, {"access": 4}, {"gate": 1}])
def test_a_wrong_saved_state_is_refused(change: dict[str, object]) -> None:
    saved = Pit().save()
    inner = saved["counter1"]
    assert isinstance(inner, dict)
    with pytest.raises(ConfigError, match=next(iter(change))):
        Pit().load(saved | {"counter1": inner | change})


def test_the_control_word_cannot_be_read_and_registers_have_names() -> None:
    pit = Pit()
    assert pit.read(CONTROL, 1) == 0
    assert [pit.register_name(at, True) for at in range(4)] == [
        "Counter 0",
        "Counter 1",
        "Counter 2",
        "Control",
    ]
