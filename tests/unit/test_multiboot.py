import struct
from pathlib import Path

import pytest

from emu.boot.multiboot import find_header, load_multiboot, parse_modules
from emu.bus.memory import GuestMemory
from emu.errors import ConfigError
from emu.testing.guest_elf import Load, build_elf, multiboot_header

MIB = 1 << 20


@pytest.fixture
def memory() -> GuestMemory:
    return GuestMemory(16 * MIB)


def words(memory: GuestMemory, at: int, count: int) -> list[int]:
    return list(struct.unpack(f"<{count}I", memory.view(at, 4 * count)))


def text(memory: GuestMemory, at: int) -> bytes:
    return bytes(memory.view(at, 512)).split(b"\0")[0]


def save(tmp_path: Path, data: bytes, name: str = "kernel.elf") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


def kernel(flags: int = 3, **options: object) -> bytes:
    load = Load(MIB, multiboot_header(flags) + b"code", 0x2000)
    return build_elf([load], bits=32, entry=MIB + 12, **options)  # type: ignore[arg-type]  # options by name


def test_an_elf_kernel_gets_magic_memory_and_command_line(memory: GuestMemory, tmp_path: Path) -> None:
    memory.view(MIB, 0x3000)[:] = b"\xcc" * 0x3000
    path = save(tmp_path, kernel())
    state = load_multiboot(memory, path, cmdline="one two")
    assert (state.mode, state.rip) == ("protected32", MIB + 12)
    assert state.registers["eax"] == 0x2BADB002
    info = state.registers["ebx"]
    flags, lower, upper, device, cmdline, count, _ = words(memory, info, 7)
    assert flags == 0x24F
    assert (lower, upper) == (639, 15 * 1024)
    assert device == 0x8000FFFF
    assert text(memory, cmdline) == f"{path} one two".encode()
    assert count == 0
    assert text(memory, words(memory, info + 64, 1)[0]) == b"emu"
    assert bytes(memory.view(MIB + 16, 0x1FF1)) == bytes(0x1FF0) + b"\xcc"


def test_the_memory_map_has_the_size_before_each_entry(memory: GuestMemory, tmp_path: Path) -> None:
    info = load_multiboot(memory, save(tmp_path, kernel())).registers["ebx"]
    length, at = words(memory, info + 44, 2)
    entries, end = [], at + length
    while at < end:
        size, base, span, kind = struct.unpack("<IQQI", memory.view(at, 24))
        entries.append((base, span, kind))
        at += size + 4
    assert at == end
    assert entries == [(0, 0x9FC00, 1), (0x9FC00, 0x400, 2), (0xE0000, 0x20000, 2), (MIB, 15 * MIB, 1)]


def test_modules_lie_on_pages_behind_the_kernel_with_their_strings(
    memory: GuestMemory, tmp_path: Path
) -> None:
    a, b = save(tmp_path, b"A" * 5000, "a"), save(tmp_path, b"B", "b,b")
    listed = f"{a} x=1 y,{b}".replace("b,b", "b,,b")
    info = load_multiboot(memory, save(tmp_path, kernel()), modules=parse_modules(listed)).registers["ebx"]
    count, at = words(memory, info + 20, 2)
    assert count == 2
    start, end, string, reserved = words(memory, at, 4)
    assert (start, end, reserved) == (MIB + 0x2000, MIB + 0x2000 + 5000, 0)
    assert bytes(memory.view(start, 5000)) == b"A" * 5000
    assert text(memory, string) == f"{a} x=1 y".encode()
    start, end, string, reserved = words(memory, at + 16, 4)
    assert (start, end) == (MIB + 0x4000, MIB + 0x4001)
    assert text(memory, string) == str(b).encode()


def test_symbols_are_loaded_and_their_sections_say_where(memory: GuestMemory, tmp_path: Path) -> None:
    image = kernel(sections=[(2, b"symbols!"), (3, b"\0name\0"), (1, b"other")])
    info = load_multiboot(memory, save(tmp_path, image)).registers["ebx"]
    assert words(memory, info, 1)[0] & 0x20
    number, size, at, names = words(memory, info + 28, 4)
    assert (number, size, names) == (4, 40, 0)
    symbols, strings, other = (words(memory, at + size * i + 12, 1)[0] for i in (1, 2, 3))
    assert bytes(memory.view(symbols, 8)) == b"symbols!"
    assert bytes(memory.view(strings, 6)) == b"\0name\0"
    assert other == 0


