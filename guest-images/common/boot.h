/* What the loader tells: the command line and the RAM above the image. */
#ifndef BOOT_H
#define BOOT_H

#include "types.h"

/* Each image defines it. The interrupt table is set up, interrupts are off. */
void guest_main(void);

/* Words "key=value" of the command line. The text ends at the next blank. */
bool option_given(const char *key);
u64 option_number(const char *key, u64 otherwise);              /* decimal, or hex after 0x */
bool option_is(const char *key, const char *value);             /* false if not given */
bool option_lists(const char *key, const char *value);          /* one of a comma list */

/* Memory that is never given back: cleared, below 4 GiB, aligned. NULL if RAM is short. */
void *allocate(u64 size, u64 alignment);

#endif
