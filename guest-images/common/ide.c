/* Source: ATA/ATAPI-6 (T13 1410D), chapters 8 (commands) and 9 (protocol). */
#include "ide.h"

#include "cpu.h"
#include "interrupts.h"
#include "memory.h"
#include "pic.h"

enum {
    DATA = 0x1F0, ERROR = 0x1F1, COUNT = 0x1F2, LBA_LOW = 0x1F3, LBA_MIDDLE = 0x1F4,
    LBA_HIGH = 0x1F5, DEVICE = 0x1F6, STATUS = 0x1F7, COMMAND = 0x1F7, CONTROL = 0x3F6,
    IRQ = 14,

    BSY = 0x80, DF = 0x20, DRQ = 0x08, ERR = 0x01,
    DEVICE_LBA = 0xE0, CONTROL_NO_IRQ = 0x02,

    READ = 0x20, READ_EXT = 0x24, READ_MULTIPLE = 0xC4, READ_MULTIPLE_EXT = 0x29,
    WRITE = 0x30, WRITE_EXT = 0x34, WRITE_MULTIPLE = 0xC5, WRITE_MULTIPLE_EXT = 0x39,
    SET_MULTIPLE = 0xC6, FLUSH = 0xE7, FLUSH_EXT = 0xEA, IDENTIFY = 0xEC,

    MOST_MULTIPLE = 16,
};

u64 ide_interrupts;
static volatile bool interrupted;
static volatile u8 last_status;
static u64 give_up_at;                  /* TSC: polling for longer is a timeout */

u8 ide_status(void) { return last_status; }
u8 ide_error(void) { return in8(ERROR); }

static void on_interrupt(struct interrupt_frame *frame)
{
    (void)frame;
    last_status = in8(STATUS);          /* takes INTRQ back */
    pic_end_secondary();
    interrupted = true;
    ide_interrupts++;
}

/* Until `port` reads as not busy with `wanted` of DRQ, or with an error. */
static const char *poll(u16 port, u8 wanted)
{
    for (;;) {
        last_status = in8(port);
        if (!(last_status & BSY)) {
            if (last_status & (ERR | DF) && wanted)
                return "status";
            if ((last_status & DRQ) == wanted)
                return NULL;
        }
        if (read_tsc() > give_up_at)
            return "timeout";
        relax();
    }
}

static void start_clock(const struct ide_disk *disk)
{
    give_up_at = read_tsc() + disk->give_up_ticks;
}

/* After a block or a command without data: the disk has something to say. */
static const char *wait(const struct ide_disk *disk, u8 wanted)
{
    if (!disk->irq) {
        const char *wrong = poll(STATUS, wanted);
        if (wrong)
            return wrong;
    } else {
        while (!interrupted)            /* the handler runs only inside of the halt */
            halt_until_interrupt();
        interrupted = false;
    }
    if (last_status & (ERR | DF) || (last_status & DRQ) != wanted)
        return "status";
    return NULL;
}

/* The registers may be written only while neither BSY nor DRQ is set. */
static const char *ready(void)
{
    return poll(CONTROL, 0);
}

static void select(const struct ide_disk *disk, u8 low_bits)
{
    out8(DEVICE, (u8)(DEVICE_LBA | disk->unit << 4 | low_bits));
}

static const char *simple_command(const struct ide_disk *disk, u8 command, u8 count)
{
    start_clock(disk);
    const char *wrong = ready();
    if (wrong)
        return wrong;
    select(disk, 0);
    out8(COUNT, count);
    out8(COMMAND, command);
    return wait(disk, 0);
}

static void move_data(const struct ide_disk *disk, bool write, void *memory, u64 length)
{
    if (write && disk->pio32)
        out32_string(DATA, memory, length / 4);
    else if (write)
        out16_string(DATA, memory, length / 2);
    else if (disk->pio32)
        in32_string(DATA, memory, length / 4);
    else
        in16_string(DATA, memory, length / 2);
}

static u8 choose_command(const struct ide_disk *disk, bool write, bool lba48)
{
    if (disk->multiple > 1)
        return write ? lba48 ? WRITE_MULTIPLE_EXT : WRITE_MULTIPLE
                     : lba48 ? READ_MULTIPLE_EXT : READ_MULTIPLE;
    return write ? lba48 ? WRITE_EXT : WRITE : lba48 ? READ_EXT : READ;
}

