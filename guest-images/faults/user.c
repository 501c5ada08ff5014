/* Ring 3 and back, by gates and by SYSCALL. Source: Intel SDM volume 3, 5.8.7 and 6.12. */
#include "../common/cpu.h"
#include "catch.h"
#include "check.h"
#include "faults.h"
#include "world.h"

SNIPPET(call_and_exit);
SNIPPET(interrupt_0x40);
SNIPPET(interrupt_0x90);
SNIPPET(trap_int3);
SNIPPET(user_syscall);
SNIPPET(raise_int_0x40);
SNIPPET(port_in);
SNIPPET(port_out);
SNIPPET(port_in_word);

enum {
    MSR_EFER = 0xC0000080, MSR_STAR = 0xC0000081, MSR_LSTAR = 0xC0000082, MSR_FMASK = 0xC0000084,
    EFER_SCE = 1,
    IDT_SHORT_LIMIT = 0x8FF,            /* vectors up to 0x8F */
};

extern char syscall_entry[];
extern u64 syscall_rcx, syscall_r11, syscall_rsp, syscall_rflags, syscall_cs, syscall_ss, syscall_count;

static struct interrupt_frame called;
static u64 called_top;

static void on_call(struct interrupt_frame *frame)
{
    called = *frame;
    called_top = (u64)(frame + 1);
    frame->rax = 0x7777;
}

void test_ring3(void)
{
    const u64 flags = RFLAGS_STATUS | RFLAGS_DF;
    interrupt_set_handler(USER_CALL, on_call);
    run_user((u64)call_and_exit, 0);
    expect("exit", USER_EXIT, 0, caught.frame.rip);
    check("call", "cs", called.cs, USER_CODE);
    check("call", "ss", called.ss, USER_DATA);
    check("call", "rsp", called.rsp, user_stack_top());
    check("call", "rip", called.rip, USER_BASE + (u64)call_and_exit_after);
    check("call", "rflags", called.rflags & flags, flags);
    check("call", "rax", called.rax, 0x1111);
    check("call", "stack", called_top, ring0_stack_top());
    check("exit", "rax", caught.frame.rax, 0x7777);
    check("exit", "rbx", caught.frame.rbx, 0x2222);
    check("exit", "r15", caught.frame.r15, 0x3333);
    check("exit", "rflags", caught.frame.rcx & flags, flags);
    check("exit", "rsp", caught.frame.rsp, user_stack_top());
    check("exit", "cs", caught.frame.cs, USER_CODE);
    check("exit", "ss", caught.frame.ss, USER_DATA);
    check("exit", "stack", caught.handler_top, ring0_stack_top());
}

#define PRIVILEGED(use) \
    use(cli) use(hlt) use(clts) use(rdmsr) use(wrmsr) use(cr3) use(dr7) \
    use(lgdt) use(lidt) use(ltr) use(invlpg) use(wbinvd) use(swapgs)

#define DECLARE(name) SNIPPET(privileged_##name);
PRIVILEGED(DECLARE)

