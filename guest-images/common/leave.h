/* End of the program through isa-debug-exit; the emulator's status is value * 2 + 1. */
#ifndef LEAVE_H
#define LEAVE_H

#include "types.h"

enum {
    LEAVE_OK = 0x10,            /* status 33 */
    LEAVE_WRONG = 0x11,         /* status 35: it ran, with wrong results */
    LEAVE_FAIL = 0x12,          /* status 37: it could not run */
    LEAVE_PANIC = 0x1F,         /* status 63: an unexpected exception or interrupt */
};

_Noreturn void leave(u8 value);

#endif
