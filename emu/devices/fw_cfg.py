"""QEMU's firmware configuration device: items that firmware and test kernels read by number.

Source: QEMU, docs/specs/fw_cfg.rst ("x86 Register Locations", "Selecting a Configuration Item", "File
Directory"). The DMA interface is not there, and the feature word says so.
"""

import struct
from collections.abc import Mapping, Sequence

from emu.bus.types import AccessError, Fault

SIGNATURE, FEATURES, UUID, RAM_SIZE, NOGRAPHIC, NB_CPUS = 0x00, 0x01, 0x02, 0x03, 0x04, 0x05
NUMA, BOOT_MENU, MAX_CPUS, FILE_DIR, FILE_FIRST = 0x0D, 0x0E, 0x0F, 0x19, 0x20
IRQ0_OVERRIDE = 0x8002
FEATURE_TRADITIONAL = 1 << 0
WRITE_CHANNEL = 1 << 14
MAX_NAME = 55
_FILE = struct.Struct(">IHH56s")
_E820 = struct.Struct("<QQI")


def standard_items(ram_bytes: int, cpus: int) -> dict[int, bytes]:
    """The items of a PC. `ram_bytes` counts all RAM."""
    return {
        SIGNATURE: b"QEMU",
        FEATURES: struct.pack("<I", FEATURE_TRADITIONAL),
        UUID: bytes(16),
        RAM_SIZE: struct.pack("<Q", ram_bytes),
        NOGRAPHIC: struct.pack("<H", 0),
        NB_CPUS: struct.pack("<H", cpus),
        NUMA: struct.pack("<Q", 0) + bytes(8 * cpus),
        BOOT_MENU: struct.pack("<H", 0),
        MAX_CPUS: struct.pack("<H", cpus),
        IRQ0_OVERRIDE: struct.pack("<I", 1),
    }


def e820_file(ram: Sequence[tuple[int, int]]) -> bytes:
    """The content of `etc/e820` from (address, bytes) of each piece of RAM."""
    return b"".join(_E820.pack(base, size, 1) for base, size in ram)


class FwCfg:
    """Ports 0x510 (selector, 16 bits) and 0x511 (data, bytes); a `Region` of two ports, mapped wide.

    `files` get their numbers by name. Nothing can be written into an item.
    """

    size = 2

    def __init__(self, items: Mapping[int, bytes], files: Mapping[str, bytes]) -> None:
        self._items = dict(items)
        directory = [struct.pack(">I", len(files))]
        for key, (name, content) in enumerate(sorted(files.items()), FILE_FIRST):
            if len(name) > MAX_NAME:
                raise ValueError(f"fw_cfg file name of {len(name)} bytes, at most {MAX_NAME}")
            directory.append(_FILE.pack(len(content), key, 0, name.encode("ascii")))
            self._items[key] = content
        self._items[FILE_DIR] = b"".join(directory)
        self._selected, self._position = b"QEMU", 0

    def reset(self) -> None:
        """Select the signature."""
        self._selected, self._position = self._items.get(SIGNATURE, b""), 0

    def read(self, _offset: int, width: int) -> int:
        """The next byte of the item, zero behind its end, at either port. Raises AccessError for words."""
        if width != 1:
            raise AccessError(Fault.WIDTH)
        selected, position = self._selected, self._position
        if position >= len(selected):
            return 0
        self._position = position + 1
        return selected[position]

    def write(self, offset: int, width: int, value: int) -> None:
        """Select an item; writes to the data port are dropped."""
        if offset == 0 and width == 2:
            self._selected, self._position = self._items.get(value & ~WRITE_CHANNEL, b""), 0

    def register_name(self, offset: int, is_write: bool) -> str:
        """The specification's words."""
        return "selector" if is_write and not offset else "data"
