/* Frames to an echo port and back, over e1000 or virtio-net, `qd` in flight.
 *
 * net-rr: ECHO frames; each answer's bytes are checked, and it triggers the next request. net-stream:
 * SINK frames as fast as the ring takes them, between RESET and REPORT. ../README.md has the frames. */
#include "net.h"

#include "../common/boot.h"
#include "../common/cpu.h"
#include "../common/memory.h"
#include "../common/serial.h"

enum opcode { ECHO, SINK, REPORT, RESET };
enum {
    TYPE_HIGH = 0x88, TYPE_LOW = 0xB5, ADDRESS = 6, TYPE_AT = 12, OPCODE_AT = 14, ASK_DATA = 64,
    PATTERN_BYTES = 16 << 20,           /* the requests' data is that of a disk of this size */
};

struct slot {
    struct request request;
    u8 *frame;
    bool busy;                          /* the card has it */
};

struct net net;
const struct net_card *net_card;

static const u8 peer[ADDRESS] = { 0x02, 0, 0, 0, 0x88, 0xB5 };
static struct slot *slots;
static union { u8 bytes[NET_HEADER]; u64 words[2]; } answer_header;    /* but for the opcode: ECHO */
static u64 submitted, shown;            /* of this run */
static u64 released;                    /* receive buffers that the card does not have ... */
static u64 most_released;               /* ... and how many it may lack */

void net_describe(const char *path)
{
    char text[3 * ADDRESS];
    for (u32 i = 0; i < ADDRESS; i++) {
        text[3 * i] = "0123456789abcdef"[net.mac[i] >> 4];
        text[3 * i + 1] = "0123456789abcdef"[net.mac[i] & 15];
        text[3 * i + 2] = i < ADDRESS - 1 ? ':' : 0;
    }
    print("iobench: device");
    print_text("path", path);
    print_text("mac", text);
    print_text("wait", bench.irq ? "irq" : "poll");
}

static void write_header(u8 *frame, enum opcode opcode)
{
    memcpy(frame, peer, ADDRESS);
    memcpy(frame + ADDRESS, net.mac, ADDRESS);
    frame[TYPE_AT] = TYPE_HIGH;
    frame[TYPE_AT + 1] = TYPE_LOW;
    frame[OPCODE_AT] = (u8)opcode;
    frame[OPCODE_AT + 1] = 0;
}

static void open(void)
{
    u64 frame = NET_HEADER + bench.bs;
    bench.blocks = PATTERN_BYTES / bench.bs;
    net_card->open((u32)frame);
    write_header(answer_header.bytes, ECHO);
    memcpy(answer_header.bytes, net.mac, ADDRESS);
    memcpy(answer_header.bytes + ADDRESS, peer, ADDRESS);
    if (bench.qd > net.buffers)
        fail("queue-size", "value", net.buffers);
    most_released = net.buffers / 2;
    if (most_released > net.buffers - bench.qd)
        most_released = net.buffers - bench.qd;
    if (!most_released)
        most_released = 1;
    slots = allocate(bench.qd * sizeof(*slots), 64);
    for (u64 i = 0; slots && i < bench.qd; i++) {
        u8 *memory = allocate(NET_ROOM + frame, 4096);
        if (!memory)
            fail("memory", NULL, 0);
        slots[i].frame = memory + NET_ROOM;
        write_header(slots[i].frame, bench.checks ? ECHO : SINK);
    }
    if (!slots)
        fail("memory", NULL, 0);
}

/* ---- waiting ---- */

static void refill(void)
{
    net_card->refill();
    released = 0;
}

/* The clock of a request starts when its batch is shown to the card. */
static void publish(void)
{
    if (shown == submitted)
        return;
    if (released >= most_released)
        refill();
    for (u64 now = read_tsc(); shown != submitted; shown++)
        slots[shown % bench.qd].request.submitted = now;
    net_card->publish();
}

static void halt(void)
{
    while (!net.interrupted)            /* the handler runs only inside of the halt */
        halt_until_interrupt();
    net.interrupted = false;
}

static void give_up_after(u64 start)
{
    if (read_tsc() - start > 20 * bench.tsc_hz)
        fail("timeout", "completed", bench.completed);
    relax();
}

/* Wish first, then publish: a card that is done before publish() returns does interrupt. */
static void wait_for_answers(u64 in_flight)
{
    if (!bench.irq) {
        publish();
        for (u64 start = read_tsc(); !net_card->ready();)
            give_up_after(start);
    } else if (net_card->want(NET_ANSWER, bench_delay(net.event_idx, in_flight))) {
        publish();
        halt();
    }
    net_card->want_none();
}

/* ---- frames ---- */

static void reclaim(void)
{
    u64 seen = read_tsc();
    for (u16 slot; (slot = net_card->reclaim()) != NET_NONE;) {
        slots[slot].busy = false;
        if (!bench.checks)
            bench_complete(&slots[slot].request, seen);
    }
}

static void submit(void)
{
    u16 number = (u16)(submitted++ % bench.qd);
    struct slot *slot = &slots[number];
    for (u64 start = read_tsc(); slot->busy; give_up_after(start))
        reclaim();                      /* its answer was faster than the news that it was sent */
    slot->request.memory = slot->frame + NET_HEADER;
    bench_prepare(&slot->request);
    slot->busy = true;
    net_card->offer(number, slot->frame, (u32)(NET_HEADER + bench.bs));
}

