/* The same addresses, and the same pages, with other rights and other content. */
#define _GNU_SOURCE
#include "churn.h"

#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SIZE = 4 * PAGE, WRITE = PROT_READ | PROT_WRITE, RUN = PROT_READ | PROT_EXEC };

static sigjmp_buf before;

static void faulted(int number)
{
    siglongjmp(before, number);
}

static void catch_faults(void)
{
    struct sigaction action = {.sa_handler = faulted};

    must(!sigaction(SIGSEGV, &action, 0), "sigaction");
}

static int faults_at_write(volatile byte *at)
{
    if (sigsetjmp(before, 1))
        return 1;
    *at = 0x90;
    return 0;
}

static int faults_at_call(const byte *at)
{
    if (sigsetjmp(before, 1))
        return 1;
    ((function *)(uintptr_t)at)(0);
    return 0;
}

static byte *map(void *where, int rights)
{
    int fixed = where ? MAP_FIXED : 0;
    byte *area = mmap(where, SIZE, rights, MAP_PRIVATE | MAP_ANONYMOUS | fixed, -1, 0);

    must(area != MAP_FAILED, "mmap");
    return area;
}

void protection(u64 seed, u32 rounds)
{
    byte *area = map(0, WRITE);
    struct made made[8];

    catch_faults();
    for (u32 i = 0; i < rounds; i++) {
        must(!mprotect(area, SIZE, WRITE), "mprotect");
        for (u32 j = 0; j < 8; j++) {
            draw(&made[j], &seed, j * (SIZE / 8) + next(&seed) % (SIZE / 8 - MOST_CODE));
            emit(area + made[j].at, &made[j]);
        }
        if (i % 8 == 0)
            expect(1, (u64)faults_at_call(area + made[0].at), "a call without the right to run");
        must(!mprotect(area, SIZE, RUN), "mprotect");
        for (u32 j = 0; j < 8; j++)
            call_and_check(area, &made[j], next(&seed), "a function on a page that was writable");
        if (i % 8 == 1)
            expect(1, (u64)faults_at_write(area + made[1].at), "a store without the right to write");
    }
}

/* ---- other pages at the same place ------------------------------------------------------------------ */
static void fill(byte *area, struct made made[4], u64 *seed)
{
    for (u32 j = 0; j < 4; j++) {
        draw(&made[j], seed, j * PAGE + next(seed) % (PAGE - MOST_CODE));
        emit(area + made[j].at, &made[j]);
    }
}

static void check(const byte *area, const struct made made[4], u64 *seed, const char *what)
{
    for (u32 j = 0; j < 4; j++)
        call_and_check(area, &made[j], next(seed), what);
}

static void map_anew(byte *area, struct made made[4], u64 *seed)
{
    must(!munmap(area, SIZE), "munmap");
    map(area, WRITE | PROT_EXEC);
    fill(area, made, seed);
    check(area, made, seed, "new pages at an old address");
}

static void discard(byte *area, struct made made[4], u64 *seed)
{
    map(area, WRITE | PROT_EXEC);
    fill(area, made, seed);
    check(area, made, seed, "pages before a discard");
    must(!madvise(area, SIZE, MADV_DONTNEED), "madvise");
    expect(0, area[next(seed) % SIZE], "a discarded page");
    fill(area, made, seed);
    check(area, made, seed, "pages after a discard");
}

static void swap(byte *area, struct made made[4], u64 *seed)
{
    byte *spare = map(0, WRITE | PROT_EXEC);
    struct made other[4];

    fill(spare, other, seed);
    check(spare, other, seed, "a second area");
    must(mremap(spare, SIZE, SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, area) == area, "mremap");
    check(area, other, seed, "pages that moved");
    memcpy(made, other, sizeof other);
}

/* A private mapping runs the file's page until the first store, then its own copy. */
static void copy_on_write(byte *area, struct made made[4], u64 *seed)
{
    int fd = memfd_create("file", 0);
    struct made own[4];

    must(fd >= 0 && !ftruncate(fd, SIZE), "memfd_create");
    byte *file = mmap(0, SIZE, WRITE, MAP_SHARED, fd, 0);
    must(mmap(area, SIZE, WRITE | PROT_EXEC, MAP_PRIVATE | MAP_FIXED, fd, 0) == area, "mmap");
    byte *view = mmap(0, SIZE, RUN, MAP_SHARED, fd, 0);
    must(file != MAP_FAILED && view != MAP_FAILED, "mmap");
    fill(file, made, seed);
    check(area, made, seed, "the file's page");
    fill(file, made, seed);
    check(area, made, seed, "the file's page once more");
    fill(area, own, seed);
    check(area, own, seed, "a private copy");
    check(view, made, seed, "the file beside its private copy");
    memcpy(made, own, sizeof own);
    must(!munmap(file, SIZE) && !munmap(view, SIZE) && !close(fd), "munmap");
}

/* After fork both have the same pages until one stores. */
static void forked(byte *area, struct made made[4], u64 *seed)
{
    for (u64 i = 1; i < 3; i++)
        if (!child()) {
            u64 own = *seed + i;
            check(area, made, &own, "a parent's function");
            for (int j = 0; j < 4; j++) {
                fill(area, made, &own);
                check(area, made, &own, "a child's function");
            }
            leave();
        }
    struct made old[4];
    memcpy(old, made, sizeof old);
    check(area, old, seed, "a function that children change");
    fill(area, made, seed);
    add(finish_children(2));
    check(area, made, seed, "a function that children changed");
}

static void (*const ways[])(byte *area, struct made made[4], u64 *seed) = {
    map_anew, discard, swap, copy_on_write, forked,
};

void recycled(u64 seed, u32 rounds)
{
    byte *area = map(0, WRITE | PROT_EXEC);
    struct made made[4];

    fill(area, made, &seed);
    for (u32 i = 0; i < rounds; i++) {
        ways[next(&seed) % (sizeof ways / sizeof *ways)](area, made, &seed);
        check(area, made, &seed, "the area");
    }
}
