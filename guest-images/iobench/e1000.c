/* Source: Intel PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual, chapters
   3.2 and 3.3 (descriptors), 13 (registers), 14 (initialization). */
#include "e1000.h"

#include "../common/boot.h"
#include "../common/cpu.h"

enum {
    CTRL = 0x0000, STATUS = 0x0008, ICR = 0x00C0, IMS = 0x00D0, IMC = 0x00D8,
    RCTL = 0x0100, TCTL = 0x0400, TIPG = 0x0410,
    RDBAL = 0x2800, RDBAH = 0x2804, RDLEN = 0x2808, RDH = 0x2810, RDT = 0x2818,
    TDBAL = 0x3800, TDBAH = 0x3804, TDLEN = 0x3808, TDH = 0x3810, TDT = 0x3818,
    RAL0 = 0x5400, RAH0 = 0x5404,

    CTRL_ASDE = 1 << 5, CTRL_SLU = 1 << 6, CTRL_RST = 1 << 26, STATUS_LU = 1 << 1,
    RCTL_EN = 1 << 1, RCTL_LPE = 1 << 5, RCTL_BAM = 1 << 15, RCTL_BSIZE_SHIFT = 16,
    RCTL_BSEX = 1 << 25, RCTL_SECRC = 1 << 26,
    TCTL_EN = 1 << 1, TCTL_PSP = 1 << 3, TCTL_CT = 0x0F << 4, TCTL_COLD = 0x40 << 12,
    TIPG_COPPER = 10 | 8 << 10 | 6 << 20,
    TX_EOP = 1 << 0, TX_IFCS = 1 << 1, TX_RS = 1 << 3, DONE = 1 << 0, RX_EOP = 1 << 1,
    FCS = 4, LONGEST = 16384,
};

static u32 get(const struct e1000 *card, u32 reg) { return mmio_read32(card->registers + reg); }
static void set(const struct e1000 *card, u32 reg, u32 value) { mmio_write32(card->registers + reg, value); }

static bool wait_for(const struct e1000 *card, u32 reg, u32 mask, u32 value, u64 ticks)
{
    for (u64 start = read_tsc(); (get(card, reg) & mask) != value; relax())
        if (read_tsc() - start > ticks)
            return false;
    return true;
}

/* RCTL's bits for receive buffers that hold a whole frame. */
static u32 choose_buffers(struct e1000 *card, u32 frame)
{
    static const struct { u32 size, bits; } sizes[] = {
        { 2048, 0 }, { 4096, RCTL_BSEX | 3 << RCTL_BSIZE_SHIFT },
        { 8192, RCTL_BSEX | 2 << RCTL_BSIZE_SHIFT }, { 16384, RCTL_BSEX | 1 << RCTL_BSIZE_SHIFT },
    };
    u32 i = 0;
    while (sizes[i].size < frame + FCS)
        i++;
    card->buffer_size = sizes[i].size;
    return sizes[i].bits;
}

static bool allocate_rings(struct e1000 *card)
{
    card->rx = allocate(sizeof(*card->rx) * E1000_RING, 4096);
    card->tx = allocate(sizeof(*card->tx) * E1000_RING, 4096);
    u8 *memory = allocate((u64)card->buffer_size * E1000_RX_BUFFERS, 4096);
    if (!card->rx || !card->tx || !memory)
        return false;
    /* Twice as many descriptors as buffers: a buffer stands in the ring's both halves. */
    for (u32 i = 0; i < E1000_RING; i++) {
        card->buffers[i] = memory + (u64)card->buffer_size * (i % E1000_RX_BUFFERS);
        card->rx[i].address = (u64)card->buffers[i];
    }
    return true;
}

