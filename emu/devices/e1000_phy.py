"""The 82540EM's PHY, an M88E1011: registers behind MDIC, auto-negotiation, link.

Sources: SDM 13.4.8 (MDIC), chapter 12 (PHY functionality); IEEE 802.3, clause 22 (registers 0 to 15).
"""

from collections.abc import Callable
from typing import Final

from emu.clock import Clock
from emu.devices.alarm import Alarm
from emu.devices.e1000_spec import (
    MDIC_ERROR,
    MDIC_INTERRUPT,
    MDIC_READ,
    MDIC_READY,
    MDIC_WRITE,
)

ADDRESS: Final = 1
AUTONEG_NS: Final = 10_000_000
"""There is nobody to negotiate with; drivers only need to see that it takes a moment."""

PCTRL, PSTATUS, PHY_ID1, PHY_ID2, ANA, LPA, ANE = range(7)
GCON, GSTATUS, ESTATUS = 9, 10, 15
PSCON, PSSTAT, PIE, PIS, EPSCON, RXERR = 16, 17, 18, 19, 20, 21
PAGE, PAGE_DATA = 29, 30

PCTRL_RESET, PCTRL_LOOPBACK, PCTRL_AN, PCTRL_POWER_DOWN, PCTRL_RESTART = (
    1 << 15,
    1 << 14,
    1 << 12,
    1 << 11,
    1 << 9,
)
PSTATUS_LINK, PSTATUS_AN_DONE = 1 << 2, 1 << 5
PSSTAT_LINK, PSSTAT_RESOLVED = 1 << 10, 1 << 11

RESET: Final = {
    PCTRL: 0x1140,  # auto-negotiation, full duplex, 1000 Mb/s
    PSTATUS: 0x7949,  # 10 and 100 Mb/s, extended status, negotiates
    PHY_ID1: 0x0141,  # Marvell
    PHY_ID2: 0x0C20,  # M88E1011
    ANA: 0x0DE1,
    LPA: 0x01E0,
    ANE: 0x0000,
    GCON: 0x0E00,
    GSTATUS: 0x3C00,
    ESTATUS: 0x3000,
    PSCON: 0x0360,
    PSSTAT: 0xA800,  # 1000 Mb/s, full duplex, resolved
    PIE: 0x0000,
    PIS: 0x0000,
    EPSCON: 0x0D60,
    RXERR: 0x0000,
    PAGE: 0x0000,
    PAGE_DATA: 0x0000,
}
WRITABLE: Final = frozenset({PCTRL, ANA, GCON, PSCON, PIE, EPSCON, PAGE, PAGE_DATA})
PCTRL_KEPT: Final = 0x6DC0
"""RESET and RESTART clear themselves; the low six bits and bit 12 have their own rules, or none."""


class Phy:
    """`on_link()` is called when `link` has changed. `carrier`: somebody is at the other end."""

    def __init__(self, clock: Clock, carrier: bool, on_link: Callable[[], None]) -> None:
        self._clock, self._on_link = clock, on_link
        self._alarm = Alarm(clock, self._negotiated)
        self.carrier = carrier
        self.power_on()

    def power_on(self) -> None:
        """As the hardware's reset leaves it: with a cable the link is up at once, and nobody is told."""
        self._registers = dict(RESET)
        self._mdic = 0
        self._done = self.carrier
        self._was_down = False
        self._alarm.clear()
        self.link = self._link_now()

    def _link_now(self) -> bool:
        control = self._registers[PCTRL]
        if control & PCTRL_POWER_DOWN:
            return False
        if control & PCTRL_LOOPBACK:
            return True
        return self.carrier and (self._done or not control & PCTRL_AN)

    @property
    def loopback(self) -> bool:
        """What is sent comes back."""
        return bool(self._registers[PCTRL] & PCTRL_LOOPBACK)

    def set_carrier(self, up: bool) -> None:
        """The cable was plugged in or pulled."""
        if up != self.carrier:
            self.carrier = up
            self._negotiate()

    def _negotiate(self) -> None:
        """Begin anew; the link is down until it is done."""
        self._done = False
        self._update()
        if self.carrier and self._registers[PCTRL] & PCTRL_AN:
            self._alarm.set(self._clock.now_ns() + AUTONEG_NS)
        else:
            self._alarm.clear()

    def _negotiated(self) -> None:
        self._done = True
        self._update()

    def _update(self) -> None:
        link = self._link_now()
        if link != self.link:
            self.link = link
            self._was_down |= not link
            self._on_link()

    # ---- MDIC --------------------------------------------------------------------------------------

    def read_mdic(self) -> int:
        """The last command with its answer."""
        return self._mdic

    def write_mdic(self, value: int) -> bool:
        """Carry a command out, at once; True where its end is to cause an interrupt (MDAC)."""
        number, opcode = value >> 16 & 0x1F, value >> 26 & 3
        found = value >> 21 & 0x1F == ADDRESS and number in RESET and opcode in (MDIC_READ, MDIC_WRITE)
        value &= ~(MDIC_READY | MDIC_ERROR)
        if not found or (opcode == MDIC_WRITE and number not in WRITABLE):
            value |= MDIC_ERROR
        elif opcode == MDIC_READ:
            value = value & ~0xFFFF | self.read(number)
        else:
            self.write(number, value & 0xFFFF)
        self._mdic = value | MDIC_READY
        return bool(value & MDIC_INTERRUPT)

    def read(self, number: int) -> int:
        """A register's value. Link loss stays visible in PSTATUS for one read."""
        value = self._registers[number]
        if number == PSTATUS:
            up = self.link and not self._was_down
            self._was_down = False
            return value | (PSTATUS_LINK if up else 0) | (PSTATUS_AN_DONE if self._done else 0)
        if number == PSSTAT:
            return value | (PSSTAT_LINK if self.link else 0)
        return value

    def write(self, number: int, value: int) -> None:
        """Store a register; PCTRL may reset, negotiate, loop or switch off."""
        if number != PCTRL:
            self._registers[number] = value
            return
        if value & PCTRL_RESET:
            self.soft_reset()
            return
        self._registers[PCTRL] = value & (PCTRL_KEPT | PCTRL_AN)
        if value & PCTRL_AN and value & PCTRL_RESTART:
            self._negotiate()
        self._update()

    def soft_reset(self) -> None:
        """PCTRL.RESET or CTRL.PHY_RST: registers as after power-on, then negotiation."""
        self._registers = dict(RESET)
        self._negotiate()
