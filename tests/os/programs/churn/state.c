/* Registers, flags and the state of x87 and SSE, kept over signals and switches between processes. */
#define _GNU_SOURCE
#include "churn.h"

#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <ucontext.h>
#include <unistd.h>

enum { STACK = 64 * 1024, PROCESSES = 4 };

static u64 bits(double value)
{
    u64 word;

    memcpy(&word, &value, 8);
    return word;
}

static void set_rounding(u32 mode)
{
    u32 mxcsr = 0x1F80 | mode << 13;
    uint16_t control = (uint16_t)(0x37F | mode << 10);

    __asm__ volatile("ldmxcsr %0; fldcw %1" : : "m"(mxcsr), "m"(control));
}

/* What SSE2 and x87 make of the same numbers; depends on the rounding of both. */
static u64 compute(u64 seed, u32 steps)
{
    volatile double sum = 0, product = 1;
    volatile long double extended = 0;
    volatile float single = 1;
    u64 whole = seed;

    for (u32 i = 1; i <= steps; i++) {
        double x = (double)(next(&seed) >> 4) / (double)i, root;
        __asm__("sqrtsd %1, %0" : "=x"(root) : "x"(x));
        sum = sum + root;
        product = product * (1 + root * 1e-9);
        extended = extended / 3 + (long double)x;
        single = single * 0.75f + (float)root;
        whole = whole * (u64)(int64_t)x + whole / (i + 1) + whole % (2 * i + 1);
        whole += (u64)(u32)__builtin_ia32_cvtsd2si((__attribute__((vector_size(16))) double){root, 0});
    }
    return bits(sum) ^ bits(product) * 3 ^ bits((double)extended) * 5 ^ bits((double)single) * 7 ^ whole;
}

/* Four processes, each with its own rounding, each computing the same again and again. */
void floats(u64 seed, u32 rounds)
{
    for (u32 i = 0; i < PROCESSES; i++) {
        if (child())
            continue;
        set_rounding(i);
        u64 want = compute(seed + i, 300);
        for (u32 j = 0; j < rounds; j++) {
            sched_yield();
            expect(want, compute(seed + i, 300), "the same sum");
        }
        leave();
    }
    add(finish_children(PROCESSES));
}

/* ---- signals -------------------------------------------------------------------------------------- */
static byte *alternate, *page;
static volatile u64 ticks, traps, depth, deepest, wrong_stack;
static u64 handlers_sum;
static volatile u64 handlers_wrong;

static int on_alternate(void)
{
    byte here;

    return (uintptr_t)&here - (uintptr_t)alternate < STACK;
}

static void ticked(int number)
{
    (void)number;
    ticks++;
    if (++depth > deepest)
        deepest = depth;
    set_rounding(3);                /* the signal frame holds the interrupted program's */
    wrong_stack += !on_alternate();
    handlers_wrong += compute(99, 20) != handlers_sum;
    depth--;
}

/* SIGILL, SIGTRAP, SIGFPE, SIGSEGV by the program's own instruction: skip it, or mend its cause. */
static void trapped(int number, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;

    traps++;
    wrong_stack += !on_alternate();
    if (number == SIGILL)
        registers[REG_RIP] += 2;                        /* ud2 */
    else if (number == SIGFPE)
        registers[REG_RCX] = 7;                         /* the divisor */
    else if (number == SIGSEGV) {
        must(info->si_addr == page, "a fault's address");
        must(!mprotect(page, PAGE, PROT_READ | PROT_WRITE), "mprotect");
    }
}

static void install(void)
{
    static const int faults[] = {SIGILL, SIGTRAP, SIGFPE, SIGSEGV};
    struct sigaction tick = {.sa_handler = ticked, .sa_flags = SA_ONSTACK | SA_RESTART};
    struct sigaction trap = {.sa_sigaction = trapped, .sa_flags = SA_ONSTACK | SA_SIGINFO};
    stack_t stack = {.ss_size = STACK};

    stack.ss_sp = alternate = mmap(0, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    page = mmap(0, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(alternate != MAP_FAILED && page != MAP_FAILED && !sigaltstack(&stack, 0), "sigaltstack");
    for (int i = 0; i < 4; i++)
        must(!sigaction(faults[i], &trap, 0), "sigaction");
    must(!sigaction(SIGALRM, &tick, 0), "sigaction");
}

/* Each kind of trap once, with registers that must come back. */
static u64 trap_each(u64 x)
{
    u64 quotient = x, kept = x ^ 0x5555, remainder = 0, zero = 0;

    __asm__ volatile("ud2; int3; movb $1, (%[page])"
                     : [kept] "+r"(kept)
                     : [page] "r"(page)
                     : "memory", "cc");
    __asm__ volatile("div %%rcx" : "+a"(quotient), "+d"(remainder), "+c"(zero) : : "cc");
    must(!mprotect(page, PAGE, PROT_NONE), "mprotect");
    expect(x ^ 0x5555, kept, "a register over traps");
    expect(x / 7, quotient, "a quotient after a fault");
    expect(x % 7, remainder, "a remainder after a fault");
    return quotient;
}

void signals(u64 seed, u32 rounds)
{
    struct itimerval often = {{0, 1000}, {0, 1000}}, never = {{0, 0}, {0, 0}};
    u64 before, want = compute(seed, 200);

    set_rounding(3);
    handlers_sum = compute(99, 20);
    set_rounding(0);
    install();
    must(!setitimer(ITIMER_REAL, &often, 0), "setitimer");
    for (u32 i = 0; i < rounds; i++) {
        before = traps;
        trap_each(next(&seed));
        expect(4, traps - before, "the number of traps");
        u64 same = seed;
        expect(compute(same, 100), compute(same, 100), "a sum that signals interrupt");
    }
    for (u64 since = ticks; ticks - since < 20;)
        must(compute(seed, 200) == compute(seed, 200), "a sum that signals interrupt");
    must(!setitimer(ITIMER_REAL, &never, 0), "setitimer");
    expect(0, wrong_stack, "handlers beside their stack");
    expect(0, handlers_wrong, "wrong sums in handlers");
    expect(1, deepest, "handlers inside of a handler");
    add(want);
}
