#ifndef SELECT_H
#define SELECT_H

#include "../common/types.h"

/* The element that would stand at `rank` if the values were sorted; moves them about. */
u64 select_rank(u64 *values, u64 count, u64 rank);

#endif
