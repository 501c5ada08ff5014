#ifndef TSC_H
#define TSC_H

#include "cpu.h"

/* Ticks per second of the time stamp counter, measured against the PIT; 0 if that stands still. */
u64 tsc_calibrate(void);

#endif
