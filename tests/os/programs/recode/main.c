/* recode FILE PAGES ROUNDS SEED: run code from random pages of a file, always at the same two addresses, and drop
 * the file from the page cache now and then. So the machine's pages hold now this code, now that, and only the
 * disk has written it. Page n of the file gives n: at byte 16; and with the page mapped behind it, a number that
 * is half in this page and half in the other one. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { PAGE = 4096, CODE = 16, CROSSING = PAGE - 3, ROUNDS_A_DROP = 64 };

static uint8_t *const place = (uint8_t *)0x30000000;

static uint32_t run(uint8_t *code)
{
    return ((uint32_t (*)(void))code)();
}

static int map(int fd, uint8_t *at, uint64_t page)
{
    int flags = MAP_PRIVATE | MAP_FIXED;
    return mmap(at, PAGE, PROT_READ | PROT_EXEC, flags, fd, (off_t)(page * PAGE)) == at;
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    uint64_t pages = strtoull(argv[2], 0, 0), rounds = strtoull(argv[3], 0, 0), dice = strtoull(argv[4], 0, 0);
    uint64_t wrong = 0;
    int fd = open(argv[1], O_RDONLY);
    if (fd < 0)
        return 3;
    posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
    for (uint64_t round = 1; round <= rounds; round++) {
        dice = dice * 6364136223846793005u + 1442695040888963407u;
        uint32_t first = (dice >> 33) % pages;
        dice = dice * 6364136223846793005u + 1442695040888963407u;
        uint32_t second = (dice >> 33) % pages;
        if (!map(fd, place, first) || !map(fd, place + PAGE, second))
            return 4;
        wrong += run(place + CODE) != first;
        wrong += run(place + PAGE + CODE) != second;
        wrong += run(place + CROSSING) != ((first & 0xFFFF) | second << 16);
        munmap(place, 2 * PAGE);
        if (round % ROUNDS_A_DROP == 0)
            posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    }
    printf("recode: %llu rounds, %llu wrong\n", (unsigned long long)rounds, (unsigned long long)wrong);
    return wrong != 0;
}
