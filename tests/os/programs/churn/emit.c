/* Small x86-64 functions of one 32-bit argument, whose results are known. */
#include "churn.h"

#include <string.h>

enum { ADD, LEA, MULTIPLY, LOOP, BRANCH, KINDS };

void draw(struct made *made, u64 *seed, u32 at)
{
    u32 drawn = next(seed);

    made->at = at;
    made->kind = drawn % KINDS;
    made->pad = drawn >> 8 & 15;
    made->a = next(seed);
    made->b = next(seed);
}

static size_t put(byte *code, size_t at, const char *bytes, size_t length)
{
    memcpy(code + at, bytes, length);
    return at + length;
}

static size_t put32(byte *code, size_t at, u32 value)
{
    memcpy(code + at, &value, 4);
    return at + 4;
}

/* Writes at most MOST_CODE bytes; returns how many. */
size_t emit(byte *code, const struct made *made)
{
    size_t n = made->pad;

    memset(code, 0x90, n);
    switch (made->kind) {
    case ADD:
        n = put32(code, put(code, n, "\xb8", 1), made->a);              /* mov eax, a */
        n = put(code, n, "\x01\xf8", 2);                                /* add eax, edi */
        break;
    case LEA:
        n = put32(code, put(code, n, "\x8d\x87", 2), made->a);          /* lea eax, [rdi + a] */
        break;
    case MULTIPLY:
        n = put32(code, put(code, n, "\x69\xc7", 2), made->a);          /* imul eax, edi, a */
        n = put32(code, put(code, n, "\x35", 1), made->b);              /* xor eax, b */
        break;
    case LOOP:
        n = put32(code, put(code, n, "\xb8", 1), made->a);              /* mov eax, a */
        n = put32(code, put(code, n, "\xb9", 1), 1 + made->b % 13);     /* mov ecx, 1 + b % 13 */
        n = put(code, n, "\x01\xf8\xff\xc9\x75\xfa", 6);                /* l: add eax, edi; dec ecx; jnz l */
        break;
    case BRANCH:
        n = put32(code, put(code, n, "\xb8", 1), made->a);              /* mov eax, a */
        n = put(code, n, "\xf7\xc7\x01\x00\x00\x00\x74\x05", 8);        /* test edi, 1; jz over */
        n = put32(code, put(code, n, "\x35", 1), made->b);              /* xor eax, b */
        n = put(code, n, "\xc1\xc0\x03", 3);                            /* over: rol eax, 3 */
        break;
    }
    return put(code, n, "\xc3", 1);
}

size_t immediate(const struct made *made)
{
    return made->pad + (made->kind == LEA || made->kind == MULTIPLY ? 2 : 1);
}

u32 result(const struct made *made, u32 x)
{
    u32 value;

    switch (made->kind) {
    case MULTIPLY:
        return x * made->a ^ made->b;
    case LOOP:
        return made->a + x * (1 + made->b % 13);
    case BRANCH:
        value = x & 1 ? made->a ^ made->b : made->a;
        return value << 3 | value >> 29;
    default:
        return made->a + x;
    }
}

void call_and_check(const byte *base, const struct made *made, u32 x, const char *what)
{
    function *call = (function *)(uintptr_t)(base + made->at);

    expect(result(made, x), call(x), what);
}
