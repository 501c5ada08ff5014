/* The 82540EM's side of net_path.c: one interrupt line through the 8259 pair.
 *
 * Accesses: one TDT write for each publish, one RDT write for each refill; an interrupt is one read
 * of ICR and two writes that end it. Only a ring that stays full asks for interrupts of sent frames. */
#include "../common/boot.h"
#include "e1000.h"
#include "../common/interrupts.h"
#include "../common/pic.h"
#include "../common/serial.h"
#include "net.h"

static struct e1000 card;
static bool wants_sent;

static void on_interrupt(struct interrupt_frame *frame)
{
    (void)frame;
    e1000_causes(&card);                /* the line goes low */
    pic_end(card.line);
    net.interrupted = true;
    net.interrupts++;
}

static void open(u32 frame)
{
    pci_address at = pci_find(E1000_VENDOR, E1000_DEVICE, E1000_DEVICE, option_number("card", 0));
    if (at == PCI_NONE)
        fail("no-device", NULL, 0);
    expect(e1000_open(&card, at, frame, 20 * bench.tsc_hz));
    for (u32 i = 0; i < sizeof(net.mac); i++)
        net.mac[i] = card.mac[i];
    net.buffers = E1000_RX_BUFFERS;
    if (bench.irq) {
        if (!card.line || card.line > 15)
            fail("line", "value", card.line);
        interrupt_set_handler(PIC_VECTOR + card.line, on_interrupt);
        pic_unmask(card.line);
        e1000_unmask(&card, E1000_RXT0);
    }
    net_describe("e1000");
    print_number("line", card.line);
    print_number("buffer", card.buffer_size);
    print("\n");
}

static void offer(u16 slot, u8 *frame, u32 length) { e1000_offer(&card, frame, length, slot); }
static u16 reclaim(void) { return e1000_reclaim(&card); }
static u32 ready(void) { return e1000_ready(&card); }
static const u8 *frame(u32 *length) { return e1000_frame(&card, length); }
static void release(void) { e1000_release(&card); }

static void publish(void)
{
    e1000_publish(&card);
    net.notifies = card.notifies;
}

static void refill(void)
{
    e1000_refill(&card);
    net.notifies = card.notifies;
}

/* A cause that came before is kept until it is read, so no interrupt is lost. */
static bool want(enum net_event event, u16 delay)
{
    (void)delay;
    if (event == NET_SENT && !wants_sent) {
        wants_sent = true;
        e1000_unmask(&card, E1000_TXDW);
    }
    return true;
}

static void want_none(void)
{
    if (wants_sent)
        e1000_mask(&card, E1000_TXDW);
    wants_sent = false;
}

const struct net_card net_e1000 = {
    open, offer, publish, reclaim, ready, frame, release, refill, want, want_none,
};
