/* The contents of the disk: 64-bit little-endian word w is
 * (w + 1) * 0x9E3779B97F4A7C15 ^ 0xE5C0DE5EEDF00D11 ^ generation * 0xD1B54A32D192ED03. */
#ifndef PATTERN_H
#define PATTERN_H

#include "../common/types.h"

u64 pattern_word(u64 word, u64 generation);

/* `words` is a multiple of 8, `first` the number of the first one. Both return the sum of the words. */
u64 pattern_fill(u64 *data, u64 words, u64 first, u64 generation);
u64 pattern_check(const u64 *data, u64 words, u64 first, u64 generation, bool *wrong);

#endif
