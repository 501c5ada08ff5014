"""8042 keyboard controller: the two PS/2 ports, address line 20 and the CPU's reset line.

Sources: IBM PS/2 hardware interface technical reference, keyboard and auxiliary device controller; Intel
8042 datasheet (UPI-41/42). Keyboards and mice are `Ps2Device`s plugged into the ports; an empty port answers
a byte as the controller does when nothing clocks the line: 0xFE with the time-out bit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from emu.bus.saved_state import Saved, pack, unpack
from emu.bus.types import IrqLine

STATUS_OBF, STATUS_SYSTEM, STATUS_CMD, STATUS_UNLOCKED = 0x01, 0x04, 0x08, 0x10
STATUS_AUX_OBF, STATUS_TIMEOUT = 0x20, 0x40

# Command byte.
CB_IRQ1, CB_IRQ12, CB_SYSTEM, CB_DISABLE_KBD, CB_DISABLE_AUX, CB_TRANSLATE = (
    0x01,
    0x02,
    0x04,
    0x10,
    0x20,
    0x40,
)

READ_COMMAND_BYTE, WRITE_COMMAND_BYTE = 0x20, 0x60
DISABLE_AUX, ENABLE_AUX, TEST_AUX, SELF_TEST, TEST_KBD, DISABLE_KBD, ENABLE_KBD = (
    0xA7, 0xA8, 0xA9, 0xAA, 0xAB, 0xAD, 0xAE,
)  # fmt: skip
READ_INPUT_PORT, READ_OUTPUT_PORT, WRITE_OUTPUT_PORT = 0xC0, 0xD0, 0xD1
WRITE_KBD_BUFFER, WRITE_AUX_BUFFER, WRITE_AUX = 0xD2, 0xD3, 0xD4
DISABLE_A20, ENABLE_A20, PULSE = 0xDD, 0xDF, 0xF0

SELF_TEST_OK, INTERFACE_OK, INPUT_PORT, RESEND = 0x55, 0x00, 0x80, 0xFE
OUT_RUN, OUT_A20, OUT_OBF, OUT_AUX_OBF = 0x01, 0x02, 0x10, 0x20
OUT_RESET = 0xCF  # reset line idle, A20 open, both clocks and data lines idle

_NEED_DATA = frozenset((WRITE_COMMAND_BYTE, WRITE_OUTPUT_PORT, WRITE_KBD_BUFFER, WRITE_AUX_BUFFER, WRITE_AUX))
_LIMITS = {"reply": 0x1FF, "reply_source": 2}

FROM_CONTROLLER, FROM_KBD, FROM_AUX = range(3)


class Ps2Device(Protocol):
    """What is plugged into a port. It keeps its own bounded queue of bytes for the host."""

    def write(self, value: int, /) -> None:
        """A byte from the host."""

    def next_byte(self) -> int:
        """Take the oldest byte for the host, or -1 where there is none."""


class Ps2Port:
    """One of the two connectors. A device calls `ready()` when it has bytes for the host."""

    def __init__(self, ready: Callable[[], None]) -> None:
        self.ready = ready
        self.device: Ps2Device | None = None


@dataclass(slots=True)
class Ps2State:
    """The controller's registers."""

    command_byte: int = CB_IRQ1 | CB_IRQ12
    output_port: int = OUT_RESET
    status: int = STATUS_CMD | STATUS_UNLOCKED
    data: int = 0  # the output buffer
    own: bool = False  # the buffer is full with a byte of the controller's own
    irq1: bool = False
    irq12: bool = False
    waiting: int = 0  # the command whose data byte comes next, 0 for none
    reply: int = 0  # a controller's reply behind a full buffer: 0x100 + byte, 0 for none
    reply_source: int = FROM_CONTROLLER
    reply_timeout: bool = False


