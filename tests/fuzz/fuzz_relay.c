/* Invariant: whatever a remote and an application do, in whatever order, the relay gives the application a beginning of
 * what the remote said and the remote a beginning of what the application said, byte for byte; it counts what it
 * moved, and no record twice; a session that is over has closed its descriptor, freed what it kept, and has a reason; nothing is watched
 * that cannot happen; and no memory is touched that is not its own.
 *
 * TLS is played: a record is its kind, its length, and so many octets, in plaintext.  So every end of a record, and every
 * answer of SSL_read, is in reach of the fuzzer.  Real TLS, threads and time are stress_relay.c's.
 *
 * The input: octet 0 says whether packets have borders; then steps, an octet for what is done and one for how much.
 *
 *     python -m tests.fuzz.long --target c-relay */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "relay_session.h"

#define PROMISE(condition)                                                                                             \
    do {                                                                                                               \
        if (!(condition)) abort();                                                                                     \
    } while (0)

enum { NO_ERROR, ERROR_SSL = 1, WANT_READ = 2, WANT_X509 = 4, ZERO_RETURN = 6 }; /* openssl/ssl.h */
enum { DATA, UPDATE, ALERT, CLOSE, ASKS, KINDS };                               /* kinds of our records */
enum { SAID_B = 1 << 16, STEPS = 100 };

/* --- OpenSSL, played --------------------------------------------------------------------------------------------- */

struct bio {
    unsigned char *data;
    size_t at, end;
    bool borrowed;
};

struct ssl {
    struct bio *rbio, *wbio;
    unsigned char record[2 + 255];
    size_t have;
    int error;
    bool closed, broken, shut;
};

/* Make room for so many octets more, which the caller writes.  The block ends with them, for ASan to see. */
static unsigned char *bio_grow(struct bio *bio, size_t size)
{
    size_t held = bio->end - bio->at;
    unsigned char *grown = malloc(held + size + 1);
    PROMISE(grown && !bio->borrowed);
    if (held) memcpy(grown, bio->data + bio->at, held);
    free(bio->data);
    bio->data = grown;
    bio->end = held + size;
    bio->at = 0;
    return grown + held;
}

static void bio_put(struct bio *bio, const void *data, size_t size)
{
    memcpy(bio_grow(bio, size), data, size);
}

static void bio_free(struct bio *bio)
{
    if (!bio) return;
    if (!bio->borrowed) free(bio->data);
    free(bio);
}

static int bio_read(void *from, void *data, int size_b)
{
    struct bio *bio = from;
    size_t count = bio->end - bio->at;
    if (count > (size_t)size_b) count = (size_t)size_b;
    if (!count) return -1;
    memcpy(data, bio->data + bio->at, count);
    bio->at += count;
    return (int)count;
}

static int bio_write(void *to, const void *data, int size_b)
{
    bio_put(to, data, (size_t)size_b);
    return size_b;
}

static void *bio_new(void *method)
{
    (void)method;
    return calloc(1, sizeof(struct bio));
}

static const void *bio_s_mem(void)
{
    return "memory";
}

static void *bio_new_mem_buf(const void *data, int size_b)
{
    struct bio *bio = bio_new(NULL);
    PROMISE(bio && size_b > 0);
    *bio = (struct bio){.data = (unsigned char *)(uintptr_t)data, .end = (size_t)size_b, .borrowed = true};
    return bio;
}

static long bio_set_mem_eof_return(void *bio, int value)
{
    (void)bio;
    return value == -1;
}

static long bio_get_mem_data(void *from, char **data)
{
    struct bio *bio = from;
    *data = bio->data ? (char *)bio->data + bio->at : NULL;
    return (long)(bio->end - bio->at);
}

static void ssl_set_bio(void *of, void *rbio, void *wbio)
{
    struct ssl *ssl = of;
    if (ssl->rbio != rbio) bio_free(ssl->rbio);
    if (ssl->wbio != wbio) bio_free(ssl->wbio);
    ssl->rbio = rbio;
    ssl->wbio = wbio;
}

static int fails(struct ssl *ssl, int error)
{
    ssl->error = error;
    return -1;
}

static int ssl_read(void *of, void *data, int size_b)
{
    struct ssl *ssl = of;
    PROMISE(size_b >= 16384); /* what a record may need */
    for (;;) {
        size_t wants = ssl->have < 2 ? 2 : 2u + ssl->record[1], size;
        int got;
        if (ssl->closed) return ssl->error = ZERO_RETURN, 0;
        if (ssl->broken) return fails(ssl, ERROR_SSL);
        if (ssl->have < wants) {
            got = bio_read(ssl->rbio, ssl->record + ssl->have, (int)(wants - ssl->have));
            if (got < 0) return fails(ssl, WANT_READ);
            ssl->have += (size_t)got;
            continue;
        }
        ssl->have = 0;
        size = ssl->record[1];
        switch (ssl->record[0] % 16) {
        case UPDATE:
            if (!ssl->shut) bio_put(ssl->wbio, "\x01\x01u", 3);
            break;
        case ALERT:
            ssl->broken = true;
            break;
        case CLOSE:
            ssl->closed = true;
            break;
        case ASKS:
            return fails(ssl, WANT_X509);
        default:
            if (!size) break;
            memcpy(data, ssl->record + 2, size);
            return (int)size;
        }
    }
}

