"""The BIOS data area as firmware leaves it: what old kernels look up at 0x400.

Source: "BIOS Data Area" of the IBM PC AT Technical Reference, by the addresses in common use. Only what
is true on this board: the serial port, memory below 640 KiB, the text screen, one timer tick count of 0.
"""

import struct

BASE, SIZE = 0x400, 0x100
COM1_PORT = 0x3F8
CRTC_PORT, TEXT_MODE, COLUMNS, ROWS = 0x3D4, 3, 80, 25
EQUIPMENT = 0x0226  # one serial port, PS/2 pointer, 80x25 colour text, coprocessor


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
