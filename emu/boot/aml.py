"""ACPI machine language, as far as a description of fixed hardware needs it: names, packages, resources.

Source: ACPI 6.5, 20.2 (AML grammar), 6.4 (resource descriptors), 19.3.4 (EISA identifiers).
"""

import struct

ZERO, ONE, NAME, BYTE, WORD, DWORD, QWORD = b"\x00", b"\x01", b"\x08", 0x0A, 0x0B, 0x0C, 0x0E
SCOPE, BUFFER, PACKAGE, DEVICE = b"\x10", b"\x11", b"\x12", b"\x5b\x82"
END_TAG = b"\x79\x00"
SPACE_MEMORY, SPACE_IO, SPACE_BUS = 0, 1, 2
MIN_FIXED, MAX_FIXED, POSITIVE_PRODUCER = 1 << 2, 1 << 3, 0
ENTIRE_RANGE, READ_WRITE = 0x03, 0x01  # of I/O and of memory spaces


def integer(value: int) -> bytes:
    """The shortest constant."""
    if value < 2:
        return (ZERO, ONE)[value]
    for prefix, width in ((BYTE, 1), (WORD, 2), (DWORD, 4)):
        if value < 1 << 8 * width:
            return bytes((prefix,)) + value.to_bytes(width, "little")
    return bytes((QWORD,)) + value.to_bytes(8, "little")


def segment(word: str) -> bytes:
    """A name of up to four characters, filled up with `_`."""
    return word.ljust(4, "_").encode("ascii")


def length(content: bytes) -> bytes:
    """PkgLength and the content; it counts its own bytes, too (20.2.4)."""
    size = len(content)
    if size + 1 < 1 << 6:
        return bytes((size + 1,)) + content
    follow = next(n for n in (1, 2, 3) if size + 1 + n < 1 << 4 + 8 * n)
    total = size + 1 + follow
    return bytes((follow << 6 | total & 0xF,)) + (total >> 4).to_bytes(follow, "little") + content


def name(word: str, value: bytes) -> bytes:
    """Name (word, value)."""
    return NAME + segment(word) + value


def scope(word: str, *content: bytes) -> bytes:
    """Scope (word) { content }."""
    return SCOPE + length(segment(word) + b"".join(content))


def device(word: str, *content: bytes) -> bytes:
    """Device (word) { content }."""
    return DEVICE + length(segment(word) + b"".join(content))


def package(*elements: bytes) -> bytes:
    """Package () { elements }, at most 255 of them."""
    return PACKAGE + length(bytes((len(elements),)) + b"".join(elements))


def resources(*descriptors: bytes) -> bytes:
    """ResourceTemplate () { descriptors }."""
    content = b"".join(descriptors) + END_TAG
    return BUFFER + length(integer(len(content)) + content)


def eisa_id(word: str) -> bytes:
    """EisaId (word): three letters and four hexadecimal digits in 32 bits."""
    letters = (ord(word[0]) - 0x40) << 10 | (ord(word[1]) - 0x40) << 5 | (ord(word[2]) - 0x40)
    return integer(int.from_bytes((letters << 16 | int(word[3:], 16)).to_bytes(4, "big"), "little"))


def io(base: int, ports: int) -> bytes:
    """IO (Decode16, base, base, 1, ports) (6.4.2.5)."""
    return struct.pack("<BBHHBB", 0x47, 1, base, base, 1, ports)


def memory_fixed(base: int, size: int) -> bytes:
    """Memory32Fixed (ReadOnly, base, size) (6.4.3.4)."""
    return struct.pack("<BHBII", 0x86, 9, 0, base, size)


def irq(number: int) -> bytes:
    """IRQNoFlags () { number }: edge triggered, active high (6.4.2.1)."""
    return struct.pack("<BH", 0x22, 1 << number)


def _space(tag: int, code: str, kind: int, flags: int, window: range) -> bytes:
    """A word, double word or quad word address space descriptor (6.4.3.5)."""
    general = MIN_FIXED | MAX_FIXED | POSITIVE_PRODUCER
    body = struct.pack(f"<BBB5{code}", kind, general, flags, 0, window.start, window.stop - 1, 0, len(window))
    return struct.pack("<BH", tag, len(body)) + body


def bus_numbers(window: range) -> bytes:
    """WordBusNumber."""
    return _space(0x88, "H", SPACE_BUS, 0, window)


def io_window(window: range) -> bytes:
    """WordIO of a bridge."""
    return _space(0x88, "H", SPACE_IO, ENTIRE_RANGE, window)


def memory_window(window: range) -> bytes:
    """DWordMemory or, above 4 GiB, QWordMemory of a bridge; not cached, for reads and writes."""
    if window.stop <= 1 << 32:
        return _space(0x87, "I", SPACE_MEMORY, READ_WRITE, window)
    return _space(0x8A, "Q", SPACE_MEMORY, READ_WRITE, window)
