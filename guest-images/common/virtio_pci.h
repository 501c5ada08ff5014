/* A modern virtio device on PCI. Source: VIRTIO 1.2, sections 3.1 and 4.1. */
#ifndef VIRTIO_PCI_H
#define VIRTIO_PCI_H

#include "pci.h"
#include "virtqueue.h"

#define VIRTIO_F_INDIRECT_DESC (1ull << 28)
#define VIRTIO_F_EVENT_IDX (1ull << 29)
#define VIRTIO_F_VERSION_1 (1ull << 32)
#define VIRTIO_F_ACCESS_PLATFORM (1ull << 33)

enum { VIRTIO_VENDOR = 0x1AF4, VIRTIO_NO_VECTOR = 0xFFFF };

struct virtio_device {
    pci_address pci;
    u64 common, notify, config;         /* addresses of the register blocks */
    u32 notify_multiplier;
    u64 features;                       /* those agreed on */
};

/* Each returns NULL or the word for what is wrong. */
const char *virtio_open(struct virtio_device *device, pci_address at);      /* finds and resets */
const char *virtio_negotiate(struct virtio_device *device, u64 wanted);     /* as far as offered */

/* The entries of queue `index` at most; 0 if there is no such queue. */
u16 virtio_queue_size(const struct virtio_device *device, u16 index);

/* Give queue `index` its rings. `vector` is an MSI-X table entry or VIRTIO_NO_VECTOR. */
const char *virtio_start_queue(const struct virtio_device *device, u16 index,
                               struct virtqueue *queue, u16 vector);
void virtio_driver_ok(const struct virtio_device *device);

#endif
