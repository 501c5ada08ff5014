/* Code that is written where it runs, and code that changes itself. */
#include "churn.h"

#include <string.h>
#include <sys/mman.h>

enum { SIZE = 4 * PAGE };

static byte *area;                  /* readable, writable and executable */

/* mov [rip + 1], edi; mov eax, <the bytes just written>; ret: the store changes the next instruction */
static void next_instruction(u64 *seed)
{
    static const byte code[] = {0x89, 0x3D, 1, 0, 0, 0, 0xB8, 0, 0, 0, 0, 0xC3};
    byte *at = area + next(seed) % (SIZE - sizeof code);

    memcpy(at, code, sizeof code);
    for (int i = 0; i < 8; i++) {
        u32 x = next(seed);
        expect(x, ((function *)(uintptr_t)at)(x), "a changed next instruction");
    }
}

/* xor eax, eax; l: add eax, <n>; inc dword [n]; dec edi; jnz l; ret: n counts up in the running loop */
static void own_loop(u64 *seed)
{
    static const byte code[] = {0x31, 0xC0, 0x05, 0, 0, 0, 0, 0xFF, 0x05, 0xF6, 0xFF, 0xFF, 0xFF, 0xFF, 0xCF, 0x75, 0xF1, 0xC3};
    byte *at = area + next(seed) % (SIZE - sizeof code);
    u32 n = next(seed), want;

    memcpy(at, code, sizeof code);
    memcpy(at + 3, &n, 4);
    for (u32 i = 0; i < 4; i++) {
        u32 count = 1 + next(seed) % 50;
        want = 0;
        for (u32 j = 0; j < count; j++)
            want += n++;
        expect(want, ((function *)(uintptr_t)at)(count), "a loop that counts in its code");
    }
}

/* mov rcx, rdx; rep movsb; <overwritten with a function of edi's old value in r8d> */
static void string_move(u64 *seed)
{
    static const byte copy[] = {0x48, 0x89, 0xD1, 0xF3, 0xA4, 0x44, 0x89, 0xC7};    /* ...; mov edi, r8d */
    byte *at = area + next(seed) % (SIZE - sizeof copy - MOST_CODE), source[MOST_CODE];
    struct made made;

    memcpy(at, copy, sizeof copy);
    memset(at + sizeof copy, 0xCC, MOST_CODE);
    for (int i = 0; i < 4; i++) {
        draw(&made, seed, 0);
        u64 length = emit(source, &made);
        u32 x = next(seed), got;
        __asm__ volatile("movl %[x], %%r8d; call *%[at]"
                         : "=a"(got)
                         : [x] "r"(x), [at] "r"(at), "D"(at + sizeof copy), "S"(source), "d"(length)
                         : "rcx", "r8", "memory", "cc");
        expect(result(&made, x), got, "what a string move wrote ahead of itself");
    }
}

/* mov rax, rsp; mov rsp, rdi; push rsi; mov rcx, rsp; mov rsp, rax; jmp rcx: the stack lies in the code */
static void pushed(u64 *seed)
{
    static const byte code[] = {0x48, 0x89, 0xE0, 0x48, 0x89, 0xFC, 0x56, 0x48, 0x89, 0xE1, 0x48, 0x89, 0xC4, 0xFF, 0xE1};
    byte *at = area + next(seed) % (SIZE - 200);

    memcpy(at, code, sizeof code);
    for (int i = 0; i < 8; i++) {
        u32 x = next(seed);
        u64 word = 0xB8 | (u64)x << 8 | (u64)0x9090C3 << 40;        /* mov eax, x; ret */
        u64 place = (u64)(uintptr_t)(at + 40 + next(seed) % 100);
        u32 got = ((u32(*)(u64, u64))(uintptr_t)at)(place, word);
        expect(x, got, "a function that was pushed");
    }
}

/* Operands changed by locked, 16-byte and page-crossing stores. */
static void odd_stores(u64 *seed)
{
    struct made made;
    byte bytes[MOST_CODE] = {0};
    u32 border = PAGE * (1 + next(seed) % 3);

    draw(&made, seed, 0);
    made.at = border - 2 - (u32)immediate(&made);       /* the operand lies over two pages */
    emit(area + made.at, &made);
    for (int i = 0; i < 6; i++) {
        call_and_check(area, &made, next(seed), "a function over two pages");
        u32 more = next(seed);
        byte *operand = area + border - 2;
        if (i & 1)
            __asm__ volatile("lock addl %1, %0" : "+m"(*operand) : "r"(more) : "memory", "cc");
        else
            __asm__ volatile("addl %1, %0" : "+m"(*operand) : "r"(more) : "memory", "cc");
        made.a += more;
    }
    for (int i = 0; i < 6; i++) {
        draw(&made, seed, next(seed) % (SIZE - MOST_CODE));
        emit(bytes, &made);
        for (int j = 0; j < MOST_CODE; j += 16)
            __asm__ volatile("movups %1, %%xmm0; movups %%xmm0, %0"
                             : "=m"(*(byte(*)[16])(area + made.at + j))
                             : "m"(*(const byte(*)[16])(bytes + j))
                             : "xmm0");
        call_and_check(area, &made, next(seed), "a function of 16-byte stores");
    }
}

static void (*const ways[])(u64 *seed) = {next_instruction, own_loop, string_move, pushed, odd_stores};

void own_code(u64 seed, u32 rounds)
{
    area = mmap(0, SIZE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(area != MAP_FAILED, "mmap");
    for (u32 i = 0; i < rounds; i++)
        ways[next(&seed) % (sizeof ways / sizeof *ways)](&seed);
}
