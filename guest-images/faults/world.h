/* What the runtime does not set up: a GDT for every mode, a TSS with stacks, user pages, gates. */
#ifndef WORLD_H
#define WORLD_H

#include "../common/types.h"

enum {                                  /* selectors; a user's have RPL 3 */
    KERNEL_CODE = 0x08, KERNEL_DATA = 0x10, KERNEL_CODE32 = 0x18,
    USER_CODE32 = 0x23, USER_DATA = 0x2B, USER_CODE = 0x33,     /* the order that SYSRET needs */
    ABSENT_DATA = 0x38, CODE16 = 0x40, DATA16 = 0x48, TASK = 0x50,
    BEYOND_GDT = 0xFFF8,
};

enum {
    /* The image, again, for user mode: code read-only, data writable and NX. */
    USER_BASE = 0x40000000,
    /* Pages that sub-tests map as they like. */
    TEST_PAGES = 0x40400000, TEST_PAGE_COUNT = 32, PAGE = 4096,
};

#define PAGE_PRESENT 0x1ull
#define PAGE_WRITE 0x2ull
#define PAGE_USER 0x4ull
#define PAGE_ACCESSED 0x20ull
#define PAGE_DIRTY 0x40ull
#define PAGE_RESERVED (1ull << 51)      /* beyond the physical address width */
#define PAGE_NX (1ull << 63)

enum { GATE_INTERRUPT = 0x8E, GATE_TRAP = 0x8F, GATE_USER = 0xEE, GATE_ABSENT = 0x0E };

enum { STACK_SIZE = 8192, IST_STACKS = 2 };
enum {                                  /* how much of the TSS there is */
    TSS_WITHOUT_IST7 = 0x53, TSS_FULL_LIMIT = 0x67, TSS_WITH_PORTS_LIMIT = 0x67 + 0x100 / 8 + 1,
};

bool world_init(void);                  /* false if RAM is short */

static inline u64 test_page(u32 index) { return (u64)TEST_PAGES + (u64)PAGE * index; }

/* Map a test page; `physical` 0 unmaps it. Returns its address. */
u64 map_test_page(u32 index, u64 physical, u64 flags);
u64 test_page_entry(u32 index);         /* the page table's word */
void unmap_test_pages(void);
void *fresh_page(void);                 /* one of a few cleared pages that are given back by ... */
void give_back_pages(void);             /* ... this */

void set_gate_type(u8 vector, u8 type);
void set_gate_ist(u8 vector, u8 ist);
void load_idt_limit(u16 limit);
enum { IDT_FULL_LIMIT = 0xFFF };

void load_task(u16 limit);              /* the TSS, cut off at `limit` */
void permit_port(u8 port, bool permitted);      /* in the TSS, for TSS_WITH_PORTS_LIMIT */
u64 ring0_stack_top(void);
u64 ist_stack_top(u8 ist);              /* 1 .. IST_STACKS */
u64 user_stack_top(void);               /* at the user's address */

static inline u64 read_cr0(void) { u64 v; __asm__ volatile("mov %%cr0, %0" : "=r"(v)); return v; }
static inline void write_cr0(u64 v) { __asm__ volatile("mov %0, %%cr0" : : "r"(v) : "memory"); }
enum { CR0_MP = 1 << 1, CR0_EM = 1 << 2, CR0_TS = 1 << 3, CR0_NE = 1 << 5, CR0_WP = 1 << 16 };

#endif
