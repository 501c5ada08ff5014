import struct
from pathlib import Path

import pytest

from emu.boot.entry import FLAT_GDT
from emu.boot.pvh import load_pvh
from emu.bus.memory import GuestMemory
from emu.errors import ConfigError
from emu.testing.guest_elf import Load, build_elf, note, pvh_note

MIB = 1 << 20


@pytest.fixture
def memory() -> GuestMemory:
    return GuestMemory(16 * MIB)


def u32(memory: GuestMemory, at: int) -> int:
    return int.from_bytes(memory.view(at, 4), "little")


def u64(memory: GuestMemory, at: int) -> int:
    return int.from_bytes(memory.view(at, 8), "little")


def text(memory: GuestMemory, at: int) -> bytes:
    return bytes(memory.view(at, 256)).split(b"\0")[0]


def save(tmp_path: Path, data: bytes, name: str = "kernel.elf") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("width", [4, 8])
def test_a_kernel_is_loaded_cleared_and_entered_by_its_note(
    memory: GuestMemory, tmp_path: Path, bits: int, width: int
) -> None:
    memory.view(MIB, 0x3000)[:] = b"\xcc" * 0x3000
    image = build_elf(
        [Load(MIB, b"code", 0x2000)],
        bits=bits,
        entry=0x1234,
        notes=note(b"GNU", 3, b"buildid") + pvh_note(MIB + 2, width),
    )
    state = load_pvh(memory, save(tmp_path, image))
    assert (state.mode, state.rip) == ("protected32", MIB + 2)
    assert bytes(memory.view(MIB, 0x2001)) == b"code" + bytes(0x1FFC) + b"\xcc"
    assert bytes(memory.view(state.gdt, 24)) == FLAT_GDT


def test_start_info_tells_of_command_line_map_and_modules(memory: GuestMemory, tmp_path: Path) -> None:
    kernel = save(tmp_path, build_elf([Load(MIB, b"code")], notes=pvh_note(MIB)))
    initrd = save(tmp_path, b"ramdisk" * 1000, "initrd")
    state = load_pvh(memory, kernel, cmdline="console=ttyS0", initrd=initrd, rsdp=0xF0000)
    info = state.registers["ebx"]
    assert [u32(memory, info + 4 * i) for i in range(4)] == [0x336EC578, 1, 0, 1]
    modules, cmdline, rsdp, entries = (u64(memory, info + 16 + 8 * i) for i in range(4))
    assert rsdp == 0xF0000
    assert text(memory, cmdline) == b"console=ttyS0"
    base, size = u64(memory, modules), u64(memory, modules + 8)
    assert bytes(memory.view(base, size)) == b"ramdisk" * 1000
    assert base % 4096 == 0
    assert base + size > 15 * MIB
    count = u32(memory, info + 48)
    found = [struct.unpack("<QQII", memory.view(entries + 24 * i, 24)) for i in range(count)]
    assert found == [
        (0, 0x9FC00, 1, 0),
        (0x9FC00, 0x400, 2, 0),
        (0xE0000, 0x20000, 2, 0),
        (MIB, 15 * MIB, 1, 0),
    ]
    assert info < 0x9FC00


def test_ram_above_4_gib_is_in_the_map(tmp_path: Path) -> None:
    memory = GuestMemory(4096 * MIB)
    kernel = save(tmp_path, build_elf([Load(MIB, b"code")], notes=pvh_note(MIB)))
    info = load_pvh(memory, kernel).registers["ebx"]
    last = u64(memory, info + 40) + 24 * (u32(memory, info + 48) - 1)
    assert (u64(memory, last), u64(memory, last + 8)) == (1 << 32, 1 << 30)
    assert u32(memory, info + 12) == 0


def test_what_the_kernel_is_told_avoids_its_segments(memory: GuestMemory, tmp_path: Path) -> None:
    low = Load(0x1000, b"low", 0x9FC00 - 0x1000)
    kernel = save(tmp_path, build_elf([low, Load(MIB, b"code")], notes=pvh_note(MIB)))
    info = load_pvh(memory, kernel, cmdline="x").registers["ebx"]
    assert info > 15 * MIB


