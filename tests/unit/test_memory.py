import os
from pathlib import Path

import pytest

from emu.bus.memory import HIGH_BASE, LOW_LIMIT, PAGE, GuestAddressError, GuestMemory

MIB = 1 << 20


def allocated(memory: GuestMemory) -> int:
    """Pages of the host that the guest's RAM takes."""
    return os.fstat(memory.fd).st_blocks * 512 // PAGE


def sparse_file(tmp_path: Path) -> Path:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.write(b"A" * PAGE)
        file.seek(9 * PAGE)
        file.write(b"Z" * PAGE)
        file.truncate(16 * PAGE)
    return path


def test_cleared_pages_are_zero_and_go_back_to_the_host() -> None:
    memory = GuestMemory(MIB)
    memory.view(0, MIB)[:] = b"\xff" * MIB
    memory.clear(PAGE - 1, 3 * PAGE)
    assert allocated(memory) == MIB // PAGE - 2
    assert bytes(memory.view(0, 5 * PAGE)) == b"\xff" * (PAGE - 1) + bytes(3 * PAGE) + b"\xff" * (PAGE + 1)


def test_clearing_less_than_a_page_keeps_its_neighbours() -> None:
    memory = GuestMemory(MIB)
    memory.view(0, 8)[:] = b"\xff" * 8
    memory.clear(2, 3)
    assert bytes(memory.view(0, 8)) == b"\xff\xff\0\0\0\xff\xff\xff"


@pytest.mark.parametrize("base", [5 * PAGE, 5 * PAGE + 7])
def test_a_files_bytes_are_loaded_whatever_was_there(tmp_path: Path, base: int) -> None:
    memory, path = GuestMemory(MIB), sparse_file(tmp_path)
    memory.view(0, MIB)[:] = b"\xff" * MIB
    content = path.read_bytes()
    with path.open("rb") as file:
        memory.load(base, 10 * PAGE, file.fileno(), 100)
    assert bytes(memory.view(base, 10 * PAGE)) == content[100 : 100 + 10 * PAGE]
    assert bytes(memory.view(base - 1, 1)) == bytes(memory.view(base + 10 * PAGE, 1)) == b"\xff"


def test_holes_of_a_file_take_no_memory(tmp_path: Path) -> None:
    memory, path = GuestMemory(MIB), sparse_file(tmp_path)
    with path.open("rb") as file:
        memory.load(0, 16 * PAGE, file.fileno(), 0)
    assert allocated(memory) == 2


def test_a_file_that_ends_early_leaves_zeros(tmp_path: Path) -> None:
    memory, path = GuestMemory(MIB), tmp_path / "short"
    path.write_bytes(b"12345")
    memory.view(0, 8)[:] = b"\xff" * 8
    with path.open("rb") as file:
        memory.load(0, 8, file.fileno(), 3)
    assert bytes(memory.view(0, 8)) == b"45" + bytes(6)


def test_ram_above_4_gib_is_loaded_and_cleared_too(tmp_path: Path) -> None:
    memory, path = GuestMemory(LOW_LIMIT + MIB), tmp_path / "file"
    path.write_bytes(b"high" * PAGE)
    with path.open("rb") as file:
        memory.load(HIGH_BASE + PAGE, 4 * PAGE, file.fileno(), 0)
    assert bytes(memory.view(HIGH_BASE + PAGE, 8)) == b"highhigh"
    memory.clear(HIGH_BASE, 3 * PAGE)
    assert bytes(memory.view(HIGH_BASE + 3 * PAGE - 4, 8)) == b"\0\0\0\0high"


def test_outside_of_ram_nothing_is_loaded(tmp_path: Path) -> None:
    memory, path = GuestMemory(MIB), sparse_file(tmp_path)
    with path.open("rb") as file, pytest.raises(GuestAddressError):
        memory.load(MIB - PAGE, 2 * PAGE, file.fileno(), 0)
    with pytest.raises(GuestAddressError):
        memory.clear(MIB, 1)
    assert allocated(memory) == 0
