/* Sub-tests with known outcomes, chosen by test=NAME,NAME or test=all or test=list. */
#include "../common/boot.h"
#include "../common/lapic.h"
#include "../common/leave.h"
#include "../common/pic.h"
#include "../common/serial.h"
#include "catch.h"
#include "check.h"
#include "faults.h"
#include "world.h"

enum kind { ALL, ASKED_FOR, ENDS };     /* in "all"; only by name; by name, and never returns */

static const struct { const char *name; void (*run)(void); enum kind kind; } sub_tests[] = {
    { "de", test_de, ALL },
    { "db", test_db, ALL },
    { "bp", test_bp, ALL },
    { "of", test_of, ALL },
    { "br", test_br, ALL },
    { "ud", test_ud, ALL },
    { "nm", test_nm, ALL },
    { "df", test_df, ALL },
    { "ts", test_ts, ALL },
    { "np", test_np, ALL },
    { "ss", test_ss, ALL },
    { "gp", test_gp, ALL },
    { "pf", test_pf, ALL },
    { "pf-user", test_pf_user, ALL },
    { "mf", test_mf, ALL },
    { "rflags", test_rflags, ALL },
    { "ist", test_ist, ALL },
    { "restart", test_restart, ALL },
    { "demand-paging", test_demand_paging, ALL },
    { "accessed-dirty", test_accessed_dirty, ALL },
    { "ring3", test_ring3, ALL },
    { "privileged", test_privileged, ALL },
    { "port-privilege", test_port_privilege, ALL },
    { "int-n", test_int_n, ALL },
    { "nested", test_nested, ALL },
    { "syscall", test_syscall, ALL },
    { "syscall-off", test_syscall_off, ALL },
    { "msrs", test_msrs, ALL },
    { "unknown-msr", test_unknown_msr, ALL },
    { "swapgs", test_swapgs, ALL },
    { "tsc", test_tsc, ALL },
    { "cpuid", test_cpuid, ALL },
    { "self-ipi", test_self_ipi, ALL },
    { "sti-shadow", test_sti_shadow, ALL },
    { "mov-ss-shadow", test_mov_ss_shadow, ALL },
    { "cli-window", test_cli_window, ALL },
    { "hlt-wake", test_hlt_wake, ALL },
    { "priority", test_priority, ALL },
    { "task-priority", test_task_priority, ALL },
    { "nmi", test_nmi, ALL },
    { "user-interrupt", test_user_interrupt, ALL },
    { "compat", test_compat, ALL },
    { "modes", test_modes, ALL },
    { "smc-same-block", test_smc_same_block, ALL },
    { "smc-cross-page", test_smc_cross_page, ALL },
    { "smc-alias", test_smc_alias, ALL },
    { "smc-string", test_smc_string, ALL },
    { "smc-remap", test_smc_remap, ALL },
    { "pio-code", test_pio_code, ALL },
    { "dma-code", test_dma_code, ALL },
    { "wild-ports", test_wild_ports, ALL },
    { "wild-mmio", test_wild_mmio, ALL },
    { "lapic-rmw", test_lapic_rmw, ALL },
    { "virtqueues", test_virtqueues, ALL },
    { "rmw", test_rmw, ALL },
    { "int-n-strict", test_int_n_strict, ASKED_FOR },
    { "icebp", test_icebp, ASKED_FOR },
    { "unknown-msr-gp", test_unknown_msr_gp, ASKED_FOR },
    { "wild-ones", test_wild_ones, ASKED_FOR },
    { "virtqueues-strict", test_virtqueues_strict, ASKED_FOR },
    { "wild-jump", test_wild_jump, ASKED_FOR },
    { "triple-fault", test_triple_fault, ENDS },
    { "hang", test_hang, ENDS },
    { "spin", test_spin, ENDS },
    { "reset", test_reset, ENDS },
    { "reset-cf9", test_reset_cf9, ENDS },
    { "panic", test_panic, ENDS },
};

static void list(void)
{
    static const char *const kinds[] = { "all", "asked-for", "ends" };
    for (u32 i = 0; i < COUNT_OF(sub_tests); i++) {
        print("faults:");
        print_text("name", sub_tests[i].name);
        print_text("kind", kinds[sub_tests[i].kind]);
        print("\n");
    }
}

static void run_one(u32 index, u32 *results)
{
    check_begin(sub_tests[index].name);
    sub_tests[index].run();
    unmap_test_pages();
    give_back_pages();
    results[check_end()]++;
}

void guest_main(void)
{
    if (option_is("test", "list")) {
        list();
        leave(LEAVE_OK);
    }
    pic_init();
    if (!lapic_init() || !world_init()) {
        print("faults: error=no-lapic-or-no-ram\n");
        leave(LEAVE_FAIL);
    }
    catch_init();
    bool all = !option_given("test") || option_lists("test", "all");
    u32 results[3] = { 0 };
    for (u32 i = 0; i < COUNT_OF(sub_tests); i++)
        if ((all && sub_tests[i].kind == ALL) || option_lists("test", sub_tests[i].name))
            run_one(i, results);
    print("faults:");
    print_number("passed", results[CHECK_PASS]);
    print_number("failed", results[CHECK_FAIL]);
    print_number("skipped", results[CHECK_SKIP]);
    print("\n");
    if (!results[CHECK_PASS] && !results[CHECK_FAIL] && !results[CHECK_SKIP])
        leave(LEAVE_FAIL);              /* no such name */
    leave(results[CHECK_FAIL] ? LEAVE_WRONG : LEAVE_OK);
}
