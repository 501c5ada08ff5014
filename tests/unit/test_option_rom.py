import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.boards.option_roms import rom_of
from emu.bus.option_rom import OptionRom, RomError, made_for
from emu.bus.types import AccessError
from emu.errors import ConfigError

CARD = (0x1AF4, 0x1041)


def image(vendor: int = 0x1AF4, device: int = 0x1000, size: int = 1536) -> bytes:
    """A ROM with one image for x86, whose bytes add up to 0."""
    rom = bytearray(size)
    rom[:3] = b"\x55\xaa" + bytes((size // 512,))
    rom[0x18:0x1A] = b"\x40\x00"
    rom[0x40:0x48] = b"PCIR" + vendor.to_bytes(2, "little") + device.to_bytes(2, "little")
    rom[0x100:] = bytes(range(7)) * ((size - 0x100) // 7) + bytes((size - 0x100) % 7)
    rom[6] = -sum(rom) & 0xFF
    return bytes(rom)


def test_a_rom_is_filled_up_with_ones_to_a_power_of_two() -> None:
    rom = OptionRom(image())
    assert rom.size == 2048
    assert (rom.read(0, 2), rom.read(0x40, 4)) == (0xAA55, 0x5249_4350)
    assert rom.read(1534, 4) == 0xFFFF_0000 | int.from_bytes(image()[-2:], "little")
    assert rom.read(2046, 4) == 0xFFFF
    with pytest.raises(AccessError):
        rom.write(0, 1, 0)


def test_a_rom_is_made_for_a_card_and_its_sum_stays_zero() -> None:
    made = made_for(image(), *CARD)
    assert made[0x44:0x48] == b"\xf4\x1a\x41\x10"
    assert sum(made) & 0xFF == 0
    assert [i for i, (a, b) in enumerate(zip(image(), made, strict=True)) if a != b] == [6, 0x46]
    assert made_for(made, 0x1AF4, 0x1000) == image()


@given(st.binary(max_size=80), st.integers(0, 80))
def test_any_file_is_a_rom_or_refused(content: bytes, at: int) -> None:
    for data in (content, b"\x55\xaa" + content, image()[:at] + content + image()[at + len(content) :]):
        for make in (OptionRom, lambda data: made_for(data, *CARD)):
            with contextlib.suppress(RomError):
                make(data)


def test_a_card_has_the_default_rom_only_where_firmware_may_boot_from_it(tmp_path: Path) -> None:
    (tmp_path / "pxe.rom").write_bytes(image())
    folders = [str(tmp_path)]
    assert rom_of("e1000", {}, "pxe.rom", CARD, boots=False, folders=folders) is None
    assert rom_of("e1000", {"romfile": ""}, "pxe.rom", CARD, boots=True, folders=folders) is None
    assert rom_of("e1000", {}, "other.rom", CARD, boots=True, folders=folders) is None
    found = rom_of("e1000", {}, "pxe.rom", CARD, boots=True, folders=folders)
    assert found is not None
    assert found.read(0x44, 4) == 0x1041_1AF4


def test_a_named_rom_is_there_in_any_case_and_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "my.rom").write_bytes(image())
    found = rom_of("e1000", {"romfile": str(tmp_path / "my.rom")}, "x", CARD, boots=False)
    assert found is not None
    assert found.read(0x44, 4) == 0x1000_1AF4


def test_a_rom_that_cannot_be_had_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"-device e1000: romfile=none\.rom: no such file"):
        rom_of("e1000", {"romfile": "none.rom"}, "x", CARD, boots=False)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(ConfigError, match="begins with 6865, an expansion ROM with 55aa"):
        rom_of("e1000", {"romfile": str(tmp_path / "text")}, "x", CARD, boots=False)
