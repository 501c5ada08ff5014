/* MSRs, the time stamp counter and CPUID. */
#include "../common/cpu.h"
#include "check.h"
#include "faults.h"

enum {
    MSR_EFER = 0xC0000080, MSR_STAR = 0xC0000081, MSR_LSTAR = 0xC0000082, MSR_FMASK = 0xC0000084,
    MSR_FS_BASE = 0xC0000100, MSR_GS_BASE = 0xC0000101, MSR_KERNEL_GS_BASE = 0xC0000102,
    EFER_LME = 1 << 8, EFER_LMA = 1 << 10, EFER_NXE = 1 << 11,
};

static u64 through_fs(void) { u64 v; __asm__ volatile("movq %%fs:0, %0" : "=r"(v)); return v; }
static u64 through_gs(void) { u64 v; __asm__ volatile("movq %%gs:0, %0" : "=r"(v)); return v; }

void test_msrs(void)
{
    static const struct { const char *name; u32 msr; u64 value; } rows[] = {
        { "star", MSR_STAR, 0x0023000812345678 },
        { "lstar", MSR_LSTAR, 0xFFFF800012345678 },
        { "fmask", MSR_FMASK, 0x00000000000ABCDE },
        { "fs-base", MSR_FS_BASE, 0x00007FFF89ABCDEF },
        { "gs-base", MSR_GS_BASE, 0xFFFF8000FEDCBA98 },
        { "kernel-gs-base", MSR_KERNEL_GS_BASE, 0x0000123456789ABC },
    };
    for (u32 i = 0; i < COUNT_OF(rows); i++) {
        u64 before = read_msr(rows[i].msr);
        write_msr(rows[i].msr, rows[i].value);
        check(rows[i].name, "value", read_msr(rows[i].msr), rows[i].value);
        write_msr(rows[i].msr, before);
        check(rows[i].name, "restored", read_msr(rows[i].msr), before);
    }
    u64 mode = EFER_LME | EFER_LMA | EFER_NXE;
    check("efer", "mode", read_msr(MSR_EFER) & mode, mode);
}

void test_swapgs(void)
{
    static volatile u64 one = 0x1001, two = 0x2002, three = 0x3003;
    u64 fs = read_msr(MSR_FS_BASE), gs = read_msr(MSR_GS_BASE), kernel = read_msr(MSR_KERNEL_GS_BASE);
    write_msr(MSR_FS_BASE, (u64)&three);
    write_msr(MSR_GS_BASE, (u64)&one);
    write_msr(MSR_KERNEL_GS_BASE, (u64)&two);
    check("fs", "value", through_fs(), three);
    check("before", "value", through_gs(), one);
    __asm__ volatile("swapgs" : : : "memory");
    check("swapped", "value", through_gs(), two);
    check("swapped", "gs-base", read_msr(MSR_GS_BASE), (u64)&two);
    check("swapped", "kernel-gs-base", read_msr(MSR_KERNEL_GS_BASE), (u64)&one);
    __asm__ volatile("swapgs" : : : "memory");
    check("back", "value", through_gs(), one);
    write_msr(MSR_FS_BASE, fs);
    write_msr(MSR_GS_BASE, gs);
    write_msr(MSR_KERNEL_GS_BASE, kernel);
}

void test_tsc(void)
{
    u64 first = read_tsc(), last = first, backwards = 0;
    for (u32 i = 0; i < 1000; i++) {
        u64 now = read_tsc();
        backwards += now < last;
        last = now;
    }
    check("tsc", "backwards", backwards, 0);
    check_true("tsc", "advanced", last > first);
}

static bool printable(u32 word)
{
    for (u32 i = 0; i < 4; i++, word >>= 8)
        if ((word & 0xFF) < ' ' || (word & 0xFF) > '~')
            return false;
    return true;
}

void test_cpuid(void)
{
    enum {                              /* FPU TSC MSR PAE CX8 APIC; SYSCALL NX LM */
        EDX1_NEEDED = 1 << 0 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 9,
        EXTENDED_NEEDED = 1 << 11 | 1 << 20 | 1 << 29,
    };
    struct cpuid vendor = cpuid(0, 0);
    check_true("leaf0", "most", vendor.eax >= 1 && vendor.eax < 0x100);
    check_true("leaf0", "vendor", printable(vendor.ebx) && printable(vendor.ecx) && printable(vendor.edx));
    struct cpuid again = cpuid(0, 0);
    check("leaf0", "stable", again.ebx, vendor.ebx);
    check("leaf1", "edx", cpuid(1, 0).edx & EDX1_NEEDED, EDX1_NEEDED);
    check_true("extended", "most", cpuid(0x80000000, 0).eax >= 0x80000008);
    check("extended", "edx", cpuid(0x80000001, 0).edx & EXTENDED_NEEDED, EXTENDED_NEEDED);
    u32 widths = cpuid(0x80000008, 0).eax;
    check_true("extended", "physical-bits", (widths & 0xFF) >= 36 && (widths & 0xFF) <= 51);
    check("extended", "linear-bits", widths >> 8 & 0xFF, 48);
}
