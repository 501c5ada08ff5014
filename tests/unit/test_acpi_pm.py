import pytest

from emu.bus.types import AccessError
from emu.clock import GuestClock
from emu.devices.acpi_pm import FREQUENCY_HZ, NS, AcpiPm, ApmPorts, switch_acpi
from emu.errors import ConfigError
from emu.testing.lines import RecordingLine

STS, EN, CNT, TIMER = 0, 2, 4, 8
HALF_NS = -(-(1 << 23) * NS // FREQUENCY_HZ)


class Pm(AcpiPm):
    """The PM space with its SCI line, power switch and a clock moved by hand."""

    def __init__(self, *, timer_bits: int = 24, always_acpi: bool = False) -> None:
        self.time, self.sci = GuestClock(), RecordingLine()
        self.offs = 0
        super().__init__(self.time, self.sci, self._off, timer_bits=timer_bits, always_acpi=always_acpi)

    def _off(self) -> None:
        self.offs += 1


def test_the_timer_counts_at_its_frequency_and_wraps() -> None:
    pm = Pm()
    assert pm.read(TIMER, 4) == 0
    pm.time.advance(NS)
    assert pm.read(TIMER, 4) == FREQUENCY_HZ
    assert pm.read(TIMER + 1, 1) == FREQUENCY_HZ >> 8 & 0xFF
    pm.time.advance(4 * NS)
    assert pm.read(TIMER, 4) == 5 * FREQUENCY_HZ & 0xFFFFFF
    wide = Pm(timer_bits=32)
    wide.time.advance(5 * NS)
    assert wide.read(TIMER, 4) == 5 * FREQUENCY_HZ
    with pytest.raises(ConfigError, match="16 bits"):
        Pm(timer_bits=16)


def test_the_timer_cannot_be_written() -> None:
    with pytest.raises(AccessError, match="read-only"):
        Pm().write(TIMER, 4, 0)


def test_sleep_enable_with_the_s5_type_switches_off() -> None:
    pm = Pm()
    pm.write(CNT, 2, 5 << 10 | 1 << 13)
    assert pm.offs == 0
    assert pm.read(CNT, 2) == 5 << 10
    pm.write(CNT, 2, 0 << 10)
    assert pm.offs == 0
    pm.write(CNT, 2, 1 << 13)
    assert pm.offs == 1


def test_the_power_button_raises_sci_until_its_status_is_cleared() -> None:
    pm = Pm()
    pm.press_power_button()
    assert not pm.sci.level
    pm.write(EN, 2, 0x0100)
    assert pm.sci.level
    pm.write(STS, 2, 0x0001)
    assert pm.sci.level
    assert pm.read(STS, 2) == 0x0100
    pm.write(STS, 2, 0x0100)
    assert not pm.sci.level


def test_the_timer_carry_interrupts_when_its_top_bit_changes() -> None:
    pm = Pm()
    pm.write(EN, 2, 1)
    pm.time.advance(HALF_NS - 1)
    assert not pm.sci.level
    pm.time.advance(1)
    assert pm.sci.level
    assert pm.read(STS, 2) == 1
    pm.write(STS, 2, 1)
    assert not pm.sci.level
    pm.time.advance(HALF_NS + 1)
    assert pm.sci.level


def test_the_timer_carry_is_seen_without_its_interrupt() -> None:
    pm = Pm()
    pm.time.advance(HALF_NS - 1)
    assert pm.read(STS, 2) == 0
    pm.time.advance(1)
    assert pm.read(STS, 2) == 1
    pm.write(STS, 2, 1)
    assert pm.read(STS, 2) == 0


def test_acpi_mode_is_switched_through_the_apm_port() -> None:
    pm = Pm()
    apm = ApmPorts(switch_acpi(pm))
    assert pm.read(CNT, 2) == 0
    apm.write(0, 1, 0xF1)
    assert pm.read(CNT, 2) == 1
    apm.write(0, 1, 0x55)
    assert pm.read(CNT, 2) == 1
    apm.write(0, 1, 0xF0)
    assert pm.read(CNT, 2) == 0
    apm.write(1, 1, 0x12)
    assert (apm.read(0, 1), apm.read(1, 1)) == (0xF0, 0x12)
    other = ApmPorts(switch_acpi(pm))
    other.load(apm.save())
    assert other.read(1, 1) == 0x12
    apm.reset()
    assert apm.read(1, 1) == 0
    assert (apm.register_name(0, True), apm.register_name(1, True)) == ("APMC", "APMS")


def test_a_board_without_smi_is_always_in_acpi_mode() -> None:
    pm = Pm(always_acpi=True)
    pm.write(CNT, 2, 0)
    assert pm.read(CNT, 2) == 1
    pm.reset()
    assert pm.read(CNT, 2) == 1


def test_the_rest_of_the_window_is_empty_and_registers_have_names() -> None:
    pm = Pm()
    assert pm.size == 64
    with pytest.raises(AccessError, match="no register"):
        pm.read(0x30, 4)
    assert [pm.register_name(at, False) for at in (0, 2, 4, 8)] == ["PM1_STS", "PM1_EN", "PM1_CNT", "PM_TMR"]


def test_a_saved_chip_goes_on_without_an_edge() -> None:
    pm, other = Pm(), Pm()
    pm.write(EN, 2, 0x0101)
    pm.press_power_button()
    other.load(pm.save())
    assert other.sci.levels == [False]
    assert other.sci.level
    other.write(STS, 2, 0x0100)
    other.time.advance(HALF_NS)
    assert other.sci.level
    other.reset()
    assert not other.sci.level
    with pytest.raises(ConfigError, match="sts"):
        other.load(pm.save() | {"sts": 1 << 16})
