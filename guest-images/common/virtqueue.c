#include "virtqueue.h"

#include "boot.h"
#include "cpu.h"

enum { AVAIL_NO_INTERRUPT = 1, USED_NO_NOTIFY = 1, ALIGNMENT = 4096 };

bool virtqueue_allocate(struct virtqueue *queue, u16 size, bool event_idx)
{
    u64 desc_size = sizeof(struct virtq_desc) * size;
    u64 avail_size = sizeof(struct virtq_avail) + 2u * size + 2;
    u64 used_size = sizeof(struct virtq_used) + sizeof(struct virtq_used_element) * size + 2;
    u8 *desc = allocate(desc_size, ALIGNMENT);
    u8 *avail = allocate(avail_size, ALIGNMENT);
    u8 *used = allocate(used_size, ALIGNMENT);
    if (!desc || !avail || !used)
        return false;
    *queue = (struct virtqueue){
        .size = size,
        .event_idx = event_idx,
        .desc = (struct virtq_desc *)desc,
        .avail = (volatile struct virtq_avail *)avail,
        .used = (volatile struct virtq_used *)used,
        .used_event = (volatile u16 *)(avail + avail_size - 2),
        .avail_event = (volatile u16 *)(used + used_size - 2),
    };
    return true;
}

void virtqueue_offer(struct virtqueue *queue, u16 head)
{
    queue->avail->ring[queue->offered++ & (queue->size - 1)] = head;
}

void virtqueue_publish(struct virtqueue *queue)
{
    u16 before = queue->avail->idx, after = queue->offered;
    if (before == after)
        return;
    compiler_barrier();                 /* descriptors and ring first: stores keep their order */
    queue->avail->idx = after;
    full_barrier();                     /* VIRTIO 1.2, 2.7.13.4.1: idx before the suppression test */
    bool notify = queue->event_idx
        ? (u16)(after - *queue->avail_event - 1) < (u16)(after - before)
        : !(queue->used->flags & USED_NO_NOTIFY);
    if (notify) {
        mmio_write16(queue->notify, queue->index);
        queue->notifies++;
    }
}

bool virtqueue_want_interrupt(struct virtqueue *queue, u16 delay)
{
    if (queue->event_idx)
        *queue->used_event = (u16)(queue->last_used + delay);
    else
        queue->avail->flags = 0;
    full_barrier();                     /* the wish is visible before idx is looked at again */
    return virtqueue_ready(queue) <= delay;
}

void virtqueue_want_no_interrupt(struct virtqueue *queue)
{
    if (queue->event_idx)
        *queue->used_event = (u16)(queue->last_used + 0x8000);  /* far from any index to come */
    else
        queue->avail->flags = AVAIL_NO_INTERRUPT;
}
