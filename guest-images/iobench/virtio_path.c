/* virtio-blk, `qd` requests in flight. Source: VIRTIO 1.2, section 5.2.
 *
 * Accesses of a run: one notify write per published batch that the device asks for, and one EOI
 * per interrupt. A batch is what one round of the loop below refilled. */
#include "../common/boot.h"
#include "../common/cpu.h"
#include "../common/interrupts.h"
#include "../common/lapic.h"
#include "../common/memory.h"
#include "../common/serial.h"
#include "../common/virtio_pci.h"
#include "bench.h"

enum {
    BLK_TRANSITIONAL = 0x1001, BLK_MODERN = 0x1042,
    T_IN = 0, T_OUT = 1, T_FLUSH = 4,
    QUEUE_VECTOR = 0x41, MSIX_ENTRY = 0, COMMON_QUEUE_SIZE = 256, MOST_QUEUE_SIZE = 1024,
    CHAIN = 3,                          /* header, data, status */
    STATUS_UNSET = 0xFF,
};

#define BLK_F_FLUSH (1ull << 9)

struct slot {
    struct request request;
    struct blk_header { u32 type, reserved; u64 sector; } header;
    u8 status;
    _Alignas(16) struct virtq_desc indirect[CHAIN];
};

static struct virtio_device device;
static struct virtqueue queue;
static struct slot *slots;
static bool indirect;
static volatile bool interrupted;
static volatile u64 interrupts;

static void on_interrupt(struct interrupt_frame *frame)
{
    (void)frame;
    lapic_eoi();
    interrupted = true;
    interrupts++;
}

static u16 head_of(u64 slot)
{
    return (u16)(indirect ? slot : slot * CHAIN);
}

/* Descriptors never change: only header, data and status are new in each request. */
static void link_chain(u64 number)
{
    struct slot *slot = &slots[number];
    struct virtq_desc *chain = indirect ? slot->indirect : &queue.desc[head_of(number)];
    u16 first = indirect ? 0 : head_of(number);
    chain[0] = (struct virtq_desc){ (u64)&slot->header, sizeof(slot->header), VIRTQ_NEXT,
                                    (u16)(first + 1) };
    chain[1] = (struct virtq_desc){ (u64)slot->request.memory, (u32)bench.bs,
                                    bench.fills ? VIRTQ_NEXT : VIRTQ_NEXT | VIRTQ_WRITE,
                                    (u16)(first + 2) };
    chain[2] = (struct virtq_desc){ (u64)&slot->status, 1, VIRTQ_WRITE, 0 };
    if (indirect)
        queue.desc[number] = (struct virtq_desc){ (u64)chain, sizeof(slot->indirect),
                                                  VIRTQ_INDIRECT, 0 };
}

static void allocate_slots(void)
{
    slots = allocate(bench.qd * sizeof(*slots), 64);
    for (u64 i = 0; slots && i < bench.qd; i++) {
        slots[i].request.memory = allocate(bench.bs, 4096);
        if (!slots[i].request.memory)
            slots = NULL;
        else
            link_chain(i);
    }
    if (!slots)
        fail("memory", NULL, 0);
}

static void open_queue(void)
{
    u64 needed = bench.qd * (indirect ? 1 : CHAIN);
    u16 size = virtio_queue_size(&device, 0);
    if (size > MOST_QUEUE_SIZE)
        size = MOST_QUEUE_SIZE;
    if (needed > size)
        fail("queue-size", "value", size);
    if (!virtqueue_allocate(&queue, size, device.features & VIRTIO_F_EVENT_IDX))
        fail("memory", NULL, 0);
    bool msix = pci_msix_enable(device.pci, lapic_msi_address(), QUEUE_VECTOR);
    if (bench.irq && !msix)
        fail("msix", NULL, 0);
    interrupt_set_handler(QUEUE_VECTOR, on_interrupt);
    expect(virtio_start_queue(&device, 0, &queue, bench.irq ? MSIX_ENTRY : VIRTIO_NO_VECTOR));
    allocate_slots();
    virtio_driver_ok(&device);
    virtqueue_want_no_interrupt(&queue);
}

