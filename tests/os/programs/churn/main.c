/* churn WHAT SEED ROUNDS: prints one line with a checksum; status 1 and another line where a result is wrong. */
#include "churn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

u64 checksum = 0x9E3779B97F4A7C15;
static const char *mode;
static int sums[2] = {-1, -1};      /* a pipe: what children computed */

u32 next(u64 *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return (u32)(*state * 0x2545F4914F6CDD1D >> 32);
}

void add(u64 value)
{
    checksum = (checksum << 7 | checksum >> 57) * 0xD1B54A32D192ED03 + value;
}

void must(int good, const char *what)
{
    if (good)
        return;
    char line[200];
    int length = snprintf(line, sizeof line, "churn: %s: %s failed\n", mode, what);
    write(1, line, (size_t)length);
    _exit(1);
}

void expect(u64 want, u64 got, const char *what)
{
    add(got);
    if (want == got)
        return;
    char line[200];
    int length = snprintf(line, sizeof line, "churn: %s: %s: want %#llx, got %#llx\n", mode, what,
                          (unsigned long long)want, (unsigned long long)got);
    write(1, line, (size_t)length);
    _exit(1);
}

int child(void)
{
    if (sums[0] < 0)
        must(!pipe(sums), "pipe");
    int pid = fork();
    must(pid >= 0, "fork");
    return pid;
}

void leave(void)
{
    must(write(sums[1], &checksum, sizeof checksum) == sizeof checksum, "write");
    _exit(0);
}

u64 finish_children(int count)
{
    u64 sum = 0, one;
    int status;

    for (int i = 0; i < count; i++) {
        must(wait(&status) > 0, "wait");
        must(status == 0, "a child");
        must(read(sums[0], &one, sizeof one) == sizeof one, "read");
        sum += one;
    }
    return sum;
}

static const struct {
    const char *name;
    void (*run)(u64 seed, u32 rounds);
} modes[] = {
    {"two-mappings", two_mappings}, {"two-threads", two_threads}, {"own-code", own_code}, {"protection", protection},
    {"recycled", recycled},         {"signals", signals},         {"floats", floats},
};

int main(int count, char **words)
{
    if (count == 4)
        for (size_t i = 0; i < sizeof modes / sizeof *modes; i++)
            if (!strcmp(words[1], modes[i].name)) {
                mode = words[1];
                u64 seed = strtoull(words[2], 0, 0) * 0x9E3779B97F4A7C15 + 1;
                modes[i].run(seed, (u32)strtoul(words[3], 0, 0));
                printf("churn: %s %s %s: %016llx\n", mode, words[2], words[3], (unsigned long long)checksum);
                return 0;
            }
    printf("usage: churn WHAT SEED ROUNDS\n");
    return 2;
}
