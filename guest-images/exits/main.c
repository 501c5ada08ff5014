/* The time of one access of each kind. Rows that kvm-unit-tests' vmexit has are named as there.
   ../README.md has the list and the words of the command line. */
#include "../common/boot.h"
#include "../common/cpu.h"
#include "../common/interrupts.h"
#include "../common/lapic.h"
#include "../common/leave.h"
#include "../common/pci.h"
#include "../common/pic.h"
#include "../common/serial.h"
#include "../common/tsc.h"
#include "../common/virtio_pci.h"

enum {
    UNCLAIMED = 0x1234, ELCR = 0x4D0, PM_TIMER = 0x608, NMI_STATUS = 0x61, POST = 0x80,
    SERIAL_SCR = 0x3FF, PCI_ADDRESS = 0xCF8, PCI_DATA = 0xCFC,
    MSR_APIC_BASE = 0x1B, MSR_TSC_ADJUST = 0x3B,
    UD_VECTOR = 6, PF_VECTOR = 14, IPI_VECTOR = 0xC0, INT_VECTOR = 0x80,
    ICR_SELF = 1 << 18, TPR_ALL = 0xFF,
    WARM_UP = 32, MOST_ITERATIONS = 1 << 24,
};

#define UNMAPPED (1ull << 38)           /* behind the 4 GiB that are mapped */

void on_int(void);
void on_ud2(void);
void on_page_fault(void);
void on_ipi(void);

u64 events;
static u64 tsc_hz;
static bool has_lapic;
static struct virtio_device virtio;
static volatile u64 target;

static void send_self(void)
{
    lapic_write(LAPIC_ICR_LOW, ICR_SELF | IPI_VECTOR);
}

#define ROW(name, ...) static void name(u64 n) { for (; n; n--) { __VA_ARGS__; } }

ROW(nop, compiler_barrier())
ROW(run_cpuid, cpuid(0, 0))
ROW(mov_from_cr8, read_cr8())
ROW(mov_to_cr8, write_cr8(0))
ROW(inl_from_pmtimer, in32(PM_TIMER))
ROW(inl_from_qemu, in32(UNCLAIMED))
ROW(inl_from_kernel, in8(ELCR))
ROW(outl_to_kernel, out8(ELCR, 0))
ROW(mov_dr, __asm__ volatile("mov %0, %%dr7" : : "r"(0x400ull)))
ROW(self_ipi_sti_nop, send_self(); __asm__ volatile("sti\n\tnop\n\tcli" : : : "memory"))
ROW(self_ipi_sti_hlt, send_self(); halt_until_interrupt())
ROW(self_ipi_tpr, lapic_write(LAPIC_TPR, TPR_ALL); send_self(); lapic_write(LAPIC_TPR, 0);
    __asm__ volatile("sti\n\tnop\n\tcli" : : : "memory"))
ROW(rd_tsc_adjust_msr, read_msr(MSR_TSC_ADJUST))
ROW(wr_tsc_adjust_msr, write_msr(MSR_TSC_ADJUST, 0))
ROW(rd_apicbase_msr, read_msr(MSR_APIC_BASE))
ROW(rdtsc, read_tsc())
ROW(inb_port_61, in8(NMI_STATUS))
ROW(outb_post, out8(POST, 0))
ROW(inb_serial_scr, in8(SERIAL_SCR))
ROW(outb_serial_scr, out8(SERIAL_SCR, 0x5A))
ROW(inl_pci_config, in32(PCI_DATA))
ROW(mmio_read_lapic_id, lapic_read(LAPIC_ID))
ROW(mmio_write_lapic_tpr, lapic_write(LAPIC_TPR, 0))
ROW(mmio_write_lapic_eoi, lapic_eoi())
ROW(mmio_read_virtio_features, mmio_read32(virtio.common + 4))
ROW(int_0x80, __asm__ volatile("int $0x80" : : : "memory"))
ROW(ud2, __asm__ volatile("ud2" : : : "memory"))
ROW(page_fault, __asm__ volatile("movb (%%rdi), %%al" : : "D"(UNMAPPED) : "rax", "memory"))
ROW(tlb_miss, invlpg((u64)&target); (void)target)
ROW(tlb_flush, write_cr3(read_cr3()))

static bool lapic_there(void) { return has_lapic; }
static bool virtio_there(void) { return virtio.common != 0; }
static bool pm_timer_there(void) { return in32(PM_TIMER) != 0xFFFFFFFF; }
/* QEMU's TCG does not show it: named rows only, so that a plain run prints the same rows everywhere. */
static bool tsc_adjust_there(void) { return option_given("only") && cpuid(0, 0).eax >= 7 && cpuid(7, 0).ebx & 1 << 1; }

