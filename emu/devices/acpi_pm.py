"""ACPI power management registers as the PIIX4 lays them out, and the APM port next to them.

Sources: ACPI 6.5, sections 4.8.3.1 (PM1 event), 4.8.3.2 (PM1 control) and 4.8.3.3 (PM timer); Intel 82371AB
(PIIX4) datasheet, sections 7.2 (power management I/O space, 64 ports) and 7.1.12 (APMC, 0xB2).
"""

from collections.abc import Callable
from dataclasses import dataclass

from emu.bus.registers import Reg, RegisterBlock
from emu.bus.saved_state import Saved, pack, unpack
from emu.bus.types import IrqLine
from emu.clock import Clock
from emu.devices.alarm import Alarm
from emu.errors import ConfigError

FREQUENCY_HZ = 3_579_545
NS = 1_000_000_000

TMR, BM, GBL, PWRBTN, SLPBTN, RTC, WAK = 1 << 0, 1 << 4, 1 << 5, 1 << 8, 1 << 9, 1 << 10, 1 << 15
SCI_CAUSES = TMR | GBL | PWRBTN | RTC
SCI_EN, SLP_TYP_SHIFT, SLP_TYP_MASK, SLP_EN = 1 << 0, 10, 7, 1 << 13
SLP_TYP_S5 = 0  # of this chip; the DSDT's \_S5 says so to the guest

ACPI_ENABLE, ACPI_DISABLE = 0xF1, 0xF0  # written to APMC; the FADT says so to the guest


@dataclass(slots=True)
class PmState:
    """What a reset forgets."""

    sts: int = 0
    en: int = 0
    cnt: int = 0
    tmr_half: int = 0  # half periods of the timer whose carry TMR_STS has seen


