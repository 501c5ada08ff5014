/* Reads or writes a disk over IDE or virtio-blk, or exchanges frames with an echo port over e1000 or
   virtio-net, checks every word and reports the times.
   ../README.md has the words of the command line and the lines of the report. */
#include "bench.h"

#include "../common/boot.h"
#include "../common/cpu.h"
#include "e1000.h"
#include "../common/interrupts.h"
#include "../common/lapic.h"
#include "../common/leave.h"
#include "../common/pci.h"
#include "../common/pic.h"
#include "../common/serial.h"
#include "../common/tsc.h"
#include "../common/virtio_pci.h"
#include "net.h"
#include "pattern.h"
#include "select.h"

enum {
    POST = 0x80, MARK_BEGIN = 0xB0, MARK_END = 0xE0,
    WATCHDOG_VECTOR = 0x31, WATCHDOG_SECONDS = 20,
    NET_BS_UNIT = 64, NET_MOST_BS = 8192,
};

struct bench bench;

void fail(const char *what, const char *key, u64 value)
{
    print("iobench: fail");
    print_text("what", what);
    if (key)
        print_number(key, value);
    print("\n");
    leave(LEAVE_FAIL);
}

void expect(const char *wrong)
{
    if (wrong)
        fail(wrong, NULL, 0);
}

void bench_describe(const char *path, u64 sectors)
{
    bench.blocks = sectors * BENCH_SECTOR / bench.bs;
    if (!bench.blocks)
        fail("disk-too-small", "sectors", sectors);
    print("iobench: device");
    print_text("path", path);
    print_number("sectors", sectors);
    print_text("wait", bench.irq ? "irq" : "poll");
}

/* xorshift64*. Source: Vigna, "An experimental exploration of Marsaglia's xorshift generators". */
static u64 next_random(void)
{
    u64 x = bench.random_state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    bench.random_state = x;
    return x * 0x2545F4914F6CDD1Dull;
}

void bench_prepare(struct request *request)
{
    request->number = bench.next++;
    u64 block = bench.random ? mul_div(next_random() >> 32, bench.blocks, 1ull << 32)
                             : request->number % bench.blocks;
    request->offset = block * bench.bs;
    u64 *data = request->memory, words = bench.bs / 8;
    if (bench.fills) {
        u64 sum = pattern_fill(data, words, request->offset / 8, bench.generation);
        if (!bench.checks)
            bench.checksum += sum;
    } else {                            /* what an earlier read left must not pass for this one */
        data[0] = ~data[0];
        data[words - 1] = ~data[words - 1];
    }
}

static void note_mismatch(const struct request *request)
{
    const u64 *data = request->memory;
    u64 first = request->offset / 8, i = 0;
    while (data[i] == pattern_word(first + i, bench.generation))
        i++;
    if (bench.errors < BENCH_SHOWN_ERRORS)
        bench.mismatches[bench.errors] = (struct mismatch){
            request->number, request->offset, first + i,
            pattern_word(first + i, bench.generation), data[i] };
    bench.errors++;
}

void bench_complete(const struct request *request, u64 seen)
{
    if (request->number % bench.sample_every == 0)
        bench.samples[bench.sample_count++] = seen - request->submitted;
    bench.completed++;
    if (!bench.checks || bench.check == CHECK_NONE)
        return;
    const u64 *data = request->memory;
    u64 first = request->offset / 8;
    bool wrong;
    if (bench.check == CHECK_ALL) {
        bench.checksum += pattern_check(data, bench.bs / 8, first, bench.generation, &wrong);
    } else {
        bench.checksum += data[0];
        wrong = data[0] != pattern_word(first, bench.generation);
    }
    if (wrong)
        note_mismatch(request);
}

u16 bench_delay(bool event_idx, u64 in_flight)
{
    if (!event_idx)
        return 0;
    u64 delay = in_flight >= 8 ? in_flight * 3 / 4 : 0;
    if (bench.coalesce)
        delay = bench.coalesce - 1;
    return (u16)(delay < in_flight ? delay : in_flight - 1);
}

static void on_watchdog(struct interrupt_frame *frame)
{
    static u64 completed_before = -1ull;
    (void)frame;
    lapic_eoi();
    bench.watchdog++;
    if (bench.completed == completed_before)
        fail("timeout", "completed", bench.completed);
    completed_before = bench.completed;
}

static void begin(void)
{
    bench.next = bench.completed = bench.checksum = bench.errors = bench.watchdog = 0;
    bench.sample_count = 0;
    bench.random_state = bench.seed ? bench.seed : 1;
}

static void choose_op(void)
{
    static const char *const others[] = { "write", "randread", "net-rr", "net-stream" };
    bench.op = "read";
    for (u32 i = 0; i < COUNT_OF(others); i++)
        if (option_is("op", others[i]))
            bench.op = others[i];
    if (option_given("op") && !option_is("op", bench.op))
        fail("op", NULL, 0);
    bench.stream = option_is("op", "net-stream");
    bench.net = bench.stream || option_is("op", "net-rr");
    bench.fills = bench.net || option_is("op", "write");
    bench.checks = !bench.fills || option_is("op", "net-rr");
    bench.random = option_is("op", "randread");
}

static bool bs_is_possible(void)
{
    u64 unit = bench.net ? NET_BS_UNIT : BENCH_SECTOR;
    return bench.bs && bench.bs % unit == 0 && (bench.net ? bench.bs <= NET_MOST_BS : !(bench.bs >> 31));
}

