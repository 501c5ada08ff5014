"""Linux by its 64-bit entry: the kernel out of a bzImage, or a plain vmlinux, and what it is told.

Sources: Linux Documentation/arch/x86/boot.rst ("The Real-Mode Kernel Header", "64-bit Boot Protocol") and
zero-page.rst. A bzImage is unpacked here, not by its own code, which would run translated and without NX;
what was unpacked is kept in the user's cache folder. Nothing is relocated: it lies where it was linked.
"""

import os
import struct
from typing import Final, NamedTuple

from emu.boot.cache import FileCache, cache_folder
from emu.boot.decompress import PayloadError, method_of, unpack, unpacked_size
from emu.boot.elf import EM_X86_64, is_elf, load_segments, parse_elf
from emu.boot.entry import EntryState, LoadMemory
from emu.boot.image_file import ImageFile
from emu.boot.placement import MIB, PAGE, Placement, memory_map
from emu.config import FilePath
from emu.errors import ConfigError

SECTOR: Final = 512
HEADER_START, HEADER_MAGIC_AT, HEADER_LENGTH_AT, HEADER_MAGIC = 0x1F1, 0x202, 0x201, b"HdrS"
HEADER_LIMIT = 0x290
FIRST_64 = 0x020C  # the boot protocol that has a 64-bit entry
LOADED_HIGH, KERNEL_64 = 1 << 0, 1 << 0  # of loadflags and of xloadflags
ENTRY_64 = 0x200  # behind the start of the protected-mode part
UNKNOWN_LOADER = 0xFF
CODE, DATA = 0x10, 0x18  # __BOOT_CS and __BOOT_DS
GDT: Final = bytes(16) + bytes.fromhex("ffff0000009baf00") + bytes.fromhex("ffff00000093cf00")

SCREEN_INFO, RSDP, E820_COUNT, E820_TABLE = 0x000, 0x070, 0x1E8, 0x2D0
TYPE_OF_LOADER, RAMDISK_IMAGE, CMDLINE_POINTER = 0x210, 0x218, 0x228
E820_ENTRY = struct.Struct("<QQI")
E820_ENTRIES = 128
TEXT_80X25 = struct.pack("<BBHHBBBxHxxBBH", 0, 0, 0, 0, 3, 80, 0, 0, 25, 1, 16)
"""screen_info: VGA text mode 3, the cursor at the top left."""

PRESENT, WRITABLE, LARGE = 1 << 0, 1 << 1, 1 << 7
TABLES_SIZE: Final = 6 * PAGE  # PML4, PDPT, four page directories
_WHAT, _PIECE = "the compressed kernel", 1 << 18
PLAIN_CMDLINE_SIZE, PLAIN_INITRD_MAX = 2047, 0x7FFF_FFFF  # of a vmlinux, which has no header to say so


class SetupHeader(NamedTuple):
    """What a bzImage says of itself; `raw` is the setup header as the kernel wants it back, from 0x1F1 on."""

    raw: bytes
    code_at: int
    payload_at: int
    payload_size: int
    pref_address: int
    init_size: int
    initrd_max: int
    cmdline_size: int


PLAIN: Final = SetupHeader(
    bytes(0x11) + HEADER_MAGIC + struct.pack("<H", 0x020F),
    0, 0, 0, 0, 0, PLAIN_INITRD_MAX, PLAIN_CMDLINE_SIZE,
)  # fmt: skip
"""In the place of a header for a vmlinux."""


