/* "hello" on COM1, then out through isa-debug-exit: the smallest program that boots. */
#include "../common/boot.h"
#include "../common/leave.h"
#include "../common/serial.h"

void guest_main(void)
{
    print("hello\n");
    leave(LEAVE_OK);
}
