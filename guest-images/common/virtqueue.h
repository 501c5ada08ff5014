/* A split virtqueue, driver side. Source: VIRTIO 1.2, section 2.7. */
#ifndef VIRTQUEUE_H
#define VIRTQUEUE_H

#include "types.h"

enum { VIRTQ_NEXT = 1, VIRTQ_WRITE = 2, VIRTQ_INDIRECT = 4 };

struct virtq_desc {
    u64 address;
    u32 length;
    u16 flags, next;
};

struct virtq_avail { u16 flags, idx, ring[]; };         /* used_event follows the ring */
struct virtq_used_element { u32 id, length; };
struct virtq_used { u16 flags, idx; struct virtq_used_element ring[]; };  /* then avail_event */

struct virtqueue {
    u16 size, index;
    bool event_idx;
    u64 notify;                         /* address of the doorbell */
    struct virtq_desc *desc;            /* the user of the queue fills and owns it */
    volatile struct virtq_avail *avail;
    volatile struct virtq_used *used;
    volatile u16 *used_event, *avail_event;
    u16 offered;                        /* next avail index; published up to avail->idx */
    u16 last_used;
    u64 notifies;
};

/* Rings for `size` entries; false if RAM is short. */
bool virtqueue_allocate(struct virtqueue *queue, u16 size, bool event_idx);

/* Put the chain at `head` into the avail ring; the device sees it after the next publish. */
void virtqueue_offer(struct virtqueue *queue, u16 head);

/* Show the device all that was offered, and ring the doorbell if it asks for that. */
void virtqueue_publish(struct virtqueue *queue);

/* How many used elements wait. */
static inline u16 virtqueue_ready(const struct virtqueue *queue)
{
    return (u16)(queue->used->idx - queue->last_used);
}

/* How many bytes the device wrote into the chain of the next used element; only if one is ready. */
static inline u32 virtqueue_next_length(const struct virtqueue *queue)
{
    return queue->used->ring[queue->last_used & (queue->size - 1)].length;
}

/* The next used element; only if one is ready. Returns the head of its chain. */
static inline u32 virtqueue_take(struct virtqueue *queue)
{
    return queue->used->ring[queue->last_used++ & (queue->size - 1)].id;
}

/* Ask for an interrupt when more than `delay` further elements are used. `delay` is smaller than
   the number of chains in flight, and 0 without EVENT_IDX. False: so many are used already, no
   interrupt may come, take them first. */
bool virtqueue_want_interrupt(struct virtqueue *queue, u16 delay);

/* Ask for none. With EVENT_IDX it is a wish only: repeat it at least every 0x4000 elements. */
void virtqueue_want_no_interrupt(struct virtqueue *queue);

#endif
