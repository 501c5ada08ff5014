#include "pattern.h"

#define STEP 0x9E3779B97F4A7C15ull
#define MASK 0xE5C0DE5EEDF00D11ull
#define GENERATION 0xD1B54A32D192ED03ull

static u64 mask_of(u64 generation)
{
    return MASK ^ generation * GENERATION;
}

u64 pattern_word(u64 word, u64 generation)
{
    return (word + 1) * STEP ^ mask_of(generation);
}

u64 pattern_fill(u64 *data, u64 words, u64 first, u64 generation)
{
    u64 mask = mask_of(generation), value = (first + 1) * STEP, sum = 0;
    for (const u64 *end = data + words; data != end; data += 8) {
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            sum += data[i] = value ^ mask;
            value += STEP;
        }
    }
    return sum;
}

u64 pattern_check(const u64 *data, u64 words, u64 first, u64 generation, bool *wrong)
{
    u64 mask = mask_of(generation), value = (first + 1) * STEP, sum = 0, difference = 0;
    for (const u64 *end = data + words; data != end; data += 8) {
#pragma unroll
        for (u32 i = 0; i < 8; i++) {
            sum += data[i];
            difference |= data[i] ^ mask ^ value;
            value += STEP;
        }
    }
    *wrong = difference != 0;
    return sum;
}
