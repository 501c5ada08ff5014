import pytest

from emu.bus.types import AccessError
from emu.devices.pc_testdev import FlushPage, IrqLines, PlainBytes


def test_bytes_come_back_in_any_width() -> None:
    plain = PlainBytes(4)
    plain.write(0, 4, 0x44332211)
    plain.write(1, 1, 0x99)
    assert [plain.read(0, 1), plain.read(1, 1), plain.read(0, 2), plain.read(0, 4)] == [
        0x11,
        0x99,
        0x9911,
        0x44339911,
    ]


def test_a_write_past_the_end_is_refused() -> None:
    plain = PlainBytes(4)
    with pytest.raises(AccessError):
        plain.write(2, 4, 0)
    assert plain.read(2, 4) == 0


def test_a_write_drives_the_interrupt_of_its_port() -> None:
    seen: list[tuple[int, bool]] = []
    lines = IrqLines(lambda irq, level: seen.append((irq, level)))
    for port, value in ((4, 1), (4, 0), (11, 0x80)):
        lines.write(port, 1, value)
    assert seen == [(4, True), (4, False), (11, True)]
    assert (lines.read(3, 1), lines.register_name(11, True)) == (0, "IRQ11")


def test_a_flush_changes_nothing() -> None:
    flush = FlushPage()
    flush.write(0, 4, 0x1000)
    assert (flush.read(0, 4), flush.register_name(0, True)) == (0, "flush page")