void test_privileged(void)
{
    /* The error code is 0 for all of them. */
#define TRY(name) \
    run_user((u64)privileged_##name, 0); \
    expect(#name, GP, 0, USER_BASE + (u64)privileged_##name##_at);
    PRIVILEGED(TRY)
}

static void expect_forbidden(const char *what, u64 code)
{
    run_user(code, 0);
    expect(what, GP, 0, USER_BASE + code);
}

static void expect_permitted(const char *what, u64 code, u64 rflags)
{
    run_user_flags(code, 0, rflags);
    check(what, "vector", caught.frame.vector, USER_EXIT);
}

/* Ports in ring 3: IOPL, or else a clear bit in the TSS. Port 0x80 has no effect. */
void test_port_privilege(void)
{
    const u64 iopl_3 = 0x3000;
    expect_forbidden("in", (u64)port_in);
    expect_forbidden("out", (u64)port_out);
    expect_permitted("iopl-in", (u64)port_in, iopl_3);
    expect_permitted("iopl-out", (u64)port_out, iopl_3);
    load_task(TSS_WITH_PORTS_LIMIT);
    expect_forbidden("bit-in", (u64)port_in);
    permit_port(0x80, true);
    expect_permitted("no-bit-in", (u64)port_in, 0);
    expect_permitted("no-bit-out", (u64)port_out, 0);
    expect_forbidden("half-word", (u64)port_in_word);
    permit_port(0x81, true);
    expect_permitted("word", (u64)port_in_word, 0);
    permit_port(0x80, false);
    permit_port(0x81, false);
    load_task(TSS_FULL_LIMIT);
    expect_forbidden("again", (u64)port_in);
}

/* The manual says vector * 8 + 2 (bit 1: the IDT); QEMU 7.2's TCG says vector * 16 + 2. */
static bool strict;

static void expect_idt_error(const char *what, u8 exception, u8 vector, u64 rip)
{
    u64 wanted = vector * 8u + 2, old = vector * 16u + 2;
    expect(what, exception, !strict && caught.frame.error == old ? old : wanted, rip);
}

static void interrupts_by_software(void)
{
    run_user((u64)interrupt_0x40, 0);
    expect_idt_error("dpl", GP, 0x40, USER_BASE + (u64)interrupt_0x40_at);
    run_user((u64)trap_int3, 0);
    expect_idt_error("int3-dpl", GP, BP, USER_BASE + (u64)trap_int3_at);
    set_gate_type(BP, GATE_USER);
    run_user((u64)trap_int3, 0);
    set_gate_type(BP, GATE_INTERRUPT);
    expect("int3", BP, 0, USER_BASE + (u64)trap_int3_after);
    load_idt_limit(IDT_SHORT_LIMIT);
    run_kernel((u64)interrupt_0x90, 0);
    load_idt_limit(IDT_FULL_LIMIT);
    expect_idt_error("idt-limit", GP, 0x90, (u64)interrupt_0x90_at);
    set_gate_type(0x40, GATE_ABSENT);
    run_user((u64)interrupt_0x40, 0);           /* the DPL is looked at first */
    expect_idt_error("dpl-before-present", GP, 0x40, USER_BASE + (u64)interrupt_0x40_at);
    run_kernel((u64)interrupt_0x40, 0);
    expect_idt_error("not-present", NP, 0x40, (u64)interrupt_0x40_at);
    set_gate_type(0x40, GATE_INTERRUPT);
    run_kernel((u64)interrupt_0x40, 0);
    expect("good", 0x40, 0, (u64)interrupt_0x40_after);
}

void test_int_n(void)
{
    strict = false;
    interrupts_by_software();
}

void test_int_n_strict(void)
{
    strict = true;
    interrupts_by_software();
}

static u32 steps[8], step_count;

static void step(u32 value)
{
    if (step_count < COUNT_OF(steps))
        steps[step_count++] = value;
}

static void on_inner(struct interrupt_frame *frame)
{
    step(2);
    frame->rip += 2;                    /* over the UD2 */
}

static void on_middle(struct interrupt_frame *frame)
{
    (void)frame;
    step(1);
    __asm__ volatile("ud2" : : : "memory");
    step(3);
}

static void on_outer(struct interrupt_frame *frame)
{
    (void)frame;
    step(0);
    __asm__ volatile("int3" : : : "memory");
    step(4);
}

void test_nested(void)
{
    step_count = 0;
    interrupt_set_handler(0x40, on_outer);
    interrupt_set_handler(BP, on_middle);
    interrupt_set_handler(UD, on_inner);
    run_kernel((u64)raise_int_0x40, 0);
    catch_vector(BP);
    catch_vector(UD);
    catch_vector(0x40);
    expect_nothing("nested");
    check("nested", "steps", step_count, 5);
    for (u32 i = 0; i < step_count; i++)
        check("nested", "order", steps[i], i);
}

void test_syscall(void)
{
    u64 efer = read_msr(MSR_EFER);
    write_msr(MSR_EFER, efer | EFER_SCE);
    write_msr(MSR_STAR, (u64)(USER_CODE32) << 48 | (u64)KERNEL_CODE << 32);
    write_msr(MSR_LSTAR, (u64)syscall_entry);
    write_msr(MSR_FMASK, RFLAGS_CF | RFLAGS_IF | RFLAGS_DF);
    syscall_count = 0;
    run_user((u64)user_syscall, 0);
    write_msr(MSR_EFER, efer);
    const u64 status = RFLAGS_STATUS;
    check("entry", "count", syscall_count, 1);
    check("entry", "rcx", syscall_rcx, USER_BASE + (u64)user_syscall_after);
    check("entry", "r11", syscall_r11 & (status | RFLAGS_DF), status);
    /* CF by FMASK; of the others, which FMASK keeps, QEMU's TCG clears the status flags. */
    check("entry", "rflags", syscall_rflags & (RFLAGS_CF | RFLAGS_IF | RFLAGS_DF), 0);
    check("entry", "rsp", syscall_rsp, user_stack_top());
    check("entry", "cs", syscall_cs, KERNEL_CODE);
    check("entry", "ss", syscall_ss, KERNEL_DATA);
    expect("return", USER_EXIT, 0, caught.frame.rip);
    check("return", "cs", caught.frame.cs, USER_CODE);
    check("return", "ss", caught.frame.ss, USER_DATA);
    check("return", "rsp", caught.frame.rsp, user_stack_top());
    check("return", "rbx", caught.frame.rbx, 0x4444);
    check("return", "rflags", caught.frame.rflags & status, status);
}

void test_syscall_off(void)
{
    u64 efer = read_msr(MSR_EFER);
    write_msr(MSR_EFER, efer & ~(u64)EFER_SCE);
    run_user((u64)user_syscall, 0);
    write_msr(MSR_EFER, efer);
    expect("sce-off", UD, 0, USER_BASE + (u64)user_syscall_at);
}
