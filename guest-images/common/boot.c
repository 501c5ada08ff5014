/* struct hvm_start_info. Source: Xen, public/arch-x86/hvm/start_info.h. */
#include "boot.h"

#include "interrupts.h"
#include "memory.h"

enum { START_INFO_MAGIC = 0x336EC578, MEMORY_RAM = 1 };

/* Used if the loader gives no memory map: the smallest machine that is supported. */
static const u64 SMALLEST_RAM = 64 << 20;

struct start_info {
    u32 magic, version, flags, nr_modules;
    u64 modlist, cmdline, rsdp;
    u64 memmap;                 /* from version 1 on */
    u32 memmap_entries, reserved;
};

struct memmap_entry {
    u64 address, size;
    u32 type, reserved;
};

extern char image_end[];
void runtime_start(u32 start_info);

static char command_line[1024];
static u64 free_start, free_end;

static void find_ram(const struct start_info *info)
{
    free_start = (u64)image_end;
    free_end = SMALLEST_RAM;
    if (info->version < 1)
        return;
    const struct memmap_entry *entries = (const struct memmap_entry *)info->memmap;
    for (u32 i = 0; i < info->memmap_entries; i++) {
        u64 end = entries[i].address + entries[i].size;
        if (entries[i].type == MEMORY_RAM && entries[i].address <= free_start && free_start < end)
            free_end = end;
    }
}

void runtime_start(u32 start_info)
{
    const struct start_info *info = (const struct start_info *)(u64)start_info;
    interrupts_init();
    if (info && info->magic == START_INFO_MAGIC) {
        const char *from = (const char *)info->cmdline;
        for (u32 i = 0; from && from[i] && i < sizeof(command_line) - 1; i++)
            command_line[i] = from[i];
        find_ram(info);
    }
    guest_main();
}

/* The text behind "key=", or NULL. The last one wins, as on the Linux command line. */
static const char *find_option(const char *key)
{
    const char *found = NULL;
    for (const char *at = command_line; *at;) {
        while (*at == ' ')
            at++;
        const char *k = key;
        while (*k && *at == *k)
            at++, k++;
        if (!*k && *at == '=')
            found = at + 1;
        while (*at && *at != ' ')
            at++;
    }
    return found;
}

bool option_given(const char *key)
{
    return find_option(key) != NULL;
}

u64 option_number(const char *key, u64 otherwise)
{
    const char *at = find_option(key);
    if (!at)
        return otherwise;
    u64 value = 0, base = 10;
    if (at[0] == '0' && (at[1] | 0x20) == 'x') {
        base = 16;
        at += 2;
    }
    for (;; at++) {
        u64 digit = (u64)(*at <= '9' ? *at - '0' : (*at | 0x20) - 'a' + 10);
        if (digit >= base)
            return value;
        value = value * base + digit;
    }
}

static bool word_is(const char *at, const char *value, char separator)
{
    while (*value && *at == *value)
        at++, value++;
    return !*value && (!*at || *at == ' ' || *at == separator);
}

bool option_is(const char *key, const char *value)
{
    const char *at = find_option(key);
    return at && word_is(at, value, ' ');
}

bool option_lists(const char *key, const char *value)
{
    const char *at = find_option(key);
    while (at && !word_is(at, value, ',')) {
        while (*at && *at != ' ' && *at != ',')
            at++;
        at = *at == ',' ? at + 1 : NULL;
    }
    return at != NULL;
}

void *allocate(u64 size, u64 alignment)
{
    u64 start = (free_start + alignment - 1) & -alignment;
    if (!free_end || start > free_end || size > free_end - start)
        return NULL;
    free_start = start + size;
    return memset((void *)start, 0, size);
}