static int ssl_write(void *of, void *data, int size_b)
{
    struct ssl *ssl = of;
    PROMISE(!ssl->shut);
    if (ssl->broken) return fails(ssl, ERROR_SSL);
    size_t left = (size_t)size_b;
    unsigned char *record = bio_grow(ssl->wbio, left + (left + 254) / 255 * 2);
    for (const unsigned char *from = data; left;) {
        size_t size = left < 255 ? left : 255;
        record[0] = DATA;
        record[1] = (unsigned char)size;
        memcpy(record + 2, from, size);
        record += 2 + size;
        from += size;
        left -= size;
    }
    return size_b;
}

static int ssl_get_error(void *of, int result)
{
    (void)result;
    return ((struct ssl *)of)->error;
}

static int ssl_shutdown(void *of)
{
    struct ssl *ssl = of;
    if (!ssl->shut) bio_put(ssl->wbio, "\x03", 2); /* with its NUL: a record of nothing */
    ssl->shut = true;
    return 0;
}

static void err_clear_error(void)
{
}

static unsigned long err_get_error(void)
{
    return 0;
}

static const struct relay_openssl OPENSSL = {
    ssl_read, ssl_write, ssl_get_error, ssl_shutdown, ssl_set_bio, bio_new, bio_s_mem, bio_new_mem_buf,
    bio_set_mem_eof_return, bio_get_mem_data, bio_read, bio_write, err_clear_error, err_get_error,
};

/* --- the two ends -------------------------------------------------------------------------------------------------- */

struct end { /* what went one way: said, and heard at the other end */
    unsigned char said[SAID_B];
    size_t said_b, heard_b, records;
};

static struct relays relays;
static struct end from_remote, to_remote;
static unsigned char heard[2 + 255]; /* a record that the remote has not heard all of */
static size_t heard_have;

static void hear(struct end *end, const unsigned char *data, size_t size)
{
    PROMISE(size <= end->said_b - end->heard_b);
    PROMISE(!memcmp(end->said + end->heard_b, data, size));
    end->heard_b += size;
}

/* What is said: each octet another one than its neighbours, and none of the fuzzer's business. */
__attribute__((no_sanitize("coverage"), noinline)) static void fill(unsigned char *data, size_t size, size_t first,
                                                                    unsigned step)
{
    for (size_t at = 0; at < size; at++) data[at] = (unsigned char)(first + at * step);
}

/* The next two return whether all of it was said. */
static bool remote_says(int fd, unsigned kind, size_t size)
{
    unsigned char record[2 + 255] = {(unsigned char)kind, (unsigned char)size};
    fill(record + 2, size, from_remote.said_b, 7);
    if (kind % 16 == DATA || kind % 16 >= KINDS) {
        if (from_remote.said_b + size > SAID_B) return false;
        memcpy(from_remote.said + from_remote.said_b, record + 2, size);
        if (send(fd, record, 2 + size, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)(2 + size)) return false;
        from_remote.said_b += size;
        from_remote.records += size > 0;
        return true;
    }
    return send(fd, record, 2 + size, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)(2 + size);
}

static void remote_hears(int fd)
{
    for (;;) {
        size_t wants = heard_have < 2 ? 2 : 2u + heard[1];
        ssize_t got;
        if (heard_have == wants) {
            if (heard[0] == DATA) hear(&to_remote, heard + 2, heard[1]);
            heard_have = 0;
            continue;
        }
        got = recv(fd, heard + heard_have, wants - heard_have, MSG_DONTWAIT);
        if (got <= 0) return;
        heard_have += (size_t)got;
    }
}

static bool app_says(int fd, size_t size)
{
    unsigned char data[512];
    ssize_t sent;
    if (size > sizeof data || to_remote.said_b + size > SAID_B) return false;
    fill(data, size, to_remote.said_b, 5);
    sent = send(fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent <= 0) return false;
    memcpy(to_remote.said + to_remote.said_b, data, (size_t)sent);
    to_remote.said_b += (size_t)sent;
    return (size_t)sent == size;
}

static void app_hears(int fd, size_t most)
{
    unsigned char data[4096];
    ssize_t got = recv(fd, data, most < 512 ? 512 : most, MSG_DONTWAIT);
    if (got > 0) hear(&from_remote, data, (size_t)got);
}

