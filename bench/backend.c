/* The plaintext backend of the benchmark: one thread a session.  Prints its port, runs until stdin ends.
 * The first byte of a session says what to do: E echo, U swallow as many bytes as the
 * next eight (in host order) say and answer one byte, D send for ever.  No half-close: not everybody passes it on. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static void *serve(void *arg)
{
    int fd = (int)(long)arg, one = 1;
    char kind;
    ssize_t got;
    uint64_t left;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (read(fd, &kind, 1) == 1) {
        size_t size = kind == 'E' ? 16384 : 262144;
        char *block = kind == 'E' ? alloca(size) : calloc(1, size);
        if (kind == 'D')
            while (write(fd, block, size) > 0) {
            }
        else if (kind == 'E')
            while ((got = read(fd, block, size)) > 0 && write(fd, block, (size_t)got) == got) {
            }
        else if (recv(fd, &left, sizeof left, MSG_WAITALL) == sizeof left) {
            while (left > 0 && (got = read(fd, block, left < size ? left : size)) > 0) left -= (uint64_t)got;
            if (!left && write(fd, "x", 1) != 1) perror("backend");
        }
        if (kind != 'E') free(block);
    }
    close(fd);
    return NULL;
}

static void *listener(void *arg)
{
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 65536);
    pthread_attr_setdetachstate(&small, PTHREAD_CREATE_DETACHED);
    for (;;) {
        int fd = accept(*(int *)arg, NULL, NULL);
        pthread_t thread;
        if (fd >= 0 && pthread_create(&thread, &small, serve, (void *)(long)fd)) close(fd);
    }
    return NULL;
}

int main(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET};
    socklen_t size = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    char byte;
    pthread_t thread;
    signal(SIGPIPE, SIG_IGN);
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(fd, (struct sockaddr *)&at, sizeof at) || listen(fd, 4096) || getsockname(fd, (struct sockaddr *)&at, &size))
        return 1;
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    pthread_create(&thread, NULL, listener, &fd);
    while (read(0, &byte, 1) > 0) {
    }
    return 0;
}
