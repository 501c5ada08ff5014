import pytest

from emu.bus.types import AccessError
from emu.devices.dma_8237 import (
    ALL_MASK,
    ALL_MASKED,
    CLEAR_MASK,
    CLEAR_POINTER,
    MASTER_CLEAR,
    MODE,
    REQUEST,
    SINGLE_MASK,
    STATUS,
    Dma8237,
    DmaPages,
)


@pytest.mark.parametrize("spacing", [1, 2])
def test_a_word_is_written_and_read_low_byte_first(spacing: int) -> None:
    chip = Dma8237(spacing)
    chip.write(CLEAR_POINTER * spacing, 1, 0)
    chip.write(5 * spacing, 1, 0x34)
    chip.write(5 * spacing, 1, 0x12)
    assert chip.word(5) == 0x1234
    assert [chip.read(5 * spacing, 1), chip.read(5 * spacing, 1)] == [0x34, 0x12]
    assert chip.size == 16 * spacing


def test_clearing_the_byte_pointer_starts_again_with_the_low_byte() -> None:
    chip = Dma8237()
    chip.write(0, 1, 0x11)
    chip.write(CLEAR_POINTER, 1, 0)
    chip.write(0, 1, 0x22)
    assert chip.word(0) == 0x22


def test_masks_are_set_one_by_one_and_all_together() -> None:
    chip = Dma8237()
    assert chip.mask == ALL_MASKED
    chip.write(SINGLE_MASK, 1, 0x02)
    assert chip.mask == 0b1011
    chip.write(SINGLE_MASK, 1, 0x06)
    assert chip.mask == ALL_MASKED
    chip.write(CLEAR_MASK, 1, 0)
    assert chip.read(ALL_MASK, 1) == 0xF0
    chip.write(ALL_MASK, 1, 0xFF)
    assert chip.mask == ALL_MASKED


def test_master_clear_masks_all_and_keeps_addresses_and_modes() -> None:
    chip = Dma8237()
    chip.write(CLEAR_MASK, 1, 0)
    chip.write(MODE, 1, 0x46)
    chip.write(0, 1, 0x77)
    chip.write(MASTER_CLEAR, 1, 0)
    assert (chip.mask, chip.mode(2), chip.word(0)) == (ALL_MASKED, 0x44, 0x77)
    chip.write(1, 1, 0x01)  # the byte pointer is at the low byte again
    assert chip.word(1) == 0x01


def test_software_requests_show_in_the_status() -> None:
    chip = Dma8237()
    chip.write(REQUEST, 1, 0x06)
    assert chip.read(STATUS, 1) == 0x40
    chip.write(REQUEST, 1, 0x02)
    assert chip.read(STATUS, 1) == 0


def test_write_only_registers_are_not_read() -> None:
    with pytest.raises(AccessError):
        Dma8237().read(MODE, 1)
    chip = Dma8237()
    assert {chip.register_name(i, True) for i in range(16)} > {"Mode", "All Mask", "Address 3", "Count 0"}
    assert chip.register_name(STATUS, False) == "Status"


def test_page_registers_keep_their_bytes_until_reset() -> None:
    pages = DmaPages()
    pages.write(2, 1, 0xAB)
    assert (pages.read(2, 1), pages.register_name(2, True)) == (0xAB, "DMA page 0x83")
    pages.reset()
    assert pages.read(2, 1) == 0
