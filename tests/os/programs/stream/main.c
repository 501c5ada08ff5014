/* stream get ADDRESS PORT: what the other end sends goes to standard output, until it ends.
   stream put ADDRESS PORT [BYTES]: standard input goes to the other end, or BYTES of one block again and again;
   then waits until the other end has closed, too. Status 1 where anything fails. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char block[256 * 1024];

static void must(int good, const char *what)
{
    if (good)
        return;
    perror(what);
    exit(1);
}

static void write_all(int to, const char *from, size_t length)
{
    while (length) {
        ssize_t done = write(to, from, length);
        must(done > 0, "write");
        from += done;
        length -= (size_t)done;
    }
}

static void copy(int from, int to)
{
    ssize_t length;

    while ((length = read(from, block, sizeof block)) > 0)
        write_all(to, block, (size_t)length);
    must(!length, "read");
}

int main(int count, char **words)
{
    must(count >= 4, "stream get|put ADDRESS PORT [BYTES]");
    struct sockaddr_in far = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(words[3]))};
    must(inet_pton(AF_INET, words[2], &far.sin_addr) == 1, words[2]);
    int line = socket(AF_INET, SOCK_STREAM, 0);
    must(line >= 0, "socket");
    must(!connect(line, (struct sockaddr *)&far, sizeof far), "connect");
    if (!strcmp(words[1], "get")) {
        copy(line, 1);
        return 0;
    }
    if (count > 4) {
        memset(block, 0x5A, sizeof block);
        for (long long left = atoll(words[4]); left > 0;) {
            size_t length = left < (long long)sizeof block ? (size_t)left : sizeof block;
            write_all(line, block, length);
            left -= (long long)length;
        }
    } else
        copy(0, line);
    must(!shutdown(line, SHUT_WR), "shutdown");
    must(read(line, block, 1) == 0, "the other end's end");
    return 0;
}
