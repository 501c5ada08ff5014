/* Accesses that nothing answers: reads give all ones, writes are ignored. */
#include "../common/cpu.h"
#include "../common/lapic.h"
#include "../common/memory.h"
#include "catch.h"
#include "check.h"
#include "faults.h"
#include "world.h"

enum { HOLES = 2 };
static const u64 holes[HOLES] = { 0xD0000000, 0xFEB00000 };     /* no PCI device on either machine */

/* QEMU answers zeroes in memory, and at ports if the access is not aligned; strict: all ones. */
static bool strict;

static void expect_ones(const char *what, u64 got, u64 ones)
{
    check(what, "value", got == 0 && !strict ? ones : got, ones);
}

static void check_port(u16 port)
{
    out8(port, 0x12);
    out16(port, 0x1234);
    out32(port, 0x12345678);
    check("byte", "value", in8(port), 0xFF);
    if (port & 1)
        expect_ones("unaligned-word", in16(port), 0xFFFF);
    else
        check("word", "value", in16(port), 0xFFFF);
    if (port & 3)
        expect_ones("unaligned-dword", in32(port), 0xFFFFFFFF);
    else
        check("dword", "value", in32(port), 0xFFFFFFFF);
}

static void check_port_strings(u16 port)
{
    static u8 buffer[64];
    out16_string(port, buffer, sizeof(buffer) / 2);
    out32_string(port, buffer, sizeof(buffer) / 4);
    memset(buffer, 0, sizeof(buffer));
    in16_string(port, buffer, 4);
    in32_string(port, buffer + 8, 2);
    for (u32 at = 0; at < 20; at++)
        check("string", "byte", buffer[at], at < 16 ? 0xFF : 0);
}

static void check_ports(void)
{
    static const u16 ports[] = { 0x0100, 0x0153, 0x0F01, 0x0F02, 0x8000, 0xFFF0, 0xFFFC };
    for (u32 i = 0; i < COUNT_OF(ports); i++) {
        check_port(ports[i]);
        if (!(ports[i] & 3))
            check_port_strings(ports[i]);
    }
    check("last", "byte", in8(0xFFFF), 0xFF);
    expect_ones("straddle-word", in16(0xFFFF), 0xFFFF);
    expect_ones("straddle-dword", in32(0xFFFD), 0xFFFFFFFF);
    expect_ones("straddle-last", in32(0xFFFF), 0xFFFFFFFF);
    out16(0xFFFF, 0);
    out32(0xFFFE, 0);
}

void test_wild_ports(void)
{
    strict = false;
    check_ports();
}

static void check_hole(u64 at)
{
    expect_ones("byte", mmio_read8(at), 0xFF);
    expect_ones("word", mmio_read16(at), 0xFFFF);
    expect_ones("dword", mmio_read32(at), 0xFFFFFFFF);
    expect_ones("qword", *(volatile u64 *)at, ~0ull);
}

static void write_hole(u64 at)
{
    mmio_write8(at + 1, 0x12);
    mmio_write16(at + 3, 0x1234);
    mmio_write32(at + 5, 0x12345678);
    *(volatile u64 *)(at + 9) = 0x123456789ABCDEF0;
    __asm__ volatile("lock incl (%0)" : : "r"(at) : "memory", "cc");
    memset((void *)at, 0x77, 16);
}

static void check_holes(void)
{
    for (u32 i = 0; i < HOLES; i++) {
        for (u64 offset = 0; offset < 8; offset++)
            check_hole(holes[i] + offset);
        check_hole(holes[i] + PAGE - 3);        /* across a page */
        write_hole(holes[i]);
        check_hole(holes[i]);
        u8 buffer[16];
        memcpy(buffer, (void *)holes[i], sizeof(buffer));
        for (u32 at = 0; at < sizeof(buffer); at++)
            expect_ones("string", buffer[at], 0xFF);
    }
}

void test_wild_mmio(void)
{
    strict = false;
    check_holes();
}

void test_wild_ones(void)
{
    strict = true;
    check_ports();
    check_holes();
}

void test_lapic_rmw(void)
{
    enum { MASKED = 1 << 16 };
    volatile u32 *lvt = (volatile u32 *)((u64)(u32)LAPIC_BASE + LAPIC_LVT_TIMER);
    *lvt = MASKED | 0x60;
    __asm__ volatile("lock orl $0x01, %0" : "+m"(*lvt) : : "cc");
    check("or", "value", *lvt, MASKED | 0x61);
    __asm__ volatile("lock addl $0x10, %0" : "+m"(*lvt) : : "cc");
    check("add", "value", *lvt, MASKED | 0x71);
    __asm__ volatile("decl %0" : "+m"(*lvt) : : "cc");
    check("dec", "value", *lvt, MASKED | 0x70);
    u32 value = MASKED | 0x42;
    __asm__ volatile("xchgl %0, %1" : "+r"(value), "+m"(*lvt));
    check("xchg", "old", value, MASKED | 0x70);
    check("xchg", "value", *lvt, MASKED | 0x42);
    value = 3;
    __asm__ volatile("lock xaddl %0, %1" : "+r"(value), "+m"(*lvt) : : "cc");
    check("xadd", "old", value, MASKED | 0x42);
    check("xadd", "value", *lvt, MASKED | 0x45);
    *lvt = MASKED;
}

/* All ones is an invalid opcode; all zeroes, ADD %AL, (%RAX), faults or runs to the end of the
   page. Either is an exception. RAX is the page's own address: nothing else is written. */
void test_wild_jump(void)
{
    run_kernel(map_test_page(0, holes[0], PAGE_PRESENT), 0);
    check_true("jump", "happened", caught.happened);
}
