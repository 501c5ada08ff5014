/* Source: Intel 8259A datasheet, initialization command words. */
#include "pic.h"

#include "cpu.h"
#include "interrupts.h"

enum {
    PRIMARY = 0x20, SECONDARY = 0xA0,
    ICW1_INIT_ICW4 = 0x11, ICW4_8086 = 0x01, EOI = 0x20,
    CASCADE = 2, SPURIOUS_PRIMARY = 7, SPURIOUS_SECONDARY = 15,
};

static void ignore_spurious(struct interrupt_frame *frame)
{
    if (frame->vector == PIC_VECTOR + SPURIOUS_SECONDARY)
        out8(PRIMARY, EOI);     /* the primary did see its cascade line */
}

void pic_init(void)
{
    out8(PRIMARY, ICW1_INIT_ICW4);
    out8(SECONDARY, ICW1_INIT_ICW4);
    out8(PRIMARY + 1, PIC_VECTOR);
    out8(SECONDARY + 1, PIC_VECTOR + 8);
    out8(PRIMARY + 1, 1 << CASCADE);
    out8(SECONDARY + 1, CASCADE);
    out8(PRIMARY + 1, ICW4_8086);
    out8(SECONDARY + 1, ICW4_8086);
    out8(PRIMARY + 1, (u8)~(1 << CASCADE));
    out8(SECONDARY + 1, 0xFF);
    interrupt_set_handler(PIC_VECTOR + SPURIOUS_PRIMARY, ignore_spurious);
    interrupt_set_handler(PIC_VECTOR + SPURIOUS_SECONDARY, ignore_spurious);
}

void pic_unmask(u8 line)
{
    u16 port = line < 8 ? PRIMARY + 1 : SECONDARY + 1;
    out8(port, in8(port) & (u8)~(1 << (line & 7)));
}

void pic_end_secondary(void)
{
    out8(SECONDARY, EOI);
    out8(PRIMARY, EOI);
}

void pic_end(u8 line)
{
    if (line >= 8)
        out8(SECONDARY, EOI);
    out8(PRIMARY, EOI);
}
