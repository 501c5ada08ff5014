/* Integer names of the length they have; all of it fits the freestanding part of C11. */
#ifndef TYPES_H
#define TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

#endif
