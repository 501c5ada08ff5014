/* Code that changes under the CPU: by itself, through another mapping, by remapping, by a disk.
   Source: Intel SDM volume 3, 11.6 (self-modifying code on the same linear address needs a jump
   only on old CPUs; the same-block tests hold on every CPU since the Pentium). */
#include "../common/cpu.h"
#include "../common/ide.h"
#include "../common/memory.h"
#include "../common/tsc.h"
#include "check.h"
#include "disk.h"
#include "faults.h"
#include "world.h"

#define CODE_BYTES(name) extern char name[], name##_end[]
CODE_BYTES(next_instruction);
CODE_BYTES(changing_loop);
CODE_BYTES(string_store);
CODE_BYTES(string_move);
CODE_BYTES(store_and_jump);

enum { MOV_EAX = 0xB8, RET = 0xC3, ROUNDS = 300, DISK_ROUNDS = 6 };

typedef u32 (*returner)(u32 a, u64 b);

/* MOV EAX, value; RET */
static void write_returner(u8 *at, u32 value)
{
    at[0] = MOV_EAX;
    memcpy(at + 1, &value, 4);
    at[5] = RET;
}

static u32 call(u64 address, u32 a, u64 b)
{
    compiler_barrier();
    return ((returner)address)(a, b);
}

static u64 writable_code(u32 index, const char *from, const char *end)
{
    u8 *page = fresh_page();
    memcpy(page, from, (size_t)(end - from));
    return map_test_page(index, (u64)page, PAGE_PRESENT | PAGE_WRITE);
}
#define WRITABLE(index, name) writable_code(index, name, name##_end)

void test_smc_same_block(void)
{
    u64 page = WRITABLE(0, next_instruction);
    for (u32 i = 1; i <= ROUNDS; i++)
        check("next-instruction", "eax", call(page, i, 0), i);
    page = WRITABLE(1, changing_loop);
    check("loop", "sum", call(page, ROUNDS, 0), ROUNDS * (ROUNDS + 1) / 2);
}

void test_smc_cross_page(void)
{
    u64 writer = WRITABLE(0, store_and_jump);
    u8 *page = fresh_page();
    write_returner(page + 16, 0);
    u64 target = map_test_page(1, (u64)page, PAGE_PRESENT | PAGE_WRITE) + 16;
    for (u32 i = 1; i <= ROUNDS; i++)
        check("other-page", "eax", call(writer, i, target), i);
    u64 first = map_test_page(2, (u64)fresh_page(), PAGE_PRESENT | PAGE_WRITE);
    map_test_page(3, (u64)fresh_page(), PAGE_PRESENT | PAGE_WRITE);
    u8 *straddle = (u8 *)(first + PAGE - 3);            /* the constant lies in both pages */
    write_returner(straddle, 0);
    for (u32 i = 1; i <= ROUNDS; i++) {
        straddle[3] = (u8)i;                            /* only the second page is written */
        check("straddle", "eax", call((u64)straddle, 0, 0), (i & 0xFF) << 16);
    }
}

void test_smc_alias(void)
{
    u8 *page = fresh_page();
    u64 run = map_test_page(0, (u64)page, PAGE_PRESENT);
    u64 run_too = map_test_page(1, (u64)page, PAGE_PRESENT);
    u8 *write = (u8 *)map_test_page(2, (u64)page, PAGE_PRESENT | PAGE_WRITE | PAGE_NX);
    write_returner(page, 0);
    write_returner(page + 64, 0);
    for (u32 i = 1; i <= ROUNDS; i++) {
        u8 *through = i % 3 ? write : page;             /* both are NX */
        *(volatile u32 *)(through + 1) = i;
        *(volatile u8 *)(write + 65) = (u8)i;
        check("alias", "eax", call(run, 0, 0), i);
        check("alias", "second", call(run_too, 0, 0), i);
        check("alias", "byte", call(run + 64, 0, 0), i & 0xFF);
    }
}

void test_smc_string(void)
{
    for (u32 i = 0; i < 4; i++) {                       /* the same page: fresh code every time */
        check("stos", "eax", call(WRITABLE(0, string_store), 0, 0), 0x55);
        check("movs", "eax", call(WRITABLE(1, string_move), 0, 0), 0x22);
    }
    u8 source[16];
    u8 *page = (u8 *)map_test_page(2, (u64)fresh_page(), PAGE_PRESENT | PAGE_WRITE);
    for (u32 i = 1; i <= ROUNDS; i++) {
        write_returner(source, i);
        memcpy(page, source, 6);
        check("copied", "eax", call((u64)page, 0, 0), i);
    }
}

void test_smc_remap(void)
{
    u8 *pages[2] = { fresh_page(), fresh_page() };
    write_returner(pages[0], 100);
    write_returner(pages[1], 101);
    for (u32 i = 0; i < ROUNDS; i++) {
        u64 run = map_test_page(0, (u64)pages[i & 1], PAGE_PRESENT);
        check("invlpg", "eax", call(run, 0, 0), 100 + (i & 1));
    }
}

/* A disk reads sector after sector over code that has just run. */
static void overwrite_by_disk(bool (*transfer)(bool write, u64 sector, void *memory), u64 scratch)
{
    u8 *page = fresh_page(), *sector = fresh_page(), *before = fresh_page();
    u64 run = map_test_page(0, (u64)page, PAGE_PRESENT);
    write_returner(page, 1);
    if (!transfer(false, scratch, before)) {
        check_true("disk", "read", false);
        return;
    }
    check("first", "eax", call(run, 0, 0), 1);
    for (u32 i = 2; i < 2 + DISK_ROUNDS; i++) {
        write_returner(sector, i);
        check_true("disk", "write", transfer(true, scratch, sector));
        check("old", "eax", call(run, 0, 0), i - 1);
        check_true("disk", "read", transfer(false, scratch, page));
        check("new", "eax", call(run, 0, 0), i);
    }
    check_true("disk", "restore", transfer(true, scratch, before));
}

static struct ide_disk ide;

static bool ide_sector(bool write, u64 sector, void *memory)
{
    return !ide_transfer(&ide, write, sector, 1, memory);
}

void test_pio_code(void)
{
    u64 tsc_hz = tsc_calibrate();
    if (ide_open(&ide, 0, 5 * tsc_hz) && ide_open(&ide, 1, 5 * tsc_hz)) {
        check_skip();
        return;
    }
    ide.multiple = 1;
    ide_start(&ide);
    overwrite_by_disk(ide_sector, ide.sectors - 1);
}

static bool virtio_sector(bool write, u64 sector, void *memory)
{
    return disk_transfer(write, sector, memory) == DISK_OK;
}

void test_dma_code(void)
{
    if (!disk_find()) {
        check_skip();
        return;
    }
    check_true("disk", "start", disk_start());
    overwrite_by_disk(virtio_sector, disk_sectors() - 1);
    disk_reset();
}
