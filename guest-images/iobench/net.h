/* A network card as the network operations use it. Transmit buffers have numbers: slots. */
#ifndef NET_H
#define NET_H

#include "bench.h"

enum {
    NET_TRANSITIONAL = 0x1000, NET_MODERN = 0x1041,     /* PCI device ids of virtio-net */
    NET_HEADER = 16, NET_ROOM = 16, NET_NONE = 0xFFFF,
};
enum net_event { NET_ANSWER, NET_SENT };

struct net {
    u8 mac[6];
    u32 buffers;                        /* receive buffers that the card has when it is full */
    bool event_idx;
    volatile bool interrupted;
    volatile u64 interrupts;
    u64 notifies;                       /* accesses that rang for the card, all runs */
};

extern struct net net;

struct net_card {
    void (*open)(u32 frame);            /* longest frame; sets net.mac and net.buffers, prints its line */
    /* `frame` has NET_ROOM bytes in front of it that the card may use */
    void (*offer)(u16 slot, u8 *frame, u32 length);
    void (*publish)(void);              /* show what was offered */
    u16 (*reclaim)(void);               /* the next slot that was sent, or NET_NONE */
    u32 (*ready)(void);                 /* received frames that wait */
    const u8 *(*frame)(u32 *length);    /* the next one; only if one waits */
    void (*release)(void);              /* it was looked at */
    void (*refill)(void);               /* give released buffers back to the card */
    /* Ask for an interrupt after more than `delay` further events; false: they are there. */
    bool (*want)(enum net_event event, u16 delay);
    void (*want_none)(void);
};

extern const struct net_card net_e1000, net_virtio;
extern const struct path net_path;

/* Which one net_path drives; before its open(). */
extern const struct net_card *net_card;

/* Begin the line "iobench: device path=..". */
void net_describe(const char *path);

#endif