static void start_rings(struct e1000 *card, u32 buffer_bits)
{
    set(card, RDBAL, (u32)(u64)card->rx);
    set(card, RDBAH, 0);
    set(card, RDLEN, sizeof(*card->rx) * E1000_RING);
    set(card, RDH, 0);
    set(card, RDT, 0);
    set(card, TDBAL, (u32)(u64)card->tx);
    set(card, TDBAH, 0);
    set(card, TDLEN, sizeof(*card->tx) * E1000_RING);
    set(card, TDH, 0);
    set(card, TDT, 0);
    set(card, TIPG, TIPG_COPPER);
    set(card, TCTL, TCTL_EN | TCTL_PSP | TCTL_CT | TCTL_COLD);
    set(card, RCTL, RCTL_EN | RCTL_LPE | RCTL_BAM | RCTL_SECRC | buffer_bits);
    card->rx_tail = E1000_RX_BUFFERS;
    set(card, RDT, E1000_RX_BUFFERS);
}

const char *e1000_open(struct e1000 *card, pci_address at, u32 frame, u64 give_up_ticks)
{
    *card = (struct e1000){ .pci = at, .line = pci_enable_line(at) };
    card->registers = pci_memory_bar(at, 0);
    if (!card->registers)
        return "bar";
    if (frame > LONGEST - FCS)
        return "bs";
    set(card, IMC, 0xFFFFFFFF);
    set(card, CTRL, get(card, CTRL) | CTRL_RST);
    if (!wait_for(card, CTRL, CTRL_RST, 0, give_up_ticks))
        return "reset";
    set(card, IMC, 0xFFFFFFFF);
    set(card, CTRL, get(card, CTRL) | CTRL_SLU | CTRL_ASDE);
    u32 low = get(card, RAL0), high = get(card, RAH0);
    for (u32 i = 0; i < sizeof(card->mac); i++)
        card->mac[i] = (u8)(i < 4 ? low >> 8 * i : high >> 8 * (i - 4));
    u32 buffer_bits = choose_buffers(card, frame);
    if (!allocate_rings(card))
        return "memory";
    if (!wait_for(card, STATUS, STATUS_LU, STATUS_LU, give_up_ticks))
        return "link";
    start_rings(card, buffer_bits);
    e1000_causes(card);
    return NULL;
}

void e1000_offer(struct e1000 *card, const void *frame, u32 length, u16 tag)
{
    u32 i = card->tx_next++ % E1000_RING;
    card->tags[i] = tag;
    card->tx[i].address = (u64)frame;
    card->tx[i].length = (u16)length;
    card->tx[i].status = 0;
    card->tx[i].command = TX_EOP | TX_IFCS | TX_RS;
}

void e1000_publish(struct e1000 *card)
{
    compiler_barrier();
    set(card, TDT, card->tx_next % E1000_RING);
    card->notifies++;
}

u16 e1000_reclaim(struct e1000 *card)
{
    u32 i = card->tx_clean % E1000_RING;
    if (card->tx_clean == card->tx_next || !(card->tx[i].status & DONE))
        return E1000_NONE;
    card->tx_clean++;
    return card->tags[i];
}

u32 e1000_ready(const struct e1000 *card)
{
    u32 ready = 0;
    while (card->rx_next + ready != card->rx_tail
           && card->rx[(card->rx_next + ready) % E1000_RING].status & DONE)
        ready++;
    return ready;
}

const u8 *e1000_frame(const struct e1000 *card, u32 *length)
{
    u32 i = card->rx_next % E1000_RING;
    *length = card->rx[i].status & RX_EOP && !card->rx[i].errors ? card->rx[i].length : 0;
    compiler_barrier();
    return card->buffers[i];
}

void e1000_release(struct e1000 *card)
{
    card->rx[card->rx_next++ % E1000_RING].status = 0;
}

void e1000_refill(struct e1000 *card)
{
    compiler_barrier();
    card->rx_tail = card->rx_next + E1000_RX_BUFFERS;
    set(card, RDT, card->rx_tail % E1000_RING);
    card->notifies++;
}

u32 e1000_causes(const struct e1000 *card) { return get(card, ICR); }
void e1000_unmask(const struct e1000 *card, u32 causes) { set(card, IMS, causes); }
void e1000_mask(const struct e1000 *card, u32 causes) { set(card, IMC, causes); }
