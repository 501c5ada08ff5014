import struct

import pytest

from emu.bus.types import AccessError
from emu.devices.fw_cfg import (
    FILE_DIR,
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
