#include "disk.h"

#include "../common/cpu.h"
#include "../common/memory.h"
#include "../common/tsc.h"
#include "world.h"

enum { TRANSITIONAL_BLK = 0x1001, MODERN_BLK = 0x1042 };

struct virtio_device disk;
struct virtqueue disk_queue;
struct disk_request disk_header;
volatile u8 disk_status_byte;
static u64 tsc_hz;
static pci_address address = PCI_NONE;

bool disk_find(void)
{
    if (address != PCI_NONE)
        return true;
    tsc_hz = tsc_calibrate();
    address = pci_find(VIRTIO_VENDOR, TRANSITIONAL_BLK, MODERN_BLK, 0);
    return address != PCI_NONE && virtqueue_allocate(&disk_queue, DISK_QUEUE_SIZE, false);
}

void disk_reset(void)
{
    mmio_write8(disk.common + COMMON_STATUS, 0);
}

static void clear_rings(void)
{
    memset(disk_queue.desc, 0, PAGE);
    memset((void *)disk_queue.avail, 0, PAGE);
    memset((void *)disk_queue.used, 0, PAGE);
    disk_queue.offered = disk_queue.last_used = 0;
}

bool disk_open(void)
{
    if (virtio_open(&disk, address))
        return false;
    clear_rings();
    return !virtio_negotiate(&disk, VIRTIO_F_INDIRECT_DESC);
}

bool disk_start(void)
{
    if (!disk_open() || virtio_start_queue(&disk, 0, &disk_queue, VIRTIO_NO_VECTOR))
        return false;
    virtio_driver_ok(&disk);
    return true;
}

u64 disk_sectors(void)
{
    return (u64)mmio_read32(disk.config + 4) << 32 | mmio_read32(disk.config);
}

void disk_fill(bool write, u64 sector, void *memory)
{
    disk_header = (struct disk_request){ write ? DISK_OUT : DISK_IN, 0, sector };
    disk_status_byte = DISK_STATUS_UNTOUCHED;
    u16 data_flags = write ? VIRTQ_NEXT : VIRTQ_NEXT | VIRTQ_WRITE;
    disk_queue.desc[0] = (struct virtq_desc){ (u64)&disk_header, sizeof(disk_header), VIRTQ_NEXT, 1 };
    disk_queue.desc[1] = (struct virtq_desc){ (u64)memory, DISK_SECTOR, data_flags, 2 };
    disk_queue.desc[2] = (struct virtq_desc){ (u64)&disk_status_byte, 1, VIRTQ_WRITE, 0 };
}

void disk_submit(void)
{
    virtqueue_offer(&disk_queue, 0);
    virtqueue_publish(&disk_queue);
}

u32 disk_wait(void)
{
    for (u64 start = read_tsc(); read_tsc() - start < tsc_hz / 10; relax()) {
        if (virtqueue_ready(&disk_queue)) {
            virtqueue_take(&disk_queue);
            return disk_status_byte;
        }
        if (mmio_read8(disk.common + COMMON_STATUS) & STATUS_NEEDS_RESET)
            return DISK_BROKEN;
    }
    return DISK_NO_ANSWER;
}

/* A disk of the host may be slower than 100 ms: ask again for a while. */
u32 disk_transfer(bool write, u64 sector, void *memory)
{
    disk_fill(write, sector, memory);
    disk_submit();
    u32 status = DISK_NO_ANSWER;
    for (u32 tries = 0; tries < 50 && status == DISK_NO_ANSWER; tries++)
        status = disk_wait();
    return status;
}
