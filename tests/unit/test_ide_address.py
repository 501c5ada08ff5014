from hypothesis import given
from hypothesis import strategies as st

from emu.devices.ide_address import CHS, DEVICE_LBA, LBA28, LBA48, Extent, named, show
from emu.devices.ide_identify import Geometry
from emu.devices.ide_task_file import COUNT, DEVICE, LBA_LOW, TaskFile

GEOMETRY = Geometry(cylinders=100, heads=16, sectors=63)


def task_file(device: int, count: int = 1, before: int = 0) -> TaskFile:
    task = TaskFile(memoryview(bytearray(4)))
    task.registers[DEVICE], task.registers[COUNT], task.previous[COUNT] = device, count, before
    return task


@given(st.integers(0, GEOMETRY.capacity - 1), st.sampled_from([0x00, 0x10]))
def test_a_sector_shown_as_cylinder_head_and_sector_is_named_so(lba: int, device: int) -> None:
    task = task_file(device)
    show(task, CHS, GEOMETRY, lba)
    assert named(task, LBA28, GEOMETRY) == Extent(CHS, lba, 1)
    assert task.registers[DEVICE] & 0xF0 == device


@given(st.integers(0, (1 << 28) - 1))
def test_a_sector_shown_in_28_bits_is_named_so(lba: int) -> None:
    task = task_file(DEVICE_LBA)
    show(task, LBA28, GEOMETRY, lba)
    assert named(task, LBA28, GEOMETRY) == Extent(LBA28, lba, 1)


@given(st.integers(0, (1 << 48) - 1))
def test_a_sector_shown_in_48_bits_is_named_so(lba: int) -> None:
    task = task_file(DEVICE_LBA)
    show(task, LBA48, GEOMETRY, lba)
    assert named(task, LBA48, GEOMETRY) == Extent(LBA48, lba, 1)
    assert task.registers[DEVICE] == DEVICE_LBA


def test_a_count_of_zero_is_the_most_that_there_can_be() -> None:
    assert named(task_file(DEVICE_LBA, 0), LBA28, GEOMETRY) == Extent(LBA28, 0, 256)
    assert named(task_file(DEVICE_LBA, 0), LBA48, GEOMETRY) == Extent(LBA48, 0, 65536)
    assert named(task_file(DEVICE_LBA, 2, before=1), LBA48, GEOMETRY) == Extent(LBA48, 0, 258)


def test_what_the_translation_does_not_have_names_nothing() -> None:
    task = task_file(0)
    for sector, named_at_all in ((0, False), (1, True), (63, True), (64, False)):
        task.registers[LBA_LOW] = sector
        assert (named(task, LBA28, GEOMETRY) is not None) is named_at_all