def read_setup(image: ImageFile) -> SetupHeader:
    """Read the setup header of a bzImage. Raises ConfigError for one without a 64-bit entry or cut short."""
    head = image.read(0, HEADER_LIMIT, "the setup header")
    if head[HEADER_MAGIC_AT : HEADER_MAGIC_AT + 4] != HEADER_MAGIC:
        raise image.error("no Linux setup header", "give a bzImage")
    (version,) = struct.unpack_from("<H", head, 0x206)
    (xloadflags,) = struct.unpack_from("<H", head, 0x236)
    if version < FIRST_64 or not head[0x211] & LOADED_HIGH or not xloadflags & KERNEL_64:
        raise image.error(
            f"boot protocol {version >> 8}.{version & 0xFF:02d} without a 64-bit entry",
            "use a kernel for x86-64, 3.8 or later",
        )
    (initrd_max,) = struct.unpack_from("<I", head, 0x22C)
    (cmdline_size,) = struct.unpack_from("<I", head, 0x238)
    payload_offset, payload_size = struct.unpack_from("<II", head, 0x248)
    pref_address, init_size = struct.unpack_from("<QI", head, 0x258)
    code_at = ((head[HEADER_START] or 4) + 1) * SECTOR
    image.check(code_at, payload_offset + payload_size, _WHAT)
    end = min(HEADER_MAGIC_AT + head[HEADER_LENGTH_AT], HEADER_LIMIT)
    return SetupHeader(
        head[HEADER_START:end], code_at, code_at + payload_offset, payload_size,
        pref_address, init_size, initrd_max, cmdline_size,
    )  # fmt: skip


def load_linux(
    memory: LoadMemory,
    path: FilePath,
    *,
    cmdline: str = "",
    initrd: FilePath | None = None,
    rsdp: int = 0,
    cache: FileCache | None = None,
) -> EntryState:
    """Load a bzImage or vmlinux and what it is told; `rsdp` is the ACPI root pointer's address, 0 for none.

    Raises ConfigError for damaged files, those of another architecture, and what does not fit RAM.
    """
    placement = Placement(memory)
    with ImageFile(path) as image:
        if is_elf(image.head(4)):
            header, entry = PLAIN, _load_elf(memory, placement, image)
        else:
            header = read_setup(image)
            entry = _load_compressed(memory, placement, image, header, cache or FileCache(cache_folder()))
    line = os.fsencode(cmdline)
    if len(line) > header.cmdline_size:
        raise ConfigError(f"-append: {len(line)} bytes; this kernel takes {header.cmdline_size}, shorten it")
    module = (0, 0) if initrd is None else _load_initrd(memory, placement, initrd, header.initrd_max)
    return _hand_over(memory, placement, header, entry, (line, module, rsdp))


def _load_elf(memory: LoadMemory, placement: Placement, image: ImageFile) -> int:
    elf = parse_elf(image)
    if elf.bits != 64 or elf.machine != EM_X86_64:
        raise image.error("a 32-bit kernel without a 64-bit entry", "use a kernel for x86-64")
    load_segments(memory, image, elf, placement)
    if not any(s.physical <= elf.entry < s.physical + s.memory_size for s in elf.loads()):
        raise image.error(f"the entry {elf.entry:#x} is not in a segment", "build it again")
    return elf.entry


def _load_compressed(
    memory: LoadMemory, placement: Placement, image: ImageFile, header: SetupHeader, cache: FileCache
) -> int:
    """Unpack the kernel and load it; where its format is not known here, it is left to unpack itself."""
    head = image.head(min(8, header.payload_size), header.payload_at)
    if method_of(head) is None:
        return _load_as_it_is(memory, placement, image, header)
    tail = image.head(4, header.payload_at + header.payload_size - 4)
    try:
        size = unpacked_size(head, tail, header.payload_size)
        key = cache.hash_of(image.fileno(), lambda: _hash(image, header))
        fd = cache.open(key, size, lambda write: unpack(_payload(image, header), write))
    except PayloadError as error:
        raise image.error(str(error), "copy it again") from error
    with ImageFile(f"{image.name}: its kernel", fd) as kernel:
        return _load_elf(memory, placement, kernel)


def _payload(image: ImageFile, header: SetupHeader) -> bytes:
    return image.read(header.payload_at, header.payload_size, _WHAT)


