import struct
import subprocess
from pathlib import Path

import pytest

from emu.boot import aml
from emu.boot.acpi import EventTimer, Hardware, build_acpi

BASE = 0xE0000
HARDWARE = Hardware(
    lapic=0xFEE0_0000,
    ioapic=0xFEC0_0000,
    pm_base=0x600,
    reset_port=0xCF9,
    sci=9,
    level_irqs=1 << 10 | 1 << 11,
    pci_gsi=lambda device, pin: 10 + (device + pin) % 2,
    memory_windows=(range(0xE000_0000, 0xFEC0_0000), range(1 << 38, 1 << 39)),
)
BLOCK = build_acpi(BASE, HARDWARE)


def at(address: int, length: int) -> bytes:
    return BLOCK[address - BASE : address - BASE + length]


def table(address: int) -> bytes:
    length = int.from_bytes(at(address + 4, 4), "little")
    found = at(address, length)
    assert len(found) == length
    return found


def tables() -> dict[str, bytes]:
    rsdt, xsdt = struct.unpack_from("<I4xQ", BLOCK, 16)
    found = {"RSDT": table(rsdt), "XSDT": table(xsdt)}
    listed = struct.unpack("<2Q", found["XSDT"][36:])
    assert struct.unpack("<2I", found["RSDT"][36:]) == listed
    for address in listed:
        found[table(address)[:4].decode()] = table(address)
    facs, dsdt = struct.unpack_from("<II", found["FACP"], 36)
    assert struct.unpack_from("<Q", found["FACP"], 140) == (dsdt,)
    found["DSDT"], found["FACS"] = table(dsdt), table(facs)
    assert facs % 64 == 0
    return found


def test_the_root_pointer_has_both_checksums() -> None:
    assert BLOCK[:8] == b"RSD PTR "
    assert BLOCK[15] == 2
    assert sum(BLOCK[:20]) % 256 == 0
    assert sum(BLOCK[:36]) % 256 == 0


def test_every_table_is_found_and_adds_up_to_zero() -> None:
    found = tables()
    assert sorted(found) == ["APIC", "DSDT", "FACP", "FACS", "RSDT", "XSDT"]
    assert [name for name, content in found.items() if name != "FACS" and sum(content) % 256] == []


def test_the_fadt_names_ports_and_needs_no_smi() -> None:
    fadt = tables()["FACP"]
    assert len(fadt) == 268
    (sci,) = struct.unpack_from("<H", fadt, 46)
    smi_command, enable = struct.unpack_from("<IB", fadt, 48)
    assert (sci, smi_command, enable) == (9, 0, 0)
    assert [struct.unpack_from("<I", fadt, offset)[0] for offset in (56, 64, 76)] == [0x600, 0x604, 0x608]
    space, bits, _, _, port = struct.unpack_from("<BBBBQ", fadt, 116)
    assert (space, bits, port, fadt[128]) == (1, 8, 0xCF9, 6)


def test_the_madt_has_one_cpu_and_the_overrides() -> None:
    madt = tables()["APIC"]
    assert struct.unpack_from("<I", madt, 36) == (0xFEE0_0000,)
    entries, offset = [], 44
    while offset < len(madt):
        entries.append(madt[offset : offset + madt[offset + 1]])
        offset += madt[offset + 1]
    overrides = [struct.unpack("<BBBBIH", entry)[3:] for entry in entries if entry[0] == 2]
    assert overrides == [(0, 2, 0), (9, 9, 0xD), (10, 10, 0xD), (11, 11, 0xD)]
    assert [entry[0] for entry in entries] == [0, 1, 2, 2, 2, 2, 4]


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (0, "00"),
        (1, "01"),
        (2, "0a02"),
        (0x1FFFF, "0cffff0100"),
        (0x1234, "0b3412"),
        (1 << 38, "0e0000000040000000"),
    ],
)
def test_integers_take_the_shortest_form(value: int, code: str) -> None:
    assert aml.integer(value).hex() == code


@pytest.mark.parametrize("size", [0, 62, 63, 64, 4092, 4093, 4094, 70000])
def test_a_package_length_counts_its_own_bytes(size: int) -> None:
    coded = aml.length(bytes(size))
    follow = coded[0] >> 6
    value = coded[0] & (0xF if follow else 0x3F)
    for i in range(follow):
        value |= coded[1 + i] << 4 + 8 * i
    assert value == len(coded) == size + 1 + follow


def test_eisa_identifiers_are_packed_as_plug_and_play_does() -> None:
    assert aml.eisa_id("PNP0A03").hex() == "0c41d00a03"


def iasl(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["iasl", *words], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.peer("iasl")
@pytest.mark.parametrize("name", ["APIC", "DSDT", "FACP", "FACS", "RSDT", "XSDT"])
def test_a_table_survives_the_reference_compiler(tmp_path: Path, name: str) -> None:
    """Disassembled and, for all that has a source form, compiled again without a warning."""
    original = tables()[name]
    (tmp_path / "t.aml").write_bytes(original)
    said = iasl(tmp_path, "-d", "t.aml")
    assert "Warning" not in said
    assert "Error" not in said
    said = iasl(tmp_path, "-p", "again", "t.dsl")
    for word in ("Error", "Warning", "Remark"):
        assert f" 0 {word}s" in said or word not in said, said
    again = (tmp_path / "again.aml").read_bytes()
    if name == "DSDT":
        assert again[36:] == original[36:]
    else:
        assert len(again) == len(original)


@pytest.mark.peer("iasl")
def test_the_reference_disassembler_sees_devices_and_routes(tmp_path: Path) -> None:
    (tmp_path / "t.aml").write_bytes(tables()["DSDT"])
    iasl(tmp_path, "-d", "t.aml")
    source = (tmp_path / "t.dsl").read_text()
    for words in ("Name (_S5", 'EisaId ("PNP0A03")', 'EisaId ("PNP0501")', "Name (_PRT", "QWordMemory"):
        assert words in source
    assert source.count("FFFF, ") >= 4 * 32


def test_the_event_timer_has_its_table_and_its_device(tmp_path: Path) -> None:
    block = build_acpi(BASE, HARDWARE._replace(hpet=EventTimer(0xFED0_0000, 0x8086_A201)))
    found = block[block.index(b"HPET\x38") :][:56]
    assert sum(found) % 256 == 0
    assert struct.unpack_from("<IBBBBQBHB", found, 36) == (0x8086_A201, 0, 64, 0, 0, 0xFED0_0000, 0, 0, 0)
    assert aml.memory_fixed(0xFED0_0000, 0x400) in block
    assert aml.eisa_id("PNP0103") in block
    assert len(block) > len(BLOCK)
