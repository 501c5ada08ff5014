"""The registers of a VGA in text mode, kept and given back, and the text that they make of its memory.

Source: IBM PS/2 Video Subsystem Technical Reference (1992), VGA function: 2-41 to 2-107. Text memory at
0xB8000 is the board's plain RAM. Ports are those of the colour address (0x3D4, 0x3DA).
"""

from codecs import charmap_decode
from typing import Final, NamedTuple

from emu.bus.types import AccessError, Fault

BASE, PORTS = 0x3C0, 0x20
ATTRIBUTE, ATTRIBUTE_READ, MISC, SEQUENCER, PEL_MASK = 0x00, 0x01, 0x02, 0x04, 0x06
DAC_READ, DAC_WRITE, DAC_DATA, MISC_READ, GRAPHICS = 0x07, 0x08, 0x09, 0x0C, 0x0E
CRTC, STATUS = 0x14, 0x1A
RETRACE_BITS = 0x09  # display disabled, vertical retrace
MISC_COLOUR = 0x67  # mode 3: RAM enabled, colour addresses
TEXT_MEMORY, TEXT_SIZE = 0xB8000, 0x8000
HORIZONTAL_END, OVERFLOW, MAX_SCAN_LINE, START_HIGH, START_LOW, OFFSET, VERTICAL_END = (
    *(0x01, 0x07, 0x09, 0x0C, 0x0D),
    *(0x13, 0x12),
)
CURSOR_START, CURSOR_END, CURSOR_HIGH, CURSOR_LOW = 0x0A, 0x0B, 0x0E, 0x0F
CURSOR_OFF, SCAN_LINE = 0x20, 0x1F
GRAPHICS_MISC, GRAPHICS_MODE = 0x06, 0x01
ATTRIBUTE_MODE, BLINK_ENABLE = 0x10, 0x08
COLUMNS, ROWS, MOST_COLUMNS, MOST_ROWS = 80, 25, 160, 100

NAMES = {
    ATTRIBUTE: "ATTR", ATTRIBUTE_READ: "ATTR data", MISC: "MISC/IS0", SEQUENCER: "SEQ index",
    SEQUENCER + 1: "SEQ data", PEL_MASK: "PEL mask", DAC_READ: "DAC read index", DAC_WRITE: "DAC write index",
    DAC_DATA: "DAC data", MISC_READ: "MISC", GRAPHICS: "GC index", GRAPHICS + 1: "GC data",
    CRTC: "CRTC index", CRTC + 1: "CRTC data", STATUS: "IS1/FC",
}  # fmt: skip

GLYPHS: Final = (
    " \u263a\u263b\u2665\u2666\u2663\u2660\u2022\u25d8\u25cb\u25d9\u2642\u2640\u266a\u266b\u263c"
    "\u25ba\u25c4\u2195\u203c\u00b6\u00a7\u25ac\u21a8\u2191\u2193\u2192\u2190\u221f\u2194\u25b2\u25bc"
    + bytes(range(0x20, 0x7F)).decode()
    + "\u2302"
    + bytes(range(0x80, 0xFF)).decode("cp437")
    + " "
)
"""What the character generator's font of code page 437 shows for each byte."""


class TextScreen(NamedTuple):
    """What a text screen shows: `lines` as wide as the screen, and for each cell the attribute byte of text
    mode (foreground, background << 4; with `blinks`, bit 7 is for blinking). `cursor` is (column, row).
    """

    lines: tuple[str, ...]
    attributes: tuple[bytes, ...]
    cursor: tuple[int, int] | None = None
    blinks: bool = True


class _Indexed:
    """An index register and what it selects."""

    __slots__ = ("_mask", "index", "values")

    def __init__(self, registers: int) -> None:
        self._mask = registers - 1
        self.index, self.values = 0, bytearray(registers)

    def read(self) -> int:
        return self.values[self.index & self._mask]

    def write(self, value: int) -> None:
        self.values[self.index & self._mask] = value


