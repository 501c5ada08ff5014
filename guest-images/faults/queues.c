/* Virtqueues that break the rules. The device may ask for a reset, answer an error or stay silent;
   it may not report success, and after a reset it works. Source: VIRTIO 1.2, 2.1, 2.7 and 4.1.4. */
#include "../common/cpu.h"
#include "../common/memory.h"
#include "check.h"
#include "disk.h"
#include "faults.h"
#include "world.h"

#define BEYOND_RAM 0xFFFFFFFFF000ull
#define MMIO_HOLE 0xD0000000ull

enum {
    DRIVER_FEATURE_SELECT = 8, DRIVER_FEATURE = 12, QUEUE_SELECT = 22,
    ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8,
};

static struct virtq_desc *desc;         /* of the queue */
static struct virtq_desc *table;        /* an indirect one */
static struct virtqueue told;           /* what the device is told about the queue */
static u8 *data;

static void loop(void) { desc[1].next = 0; }
static void loop_on_itself(void) { desc[0].next = 0; }
static void loop_at_end(void) { desc[2].flags |= VIRTQ_NEXT; desc[2].next = 1; }
static void next_outside(void) { desc[0].next = DISK_QUEUE_SIZE; }
static void next_absurd(void) { desc[1].next = 0xFFFF; }
static void header_beyond_ram(void) { desc[0].address = BEYOND_RAM; }
static void data_beyond_ram(void) { desc[1].address = BEYOND_RAM; }
static void status_beyond_ram(void) { desc[2].address = BEYOND_RAM; }
static void header_in_hole(void) { desc[0].address = MMIO_HOLE; }
static void data_in_hole(void) { desc[1].address = MMIO_HOLE; }
static void status_in_hole(void) { desc[2].address = MMIO_HOLE; }
static void address_wraps(void) { desc[1].address = ~0ull - 16; }
static void length_huge(void) { desc[1].length = 0xFFFFFFFF; }
static void header_huge(void) { desc[0].length = 0xFFFFFFFF; }
static void avail_jump(void) { disk_queue.offered += 0x8000; }
static void avail_too_far(void) { disk_queue.offered += DISK_QUEUE_SIZE; }
static void head_outside(void) { disk_queue.avail->ring[0] = DISK_QUEUE_SIZE; }
static void head_absurd(void) { disk_queue.avail->ring[0] = 0xFFFF; }
static void data_odd(void) { desc[1].length = DISK_SECTOR + 1; }
static void sector_beyond(void) { disk_header.sector = disk_sectors(); }
static void sector_absurd(void) { disk_header.sector = ~0ull; }
static void type_unknown(void) { disk_header.type = 0x1234; }
static void header_short(void) { desc[0].length = 8; }
static void header_missing(void) { desc[0].flags |= VIRTQ_WRITE; }
static void status_missing(void) { desc[1].flags = 0; }
static void status_readable(void) { desc[2].flags = 0; }

static void readable_after_writable(void)
{
    desc[0].flags = VIRTQ_NEXT | VIRTQ_WRITE;
    desc[1].flags = VIRTQ_NEXT;
}

static void only_readable(void)
{
    desc[0].flags = 0;
}

static void only_writable(void)
{
    desc[0].flags = VIRTQ_WRITE;
}

static void nothing(void)
{
    desc[0].flags = desc[0].length = 0;
}

static void all_zero_lengths(void)
{
    desc[0].length = desc[1].length = desc[2].length = 0;
}

/* The chain moves to `table`, and entry 0 points there. */
static void indirect(void)
{
    memcpy(table, desc, 3 * sizeof(*table));
    desc[0] = (struct virtq_desc){ (u64)table, 3 * sizeof(*table), VIRTQ_INDIRECT, 0 };
}

static void indirect_nested(void)
{
    indirect();
    table[0] = (struct virtq_desc){ (u64)table, 3 * sizeof(*table), VIRTQ_INDIRECT, 0 };
}

static void indirect_and_next(void) { indirect(); desc[0].flags |= VIRTQ_NEXT; desc[0].next = 1; }
static void indirect_odd(void) { indirect(); desc[0].length -= 7; }
static void indirect_empty(void) { indirect(); desc[0].length = 0; }
static void indirect_huge(void) { indirect(); desc[0].length = 0xFFFFFFF0; }
static void indirect_loop(void) { indirect(); table[2].flags |= VIRTQ_NEXT; table[2].next = 0; }
static void indirect_next_outside(void) { indirect(); table[1].next = 3; }
static void indirect_beyond_ram(void) { indirect(); desc[0].address = BEYOND_RAM; }
static void indirect_in_hole(void) { indirect(); desc[0].address = MMIO_HOLE; }

