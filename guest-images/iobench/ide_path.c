/* Requests one after the other over IDE PIO; common/ide.h has the number of accesses. */
#include "../common/boot.h"
#include "../common/cpu.h"
#include "../common/ide.h"
#include "../common/serial.h"
#include "bench.h"

static struct ide_disk disk;
static struct request request;

static void expect_ide(const char *wrong)
{
    if (wrong && *wrong == 's')
        fail(wrong, "value", (u64)ide_status() << 8 | ide_error());
    expect(wrong);
}

static void open(void)
{
    expect(ide_open(&disk, option_number("disk", 0) & 1, 20 * bench.tsc_hz));
    disk.pio32 = option_number("pio", 16) == 32;
    disk.only_lba48 = option_number("lba", 28) == 48;
    if (!option_number("multiple", 1))
        disk.multiple = 1;
    expect_ide(ide_set_multiple(&disk));
    disk.irq = bench.irq;
    ide_start(&disk);
    bench.qd = 1;
    request.memory = allocate(bench.bs, 4096);
    if (!request.memory)
        fail("memory", NULL, 0);
    bench_describe("ide", disk.sectors);
    print_text("model", disk.model);
    print_number("multiple", disk.multiple);
    print_number("lba48", disk.lba48);
    print_number("pio", disk.pio32 ? 32 : 16);
    print("\n");
}

static void run(u64 requests)
{
    ide_interrupts = 0;
    for (u64 i = 0; i < requests; i++) {
        bench_prepare(&request);
        request.submitted = read_tsc();
        expect_ide(ide_transfer(&disk, bench.fills, request.offset / IDE_SECTOR,
                                bench.bs / IDE_SECTOR, request.memory));
        bench_complete(&request, read_tsc());
    }
    bench.interrupts = ide_interrupts;
    bench.notifies = 0;
}

static void flush(void)
{
    expect_ide(ide_flush(&disk));
}

const struct path ide_path = { open, run, flush, NULL };
