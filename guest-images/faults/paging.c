/* Page faults: error code, CR2, and pages that appear while the instruction waits. */
#include "../common/cpu.h"
#include "catch.h"
#include "check.h"
#include "faults.h"
#include "world.h"

SNIPPET(read_at);
SNIPPET(write_at);
SNIPPET(increment_at);
SNIPPET(pop_to);
SNIPPET(rep_store);
SNIPPET(rep_in);
SNIPPET(push_to);

enum {                                  /* error code */
    PF_PRESENT = 1, PF_WRITE = 2, PF_USER = 4, PF_RESERVED = 8, PF_FETCH = 0x10,
};
enum { OPCODE_RET = 0xC3 };

static void expect_pf(const char *what, u64 error, u64 rip, u64 address)
{
    expect(what, PF, error, rip);
    check(what, "cr2", caught.cr2, address);
}

static void not_present(void)
{
    u64 hole = test_page(0) + 0x123;
    run_kernel((u64)read_at, hole);
    expect_pf("read", 0, (u64)read_at_at, hole);
    run_kernel((u64)write_at, hole);
    expect_pf("write", PF_WRITE, (u64)write_at_at, hole);
    run_kernel(hole, 0);
    expect_pf("fetch", PF_FETCH, hole, hole);
    map_test_page(2, (u64)fresh_page(), PAGE_PRESENT | PAGE_WRITE);
    run_kernel((u64)read_at, test_page(3) - 4);         /* its second half is missing */
    expect_pf("straddle", 0, (u64)read_at_at, test_page(3));
}

static void protected(void)
{
    u64 page = map_test_page(1, (u64)fresh_page(), PAGE_PRESENT | PAGE_NX);
    run_kernel((u64)write_at, page);
    expect_pf("write-protect", PF_PRESENT | PF_WRITE, (u64)write_at_at, page);
    run_kernel((u64)increment_at, page + 8);
    expect_pf("increment", PF_PRESENT | PF_WRITE, (u64)increment_at_at, page + 8);
    write_cr0(read_cr0() & ~(u64)CR0_WP);
    run_kernel((u64)write_at, page);
    write_cr0(read_cr0() | CR0_WP);
    expect_nothing("wp-off");
    check("wp-off", "stored", *(volatile u64 *)page, page);
    run_kernel((u64)write_at, page);
    expect_pf("wp-on-again", PF_PRESENT | PF_WRITE, (u64)write_at_at, page);
    run_kernel(page, 0);
    expect_pf("nx", PF_PRESENT | PF_FETCH, page, page);
}

void test_pf(void)
{
    not_present();
    protected();
    u64 page = map_test_page(4, (u64)fresh_page(), PAGE_PRESENT | PAGE_WRITE | PAGE_RESERVED);
    run_kernel((u64)read_at, page);
    u64 present = caught.frame.error & PF_PRESENT;      /* QEMU's TCG leaves it out */
    expect_pf("reserved", present | PF_RESERVED, (u64)read_at_at, page);
    u8 *code = fresh_page();
    *code = OPCODE_RET;
    page = map_test_page(5, (u64)code, PAGE_PRESENT);
    run_kernel(page, 0);
    expect_nothing("executable");
    map_test_page(5, 0, 0);
    run_kernel(page, 0);
    expect_pf("gone", PF_FETCH, page, page);
}

void test_pf_user(void)
{
    u64 read_rip = USER_BASE + (u64)read_at_at, write_rip = USER_BASE + (u64)write_at_at;
    u64 hole = test_page(0) + 8;
    run_user((u64)read_at, hole);
    expect_pf("read", PF_USER, read_rip, hole);
    run_user((u64)write_at, hole);
    expect_pf("write", PF_USER | PF_WRITE, write_rip, hole);
    u64 page = map_test_page(1, (u64)fresh_page(), PAGE_PRESENT | PAGE_WRITE);
    run_user((u64)read_at, page);
    expect_pf("supervisor-read", PF_USER | PF_PRESENT, read_rip, page);
    run_user((u64)write_at, page);
    expect_pf("supervisor-write", PF_USER | PF_PRESENT | PF_WRITE, write_rip, page);
    map_test_page(1, (u64)fresh_page(), PAGE_PRESENT | PAGE_USER | PAGE_NX);
    run_user((u64)write_at, page);
    expect_pf("write-protect", PF_USER | PF_PRESENT | PF_WRITE, write_rip, page);
    run_user(page - USER_BASE, 0);
    expect_pf("nx", PF_USER | PF_PRESENT | PF_FETCH, page, page);
    run_user((u64)read_at, (u64)read_at);               /* the kernel's own mapping */
    expect_pf("kernel", PF_USER | PF_PRESENT, read_rip, (u64)read_at);
    check("kernel", "stack", caught.handler_top, ring0_stack_top());
}

