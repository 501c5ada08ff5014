/* Sub-tests that end the machine. */
#include "../common/cpu.h"
#include "../common/leave.h"
#include "../common/serial.h"
#include "faults.h"
#include "world.h"

enum { I8042_COMMAND = 0x64, I8042_PULSE_RESET = 0xFE, I8042_INPUT_FULL = 2, RESET_CONTROL = 0xCF9 };

static _Noreturn void still_here(void)
{
    print("faults: result=fail what=still-here\n");
    leave(LEAVE_WRONG);
}

/* What comes behind the port that resets may still run for a moment: it does nothing. */
static void wait_for_the_end(void)
{
    for (u32 i = 0; i < 1000; i++)
        (void)in8(0x80);
}

void test_triple_fault(void)
{
    load_idt_limit(0);
    __asm__ volatile("ud2");
    still_here();
}

void test_hang(void)
{
    for (;;)
        __asm__ volatile("cli\n\thlt");
}

void test_spin(void)
{
    __asm__ volatile("cli\n1:\tjmp 1b");
}

void test_reset(void)
{
    while (in8(I8042_COMMAND) & I8042_INPUT_FULL)
        ;
    out8(I8042_COMMAND, I8042_PULSE_RESET);
    wait_for_the_end();
    still_here();
}

void test_reset_cf9(void)
{
    out8(RESET_CONTROL, 0x02);          /* a hard reset ... */
    out8(RESET_CONTROL, 0x06);          /* ... now */
    wait_for_the_end();
    still_here();
}

void test_panic(void)
{
    print("panic: test\n");
    leave(LEAVE_PANIC);
}
