"""The ACPI tables of the board, by which a kernel finds its interrupt controllers, PCI, timer and power-off.

Source: ACPI 6.5: 5.2.5 (RSDP), 5.2.6 (header), 5.2.7 and 5.2.8 (RSDT, XSDT), 5.2.9 (FADT), 5.2.10 (FACS),
5.2.12 (MADT), 6.2.13 (_PRT), 7.4.2 (_Sx). The FADT is that of ACPI 5.0: no hardware here is newer.

The machine is always in ACPI mode (no SMI command), and PCI interrupts have fixed places: nothing routes them
anew, and an interrupt has the same number at the 8259s and at the I/O APIC.
"""

import struct
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from emu.boot import aml
from emu.boot.mptable import checksummed

HEADER = struct.Struct("<4sIBB6s8sI4sI")
OEM, OEM_TABLE, CREATOR = b"EMU   ", b"EMUPC   ", b"EMU "
CHECKSUM_AT = 9
ALIGNMENT = 64  # what the FACS needs
PCI_DEVICES, PCI_PINS = 32, 4

FACS_SIZE, FADT_SIZE, FADT_REVISION, MADT_REVISION, DSDT_REVISION = 64, 268, 5, 4, 2
BOOT_LEGACY, BOOT_8042 = 1 << 0, 1 << 1
WBINVD, PROC_C1, SLP_BUTTON, RESET_REG_SUP = 1 << 0, 1 << 2, 1 << 5, 1 << 10
NO_LATENCY = 0xFFF  # no C2, no C3
RESET_VALUE = 0x06  # of the reset control register: a hard reset
CENTURY = 0x32
SPACE_MEMORY, SPACE_IO, ACCESS_BYTE, ACCESS_WORD, ACCESS_DWORD = 0, 1, 1, 2, 3

LOCAL_APIC, IO_APIC, OVERRIDE, LOCAL_NMI = 0, 1, 2, 4
PCAT_COMPAT, CPU_ENABLED, ALL_CPUS, ISA = 1, 1, 0xFF, 0
CONFORMS, HIGH_LEVEL = 0x0, 0xD  # polarity and trigger of an override
TIMER_PIN = 2
HPET_SIZE = 0x400
S5 = 0  # SLP_TYP of power-off


class EventTimer(NamedTuple):
    """Where it is, and the low half of its capabilities register."""

    base: int
    capabilities: int


class Hardware(NamedTuple):
    """What the tables describe. `pci_gsi(device, pin)` is the interrupt of pin 1-4, `level_irqs` a bit for
    each ISA interrupt that is level triggered; windows are the addresses that PCI devices may have. `hpet` is
    the high precision event timer.
    """

    lapic: int
    ioapic: int
    pm_base: int
    reset_port: int
    sci: int
    level_irqs: int
    pci_gsi: Callable[[int, int], int]
    memory_windows: tuple[range, ...]
    hpet: EventTimer | None = None


def table(signature: bytes, revision: int, body: bytes) -> bytes:
    """A header before `body`, with its length and checksum."""
    header = HEADER.pack(signature, HEADER.size + len(body), revision, 0, OEM, OEM_TABLE, 1, CREATOR, 1)
    return checksummed(header + body, CHECKSUM_AT)


def build_acpi(base: int, hardware: Hardware) -> bytes:
    """All tables as one block to be put at `base` (64-byte aligned, below 4 GiB); the RSDP comes first."""
    block = bytearray(ALIGNMENT)  # the RSDP's place

    def add(content: bytes) -> int:
        at = base + len(block)
        block.extend(content)
        block.extend(bytes(-len(block) % ALIGNMENT))
        return at

    facs = add(build_facs())
    dsdt = add(build_dsdt(hardware))
    listed = [add(build_fadt(facs, dsdt, hardware)), add(build_madt(hardware))]
    if hardware.hpet is not None:
        listed.append(add(build_hpet(hardware.hpet)))
    rsdt = add(table(b"RSDT", 1, struct.pack(f"<{len(listed)}I", *listed)))
    xsdt = add(table(b"XSDT", 1, struct.pack(f"<{len(listed)}Q", *listed)))
    rsdp = build_rsdp(rsdt, xsdt)
    block[: len(rsdp)] = rsdp
    return bytes(block)


def build_rsdp(rsdt: int, xsdt: int) -> bytes:
    """The root pointer, revision 2, with both of its checksums."""
    first = checksummed(struct.pack("<8sB6sBI", b"RSD PTR ", 0, OEM, 2, rsdt), 8)
    return checksummed(first + struct.pack("<IQB3x", 36, xsdt, 0), 32)


def build_facs() -> bytes:
    """The firmware control structure, which has no checksum; there is nothing to wake from."""
    return struct.pack("<4sI24xB", b"FACS", FACS_SIZE, 2).ljust(FACS_SIZE, b"\0")


def _gas(port: int, bits: int, access: int) -> bytes:
    """A generic address structure (5.2.3.2) of I/O ports."""
    return struct.pack("<BBBBQ", SPACE_IO, bits, 0, access, port)


