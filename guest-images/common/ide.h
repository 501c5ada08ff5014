/* A disk on the primary IDE channel, PIO.
 *
 * Port accesses of one ide_transfer() of `bs` bytes, if the disk is never seen busy:
 *
 *     commands = ceil(bs / 512 / most)      most = 256 with 28-bit addresses, 65536 with 48-bit ones
 *     blocks   = sum over the commands of ceil(sectors / multiple)
 *     accesses = commands * (1 + task + write) + blocks * (1 + 2 * irq) + bs / width
 *
 * 1 + task: one read of the alternate status (not busy), then device, count, three times LBA and
 * command: task = 6, or 10 with 48-bit addresses, where count and LBA are written twice.
 * write = 1 for a write (alternate status: the first block is wanted), else 0.
 * A block is a read of the status; with irq = 1 the handler does it and then ends the interrupt at
 * both 8259 (2 writes). width = 2, or 4 with `pio32`. */
#ifndef IDE_H
#define IDE_H

#include "types.h"

enum { IDE_SECTOR = 512 };

struct ide_disk {
    u8 unit;                            /* 0 or 1 */
    bool irq, pio32, only_lba48;        /* how to transfer; the caller may change them */
    bool lba48;
    u16 multiple;                       /* sectors in a data block; 1: READ SECTORS */
    u64 sectors;
    char model[41];
    u64 give_up_ticks;                  /* of the TSC, for one call while it polls */
};

extern u64 ide_interrupts;

/* These return NULL or the word for what is wrong. */
const char *ide_open(struct ide_disk *disk, u8 unit, u64 give_up_ticks);
const char *ide_set_multiple(struct ide_disk *disk);    /* as large as the disk allows, at most 16 */
const char *ide_transfer(struct ide_disk *disk, bool write, u64 sector, u64 count, void *memory);
const char *ide_flush(struct ide_disk *disk);

/* Tell the disk whether to interrupt, from disk->irq on. Needs pic_init() before. */
void ide_start(const struct ide_disk *disk);

/* Registers at the last error. */
u8 ide_status(void);
u8 ide_error(void);

#endif
