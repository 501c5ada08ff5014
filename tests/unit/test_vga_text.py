import pytest

from emu.bus.types import AccessError
from emu.devices.vga_text import (
    CRTC,
    DAC_DATA,
    DAC_READ,
    DAC_WRITE,
    GRAPHICS,
    MISC,
    MISC_READ,
    STATUS,
    TEXT_SIZE,
    VgaText,
)


@pytest.mark.parametrize("index_port", [CRTC, GRAPHICS, 0x04])
def test_indexed_registers_give_back_what_was_written(index_port: int) -> None:
    vga = VgaText()
    for index, value in ((1, 0x11), (2, 0x22)):
        vga.write(index_port, 1, index)
        vga.write(index_port + 1, 1, value)
    vga.write(index_port, 1, 1)
    assert (vga.read(index_port, 1), vga.read(index_port + 1, 1)) == (1, 0x11)


def test_the_cursor_is_at_the_top_left_after_reset() -> None:
    vga = VgaText()
    vga.write(CRTC, 1, 0x0F)
    vga.write(CRTC + 1, 1, 80)
    vga.reset()
    vga.write(CRTC, 1, 0x0F)
    assert vga.read(CRTC + 1, 1) == 0


def test_the_attribute_port_takes_index_and_data_in_turn_until_status_is_read() -> None:
    vga = VgaText()
    vga.write(0, 1, 0x10)
    vga.write(0, 1, 0x0C)
    vga.write(0, 1, 0x11)
    vga.read(STATUS, 1)
    vga.write(0, 1, 0x10)
    assert (vga.read(0, 1), vga.read(1, 1)) == (0x10, 0x0C)


def test_a_wait_for_retrace_ends_at_either_level() -> None:
    vga = VgaText()
    assert {vga.read(STATUS, 1), vga.read(STATUS, 1)} == {0, 9}


def test_the_palette_counts_on_by_itself() -> None:
    vga = VgaText()
    vga.write(DAC_WRITE, 1, 255)
    for value in (1, 2, 0xFF, 4):
        vga.write(DAC_DATA, 1, value)
    vga.write(DAC_READ, 1, 255)
    assert [vga.read(DAC_DATA, 1) for _ in range(4)] == [1, 2, 0x3F, 4]


def test_miscellaneous_output_is_read_elsewhere_than_written() -> None:
    vga = VgaText()
    vga.write(MISC, 1, 0x63)
    assert vga.read(MISC_READ, 1) == 0x63


def test_every_port_and_value_is_taken_or_refused() -> None:
    vga = VgaText()
    for offset in range(vga.size):
        for value in (0, 0x3F, 0x80, 0xFF):
            for access in (lambda at=offset, v=value: vga.write(at, 1, v), lambda at=offset: vga.read(at, 1)):
                try:
                    assert access() in (None, *range(256))
                except AccessError:
                    assert vga.register_name(offset, False) in ("reserved", "ATTR data", "MISC")


def screen(*lines: bytes, pitch: int = 80) -> memoryview:
    content = bytearray(b" \x07" * (TEXT_SIZE // 2))
    for row, line in enumerate(lines):
        content[2 * pitch * row : 2 * (pitch * row + len(line)) : 2] = line
    return memoryview(content)


def test_the_text_on_the_screen_is_read_by_code_page_437() -> None:
    lines = VgaText().text(screen(b"hello", b"\xcd\xcd\0x")).split("\n")
    assert (len(lines), lines[:3]) == (25, ["hello", "\u2550\u2550 x", ""])


def test_scrolling_by_the_start_address_wraps_around() -> None:
    chip = VgaText()
    for index, value in ((0x0C, 0x3F), (0x0D, 0xB0)):  # a line before the end of the memory
        chip.write(0x14, 1, index)
        chip.write(0x15, 1, value)
    assert chip.text(screen(b"first")).split("\n")[1] == "first"


def test_a_graphics_mode_has_no_text_and_another_geometry_has_its_own_lines() -> None:
    chip = VgaText()
    for index, value in ((0x01, 39), (0x12, 0x8F), (0x07, 0x1F), (0x09, 0x47), (0x13, 20)):
        chip.write(0x14, 1, index)
        chip.write(0x15, 1, value)
    lines = chip.text(screen(b"a", b"b", pitch=40)).split("\n")
    assert (len(lines), lines[:3]) == (50, ["a", "b", ""])
    chip.write(0x0E, 1, 6)
    chip.write(0x0F, 1, 1)
    assert chip.text(screen(b"a")) == ""
