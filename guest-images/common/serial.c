/* 16550 transmitter, polled. Source: TI PC16550D datasheet, register summary. */
#include "serial.h"

#include "cpu.h"

enum { THR = 0x3F8, LSR = 0x3F8 + 5, LSR_THRE = 0x20 };

void print(const char *text)
{
    for (; *text; text++) {
        while (!(in8(LSR) & LSR_THRE))
            ;
        out8(THR, (u8)*text);
    }
}

static void print_key(const char *key)
{
    print(" ");
    print(key);
    print("=");
}

static void print_in_base(u64 value, u64 base)
{
    char digits[21];
    char *at = digits + sizeof(digits) - 1;
    *at = 0;
    do
        *--at = "0123456789abcdef"[value % base];
    while (value /= base);
    print(at);
}

void print_text(const char *key, const char *value)
{
    print_key(key);
    print(value);
}

void print_number(const char *key, u64 value)
{
    print_key(key);
    print_in_base(value, 10);
}

void print_hex(const char *key, u64 value)
{
    print_key(key);
    print("0x");
    print_in_base(value, 16);
}
