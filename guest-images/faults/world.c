/* Source: Intel SDM volume 3, chapters 3 (segments), 4 (paging), 6 (gates) and 7 (64-bit TSS). */
#include "world.h"

#include "../common/boot.h"
#include "../common/cpu.h"
#include "../common/memory.h"

enum { FRESH_PAGES = 24, LARGE_PAGE = 0x80, LARGE_SIZE = 2 << 20, TSS_AVAILABLE = 0x89 };

struct __attribute__((packed)) task_state {
    u32 reserved0;
    u64 rsp[3], reserved1, ist[7], reserved2;
    u16 reserved3, io_map;
    u8 io_permissions[0x100 / 8 + 1];   /* a set bit forbids a port; the last byte is all ones */
};

struct __attribute__((packed)) table_pointer { u16 limit; u64 base; };

struct gate_bytes {
    u16 offset_low, selector;
    u8 ist, type;
    u16 offset_middle;
    u32 offset_high, reserved;
};

static _Alignas(16) u64 gdt[] = {
    0,
    0x00AF9B000000FFFF,                 /* KERNEL_CODE */
    0x00CF93000000FFFF,                 /* KERNEL_DATA */
    0x00CF9B000000FFFF,                 /* KERNEL_CODE32 */
    0x00CFFB000000FFFF,                 /* USER_CODE32 */
    0x00CFF3000000FFFF,                 /* USER_DATA */
    0x00AFFB000000FFFF,                 /* USER_CODE */
    0x00CF13000000FFFF,                 /* ABSENT_DATA */
    0x00009B000000FFFF,                 /* CODE16 */
    0x000093000000FFFF,                 /* DATA16 */
    0, 0,                               /* TASK */
};
static struct task_state task = { .io_map = offsetof(struct task_state, io_permissions) };
_Static_assert(offsetof(struct task_state, io_permissions) == TSS_FULL_LIMIT + 1, "64-bit TSS");
_Static_assert(sizeof(task) == TSS_WITH_PORTS_LIMIT + 1, "64-bit TSS");
static _Alignas(16) u8 ring0_stack[STACK_SIZE];
static _Alignas(16) u8 ist_stacks[IST_STACKS][STACK_SIZE];
static _Alignas(16) u8 user_stack[STACK_SIZE];
static u64 *test_table;
static u8 *fresh;
static u32 fresh_used;

u64 ring0_stack_top(void) { return (u64)ring0_stack + STACK_SIZE; }
u64 ist_stack_top(u8 ist) { return (u64)ist_stacks[ist - 1] + STACK_SIZE; }
u64 user_stack_top(void) { return USER_BASE + (u64)user_stack + STACK_SIZE; }

void load_task(u16 limit)
{
    u64 base = (u64)&task;
    u64 *descriptor = &gdt[TASK / 8];
    descriptor[0] = limit | (base & 0xFFFFFF) << 16 | (u64)TSS_AVAILABLE << 40 | (base >> 24 & 0xFF) << 56;
    descriptor[1] = base >> 32;
    __asm__ volatile("ltr %w0" : : "r"(TASK) : "memory");
}

void permit_port(u8 port, bool permitted)
{
    u8 bit = (u8)(1 << (port & 7)), *byte = &task.io_permissions[port / 8];
    *byte = permitted ? *byte & (u8)~bit : *byte | bit;
}

static bool map_user(void)
{
    u64 *page_map = (u64 *)(read_cr3() & ~0xFFFull);
    u64 *pointers = (u64 *)(page_map[0] & ~0xFFFull);
    u64 *directory = allocate(PAGE, PAGE);
    test_table = allocate(PAGE, PAGE);
    if (!directory || !test_table)
        return false;
    directory[0] = LARGE_PAGE | PAGE_USER | PAGE_PRESENT;
    directory[1] = LARGE_SIZE | PAGE_NX | LARGE_PAGE | PAGE_USER | PAGE_WRITE | PAGE_PRESENT;
    directory[2] = (u64)test_table | PAGE_USER | PAGE_WRITE | PAGE_PRESENT;
    page_map[0] |= PAGE_USER;
    pointers[USER_BASE >> 30] = (u64)directory | PAGE_USER | PAGE_WRITE | PAGE_PRESENT;
    write_cr3(read_cr3());
    return true;
}

bool world_init(void)
{
    struct table_pointer pointer = { sizeof(gdt) - 1, (u64)gdt };
    __asm__ volatile("lgdt %0" : : "m"(pointer));
    memset(task.io_permissions, 0xFF, sizeof(task.io_permissions));
    task.rsp[0] = ring0_stack_top();
    for (u8 ist = 1; ist <= IST_STACKS; ist++)
        task.ist[ist - 1] = ist_stack_top(ist);
    load_task(TSS_FULL_LIMIT);
    write_cr0(read_cr0() | CR0_WP | CR0_NE);
    fresh = allocate(FRESH_PAGES * PAGE, PAGE);
    return fresh && map_user();
}

u64 map_test_page(u32 index, u64 physical, u64 flags)
{
    test_table[index] = physical ? physical | flags : 0;
    invlpg(test_page(index));
    return test_page(index);
}

u64 test_page_entry(u32 index)
{
    return ((volatile u64 *)test_table)[index];
}

void unmap_test_pages(void)
{
    for (u32 i = 0; i < TEST_PAGE_COUNT; i++)
        map_test_page(i, 0, 0);
}

void *fresh_page(void)
{
    return memset(fresh + PAGE * (u64)(fresh_used++ % FRESH_PAGES), 0, PAGE);
}

void give_back_pages(void)
{
    fresh_used = 0;
}

static struct gate_bytes *gates(void)
{
    struct table_pointer pointer;
    __asm__ volatile("sidt %0" : "=m"(pointer));
    return (struct gate_bytes *)pointer.base;
}

void set_gate_type(u8 vector, u8 type) { gates()[vector].type = type; }
void set_gate_ist(u8 vector, u8 ist) { gates()[vector].ist = ist; }

void load_idt_limit(u16 limit)
{
    struct table_pointer pointer = { limit, (u64)gates() };
    __asm__ volatile("lidt %0" : : "m"(pointer) : "memory");
}