class VgaText:
    """Ports 0x3C0 to 0x3DF; a `Region` of byte ports."""

    size = PORTS

    def __init__(self) -> None:
        self._last_screen: tuple[tuple[bytes, ...], TextScreen | None] | None = None
        self.reset()

    def reset(self) -> None:
        """As firmware leaves it: mode 3, cursor at the top left."""
        self.crtc, self.sequencer, self.graphics = _Indexed(32), _Indexed(8), _Indexed(16)
        self.attribute = _Indexed(32)
        self.attribute.values[ATTRIBUTE_MODE] = BLINK_ENABLE
        self._by_offset = {SEQUENCER: self.sequencer, GRAPHICS: self.graphics, CRTC: self.crtc}
        self._plain = {MISC: MISC_COLOUR, PEL_MASK: 0xFF}
        self._attribute_data = False  # the next write to 0x3C0 is data, not an index
        self._palette, self._dac_read, self._dac_write = bytearray(3 * 256), 0, 0
        self._status = 0

    def read(self, offset: int, _width: int) -> int:
        """A register; STATUS also makes the attribute port expect an index. Raises AccessError."""
        if chosen := self._by_offset.get(offset & ~1):
            return chosen.read() if offset & 1 else chosen.index
        if offset == STATUS:
            self._attribute_data = False
            self._status ^= RETRACE_BITS  # so that a wait for either level ends
            return self._status
        if offset == DAC_DATA:
            value = self._palette[self._dac_read]
            self._dac_read = (self._dac_read + 1) % len(self._palette)
            return value
        if offset in (ATTRIBUTE, ATTRIBUTE_READ):
            return self.attribute.read() if offset else self.attribute.index
        if offset == MISC_READ:
            return self._plain[MISC]
        if offset == MISC:
            return 0  # input status 0: no interrupt
        if offset == PEL_MASK:
            return self._plain[PEL_MASK]
        if offset == DAC_WRITE:
            return self._dac_write // 3
        if offset == DAC_READ:
            return 0  # ready
        raise AccessError(Fault.NO_REGISTER)

    def write(self, offset: int, _width: int, value: int) -> None:
        """Keep a value. Raises AccessError where no register is."""
        if chosen := self._by_offset.get(offset & ~1):
            if offset & 1:
                chosen.write(value)
            else:
                chosen.index = value
        elif offset == ATTRIBUTE:
            if self._attribute_data:
                self.attribute.write(value)
            else:
                self.attribute.index = value & 0x3F
            self._attribute_data = not self._attribute_data
        elif offset in self._plain:
            self._plain[offset] = value
        elif offset == DAC_READ:
            self._dac_read = 3 * value
        elif offset == DAC_WRITE:
            self._dac_write = 3 * value
        elif offset == DAC_DATA:
            self._palette[self._dac_write] = value & 0x3F
            self._dac_write = (self._dac_write + 1) % len(self._palette)
        elif offset == STATUS:
            pass  # feature control: no bit of use
        else:
            raise AccessError(Fault.NO_REGISTER)

    def text(self, memory: memoryview) -> str:
        """The lines on the screen by code page 437; `memory` are the 32 KiB of text. Empty in graphics."""
        screen = self.screen(memory)
        return "" if screen is None else "\n".join(line.rstrip() for line in screen.lines)

    def screen(self, memory: memoryview) -> TextScreen | None:
        """What the screen shows, None in graphics modes; any thread may look."""
        registers = (self.crtc, self.graphics, self.attribute)
        key = (bytes(memory), *(bytes(chosen.values) for chosen in registers))
        last = self._last_screen
        if last is None or last[0] != key:  # a display asks many times a second, and mostly for the same
            last = self._last_screen = key, self._decode(key[0])
        return last[1]

    def _decode(self, memory: bytes) -> TextScreen | None:
        if self.graphics.values[GRAPHICS_MISC] & GRAPHICS_MODE:
            return None
        columns, rows, start, pitch = self._geometry()
        twice = 2 * memory  # it wraps around
        places = [2 * ((start + row * pitch) % (len(memory) // 2)) for row in range(rows)]
        cells = [twice[at : at + 2 * columns] for at in places]
        return TextScreen(
            tuple(charmap_decode(row[::2], "strict", GLYPHS)[0] for row in cells),
            tuple(row[1::2] for row in cells),
            self._cursor(columns, rows, start, pitch),
            bool(self.attribute.values[ATTRIBUTE_MODE] & BLINK_ENABLE),
        )

    def _cursor(self, columns: int, rows: int, start: int, pitch: int) -> tuple[int, int] | None:
        crtc = self.crtc.values
        first = crtc[CURSOR_START]
        if first & CURSOR_OFF or first & SCAN_LINE > crtc[CURSOR_END] & SCAN_LINE:
            return None
        at = crtc[CURSOR_HIGH] << 8 | crtc[CURSOR_LOW]
        row, column = divmod((at - start) % (TEXT_SIZE // 2), pitch)
        return (column, row) if column < columns and row < rows else None

    def _geometry(self) -> tuple[int, int, int, int]:
        """Columns, rows, the first cell, cells from row to row; 80 by 25 where nobody has set a mode."""
        crtc = self.crtc.values
        start = crtc[START_HIGH] << 8 | crtc[START_LOW]
        if not crtc[HORIZONTAL_END] or not crtc[VERTICAL_END]:
            return COLUMNS, ROWS, start, COLUMNS
        columns = min(crtc[HORIZONTAL_END] + 1, MOST_COLUMNS)
        lines = 1 + crtc[VERTICAL_END] + ((crtc[OVERFLOW] & 0x02) << 7) + ((crtc[OVERFLOW] & 0x40) << 3)
        rows = min(lines // ((crtc[MAX_SCAN_LINE] & 0x1F) + 1), MOST_ROWS)
        return columns, rows, start, 2 * crtc[OFFSET] or columns

    def register_name(self, offset: int, _is_write: bool) -> str:
        """The reference's name."""
        return NAMES.get(offset, "reserved")
