from emu.cpu import cpuid, msr, mtrr

MCE, MCA, TSC_ADJUST = 1 << 7, 1 << 14, 1 << 1


def test_what_cpuid_shows_of_machine_checks_has_its_registers() -> None:
    _, _, _, features = cpuid.build(lambda: 2_600_000_000)(1, 0)
    assert features & (MCE | MCA) == MCE | MCA
    table = msr.MsrTable()
    assert (table.read(msr.MCG_CAP), table.read(msr.MCG_STATUS)) == (0, 0)  # no bank, nothing happened
    assert not table.write(msr.MCG_CAP, 1)
    assert table.write(msr.MCG_STATUS, 0)
    assert not table.write(msr.MCG_STATUS, 1)


def test_the_rate_of_the_time_stamp_counter_is_told() -> None:
    ask = cpuid.build(lambda: 2_596_145_000)
    assert ask(0x15, 0) == (1, 1, 2_596_145_000, 0)
    assert ask(0x16, 0)[0] == 2596
    assert ask(0x80000007, 0)[3] & 1 << 8  # it is invariant
    assert ask(7, 0)[1] & TSC_ADJUST


def test_a_leaf_past_the_last_shows_the_last() -> None:
    ask = cpuid.build(lambda: 2_600_000_000)
    assert ask(0x17, 0) == ask(0x16, 0)
    assert ask(0x40000000, 0) == (0, 0, 0, 0)


def test_software_is_told_that_it_need_not_isolate_its_page_tables() -> None:
    rdcl_no, mds_no, arch_capabilities = 1 << 0, 1 << 5, 1 << 29
    ask = cpuid.build(lambda: 2_600_000_000)
    assert ask(7, 0)[3] & arch_capabilities
    assert ask(7, 1) == (0, 0, 0, 0)
    table = msr.MsrTable()
    told = table.read(msr.ARCH_CAPABILITIES)
    assert told is not None
    assert told & (rdcl_no | mds_no) == rdcl_no | mds_no
    assert not table.write(msr.ARCH_CAPABILITIES, told)  # read-only: #GP


X2APIC, TSC_DEADLINE, APIC, MTRR, PAT = 1 << 21, 1 << 24, 1 << 9, 1 << 12, 1 << 16


def test_what_cpuid_shows_of_memory_types_and_the_apic_has_its_registers() -> None:
    _, _, ecx, edx = cpuid.build(lambda: 1)(1, 0)
    assert ecx & (X2APIC | TSC_DEADLINE) == X2APIC | TSC_DEADLINE
    assert edx & (APIC | MTRR | PAT) == APIC | MTRR | PAT
    table = msr.MsrTable()
    assert table.read(mtrr.MTRR_CAP) is not None
    assert table.read(mtrr.PAT) is not None


def test_the_apics_bit_follows_its_global_enable() -> None:
    on = [False]
    ask = cpuid.build(lambda: 1, lambda: on[0])
    for leaf in (1, 0x80000001):
        assert not ask(leaf, 0)[3] & APIC
    on[0] = True
    for leaf in (1, 0x80000001):
        assert ask(leaf, 0)[3] & APIC


def test_the_topology_is_one_thread_of_one_core_with_id_0() -> None:
    ask = cpuid.build(lambda: 1)
    assert [ask(0xB, level) for level in range(3)] == [(0, 1, 0x100, 0), (0, 1, 0x201, 0), (0, 0, 2, 0)]
