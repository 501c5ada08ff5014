import struct

import pytest

from emu.bus.memory import GuestMemory
from emu.bus.types import AccessError
from emu.devices.fw_cfg import (
    DMA_ERROR,
    DMA_READ,
    DMA_SELECT,
    DMA_SKIP,
    DMA_WRITE,
    FEATURES,
    FILE_DIR,
    FILE_FIRST,
    MAX_CPUS,
    NB_CPUS,
    NUMA,
    RAM_SIZE,
    SIGNATURE,
    FwCfg,
    e820_file,
    standard_items,
)


def make() -> FwCfg:
    return FwCfg(standard_items(128 << 20, cpus=1), {"etc/e820": e820_file([(0, 128 << 20)]), "b": b"xyz"})


def item(chip: FwCfg, key: int, size: int) -> bytes:
    chip.write(0, 2, key)
    return bytes(chip.read(1, 1) for _ in range(size))


def test_the_signature_is_selected_at_power_on_and_after_reset() -> None:
    chip = make()
    assert bytes(chip.read(1, 1) for _ in range(4)) == b"QEMU"
    item(chip, RAM_SIZE, 3)
    chip.reset()
    assert bytes(chip.read(1, 1) for _ in range(4)) == b"QEMU"
    assert item(chip, SIGNATURE, 6) == b"QEMU\0\0"


def test_memory_and_processors_are_told() -> None:
    chip = make()
    assert item(chip, RAM_SIZE, 8) == struct.pack("<Q", 128 << 20)
    assert item(chip, NB_CPUS, 2) == item(chip, MAX_CPUS, 2) == b"\1\0"
    assert item(chip, NUMA, 8) == bytes(8)


def test_past_the_end_and_in_unknown_items_there_are_zeros() -> None:
    chip = make()
    assert item(chip, NB_CPUS, 4) == b"\1\0\0\0"
    assert item(chip, 0x1234, 8) == bytes(8)
    assert item(chip, 0xFFFF, 8) == bytes(8)


def test_the_directory_names_files_in_order_with_size_and_number() -> None:
    chip = make()
    count, *_ = struct.unpack(">I", item(chip, FILE_DIR, 4))
    assert count == 2
    chip.write(0, 2, FILE_DIR)
    raw = bytes(chip.read(1, 1) for _ in range(4 + 2 * 64))[4:]
    found = [struct.unpack_from(">IHH56s", raw, 64 * i) for i in range(2)]
    assert [(size, name.rstrip(b"\0")) for size, _, _, name in found] == [(3, b"b"), (20, b"etc/e820")]
    assert item(chip, found[0][1], 3) == b"xyz"
    assert item(chip, found[1][1], 20) == struct.pack("<QQI", 0, 128 << 20, 1)


def test_writes_of_data_and_byte_wide_selections_change_nothing() -> None:
    chip = make()
    chip.write(0, 2, NB_CPUS)
    chip.write(0, 1, 0)
    chip.write(1, 1, 0x55)
    assert chip.read(1, 1) == 1
    with pytest.raises(AccessError):
        chip.read(0, 2)
    assert [chip.register_name(0, True), chip.register_name(0, False)] == ["selector", "data"]


def test_a_name_that_fits_no_directory_entry_is_refused() -> None:
    with pytest.raises(ValueError, match="56 bytes, at most 55"):
        FwCfg({}, {"x" * 56: b""})


def order(control: int, length: int, address: int) -> bytes:
    return struct.pack(">IIQ", control, length, address)


def dma(chip: FwCfg, memory: GuestMemory, control: int, length: int, address: int, at: int = 0x100) -> int:
    memory.view(at, 16)[:] = order(control, length, address)
    chip.dma.write(0, 4, 0)
    chip.dma.write(4, 4, int.from_bytes(at.to_bytes(4, "big"), "little"))
    return int.from_bytes(memory.view(at, 4), "big")


def with_memory() -> tuple[FwCfg, GuestMemory]:
    memory = GuestMemory(1 << 20)
    return FwCfg(standard_items(1 << 20, cpus=1), {"b": b"xyz"}, memory), memory


def test_dma_selects_skips_and_reads_with_zeros_behind_the_end() -> None:
    chip, memory = with_memory()
    assert item(chip, FEATURES, 4) == b"\3\0\0\0"
    memory.view(0x200, 8)[:] = b"\xff" * 8
    assert dma(chip, memory, FILE_FIRST << 16 | DMA_SELECT | DMA_READ, 2, 0x200) == 0
    assert bytes(memory.view(0x200, 8)) == b"xy" + b"\xff" * 6
    assert dma(chip, memory, DMA_READ, 3, 0x200) == 0
    assert bytes(memory.view(0x200, 8)) == b"z\0\0" + b"\xff" * 5
    assert dma(chip, memory, FILE_FIRST << 16 | DMA_SELECT | DMA_SKIP, 2, 0) == 0
    assert chip.read(1, 1) == ord("z")
    memory.close()


def test_dma_outside_of_ram_and_dma_writes_are_errors() -> None:
    chip, memory = with_memory()
    assert dma(chip, memory, FILE_FIRST << 16 | DMA_SELECT | DMA_READ, 4, (1 << 20) - 2) == DMA_ERROR
    assert dma(chip, memory, DMA_READ, 0xFFFF_FFFF, 0) == DMA_ERROR
    assert dma(chip, memory, DMA_WRITE, 1, 0) == DMA_ERROR
    chip.dma.write(0, 4, 0xFFFF_FFFF)
    chip.dma.write(4, 4, 0xFFFF_FFFF)  # an order that is nowhere
    memory.close()


def test_the_dma_window_reads_as_its_signature() -> None:
    chip, memory = with_memory()
    assert [chip.dma.read(offset, 4).to_bytes(4, "little") for offset in (0, 4)] == [b"QEMU", b" CFG"]
    assert chip.dma.read(1, 1) == ord("E")
    for offset, width in ((0, 2), (2, 4), (5, 1)):
        with pytest.raises(AccessError):
            chip.dma.write(offset, width, 0)
    memory.close()
