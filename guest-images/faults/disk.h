/* The first virtio-blk device, one sector a request, polled. Source: VIRTIO 1.2, section 5.2. */
#ifndef DISK_H
#define DISK_H

#include "../common/virtio_pci.h"

enum { DISK_QUEUE_SIZE = 16, DISK_SECTOR = 512 };
enum { DISK_IN = 0, DISK_OUT = 1 };                     /* request types */
enum { DISK_OK = 0, DISK_STATUS_UNTOUCHED = 0xAA, DISK_NO_ANSWER = 0x100, DISK_BROKEN = 0x101 };
enum { STATUS_NEEDS_RESET = 0x40, COMMON_STATUS = 20 };

struct disk_request { u32 type, reserved; u64 sector; };

extern struct virtio_device disk;
extern struct virtqueue disk_queue;
extern struct disk_request disk_header;
extern volatile u8 disk_status_byte;

bool disk_find(void);                   /* false if there is none, or no RAM for its rings */
bool disk_start(void);                  /* from reset to DRIVER_OK with one queue */
bool disk_open(void);                   /* from reset to FEATURES_OK, rings cleared */
void disk_reset(void);
u64 disk_sectors(void);

/* A chain of three descriptors at entry 0: header, data, status. */
void disk_fill(bool write, u64 sector, void *memory);
void disk_submit(void);                 /* make entry 0 available, and notify */
u32 disk_wait(void);                    /* the status byte, or NO_ANSWER in 100 ms, or BROKEN */
u32 disk_transfer(bool write, u64 sector, void *memory);

#endif
