#include "leave.h"

#include "cpu.h"

enum { DEBUG_EXIT = 0xF4 };

void leave(u8 value)
{
    out8(DEBUG_EXIT, value);
    for (;;)                    /* no such device: stay still */
        __asm__ volatile("cli\n\thlt");
}
