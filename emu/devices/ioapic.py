"""The I/O APIC: 24 interrupt pins, each turned into a message to a local APIC.

Source: Intel 82093AA datasheet (order number 290566), 3.1 (window) and 3.2 (registers). Of later parts
(version 0x20): the EOI register at offset 0x40, Intel ICH datasheets, "I/O APIC: EOIR". A pin's polarity
is the board's: a level says whether the source asks.
"""

from dataclasses import dataclass, field

from emu.bus.saved_state import Saved, check_kind
from emu.bus.types import AccessError, Fault, MsiTarget
from emu.errors import ConfigError, MapError

PINS = 24
VERSION = 0x20 | PINS - 1 << 16

IOREGSEL, IOWIN, EOIR = 0x00, 0x10, 0x40  # offsets in the window
ID, VER, ARB, REDTBL = 0x00, 0x01, 0x02, 0x10  # what IOREGSEL selects; REDTBL + 2 n is entry n's low half
ID_BITS = 0x0F000000

VECTOR, MODE_SHIFT, LOGICAL = 0xFF, 8, 1 << 11
POLARITY, REMOTE_IRR, LEVEL, MASKED = 1 << 13, 1 << 14, 1 << 15, 1 << 16
RTE_WRITABLE = 0xFF << 56 | MASKED | LEVEL | POLARITY | LOGICAL | 7 << MODE_SHIFT | VECTOR
MESSAGE_BASE = 0xFEE00000


@dataclass(slots=True)
class IoApicState:
    """What a reset forgets, and `inputs`: the pins' levels."""

    select: int = 0
    id: int = 0
    inputs: int = 0
    entries: list[int] = field(default_factory=lambda: [MASKED] * PINS)


class IoApic:
    """A `Region` of one page. Pins are driven by `set_pin`; `eoi(vector)` is what local APICs broadcast.

    Owned by the vCPU thread.
    """

    KIND, VERSION = "ioapic-82093aa", 1
    size = 4096

    def __init__(self, messages: MsiTarget) -> None:
        self._messages = messages
        self.state = IoApicState()

    def reset(self) -> None:
        """All masked; pins that are high stay so, without a new edge."""
        self.state = IoApicState(inputs=self.state.inputs)

    def set_pin(self, number: int, level: bool) -> None:
        """Drive pin 0 to 23. Raises MapError for another."""
        if not 0 <= number < PINS:
            raise MapError(f"I/O APIC pin {number}: there are pins 0 to {PINS - 1}")
        state, bit = self.state, 1 << number
        rose = level and not state.inputs & bit
        if level:
            state.inputs |= bit
        else:
            state.inputs &= ~bit
        entry = state.entries[number]
        if entry & LEVEL:
            if level:
                self._deliver(number)
        elif rose and not entry & MASKED:  # an edge at a masked pin is lost (3.2.4)
            self._deliver(number)

    def eoi(self, vector: int) -> None:
        """A local APIC ended a level-triggered interrupt: pins that still ask send it again."""
        for number, entry in enumerate(self.state.entries):
            if entry & REMOTE_IRR and entry & VECTOR == vector:
                self.state.entries[number] = entry & ~REMOTE_IRR
                self._ask_again(number)

    # The register window

    def read(self, offset: int, width: int) -> int:
        """IOREGSEL, or the selected register through IOWIN; 32 bits each. Raises AccessError else."""
        if width != 4:
            raise AccessError(Fault.WIDTH)
        if offset == IOWIN:
            return self._read_selected()
        if offset == IOREGSEL:
            return self.state.select
        raise AccessError(Fault.WRITE_ONLY if offset == EOIR else Fault.NO_REGISTER)

    def write(self, offset: int, width: int, value: int) -> None:
        """Select, store, or end an interrupt. Raises AccessError where no register is."""
        if offset == IOREGSEL:
            self.state.select = value & 0xFF
        elif width != 4:
            raise AccessError(Fault.WIDTH)
        elif offset == IOWIN:
            self._write_selected(value)
        elif offset == EOIR:
            self.eoi(value & VECTOR)
        else:
            raise AccessError(Fault.NO_REGISTER)

    def register_name(self, offset: int, _is_write: bool) -> str:
        """The datasheet's name."""
        return {IOREGSEL: "IOREGSEL", IOWIN: "IOWIN", EOIR: "EOIR"}.get(offset, "reserved")

    def save(self) -> dict[str, object]:
        """Registers and levels as plain values."""
        state = self.state
        return {
            "kind": self.KIND,
            "version": self.VERSION,
            "select": state.select,
            "id": state.id,
            "inputs": state.inputs,
            "entries": list(state.entries),
        }

    def load(self, saved: Saved) -> None:
        """Take a saved state; nothing is sent. Raises ConfigError."""
        check_kind(self.KIND, self.VERSION, saved)
        entries = saved.get("entries")
        if not isinstance(entries, list) or len(entries) != PINS:
            raise ConfigError(f"saved {self.KIND}: entries are no list of {PINS}")
        self.state = IoApicState(
            select=self._saved(saved.get("select"), 0xFF),
            id=self._saved(saved.get("id"), ID_BITS) & ID_BITS,
            inputs=self._saved(saved.get("inputs"), (1 << PINS) - 1),
            entries=[self._saved(entry, (1 << 64) - 1) & (RTE_WRITABLE | REMOTE_IRR) for entry in entries],
        )

    def _saved(self, value: object, limit: int) -> int:
        if type(value) is not int or not 0 <= value <= limit:
            raise ConfigError(f"saved {self.KIND}: {value!r} is no number from 0 to {limit}")
        return value

    def _read_selected(self) -> int:
        state = self.state
        select = state.select
        if REDTBL <= select < REDTBL + 2 * PINS:
            entry = state.entries[select - REDTBL >> 1]
            return entry >> 32 if select & 1 else entry & 0xFFFFFFFF
        if select == VER:
            return VERSION
        return state.id if select in (ID, ARB) else 0

    def _write_selected(self, value: int) -> None:
        state = self.state
        select = state.select
        if select == ID:
            state.id = value & ID_BITS
        elif REDTBL <= select < REDTBL + 2 * PINS:
            number = select - REDTBL >> 1
            entry = state.entries[number]
            shift = 32 * (select & 1)
            new = entry & ~(0xFFFFFFFF << shift) | value << shift
            new = new & RTE_WRITABLE | entry & REMOTE_IRR
            if not new & LEVEL:
                new &= ~REMOTE_IRR  # which only a level-triggered entry has
            state.entries[number] = new
            self._ask_again(number)

    def _ask_again(self, number: int) -> None:
        """Send for a level-triggered pin that is high."""
        state = self.state
        if state.entries[number] & LEVEL and state.inputs >> number & 1:
            self._deliver(number)

    def _deliver(self, number: int) -> None:
        """Send the entry's message, unless it is masked or a level's answer is still out."""
        entries = self.state.entries
        entry = entries[number]
        if entry & (MASKED | REMOTE_IRR):
            return
        if entry & LEVEL:
            entries[number] = entry | REMOTE_IRR
        address = MESSAGE_BASE | (entry >> 56) << 12 | (4 if entry & LOGICAL else 0)
        mode = entry >> MODE_SHIFT & 7
        self._messages.send(address, entry & VECTOR | mode << 8 | entry & LEVEL)
