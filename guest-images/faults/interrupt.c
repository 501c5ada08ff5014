/* When interrupts arrive: windows, shadows, priorities, halts, NMI.
   Source: Intel SDM volume 3, 6.8 (masking) and 10.8 (local APIC). */
#include "../common/cpu.h"
#include "../common/interrupts.h"
#include "../common/lapic.h"
#include "catch.h"
#include "check.h"
#include "faults.h"
#include "world.h"

SNIPPET(window_sti);
SNIPPET(window_popf);
SNIPPET(window_cli);
SNIPPET(window_hlt);
SNIPPET(window_mov_ss);
SNIPPET(user_spin);

enum {
    LOW = 0x31, MIDDLE = 0x51, HIGH = 0x71, TIMER = 0x61,
    LAPIC_PPR = 0xA0, LAPIC_ISR = 0x100, LAPIC_IRR = 0x200,
    ICR_SELF = 1 << 18, ICR_ASSERT = 1 << 14, ICR_NMI = 4 << 8, ICR_PENDING = 1 << 12,
    LVT_MASKED = 1 << 16, LVT_PERIODIC = 1 << 17, DIVIDE_BY_1 = 0xB,
    TIMER_COUNT = 50000, SHADOW_INTERRUPTS = 200,
};

static struct { u64 vector, rip, cs, top; } arrived[8];
static volatile u32 arrived_count;
static volatile u64 stop;
static u64 forbidden_rip, forbidden_hits;

static void on_interrupt(struct interrupt_frame *frame)
{
    u32 n = arrived_count++;
    if (n < COUNT_OF(arrived)) {
        arrived[n].vector = frame->vector;
        arrived[n].rip = frame->rip;
        arrived[n].cs = frame->cs;
        arrived[n].top = (u64)(frame + 1);
    }
    lapic_eoi();
}

static void expect_arrived(const char *what, u32 index, u64 vector)
{
    check(what, "vector", index < arrived_count ? arrived[index].vector : 0, vector);
}

static bool bit_of(u32 base, u8 vector)
{
    return lapic_read(base + (vector >> 5) * 0x10) >> (vector & 31) & 1;
}

static void send_self(u8 vector)
{
    lapic_write(LAPIC_ICR_LOW, ICR_SELF | ICR_ASSERT | vector);
    for (u32 i = 0; i < 1000000 && !bit_of(LAPIC_IRR, vector); i++)
        ;
}

static void begin(void)
{
    interrupts_off();
    arrived_count = 0;
    for (u32 vector = 0x30; vector < 0x80; vector++)
        if (vector != 0x40)
            interrupt_set_handler((u8)vector, on_interrupt);
    lapic_write(LAPIC_TPR, 0);
}

/* Interrupts on for a few instructions. */
static void open_window(void)
{
    __asm__ volatile("sti\n\tnop\n\tnop\n\tcli" : : : "memory");
}

static void timer(u32 mode, u32 count)
{
    lapic_write(LAPIC_TIMER_DIVIDE, DIVIDE_BY_1);
    lapic_write(LAPIC_LVT_TIMER, mode | TIMER);
    lapic_write(LAPIC_TIMER_INITIAL, count);
}

static void timer_off(void)
{
    lapic_write(LAPIC_LVT_TIMER, LVT_MASKED | TIMER);
    lapic_write(LAPIC_TIMER_INITIAL, 0);
    open_window();                      /* the last one may be pending */
}

void test_self_ipi(void)
{
    begin();
    send_self(MIDDLE);
    check_true("sent", "irr", bit_of(LAPIC_IRR, MIDDLE));
    check("sent", "count", arrived_count, 0);
    open_window();
    check("taken", "count", arrived_count, 1);
    expect_arrived("taken", 0, MIDDLE);
    check_true("taken", "irr", !bit_of(LAPIC_IRR, MIDDLE));
    check_true("taken", "isr", !bit_of(LAPIC_ISR, MIDDLE));
}

void test_sti_shadow(void)
{
    begin();
    send_self(MIDDLE);
    run_kernel((u64)window_sti, 0);
    check("sti", "count", arrived_count, 1);
    check("sti", "rip", arrived[0].rip, (u64)window_sti_after);
    begin();
    send_self(MIDDLE);
    run_kernel((u64)window_popf, 0);    /* POPF has no shadow */
    check("popf", "count", arrived_count, 1);
    check("popf", "rip", arrived[0].rip, (u64)window_popf_after);
}

static void on_shadow_timer(struct interrupt_frame *frame)
{
    forbidden_hits += frame->rip == forbidden_rip;
    if (++arrived_count == SHADOW_INTERRUPTS)
        stop = 1;
    lapic_eoi();
}

void test_mov_ss_shadow(void)
{
    begin();
    stop = 0;
    forbidden_hits = 0;
    forbidden_rip = (u64)window_mov_ss_after;
    interrupt_set_handler(TIMER, on_shadow_timer);
    timer(LVT_PERIODIC, TIMER_COUNT);
    run_kernel((u64)window_mov_ss, (u64)&stop);
    timer_off();
    check_true("mov-ss", "interrupts", arrived_count >= SHADOW_INTERRUPTS);
    check("mov-ss", "in-shadow", forbidden_hits, 0);
}

void test_cli_window(void)
{
    begin();
    send_self(MIDDLE);
    run_kernel((u64)window_cli, 0);
    check("sti-cli", "count", arrived_count, 0);
    check_true("sti-cli", "irr", bit_of(LAPIC_IRR, MIDDLE));
    open_window();
    check("sti-nop", "count", arrived_count, 1);
    open_window();
    check("again", "count", arrived_count, 1);
}

