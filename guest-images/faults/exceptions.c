/* One exception class each: vector, error code and saved RIP. Source: Intel SDM volume 3, 6.15. */
#include "../common/cpu.h"
#include "catch.h"
#include "check.h"
#include "faults.h"
#include "world.h"

SNIPPET(divide_by_zero);
SNIPPET(divide_overflow);
SNIPPET(trap_int1);
SNIPPET(trap_int3);
SNIPPET(overflow_into);
SNIPPET(bound_outside);
SNIPPET(undefined_ud2);
SNIPPET(undefined_push_es);
SNIPPET(undefined_cr1);
SNIPPET(x87_init);
SNIPPET(x87_wait);
SNIPPET(x87_zero_divide);
SNIPPET(read_at);
SNIPPET(load_ds);
SNIPPET(load_ss);
SNIPPET(push_to);
SNIPPET(interrupt_0x40);
SNIPPET(far_return_to_data);
SNIPPET(flags_then_ud2);
SNIPPET(trap_flag_nop);
SNIPPET(interrupts_on_then_ud2);

#define NOT_CANONICAL 0x0000800000000000ull

void test_de(void)
{
    run_kernel((u64)divide_by_zero, 0);
    expect("by-zero", DE, 0, (u64)divide_by_zero_at);
    check("by-zero", "cs", caught.frame.cs, KERNEL_CODE);
    check("by-zero", "ss", caught.frame.ss, KERNEL_DATA);
    run_kernel((u64)divide_overflow, 0);
    expect("overflow", DE, 0, (u64)divide_overflow_at);
    run_user((u64)divide_by_zero, 0);
    expect("user", DE, 0, USER_BASE + (u64)divide_by_zero_at);
    check("user", "cs", caught.frame.cs, USER_CODE);
}

void test_db(void)
{
    run_kernel((u64)trap_flag_nop, 0);
    expect("tf", DB, 0, (u64)trap_flag_nop_after);
    check("tf", "saved-tf", caught.frame.rflags & RFLAGS_TF, RFLAGS_TF);
    check("tf", "handler-tf", caught.handler_rflags & RFLAGS_TF, 0);
    run_user((u64)trap_flag_nop, 0);
    expect("user", DB, 0, USER_BASE + (u64)trap_flag_nop_after);
}

/* QEMU's TCG raises #UD. */
void test_icebp(void)
{
    run_kernel((u64)trap_int1, 0);
    expect("int1", DB, 0, (u64)trap_int1_after);
}

void test_bp(void)
{
    run_kernel((u64)trap_int3, 0);
    expect("int3", BP, 0, (u64)trap_int3_after);
}

void test_of(void)
{
    run_compat((u64)overflow_into, 0);
    expect("into", OF, 0, (u64)overflow_into_after);
    check("into", "cs", caught.frame.cs, KERNEL_CODE32);
}

void test_br(void)
{
    run_compat((u64)bound_outside, 0);
    expect("bound", BR, 0, (u64)bound_outside_at);
}

void test_ud(void)
{
    run_kernel((u64)undefined_ud2, 0);
    expect("ud2", UD, 0, (u64)undefined_ud2_at);
    run_kernel((u64)undefined_push_es, 0);
    expect("push-es", UD, 0, (u64)undefined_push_es_at);
    run_kernel((u64)undefined_cr1, 0);
    expect("cr1", UD, 0, (u64)undefined_cr1_at);
    run_user((u64)undefined_ud2, 0);
    expect("user", UD, 0, USER_BASE + (u64)undefined_ud2_at);
}

void test_nm(void)
{
    u64 cr0 = read_cr0() & ~(u64)(CR0_TS | CR0_EM | CR0_MP);
    write_cr0(cr0 | CR0_TS);
    run_kernel((u64)x87_init, 0);
    expect("ts", NM, 0, (u64)x87_init_at);
    write_cr0(cr0 | CR0_EM);
    run_kernel((u64)x87_init, 0);
    expect("em", NM, 0, (u64)x87_init_at);
    write_cr0(cr0 | CR0_TS | CR0_MP);
    run_kernel((u64)x87_wait, 0);
    expect("ts-mp-wait", NM, 0, (u64)x87_wait_at);
    write_cr0(cr0);
    run_kernel((u64)x87_init, 0);
    expect_nothing("none");
}

void test_mf(void)
{
    write_cr0((read_cr0() & ~(u64)(CR0_TS | CR0_EM)) | CR0_NE);
    run_kernel((u64)x87_zero_divide, 0);
    expect("zero-divide", MF, 0, (u64)x87_zero_divide_at);
    __asm__ volatile("fnclex\n\tfninit");
    run_kernel((u64)x87_wait, 0);
    expect_nothing("cleared");
}

void test_df(void)
{
    set_gate_type(PF, GATE_ABSENT);     /* #PF, then #NP while delivering it: a double fault */
    set_gate_ist(DF, 1);
    run_kernel((u64)read_at, test_page(0));
    set_gate_type(PF, GATE_INTERRUPT);
    set_gate_ist(DF, 0);
    expect("absent-gate", DF, 0, caught.frame.rip);     /* an abort: RIP is undefined */
    check("absent-gate", "stack", caught.handler_top, ist_stack_top(1));
    check("absent-gate", "cr2", caught.cr2, test_page(0));
    run_kernel((u64)read_at, test_page(1));
    expect("afterwards", PF, 0, (u64)read_at_at);
}

