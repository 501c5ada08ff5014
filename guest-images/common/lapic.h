/* The local APIC in xAPIC mode. */
#ifndef LAPIC_H
#define LAPIC_H

#include "cpu.h"

enum {
    LAPIC_BASE = 0xFEE00000, LAPIC_ID = 0x20, LAPIC_TPR = 0x80, LAPIC_EOI = 0xB0,
    LAPIC_SPURIOUS = 0xF0, LAPIC_ICR_LOW = 0x300, LAPIC_ICR_HIGH = 0x310,
    LAPIC_LVT_TIMER = 0x320, LAPIC_LVT_LINT0 = 0x350,
    LAPIC_TIMER_INITIAL = 0x380, LAPIC_TIMER_CURRENT = 0x390, LAPIC_TIMER_DIVIDE = 0x3E0,
};

static inline u32 lapic_read(u32 reg) { return mmio_read32((u64)(u32)LAPIC_BASE + reg); }

static inline void lapic_write(u32 reg, u32 value)
{
    mmio_write32((u64)(u32)LAPIC_BASE + reg, value);
}

static inline void lapic_eoi(void) { lapic_write(LAPIC_EOI, 0); }

/* Enable it, with the 8259 pair behind LINT0. False if the CPU has none. */
bool lapic_init(void);

/* Where a device sends its MSI so that this CPU gets `vector`. */
u32 lapic_msi_address(void);

/* Interrupt at `vector` every `seconds`. False if the timer does not count. */
bool lapic_timer_every(u64 seconds, u8 vector, u64 tsc_hz);

#endif