static const struct row {
    const char *name;
    void (*run)(u64 n);
    bool (*there)(void);                /* NULL: always */
    bool event;                         /* each round is one event for a handler */
} rows[] = {
    { "nop", nop, NULL, false },
    { "cpuid", run_cpuid, NULL, false },
    { "mov_from_cr8", mov_from_cr8, NULL, false },
    { "mov_to_cr8", mov_to_cr8, NULL, false },
    { "inl_from_pmtimer", inl_from_pmtimer, pm_timer_there, false },
    { "inl_from_qemu", inl_from_qemu, NULL, false },
    { "inl_from_kernel", inl_from_kernel, NULL, false },
    { "outl_to_kernel", outl_to_kernel, NULL, false },
    { "mov_dr", mov_dr, NULL, false },
    { "self_ipi_sti_nop", self_ipi_sti_nop, lapic_there, true },
    { "self_ipi_sti_hlt", self_ipi_sti_hlt, lapic_there, true },
    { "self_ipi_tpr", self_ipi_tpr, lapic_there, true },
    { "rd_tsc_adjust_msr", rd_tsc_adjust_msr, tsc_adjust_there, false },
    { "wr_tsc_adjust_msr", wr_tsc_adjust_msr, tsc_adjust_there, false },
    { "rd_apicbase_msr", rd_apicbase_msr, lapic_there, false },
    { "rdtsc", rdtsc, NULL, false },
    { "inb_port_61", inb_port_61, NULL, false },
    { "outb_post", outb_post, NULL, false },
    { "inb_serial_scr", inb_serial_scr, NULL, false },
    { "outb_serial_scr", outb_serial_scr, NULL, false },
    { "inl_pci_config", inl_pci_config, NULL, false },
    { "mmio_read_lapic_id", mmio_read_lapic_id, lapic_there, false },
    { "mmio_write_lapic_tpr", mmio_write_lapic_tpr, lapic_there, false },
    { "mmio_write_lapic_eoi", mmio_write_lapic_eoi, lapic_there, false },
    { "mmio_read_virtio_features", mmio_read_virtio_features, virtio_there, false },
    { "int_0x80", int_0x80, NULL, true },
    { "ud2", ud2, NULL, true },
    { "page_fault", page_fault, NULL, true },
    { "tlb_miss", tlb_miss, NULL, false },
    { "tlb_flush", tlb_flush, NULL, false },
};

static void set_up(void)
{
    pic_init();
    has_lapic = lapic_init();
    interrupt_set_gate(INT_VECTOR, on_int);
    interrupt_set_gate(UD_VECTOR, on_ud2);
    interrupt_set_gate(PF_VECTOR, on_page_fault);
    interrupt_set_gate(IPI_VECTOR, on_ipi);
    pci_address blk = pci_find(VIRTIO_VENDOR, 0x1001, 0x1042, 0);
    if (blk != PCI_NONE && virtio_open(&virtio, blk))
        virtio.common = 0;
    out32(PCI_ADDRESS, 1u << 31);       /* the row reads the host bridge's ids */
}

/* Exactly `iterations` rounds, or without that word as many as fill a millisecond. */
static u64 measure(const struct row *row, u64 *ticks)
{
    bool exact = option_given("iterations");
    u64 n = exact ? option_number("iterations", 1) : WARM_UP;
    row->run(WARM_UP);
    for (;; n *= 2) {
        events = 0;
        u64 start = read_tsc();
        row->run(n);
        *ticks = read_tsc() - start;
        if (exact || *ticks >= tsc_hz / 1000 || n >= MOST_ITERATIONS)
            return n;
    }
}

/* Print the line of a row; false if its handler missed an event. */
static bool report(const struct row *row)
{
    u64 ticks, n = measure(row, &ticks);
    bool right = !row->event || events == n;
    print(right ? "exits:" : "exits: error");
    print_text("name", row->name);
    print_number("cycles", ticks / n);
    print_number("ns", mul_div(ticks, 1000000000, tsc_hz) / n);
    print_number("n", n);
    if (!right)
        print_number("events", events);
    print("\n");
    return right;
}

_Noreturn static void fail(const char *what)
{
    print("exits: fail");
    print_text("what", what);
    print("\n");
    leave(LEAVE_FAIL);
}

void guest_main(void)
{
    u32 shown = 0, right = 0;
    tsc_hz = tsc_calibrate();
    if (!tsc_hz)
        fail("pit");
    if (!option_number("iterations", 1))
        fail("iterations");
    set_up();
    for (u32 i = 0; i < COUNT_OF(rows); i++) {
        const struct row *row = &rows[i];
        bool chosen = !option_given("only") || option_lists("only", row->name);
        if (chosen && (!row->there || row->there())) {
            shown++;
            right += report(row);
        }
    }
    if (!shown)
        fail("only");
    print("exits: done\n");
    leave(right == shown ? LEAVE_OK : LEAVE_WRONG);
}