def test_a_wish_for_a_video_mode_does_not_stop_the_boot(memory: GuestMemory, tmp_path: Path) -> None:
    assert load_multiboot(memory, save(tmp_path, kernel(7))).rip == MIB + 12


def test_a_flat_image_is_loaded_by_the_addresses_in_its_header(memory: GuestMemory, tmp_path: Path) -> None:
    base = 2 * MIB
    memory.view(base, 0x2000)[:] = b"\xcc" * 0x2000
    header = multiboot_header(0, [base + 16, base, base + 60, base + 0x1000, base + 48])
    image = b"junk" + b"F" * 16 + header + b"code" * 20
    state = load_multiboot(memory, save(tmp_path, image))
    assert state.rip == base + 48
    assert bytes(memory.view(base, 60)) == image[4:64]
    assert bytes(memory.view(base + 60, 0x1001 - 60)) == bytes(0x1000 - 60) + b"\xcc"


def test_a_flat_image_without_ends_is_the_whole_file(memory: GuestMemory, tmp_path: Path) -> None:
    image = multiboot_header(0, [MIB, MIB, 0, 0, MIB + 32]) + b"code"
    assert load_multiboot(memory, save(tmp_path, image)).rip == MIB + 32
    assert bytes(memory.view(MIB, len(image))) == image


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        ([MIB, MIB + 4, 0, 0, MIB], "load_addr does not fit"),
        ([MIB + 64, MIB, 0, 0, MIB], "load_addr does not fit"),
        ([MIB, MIB, MIB - 1, 0, MIB], "contradict"),
        ([MIB, MIB, MIB + 32, MIB + 8, MIB], "contradict"),
        (
            [MIB, MIB, MIB + 0x9000, 0, MIB],
            "truncated: the multiboot image ends at byte 0x9000, the file has 0x20",
        ),
        ([MIB, MIB, 0, 0, 0], "entry_addr 0x0 is outside"),
        ([MIB, MIB, 0, 0xF000_0000, MIB], "not RAM"),
    ],
)
def test_addresses_that_make_no_sense_are_the_users_error(
    memory: GuestMemory, tmp_path: Path, addresses: list[int], expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        load_multiboot(memory, save(tmp_path, multiboot_header(0, addresses)))


def test_headers_are_found_aligned_and_with_a_right_sum_only() -> None:
    header = multiboot_header(3)
    assert find_header(bytes(8180) + header) is not None
    assert find_header(bytes(8184) + header) is None
    assert find_header(b"xx" + header) is None
    assert find_header(header[:8] + b"\0\0\0\0" + header) is not None
    assert find_header(header[:8] + b"\0\0\0\0") is None
    assert find_header(bytes(8172) + multiboot_header(0, [1, 2, 3, 4, 5])) is None


def test_what_the_loader_cannot_do_is_refused(memory: GuestMemory, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"demands unknown features \(0x0010\)"):
        load_multiboot(memory, save(tmp_path, kernel(0x10)))
    long = build_elf([Load(MIB, multiboot_header())], entry=MIB)
    with pytest.raises(ConfigError, match="Cannot load x86-64 image, give a 32bit one"):
        load_multiboot(memory, save(tmp_path, long))
    with pytest.raises(ConfigError, match="has no multiboot header"):
        load_multiboot(memory, save(tmp_path, bytes(100)))
    with pytest.raises(ConfigError, match="not an ELF file; set flag 16"):
        load_multiboot(memory, save(tmp_path, multiboot_header()))
    with pytest.raises(ConfigError, match="missing: cannot be read"):
        load_multiboot(memory, save(tmp_path, kernel()), modules=parse_modules(str(tmp_path / "missing")))


def test_a_list_of_modules_is_cut_at_commas() -> None:
    assert [(m.path, m.text) for m in parse_modules("a arg,b,,c two words, d")] == [
        ("a", "a arg"),
        ("b,c", "b,c two words"),
        ("d", "d"),
    ]
