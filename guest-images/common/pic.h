/* The two 8259 interrupt controllers, fixed at vectors 0x20 to 0x2F, all lines masked at first. */
#ifndef PIC_H
#define PIC_H

#include "types.h"

enum { PIC_VECTOR = 0x20 };

void pic_init(void);
void pic_unmask(u8 line);
void pic_end_secondary(void);   /* EOI for lines 8 to 15: two port writes */
void pic_end(u8 line);

#endif
