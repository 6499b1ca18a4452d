/* What the two parts of the relay share. */
#ifndef TLSPOOL_RELAY_SESSION_H
#define TLSPOOL_RELAY_SESSION_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "relay.h"

enum {
    /* As in tls.py: eight full records a batch, with what TLS adds.  Half of it is slower, and twice as much leaves
     * the processor's cache. */
    CIPHER_B = 8 * (16384 + 64),
    /* A batch's plaintext, a record that was begun before, and a record that SSL_read might want room for. */
    PLAIN_B = CIPHER_B + 2 * 16384,
    BATCH_B = 8 * 16384,
    RECORD_B = 16384,     /* data of a record; a write beyond it is a burst, whose memory is given back */
    SMALL_B = 2048,       /* what comes in smaller batches is copied: one call instead of three */
    PACKET_B = 512,       /* longest packet written to a seqpacket socket */
    PACKETS = 64,         /* packets read from an application at a time */
    UNSENT_B = 256 * 1024 /* ciphertext for a remote that does not read; only its KeyUpdates drive it beyond a batch */
};

/* Bytes that could not be sent yet: from `at` to `end`. */
struct rest {
    unsigned char *data;
    size_t at, end;
};

/* A session.  It is in the list of all, or among the graves; it may be in the queue of what Python is told, too. */
struct session {
    struct relays *relays;
    struct session *next, *before, *next_told;
    uint64_t session_id;
    void *ssl, *rbio, *wbio;
    struct rest to_plain, to_tls;
    uint64_t from_remote_b, to_remote_b, from_remote_records, to_remote_records;
    int64_t last_ms;
    uint64_t queue[RELAY_QUEUE];
    int tls_fd, plain_fd, error;
    unsigned tls_mask, plain_mask;
    enum relay_flow in, out;
    enum relay_incoming incoming;
    enum relay_reason reason;
    enum relay_detail detail;
    bool keeps, packets, plain_gone, was_busy;
    bool wants; /* OpenSSL asks for something that is Python's business */
    bool over;  /* as with `wants`: nothing is watched, and nothing more is done here */
};

/* The thread, and all that it has. */
struct relays {
    struct relay_openssl o;
    pthread_t thread;
    pthread_mutex_t lock; /* over everything below, and all sessions */
    pthread_cond_t turn;  /* Python has had the lock */
    atomic_int waiting;   /* Python wants the lock */
    int epoll_fd, wake_fd, event_fd;
    bool stopping, some_busy;
    struct session *sessions, *told, *graves;
    unsigned grave_count;
    int64_t slim_at_ms, now_ms; /* the latter: of the last batch of events */
    unsigned char *cipher, *plain; /* whoever has the lock uses them, for one session at a time */
};

/* relay.c: what happens to a session.  After any of the first four it may be over. */
void session_begin(struct session *s);
void session_end(struct session *s);
void session_tls_ready(struct session *s, unsigned events);
void session_plain_ready(struct session *s, unsigned events);
void session_unwatch(struct session *s);
void session_close_plain(struct session *s);
void session_slim(struct session *s);
bool rest_add(struct rest *rest, const unsigned char *data, size_t size);
void rest_drop(struct rest *rest);

#endif
