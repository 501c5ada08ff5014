/* Run code that is expected to end in an exception, and keep what the exception left. */
#ifndef CATCH_H
#define CATCH_H

#include "../common/interrupts.h"
#include "../common/types.h"

enum {
    DE = 0, DB = 1, NMI = 2, BP = 3, OF = 4, BR = 5, UD = 6, NM = 7, DF = 8, TS = 10, NP = 11,
    SS = 12, GP = 13, PF = 14, MF = 16,
    USER_CALL = 0x80,                   /* gates that user code may use: come back, or ... */
    USER_EXIT = 0x81,                   /* ... end the run */
};

enum { RFLAGS_CF = 1, RFLAGS_TF = 0x100, RFLAGS_IF = 0x200, RFLAGS_DF = 0x400, RFLAGS_STATUS = 0x8D5 };

struct caught {
    bool happened;
    struct interrupt_frame frame;
    u64 cr2;
    u64 handler_top;                    /* RSP in the handler before the CPU pushed its frame */
    u64 handler_rflags;
    u64 value;                          /* what the code returned, if nothing happened */
};

extern struct caught caught;            /* of the last run */

void catch_init(void);
void catch_vector(u8 vector);           /* catch it; the exceptions above are caught anyway */

/* For another handler: its IRETQ ends the run. */
void end_run(struct interrupt_frame *frame);

/* `code` is the address of instructions; `argument` arrives in RDI. */
void run_kernel(u64 code, u64 argument);
void run_user(u64 code, u64 argument);          /* 64-bit, ring 3, at the user's address */
void run_user_flags(u64 code, u64 argument, u64 rflags);
void run_compat(u64 code, u64 argument);        /* 32-bit code segment, ring 0 */
void run_user_compat(u64 code, u64 argument);

/* An assembly snippet: its start, the interesting instruction, and the one behind it. */
#define SNIPPET(name) extern char name[], name##_at[], name##_after[]

/* The last run ended with this exception; `rip` is where it says it happened. */
void expect(const char *what, u8 vector, u64 error, u64 rip);
void expect_nothing(const char *what);

#endif
