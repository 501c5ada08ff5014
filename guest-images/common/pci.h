/* PCI configuration by ports 0xCF8 and 0xCFC, bus 0. The firmware has assigned the BARs. */
#ifndef PCI_H
#define PCI_H

#include "types.h"

typedef u16 pci_address;        /* device << 3 | function */

enum { PCI_NONE = 0xFFFF, PCI_CAP_VENDOR = 0x09, PCI_CAP_MSIX = 0x11 };

u32 pci_read32(pci_address at, u8 offset);
u16 pci_read16(pci_address at, u8 offset);
u8 pci_read8(pci_address at, u8 offset);
void pci_write32(pci_address at, u8 offset, u32 value);
void pci_write16(pci_address at, u8 offset, u16 value);

/* The `index`-th function with that vendor and either device id, or PCI_NONE. */
pci_address pci_find(u16 vendor, u16 device, u16 other_device, u64 index);

/* Decode memory, be a bus master. */
void pci_enable(pci_address at);

/* The same, and interrupt by the line that is returned: an input of the 8259 pair, as the firmware
   has routed it. */
u8 pci_enable_line(pci_address at);

/* Offset of the first capability `id` behind `after` (0: from the start), or 0. */
u8 pci_capability(pci_address at, u8 id, u8 after);

/* Address of a memory BAR; 0 if it is unassigned or above 4 GiB. */
u64 pci_memory_bar(pci_address at, u8 bar);

/* Switch MSI-X on with table entry 0 at `vector`. False if the function has none. */
bool pci_msix_enable(pci_address at, u32 message_address, u8 vector);

/* The same with another entry of the table. */
bool pci_msix_set(pci_address at, u16 entry, u32 message_address, u8 vector);

#endif
