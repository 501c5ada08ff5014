"""The PC's two 8237A DMA controllers and their page registers, as registers only: no device asks for DMA.

Sources: Intel 8237A datasheet (order number 231466), "Register Description", table 6; Intel 82371SB (PIIX3)
datasheet, section 2.5.1 (the second controller has its registers at even ports; page registers).
"""

from emu.bus.types import AccessError, Fault

CHANNELS = 4
STATUS, REQUEST, SINGLE_MASK, MODE, CLEAR_POINTER, MASTER_CLEAR, CLEAR_MASK, ALL_MASK = range(8, 16)
ALL_MASKED = 0x0F
_WRITE_NAMES = (
    "Command",
    "Request",
    "Single Mask",
    "Mode",
    "Clear Byte Pointer",
    "Master Clear",
    "Clear Mask",
)
PAGE_PORTS = 15


class Dma8237:
    """One controller; a `Region` of 16 registers, `spacing` ports apart."""

    def __init__(self, spacing: int = 1) -> None:
        self.size = 16 * spacing
        self._shift = spacing >> 1
        self._words, self._modes = [0] * (2 * CHANNELS), [0] * CHANNELS
        self.reset()

    def reset(self) -> None:
        """RESET, which is also what master clear does; addresses, counts and modes stay."""
        self.mask, self._second_byte = ALL_MASKED, False
        self._command = self._status = self._requests = 0

    def mode(self, channel: int) -> int:
        """The mode register of a channel."""
        return self._modes[channel]

    def word(self, register: int) -> int:
        """Address (even) or count (odd) of a channel: register 2 n and 2 n + 1."""
        return self._words[register]

    def read(self, offset: int, _width: int) -> int:
        """A byte of an address or count, the status, or the mask. Raises AccessError else."""
        register = offset >> self._shift
        if register < STATUS:
            value = self._words[register] >> (8 if self._second_byte else 0) & 0xFF
            self._second_byte = not self._second_byte
            return value
        if register == STATUS:
            value = self._status | self._requests << 4
            self._status = 0
            return value
        if register == MASTER_CLEAR:
            return 0  # the temporary register
        if register == ALL_MASK:
            return 0xF0 | self.mask
        raise AccessError(Fault.WRITE_ONLY)

    def write(self, offset: int, _width: int, value: int) -> None:
        """A byte of an address or count, or a command."""
        register = offset >> self._shift
        channel = value & 3
        if register < STATUS:
            low, word = not self._second_byte, self._words[register]
            self._words[register] = word & 0xFF00 | value if low else word & 0x00FF | value << 8
            self._second_byte = low
        elif register == STATUS:
            self._command = value
        elif register == REQUEST:
            self._requests = self._requests & ~(1 << channel) | (value >> 2 & 1) << channel
        elif register == SINGLE_MASK:
            self.mask = self.mask & ~(1 << channel) | (value >> 2 & 1) << channel
        elif register == MODE:
            self._modes[channel] = value & 0xFC
        elif register == CLEAR_POINTER:
            self._second_byte = False
        elif register == MASTER_CLEAR:
            self.reset()
        elif register == CLEAR_MASK:
            self.mask = 0
        else:
            self.mask = value & 0x0F

    def register_name(self, offset: int, is_write: bool) -> str:
        """The datasheet's name."""
        register = offset >> self._shift
        if register < STATUS:
            return f"{'Count' if register & 1 else 'Address'} {register >> 1}"
        if is_write:
            return _WRITE_NAMES[register - STATUS] if register < ALL_MASK else "All Mask"
        return {STATUS: "Status", MASTER_CLEAR: "Temporary", ALL_MASK: "All Mask"}.get(register, "reserved")


class DmaPages:
    """Ports 0x81 to 0x8F: the upper address bits of each channel, and spare bytes; a `Region`."""

    size = PAGE_PORTS

    def __init__(self) -> None:
        self._pages = bytearray(PAGE_PORTS)

    def read(self, offset: int, _width: int) -> int:
        """As written."""
        return self._pages[offset]

    def write(self, offset: int, _width: int, value: int) -> None:
        """Keep it."""
        self._pages[offset] = value

    def register_name(self, offset: int, _is_write: bool) -> str:
        """By its port."""
        return f"DMA page {0x81 + offset:#x}"

    def reset(self) -> None:
        """All zero."""
        self._pages[:] = bytes(PAGE_PORTS)
