/* The relay in C, as tlspool_worker/relay_native.py sees it.  The structures stand there too, field by field; the
 * sizes that are given to relay_fits keep one from changing alone.
 *
 *     relay.c          one session: bytes both ways, and their ends
 *     relay_thread.c   the thread, its lock, and what Python may call
 *
 * No OpenSSL is linked: the functions are those of the library that made the SSL objects. */
#ifndef TLSPOOL_RELAY_H
#define TLSPOOL_RELAY_H

#include <stddef.h>
#include <stdint.h>

/* OpenSSL, in the order of relay_native.FUNCTIONS. */
struct relay_openssl {
    int (*ssl_read)(void *ssl, void *data, int size_b);
    int (*ssl_write)(void *ssl, void *data, int size_b);
    int (*ssl_get_error)(void *ssl, int result);
    int (*ssl_shutdown)(void *ssl);
    void (*ssl_set_bio)(void *ssl, void *rbio, void *wbio);
    void *(*bio_new)(void *method);
    const void *(*bio_s_mem)(void);
    void *(*bio_new_mem_buf)(const void *data, int size_b);
    long (*bio_set_mem_eof_return)(void *bio, int value);
    long (*bio_get_mem_data)(void *bio, char **data);
    int (*bio_read)(void *bio, void *data, int size_b);
    int (*bio_write)(void *bio, const void *data, int size_b);
    void (*err_clear_error)(void);
    unsigned long (*err_get_error)(void);
};

/* relay.Flow */
enum relay_flow { FLOWING = 1, ENDING, DONE };

/* tls.OPEN, CLOSED, BROKEN */
enum relay_incoming { OPEN, CLOSED, BROKEN };

/* messages.EndReason; NONE: nothing to tell yet */
enum relay_reason { NONE, CLEAN, TRUNCATED, REMOTE_RESET, REMOTE_ALERT, PLAIN_LOST, ORDERED };

/* What the reason's detail is: relay_native.py has the words. */
enum relay_detail {
    DETAIL_NONE,
    DETAIL_ERRNO,   /* `error` says it */
    DETAIL_OPENSSL, /* `queue` says it */
    DETAIL_NO_CLOSE_NOTIFY,
    DETAIL_REMOTE_GOES_ON, /* the application is gone, and the remote sends */
    DETAIL_UNREAD          /* the application has closed, and something was on its way to it */
};

enum { RELAY_QUEUE = 8 };

/* All there is to know of a session: what Python gives, takes back, and hears at the end. */
struct relay_state {
    uint64_t session_id;
    void *ssl, *rbio, *wbio;
    unsigned char *to_plain, *to_tls; /* given: copied.  Taken: to be freed by relay_free. */
    uint64_t to_plain_b, to_tls_b;
    uint64_t from_remote_b, to_remote_b;
    uint64_t from_remote_records, to_remote_records; /* of TLS, with data */
    int64_t last_ms;                                 /* of CLOCK_MONOTONIC: when the last data came, either way */
    uint64_t queue[RELAY_QUEUE]; /* OpenSSL's errors, cause first; unused ones are 0 */
    int32_t tls_fd, plain_fd;
    int32_t inward, outward; /* enum relay_flow */
    int32_t incoming;        /* enum relay_incoming */
    int32_t keeps;           /* rbio is a memory BIO that takes copies */
    int32_t packets;         /* plain_fd keeps the borders of packets */
    int32_t plain_gone;
    int32_t was_busy;
    int32_t reason, detail, error;
};

struct relays;
struct session;

/* Whether Python's structures and these are the same. */
int relay_fits(size_t openssl_b, size_t state_b);

/* Start the thread; NULL with errno when that is not possible.  To be called after the last fork. */
struct relays *relay_open(const struct relay_openssl *openssl);

/* A descriptor that is readable when relay_next has something. */
int relay_event_fd(const struct relays *relays);

/* Take over a session: until it is given back by relay_take, relay_end or relay_next nobody else may use its SSL
 * object and descriptors.  plain_fd is the relay's to close; tls_fd stays the caller's.  NULL with errno: not taken,
 * and all is the caller's again. */
struct session *relay_add(struct relays *relays, const struct relay_state *state);

/* Take a session back, as it is; `session` is gone.  Returns 0 if it is over already: then relay_next will tell. */
int relay_take(struct relays *relays, struct session *session, struct relay_state *state);
void relay_free(struct relay_state *state);

/* Tell how a session is, without what it keeps of its data, and leave it where it is.  Returns 0 if it is over already:
 * then relay_next will tell. */
int relay_look(struct relays *relays, struct session *session, struct relay_state *state);

/* End a session, if it is not over already, with close_notify.  `session` is gone. */
void relay_end(struct relays *relays, struct session *session, struct relay_state *state);

/* The next session that is over, or (reason NONE) that wants what only Python can give.  The latter is still to be
 * fetched with relay_take; the former is gone.  Returns the session, as a name only; NULL when there is none. */
const void *relay_next(struct relays *relays, struct relay_state *state);

/* Stop the thread, and let go of all sessions: their plain_fd are closed, nothing more is sent. */
void relay_close(struct relays *relays);

#endif