static void open(void)
{
    u64 index = option_number("disk", 0);
    pci_address at = pci_find(VIRTIO_VENDOR, BLK_TRANSITIONAL, BLK_MODERN, index);
    if (at == PCI_NONE)
        fail("no-device", NULL, 0);
    expect(virtio_open(&device, at));
    /* Three descriptors for each request do not fit the usual ring at great depths. */
    indirect = option_number("indirect", bench.qd * CHAIN > COMMON_QUEUE_SIZE);
    expect(virtio_negotiate(&device, BLK_F_FLUSH
                            | (indirect ? VIRTIO_F_INDIRECT_DESC : 0)
                            | (option_number("event_idx", 1) ? VIRTIO_F_EVENT_IDX : 0)));
    indirect = device.features & VIRTIO_F_INDIRECT_DESC;
    u64 sectors = mmio_read32(device.config) | (u64)mmio_read32(device.config + 4) << 32;
    open_queue();
    bench_describe("virtio", sectors);
    print_number("event_idx", queue.event_idx);
    print_number("indirect", indirect);
    print_number("msix", bench.irq);
    print_number("queue_size", queue.size);
    print_hex("features", device.features);
    print("\n");
}

static void submit(u64 number)
{
    struct slot *slot = &slots[number];
    bench_prepare(&slot->request);
    slot->header.type = bench.fills ? T_OUT : T_IN;
    slot->header.sector = slot->request.offset / BENCH_SECTOR;
    slot->status = STATUS_UNSET;
    virtqueue_offer(&queue, head_of(number));
}

/* The clock of a request starts when its batch is shown to the device. */
static void publish(void)
{
    u64 now = read_tsc();
    for (u16 i = queue.avail->idx; i != queue.offered; i++) {
        u16 head = queue.avail->ring[i & (queue.size - 1)];
        slots[indirect ? head : head / CHAIN].request.submitted = now;
    }
    virtqueue_publish(&queue);
}

static u64 take(void)
{
    u32 head = virtqueue_take(&queue);
    u32 number = indirect ? head : head / CHAIN;
    if (number >= bench.qd || head_of(number) != head)
        fail("used-id", "value", head);
    u8 status = *(volatile u8 *)&slots[number].status;
    if (status)
        fail("status", "value", status);
    return number;
}

/* Take all that is ready and submit as many new requests, not yet published. */
static void refill(u64 *submitted, u64 requests)
{
    u64 seen = read_tsc();
    for (u16 ready = virtqueue_ready(&queue); ready; ready--) {
        u64 number = take();
        bench_complete(&slots[number].request, seen);
        if (*submitted < requests) {
            submit(number);
            ++*submitted;
        }
    }
}

static void run_with_interrupts(u64 requests, u64 submitted)
{
    for (;;) {
        u64 in_flight = submitted - bench.completed;
        if (!in_flight)
            return;
        /* Wish first, then publish: a device that is done before publish() returns does
           interrupt, so each round takes one interrupt whatever serves the queue. */
        if (virtqueue_want_interrupt(&queue, bench_delay(queue.event_idx, in_flight))) {
            publish();
            while (!interrupted)        /* the handler runs only inside of the halt */
                halt_until_interrupt();
            interrupted = false;
        }
        virtqueue_want_no_interrupt(&queue);
        refill(&submitted, requests);
    }
}

static void run_polling(u64 requests, u64 submitted)
{
    u64 last_seen = read_tsc();
    publish();
    for (u32 idle = 0; bench.completed < requests;) {
        if (virtqueue_ready(&queue)) {
            virtqueue_want_no_interrupt(&queue);
            refill(&submitted, requests);
            publish();
            idle = 0;
        } else if (++idle % 4096 == 1) {
            if (idle == 1)
                last_seen = read_tsc();
            else if (read_tsc() - last_seen > 20 * bench.tsc_hz)
                fail("timeout", "completed", bench.completed);
        } else {
            relax();
        }
    }
}

static void run(u64 requests)
{
    interrupts_on();                    /* what an earlier run left pending */
    relax();
    interrupts_off();
    interrupted = false;
    interrupts = 0;
    queue.notifies = 0;
    u64 submitted = 0;
    for (; submitted < bench.qd && submitted < requests; submitted++)
        submit(submitted);
    (bench.irq ? run_with_interrupts : run_polling)(requests, submitted);
    bench.interrupts = interrupts;
    bench.notifies = queue.notifies;
}

static void flush(void)
{
    if (!(device.features & BLK_F_FLUSH))
        return;
    struct slot *slot = &slots[0];
    struct virtq_desc *chain = indirect ? slot->indirect : &queue.desc[0];
    slot->header = (struct blk_header){ .type = T_FLUSH };
    slot->status = STATUS_UNSET;
    chain[0].next = 2;                  /* no data */
    virtqueue_offer(&queue, 0);
    virtqueue_publish(&queue);
    for (u64 start = read_tsc(); !virtqueue_ready(&queue); relax())
        if (read_tsc() - start > 20 * bench.tsc_hz)
            fail("timeout", "completed", bench.completed);
    take();
}

const struct path virtio_path = { open, run, flush, NULL };
