import struct

from emu.boot.bios_data import DUMMY_HANDLER, IRET, build_bios_data, build_vectors
from emu.boot.mptable import Chips, PciWire, build_mp_tables

CHIPS = Chips(0xFEE00000, 0xFEC00000, 0, 0x00170020, 0x306C4, 0x0789ABCD)
SIZES = {0: 20, 1: 8, 2: 8, 3: 8, 4: 8}


def entries(tables: bytes) -> list[bytes]:
    count = struct.unpack_from("<H", tables, 16 + 34)[0]
    found, at = [], 16 + 44
    for _ in range(count):
        size = SIZES[tables[at]]
        found.append(tables[at : at + size])
        at += size
    assert at == len(tables)
    return found


def test_pointer_and_table_have_signatures_lengths_and_checksums() -> None:
    tables = build_mp_tables(0xF0000, CHIPS, [], 0)
    pointer, table = tables[:16], tables[16:]
    assert (pointer[:4], table[:4]) == (b"_MP_", b"PCMP")
    assert struct.unpack_from("<IBB", pointer, 4) == (0xF0010, 1, 4)
    assert struct.unpack_from("<H", table, 4)[0] == len(table)
    assert sum(pointer) & 0xFF == sum(table) & 0xFF == 0
    assert struct.unpack_from("<I", table, 36)[0] == 0xFEE00000


def test_one_boot_processor_two_buses_and_one_io_apic_are_listed() -> None:
    found = entries(build_mp_tables(0xF0000, CHIPS, [], 0))
    assert found[0][:4] == bytes((0, 0, 0x14, 3))
    assert [entry[2:] for entry in found if entry[0] == 1] == [b"PCI   ", b"ISA   "]
    assert [entry for entry in found if entry[0] == 2] == [
        struct.pack("<BBBBI", 2, 0, 0x20, 1, 0xFEC00000),
    ]


def test_isa_interrupts_go_one_to_one_but_the_timer_to_pin_2() -> None:
    found = entries(build_mp_tables(0xF0000, CHIPS, [], 0))
    isa = {entry[5]: entry[7] for entry in found if entry[0] == 3}
    assert isa == {0: 2} | {irq: irq for irq in range(16) if irq not in (0, 2)}


def test_interrupts_of_pci_take_the_place_of_isa_ones() -> None:
    found = entries(build_mp_tables(0xF0000, CHIPS, [PciWire(4, 2, 11)], 1 << 11 | 1 << 10))
    pci = [entry for entry in found if entry[0] == 3 and entry[4] == 0]
    assert pci == [struct.pack("<BBHBBBB", 3, 0, 0xD, 0, 4 << 2 | 1, 0, 11)]
    assert not {entry[5] for entry in found if entry[0] == 3 and entry[4] == 1} & {10, 11}


def test_the_8259_and_nmi_are_wired_to_the_local_pins() -> None:
    found = entries(build_mp_tables(0xF0000, CHIPS, [], 0))
    assert [(entry[1], entry[6], entry[7]) for entry in found if entry[0] == 4] == [
        (3, 0xFF, 0),
        (1, 0xFF, 1),
    ]


def test_the_bios_data_area_says_where_conventional_memory_ends() -> None:
    area = build_bios_data(0x9FC00, 0x9FC00)
    assert len(area) == 256
    assert struct.unpack_from("<H", area, 0x0E)[0] == 0x9FC0
    assert struct.unpack_from("<H", area, 0x13)[0] == 639
    assert struct.unpack_from("<H", area, 0x00)[0] == 0x3F8
    assert struct.unpack_from("<H", area, 0x63)[0] == 0x3D4


def test_every_real_mode_vector_leads_to_the_iret_at_its_traditional_place() -> None:
    vectors = build_vectors()
    assert len(vectors) == 1024
    assert {struct.unpack_from("<HH", vectors, 4 * i) for i in range(256)} == {(0xFF53, 0xF000)}
    assert (DUMMY_HANDLER, IRET) == (0xFFF53, b"\xcf")
