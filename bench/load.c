/* Load for the benchmark: a TLS client over libssl, one measurement a run.
 *
 *   load PORT handshakes SECONDS CLIENTS    full handshakes by CLIENTS threads, one echoed byte each
 *   load PORT up|down MEGABYTES             one session, data one way
 *   load PORT echo COUNT SIZE               one session, COUNT round trips of SIZE bytes
 *   load PORT idle SESSIONS                 open sessions, echo a byte in each, print "open", wait for EOF on stdin
 *
 * The backend (backend.c) does what the first byte of a session says.  Prints one line: rate p50_us p99_us
 * Environment: LOAD_PEM, a file with a chain and its key, is shown to servers that ask; LOAD_PLAIN=1 speaks no TLS, to
 * something that does.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int port;
static SSL_CTX *context;
static int plain;
static double until;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void fail(const char *what)
{
    fprintf(stderr, "load: %s\n", what);
    exit(1);
}

static SSL *session(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to)) fail("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    SSL *ssl = SSL_new(context);
    SSL_set_fd(ssl, fd);
    if (plain) return ssl;
    SSL_set_tlsext_host_name(ssl, "localhost");
    if (SSL_connect(ssl) != 1) fail("handshake");
    return ssl;
}

static void end(SSL *ssl)
{
    if (!plain) SSL_shutdown(ssl);
    close(SSL_get_fd(ssl));
    SSL_free(ssl);
}

static void put(SSL *ssl, const void *data, int size)
{
    if ((plain ? (int)write(SSL_get_fd(ssl), data, (size_t)size) : SSL_write(ssl, data, size)) != size) fail("write");
}

static void get(SSL *ssl, char *data, int size)
{
    for (int have = 0; have < size;) {
        char *at = data + have;
        int got = plain ? (int)read(SSL_get_fd(ssl), at, (size_t)(size - have)) : SSL_read(ssl, at, size - have);
        if (got <= 0) fail("read");
        have += got;
    }
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(double rate, double *times, size_t count)
{
    qsort(times, count, sizeof *times, ascending);
    printf("%.1f %.1f %.1f\n", rate, count ? times[count / 2] * 1e6 : 0, count ? times[count * 99 / 100] * 1e6 : 0);
}

struct tally {
    double *times;
    size_t count, room;
};

static void *shaker(void *arg)
{
    struct tally *tally = arg;
    char byte;
    while (now() < until && tally->count < tally->room) {
        double begun = now();
        SSL *ssl = session();
        put(ssl, "Ex", 2);
        get(ssl, &byte, 1);
        tally->times[tally->count++] = now() - begun;
        end(ssl);
    }
    return NULL;
}

static void handshakes(double seconds, int clients)
{
    enum { ROOM = 200000 };
    pthread_t *threads = calloc((size_t)clients, sizeof *threads);
    struct tally *tallies = calloc((size_t)clients, sizeof *tallies);
    double begun = now();
    until = begun + seconds;
    for (int i = 0; i < clients; i++) {
        tallies[i].times = calloc(ROOM, sizeof(double));
        tallies[i].room = ROOM;
        pthread_create(&threads[i], NULL, shaker, &tallies[i]);
    }
    size_t total = 0;
    for (int i = 0; i < clients; i++) {
        pthread_join(threads[i], NULL);
        total += tallies[i].count;
    }
    double spent = now() - begun, *all = calloc(total + 1, sizeof *all);
    size_t at = 0;
    for (int i = 0; i < clients; i++)
        for (size_t j = 0; j < tallies[i].count; j++) all[at++] = tallies[i].times[j];
    report((double)total / spent, all, total);
}

static void bulk(int up, long megabytes)
{
    static char block[262144];
    SSL *ssl = session();
    long blocks = megabytes * 1000000L / (long)sizeof block + 1, total = blocks * (long)sizeof block;
    uint64_t announced = (uint64_t)total;
    put(ssl, up ? "U" : "D", 1);
    double begun = now();
    if (up) {
        put(ssl, &announced, sizeof announced);
        for (long i = 0; i < blocks; i++) put(ssl, block, sizeof block);
        get(ssl, block, 1);
    } else {
        for (long have = 0; have < total;) {
            int got = SSL_read(ssl, block, sizeof block);
            if (got <= 0) fail("read");
            have += got;
        }
    }
    double spent = now() - begun;
    report((double)total / 1e6 / spent, NULL, 0);
    close(SSL_get_fd(ssl));
}

static void echo(long count, int size)
{
    char *data = calloc(1, (size_t)size);
    double *times = calloc((size_t)count, sizeof *times);
    SSL *ssl = session();
    put(ssl, "E", 1);
    double begun = now();
    for (long i = 0; i < count; i++) {
        double start = now();
        put(ssl, data, size);
        get(ssl, data, size);
        times[i] = now() - start;
    }
    report((double)count / (now() - begun), times, (size_t)count);
    end(ssl);
}

static void idle(int sessions)
{
    char byte;
    for (int i = 0; i < sessions; i++) {
        SSL *ssl = session();
        put(ssl, "Ex", 2);
        get(ssl, &byte, 1);
    }
    puts("open");
    fflush(stdout);
    while (read(0, &byte, 1) > 0) {
    }
}

int main(int argc, char **argv)
{
    if (argc < 4) fail("usage: load PORT KIND NUMBER [NUMBER]");
    port = atoi(argv[1]);
    context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    plain = getenv("LOAD_PLAIN") != NULL;
    const char *pem = getenv("LOAD_PEM");
    if (pem && (SSL_CTX_use_certificate_chain_file(context, pem) != 1
                || SSL_CTX_use_PrivateKey_file(context, pem, SSL_FILETYPE_PEM) != 1))
        fail("LOAD_PEM");
    if (!strcmp(argv[2], "handshakes") && argc == 5) handshakes(atof(argv[3]), atoi(argv[4]));
    else if (!strcmp(argv[2], "up")) bulk(1, atol(argv[3]));
    else if (!strcmp(argv[2], "down")) bulk(0, atol(argv[3]));
    else if (!strcmp(argv[2], "echo") && argc == 5) echo(atol(argv[3]), atoi(argv[4]));
    else if (!strcmp(argv[2], "idle")) idle(atoi(argv[3]));
    else fail("unknown measurement");
    return 0;
}
