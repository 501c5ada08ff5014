/* What all parts of the benchmark share: the workload, what was seen, and how to give up. */
#ifndef BENCH_H
#define BENCH_H

#include "../common/types.h"

enum { BENCH_SECTOR = 512, BENCH_SHOWN_ERRORS = 4, BENCH_MOST_SAMPLES = 1000000 };

enum check { CHECK_ALL, CHECK_FIRST, CHECK_NONE };

struct mismatch { u64 request, offset, word, want, got; };

struct bench {
    /* the workload */
    const char *op;
    bool net, stream, random, irq;
    bool fills, checks;                 /* each request's memory is filled before it, checked after it */
    enum check check;
    u64 bs, qd, count, warmup, seed, generation, coalesce;
    u64 tsc_hz;

    /* the disk, or the pattern that frames carry */
    u64 blocks;                         /* of bs bytes; the rest of the disk is not used */

    /* one run */
    u64 next, random_state;
    u64 completed, checksum, errors, interrupts, notifies, watchdog;
    struct mismatch mismatches[BENCH_SHOWN_ERRORS];
    u64 *samples, sample_count, sample_every;   /* latency in ticks of every n-th request */
};

extern struct bench bench;

/* One request: `memory` is bs bytes that a device can reach. */
struct request {
    u64 number, offset, submitted;      /* submitted: TSC */
    void *memory;
};

/* A way to the disk or to the network. run() sets bench.interrupts and bench.notifies; nothing in it
   prints or touches a port or a register without need. */
struct path {
    void (*open)(void);                 /* sets bench.blocks and prints its line */
    void (*run)(u64 requests);
    void (*flush)(void);                /* after the last run of op=write */
    void (*prepare)(void);              /* before each run; may be NULL */
};

extern const struct path ide_path, virtio_path;

/* Print "iobench: fail what=.." and leave. `key` may be NULL. */
_Noreturn void fail(const char *what, const char *key, u64 value);

/* fail() unless `wrong` is NULL. */
void expect(const char *wrong);

/* Begin the line "iobench: device path=.." once the number of sectors is known. */
void bench_describe(const char *path, u64 sectors);

/* Choose the next request and fill its memory, where data goes out. */
void bench_prepare(struct request *request);

/* The device has done it; `seen` is the TSC. Checks its memory, where data has come in. */
void bench_complete(const struct request *request, u64 seen);

/* How many completions to wait for beyond the first before an interrupt. At depth 8 and more,
   three quarters of what is in flight, as Linux' virtqueue_enable_cb_delayed() does: a device that
   works in parallel then keeps a quarter to go on with while the guest refills the rest. */
u16 bench_delay(bool event_idx, u64 in_flight);

#endif
