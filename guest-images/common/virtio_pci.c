#include "virtio_pci.h"

#include "cpu.h"

enum {
    CAP_TYPE = 3, CAP_BAR = 4, CAP_OFFSET = 8, CAP_NOTIFY_MULTIPLIER = 16,
    TYPE_COMMON = 1, TYPE_NOTIFY = 2, TYPE_DEVICE = 4,

    DEVICE_FEATURE_SELECT = 0, DEVICE_FEATURE = 4, DRIVER_FEATURE_SELECT = 8, DRIVER_FEATURE = 12,
    CONFIG_MSIX_VECTOR = 16, DEVICE_STATUS = 20, QUEUE_SELECT = 22, QUEUE_SIZE = 24,
    QUEUE_MSIX_VECTOR = 26, QUEUE_ENABLE = 28, QUEUE_NOTIFY_OFF = 30,
    QUEUE_DESC = 32, QUEUE_DRIVER = 40, QUEUE_DEVICE = 48,

    ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8,
    RESET_POLLS = 1000000,
};

static void write64(u64 address, u64 value)
{
    mmio_write32(address, (u32)value);
    mmio_write32(address + 4, (u32)(value >> 32));
}

static void add_status(const struct virtio_device *device, u8 bits)
{
    mmio_write8(device->common + DEVICE_STATUS, mmio_read8(device->common + DEVICE_STATUS) | bits);
}

const char *virtio_open(struct virtio_device *device, pci_address at)
{
    *device = (struct virtio_device){ .pci = at };
    pci_enable(at);
    for (u8 cap = 0; (cap = pci_capability(at, PCI_CAP_VENDOR, cap));) {
        u64 base = pci_memory_bar(at, pci_read8(at, (u8)(cap + CAP_BAR)));
        u64 address = base + pci_read32(at, (u8)(cap + CAP_OFFSET));
        u8 type = pci_read8(at, (u8)(cap + CAP_TYPE));
        if (!base)
            continue;
        if (type == TYPE_COMMON && !device->common)
            device->common = address;
        if (type == TYPE_DEVICE && !device->config)
            device->config = address;
        if (type == TYPE_NOTIFY && !device->notify) {
            device->notify = address;
            device->notify_multiplier = pci_read32(at, (u8)(cap + CAP_NOTIFY_MULTIPLIER));
        }
    }
    if (!device->common || !device->notify || !device->config)
        return "capability";
    mmio_write8(device->common + DEVICE_STATUS, 0);
    for (u32 polls = 0; mmio_read8(device->common + DEVICE_STATUS); polls++)
        if (polls == RESET_POLLS)
            return "reset";
    add_status(device, ACKNOWLEDGE);
    add_status(device, DRIVER);
    return NULL;
}

const char *virtio_negotiate(struct virtio_device *device, u64 wanted)
{
    u64 common = device->common, offered = 0;
    for (u32 half = 0; half < 2; half++) {
        mmio_write32(common + DEVICE_FEATURE_SELECT, half);
        offered |= (u64)mmio_read32(common + DEVICE_FEATURE) << 32 * half;
    }
    wanted |= VIRTIO_F_VERSION_1 | VIRTIO_F_ACCESS_PLATFORM;
    device->features = wanted & offered;
    if (!(device->features & VIRTIO_F_VERSION_1))
        return "version";
    for (u32 half = 0; half < 2; half++) {
        mmio_write32(common + DRIVER_FEATURE_SELECT, half);
        mmio_write32(common + DRIVER_FEATURE, (u32)(device->features >> 32 * half));
    }
    add_status(device, FEATURES_OK);
    if (!(mmio_read8(common + DEVICE_STATUS) & FEATURES_OK))
        return "features";
    mmio_write16(common + CONFIG_MSIX_VECTOR, VIRTIO_NO_VECTOR);
    return NULL;
}

u16 virtio_queue_size(const struct virtio_device *device, u16 index)
{
    mmio_write16(device->common + QUEUE_SELECT, index);
    return mmio_read16(device->common + QUEUE_SIZE);
}

const char *virtio_start_queue(const struct virtio_device *device, u16 index,
                               struct virtqueue *queue, u16 vector)
{
    u64 common = device->common;
    mmio_write16(common + QUEUE_SELECT, index);
    mmio_write16(common + QUEUE_SIZE, queue->size);
    mmio_write16(common + QUEUE_MSIX_VECTOR, vector);
    if (mmio_read16(common + QUEUE_MSIX_VECTOR) != vector)
        return "vector";
    write64(common + QUEUE_DESC, (u64)queue->desc);
    write64(common + QUEUE_DRIVER, (u64)queue->avail);
    write64(common + QUEUE_DEVICE, (u64)queue->used);
    u64 doorbell = mmio_read16(common + QUEUE_NOTIFY_OFF);
    queue->notify = device->notify + doorbell * device->notify_multiplier;
    queue->index = index;
    mmio_write16(common + QUEUE_ENABLE, 1);
    return NULL;
}

void virtio_driver_ok(const struct virtio_device *device)
{
    add_status(device, DRIVER_OK);
}
