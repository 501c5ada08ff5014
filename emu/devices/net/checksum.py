"""The Internet checksum. Source: RFC 1071."""

Bytes = bytes | bytearray | memoryview


def word_sum(data: Bytes) -> int:
    """The ones' complement sum of big-endian words, zero-padded at the end: 0 to 0xFFFE.

    It is a residue modulo 0xFFFF, so one division of a large integer gives it: 20 us for 64 KiB.
    """
    total = int.from_bytes(data, "big")
    return (total << 8 if len(data) & 1 else total) % 0xFFFF


def checksum(data: Bytes, start: int = 0) -> int:
    """What makes `data` sum up to zero, beside a sum that was made before; never 0, which means "none"."""
    return 0xFFFF - (word_sum(data) + start) % 0xFFFF or 0xFFFF