def build_fadt(facs: int, dsdt: int, hardware: Hardware) -> bytes:
    """The fixed hardware: power management ports, SCI, reset register."""
    event, control, timer = hardware.pm_base, hardware.pm_base + 4, hardware.pm_base + 8
    fields: Iterable[tuple[int, str, int]] = (
        (36, "I", facs),
        (40, "I", dsdt),
        (46, "H", hardware.sci),
        (56, "I", event),
        (64, "I", control),
        (76, "I", timer),
        (88, "B", 4),  # PM1_EVT_LEN
        (89, "B", 2),  # PM1_CNT_LEN
        (91, "B", 4),  # PM_TMR_LEN
        (96, "H", NO_LATENCY),
        (98, "H", NO_LATENCY),
        (108, "B", CENTURY),
        (109, "H", BOOT_LEGACY | BOOT_8042),
        (112, "I", WBINVD | PROC_C1 | SLP_BUTTON | RESET_REG_SUP),
        (128, "B", RESET_VALUE),
        (140, "Q", dsdt),  # and X_FIRMWARE_CTRL stays 0: one of the two FACS addresses is to be given
    )
    content = bytearray(FADT_SIZE)
    for at, code, value in fields:
        struct.pack_into(f"<{code}", content, at, value)
    for at, address in (
        (116, _gas(hardware.reset_port, 8, ACCESS_BYTE)),
        (148, _gas(event, 32, ACCESS_WORD)),
        (172, _gas(control, 16, ACCESS_WORD)),
        (208, _gas(timer, 32, ACCESS_DWORD)),
    ):
        content[at : at + len(address)] = address
    return table(b"FACP", FADT_REVISION, bytes(content[HEADER.size :]))


def build_madt(hardware: Hardware) -> bytes:
    """One processor, one I/O APIC, and which ISA interrupts are not as ISA has them."""
    body = struct.pack("<II", hardware.lapic, PCAT_COMPAT)
    body += struct.pack("<BBBBI", LOCAL_APIC, 8, 0, 0, CPU_ENABLED)
    body += struct.pack("<BBBxII", IO_APIC, 12, 0, hardware.ioapic, 0)
    body += _override(0, TIMER_PIN, CONFORMS)
    for irq in range(16):
        if hardware.level_irqs >> irq & 1 or irq == hardware.sci:
            body += _override(irq, irq, HIGH_LEVEL)
    body += struct.pack("<BBBHB", LOCAL_NMI, 6, ALL_CPUS, CONFORMS, 1)
    return table(b"APIC", MADT_REVISION, body)


def build_hpet(timer: EventTimer) -> bytes:
    """The event timer: what its capabilities register says, and where it is (IA-PC HPET 1.0a, 3.2.4)."""
    address = struct.pack("<BBBBQ", SPACE_MEMORY, 64, 0, 0, timer.base)
    body = struct.pack("<I", timer.capabilities) + address + struct.pack("<BHB", 0, 0, 0)
    return table(b"HPET", 1, body)


def _override(irq: int, gsi: int, flags: int) -> bytes:
    return struct.pack("<BBBBIH", OVERRIDE, 10, ISA, irq, gsi, flags)


def build_dsdt(hardware: Hardware) -> bytes:
    """Power-off, the PCI bus with its windows and interrupts, and the ISA devices behind its bridge."""
    off = aml.package(*[aml.integer(S5)] * 4)
    body = aml.name("_S5", off) + aml.scope("_SB", _pci_bus(hardware), _hpet(hardware.hpet))
    return table(b"DSDT", DSDT_REVISION, body)


def _hpet(timer: EventTimer | None) -> bytes:
    if timer is None:
        return b""
    window = aml.resources(aml.memory_fixed(timer.base, HPET_SIZE))
    return aml.device(
        "HPET", aml.name("_HID", aml.eisa_id("PNP0103")), aml.name("_UID", aml.ZERO), aml.name("_CRS", window)
    )


def _pci_bus(hardware: Hardware) -> bytes:
    windows = aml.resources(
        aml.bus_numbers(range(0x100)),
        aml.io(0xCF8, 8),
        aml.io_window(range(0x0CF8)),
        aml.io_window(range(0x0D00, 0x1_0000)),
        aml.memory_window(range(0xA_0000, 0xC_0000)),
        *(aml.memory_window(window) for window in hardware.memory_windows),
    )
    return aml.device(
        "PCI0",
        aml.name("_HID", aml.eisa_id("PNP0A03")),
        aml.name("_UID", aml.ZERO),
        aml.name("_CRS", windows),
        aml.name("_PRT", _pci_routes(hardware.pci_gsi)),
        _isa_bridge(),
    )


def _pci_routes(pci_gsi: Callable[[int, int], int]) -> bytes:
    """One entry for each pin of each device: its address, the pin, and the global interrupt it raises."""
    return aml.package(
        *(
            aml.package(
                aml.integer(device << 16 | 0xFFFF),
                aml.integer(pin),
                aml.ZERO,
                aml.integer(pci_gsi(device, pin + 1)),
            )
            for device in range(PCI_DEVICES)
            for pin in range(PCI_PINS)
        )
    )


_ISA_DEVICES: Final = (
    ("RTC", "PNP0B00", ((0x70, 2),), 8),
    ("KBD", "PNP0303", ((0x60, 1), (0x64, 1)), 1),
    ("MOU", "PNP0F13", (), 12),
    ("COM1", "PNP0501", ((0x3F8, 8),), 4),
)
"""Name, Plug and Play identifier, ports, interrupt."""


def _isa_bridge() -> bytes:
    devices = [
        aml.device(
            word,
            aml.name("_HID", aml.eisa_id(identifier)),
            aml.name("_CRS", aml.resources(*(aml.io(*ports) for ports in windows), aml.irq(irq))),
        )
        for word, identifier, windows, irq in _ISA_DEVICES
    ]
    return aml.device("ISA", aml.name("_ADR", aml.integer(1 << 16)), *devices)
