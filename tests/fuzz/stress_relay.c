/* Invariant: whatever two ends do, and however often a session is taken back and given again, the relay neither loses,
 * changes nor invents a byte, nor miscounts one, or a record; every session comes to an end, and its reason is one that fits what was done to it; no
 * memory is touched that is not the relay's, by no two threads at once.
 *
 * Real TLS of the system's libssl, through the same table of functions.  The main thread is what Python is in a worker;
 * each session has a thread that plays its remote and its application, at random, and compares what arrives.
 *
 *     clang -g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -Itlspool_worker/native \
 *         tests/fuzz/stress_relay.c tlspool_worker/native/relay.c tlspool_worker/native/relay_thread.c \
 *         -lssl -lcrypto -pthread -o stress_relay
 *     ./stress_relay SESSIONS AT_ONCE SEED           and the same with -fsanitize=thread */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "relay_session.h"

#define PROMISE(condition)                                                                                             \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "broken promise, line %d: %s\n", __LINE__, #condition);                                    \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

enum { AT_ONCE_MAX = 64, PATIENCE_MS = 60000, PIECE_B = 50000, SIZE_MAX_B = 600000 };

enum plan {
    ENDS_CLEANLY,
    ENDS_TRUNCATED, /* the remote shuts TCP without close_notify */
    ENDS_RESET,     /* the remote resets at some moment */
    APP_CLOSES,     /* the application closes at some moment */
    SPOILS,         /* the remote sends a record that does not decrypt */
    IS_ORDERED,     /* the main thread ends it at some moment */
    PLANS
};

struct play {
    enum plan plan;
    uint64_t id, chance;
    SSL *remote, *ours;
    int remote_fd, tls_fd, app_fd;
    bool packets;
    struct session *session; /* NULL: not with the relay */
    size_t size[2], sent[2], got[2];
    uint64_t records[2]; /* with data, as the remote's OpenSSL tells: sent and got */
    size_t cut; /* bytes of the remote after which a plan other than the first two comes into effect */
    size_t piece;
    bool ended[2], closed[2]; /* by side: it has ended what it sends; it has seen the other's end */
    pthread_t thread;
    struct relay_state end;
    atomic_bool over, done;
};

enum { REMOTE, APP }; /* sides; what a side sends is numbered by it too */

static struct play plays[AT_ONCE_MAX];
static SSL_CTX *server_context, *client_context;
static unsigned long tally[PLANS][ORDERED + 1];

/* --- chance, and what is sent ----------------------------------------------------------------------------------- */

static uint64_t next(uint64_t *chance)
{
    *chance ^= *chance << 13; /* xorshift64 */
    *chance ^= *chance >> 7;
    *chance ^= *chance << 17;
    return *chance;
}

static size_t below(uint64_t *chance, size_t limit)
{
    return (size_t)(next(chance) % limit);
}

static unsigned char byte_at(const struct play *p, int side, size_t at)
{
    return (unsigned char)((at * 7 + at / 251 + p->id * 13 + (size_t)side) & 0xFF);
}

static void fill(const struct play *p, int side, unsigned char *data, size_t size)
{
    for (size_t i = 0; i < size; i++) data[i] = byte_at(p, side, p->sent[side] + i);
}

static void compare(struct play *p, int side, const unsigned char *data, size_t size)
{
    for (size_t i = 0; i < size; i++) PROMISE(data[i] == byte_at(p, side, p->got[side] + i));
    p->got[side] += size;
    PROMISE(p->got[side] <= p->sent[side]);
}

/* --- the two ends of a session ----------------------------------------------------------------------------------- */

static bool later(void)
{
    return errno == EAGAIN || errno == EINTR;
}