static void desc_beyond_ram(void) { told.desc = (struct virtq_desc *)BEYOND_RAM; }
static void avail_beyond_ram(void) { told.avail = (volatile struct virtq_avail *)BEYOND_RAM; }
static void used_beyond_ram(void) { told.used = (volatile struct virtq_used *)BEYOND_RAM; }
static void desc_in_hole(void) { told.desc = (struct virtq_desc *)MMIO_HOLE; }
static void avail_in_hole(void) { told.avail = (volatile struct virtq_avail *)MMIO_HOLE; }
static void used_in_hole(void) { told.used = (volatile struct virtq_used *)MMIO_HOLE; }
static void rings_odd(void) { told.desc = (struct virtq_desc *)((u64)told.desc + 3); }
static void size_odd(void) { told.size = 3; }
static void size_zero(void) { told.size = 0; }
static void size_huge(void) { told.size = 0xFFFF; }

static void write_features(u64 features)
{
    for (u32 half = 0; half < 2; half++) {
        mmio_write32(disk.common + DRIVER_FEATURE_SELECT, half);
        mmio_write32(disk.common + DRIVER_FEATURE, (u32)(features >> 32 * half));
    }
}

static void add_status(u8 bits)
{
    u64 status = disk.common + COMMON_STATUS;
    mmio_write8(status, mmio_read8(status) | bits);
}

static void start_queue_and_submit(void)
{
    virtio_start_queue(&disk, 0, &disk_queue, VIRTIO_NO_VECTOR);
    virtio_driver_ok(&disk);
    disk_submit();
}

static void features_absurd(void)
{
    virtio_open(&disk, disk.pci);
    write_features(~0ull);
    mmio_write32(disk.common + DRIVER_FEATURE_SELECT, 0xFFFFFFFF);
    mmio_write32(disk.common + DRIVER_FEATURE, 0xFFFFFFFF);
    add_status(FEATURES_OK);
    start_queue_and_submit();
}

static void driver_ok_early(void)
{
    virtio_open(&disk, disk.pci);
    start_queue_and_submit();
}

static void status_backwards(void)
{
    start_queue_and_submit();
    mmio_write8(disk.common + COMMON_STATUS, ACKNOWLEDGE);
    mmio_write8(disk.common + COMMON_STATUS, 0xFF);
}

static void notify_disabled(void)
{
    virtio_driver_ok(&disk);
    for (u32 i = 0; i < 4; i++)
        mmio_write16(disk.notify, 0);
}

static void notify_absurd(void)
{
    start_queue_and_submit();
    mmio_write16(disk.notify, 0xFFFF);
    mmio_write32(disk.notify, 0xFFFFFFFF);
    mmio_write16(disk.notify + 0x7FEull * 2, 0xFFFF);
}

static void queue_absurd(void)
{
    mmio_write16(disk.common + QUEUE_SELECT, 0xFFFF);
    for (u32 reg = QUEUE_SELECT + 2; reg < 56; reg += 2)
        mmio_write16(disk.common + reg, 0xFFFF);
    start_queue_and_submit();
}

static void enable_twice(void)
{
    start_queue_and_submit();
    start_queue_and_submit();
}

enum kind { CHAIN, CHAIN_UNMAPPED, CHAIN_MAY_WORK, RINGS, RINGS_MAY_WORK, DEVICE };

/* UNMAPPED: QEMU moves the data to nowhere and reports success. MAY_WORK: a device may let it
   pass. DEVICE: the case does everything itself; any outcome. */
