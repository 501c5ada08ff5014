"""The PC's odd control ports: 0x61 (system control B), 0x92 (system control A), 0xCF9 (reset control).

Sources: Intel 82371SB (PIIX3) datasheet, section 2.5.3 (NMISC, 0x61) and 2.5.6 (RC, 0xCF9);
IBM PS/2 hardware interface technical reference, system control port A (0x92).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from emu.bus.saved_state import pack, unpack
from emu.clock import Clock

B_GATE2, B_SPEAKER, B_NMI_MASKS, B_REFRESH, B_OUT2 = 0x01, 0x02, 0x0C, 0x10, 0x20
REFRESH_NS = 15_085  # the refresh request toggles the bit at this rate (18 clocks of 1.193182 MHz)

A_RESET, A_A20 = 0x01, 0x02

RC_HARD, RC_RESET = 0x02, 0x04


class SpeakerTimer(Protocol):
    """Counter 2 of the PIT, as port 0x61 sees it."""

    def set_gate2(self, level: bool, /) -> None:
        """Drive its gate."""

    def gate2(self) -> bool:
        """The gate's level."""

    def out2(self) -> bool:
        """Its output."""


@dataclass(slots=True)
class ControlBState:
    """The bits that only the port keeps; the gate is the timer's."""

    kept: int = 0  # speaker data and the two NMI masks


class SystemControlB:
    """Port 0x61; a Region of one port."""

    size = 1
    KIND, VERSION = "system-control-b", 1

    def __init__(self, clock: Clock, timer: SpeakerTimer) -> None:
        self._clock, self._timer = clock, timer
        self.state = ControlBState()

    def read(self, _offset: int, _width: int) -> int:
        """Gate, speaker and masks as written; refresh toggle; OUT2. Bits 6 and 7, the NMI causes, are 0."""
        value = self.state.kept | (B_GATE2 if self._timer.gate2() else 0)
        if self._clock.now_ns() // REFRESH_NS & 1:
            value |= B_REFRESH
        return value | B_OUT2 if self._timer.out2() else value

    def write(self, _offset: int, _width: int, value: int) -> None:
        """Bits 0 to 3."""
        self.state.kept = value & (B_SPEAKER | B_NMI_MASKS)
        self._timer.set_gate2(bool(value & B_GATE2))

    def register_name(self, _offset: int, _is_write: bool) -> str:
        """NMISC, as the chipset's datasheet calls it."""
        return "NMISC"

    def reset(self) -> None:
        """Gate low, speaker off."""
        self.state = ControlBState()
        self._timer.set_gate2(False)

    def save(self) -> dict[str, object]:
        """The state as plain values."""
        return pack(self.KIND, self.VERSION, self.state)

    def load(self, saved: Mapping[str, object]) -> None:
        """Take a saved state. Raises ConfigError."""
        limits = {"kept": B_SPEAKER | B_NMI_MASKS}
        self.state = unpack(self.KIND, self.VERSION, saved, ControlBState(), limits)


@dataclass(slots=True)
class PortState:
    """What was written last."""

    value: int = 0


class SystemControlA:
    """Port 0x92: address line 20 and a fast CPU reset; a Region of one port."""

    size = 1
    KIND, VERSION = "system-control-a", 1

    def __init__(self, set_a20: Callable[[bool], None], reset: Callable[[], None]) -> None:
        self._set_a20, self._reset = set_a20, reset
        self.state = PortState()

    def read(self, _offset: int, _width: int) -> int:
        """The last value written."""
        return self.state.value

    def write(self, _offset: int, _width: int, value: int) -> None:
        """Bit 1 is A20; bit 0 resets when it rises."""
        old, self.state.value = self.state.value, value
        self._set_a20(bool(value & A_A20))
        if value & ~old & A_RESET:
            self._reset()

    def register_name(self, _offset: int, _is_write: bool) -> str:
        """PORT92."""
        return "PORT92"

    def reset(self) -> None:
        """The reset bit falls; the rest is kept, since A20 is the CPU's to reset."""
        self.state.value &= ~A_RESET

    def save(self) -> dict[str, object]:
        """The state as plain values."""
        return pack(self.KIND, self.VERSION, self.state)

    def load(self, saved: Mapping[str, object]) -> None:
        """Take a saved state; drives nothing. Raises ConfigError."""
        self.state = unpack(self.KIND, self.VERSION, saved, PortState(), {})


class ResetControl:
    """Port 0xCF9; a Region of one port, inside PCI's 0xCF8 for byte accesses only."""

    size = 1
    KIND, VERSION = "reset-control", 1

    def __init__(self, reset: Callable[[], None]) -> None:
        self._reset = reset
        self.state = PortState()

    def read(self, _offset: int, _width: int) -> int:
        """The kind of reset chosen."""
        return self.state.value

    def write(self, _offset: int, _width: int, value: int) -> None:
        """Bit 2 resets; bit 1 chooses hard, which is the only kind here, and is kept."""
        if value & RC_RESET:
            self._reset()
        else:
            self.state.value = value & RC_HARD

    def register_name(self, _offset: int, _is_write: bool) -> str:
        """RC, as the chipset's datasheet calls it."""
        return "RC"

    def reset(self) -> None:
        """Power-on state."""
        self.state = PortState()

    def save(self) -> dict[str, object]:
        """The state as plain values."""
        return pack(self.KIND, self.VERSION, self.state)

    def load(self, saved: Mapping[str, object]) -> None:
        """Take a saved state. Raises ConfigError."""
        self.state = unpack(self.KIND, self.VERSION, saved, PortState(), {"value": RC_HARD})
