/* A program for Linux guests: it writes, rewrites and runs code in every way a JIT compiler or a dynamic loader does,
 * and computes under preemption and signals. Every result is checked; the same arguments give the same checksum on
 * every correct processor. */
#ifndef CHURN_H
#define CHURN_H

#include <stddef.h>
#include <stdint.h>

typedef uint32_t u32;
typedef uint64_t u64;
typedef unsigned char byte;

enum { PAGE = 4096, MOST_CODE = 64 };

typedef u32 function(u32 x);

/* One generated function: what was written, so what it must return. */
struct made {
    u32 at, kind, a, b, pad;        /* `at`: offset of its first byte; `pad`: NOPs before the rest */
};

/* ---- main.c ---- */
extern u64 checksum;
u32 next(u64 *state);
void expect(u64 want, u64 got, const char *what);
void must(int good, const char *what);
void add(u64 value);
u64 finish_children(int count);     /* wait for them, return the sum of theirs */
int child(void);                    /* fork; 0 in the child, which must end with leave() */
void leave(void);

/* ---- emit.c ---- */
void draw(struct made *made, u64 *seed, u32 at);
size_t emit(byte *code, const struct made *made);
size_t immediate(const struct made *made);      /* offset of `a` in the bytes */
u32 result(const struct made *made, u32 x);
void call_and_check(const byte *base, const struct made *made, u32 x, const char *what);

/* ---- one function a way of changing code, or of keeping state ---- */
void two_mappings(u64 seed, u32 rounds);        /* two_mappings.c */
void two_threads(u64 seed, u32 rounds);
void own_code(u64 seed, u32 rounds);            /* own_code.c: one writable and executable mapping */
void protection(u64 seed, u32 rounds);          /* pages.c: mprotect between writable and executable */
void recycled(u64 seed, u32 rounds);            /* the same addresses and pages with other content */
void signals(u64 seed, u32 rounds);             /* state.c */
void floats(u64 seed, u32 rounds);

#endif