def _hash(image: ImageFile, header: SetupHeader) -> str:
    """SHA-256 of the payload, read in pieces: in one it would cost twice the time."""
    import hashlib  # noqa: PLC0415 - only a compressed kernel needs it

    digest, piece = hashlib.sha256(), memoryview(bytearray(_PIECE))
    for start in range(0, header.payload_size, _PIECE):
        part = piece[: header.payload_size - start]
        image.read_into(header.payload_at + start, part, _WHAT)
        digest.update(part)
    return digest.hexdigest()


def _load_as_it_is(memory: LoadMemory, placement: Placement, image: ImageFile, header: SetupHeader) -> int:
    """The protected-mode part at the address it prefers; it is entered 0x200 bytes further on."""
    size = image.size - header.code_at
    if size <= ENTRY_64:
        raise image.error("truncated: there is nothing behind the setup code", "copy it again")
    base = header.pref_address or MIB
    placement.claim(base, max(size, header.init_size), f"{image.name}: the kernel")
    image.load(memory, base, header.code_at, size, "the kernel")
    return base + ENTRY_64


def _load_initrd(memory: LoadMemory, placement: Placement, path: FilePath, highest: int) -> tuple[int, int]:
    with ImageFile(path) as file:
        base = placement.top(file.size, f"{file.name}: the initrd", high=highest + 1)
        file.load(memory, base, 0, file.size, "the initrd")
        return base, file.size


def _hand_over(
    memory: LoadMemory,
    placement: Placement,
    header: SetupHeader,
    entry: int,
    told: tuple[bytes, tuple[int, int], int],
) -> EntryState:
    """Write page tables, zero page, GDT and command line as one block below 640 KiB."""
    line, module, rsdp = told
    size = TABLES_SIZE + PAGE + len(GDT) + len(line) + 1
    base = placement.information(size + PAGE, "the kernel's boot parameters") + PAGE - 1 & -PAGE
    zero_page_at = base + TABLES_SIZE
    gdt_at = zero_page_at + PAGE
    zero_page = _zero_page(memory, header, module, rsdp, gdt_at + len(GDT))
    block = _identity_tables(base) + zero_page + GDT + line + b"\0"
    memory.view(base, size)[:] = block
    memory.written(base, size)
    return EntryState("long64", entry, {"rsi": zero_page_at}, gdt=gdt_at, cr3=base, selectors=(CODE, DATA))


def _zero_page(
    memory: LoadMemory, header: SetupHeader, module: tuple[int, int], rsdp: int, line_at: int
) -> bytes:
    """`struct boot_params`: its sentinel is 0, so the kernel trusts every field."""
    page = bytearray(PAGE)
    page[SCREEN_INFO : SCREEN_INFO + len(TEXT_80X25)] = TEXT_80X25
    struct.pack_into("<Q", page, RSDP, rsdp)
    page[HEADER_START : HEADER_START + len(header.raw)] = header.raw
    page[TYPE_OF_LOADER] = UNKNOWN_LOADER
    struct.pack_into("<II", page, RAMDISK_IMAGE, *module)
    struct.pack_into("<I", page, CMDLINE_POINTER, line_at)
    entries = memory_map(memory)[:E820_ENTRIES]
    page[E820_COUNT] = len(entries)
    for i, entry in enumerate(entries):
        E820_ENTRY.pack_into(page, E820_TABLE + i * E820_ENTRY.size, entry.base, entry.size, entry.kind)
    return bytes(page)


def _identity_tables(base: int) -> bytes:
    """Four levels' first three: 4 GiB in pages of 2 MiB, each at its own address."""
    flags = PRESENT | WRITABLE
    top = struct.pack("<Q", base + PAGE | flags)
    pointers = struct.pack("<4Q", *(base + (2 + i) * PAGE | flags for i in range(4)))
    pages = struct.pack("<2048Q", *(i << 21 | flags | LARGE for i in range(2048)))
    return top.ljust(PAGE, b"\0") + pointers.ljust(PAGE, b"\0") + pages