class AcpiPm(RegisterBlock):
    """The PM I/O space; a Region of 64 ports. Owned by the vCPU thread.

    `on_power_off()` is called when the guest enters S5. `timer_bits` is 24 or 32 (FADT: TMR_VAL_EXT).
    On a board without firmware that switches to ACPI mode, `always_acpi` holds SCI_EN at 1.
    Only S5 is modelled: other sleep types do nothing.
    """

    KIND, VERSION = "acpi-pm", 1
    size = 64

    def _read_sts(self) -> int:
        self._collect()
        return self[self.PM1_STS]

    def _before_update(self) -> None:
        self._collect()
        self._update()

    def _wrote_control(self) -> None:
        value = self[self.PM1_CNT]
        self[self.PM1_CNT] = value & ~SLP_EN | self._sci_en
        if value & SLP_EN and value >> SLP_TYP_SHIFT & SLP_TYP_MASK == SLP_TYP_S5:
            self._on_power_off()

    def _read_timer(self) -> int:
        return self._clock.now_ns() * FREQUENCY_HZ // NS & self._timer_mask

    PM1_STS = Reg(0, bits=16, w1c=0xFFFF, on_read=_read_sts, on_write=_before_update)
    PM1_EN = Reg(2, bits=16, rw=0xFFFF, on_write=_before_update)
    PM1_CNT = Reg(4, bits=16, rw=0xFFFF, on_write=_wrote_control)
    PM_TMR = Reg(8, bits=32, on_read=_read_timer)

    def __init__(
        self,
        clock: Clock,
        sci: IrqLine,
        on_power_off: Callable[[], None],
        *,
        timer_bits: int = 24,
        always_acpi: bool = False,
    ) -> None:
        if timer_bits not in (24, 32):
            raise ConfigError(f"ACPI PM timer: {timer_bits} bits, wanted 24 or 32")
        super().__init__()
        self._clock, self._sci, self._on_power_off = clock, sci, on_power_off
        self._timer_mask = (1 << timer_bits) - 1
        self._half_clocks = 1 << timer_bits - 1
        self._sci_en = SCI_EN if always_acpi else 0
        self._alarm = Alarm(clock, self._before_update)
        self._tmr_half = 0
        self.reset()

    def press_power_button(self) -> None:
        """The user asks the guest to shut down."""
        self[self.PM1_STS] |= PWRBTN
        self._update()

    def enable_acpi(self, on: bool) -> None:
        """What the firmware's SMI handler does for ACPI_ENABLE and ACPI_DISABLE."""
        control = self[self.PM1_CNT] & ~SCI_EN
        self[self.PM1_CNT] = control | (SCI_EN if on else self._sci_en)

    def reset(self) -> None:
        """Nothing enabled, nothing pending. The timer runs on."""
        self.reset_registers()
        self[self.PM1_CNT] = self._sci_en
        self._tmr_half = self._halves()
        self._update()

    def save(self) -> dict[str, object]:
        """The state as plain values."""
        self._collect()
        state = PmState(self[self.PM1_STS], self[self.PM1_EN], self[self.PM1_CNT], self._tmr_half)
        return pack(self.KIND, self.VERSION, state)

    def load(self, saved: Saved) -> None:
        """Take a saved state; SCI takes its level without an edge. Raises ConfigError."""
        limits = {"sts": 0xFFFF, "en": 0xFFFF, "cnt": 0xFFFF, "tmr_half": 1 << 63}
        state = unpack(self.KIND, self.VERSION, saved, PmState(), limits)
        self[self.PM1_STS], self[self.PM1_EN] = state.sts, state.en
        self[self.PM1_CNT] = state.cnt & ~SLP_EN | self._sci_en
        self._tmr_half = state.tmr_half
        self._sci.restore(self._level())
        self._arm()

    def _halves(self) -> int:
        """How often the timer's highest bit has changed."""
        return self._clock.now_ns() * FREQUENCY_HZ // NS // self._half_clocks

    def _collect(self) -> None:
        """TMR_STS is set at each change of the timer's highest bit."""
        halves = self._halves()
        if halves != self._tmr_half:
            self._tmr_half = halves
            self[self.PM1_STS] |= TMR

    def _level(self) -> bool:
        return bool(self[self.PM1_STS] & self[self.PM1_EN] & SCI_CAUSES)

    def _update(self) -> None:
        """The only place that moves SCI."""
        self._sci.set(self._level())
        self._arm()

    def _arm(self) -> None:
        """One timer for the carry, while it is enabled and not pending."""
        if self[self.PM1_EN] & ~self[self.PM1_STS] & TMR:
            clocks = (self._tmr_half + 1) * self._half_clocks
            self._alarm.set(-(-clocks * NS // FREQUENCY_HZ))
        else:
            self._alarm.clear()


@dataclass(slots=True)
class ApmState:
    """The two bytes, as written."""

    control: int = 0
    status: int = 0


class ApmPorts:
    """APMC and APMS (0xB2, 0xB3); a Region of 2 ports. `on_command(value)` is what an SMI would have done."""

    KIND, VERSION = "apm", 1
    size = 2

    def __init__(self, on_command: Callable[[int], None]) -> None:
        self._on_command = on_command
        self.state = ApmState()

    def read(self, offset: int, _width: int) -> int:
        """The last value written."""
        return self.state.status if offset else self.state.control

    def write(self, offset: int, _width: int, value: int) -> None:
        """APMC runs a command, APMS passes a byte to its handler."""
        if offset:
            self.state.status = value
        else:
            self.state.control = value
            self._on_command(value)

    def register_name(self, offset: int, _is_write: bool) -> str:
        """APMC or APMS."""
        return "APMS" if offset else "APMC"

    def reset(self) -> None:
        """Power-on state."""
        self.state = ApmState()

    def save(self) -> dict[str, object]:
        """The state as plain values."""
        return pack(self.KIND, self.VERSION, self.state)

    def load(self, saved: Saved) -> None:
        """Take a saved state; runs no command. Raises ConfigError."""
        self.state = unpack(self.KIND, self.VERSION, saved, ApmState(), {})


def switch_acpi(chip: AcpiPm) -> Callable[[int], None]:
    """An `ApmPorts` handler that knows the two commands a guest needs: ACPI mode on and off."""

    def command(value: int) -> None:
        if value in (ACPI_ENABLE, ACPI_DISABLE):
            chip.enable_acpi(value == ACPI_ENABLE)

    return command