static void end_remote(struct play *p, bool reset)
{
    struct linger at_once = {1, 0};
    if (reset) setsockopt(p->remote_fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    close(p->remote_fd);
    p->remote_fd = -1;
    p->ended[REMOTE] = p->closed[REMOTE] = true;
}

static void end_app(struct play *p)
{
    close(p->app_fd);
    p->app_fd = -1;
    p->ended[APP] = p->closed[APP] = true;
}

static void remote_sends(struct play *p)
{
    static const unsigned char junk[37] = {23, 3, 3, 0, 32};
    unsigned char data[PIECE_B];
    size_t left = p->size[REMOTE] - p->sent[REMOTE];
    int done;
    if (p->ended[REMOTE]) return;
    if (p->plan != ENDS_CLEANLY && p->plan != ENDS_TRUNCATED && p->sent[REMOTE] >= p->cut && !p->piece) {
        if (p->plan == ENDS_RESET) end_remote(p, true);
        if (p->plan == APP_CLOSES && p->app_fd >= 0) end_app(p);
        if (p->plan == SPOILS && send(p->remote_fd, junk, sizeof junk, MSG_NOSIGNAL) == sizeof junk)
            p->ended[REMOTE] = true;
        if (p->plan == ENDS_RESET || p->plan == SPOILS) return;
    }
    if (!left && !p->piece) {
        if (p->plan != ENDS_TRUNCATED && SSL_shutdown(p->remote) < 0) return; /* not gone out: again later */
        if (p->plan == ENDS_TRUNCATED) shutdown(p->remote_fd, SHUT_WR);
        p->ended[REMOTE] = true;
        return;
    }
    if (!p->piece && !below(&p->chance, 40))
        SSL_key_update(p->remote, below(&p->chance, 2) ? SSL_KEY_UPDATE_REQUESTED : SSL_KEY_UPDATE_NOT_REQUESTED);
    if (!p->piece) p->piece = 1 + below(&p->chance, below(&p->chance, 2) ? 200 : PIECE_B);
    if (p->piece > left) p->piece = left;
    fill(p, REMOTE, data, p->piece);
    ERR_clear_error();
    done = SSL_write(p->remote, data, (int)p->piece);
    if (done > 0) {
        p->sent[REMOTE] += (size_t)done;
        p->piece = 0;
        return;
    }
    done = SSL_get_error(p->remote, done);
    if (done == SSL_ERROR_WANT_READ || done == SSL_ERROR_WANT_WRITE) return;
    PROMISE(p->plan != ENDS_CLEANLY && p->plan != ENDS_TRUNCATED);
    p->ended[REMOTE] = true;
}

static void remote_reads(struct play *p)
{
    unsigned char data[PIECE_B];
    int got;
    if (p->closed[REMOTE]) return;
    ERR_clear_error();
    got = SSL_read(p->remote, data, 1 + (int)below(&p->chance, PIECE_B - 1));
    if (got > 0) {
        compare(p, APP, data, (size_t)got);
        return;
    }
    got = SSL_get_error(p->remote, got);
    if (got == SSL_ERROR_WANT_READ || got == SSL_ERROR_WANT_WRITE) return;
    if (p->plan == ENDS_CLEANLY || p->plan == ENDS_TRUNCATED) {
        PROMISE(got == SSL_ERROR_ZERO_RETURN);
        PROMISE(p->got[APP] == p->size[APP]);
    }
    p->closed[REMOTE] = true;
}

static void app_sends(struct play *p)
{
    unsigned char data[PIECE_B];
    size_t left = p->size[APP] - p->sent[APP], piece = 1 + below(&p->chance, PIECE_B - 1);
    ssize_t sent;
    if (p->ended[APP]) return;
    if (!left) {
        if (p->plan == IS_ORDERED) return;
        shutdown(p->app_fd, SHUT_WR);
        p->ended[APP] = true;
        return;
    }
    if (piece > left) piece = left;
    fill(p, APP, data, piece);
    sent = send(p->app_fd, data, piece, MSG_NOSIGNAL);
    if (sent > 0) {
        p->sent[APP] += (size_t)sent;
    } else if (!later() && errno != ENOBUFS && errno != EMSGSIZE) {
        PROMISE(p->plan != ENDS_CLEANLY && p->plan != ENDS_TRUNCATED);
        p->ended[APP] = true;
    }
}

static void app_reads(struct play *p)
{
    unsigned char data[PIECE_B];
    ssize_t got;
    if (p->closed[APP]) return;
    got = recv(p->app_fd, data, p->packets ? PIECE_B : 1 + below(&p->chance, PIECE_B - 1), 0);
    if (!got && p->packets) got = recv(p->app_fd, data, PIECE_B, 0); /* the end may be told too early, see relay.c */
    if (got > 0) {
        PROMISE(!p->packets || got <= PACKET_B);
        compare(p, REMOTE, data, (size_t)got);
    } else if (!got || !later()) {
        PROMISE(p->plan > ENDS_TRUNCATED || p->got[REMOTE] == p->size[REMOTE]);
        p->closed[APP] = true;
    }
}

static void *player(void *argument)
{
    struct play *p = argument;
    unsigned lazy[2] = {0}; /* turns for which a side does not read */
    while (!p->ended[REMOTE] || !p->closed[REMOTE] || !p->ended[APP] || !p->closed[APP]) {
        struct pollfd ends[2] = {{.fd = p->remote_fd, .events = POLLIN}, {.fd = p->app_fd, .events = POLLIN}};
        if (!p->ended[REMOTE]) ends[0].events |= POLLOUT;
        if (!p->ended[APP]) ends[1].events |= POLLOUT;
        poll(ends, 2, 1); /* a millisecond: who does not read now looks again soon */
        if (below(&p->chance, 2)) remote_sends(p);
        if (below(&p->chance, 2)) app_sends(p);
        if (!below(&p->chance, 100)) lazy[below(&p->chance, 2)] = 50;
        if (lazy[REMOTE]) lazy[REMOTE]--;
        else remote_reads(p);
        if (lazy[APP]) lazy[APP]--;
        else app_reads(p);
        if (p->plan > ENDS_TRUNCATED && p->over) break; /* what has arrived is right; the rest may be lost */
    }
    if (p->remote_fd >= 0) close(p->remote_fd);
    if (p->app_fd >= 0) close(p->app_fd);
    p->done = true;
    return NULL;
}

/* --- what Python is in a worker ---------------------------------------------------------------------------------- */

static long eof_return(void *bio, int value)
{
    return BIO_set_mem_eof_return((BIO *)bio, value);
}

static long mem_data(void *bio, char **data)
{
    return BIO_get_mem_data((BIO *)bio, data);
}

static const struct relay_openssl openssl = {
    .ssl_read = (int (*)(void *, void *, int))SSL_read,
    .ssl_write = (int (*)(void *, void *, int))SSL_write,
    .ssl_get_error = (int (*)(void *, int))SSL_get_error,
    .ssl_shutdown = (int (*)(void *))SSL_shutdown,
    .ssl_set_bio = (void (*)(void *, void *, void *))SSL_set_bio,
    .bio_new = (void *(*)(void *))BIO_new,
    .bio_s_mem = (const void *(*)(void))BIO_s_mem,
    .bio_new_mem_buf = (void *(*)(const void *, int))BIO_new_mem_buf,
    .bio_set_mem_eof_return = eof_return,
    .bio_get_mem_data = mem_data,
    .bio_read = (int (*)(void *, void *, int))BIO_read,
    .bio_write = (int (*)(void *, const void *, int))BIO_write,
    .err_clear_error = ERR_clear_error,
    .err_get_error = ERR_get_error,
};

static void make_contexts(void)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *certificate = X509_new();
    X509_gmtime_adj(X509_getm_notBefore(certificate), 0);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
    X509_set_pubkey(certificate, key);
    X509_sign(certificate, key, EVP_sha256());
    server_context = SSL_CTX_new(TLS_server_method());
    SSL_CTX_use_certificate(server_context, certificate);
    SSL_CTX_use_PrivateKey(server_context, key);
    SSL_CTX_clear_mode(server_context, SSL_MODE_ENABLE_PARTIAL_WRITE);
    SSL_CTX_set_mode(server_context, SSL_MODE_RELEASE_BUFFERS);
    client_context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_mode(client_context, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_ENABLE_PARTIAL_WRITE);
    X509_free(certificate);
    EVP_PKEY_free(key);
}