@pytest.mark.parametrize(
    ("loads", "entry", "expected"),
    [
        (
            [Load(MIB, b"a", 32), Load(MIB + 16, b"b")],
            MIB,
            "segment 1 at 0x100010-0x100011 overlaps .*segment 0",
        ),
        (
            [Load(32 * MIB, b"a", MIB)],
            32 * MIB,
            "segment 0 goes to 0x2000000-0x2100000, which is not RAM; try -m 33",
        ),
        ([Load(0xA0000, b"a")], 0xA0000, "not RAM; link it into RAM"),
        ([Load(0xFFFF_FFFF_8000_0000, b"a")], MIB, "the PVH entry 0x100000 is not in a segment"),
        ([Load(0xFFFF_FFFF_FFFF_FFFF, b"abcd")], 0xFFFF_FFFF_FFFF_FFFF, "not RAM"),
        ([Load(MIB, b"a")], 2 * MIB, "the PVH entry 0x200000 is not in a segment"),
    ],
)
def test_impossible_segments_are_the_users_error(
    memory: GuestMemory, tmp_path: Path, loads: list[Load], entry: int, expected: str
) -> None:
    kernel = save(tmp_path, build_elf(loads, notes=pvh_note(entry)))
    with pytest.raises(ConfigError, match=expected):
        load_pvh(memory, kernel)


def test_a_truncated_file_says_what_is_missing(memory: GuestMemory, tmp_path: Path) -> None:
    image = build_elf([Load(MIB, bytes(0x1000))], bits=32, notes=pvh_note(MIB))
    size = len(image)
    expected = f"kernel.elf: truncated: segment 1 ends at byte {size:#x}, the file has {size - 16:#x}; copy"
    with pytest.raises(ConfigError, match=expected):
        load_pvh(memory, save(tmp_path, image[:-16]))
    with pytest.raises(ConfigError, match=r"truncated: the program header table ends at byte 0x74"):
        load_pvh(memory, save(tmp_path, image[:60]))
    with pytest.raises(ConfigError, match="truncated: the ELF header"):
        load_pvh(memory, save(tmp_path, image[:20]))


def test_other_machines_and_kernels_without_a_note_are_refused(memory: GuestMemory, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="an ELF file for AArch64, this is an x86 machine"):
        load_pvh(memory, save(tmp_path, build_elf([Load(MIB, b"a")], machine=183)))
    with pytest.raises(ConfigError, match="has no PVH note"):
        load_pvh(memory, save(tmp_path, build_elf([Load(MIB, b"a")], notes=note(b"Xen", 5, b"abcd"))))
    with pytest.raises(ConfigError, match="not an ELF file"):
        load_pvh(memory, save(tmp_path, b"x" * 100))


def test_an_initrd_that_does_not_fit_asks_for_more_memory(memory: GuestMemory, tmp_path: Path) -> None:
    kernel = save(tmp_path, build_elf([Load(MIB, b"code")], notes=pvh_note(MIB)))
    initrd = tmp_path / "initrd"
    with initrd.open("wb") as file:
        file.truncate(64 * MIB)
    with pytest.raises(ConfigError, match="the initrd: 67108864 bytes find no room in RAM; try a larger -m"):
        load_pvh(memory, kernel, initrd=initrd)
    with pytest.raises(ConfigError, match="nothing: cannot be read: No such file"):
        load_pvh(memory, kernel, initrd=tmp_path / "nothing")


def test_the_smallest_machine_takes_a_kernel_in_low_memory(tmp_path: Path) -> None:
    kernel = save(tmp_path, build_elf([Load(0x10000, b"code", 0x1000)], notes=pvh_note(0x10000)))
    assert load_pvh(GuestMemory(MIB), kernel).rip == 0x10000
