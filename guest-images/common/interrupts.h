/* The interrupt table: C handlers by vector; a vector without one is a panic. */
#ifndef INTERRUPTS_H
#define INTERRUPTS_H

#include "types.h"

struct interrupt_frame {
    u64 r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
    u64 vector, error;
    u64 rip, cs, rflags, rsp, ss;
};

typedef void (*interrupt_handler)(struct interrupt_frame *frame);

void interrupts_init(void);

/* The handler may change the frame: IRETQ takes it back. */
void interrupt_set_handler(u8 vector, interrupt_handler handler);

/* Point the gate at code that does its own saving and IRETQ. */
void interrupt_set_gate(u8 vector, void (*entry)(void));

/* Print "panic: vector=.. error=.. rip=.. cr2=.." and leave with LEAVE_PANIC. */
_Noreturn void panic(const struct interrupt_frame *frame);

#endif
