/* Source: Intel SDM volume 3, chapter "Advanced Programmable Interrupt Controller". */
#include "lapic.h"

#include "interrupts.h"

enum {
    CPUID_EDX_APIC = 1 << 9, SOFTWARE_ENABLE = 1 << 8, SPURIOUS_VECTOR = 0xFF,
    LVT_EXTINT = 7 << 8, LVT_MASKED = 1 << 16, LVT_PERIODIC = 1 << 17, DIVIDE_BY_128 = 0xA,
};

static void ignore_spurious(struct interrupt_frame *frame)
{
    (void)frame;                /* a spurious interrupt takes no EOI */
}

bool lapic_init(void)
{
    if (!(cpuid(1, 0).edx & CPUID_EDX_APIC))
        return false;
    interrupt_set_handler(SPURIOUS_VECTOR, ignore_spurious);
    lapic_write(LAPIC_SPURIOUS, SOFTWARE_ENABLE | SPURIOUS_VECTOR);
    lapic_write(LAPIC_LVT_LINT0, LVT_EXTINT);
    lapic_write(LAPIC_TPR, 0);
    return true;
}

u32 lapic_msi_address(void)
{
    return (u32)LAPIC_BASE | (lapic_read(LAPIC_ID) >> 24) << 12;
}

bool lapic_timer_every(u64 seconds, u8 vector, u64 tsc_hz)
{
    const u32 most = 0xFFFFFFFF;
    lapic_write(LAPIC_LVT_TIMER, LVT_MASKED | vector);
    lapic_write(LAPIC_TIMER_DIVIDE, DIVIDE_BY_128);
    lapic_write(LAPIC_TIMER_INITIAL, most);
    u64 start = read_tsc(), ticks;
    while ((ticks = read_tsc() - start) < tsc_hz / 512)     /* 2 ms */
        relax();
    u32 counted = most - lapic_read(LAPIC_TIMER_CURRENT);
    lapic_write(LAPIC_TIMER_INITIAL, 0);
    u64 initial = mul_div(counted, seconds * tsc_hz, ticks);
    if (!counted || initial > most)
        return false;
    lapic_write(LAPIC_LVT_TIMER, LVT_PERIODIC | vector);
    lapic_write(LAPIC_TIMER_INITIAL, (u32)initial);
    return true;
}
