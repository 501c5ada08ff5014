import gzip
import struct
from pathlib import Path

import pytest

from emu.boot.cache import FileCache
from emu.boot.entry import EntryState
from emu.boot.linux import GDT, load_linux
from emu.boot.recognise import ImageKind, recognise
from emu.bus.memory import GuestMemory
from emu.errors import ConfigError
from emu.testing.guest_elf import Load, build_bzimage, build_elf, note

MIB = 1 << 20
NO_CACHE = FileCache(None)
KERNEL = build_elf([Load(MIB, b"\x90\xf4text", 0x2000), Load(2 * MIB, b"data")], entry=MIB + 1)
LINUX_NOTE = note(b"Linux", 0x100, b"salt")


@pytest.fixture
def memory() -> GuestMemory:
    return GuestMemory(16 * MIB)


def save(tmp_path: Path, data: bytes, name: str = "bzImage") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


def good(tmp_path: Path) -> Path:
    return save(tmp_path, build_bzimage(gzip.compress(KERNEL, mtime=0)))


def zero_page(memory: GuestMemory, state: EntryState) -> bytes:
    return bytes(memory.view(state.registers["rsi"], 4096))


def u32(page: bytes, at: int) -> int:
    return int.from_bytes(page[at : at + 4], "little")


def test_the_kernel_inside_is_unpacked_loaded_and_entered(memory: GuestMemory, tmp_path: Path) -> None:
    memory.view(MIB, 0x3000)[:] = b"\xcc" * 0x3000
    state = load_linux(memory, good(tmp_path), cache=NO_CACHE)
    assert (state.mode, state.rip) == ("long64", MIB + 1)
    assert bytes(memory.view(MIB, 0x2001)) == b"\x90\xf4text" + bytes(0x1FFA) + b"\xcc"
    assert bytes(memory.view(2 * MIB, 4)) == b"data"


def test_the_second_start_takes_the_kernel_from_the_cache(memory: GuestMemory, tmp_path: Path) -> None:
    cache = FileCache(tmp_path / "cache")
    load_linux(memory, good(tmp_path), cache=cache)
    (kept,) = (tmp_path / "cache").iterdir()
    assert kept.read_bytes() == KERNEL
    kept.write_bytes(KERNEL.replace(b"data", b"kept"))
    load_linux(memory, good(tmp_path), cache=cache)
    assert bytes(memory.view(2 * MIB, 4)) == b"kept"


def test_the_zero_page_tells_of_everything(memory: GuestMemory, tmp_path: Path) -> None:
    initrd = save(tmp_path, b"070701\n" * 1000, "initrd")
    state = load_linux(
        memory, good(tmp_path), cmdline="console=ttyS0", initrd=initrd, rsdp=0xE0000, cache=NO_CACHE
    )
    page = zero_page(memory, state)
    assert page[0x1FE:0x202] == b"\x55\xaa\xeb\x6a"
    assert page[0x202:0x208] == b"HdrS\x0f\x02"
    assert page[0x1EF] == 0  # the sentinel
    assert page[0x210] == 0xFF
    base, size = u32(page, 0x218), u32(page, 0x21C)
    assert bytes(memory.view(base, size)) == b"070701\n" * 1000
    assert base % 4096 == 0
    assert bytes(memory.view(u32(page, 0x228), 14)) == b"console=ttyS0\0"
    assert u32(page, 0x70) == 0xE0000
    entries = [struct.unpack_from("<QQI", page, 0x2D0 + 20 * i) for i in range(page[0x1E8])]
    assert entries[0] == (0, 0x9FC00, 1)
    assert entries[-1] == (MIB, 15 * MIB, 1)
    assert (page[6], page[7], page[0x0E], page[0x0F]) == (3, 80, 25, 1)  # screen_info


def test_the_page_tables_map_four_gib_one_to_one(memory: GuestMemory, tmp_path: Path) -> None:
    state = load_linux(memory, good(tmp_path), cache=NO_CACHE)

    def entry(table: int, index: int) -> int:
        return int.from_bytes(memory.view((table & -4096) + 8 * index, 8), "little")

    for address in (0, 0x20_0000, 0x3FE0_0000, 0x8000_0000, 0xFFE0_0000):
        pointers = entry(state.cr3, 0)
        directory = entry(pointers, address >> 30)
        page = entry(directory, address >> 21 & 511)
        assert pointers & directory & page & 3 == 3
        assert page & 0x80
        assert page & -(1 << 21) == address
    assert state.selectors == (0x10, 0x18)
    assert bytes(memory.view(state.gdt, len(GDT))) == GDT
    assert GDT[0x16] == 0xAF  # 64-bit code