static void write_task(const struct ide_disk *disk, bool write, u64 sector, u64 count, bool lba48)
{
    select(disk, lba48 ? 0 : (u8)(sector >> 24 & 0x0F));
    if (lba48) {                        /* the older half goes first */
        out8(COUNT, (u8)(count >> 8));
        out8(LBA_LOW, (u8)(sector >> 24));
        out8(LBA_MIDDLE, (u8)(sector >> 32));
        out8(LBA_HIGH, (u8)(sector >> 40));
    }
    out8(COUNT, (u8)count);
    out8(LBA_LOW, (u8)sector);
    out8(LBA_MIDDLE, (u8)(sector >> 8));
    out8(LBA_HIGH, (u8)(sector >> 16));
    out8(COMMAND, choose_command(disk, write, lba48));
}

static const char *run_command(const struct ide_disk *disk, bool write, u64 sector, u64 count,
                               bool lba48, u8 *memory)
{
    const char *wrong = ready();
    if (wrong)
        return wrong;
    write_task(disk, write, sector, count, lba48);
    if (write && (wrong = poll(CONTROL, DRQ)))
        return wrong;
    while (count) {
        u64 block = count < disk->multiple ? count : disk->multiple;
        if (!write && (wrong = wait(disk, DRQ)))
            return wrong;
        move_data(disk, write, memory, block * IDE_SECTOR);
        memory += block * IDE_SECTOR;
        count -= block;
        if (write && (wrong = wait(disk, count ? DRQ : 0)))
            return wrong;
    }
    return NULL;
}

const char *ide_transfer(struct ide_disk *disk, bool write, u64 sector, u64 count, void *memory)
{
    u8 *at = memory;
    start_clock(disk);
    while (count) {
        bool lba48 = disk->lba48 &&
            (disk->only_lba48 || count > 256 || sector + count > 1ull << 28);
        u64 most = lba48 ? 65536 : 256;
        u64 now = count < most ? count : most;
        const char *wrong = run_command(disk, write, sector, now, lba48, at);
        if (wrong)
            return wrong;
        at += now * IDE_SECTOR;
        sector += now;
        count -= now;
    }
    return NULL;
}

const char *ide_flush(struct ide_disk *disk)
{
    return simple_command(disk, disk->lba48 ? FLUSH_EXT : FLUSH, 0);
}

const char *ide_set_multiple(struct ide_disk *disk)
{
    if (disk->multiple < 2) {
        disk->multiple = 1;
        return NULL;
    }
    return simple_command(disk, SET_MULTIPLE, (u8)disk->multiple);
}

void ide_start(const struct ide_disk *disk)
{
    interrupt_set_handler(PIC_VECTOR + IRQ, on_interrupt);
    out8(CONTROL, disk->irq ? 0 : CONTROL_NO_IRQ);
    in8(STATUS);                        /* an interrupt of an earlier command is not ours */
    if (disk->irq)
        pic_unmask(IRQ);
}

static void copy_model(char *to, const u16 *words)
{
    u32 length = 0;
    for (u32 i = 0; i < 40; i++) {      /* two characters a word, the first one in the high byte */
        char c = (char)(words[i / 2] >> (i & 1 ? 0 : 8));
        to[i] = c == ' ' ? '_' : c;
        if (c != ' ' && c)
            length = i + 1;
    }
    to[length] = 0;
}

const char *ide_open(struct ide_disk *disk, u8 unit, u64 give_up_ticks)
{
    *disk = (struct ide_disk){ .unit = unit, .give_up_ticks = give_up_ticks };
    start_clock(disk);
    out8(CONTROL, CONTROL_NO_IRQ);
    select(disk, 0);
    u8 status = in8(STATUS);
    if (status == 0x00 || status == 0xFF)
        return "no-device";
    const char *wrong = ready();
    if (wrong)
        return wrong;
    select(disk, 0);
    out8(COMMAND, IDENTIFY);
    if ((wrong = poll(STATUS, DRQ)))
        return *wrong == 's' ? "no-disk" : wrong;       /* a CD-ROM ends it with an error */
    u16 words[256];
    in16_string(DATA, words, COUNT_OF(words));
    if (!(words[49] & 1 << 9))
        return "no-lba";
    copy_model(disk->model, words + 27);
    disk->lba48 = words[83] & 1 << 10;
    u16 multiple = words[47] & 0xFF;
    disk->multiple = multiple < MOST_MULTIPLE ? multiple : MOST_MULTIPLE;
    disk->sectors = (u64)words[61] << 16 | words[60];
    if (disk->lba48)
        disk->sectors = (u64)words[103] << 48 | (u64)words[102] << 32 | (u64)words[101] << 16
            | words[100];
    return NULL;
}
