from datetime import UTC, date, datetime, timedelta

import pytest

from emu.clock import GuestClock
from emu.devices.rtc_calendar import civil_from_days, days_from_civil
from emu.devices.rtc_mc146818 import NS, UIP_NS, RtcMc146818
from emu.errors import ConfigError
from emu.testing.lines import RecordingLine

A, B, C, D = 0x0A, 0x0B, 0x0C, 0x0D
START = datetime(2023, 12, 31, 23, 59, 58, tzinfo=UTC)
PERIODIC_1024_NS = -(-NS // 1024)


class Rtc(RtcMc146818):
    """A clock two seconds before 2024, with its line and time moved by hand."""

    def __init__(self, start: datetime = START, below: int = 256 << 20, above: int = 0) -> None:
        self.time = GuestClock()
        self.line = RecordingLine()
        super().__init__(self.time, self.line, int(start.timestamp()), ram_below_4g=below, ram_above_4g=above)

    def get(self, index: int) -> int:
        self.write(0, 1, index)
        return self.read(1, 1)

    def put(self, index: int, value: int) -> None:
        self.write(0, 1, index)
        self.write(1, 1, value)

    def shown(self) -> list[int]:
        """Century, year, month, day, weekday, hour, minute, second as the guest reads them."""
        return [self.get(index) for index in (0x32, 9, 8, 7, 6, 4, 2, 0)]


def test_time_is_bcd_and_rolls_over() -> None:
    rtc = Rtc()
    assert rtc.shown() == [0x20, 0x23, 0x12, 0x31, 1, 0x23, 0x59, 0x58]
    rtc.time.advance(2 * NS - 1)
    assert rtc.get(0) == 0x59
    rtc.time.advance(1)
    assert rtc.shown() == [0x20, 0x24, 0x01, 0x01, 2, 0x00, 0x00, 0x00]


def test_binary_and_twelve_hours() -> None:
    rtc = Rtc()
    rtc.put(B, 0x04)
    assert rtc.shown() == [20, 23, 12, 31, 1, 0x80 | 11, 59, 58]
    rtc.time.advance(2 * NS)
    assert rtc.get(4) == 12
    rtc.put(B, 0x00)
    assert rtc.get(4) == 0x12
    rtc.put(4, 0x92)
    rtc.put(B, 0x02)
    assert rtc.get(4) == 0x12


def test_update_in_progress_comes_before_each_second() -> None:
    rtc = Rtc()
    rtc.time.advance(NS - UIP_NS - 1)
    assert rtc.get(A) == 0x26
    rtc.time.advance(1)
    assert rtc.get(A) == 0xA6
    rtc.time.advance(UIP_NS - 1)
    assert rtc.get(A) == 0xA6
    rtc.time.advance(1)
    assert rtc.get(A) == 0x26


def test_set_holds_the_time_until_it_ends() -> None:
    rtc = Rtc()
    rtc.put(B, 0x82)
    rtc.time.advance(10 * NS + NS // 4)
    assert rtc.get(0) == 0x58
    for index, value in ((0, 0x10), (2, 0x20), (4, 0x08), (7, 0x29), (8, 0x02), (9, 0x00), (0x32, 0x20)):
        rtc.put(index, value)
    assert rtc.get(A) == 0x26
    rtc.put(B, 0x02)
    assert rtc.shown() == [0x20, 0x00, 0x02, 0x29, 3, 0x08, 0x20, 0x10]
    rtc.time.advance(NS * 3 // 4)
    assert rtc.get(0) == 0x11


def test_a_divider_reset_starts_half_a_second_before_an_update() -> None:
    rtc = Rtc()
    rtc.time.advance(NS // 10)
    rtc.put(A, 0x66)
    rtc.time.advance(5 * NS)
    assert rtc.get(0) == 0x58
    rtc.put(A, 0x26)
    rtc.time.advance(NS // 2 - 1)
    assert rtc.get(0) == 0x58
    rtc.time.advance(1)
    assert rtc.get(0) == 0x59


def test_a_register_written_while_running_takes_effect() -> None:
    rtc = Rtc()
    rtc.put(4, 0x05)
    assert rtc.shown() == [0x20, 0x23, 0x12, 0x31, 1, 0x05, 0x59, 0x58]
    rtc.put(0x37, 0x19)
    assert rtc.get(0x32) == 0x19


def test_nonsense_dates_carry_over() -> None:
    rtc = Rtc()
    rtc.put(B, 0x86)
    for index, value in ((0, 255), (2, 255), (4, 127), (7, 0), (8, 0), (9, 0), (0x32, 0)):
        rtc.put(index, value)
    rtc.put(B, 0x06)
    rtc.time.advance(NS)
    assert all(0 <= value <= 255 for value in rtc.shown())
    Rtc().load(rtc.save())


def test_the_periodic_interrupt_waits_for_register_c() -> None:
    rtc = Rtc()
    rtc.put(B, 0x42)
    rtc.time.advance(PERIODIC_1024_NS - 1)
    assert not rtc.line.level
    rtc.time.advance(1)
    assert rtc.line.level
    rtc.time.advance(NS // 2)
    assert rtc.line.levels.count(True) == 1
    assert rtc.get(C) == 0xC0
    assert not rtc.line.level
    assert rtc.get(C) == 0x00
    rtc.time.advance(PERIODIC_1024_NS)
    assert rtc.line.level


@pytest.mark.parametrize(("rate", "hertz"), [(1, 256), (2, 128), (3, 8192), (6, 1024), (15, 2)])
def test_periodic_rates(rate: int, hertz: int) -> None:
    rtc = Rtc()
    rtc.put(A, 0x20 | rate)
    rtc.put(B, 0x42)
    rtc.time.advance(-(-NS // hertz) - 1)
    assert not rtc.line.level
    rtc.time.advance(1)
    assert rtc.line.level


def test_the_update_interrupt_comes_each_second() -> None:
    rtc = Rtc()
    rtc.put(B, 0x12)
    for _ in range(3):
        rtc.time.advance(NS - 1)
        assert not rtc.line.level
        rtc.time.advance(1)
        assert rtc.line.level
        assert rtc.get(C) & 0x90 == 0x90


def test_flags_come_without_interrupts_too() -> None:
    rtc = Rtc()
    rtc.time.advance(NS)
    assert rtc.get(C) == 0x50
    assert rtc.get(C) == 0
    rtc.time.advance(NS)
    rtc.put(B, 0x12)
    assert rtc.line.level


def test_the_alarm_matches_its_time() -> None:
    rtc = Rtc()
    for index, value in ((5, 0x00), (3, 0x10), (1, 0x30)):
        rtc.put(index, value)
    rtc.put(B, 0x22)
    wait = (2 + 10 * 60 + 30) * NS
    rtc.time.advance(wait - 1)
    assert not rtc.line.level
    rtc.time.advance(1)
    assert rtc.line.level
    assert rtc.get(C) & 0xA0 == 0xA0
    rtc.time.advance(86_400 * NS - 1)
    assert not rtc.line.level
    rtc.time.advance(1)
    assert rtc.line.level


def test_alarm_bytes_may_match_anything() -> None:
    rtc = Rtc()
    for index in (5, 3, 1):
        rtc.put(index, 0xC0)
    rtc.put(B, 0x22)
    for _ in range(3):
        rtc.time.advance(NS)
        assert rtc.get(C) & 0x20
    rtc.put(1, 0x15)
    rtc.get(C)
    rtc.time.advance(14 * NS - 1)
    assert not rtc.line.level
    rtc.time.advance(1)
    assert rtc.line.level


def test_an_impossible_alarm_never_comes() -> None:
    rtc = Rtc()
    rtc.put(1, 0x99)
    rtc.put(B, 0x22)
    rtc.time.advance(200_000 * NS)
    assert not rtc.line.level


def test_set_takes_the_update_interrupt_away() -> None:
    rtc = Rtc()
    rtc.put(B, 0x92)
    assert rtc.get(B) == 0x82
    rtc.time.advance(5 * NS)
    assert rtc.get(C) & 0x30 == 0


@pytest.mark.parametrize(
    ("below", "above", "values"),
    [
        (32 << 20, 0, {0x15: 0x80, 0x16: 2, 0x17: 0, 0x18: 0x7C, 0x30: 0, 0x31: 0x7C, 0x34: 0, 0x35: 1}),
        (3 << 30, 5 << 30, {0x17: 0xFF, 0x18: 0xFF, 0x34: 0, 0x35: 0xBF, 0x5B: 0, 0x5C: 0x40, 0x5D: 1}),
        (1 << 20, 0, {0x17: 0, 0x18: 0, 0x34: 0, 0x35: 0, 0x5B: 0}),
    ],
)
def test_firmware_finds_the_memory_sizes(below: int, above: int, values: dict[int, int]) -> None:
    rtc = Rtc(START, below, above)
    assert {index: rtc.get(index) for index in values} == values


def test_ram_bytes_keep_what_is_written_and_status_bytes_do_not() -> None:
    rtc = Rtc()
    rtc.put(0x0F, 0x0A)
    rtc.put(C, 0xFF)
    rtc.put(D, 0x00)
    rtc.cmos_write(0x14, 0x06)
    assert [rtc.get(index) for index in (0x0F, C, D, 0x14)] == [0x0A, 0, 0x80, 0x06]
    assert rtc.read(0, 1) == 0xFF
    rtc.write(0, 1, 0x80 | 0x0F)
    assert rtc.read(1, 1) == 0x0A


def test_reset_keeps_time_and_ram_and_drops_interrupts() -> None:
    rtc = Rtc()
    rtc.put(0x40, 0x55)
    rtc.put(B, 0x12)
    rtc.time.advance(NS)
    rtc.reset()
    assert not rtc.line.level
    assert rtc.get(B) == 0x02
    assert rtc.get(C) == 0
    assert (rtc.get(0x40), rtc.get(0)) == (0x55, 0x59)


def test_a_saved_clock_goes_on() -> None:
    rtc, other = Rtc(), Rtc(datetime(1999, 1, 1, tzinfo=UTC))
    rtc.put(B, 0x12)
    rtc.time.advance(NS)
    other.time.advance(NS)
    other.load(rtc.save())
    assert other.line.levels == []
    assert other.line.level
    assert other.shown() == rtc.shown()
    assert other.get(C) & 0x90 == 0x90
    other.time.advance(NS)
    assert other.line.level


@pytest.mark.parametrize("change", [{"cmos": bytes(127)}, {"index": 128}, {"base_ns": 1 << 80}])
def test_a_wrong_saved_state_is_refused(change: dict[str, object]) -> None:
    rtc = Rtc()
    with pytest.raises(ConfigError, match=next(iter(change))):
        rtc.load(rtc.save() | change)


def test_registers_have_names() -> None:
    rtc = Rtc()
    rtc.get(C)
    assert (rtc.register_name(0, True), rtc.register_name(1, False)) == ("Index", "Register C")
    rtc.get(0x40)
    assert rtc.register_name(1, False) == "CMOS 0x40"


def test_the_calendar_agrees_with_the_library_and_goes_further() -> None:
    epoch = date(1970, 1, 1)
    for days in range(-250_000, 250_000, 97):
        there = epoch + timedelta(days)
        assert civil_from_days(days) == (there.year, there.month, there.day)
        assert days_from_civil(there.year, there.month, there.day) == days
    assert civil_from_days(days_from_civil(20_000, 2, 29)) == (20_000, 2, 29)
    assert days_from_civil(2023, 14, 1) == days_from_civil(2024, 2, 1)
