/* What a sub-test found: each wrong value is a line; the first one decides the result. */
#ifndef CHECK_H
#define CHECK_H

#include "../common/types.h"

enum check_result { CHECK_PASS, CHECK_FAIL, CHECK_SKIP };

void check_begin(const char *sub_test);
enum check_result check_end(void);              /* prints "result=pass" or "result=skip" */

void check(const char *what, const char *field, u64 got, u64 want);
void check_true(const char *what, const char *field, bool right);
void check_skip(void);                          /* what it needs is not there */

#endif
