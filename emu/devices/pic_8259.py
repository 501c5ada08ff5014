"""Two cascaded 8259A interrupt controllers, as in every PC since the AT.

Source: Intel 8259A datasheet (order number 231468); the edge/level registers (ELCR, ports 0x4D0/0x4D1) are
from the Intel 82371SB (PIIX3) datasheet, section 2.5.4.

One choice where machines differ: an edge, once seen, stays in IRR until it is acknowledged, also when its
input falls first. (The original part would then deliver a spurious IRQ 7; chipsets and hypervisors do not.)
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from emu.bus.irq import Pin
from emu.bus.saved_state import Saved, check_kind, pack, part, unpack
from emu.errors import MapError

CASCADE = 2  # the primary's input that carries the secondary's INT
SPURIOUS = 7

ICW1, ICW1_IC4, ICW1_SNGL, ICW1_LTIM = 0x10, 0x01, 0x02, 0x08
ICW2_BASE = 0xF8
ICW4_AEOI, ICW4_SFNM = 0x02, 0x10
OCW3, OCW3_RIS, OCW3_RR, OCW3_POLL, OCW3_SMM, OCW3_ESMM = 0x08, 0x01, 0x02, 0x04, 0x20, 0x40
POLL_PENDING = 0x80

# OCW2, bits 7 to 5: R, SL, EOI
ROTATE_IN_AEOI_CLEAR, EOI, NO_OPERATION, SPECIFIC_EOI = 0, 1, 2, 3
ROTATE_IN_AEOI_SET, ROTATE_ON_EOI, SET_PRIORITY, ROTATE_ON_SPECIFIC_EOI = 4, 5, 6, 7

# What the next write to the odd port is.
EXPECT_OCW1, EXPECT_ICW2, EXPECT_ICW3, EXPECT_ICW4 = 0, 1, 2, 3

# The inputs that may be level triggered: not the timer, keyboard, cascade; not the RTC and the coprocessor.
ELCR_PRIMARY, ELCR_SECONDARY = 0xF8, 0xDE

# Index of the lowest set bit, 8 for none: a table index is three times cheaper than a loop.
_LOWEST = bytes(8 if value == 0 else (value & -value).bit_length() - 1 for value in range(256))

_LIMITS = {"lowest_plus_1": 7, "expect": EXPECT_ICW4}


@dataclass(slots=True)
class PicState:
    """What one controller remembers; ELCR apart, ICW1 forgets all of it."""

    irr: int = 0
    isr: int = 0
    imr: int = 0
    inputs: int = 0  # the level of each input, for the edge detector
    base: int = 0  # ICW2: vector of input 0
    lowest_plus_1: int = 0  # the input of highest priority
    expect: int = EXPECT_OCW1
    needs_icw4: bool = False
    single: bool = False
    level_mode: bool = False  # ICW1.LTIM
    auto_eoi: bool = False
    rotate_in_aeoi: bool = False
    special_fully_nested: bool = False
    special_mask: bool = False
    poll: bool = False
    read_isr: bool = False
    elcr: int = 0


class Pic8259:
    """One 8259A; a Region of its two ports. `on_int(level)` is called at each change of its INT output."""

    size = 2

    def __init__(self, on_int: Callable[[bool], None], *, primary: bool) -> None:
        self._on_int = on_int
        self._primary = primary
        self.state = PicState()
        self.int_level = False

    def reset(self) -> None:
        """Power-on state; inputs that are high stay high without a new edge."""
        self.state = PicState(inputs=self.state.inputs)
        self._update()

    def read(self, offset: int, _width: int) -> int:
        """IRR or ISR at the even port, IMR at the odd one; the poll byte once after a poll command."""
        state = self.state
        if state.poll:
            state.poll = False
            return self._poll()
        if offset:
            return state.imr
        return state.isr if state.read_isr else state.irr

    def write(self, offset: int, _width: int, value: int) -> None:
        """ICW1, OCW2, OCW3 at the even port; ICW2 to ICW4 and OCW1 at the odd one."""
        if offset:
            self._write_odd(value)
        elif value & ICW1:
            self._initialise(value)
        elif value & OCW3:
            self._ocw3(value)
        else:
            self._ocw2(value)

    def register_name(self, offset: int, is_write: bool) -> str:
        """By port and direction; which word a write is depends on its value."""
        if is_write:
            return "ICW2-4/OCW1" if offset else "ICW1/OCW2-3"
        return "IMR" if offset else "IRR/ISR"

    def set_input(self, number: int, level: bool) -> None:
        """Drive input `number` (0 to 7)."""
        state, bit = self.state, 1 << number
        if level:
            if (state.level_mode or state.elcr & bit) or not state.inputs & bit:
                state.irr |= bit
            state.inputs |= bit
        else:
            state.inputs &= ~bit
            if state.level_mode or state.elcr & bit:
                state.irr &= ~bit
            elif self._primary:
                return  # an edge's end changes nothing
        self._update()

    def highest(self) -> int:
        """The input that INT stands for, or -1."""
        state = self.state
        request = state.irr & ~state.imr
        if not request:
            return -1
        first = state.lowest_plus_1
        in_service = state.isr
        if state.special_mask:
            in_service &= ~state.imr
        if state.special_fully_nested and self._primary:
            in_service &= ~(1 << CASCADE)
        priority = _LOWEST[(request >> first | request << (8 - first)) & 0xFF]
        if priority < _LOWEST[(in_service >> first | in_service << (8 - first)) & 0xFF]:
            return (priority + first) & 7
        return -1

    def take(self, number: int) -> None:
        """The INTA cycle's effect on input `number`: in service, and no longer requested if an edge."""
        state, bit = self.state, 1 << number
        if not state.auto_eoi:
            state.isr |= bit
        elif state.rotate_in_aeoi:
            state.lowest_plus_1 = (number + 1) & 7
        if not (state.level_mode or state.elcr & bit):
            state.irr &= ~bit
        self._update()

    def restore_int(self) -> None:
        """After a load: take the INT level without telling anyone."""
        self.int_level = self.highest() >= 0

    def _poll(self) -> int:
        """Poll mode: a read stands for INTA, at either port."""
        number = self.highest()
        if number < 0:
            return 0
        self.take(number)
        return POLL_PENDING | number

    def _initialise(self, icw1: int) -> None:
        old = self.state
        self.state = PicState(
            irr=old.irr & old.elcr,
            elcr=old.elcr,
            expect=EXPECT_ICW2,
            needs_icw4=bool(icw1 & ICW1_IC4),
            single=bool(icw1 & ICW1_SNGL),
            level_mode=bool(icw1 & ICW1_LTIM),
        )
        self._update()

    def _write_odd(self, value: int) -> None:
        state = self.state
        expect = state.expect
        if expect == EXPECT_OCW1:
            state.imr = value
            self._update()
        elif expect == EXPECT_ICW2:
            state.base = value & ICW2_BASE
            state.expect = self._after_icw3() if state.single else EXPECT_ICW3
        elif expect == EXPECT_ICW3:  # the board's wiring, not a choice: checked by nobody
            state.expect = self._after_icw3()
        else:
            state.special_fully_nested = bool(value & ICW4_SFNM)
            state.auto_eoi = bool(value & ICW4_AEOI)
            state.expect = EXPECT_OCW1

    def _after_icw3(self) -> int:
        return EXPECT_ICW4 if self.state.needs_icw4 else EXPECT_OCW1

    def _ocw2(self, value: int) -> None:
        state, command, number = self.state, value >> 5, value & 7
        if command in (EOI, ROTATE_ON_EOI):
            first = state.lowest_plus_1
            priority = _LOWEST[(state.isr >> first | state.isr << (8 - first)) & 0xFF]
            if priority == 8:
                return
            number = (priority + first) & 7
            state.isr &= ~(1 << number)
        elif command in (SPECIFIC_EOI, ROTATE_ON_SPECIFIC_EOI):
            state.isr &= ~(1 << number)
        elif command in (ROTATE_IN_AEOI_CLEAR, ROTATE_IN_AEOI_SET):
            state.rotate_in_aeoi = command == ROTATE_IN_AEOI_SET
            return
        elif command == NO_OPERATION:
            return
        if command in (ROTATE_ON_EOI, SET_PRIORITY, ROTATE_ON_SPECIFIC_EOI):
            state.lowest_plus_1 = (number + 1) & 7
        self._update()

    def _ocw3(self, value: int) -> None:
        state = self.state
        if value & OCW3_POLL:
            state.poll = True
        if value & OCW3_RR:
            state.read_isr = bool(value & OCW3_RIS)
        if value & OCW3_ESMM:
            state.special_mask = bool(value & OCW3_SMM)
            if (self.highest() >= 0) != self.int_level:
                self._update()

    def _update(self) -> None:
        """The only place that moves INT. The secondary drives its level again each time, so that a primary
        whose edge detector was initialised in between sees it.
        """
        level = self.highest() >= 0
        if level != self.int_level or not self._primary:
            self.int_level = level
            self._on_int(level)


