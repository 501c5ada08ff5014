/* PIT channel 2 counts 10 ms; its output is readable at port 0x61. Source: Intel 8254 datasheet,
   mode 0; Intel PIIX4 datasheet, NMI status and control register. */
#include "tsc.h"

enum {
    PIT_HZ = 1193182, COUNT = 11932,
    PIT_CHANNEL2 = 0x42, PIT_CONTROL = 0x43, CHANNEL2_LOW_HIGH_MODE0 = 0xB0,
    NMI_STATUS = 0x61, GATE2 = 0x01, SPEAKER = 0x02, OUT2 = 0x20,
    ROUNDS = 3, MOST_POLLS = 10000000,
};

static u64 count_once(void)
{
    u8 gate_off = in8(NMI_STATUS) & (u8)~(GATE2 | SPEAKER);
    out8(NMI_STATUS, gate_off);
    out8(PIT_CONTROL, CHANNEL2_LOW_HIGH_MODE0);
    out8(PIT_CHANNEL2, COUNT & 0xFF);
    out8(PIT_CHANNEL2, COUNT >> 8);
    u64 start = read_tsc();
    out8(NMI_STATUS, gate_off | GATE2);
    for (u32 polls = 0; !(in8(NMI_STATUS) & OUT2); polls++)
        if (polls == MOST_POLLS)
            return 0;
    u64 ticks = read_tsc() - start;
    out8(NMI_STATUS, gate_off);
    return ticks;
}

u64 tsc_calibrate(void)
{
    u64 least = -1ull;          /* a pause of this CPU can only lengthen a round */
    for (u32 round = 0; round < ROUNDS && least; round++) {
        u64 ticks = count_once();
        if (ticks < least)
            least = ticks;
    }
    return mul_div(least, PIT_HZ, COUNT);
}