static void look_at(const struct session *s)
{
    PROMISE(s->from_remote_b <= from_remote.said_b && s->to_remote_b <= to_remote.said_b);
    PROMISE(s->from_remote_b >= from_remote.heard_b && s->to_remote_b >= to_remote.heard_b);
    PROMISE(s->from_remote_records <= from_remote.records && s->to_remote_records <= s->to_remote_b);
    PROMISE((s->from_remote_b > 0) == (s->from_remote_records > 0));
    PROMISE((s->to_remote_b > 0) == (s->to_remote_records > 0));
    PROMISE(s->to_tls.at <= s->to_tls.end && s->to_plain.at <= s->to_plain.end);
    if (!s->over) return;
    PROMISE(s->plain_fd == -1 && s->reason != NONE);
    PROMISE(!s->to_tls.data && !s->to_plain.data);
    PROMISE(!s->tls_mask && !s->plain_mask);
}

/* --- an input ------------------------------------------------------------------------------------------------------ */

static bool begin(void)
{
    static bool begun;
    if (begun) return true;
    relays.o = OPENSSL;
    relays.cipher = malloc(CIPHER_B);
    relays.plain = malloc(PLAIN_B);
    relays.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    return begun = relays.cipher && relays.plain && relays.epoll_fd >= 0;
}

static unsigned ready(int fd, unsigned mask)
{
    struct pollfd one = {.fd = fd, .events = (short)mask};
    return mask && poll(&one, 1, 0) > 0 ? (unsigned)one.revents : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int tls[2], plain[2], small = 4608;
    struct ssl ssl = {0};
    struct session s = {.relays = &relays, .in = FLOWING, .out = FLOWING};
    bool over = false;
    if (!size || !begin()) return 0;
    from_remote.said_b = from_remote.heard_b = to_remote.said_b = to_remote.heard_b = heard_have = 0;
    from_remote.records = 0;
    s.packets = data[0] & 1;
    s.tls_fd = s.plain_fd = -1;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, tls)) return 0;
    PROMISE(!socketpair(AF_UNIX, (s.packets ? SOCK_SEQPACKET : SOCK_STREAM) | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, plain));
    setsockopt(tls[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small); /* so that they fill up */
    setsockopt(plain[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    ssl.rbio = bio_new(NULL);
    ssl.wbio = bio_new(NULL);
    PROMISE(ssl.rbio && ssl.wbio);
    s.ssl = &ssl;
    s.rbio = ssl.rbio;
    s.wbio = ssl.wbio;
    s.keeps = true;
    s.tls_fd = tls[0];
    s.plain_fd = plain[0];
    session_begin(&s);
    for (size_t at = 1; at + 2 <= size && at < 2 * STEPS && !over; at += 2) {
        unsigned how_much = data[at + 1];
        switch (data[at] % 16) {
        case 0: /* fall through */
        case 1:
            if (tls[1] >= 0) remote_says(tls[1], data[at] >> 4, how_much);
            break;
        case 2:
            for (unsigned n = 0; n < how_much && tls[1] >= 0 && remote_says(tls[1], DATA, 255); n++) continue;
            break;
        case 3:
            if (plain[1] >= 0) app_says(plain[1], how_much * 2);
            break;
        case 4:
            for (unsigned n = 0; n < how_much && plain[1] >= 0 && app_says(plain[1], 512); n++) continue;
            break;
        case 5:
            if (plain[1] >= 0) app_hears(plain[1], how_much * 16);
            break;
        case 6:
            if (tls[1] >= 0) remote_hears(tls[1]);
            break;
        case 7:
            if (tls[1] >= 0) shutdown(tls[1], how_much & 1 ? SHUT_WR : SHUT_RDWR);
            break;
        case 8:
            if (plain[1] >= 0) shutdown(plain[1], how_much & 1 ? SHUT_WR : SHUT_RDWR);
            break;
        case 9:
            if (plain[1] >= 0 && how_much > 200) close(plain[1]), plain[1] = -1;
            break;
        case 10:
            if (tls[1] >= 0 && how_much > 200) close(tls[1]), tls[1] = -1;
            break;
        case 11:
            session_slim(&s);
            break;
        case 12:
            if (how_much > 240) session_end(&s);
            break;
        default: /* what the thread does when epoll has told */
            if (how_much & 1 && s.tls_mask) session_tls_ready(&s, ready(s.tls_fd, s.tls_mask));
            else if (s.plain_mask) session_plain_ready(&s, ready(s.plain_fd, s.plain_mask));
        }
        look_at(&s);
        over = s.over || s.wants; /* then Python has it */
    }
    if (plain[1] >= 0) app_hears(plain[1], 4096);
    if (tls[1] >= 0) remote_hears(tls[1]);
    if (!s.over) session_end(&s);
    look_at(&s);
    bio_free(ssl.rbio);
    bio_free(ssl.wbio);
    close(tls[0]);
    if (tls[1] >= 0) close(tls[1]);
    if (plain[1] >= 0) close(plain[1]);
    return 0;
}