static u32 demanded;

/* Map the page that is missing; the first time, touch another missing one before. */
static void on_demand(struct interrupt_frame *frame)
{
    u64 address = read_cr2();
    u32 index = (u32)((address - TEST_PAGES) / PAGE);
    if (index >= TEST_PAGE_COUNT || demanded >= TEST_PAGE_COUNT)
        panic(frame);
    if (demanded++ == 0)
        *(volatile u64 *)(test_page(9)) = 0x55;
    u64 *page = fresh_page();
    page[0] = index;
    map_test_page(index, (u64)page, PAGE_PRESENT | PAGE_WRITE | PAGE_NX);
}

static void restart_string(const char *what, u64 code, u64 rip, u64 page)
{
    run_kernel(code, page + PAGE - 16);
    expect_pf(what, PF_WRITE, rip, page + PAGE);
    check(what, "rcx", caught.frame.rcx, 16);
    check(what, "rdi", caught.frame.rdi, page + PAGE);
}

/* A fault in the middle leaves the registers so that the instruction can go on, or start again. */
void test_restart(void)
{
    u64 page = map_test_page(0, (u64)fresh_page(), PAGE_PRESENT | PAGE_WRITE | PAGE_NX);
    restart_string("rep-stos", (u64)rep_store, (u64)rep_store_at, page);
    restart_string("rep-ins", (u64)rep_in, (u64)rep_in_at, page);
    run_kernel((u64)pop_to, test_page(1));
    expect_pf("pop", PF_WRITE, (u64)pop_to_at, test_page(1));
    check("pop", "rsp", caught.frame.rsp, caught.frame.rbx);
    set_gate_ist(PF, 1);
    run_kernel((u64)push_to, test_page(3));
    set_gate_ist(PF, 0);
    expect_pf("push", PF_WRITE, (u64)push_to_at, test_page(3) - 8);
    check("push", "rsp", caught.frame.rsp, test_page(3));
}

void test_demand_paging(void)
{
    demanded = 0;
    interrupt_set_handler(PF, on_demand);
    u64 sum = 0;
    for (u32 index = 0; index < 8; index++)
        sum += *(volatile u64 *)test_page(index);
    u64 other = *(volatile u64 *)test_page(9);
    *(volatile u64 *)(test_page(11) - 4) = ~0ull;       /* pages 10 and 11 both appear */
    u32 low = *(volatile u32 *)(test_page(11) - 4), high = *(volatile u32 *)test_page(11);
    catch_vector(PF);
    check("demand", "sum", sum, 0 + 1 + 2 + 3 + 4 + 5 + 6 + 7);
    check("nested", "value", other, 0x55);
    check("straddle", "low", low, 0xFFFFFFFF);
    check("straddle", "high", high, 0xFFFFFFFF);
    check("demand", "faults", demanded, 8 + 1 + 2);
}

void test_accessed_dirty(void)
{
    const u64 both = PAGE_ACCESSED | PAGE_DIRTY;
    u64 page = map_test_page(0, (u64)fresh_page(), PAGE_PRESENT | PAGE_WRITE | PAGE_NX);
    check("untouched", "bits", test_page_entry(0) & both, 0);
    (void)*(volatile u64 *)page;
    check("read", "bits", test_page_entry(0) & both, PAGE_ACCESSED);
    *(volatile u64 *)page = 1;
    check("written", "bits", test_page_entry(0) & both, both);
}
