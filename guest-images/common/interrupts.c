#include "interrupts.h"

#include "cpu.h"
#include "leave.h"
#include "serial.h"

enum { CODE_SELECTOR = 8, INTERRUPT_GATE = 0x8E00, STUB_SIZE = 16 };

struct gate {
    u16 offset_low, selector, type, offset_middle;
    u32 offset_high, reserved;
};

extern char interrupt_stubs[];
void interrupt_dispatch(struct interrupt_frame *frame);

static _Alignas(16) struct gate table[256];
static interrupt_handler handlers[256];
static bool panicking;

static void set_gate(u8 vector, u64 entry)
{
    table[vector] = (struct gate){
        .offset_low = (u16)entry,
        .selector = CODE_SELECTOR,
        .type = INTERRUPT_GATE,
        .offset_middle = (u16)(entry >> 16),
        .offset_high = (u32)(entry >> 32),
    };
}

void interrupts_init(void)
{
    for (u32 vector = 0; vector < COUNT_OF(table); vector++)
        set_gate((u8)vector, (u64)interrupt_stubs + vector * STUB_SIZE);
    struct __attribute__((packed)) { u16 limit; u64 base; } pointer = { sizeof(table) - 1, (u64)table };
    __asm__ volatile("lidt %0" : : "m"(pointer));
}

void interrupt_set_handler(u8 vector, interrupt_handler handler)
{
    handlers[vector] = handler;
}

void interrupt_set_gate(u8 vector, void (*entry)(void))
{
    set_gate(vector, (u64)entry);
}

void panic(const struct interrupt_frame *frame)
{
    if (!panicking) {               /* a fault while printing must not print for ever */
        panicking = true;
        print("panic:");
        print_number("vector", frame->vector);
        print_hex("error", frame->error);
        print_hex("rip", frame->rip);
        print_hex("cr2", read_cr2());
        print("\n");
    }
    leave(LEAVE_PANIC);
}

void interrupt_dispatch(struct interrupt_frame *frame)
{
    interrupt_handler handler = handlers[frame->vector];
    if (!handler)
        panic(frame);
    handler(frame);
}
