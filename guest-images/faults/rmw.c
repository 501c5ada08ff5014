/* Read-modify-write instructions under many interrupts: none is lost, none is done twice. */
#include "../common/boot.h"
#include "../common/cpu.h"
#include "../common/lapic.h"
#include "check.h"
#include "catch.h"
#include "faults.h"
#include "world.h"

enum {
    TIMER = 0x61, LVT_MASKED = 1 << 16, LVT_PERIODIC = 1 << 17, DIVIDE_BY_1 = 0xB,
    EVERY = 50000,                      /* 50 us where the timer counts at 1 GHz */
    DEFAULT_ROUNDS = 20000, SLICE = 1000, LEAST_INTERRUPTS = 100,
};

struct counters {
    u64 inc, add, xadd, cmpxchg, lock_inc, lock_xadd, lock_cmpxchg, push_pop, adc, sub, lock_dec;
    u64 not, neg, rol, btc, xor;
    u8 inc8, pad;
    u16 inc16;
    u32 inc32;
    u64 xchg, shared, lock_shared, string_sum, pad2[3];
    u8 string[64], copy[64];
};
_Static_assert(offsetof(struct counters, inc8) == 128, "rmw.S");
_Static_assert(offsetof(struct counters, xchg) == 136, "rmw.S");
_Static_assert(offsetof(struct counters, string) == 192, "rmw.S");

void rmw_rounds(struct counters *counters, u64 rounds, u64 *straddle);

static struct counters counters;
static volatile u64 interrupts;

static void on_timer(struct interrupt_frame *frame)
{
    (void)frame;
    interrupts++;
    __asm__ volatile("incq %0" : "+m"(counters.shared) : : "cc");
    __asm__ volatile("lock incq %0" : "+m"(counters.lock_shared) : : "cc");
    lapic_eoi();
}

static u64 rotate(u64 value, u32 by)
{
    return by ? value << by | value >> (64 - by) : value;
}

static void check_counts(u64 n, const u64 *straddle)
{
    const struct counters *c = &counters;
    check("inc", "count", c->inc, n);
    check("add", "count", c->add, 3 * n);
    check("xadd", "count", c->xadd, 5 * n);
    check("cmpxchg", "count", c->cmpxchg, n);
    check("lock-inc", "count", c->lock_inc, n);
    check("lock-xadd", "count", c->lock_xadd, 7 * n);
    check("lock-cmpxchg", "count", c->lock_cmpxchg, n);
    check("push-pop", "count", c->push_pop, n);
    check("adc", "count", c->adc, n);
    check("sub", "count", c->sub, -n);
    check("lock-dec", "count", c->lock_dec, -n);
    check("not", "value", c->not, n & 1 ? ~0ull : 0);
    check("neg", "value", c->neg, n & 1 ? -9ull : 9);
    check("rol", "value", c->rol, rotate(5, n & 63));
    check("btc", "value", c->btc, n & 1 ? 0x80 : 0);
    check("xor", "value", c->xor, n & 1 ? 0x55 : 0);
    check("inc8", "count", c->inc8, n & 0xFF);
    check("inc16", "count", c->inc16, n & 0xFFFF);
    check("inc32", "count", c->inc32, n & 0xFFFFFFFF);
    check("straddle", "count", straddle[0], n);
    check("straddle-lock", "count", straddle[1], n);
    check("xchg", "count", c->xchg, n);
    check("shared", "count", c->shared, n + interrupts);
    check("lock-shared", "count", c->lock_shared, n + interrupts);
    u64 sum = 0;
    for (u64 i = 1; i <= n; i++)
        sum += i & 0xFF;
    check("string", "sum", c->string_sum, sum);
}

void test_rmw(void)
{
    u64 wanted = option_number("rounds", DEFAULT_ROUNDS), done = 0;
    counters = (struct counters){ .neg = 9, .rol = 5 };
    interrupts = 0;
    u64 first = map_test_page(0, (u64)fresh_page(), PAGE_PRESENT | PAGE_WRITE | PAGE_NX);
    map_test_page(1, (u64)fresh_page(), PAGE_PRESENT | PAGE_WRITE | PAGE_NX);
    u64 *straddle = (u64 *)(first + PAGE - 3);
    interrupt_set_handler(TIMER, on_timer);
    lapic_write(LAPIC_TIMER_DIVIDE, DIVIDE_BY_1);
    lapic_write(LAPIC_LVT_TIMER, LVT_PERIODIC | TIMER);
    lapic_write(LAPIC_TIMER_INITIAL, EVERY);
    interrupts_on();
    while (done < wanted || interrupts < LEAST_INTERRUPTS) {
        u64 slice = done < wanted && wanted - done < SLICE ? wanted - done : SLICE;
        rmw_rounds(&counters, slice, straddle);
        done += slice;
    }
    lapic_write(LAPIC_LVT_TIMER, LVT_MASKED | TIMER);
    relax();
    interrupts_off();
    check_counts(done, straddle);
}
