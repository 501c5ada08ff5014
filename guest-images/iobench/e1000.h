/* An Intel 82540EM network card: legacy descriptors, one interrupt line.
 *
 * Register accesses while it runs: e1000_publish() 1, e1000_refill() 1, e1000_causes() 1. */
#ifndef E1000_H
#define E1000_H

#include "../common/pci.h"

enum {
    E1000_VENDOR = 0x8086, E1000_DEVICE = 0x100E, E1000_RING = 512,
    E1000_RX_BUFFERS = 256,             /* how many the card has when it is full */
    E1000_NONE = 0xFFFF,
    E1000_TXDW = 1 << 0, E1000_RXT0 = 1 << 7,   /* interrupt causes: a frame was sent, one has come */
};

struct e1000_rx { u64 address; u16 length, checksum; u8 status, errors; u16 special; };
struct e1000_tx {
    u64 address;
    u16 length;
    u8 checksum_offset, command, status, checksum_start;
    u16 special;
};

struct e1000 {
    pci_address pci;
    u64 registers;
    u8 mac[6], line;                    /* line: of the 8259 pair */
    u32 buffer_size;                    /* of a receive buffer */
    volatile struct e1000_rx *rx;
    volatile struct e1000_tx *tx;
    u8 *buffers[E1000_RING];            /* by receive descriptor */
    u16 tags[E1000_RING];               /* by transmit descriptor: what the caller named the frame */
    u32 rx_next, rx_tail;               /* receive descriptors taken, and given; never wrap */
    u32 tx_next, tx_clean;              /* transmit descriptors filled, and seen sent */
    u64 notifies;
};

/* Find out where it is, reset it and start both rings, for frames of `frame` bytes; all interrupts
   are masked. Waits for the link. NULL or the word for what is wrong. */
const char *e1000_open(struct e1000 *card, pci_address at, u32 frame, u64 give_up_ticks);

/* Put a frame into the transmit ring; the card sees it after the next e1000_publish(). The ring
   holds E1000_RING - 1. */
void e1000_offer(struct e1000 *card, const void *frame, u32 length, u16 tag);
void e1000_publish(struct e1000 *card);

/* The tag of the next frame that was sent, or E1000_NONE. */
u16 e1000_reclaim(struct e1000 *card);

/* How many received frames wait, the next of them (only if one does), and: it may be overwritten
   after the next e1000_refill(). */
u32 e1000_ready(const struct e1000 *card);
const u8 *e1000_frame(const struct e1000 *card, u32 *length);
void e1000_release(struct e1000 *card);
void e1000_refill(struct e1000 *card);

/* Read and take back the interrupt's causes; let `causes` interrupt, or not. */
u32 e1000_causes(const struct e1000 *card);
void e1000_unmask(const struct e1000 *card, u32 causes);
void e1000_mask(const struct e1000 *card, u32 causes);

#endif