static const struct { const char *name; void (*spoil)(void); enum kind kind; } cases[] = {
#define CASE(name, kind) { #name, name, kind }
    CASE(loop, CHAIN), CASE(loop_on_itself, CHAIN), CASE(loop_at_end, CHAIN),
    CASE(next_outside, CHAIN), CASE(next_absurd, CHAIN),
    CASE(header_beyond_ram, CHAIN_UNMAPPED), CASE(data_beyond_ram, CHAIN_UNMAPPED),
    CASE(header_in_hole, CHAIN_UNMAPPED), CASE(data_in_hole, CHAIN_UNMAPPED),
    CASE(status_beyond_ram, CHAIN), CASE(status_in_hole, CHAIN),
    CASE(address_wraps, CHAIN_UNMAPPED), CASE(length_huge, CHAIN), CASE(header_huge, CHAIN),
    CASE(avail_jump, CHAIN), CASE(avail_too_far, CHAIN),
    CASE(head_outside, CHAIN), CASE(head_absurd, CHAIN),
    CASE(data_odd, CHAIN), CASE(sector_beyond, CHAIN), CASE(sector_absurd, CHAIN),
    CASE(type_unknown, CHAIN),
    CASE(header_short, CHAIN), CASE(header_missing, CHAIN),
    CASE(status_missing, CHAIN), CASE(status_readable, CHAIN),
    CASE(readable_after_writable, CHAIN), CASE(only_readable, CHAIN), CASE(only_writable, CHAIN),
    CASE(nothing, CHAIN), CASE(all_zero_lengths, CHAIN),
    CASE(indirect_nested, CHAIN), CASE(indirect_and_next, CHAIN_MAY_WORK),
    CASE(indirect_odd, CHAIN), CASE(indirect_empty, CHAIN), CASE(indirect_huge, CHAIN_MAY_WORK),
    CASE(indirect_loop, CHAIN), CASE(indirect_next_outside, CHAIN),
    CASE(indirect_beyond_ram, CHAIN), CASE(indirect_in_hole, CHAIN),
    CASE(desc_beyond_ram, RINGS), CASE(avail_beyond_ram, RINGS), CASE(used_beyond_ram, RINGS),
    CASE(desc_in_hole, RINGS), CASE(avail_in_hole, RINGS), CASE(used_in_hole, RINGS),
    CASE(rings_odd, RINGS), CASE(size_odd, RINGS_MAY_WORK), CASE(size_zero, RINGS_MAY_WORK),
    CASE(size_huge, RINGS_MAY_WORK),
    CASE(features_absurd, DEVICE), CASE(driver_ok_early, DEVICE), CASE(status_backwards, DEVICE),
    CASE(notify_disabled, DEVICE), CASE(notify_absurd, DEVICE), CASE(queue_absurd, DEVICE),
    CASE(enable_twice, DEVICE),
#undef CASE
};

/* The avail entry is in place before the case spoils it; the case may move `offered` on. */
static void submit_spoiled(void (*spoil)(void))
{
    virtqueue_offer(&disk_queue, 0);
    spoil();
    compiler_barrier();
    disk_queue.avail->idx = disk_queue.offered;
    full_barrier();
    mmio_write16(disk_queue.notify, 0);
}

static void no_more(void)
{
}

static u32 run_case(u32 index)
{
    void (*spoil)(void) = cases[index].spoil;
    enum kind kind = cases[index].kind;
    if (!disk_open())
        return DISK_BROKEN;
    told = disk_queue;
    disk_fill(false, 0, data);
    if (kind == DEVICE) {
        spoil();
        return disk_wait();
    }
    bool rings = kind == RINGS || kind == RINGS_MAY_WORK;
    if (rings)
        spoil();
    virtio_start_queue(&disk, 0, &told, VIRTIO_NO_VECTOR);
    disk_queue.notify = told.notify;
    virtio_driver_ok(&disk);
    submit_spoiled(rings ? no_more : spoil);
    return disk_wait();
}

static void break_rules(bool strict)
{
    if (!disk_find()) {
        check_skip();
        return;
    }
    data = fresh_page();
    table = fresh_page();
    desc = disk_queue.desc;
    u8 *good = fresh_page();
    check_true("before", "start", disk_start());
    check("before", "read", disk_transfer(false, 0, good), DISK_OK);
    for (u32 i = 0; i < COUNT_OF(cases); i++) {
        u32 outcome = run_case(i);
        enum kind kind = cases[i].kind;
        if (kind == CHAIN || kind == RINGS || (kind == CHAIN_UNMAPPED && strict))
            check_true(cases[i].name, "refused", outcome != DISK_OK);
        memset(data, 0, DISK_SECTOR);
        check_true(cases[i].name, "restart", disk_start());
        check(cases[i].name, "read", disk_transfer(false, 0, data), DISK_OK);
        check_true(cases[i].name, "data", !memcmp(data, good, DISK_SECTOR));
    }
    disk_reset();
}

void test_virtqueues(void)
{
    break_rules(false);
}

void test_virtqueues_strict(void)
{
    break_rules(true);
}
