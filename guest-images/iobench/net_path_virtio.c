/* virtio-net's side of net_path.c. Source: VIRTIO 1.2, section 5.1.
 *
 * A frame is one descriptor: the device's header and the frame together; so is a receive buffer, which
 * holds the longest frame, so that MRG_RXBUF has no use. MSI-X entry 0 is the receive queue's, 1 the
 * transmit queue's. Descriptor n of the transmit queue is slot n. */
#include "../common/boot.h"
#include "../common/cpu.h"
#include "../common/interrupts.h"
#include "../common/lapic.h"
#include "../common/serial.h"
#include "../common/virtio_pci.h"
#include "net.h"

enum {
    RX = 0, TX = 1, VECTOR = 0x41,      /* and the next one */
    MOST_BUFFERS = 256, VIRTIO_HEADER = 12,
};

#define NET_F_MAC (1ull << 5)

static struct virtio_device device;
static struct virtqueue queues[2];
static u8 *buffers;                     /* receive buffers; the header ends NET_ROOM bytes from the start */
static u64 buffer_size;
static u16 taken;                       /* the receive buffer in hand */

static void on_interrupt(struct interrupt_frame *frame)
{
    (void)frame;
    lapic_eoi();
    net.interrupted = true;
    net.interrupts++;
}

static void start_queue(u16 index)
{
    u16 size = virtio_queue_size(&device, index);
    if (size > MOST_BUFFERS)
        size = MOST_BUFFERS;
    if (bench.qd > size)
        fail("queue-size", "value", size);
    if (!virtqueue_allocate(&queues[index], size, device.features & VIRTIO_F_EVENT_IDX))
        fail("memory", NULL, 0);
    interrupt_set_handler((u8)(VECTOR + index), on_interrupt);
    expect(virtio_start_queue(&device, index, &queues[index], bench.irq ? index : VIRTIO_NO_VECTOR));
}

static void fill_receive_queue(u32 frame)
{
    struct virtqueue *rx = &queues[RX];
    buffer_size = (NET_ROOM + frame + 63) & ~63ull;
    buffers = allocate(buffer_size * rx->size, 64);
    if (!buffers)
        fail("memory", NULL, 0);
    for (u16 i = 0; i < rx->size; i++) {
        u64 start = (u64)buffers + buffer_size * i + NET_ROOM - VIRTIO_HEADER;
        rx->desc[i] = (struct virtq_desc){ start, VIRTIO_HEADER + frame, VIRTQ_WRITE, 0 };
        virtqueue_offer(rx, i);
    }
    net.buffers = rx->size;
}

static void open(u32 frame)
{
    pci_address at = pci_find(VIRTIO_VENDOR, NET_TRANSITIONAL, NET_MODERN, option_number("card", 0));
    if (at == PCI_NONE)
        fail("no-device", NULL, 0);
    expect(virtio_open(&device, at));
    expect(virtio_negotiate(&device, NET_F_MAC | (option_number("event_idx", 1) ? VIRTIO_F_EVENT_IDX : 0)));
    if (!(device.features & NET_F_MAC))
        fail("mac", NULL, 0);
    for (u32 i = 0; i < sizeof(net.mac); i++)
        net.mac[i] = mmio_read8(device.config + i);
    if (bench.irq)
        for (u16 i = RX; i <= TX; i++)
            if (!pci_msix_set(device.pci, i, lapic_msi_address(), (u8)(VECTOR + i)))
                fail("msix", NULL, 0);
    start_queue(RX);
    start_queue(TX);
    fill_receive_queue(frame);
    net.event_idx = queues[RX].event_idx;
    virtio_driver_ok(&device);
    virtqueue_want_no_interrupt(&queues[RX]);
    virtqueue_want_no_interrupt(&queues[TX]);
    virtqueue_publish(&queues[RX]);
    net_describe("virtio");
    print_number("event_idx", net.event_idx);
    print_number("msix", bench.irq);
    print_number("queue_size", queues[TX].size);
    print_hex("features", device.features);
    print("\n");
}

static void count_notifies(void)
{
    net.notifies = queues[RX].notifies + queues[TX].notifies;
}

static void offer(u16 slot, u8 *frame, u32 length)
{
    u8 *start = frame - VIRTIO_HEADER;   /* zeros: nothing is left to the device */
    queues[TX].desc[slot] = (struct virtq_desc){ (u64)start, VIRTIO_HEADER + length, 0, 0 };
    virtqueue_offer(&queues[TX], slot);
}

static void publish(void)
{
    virtqueue_publish(&queues[TX]);
    count_notifies();
}

static u16 reclaim(void)
{
    if (!virtqueue_ready(&queues[TX]))
        return NET_NONE;
    u32 slot = virtqueue_take(&queues[TX]);
    if (slot >= bench.qd)
        fail("used-id", "value", slot);
    return (u16)slot;
}

static u32 ready(void) { return virtqueue_ready(&queues[RX]); }

static const u8 *frame(u32 *length)
{
    u32 used = virtqueue_next_length(&queues[RX]), head = virtqueue_take(&queues[RX]);
    if (head >= queues[RX].size)
        fail("used-id", "value", head);
    taken = (u16)head;
    *length = used < VIRTIO_HEADER ? 0 : used - VIRTIO_HEADER;
    compiler_barrier();
    return buffers + buffer_size * head + NET_ROOM;
}

static void release(void) { virtqueue_offer(&queues[RX], taken); }

static void refill(void)
{
    virtqueue_publish(&queues[RX]);
    count_notifies();
}

static bool want(enum net_event event, u16 delay)
{
    return virtqueue_want_interrupt(&queues[event == NET_ANSWER ? RX : TX], delay);
}

static void want_none(void)
{
    virtqueue_want_no_interrupt(&queues[RX]);
    virtqueue_want_no_interrupt(&queues[TX]);
}

const struct net_card net_virtio = {
    open, offer, publish, reclaim, ready, frame, release, refill, want, want_none,
};
