/* Source: PCI Local Bus Specification 3.0, sections 3.2.2.3, 6.1, 6.7 and 6.8.2. */
#include "pci.h"

#include "cpu.h"

enum {
    CONFIG_ADDRESS = 0xCF8, CONFIG_DATA = 0xCFC,
    VENDOR = 0x00, COMMAND = 0x04, STATUS = 0x06, HEADER_TYPE = 0x0E, BAR0 = 0x10,
    CAPABILITIES = 0x34, INTERRUPT_LINE = 0x3C,
    COMMAND_MEMORY = 1 << 1, COMMAND_MASTER = 1 << 2, COMMAND_NO_INTX = 1 << 10,
    STATUS_CAPABILITIES = 1 << 4, HEADER_MULTI_FUNCTION = 0x80,
    BAR_IO = 1, BAR_TYPE = 6, BAR_64 = 4,
    MSIX_CONTROL = 2, MSIX_TABLE = 4, MSIX_ENABLE = 1 << 15, MSIX_FUNCTION_MASK = 1 << 14,
};

static const u32 NOBODY = 0xFFFFFFFF;

static void select(pci_address at, u8 offset)
{
    out32(CONFIG_ADDRESS, 1u << 31 | (u32)at << 8 | (offset & 0xFC));
}

u32 pci_read32(pci_address at, u8 offset)
{
    select(at, offset);
    return in32(CONFIG_DATA);
}

u16 pci_read16(pci_address at, u8 offset)
{
    select(at, offset);
    return in16(CONFIG_DATA + (offset & 2));
}

u8 pci_read8(pci_address at, u8 offset)
{
    select(at, offset);
    return in8(CONFIG_DATA + (offset & 3));
}

void pci_write32(pci_address at, u8 offset, u32 value)
{
    select(at, offset);
    out32(CONFIG_DATA, value);
}

void pci_write16(pci_address at, u8 offset, u16 value)
{
    select(at, offset);
    out16(CONFIG_DATA + (offset & 2), value);
}

pci_address pci_find(u16 vendor, u16 device, u16 other_device, u64 index)
{
    for (u16 at = 0; at < 256; at++) {
        u32 ids = pci_read32(at, VENDOR);
        u16 id = (u16)(ids >> 16);
        if ((ids & 0xFFFF) == vendor && (id == device || id == other_device) && index-- == 0)
            return at;
        bool more = ids != NOBODY && pci_read8(at, HEADER_TYPE) & HEADER_MULTI_FUNCTION;
        if (!(at & 7) && !more)
            at |= 7;            /* one function, or none: on to the next device */
    }
    return PCI_NONE;
}

void pci_enable(pci_address at)
{
    u16 command = pci_read16(at, COMMAND);
    pci_write16(at, COMMAND, command | COMMAND_MEMORY | COMMAND_MASTER | COMMAND_NO_INTX);
}

u8 pci_enable_line(pci_address at)
{
    u16 command = pci_read16(at, COMMAND) & (u16)~COMMAND_NO_INTX;
    pci_write16(at, COMMAND, command | COMMAND_MEMORY | COMMAND_MASTER);
    return pci_read8(at, INTERRUPT_LINE);
}

u8 pci_capability(pci_address at, u8 id, u8 after)
{
    if (!(pci_read16(at, STATUS) & STATUS_CAPABILITIES))
        return 0;
    u8 offset = pci_read8(at, after ? (u8)(after + 1) : CAPABILITIES) & 0xFC;
    for (u32 steps = 0; offset && steps < 64; steps++) {
        u16 header = pci_read16(at, offset);
        if ((header & 0xFF) == id)
            return offset;
        offset = header >> 8 & 0xFC;
    }
    return 0;
}

u64 pci_memory_bar(pci_address at, u8 bar)
{
    if (bar > 5)
        return 0;
    u32 low = pci_read32(at, (u8)(BAR0 + 4 * bar));
    if (low & BAR_IO)
        return 0;
    if ((low & BAR_TYPE) == BAR_64 && pci_read32(at, (u8)(BAR0 + 4 * bar + 4)))
        return 0;
    return low & ~0xFu;
}

bool pci_msix_enable(pci_address at, u32 message_address, u8 vector)
{
    return pci_msix_set(at, 0, message_address, vector);
}

bool pci_msix_set(pci_address at, u16 number, u32 message_address, u8 vector)
{
    u8 capability = pci_capability(at, PCI_CAP_MSIX, 0);
    if (!capability)
        return false;
    u32 table = pci_read32(at, (u8)(capability + MSIX_TABLE));
    u64 base = pci_memory_bar(at, table & 7);
    if (!base)
        return false;
    u16 control = pci_read16(at, (u8)(capability + MSIX_CONTROL));
    control = (u16)((control | MSIX_ENABLE) & ~MSIX_FUNCTION_MASK);
    pci_write16(at, (u8)(capability + MSIX_CONTROL), control);
    u64 entry = base + (table & ~7u) + 16u * number;
    mmio_write32(entry + 0, message_address);
    mmio_write32(entry + 4, 0);
    mmio_write32(entry + 8, vector);
    mmio_write32(entry + 12, 0);                /* vector control: not masked */
    return true;
}