static void pair(int kind, int fds[2])
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    int listener;
    if (kind) {
        PROMISE(!socketpair(AF_UNIX, kind | SOCK_NONBLOCK, 0, fds));
        return;
    }
    listener = socket(AF_INET, SOCK_STREAM, 0);
    PROMISE(!bind(listener, (struct sockaddr *)&at, sizeof at) && !listen(listener, 1));
    PROMISE(!getsockname(listener, (struct sockaddr *)&at, &size));
    fds[0] = socket(AF_INET, SOCK_STREAM, 0);
    PROMISE(!connect(fds[0], (struct sockaddr *)&at, size));
    fds[1] = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    PROMISE(fds[1] >= 0 && !fcntl(fds[0], F_SETFL, O_NONBLOCK));
    close(listener);
}

/* The remote has made a record, or has got one: TLS 1.3 tells what is inside. */
static void saw(int sends, int version, int what, const void *data, size_t size, SSL *ssl, void *argument)
{
    struct play *p = argument;
    const unsigned char *octets = data;
    (void)version;
    if (what != (SSL_version(ssl) == TLS1_3_VERSION ? SSL3_RT_INNER_CONTENT_TYPE : SSL3_RT_HEADER) || !size) return;
    if (octets[0] == SSL3_RT_APPLICATION_DATA) p->records[sends ? REMOTE : APP]++;
}

