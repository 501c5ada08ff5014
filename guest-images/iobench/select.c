/* Hoare's selection. Source: C. A. R. Hoare, "Algorithm 65: Find", CACM 4 (7), 1961. */
#include "select.h"

u64 select_rank(u64 *values, u64 count, u64 rank)
{
    u64 left = 0, right = count - 1;
    while (left < right) {
        u64 pivot = values[rank], i = left, j = right;
        for (;;) {
            while (values[i] < pivot)
                i++;
            while (pivot < values[j])
                j--;
            if (i <= j) {
                u64 swapped = values[i];
                values[i++] = values[j];
                values[j] = swapped;
                if (!j)
                    break;
                j--;
            }
            if (i > j)
                break;
        }
        if (j < rank)
            left = i;
        if (rank < i)
            right = j;
    }
    return values[rank];
}