class Elcr:
    """The two edge/level control registers; a Region."""

    size = 2

    def __init__(self, primary: Pic8259, secondary: Pic8259) -> None:
        self._chips = ((primary, ELCR_PRIMARY), (secondary, ELCR_SECONDARY))

    def read(self, offset: int, _width: int) -> int:
        """One bit an input, 1 = level."""
        return self._chips[offset][0].state.elcr

    def write(self, offset: int, _width: int, value: int) -> None:
        """Bits of inputs that ISA or the board need as edges stay 0."""
        chip, mask = self._chips[offset]
        chip.state.elcr = value & mask

    def register_name(self, offset: int, _is_write: bool) -> str:
        """ELCR1 or ELCR2."""
        return "ELCR2" if offset else "ELCR1"


class Pic8259Pair:
    """Primary and secondary 8259A. `on_intr(level)` is called at each change of the CPU's INTR pin.

    Owned by the vCPU thread.
    """

    KIND, VERSION = "pic-8259-pair", 1

    def __init__(self, on_intr: Callable[[bool], None]) -> None:
        self.primary = Pic8259(on_intr, primary=True)
        self.secondary = Pic8259(self._cascade, primary=False)
        self.elcr = Elcr(self.primary, self.secondary)
        self._pins = [Pin(self._driver(irq)) for irq in range(16)]

    @property
    def intr(self) -> bool:
        """The level of INTR."""
        return self.primary.int_level

    def pin(self, irq: int) -> Pin:
        """The pin of IRQ 0 to 15. Raises MapError for 2, which is the cascade, and beyond 15."""
        if not 0 <= irq < 16 or irq == CASCADE:
            raise MapError(f"IRQ {irq}: the 8259 pair has IRQ 0, 1 and 3 to 15")
        return self._pins[irq]

    def set_irq(self, irq: int, level: bool) -> None:
        """Drive one input directly, for a board whose pins feed an IOAPIC as well."""
        if irq < 8:
            self.primary.set_input(irq, level)
        else:
            self.secondary.set_input(irq - 8, level)

    def pending(self) -> bool:
        """True while INTR is high. Changes nothing."""
        return self.primary.int_level

    def acknowledge(self) -> int:
        """Both INTA cycles; return the vector.

        Where the request has gone in between, the vector is that of input 7, and nothing is in service
        (on the secondary: its cascade input is, as software expects).
        """
        primary, secondary = self.primary, self.secondary
        number = primary.highest()
        if number < 0:
            return primary.state.base + SPURIOUS
        if number != CASCADE:
            primary.take(number)
            return primary.state.base + number
        number = secondary.highest()
        primary.take(CASCADE)
        if number < 0:
            return secondary.state.base + SPURIOUS
        secondary.take(number)
        if secondary.int_level:  # INTA drops the secondary's INT; a further request is a new edge
            self._cascade(False)
            self._cascade(True)
        return secondary.state.base + number

    def reset(self) -> None:
        """Power-on state of both chips."""
        self.secondary.reset()
        self.primary.reset()

    def save(self) -> dict[str, object]:
        """Both chips' state as plain values."""
        return {
            "kind": self.KIND,
            "version": self.VERSION,
            "primary": pack("pic-8259", 1, self.primary.state),
            "secondary": pack("pic-8259", 1, self.secondary.state),
        }

    def load(self, saved: Saved) -> None:
        """Take a saved state; INTR takes its level without a call. Raises ConfigError."""
        check_kind(self.KIND, self.VERSION, saved)
        states = [
            unpack("pic-8259", 1, part(self.KIND, saved, name), PicState(), _LIMITS)
            for name in ("primary", "secondary")
        ]
        for chip, state, mask in zip(
            (self.primary, self.secondary), states, (ELCR_PRIMARY, ELCR_SECONDARY), strict=True
        ):
            chip.state = replace(state, elcr=state.elcr & mask, base=state.base & ICW2_BASE)
            chip.restore_int()

    def _cascade(self, level: bool) -> None:
        self.primary.set_input(CASCADE, level)

    def _driver(self, irq: int) -> Callable[[bool], None]:
        """What the pin of `irq` calls: straight into its chip."""
        chip, number = (self.primary, irq) if irq < 8 else (self.secondary, irq - 8)

        def drive(level: bool) -> None:
            chip.set_input(number, level)

        return drive