def test_what_the_kernel_is_told_does_not_overlap_it(memory: GuestMemory, tmp_path: Path) -> None:
    initrd = save(tmp_path, bytes(5 * MIB), "initrd")
    state = load_linux(memory, good(tmp_path), cmdline="x" * 2047, initrd=initrd, cache=NO_CACHE)
    page = zero_page(memory, state)
    assert state.cr3 >= 0x1000
    assert u32(page, 0x228) + 2048 <= 0x9FC00
    assert u32(page, 0x218) >= 2 * MIB + 4


def test_a_plain_vmlinux_is_recognised_and_loaded(memory: GuestMemory, tmp_path: Path) -> None:
    loads = [Load(MIB, b"\x90\xf4text", 0x2000)]
    path = save(tmp_path, build_elf(loads, entry=MIB + 1, notes=LINUX_NOTE), "vmlinux")
    found = recognise(path)
    assert (found.kind, found.description) == (ImageKind.LINUX, "ELF64 kernel for x86-64, Linux")
    state = load_linux(memory, path, cmdline="quiet")
    assert state.rip == MIB + 1
    page = zero_page(memory, state)
    assert page[0x202:0x206] == b"HdrS"
    assert bytes(memory.view(u32(page, 0x228), 6)) == b"quiet\0"


def test_a_kernel_in_an_unknown_format_unpacks_itself(memory: GuestMemory, tmp_path: Path) -> None:
    image = build_bzimage(b"\x89LZO" + bytes(100), pref_address=4 * MIB, init_size=MIB, entry=b"\x90\xf4")
    state = load_linux(memory, save(tmp_path, image), cache=NO_CACHE)
    assert state.rip == 4 * MIB + 0x200
    assert bytes(memory.view(state.rip, 2)) == b"\x90\xf4"


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (build_bzimage(gzip.compress(KERNEL), version=0x0206), "boot protocol 2.06 without a 64-bit entry"),
        (build_bzimage(gzip.compress(KERNEL), xloadflags=0), "64-bit entry; use a kernel for x86-64"),
        (build_bzimage(gzip.compress(KERNEL), loadflags=0), "without a 64-bit entry"),
        (build_bzimage(gzip.compress(KERNEL, mtime=0))[:-10], "truncated: the compressed kernel ends at"),
        (build_bzimage(gzip.compress(KERNEL, mtime=0))[:0x220], "truncated: the setup header"),
        (build_bzimage(gzip.compress(KERNEL)[:-40] + bytes(40)), "would unpack to 0 bytes"),
        (build_bzimage(gzip.compress(KERNEL)[:-20] + gzip.compress(KERNEL)[-4:]), "its gzip data"),
        (build_bzimage(gzip.compress(b"not ELF at all...")), "not an ELF file"),
        (build_bzimage(gzip.compress(build_elf([Load(MIB, b"x")], bits=32))), "a 32-bit kernel"),
        (build_bzimage(gzip.compress(build_elf([Load(MIB, b"x")], machine=183))), "an ELF file for AArch64"),
        (build_bzimage(gzip.compress(build_elf([Load(MIB, b"x")], entry=7))), "0x7 is not in a segment"),
        (build_bzimage(gzip.compress(build_elf([Load(64 * MIB, b"x")]))), "try -m 65"),
    ],
)  # fmt: skip
def test_what_cannot_be_booted_is_refused_in_one_line(
    memory: GuestMemory, tmp_path: Path, image: bytes, words: str
) -> None:
    path = save(tmp_path, image)
    with pytest.raises(ConfigError) as caught:
        load_linux(memory, path, cache=NO_CACHE)
    text = str(caught.value)
    assert words in text
    assert text.startswith(str(path))
    assert "\n" not in text


def test_a_command_line_too_long_for_the_kernel_is_refused(memory: GuestMemory, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="-append: 2048 bytes; this kernel takes 2047"):
        load_linux(memory, good(tmp_path), cmdline="x" * 2048, cache=NO_CACHE)


def test_an_initrd_too_large_for_ram_is_refused(memory: GuestMemory, tmp_path: Path) -> None:
    initrd = save(tmp_path, b"", "initrd")
    with initrd.open("wb") as file:
        file.truncate(64 * MIB)
    with pytest.raises(ConfigError, match="find no room in RAM; try a larger -m"):
        load_linux(memory, good(tmp_path), initrd=initrd, cache=NO_CACHE)
