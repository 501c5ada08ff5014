import struct
import subprocess
from pathlib import Path

import pytest

from emu.boot.smbios import Machine, build_entry, build_smbios, build_structures

BASE = 0xF1000
MIB, GIB = 1 << 20, 1 << 30
SMALL = Machine("0.1", [(0, 512 * MIB)], 0x306C4, 0x178BFBFF)
LARGE = Machine("0.1", [(0, 3 * GIB), (4 * GIB, 61 * GIB)], 0x306C4, 0x178BFBFF)


def structures(machine: Machine) -> list[bytes]:
    tables, found, at = build_structures(machine), [], 0
    while at < len(tables):
        end = tables.index(b"\0\0", at + tables[at + 1]) + 2
        found.append(tables[at:end])
        at = end
    return found


def test_the_entry_point_adds_up_and_leads_to_the_structures() -> None:
    block = build_smbios(BASE, SMALL)
    assert block[:5] == b"_SM3_"
    assert sum(block[: block[6]]) % 256 == 0
    size, at = struct.unpack_from("<IQ", block, 12)
    assert block[at - BASE :] == build_structures(SMALL)
    assert size == len(block) - (at - BASE)


@pytest.mark.parametrize("machine", [SMALL, LARGE])
def test_every_structure_has_its_own_handle_and_the_last_is_the_end(machine: Machine) -> None:
    found = structures(machine)
    handles = [struct.unpack_from("<H", each, 2)[0] for each in found]
    assert len(set(handles)) == len(handles)
    kinds = [each[0] for each in found]
    assert kinds == [0, 1, 3, 4, 16, 17, *[19] * len(machine.ram), 32, 127]


def test_the_firmware_says_that_the_machine_is_virtual() -> None:
    assert structures(SMALL)[0][0x13] & 1 << 4


@pytest.mark.peer("dmidecode")
@pytest.mark.parametrize(("machine", "size"), [(SMALL, "512 MB"), (LARGE, "64 GB")])
def test_dmidecode_reads_it(tmp_path: Path, machine: Machine, size: str) -> None:
    tables = build_structures(machine)
    dump = tmp_path / "smbios.bin"
    dump.write_bytes(build_entry(32, len(tables)).ljust(32, b"\0") + tables)
    done = subprocess.run(
        ["dmidecode", "--from-dump", dump], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stderr == ""
    for words in ("SMBIOS 3.0.0 present.", "Manufacturer: emu", f"Size: {size}", "End Of Table"):
        assert words in done.stdout
    for words in ("OUT OF SPEC", "BAD INDEX", "Invalid", "Wrong"):
        assert words not in done.stdout
