"""What firmware leaves below 0x500: the real-mode vectors and the BIOS data area, which old kernels look at.

Source: "BIOS Data Area" of the IBM PC AT Technical Reference, by the addresses in common use. Only what
is true on this board: the serial port, memory below 640 KiB, the text screen, one timer tick count of 0.
"""

import struct

BASE, SIZE = 0x400, 0x100
COM1_PORT = 0x3F8
CRTC_PORT, TEXT_MODE, COLUMNS, ROWS = 0x3D4, 3, 80, 25
EQUIPMENT = 0x0226  # one serial port, PS/2 pointer, 80x25 colour text, coprocessor
DUMMY_HANDLER, IRET = 0xFFF53, b"\xcf"
"""Where every BIOS keeps an IRET for interrupts that nobody handles, at F000:FF53."""


def build_vectors() -> bytes:
    """The 1024 bytes at 0: each interrupt goes to the dummy handler, as there are no BIOS services."""
    return struct.pack("<HH", DUMMY_HANDLER & 0xFFFF, 0xF000) * 256


def build_bios_data(low_end: int, ebda: int) -> bytes:
    """The 256 bytes at 0x400; `low_end` is where conventional memory ends, `ebda` where the EBDA starts."""
    area = bytearray(SIZE)
    struct.pack_into("<H", area, 0x00, COM1_PORT)
    struct.pack_into("<H", area, 0x0E, ebda >> 4)
    struct.pack_into("<H", area, 0x10, EQUIPMENT)
    struct.pack_into("<H", area, 0x13, low_end >> 10)
    struct.pack_into("<HH", area, 0x1A, 0x1E, 0x1E)  # keyboard buffer: empty
    struct.pack_into("<BH", area, 0x49, TEXT_MODE, COLUMNS)
    struct.pack_into("<H", area, 0x63, CRTC_PORT)
    struct.pack_into("<HH", area, 0x80, 0x1E, 0x3E)  # where that buffer lies
    area[0x84] = ROWS - 1
    return bytes(area)