/* Shake hands in memory; what is left for the remote stays in the BIOs of both. */
static void shake(struct play *p, BIO *to_ours, BIO *from_ours)
{
    SSL_set_accept_state(p->ours);
    SSL_set_connect_state(p->remote);
    SSL_set_bio(p->ours, to_ours, from_ours);
    BIO_up_ref(to_ours);
    BIO_up_ref(from_ours);
    SSL_set_bio(p->remote, from_ours, to_ours);
    while (!SSL_is_init_finished(p->ours) || !SSL_is_init_finished(p->remote)) {
        SSL_do_handshake(p->remote);
        SSL_do_handshake(p->ours);
    }
}

static void begin(struct relays *r, struct play *p, uint64_t id, uint64_t *chance)
{
    BIO *to_ours = BIO_new(BIO_s_mem()), *from_ours = BIO_new(BIO_s_mem());
    int cipher[2], plain[2], small = 4096;
    struct relay_state state = {0};
    unsigned char unsent[4096];
    memset(p, 0, sizeof *p);
    p->id = id;
    p->chance = next(chance) | 1;
    p->plan = below(chance, 2) ? ENDS_CLEANLY : (enum plan)below(chance, PLANS);
    p->packets = !below(chance, 4);
    for (int side = 0; side < 2; side++) p->size[side] = below(chance, below(chance, 3) ? SIZE_MAX_B : 300);
    p->cut = below(chance, p->size[REMOTE] + 1);
    p->ours = SSL_new(server_context);
    p->remote = SSL_new(client_context);
    if (below(chance, 3) == 0) SSL_set_max_proto_version(p->ours, TLS1_2_VERSION);
    BIO_set_mem_eof_return(to_ours, -1);
    BIO_set_mem_eof_return(from_ours, -1);
    shake(p, to_ours, from_ours);
    pair(below(chance, 2) ? SOCK_STREAM : 0, cipher);
    pair(p->packets ? SOCK_SEQPACKET : below(chance, 2) ? SOCK_STREAM : 0, plain);
    if (below(chance, 2)) setsockopt(plain[1], SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    if (below(chance, 2)) setsockopt(cipher[1], SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    p->remote_fd = cipher[0];
    p->tls_fd = cipher[1];
    p->app_fd = plain[0];
    state.session_id = id;
    state.ssl = p->ours;
    state.rbio = to_ours;
    state.wbio = from_ours;
    state.to_tls_b = (uint64_t)BIO_read(from_ours, unsent, sizeof unsent);
    if ((int64_t)state.to_tls_b < 0) state.to_tls_b = 0;
    state.to_tls = unsent;
    state.tls_fd = p->tls_fd;
    state.plain_fd = plain[1];
    state.inward = state.outward = FLOWING;
    state.packets = p->packets;
    SSL_set_msg_callback(p->remote, saw);
    SSL_set_msg_callback_arg(p->remote, p);
    SSL_set_fd(p->remote, p->remote_fd); /* lets go of the BIOs in memory */
    p->session = relay_add(r, &state);
    PROMISE(p->session);
    PROMISE(!pthread_create(&p->thread, NULL, player, p));
}

/* Hold a session, and let it go on. */
static void hold(struct relays *r, struct play *p)
{
    struct relay_state state;
    if (!p->session || !relay_take(r, p->session, &state)) return;
    PROMISE(state.session_id == p->id && state.ssl == p->ours && state.tls_fd == p->tls_fd);
    PROMISE(state.to_plain_b <= PLAIN_B && state.to_tls_b <= UNSENT_B + 2 * CIPHER_B);
    p->session = relay_add(r, &state);
    PROMISE(p->session);
    relay_free(&state);
}

/* Look at a session, which goes on meanwhile. */
static void look(struct relays *r, struct play *p)
{
    struct relay_state state;
    if (!p->session || !relay_look(r, p->session, &state)) return;
    PROMISE(state.session_id == p->id && state.from_remote_b <= p->size[REMOTE] && state.to_remote_b <= p->size[APP]);
    PROMISE(state.from_remote_records <= state.from_remote_b && state.to_remote_records <= state.to_remote_b);
    PROMISE(!state.to_plain && !state.to_tls);
}

static void ended(struct play *p, const struct relay_state *state)
{
    p->session = NULL;
    p->end = *state;
    close(p->tls_fd);
    p->over = true;
}

static void order_end(struct relays *r, struct play *p)
{
    struct relay_state state;
    if (!p->session) return;
    relay_end(r, p->session, &state);
    ended(p, &state);
}

static void hear(struct relays *r)
{
    struct relay_state state;
    while (relay_next(r, &state)) {
        struct play *p = plays;
        while (p < plays + AT_ONCE_MAX && (p->id != state.session_id || !p->session)) p++;
        PROMISE(p < plays + AT_ONCE_MAX && state.reason != NONE);
        ended(p, &state);
    }
}

static void judge(struct play *p)
{
    const struct relay_state *end = &p->end;
    PROMISE(end->reason >= CLEAN && end->reason <= ORDERED);
    PROMISE(end->from_remote_b <= p->sent[REMOTE] && end->to_remote_b <= p->sent[APP]);
    PROMISE(end->from_remote_records <= p->records[REMOTE] && p->records[APP] <= end->to_remote_records);
    PROMISE(p->got[REMOTE] <= end->from_remote_b && p->got[APP] <= end->to_remote_b);
    PROMISE((end->detail == DETAIL_OPENSSL) == (end->reason == REMOTE_ALERT));
    PROMISE(end->detail != DETAIL_OPENSSL || end->queue[0]);
    switch (p->plan) {
    case ENDS_CLEANLY:
        PROMISE(end->reason == CLEAN);
        PROMISE(end->from_remote_b == p->size[REMOTE] && end->to_remote_b == p->size[APP]);
        PROMISE(end->from_remote_records == p->records[REMOTE] && end->to_remote_records == p->records[APP]);
        break;
    case ENDS_TRUNCATED:
        PROMISE(end->reason == TRUNCATED && end->from_remote_b == p->size[REMOTE]);
        break;
    case ENDS_RESET:
        PROMISE(end->reason == REMOTE_RESET || end->reason == TRUNCATED);
        break;
    case APP_CLOSES:
        PROMISE(end->reason == CLEAN || end->reason == PLAIN_LOST);
        break;
    case SPOILS:
        PROMISE(end->reason == REMOTE_ALERT);
        break;
    default:
        PROMISE(end->reason == ORDERED);
    }
    tally[p->plan][end->reason]++;
}

int main(int argc, char **argv)
{
    unsigned long sessions = argc > 1 ? strtoul(argv[1], NULL, 10) : 500, begun = 0, judged = 0;
    unsigned at_once = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 16;
    uint64_t chance = (argc > 3 ? strtoul(argv[3], NULL, 10) : 1) * 0x9E3779B97F4A7C15U | 1;
    int64_t idle_ms = 0;
    struct relays *r;
    if (at_once > AT_ONCE_MAX) at_once = AT_ONCE_MAX;
    signal(SIGPIPE, SIG_IGN); /* the remotes' own: libssl writes with write(2) */
    make_contexts();
    PROMISE(relay_fits(sizeof openssl, sizeof(struct relay_state)));
    r = relay_open(&openssl);
    PROMISE(r);
    while (judged < sessions) {
        struct pollfd told = {.fd = relay_event_fd(r), .events = POLLIN};
        unsigned long before = judged;
        poll(&told, 1, 1);
        hear(r);
        for (unsigned i = 0; i < at_once; i++) {
            struct play *p = &plays[i];
            if (p->id && p->over && p->done) {
                PROMISE(!pthread_join(p->thread, NULL));
                judge(p);
                SSL_free(p->ours);
                SSL_free(p->remote);
                p->id = 0;
                judged++;
            }
            if (!p->id && begun < sessions) begin(r, p, ++begun, &chance);
        }
        hold(r, &plays[below(&chance, at_once)]);
        look(r, &plays[below(&chance, at_once)]);
        for (unsigned i = 0; i < at_once; i++)
            if (plays[i].plan == IS_ORDERED && !below(&chance, 20)) order_end(r, &plays[i]);
        idle_ms = judged > before ? 0 : idle_ms + 1;
        if (idle_ms > PATIENCE_MS) {
            for (unsigned i = 0; i < at_once; i++)
                if (plays[i].id)
                    fprintf(stderr, "session %lu plan %d sent %zu/%zu %zu/%zu got %zu %zu over %d\n", plays[i].id,
                            plays[i].plan, plays[i].sent[0], plays[i].size[0], plays[i].sent[1], plays[i].size[1],
                            plays[i].got[0], plays[i].got[1], (int)plays[i].over);
            PROMISE(!"all sessions come to an end");
        }
    }
    relay_close(r);
    for (int plan = 0; plan < PLANS; plan++) {
        printf("plan %d:", plan);
        for (int reason = CLEAN; reason <= ORDERED; reason++) printf(" %lu", tally[plan][reason]);
        printf("\n");
    }
    SSL_CTX_free(server_context);
    SSL_CTX_free(client_context);
    return 0;
}
