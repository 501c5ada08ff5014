#include "check.h"

#include "../common/serial.h"

enum { MOST_LINES = 8 };

static const char *name;
static u32 wrong;
static bool skipped;

static void print_name(const char *result)
{
    print("faults:");
    print_text("name", name);
    print_text("result", result);
}

void check_begin(const char *sub_test)
{
    name = sub_test;
    wrong = 0;
    skipped = false;
}

enum check_result check_end(void)
{
    if (wrong)
        return CHECK_FAIL;
    print_name(skipped ? "skip" : "pass");
    print("\n");
    return skipped ? CHECK_SKIP : CHECK_PASS;
}

void check(const char *what, const char *field, u64 got, u64 want)
{
    if (got == want || wrong++ >= MOST_LINES)
        return;
    print_name("fail");
    print_text("what", what);
    print(".");
    print(field);
    print_hex("got", got);
    print_hex("want", want);
    print("\n");
}

void check_true(const char *what, const char *field, bool right)
{
    check(what, field, right, 1);
}

void check_skip(void)
{
    skipped = true;
}