static bool is_ours(const u8 *frame, u32 length)
{
    return length >= NET_HEADER && frame[TYPE_AT] == TYPE_HIGH && frame[TYPE_AT + 1] == TYPE_LOW;
}

/* The next frame of our type, of those that wait; others are not looked at. NULL: none does. */
static const u8 *next_answer(u32 *ready, u32 *length)
{
    for (; *ready; --*ready) {
        const u8 *frame = net_card->frame(length);
        if (is_ours(frame, *length))
            return frame;
        net_card->release();
        released++;
    }
    return NULL;
}

static void done_with_answer(u32 *ready)
{
    net_card->release();
    released++;
    --*ready;
}

static void expect_header(const u8 *frame, u32 length, enum opcode opcode, u64 data)
{
    const u64 *words = (const u64 *)frame, opcode_shift = 8 * (OPCODE_AT - 8);
    if (length != NET_HEADER + data)
        fail("answer", "length", length);
    if (words[0] != answer_header.words[0]
        || words[1] != (answer_header.words[1] | (u64)opcode << opcode_shift))
        fail("answer", "completed", bench.completed);
}

/* A question to the port, while no request is under way. Returns the data of the answer, which the
   caller has looked at before the next frame comes. */
static const u64 *ask(enum opcode opcode)
{
    u8 *frame = slots[0].frame;
    write_header(frame, opcode);
    memset(frame + NET_HEADER, 0, ASK_DATA);
    slots[0].busy = true;
    net_card->offer(0, frame, NET_HEADER + ASK_DATA);
    bool shown_now = false;
    const u8 *answer = NULL;
    u32 ready, length;
    for (u64 start = read_tsc(); !answer; answer = next_answer(&ready, &length)) {
        bool waits = net_card->want(NET_ANSWER, 0);
        if (!shown_now)
            net_card->publish();
        shown_now = true;
        if (!bench.irq)
            give_up_after(start);
        else if (waits)
            halt();
        ready = net_card->ready();
    }
    net_card->want_none();
    expect_header(answer, length, opcode, ASK_DATA);
    done_with_answer(&ready);
    for (u64 start = read_tsc(); net_card->reclaim() == NET_NONE;)
        give_up_after(start);
    slots[0].busy = false;
    write_header(frame, bench.checks ? ECHO : SINK);
    return (const u64 *)(answer + NET_HEADER);
}

/* ---- the two operations ---- */

static void take_answers(u64 requests)
{
    u64 seen = read_tsc();
    u32 length, ready = net_card->ready();
    for (const u8 *frame; (frame = next_answer(&ready, &length));) {
        if (bench.completed == submitted)
            fail("answer", "completed", bench.completed);
        struct slot *slot = &slots[bench.completed % bench.qd];     /* one queue: in order */
        expect_header(frame, length, ECHO, bench.bs);
        slot->request.memory = (void *)(frame + NET_HEADER);
        bench_complete(&slot->request, seen);
        done_with_answer(&ready);
        if (submitted < requests)
            submit();
    }
    reclaim();
}

static void run_requests(u64 requests)
{
    while (submitted < bench.qd && submitted < requests)
        submit();
    while (bench.completed < requests) {
        wait_for_answers(submitted - bench.completed);
        take_answers(requests);
    }
}

static void wait_for_room(u64 in_flight)
{
    if (!bench.irq) {
        relax();
    } else if (net_card->want(NET_SENT, bench_delay(net.event_idx, in_flight))) {
        halt();
        net_card->want_none();
    }
}

static void run_stream(u64 requests)
{
    u64 start = read_tsc();
    while (bench.completed < requests) {
        while (submitted < requests && !slots[submitted % bench.qd].busy)
            submit();
        publish();
        u64 before = bench.completed;
        reclaim();
        if (bench.completed != before)
            start = read_tsc();
        else if (bench.irq)
            wait_for_room(submitted - bench.completed);
        else
            give_up_after(start);
    }
    const u64 *report = ask(REPORT);
    u64 sum = bench.checksum;
    bench.checksum = report[2];
    if (report[0] != requests || report[1] != requests * (bench.bs + NET_HEADER - OPCODE_AT)
        || report[2] != sum) {
        bench.errors++;
        bench.mismatches[0] = (struct mismatch){ .request = report[0], .offset = report[1],
                                                 .want = sum, .got = report[2] };
    }
}

static void prepare(void)
{
    if (!bench.checks)
        ask(RESET);
    if (released)
        refill();
    interrupts_on();                    /* what an earlier run left pending */
    relax();
    interrupts_off();
}

static void run(u64 requests)
{
    net.interrupted = false;
    u64 interrupts = net.interrupts, notifies = net.notifies;
    submitted = shown = 0;
    (bench.checks ? run_requests : run_stream)(requests);
    bench.interrupts = net.interrupts - interrupts;
    bench.notifies = net.notifies - notifies;
}

static void flush(void)
{
}

const struct path net_path = { open, run, flush, prepare };
