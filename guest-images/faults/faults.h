/* The sub-tests, by file. */
#ifndef FAULTS_H
#define FAULTS_H

/* exceptions.c */
void test_de(void);
void test_db(void);
void test_bp(void);
void test_of(void);
void test_br(void);
void test_ud(void);
void test_nm(void);
void test_df(void);
void test_ts(void);
void test_np(void);
void test_ss(void);
void test_gp(void);
void test_mf(void);
void test_rflags(void);
void test_ist(void);
void test_icebp(void);
void test_unknown_msr(void);
void test_unknown_msr_gp(void);

/* paging.c */
void test_pf(void);
void test_pf_user(void);
void test_restart(void);
void test_demand_paging(void);
void test_accessed_dirty(void);

/* user.c */
void test_ring3(void);
void test_privileged(void);
void test_port_privilege(void);
void test_int_n(void);
void test_int_n_strict(void);
void test_nested(void);
void test_syscall(void);
void test_syscall_off(void);

/* registers.c */
void test_msrs(void);
void test_swapgs(void);
void test_tsc(void);
void test_cpuid(void);

/* interrupt.c */
void test_self_ipi(void);
void test_sti_shadow(void);
void test_mov_ss_shadow(void);
void test_cli_window(void);
void test_hlt_wake(void);
void test_priority(void);
void test_task_priority(void);
void test_nmi(void);
void test_user_interrupt(void);

/* modes.c */
void test_compat(void);
void test_modes(void);

/* code.c */
void test_smc_same_block(void);
void test_smc_cross_page(void);
void test_smc_alias(void);
void test_smc_string(void);
void test_smc_remap(void);
void test_pio_code(void);
void test_dma_code(void);

/* wild.c */
void test_wild_ports(void);
void test_wild_mmio(void);
void test_wild_ones(void);
void test_lapic_rmw(void);
void test_wild_jump(void);

/* queues.c */
void test_virtqueues(void);
void test_virtqueues_strict(void);

/* rmw.c */
void test_rmw(void);

/* ends.c: none of these returns */
void test_triple_fault(void);
void test_hang(void);
void test_spin(void);
void test_reset(void);
void test_reset_cf9(void);
void test_panic(void);

#endif
