/* COM1 output. Lines are built of words " key=value", so that a program can read them. */
#ifndef SERIAL_H
#define SERIAL_H

#include "types.h"

void print(const char *text);
void print_text(const char *key, const char *value);
void print_number(const char *key, u64 value);
void print_hex(const char *key, u64 value);         /* 0x and as many digits as needed */

#endif