void test_hlt_wake(void)
{
    begin();
    timer(0, TIMER_COUNT);
    run_kernel((u64)window_hlt, 0);
    check("timer", "count", arrived_count, 1);
    expect_arrived("timer", 0, TIMER);
    check("timer", "rip", arrived[0].rip, (u64)window_hlt_after);
    begin();
    send_self(MIDDLE);                  /* pending before the halt: it ends it at once */
    run_kernel((u64)window_hlt, 0);
    check("pending", "count", arrived_count, 1);
    check("pending", "rip", arrived[0].rip, (u64)window_hlt_after);
    begin();
    timer(LVT_PERIODIC, TIMER_COUNT);
    for (u32 i = 0; i < 20; i++)
        halt_until_interrupt();
    timer_off();
    check_true("periodic", "count", arrived_count >= 20);
}

/* In the handler of MIDDLE: HIGH comes through, LOW does not until the end of it. */
static void on_middle_nesting(struct interrupt_frame *frame)
{
    u32 before = arrived_count;
    check("in-service", "ppr", lapic_read(LAPIC_PPR), MIDDLE & 0xF0);
    check_true("in-service", "isr", bit_of(LAPIC_ISR, MIDDLE));
    send_self(LOW);
    open_window();
    check("low-waits", "count", arrived_count, before);
    send_self(HIGH);
    open_window();
    check("high-nests", "count", arrived_count, before + 1);
    expect_arrived("high-nests", before, HIGH);
    on_interrupt(frame);
}

void test_priority(void)
{
    begin();
    send_self(LOW);
    send_self(HIGH);
    send_self(MIDDLE);
    open_window();
    open_window();
    open_window();
    check("order", "count", arrived_count, 3);
    expect_arrived("first", 0, HIGH);
    expect_arrived("second", 1, MIDDLE);
    expect_arrived("third", 2, LOW);
    begin();
    interrupt_set_handler(MIDDLE, on_middle_nesting);
    send_self(MIDDLE);
    open_window();
    open_window();
    check("nested", "count", arrived_count, 3);
    expect_arrived("nested-high", 0, HIGH);
    expect_arrived("nested-middle", 1, MIDDLE);
    expect_arrived("nested-low", 2, LOW);
}

void test_task_priority(void)
{
    begin();
    lapic_write(LAPIC_TPR, 0x50);
    check("tpr", "cr8", read_cr8(), 5);
    send_self(MIDDLE);
    send_self(HIGH);
    open_window();
    open_window();
    check("tpr", "count", arrived_count, 1);
    expect_arrived("tpr", 0, HIGH);
    lapic_write(LAPIC_TPR, 0x40);
    open_window();
    check("tpr-lower", "count", arrived_count, 2);
    begin();
    write_cr8(7);
    check("cr8", "read", read_cr8(), 7);
    check("cr8", "tpr", lapic_read(LAPIC_TPR), 0x70);
    send_self(HIGH);
    open_window();
    check("cr8", "count", arrived_count, 0);
    write_cr8(6);
    open_window();
    check("cr8-lower", "count", arrived_count, 1);
    write_cr8(0);
    check("cr8-zero", "tpr", lapic_read(LAPIC_TPR), 0);
}

static volatile u32 nmi_count, nmi_depth, nmi_deepest;

static void send_nmi(void)
{
    lapic_write(LAPIC_ICR_HIGH, lapic_read(LAPIC_ID));
    lapic_write(LAPIC_ICR_LOW, ICR_NMI | ICR_ASSERT);
    for (u32 i = 0; i < 1000 && lapic_read(LAPIC_ICR_LOW) & ICR_PENDING; i++)
        ;
}

static void wait_for_nmi(u32 count)
{
    for (u32 i = 0; i < 100000 && nmi_count < count; i++)
        relax();
}

static void on_nmi(struct interrupt_frame *frame)
{
    (void)frame;
    if (++nmi_depth > nmi_deepest)
        nmi_deepest = nmi_depth;
    if (++nmi_count == 1) {
        send_nmi();                     /* waits for our IRET */
        for (u32 i = 0; i < 1000; i++)
            relax();
    }
    nmi_depth--;
}

void test_nmi(void)
{
    begin();
    nmi_count = nmi_depth = nmi_deepest = 0;
    interrupt_set_handler(NMI, on_nmi);
    send_nmi();                         /* interrupts are off: an NMI does not care */
    wait_for_nmi(2);
    check("nmi", "count", nmi_count, 2);
    check("nmi", "depth", nmi_deepest, 1);
}

static void on_end_of_spin(struct interrupt_frame *frame)
{
    on_interrupt(frame);
    end_run(frame);
}

void test_user_interrupt(void)
{
    begin();
    interrupt_set_handler(MIDDLE, on_end_of_spin);
    send_self(MIDDLE);
    run_user_flags((u64)user_spin, 0, RFLAGS_IF);
    check("pending", "count", arrived_count, 1);
    check("pending", "rip", arrived[0].rip, USER_BASE + (u64)user_spin_at);
    check("pending", "cs", arrived[0].cs, USER_CODE);
    check("pending", "stack", arrived[0].top, ring0_stack_top());
    begin();
    interrupt_set_handler(TIMER, on_end_of_spin);
    timer(0, TIMER_COUNT);
    run_user_flags((u64)user_spin, 0, RFLAGS_IF);
    timer_off();
    expect_arrived("timer", 0, TIMER);
    check("timer", "rip", arrived[0].rip, USER_BASE + (u64)user_spin_at);
    check("timer", "cs", arrived[0].cs, USER_CODE);
}