static void read_options(void)
{
    choose_op();
    bench.irq = !option_is("wait", "poll");
    bench.check = option_is("check", "first") ? CHECK_FIRST
                : option_is("check", "none") ? CHECK_NONE : CHECK_ALL;
    bench.bs = option_number("bs", 4096);
    bench.qd = option_number("qd", 1);
    bench.count = option_number("count", 1000);
    bench.warmup = option_number("warmup", 16);
    bench.seed = option_number("seed", 1);
    bench.generation = option_number("gen", option_is("op", "write"));
    bench.coalesce = option_number("coalesce", 0);
    if (!bs_is_possible())
        fail("bs", "value", bench.bs);
    if (!bench.qd || bench.qd > 1024)
        fail("qd", "value", bench.qd);
    if (!bench.count)
        fail("count", "value", bench.count);
    if (bench.warmup > bench.count)     /* a write must not reach blocks that the run leaves alone */
        bench.warmup = bench.count;
    bench.sample_every = (bench.count + BENCH_MOST_SAMPLES - 1) / BENCH_MOST_SAMPLES;
    bench.samples = allocate((bench.count / bench.sample_every + 1) * sizeof(u64), 64);
    if (!bench.samples)
        fail("memory", NULL, 0);
}

static const struct path *choose_card(void)
{
    if (option_given("path") && !option_is("path", "e1000") && !option_is("path", "virtio"))
        fail("path", NULL, 0);
    bool e1000 = option_given("path") ? option_is("path", "e1000")
               : pci_find(VIRTIO_VENDOR, NET_TRANSITIONAL, NET_MODERN, 0) == PCI_NONE;
    net_card = e1000 ? &net_e1000 : &net_virtio;
    return &net_path;
}

static const struct path *choose_path(void)
{
    if (bench.net)
        return choose_card();
    if (option_given("path") && !option_is("path", "ide") && !option_is("path", "virtio"))
        fail("path", NULL, 0);
    if (option_given("path"))
        return option_is("path", "ide") ? &ide_path : &virtio_path;
    return pci_find(VIRTIO_VENDOR, 0x1001, 0x1042, 0) != PCI_NONE ? &virtio_path : &ide_path;
}

static void report_errors(void)
{
    if (bench.stream && bench.errors) {
        print("iobench: error");
        print_number("frames", bench.mismatches[0].request);
        print_number("of", bench.count);
        print_number("bytes", bench.mismatches[0].offset);
        print_hex("sum", bench.mismatches[0].got);
        print_hex("sent", bench.mismatches[0].want);
        print("\n");
    }
    for (u64 i = 0; i < bench.errors && i < BENCH_SHOWN_ERRORS && !bench.stream; i++) {
        print("iobench: error");
        print_number("request", bench.mismatches[i].request);
        print_number("offset", bench.mismatches[i].offset);
        print_number("word", bench.mismatches[i].word);
        print_hex("want", bench.mismatches[i].want);
        print_hex("got", bench.mismatches[i].got);
        print("\n");
    }
}

static void report(u64 ticks)
{
    report_errors();
    const u64 second = 1000000000;
    u64 n = bench.sample_count;
    u64 p50 = select_rank(bench.samples, n, (n - 1) * 50 / 100);
    u64 p99 = select_rank(bench.samples, n, (n - 1) * 99 / 100);
    print("iobench: result");
    print_text("op", bench.op);
    print_number("bs", bench.bs);
    print_number("qd", bench.qd);
    print_number("count", bench.count);
    print_number("errors", bench.errors);
    print_hex("checksum", bench.checksum);
    print_number("bytes", bench.count * bench.bs);
    print_number("elapsed_ns", mul_div(ticks, second, bench.tsc_hz));
    print_number("p50_ns", mul_div(p50, second, bench.tsc_hz));
    print_number("p99_ns", mul_div(p99, second, bench.tsc_hz));
    print_number("iops", mul_div(bench.count, bench.tsc_hz, ticks));
    print_number("interrupts", bench.interrupts);
    print_number("notifies", bench.notifies);
    print_number("watchdog", bench.watchdog);
    print("\n");
}

void guest_main(void)
{
    bench.tsc_hz = tsc_calibrate();
    if (!bench.tsc_hz)
        fail("pit", NULL, 0);
    pic_init();
    read_options();
    const struct path *path = choose_path();
    bool lapic = lapic_init();
    if (!lapic && bench.irq && (path == &virtio_path || net_card == &net_virtio))
        fail("lapic", NULL, 0);
    begin();
    path->open();
    interrupt_set_handler(WATCHDOG_VECTOR, on_watchdog);
    if (lapic && bench.irq)             /* polling looks at the clock itself */
        lapic_timer_every(WATCHDOG_SECONDS, WATCHDOG_VECTOR, bench.tsc_hz);
    if (path->prepare)
        path->prepare();
    path->run(bench.warmup);

    begin();
    if (path->prepare)
        path->prepare();
    out8(POST, MARK_BEGIN);
    u64 start = read_tsc();
    path->run(bench.count);
    u64 ticks = read_tsc() - start;
    out8(POST, MARK_END);

    if (bench.fills)
        path->flush();
    report(ticks);
    print("iobench: done\n");
    leave(bench.errors ? LEAVE_WRONG : LEAVE_OK);
}
