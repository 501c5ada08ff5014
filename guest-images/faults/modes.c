/* Compatibility mode, and the way out of long mode down to real mode and back. */
#include "../common/cpu.h"
#include "../common/memory.h"
#include "../common/serial.h"
#include "catch.h"
#include "check.h"
#include "faults.h"
#include "world.h"

SNIPPET(wide_mode);

enum { LSR = 0x3F8 + 5, LSR_TEMT = 0x40, REAL_MODE_ADDRESS = 0x8000, IVT_0X60 = 0x60 * 4 };

extern char real_mode_start[], real_mode_end[], real_mode_interrupt[];
extern u32 modes_efer_off;
void modes_trip(void);

void test_compat(void)
{
    run_kernel((u64)wide_mode, 0);
    check("long", "eax", caught.frame.rax, 0x42);
    run_compat((u64)wide_mode, 0);
    expect("compat", USER_EXIT, 0, (u64)wide_mode_after);
    check("compat", "eax", caught.frame.rax, 0x43);
    check("compat", "cs", caught.frame.cs, KERNEL_CODE32);
    run_user_compat((u64)wide_mode, 0);
    expect("user", USER_EXIT, 0, USER_BASE + (u64)wide_mode_after);
    check("user", "eax", caught.frame.rax, 0x43);
    check("user", "cs", caught.frame.cs, USER_CODE32);
    check("user", "stack", caught.handler_top, ring0_stack_top());
}

/* Page 0 is real memory here; the compiler must not think of NULL. */
static void store_at(u64 address, u32 value)
{
    __asm__ volatile("movl %1, (%0)" : : "r"(address), "r"(value) : "memory");
}

void test_modes(void)
{
    enum { EFER_LMA = 1 << 10 };
    memcpy((void *)(u64)REAL_MODE_ADDRESS, real_mode_start, (size_t)(real_mode_end - real_mode_start));
    store_at(IVT_0X60, (REAL_MODE_ADDRESS / 16) << 16 | (u32)(real_mode_interrupt - real_mode_start));
    print("faults: bytes from compatibility, protected and real mode: ");
    while (!(in8(LSR) & LSR_TEMT))      /* room for a byte of each */
        ;
    modes_trip();
    print("\n");
    check("protected", "lma", modes_efer_off & EFER_LMA, 0);
    run_kernel((u64)wide_mode, 0);
    expect("afterwards", USER_EXIT, 0, (u64)wide_mode_after);
}