void test_ts(void)
{
    load_task(TSS_WITHOUT_IST7);
    set_gate_ist(0x40, 7);
    run_kernel((u64)interrupt_0x40, 0);
    set_gate_ist(0x40, 0);
    load_task(TSS_FULL_LIMIT);
    expect("short-tss", TS, TASK, (u64)interrupt_0x40_at);
}

void test_np(void)
{
    run_kernel((u64)load_ds, ABSENT_DATA);
    expect("ds", NP, ABSENT_DATA, (u64)load_ds_at);
    set_gate_type(0x40, GATE_ABSENT);
    run_kernel((u64)interrupt_0x40, 0);
    set_gate_type(0x40, GATE_INTERRUPT);
    check("gate", "vector", caught.frame.vector, NP);
    check("gate", "rip", caught.frame.rip, (u64)interrupt_0x40_at);
}

void test_ss(void)
{
    run_kernel((u64)load_ss, ABSENT_DATA);
    expect("absent", SS, ABSENT_DATA, (u64)load_ss_at);
    set_gate_ist(SS, 1);                /* RSP itself is wrong */
    set_gate_ist(GP, 1);
    run_kernel((u64)push_to, NOT_CANONICAL + 64);
    set_gate_ist(SS, 0);
    set_gate_ist(GP, 0);
    u8 vector = caught.frame.vector == GP ? GP : SS;    /* QEMU's TCG: #GP */
    expect("push", vector, 0, (u64)push_to_at);
    check("push", "rsp", caught.frame.rsp, NOT_CANONICAL + 64);
}

void test_gp(void)
{
    run_kernel((u64)read_at, NOT_CANONICAL);
    expect("not-canonical", GP, 0, (u64)read_at_at);
    run_kernel((u64)load_ds, BEYOND_GDT);
    expect("beyond-gdt", GP, BEYOND_GDT, (u64)load_ds_at);
    run_kernel((u64)load_ss, KERNEL_CODE);
    expect("code-in-ss", GP, KERNEL_CODE, (u64)load_ss_at);
    run_kernel((u64)far_return_to_data, 0);
    expect("data-in-cs", GP, KERNEL_DATA, (u64)far_return_to_data_at);
    run_user((u64)load_ds, KERNEL_DATA);
    expect("kernel-data", GP, KERNEL_DATA, USER_BASE + (u64)load_ds_at);
    run_user((u64)read_at, NOT_CANONICAL);
    expect("user", GP, 0, USER_BASE + (u64)read_at_at);
}

void test_rflags(void)
{
    run_kernel((u64)flags_then_ud2, 0);
    expect("status", UD, 0, (u64)flags_then_ud2_at);
    check("status", "saved", caught.frame.rflags & (RFLAGS_STATUS | RFLAGS_DF | RFLAGS_IF),
          RFLAGS_STATUS | RFLAGS_DF);
    run_kernel((u64)interrupts_on_then_ud2, 0);
    check("interrupt-gate", "saved-if", caught.frame.rflags & RFLAGS_IF, RFLAGS_IF);
    check("interrupt-gate", "if", caught.handler_rflags & RFLAGS_IF, 0);
    set_gate_type(UD, GATE_TRAP);
    run_kernel((u64)interrupts_on_then_ud2, 0);
    set_gate_type(UD, GATE_INTERRUPT);
    check("trap-gate", "saved-if", caught.frame.rflags & RFLAGS_IF, RFLAGS_IF);
    check("trap-gate", "if", caught.handler_rflags & RFLAGS_IF, RFLAGS_IF);
}

void test_ist(void)
{
    set_gate_ist(UD, 2);
    run_kernel((u64)undefined_ud2, 0);
    check("kernel", "stack", caught.handler_top, ist_stack_top(2));
    run_user((u64)undefined_ud2, 0);
    check("user", "stack", caught.handler_top, ist_stack_top(2));
    set_gate_ist(UD, 0);
    run_kernel((u64)undefined_ud2, 0);
    check("off", "stack", caught.handler_top, caught.frame.rsp & ~15ull);
}

enum { NO_SUCH_MSR = 0x4B564D00 + 0xF0 };

static u64 read_unknown_msr(void)
{
    return read_msr(NO_SUCH_MSR);
}

static u64 write_unknown_msr(void)
{
    write_msr(NO_SUCH_MSR, 1);
    return 0;
}

/* QEMU's TCG reads 0 and ignores writes; a real CPU raises #GP. Both are taken here. */
void test_unknown_msr(void)
{
    run_kernel((u64)read_unknown_msr, 0);
    check("read", "value", caught.happened ? 0 : caught.value, 0);
    check("read", "vector", caught.happened ? caught.frame.vector : GP, GP);
    run_kernel((u64)write_unknown_msr, 0);
    check("write", "vector", caught.happened ? caught.frame.vector : GP, GP);
}

void test_unknown_msr_gp(void)
{
    run_kernel((u64)read_unknown_msr, 0);
    check("read", "vector", caught.happened ? caught.frame.vector : ~0ull, GP);
    check("read", "error", caught.frame.error, 0);
    run_kernel((u64)write_unknown_msr, 0);
    check("write", "vector", caught.happened ? caught.frame.vector : ~0ull, GP);
}