class Ps2Controller:
    """The 8042. `data` (port 0x60) and `command` (port 0x64) are Regions. Owned by the vCPU thread.

    `set_a20(open)` and `reset()` are the CPU's pins. `keyboard.device` and `aux.device` may be plugged in at
    any time before the guest runs.
    """

    KIND, VERSION = "ps2-8042", 1

    def __init__(
        self, irq1: IrqLine, irq12: IrqLine, set_a20: Callable[[bool], None], reset: Callable[[], None]
    ) -> None:
        self._irq1, self._irq12, self._set_a20, self._reset = irq1, irq12, set_a20, reset
        self.keyboard, self.aux = Ps2Port(self._fill), Ps2Port(self._fill)
        self.data, self.command = DataPort(self), CommandPort(self)
        self.state = Ps2State()

    @property
    def translated(self) -> bool:
        """True while the keyboard's codes are to be sent as set 1."""
        return bool(self.state.command_byte & CB_TRANSLATE)

    def reset(self) -> None:
        """Power-on state. Opening A20 is the CPU's own reset."""
        self.state = Ps2State()
        self._update()

    def read_data(self) -> int:
        """The output buffer; when empty, its last byte again."""
        state = self.state
        value = state.data
        if state.status & STATUS_OBF:
            state.own = False
            state.status &= ~(STATUS_OBF | STATUS_AUX_OBF | STATUS_TIMEOUT)
            state.output_port &= ~(OUT_OBF | OUT_AUX_OBF)
            self._update()  # the lines fall before the next byte raises one
            self._fill()
        return value

    def write_data(self, value: int) -> None:
        """The data byte of a command, or a byte for the keyboard."""
        state = self.state
        command, state.waiting = state.waiting, 0
        if command == WRITE_COMMAND_BYTE:
            state.command_byte = value
            state.status = state.status & ~STATUS_SYSTEM | value & CB_SYSTEM
            self._update()
            self._fill()
        elif command == WRITE_OUTPUT_PORT:
            self._write_output_port(value)
        elif command == WRITE_KBD_BUFFER:
            self._answer(value, FROM_KBD)
        elif command == WRITE_AUX_BUFFER:
            self._answer(value, FROM_AUX)
        elif command == WRITE_AUX:
            self._send(self.aux, value, CB_DISABLE_AUX, FROM_AUX)
        else:
            self._send(self.keyboard, value, CB_DISABLE_KBD, FROM_KBD)

    def write_command(self, value: int) -> None:
        """A controller command."""
        state = self.state
        state.waiting = 0
        if value in _NEED_DATA:
            state.waiting = value
        elif value >= PULSE:
            if not value & OUT_RUN:  # pulses the low output bits given as 0; bit 0 is the reset line
                self._reset()
        elif value == READ_COMMAND_BYTE:
            self._answer(state.command_byte)
        elif value == SELF_TEST:
            state.status |= STATUS_SYSTEM
            self._answer(SELF_TEST_OK)
        elif value in (TEST_KBD, TEST_AUX):
            self._answer(INTERFACE_OK)
        elif value in (DISABLE_KBD, DISABLE_AUX):
            state.command_byte |= CB_DISABLE_KBD if value == DISABLE_KBD else CB_DISABLE_AUX
        elif value in (ENABLE_KBD, ENABLE_AUX):
            state.command_byte &= ~(CB_DISABLE_KBD if value == ENABLE_KBD else CB_DISABLE_AUX)
            self._fill()
        elif value == READ_INPUT_PORT:
            self._answer(INPUT_PORT)
        elif value == READ_OUTPUT_PORT:
            self._answer(state.output_port)
        elif value in (DISABLE_A20, ENABLE_A20):
            state.output_port = state.output_port & ~OUT_A20 | (OUT_A20 if value == ENABLE_A20 else 0)
            self._set_a20(value == ENABLE_A20)

    def save(self) -> dict[str, object]:
        """The state as plain values; the devices save their own."""
        return pack(self.KIND, self.VERSION, self.state)

    def load(self, saved: Saved) -> None:
        """Take a saved state; the lines take their levels without edges. Raises ConfigError."""
        self.state = unpack(self.KIND, self.VERSION, saved, Ps2State(), _LIMITS)
        self._irq1.restore(self.state.irq1)
        self._irq12.restore(self.state.irq12)

    def _write_output_port(self, value: int) -> None:
        self.state.output_port = value
        self._set_a20(bool(value & OUT_A20))
        if not value & OUT_RUN:
            self._reset()

    def _send(self, port: Ps2Port, value: int, disabled: int, source: int) -> None:
        """A byte to a device; sending opens its port."""
        self.state.command_byte &= ~disabled
        if port.device is None:
            self._answer(RESEND, source, timeout=True)
        else:
            port.device.write(value)
        self._fill()

    def _answer(self, value: int, source: int = FROM_CONTROLLER, *, timeout: bool = False) -> None:
        """A byte of the controller's own; it goes before the devices'. It replaces an older one of its own,
        also in the buffer, whose flags then stay.
        """
        state = self.state
        if state.own:
            state.data = value
            return
        state.reply, state.reply_source, state.reply_timeout = 0x100 | value, source, timeout
        self._fill()

    def _fill(self) -> None:
        """Move the next byte for the host into the output buffer, if that is empty."""
        state = self.state
        if state.status & STATUS_OBF:
            return
        if state.reply:
            value, source, timeout = state.reply & 0xFF, state.reply_source, state.reply_timeout
            state.reply, state.own = 0, True
        else:
            value, source = self._from_devices()
            timeout = False
            if value < 0:
                return
        state.data = value
        state.status |= STATUS_OBF | (STATUS_AUX_OBF if source == FROM_AUX else 0)
        state.status |= STATUS_TIMEOUT if timeout else 0
        full = OUT_OBF | (OUT_AUX_OBF if source == FROM_AUX else 0)
        state.output_port = state.output_port & ~(OUT_OBF | OUT_AUX_OBF) | full  # whatever 0xD1 had put there
        self._update()

    def _from_devices(self) -> tuple[int, int]:
        """(byte, source) from an enabled port, keyboard first; byte -1 for none."""
        command_byte = self.state.command_byte
        for port, disabled, source in (
            (self.keyboard, CB_DISABLE_KBD, FROM_KBD),
            (self.aux, CB_DISABLE_AUX, FROM_AUX),
        ):
            if port.device is not None and not command_byte & disabled:
                value = port.device.next_byte()
                if value >= 0:
                    return value & 0xFF, source
        return -1, FROM_CONTROLLER

    def _update(self) -> None:
        """The only place that moves the lines: when the buffer fills or empties, and with the command byte.
        Opening or closing a port does not move them.
        """
        state = self.state
        full, aux = state.status & STATUS_OBF, state.status & STATUS_AUX_OBF
        enabled = state.command_byte
        state.irq1 = bool(full and not aux and enabled & CB_IRQ1 and not enabled & CB_DISABLE_KBD)
        state.irq12 = bool(full and aux and enabled & CB_IRQ12)
        self._irq1.set(state.irq1)
        self._irq12.set(state.irq12)


class DataPort:
    """Port 0x60; a Region."""

    size = 1

    def __init__(self, chip: Ps2Controller) -> None:
        self._chip = chip

    def read(self, _offset: int, _width: int) -> int:
        """The output buffer."""
        return self._chip.read_data()

    def write(self, _offset: int, _width: int, value: int) -> None:
        """The input buffer, as data."""
        self._chip.write_data(value)

    def register_name(self, _offset: int, is_write: bool) -> str:
        """Input or output buffer."""
        return "Input Buffer (data)" if is_write else "Output Buffer"


class CommandPort:
    """Port 0x64; a Region."""

    size = 1

    def __init__(self, chip: Ps2Controller) -> None:
        self._chip = chip

    def read(self, _offset: int, _width: int) -> int:
        """The status register."""
        return self._chip.state.status

    def write(self, _offset: int, _width: int, value: int) -> None:
        """The input buffer, as a command."""
        self._chip.write_command(value)

    def register_name(self, _offset: int, is_write: bool) -> str:
        """Command or status."""
        return "Input Buffer (command)" if is_write else "Status"
