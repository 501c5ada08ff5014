#include "catch.h"

#include "../common/cpu.h"
#include "../common/memory.h"
#include "check.h"
#include "world.h"

struct caught caught;
u64 catch_stack, catch_value;           /* used by catch.S */
static bool armed;

struct ring_start { u64 rip, cs, rflags, rsp, ss, argument; };

extern char catch_resume[], catch_enter_ring[];
u64 catch_enter(u64 code, u64 argument);

static void on_exception(struct interrupt_frame *frame)
{
    if (!armed)
        panic(frame);
    armed = false;
    caught.happened = true;
    caught.frame = *frame;
    caught.cr2 = read_cr2();
    caught.handler_top = (u64)(frame + 1);
    __asm__ volatile("pushfq\n\tpopq %0" : "=r"(caught.handler_rflags));
    end_run(frame);
}

void end_run(struct interrupt_frame *frame)
{
    frame->rip = (u64)catch_resume;
    frame->cs = KERNEL_CODE;
    frame->rflags = 2;
    frame->rsp = catch_stack;
    frame->ss = KERNEL_DATA;
}

void catch_vector(u8 vector)
{
    interrupt_set_handler(vector, on_exception);
}

void catch_init(void)
{
    for (u8 vector = 0; vector < 32; vector++)
        if (vector != NMI)
            catch_vector(vector);
    catch_vector(0x40);                 /* those of the INT snippets */
    catch_vector(0x90);
    catch_vector(USER_EXIT);
    set_gate_type(USER_CALL, GATE_USER);
    set_gate_type(USER_EXIT, GATE_USER);
}

void run_kernel(u64 code, u64 argument)
{
    memset(&caught, 0, sizeof(caught));
    armed = true;
    catch_enter(code, argument);
    armed = false;
    caught.value = catch_value;
}

static void run_ring(struct ring_start start)
{
    run_kernel((u64)catch_enter_ring, (u64)&start);
}

void run_user_flags(u64 code, u64 argument, u64 rflags)
{
    run_ring((struct ring_start){
        USER_BASE + code, USER_CODE, rflags | 2, user_stack_top(), USER_DATA, argument });
}

void run_user(u64 code, u64 argument)
{
    run_user_flags(code, argument, 0);
}

void run_compat(u64 code, u64 argument)
{
    run_ring((struct ring_start){
        code, KERNEL_CODE32, 2, user_stack_top() - USER_BASE, KERNEL_DATA, argument });
}

void run_user_compat(u64 code, u64 argument)
{
    run_ring((struct ring_start){
        USER_BASE + code, USER_CODE32, 2, user_stack_top(), USER_DATA, argument });
}

void expect(const char *what, u8 vector, u64 error, u64 rip)
{
    check_true(what, "happened", caught.happened);
    if (!caught.happened)
        return;
    check(what, "vector", caught.frame.vector, vector);
    check(what, "error", caught.frame.error, error);
    check(what, "rip", caught.frame.rip, rip);
}

void expect_nothing(const char *what)
{
    check(what, "vector", caught.happened ? caught.frame.vector : ~0ull, ~0ull);
}
