/* The four functions that the compiler calls for copies and clears it does not inline. */
#include "memory.h"

void *memcpy(void *to, const void *from, size_t length)
{
    void *result = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(length) : : "memory");
    return result;
}

void *memmove(void *to, const void *from, size_t length)
{
    if ((u64)to - (u64)from >= length)          /* no byte is overwritten before it is read */
        return memcpy(to, from, length);
    u8 *last_to = (u8 *)to + length - 1;
    const u8 *last_from = (const u8 *)from + length - 1;
    __asm__ volatile("std\n\trep movsb\n\tcld"
                     : "+D"(last_to), "+S"(last_from), "+c"(length) : : "memory");
    return to;
}

void *memset(void *to, int value, size_t length)
{
    void *result = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(length) : "a"(value) : "memory");
    return result;
}

int memcmp(const void *left, const void *right, size_t length)
{
    const u8 *a = left, *b = right;
    for (; length; length--, a++, b++)
        if (*a != *b)
            return *a - *b;
    return 0;
}
