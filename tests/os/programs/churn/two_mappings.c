/* A JIT as it is written where no page may be writable and executable: a memfd mapped twice. */
#define _GNU_SOURCE
#include "churn.h"

#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGES = 16, STEP = 496, SLOTS = PAGES * PAGE / STEP, GROUPS = 3 };   /* a slot may lie over two pages */

static int fd;
static byte *writable, *executable;
static struct made *slots;          /* shared with children */

static void map_both(void)
{
    void *where[2] = {writable, executable};

    fd = memfd_create("code", 0);
    must(fd >= 0 && !ftruncate(fd, PAGES * PAGE), "memfd_create");
    int fixed = writable ? MAP_FIXED : 0;
    writable = mmap(where[0], PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | fixed, fd, 0);
    executable = mmap(where[1], PAGES * PAGE, PROT_READ | PROT_EXEC, MAP_SHARED | fixed, fd, 0);
    must(writable != MAP_FAILED && executable != MAP_FAILED, "mmap");
}

static void write_slot(u32 slot, u64 *seed)
{
    struct made *made = &slots[slot];

    draw(made, seed, slot * STEP + next(seed) % (STEP - MOST_CODE));
    emit(writable + made->at, made);
}

static void write_all(u64 *seed)
{
    for (u32 slot = 0; slot < SLOTS; slot++)
        write_slot(slot, seed);
}

static void check_all(u64 *seed)
{
    for (u32 slot = 0; slot < SLOTS; slot++)
        call_and_check(executable, &slots[slot], next(seed), "each function");
}

/* Rewrite functions of one group and run them; other processes do so with the other groups. */
static void work(u64 *seed, u32 group, u32 rounds)
{
    for (u32 i = 0; i < rounds; i++) {
        u32 drawn = next(seed), slot = drawn % (SLOTS / GROUPS) * GROUPS + group;
        struct made *made = &slots[slot];

        if (drawn >> 16 & 3) {                          /* one operand alone */
            made->a = next(seed);
            memcpy(writable + made->at + immediate(made), &made->a, 4);
        } else
            write_slot(slot, seed);
        call_and_check(executable, made, next(seed), "a rewritten function");
        slot = next(seed) % (SLOTS / GROUPS) * GROUPS + group;
        call_and_check(executable, &slots[slot], next(seed), "an older function");
    }
}

static void with_children(u64 *seed)
{
    for (u32 group = 1; group < GROUPS; group++) {
        u64 own = *seed + group;
        if (!child()) {
            work(&own, group, 40);
            leave();
        }
    }
    work(seed, 0, 40);
    add(finish_children(GROUPS - 1));
    check_all(seed);
}

/* Give some pages back to the kernel, which zeroes them and finds other use for them. */
static void punch(u64 *seed)
{
    u32 page = next(seed) % PAGES, slot = page * PAGE / STEP;

    must(!fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, page * PAGE, PAGE), "fallocate");
    expect(0, executable[page * PAGE + next(seed) % PAGE], "a page given back");
    for (; slot < SLOTS && slot * STEP < (page + 1) * PAGE; slot++)
        write_slot(slot, seed);
    check_all(seed);
}

static void map_again(u64 *seed)
{
    close(fd);
    map_both();
    write_all(seed);
    check_all(seed);
}

static void start(u64 *seed)
{
    slots = mmap(0, SLOTS * sizeof *slots, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    must(slots != MAP_FAILED, "mmap");
    map_both();
    write_all(seed);
    check_all(seed);
}

void two_mappings(u64 seed, u32 rounds)
{
    start(&seed);
    for (u32 i = 0; i < rounds; i++) {
        work(&seed, next(&seed) % GROUPS, 100);
        switch (next(&seed) % 4) {
        case 0:
            with_children(&seed);
            break;
        case 1:
            punch(&seed);
            break;
        case 2:
            map_again(&seed);
            break;
        }
    }
}

/* ---- one thread writes, another one runs ----------------------------------------------------------- */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turned = PTHREAD_COND_INITIALIZER;
static int turn;                    /* 0: the writer's */
static _Thread_local u64 own = 1;
static struct made current;

static void *writer(void *argument)
{
    u64 *work = argument, seed = work[0];

    for (u64 i = 0; i < work[1]; i++) {
        pthread_mutex_lock(&lock);
        while (turn)
            pthread_cond_wait(&turned, &lock);
        draw(&current, &seed, next(&seed) % (PAGES * PAGE - MOST_CODE));
        emit(writable + current.at, &current);
        own = own * 3 + i;
        turn = 1;
        pthread_cond_signal(&turned);
        pthread_mutex_unlock(&lock);
    }
    work[0] = own;
    return 0;
}

void two_threads(u64 seed, u32 rounds)
{
    pthread_t thread;
    u64 work[2] = {seed, rounds}, want = 1;

    start(&seed);
    must(!pthread_create(&thread, 0, writer, work), "pthread_create");
    for (u32 i = 0; i < rounds; i++) {
        pthread_mutex_lock(&lock);
        while (!turn)
            pthread_cond_wait(&turned, &lock);
        call_and_check(executable, &current, next(&seed), "another thread's function");
        own = own * 5 + 1;
        turn = 0;
        pthread_cond_signal(&turned);
        pthread_mutex_unlock(&lock);
        want = want * 3 + i;
    }
    pthread_join(thread, 0);
    expect(want, work[0], "the writer's own variable");
    add(own);
}
