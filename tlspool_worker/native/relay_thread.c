/* The relay's thread, and what Python may call.
 *
 * One lock is on everything.  The thread holds it while it handles events, and lets Python have it between two of
 * them: so a call of Python waits for one batch of one session at most, and when it has the lock no SSL object is in
 * use.  That makes each call complete when it returns, with no queue of orders and no answers to wait for.
 *
 * A session that Python has done with may still be among the events that the thread has fetched, so it is buried, and
 * freed at the end of the batch; its descriptors are not watched any more, so that no later batch can name it.
 *
 * The thread never takes the interpreter's lock by itself, and Python's calls are made without it.  A callback of
 * OpenSSL that is written in Python takes it, and finds no thread that holds it and waits for this lock. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "relay_session.h"

#define PUBLIC __attribute__((visibility("default")))

enum {
    EVENTS = 64,        /* taken at once; a batch of each is some 10 ms of work at most */
    GRAVES = 64,        /* with more the thread is woken to free them */
    SLIM_MS = 1000,     /* how often the memory of bursts is given back */
    STACK_B = 1024 * 1024 /* room for a callback into Python; only what is used takes memory */
};

static int64_t now_ms(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* --- the lock --------------------------------------------------------------------------------------------------- */

static void enter(struct relays *r)
{
    atomic_fetch_add(&r->waiting, 1);
    pthread_mutex_lock(&r->lock);
    atomic_fetch_sub(&r->waiting, 1);
}

static void leave(struct relays *r)
{
    pthread_cond_signal(&r->turn);
    pthread_mutex_unlock(&r->lock);
}

/* A mutex is not fair: a thread that lets it go and takes it again at once would keep all others waiting. */
static void give_way(struct relays *r)
{
    while (atomic_load(&r->waiting)) pthread_cond_wait(&r->turn, &r->lock);
}

static void wake(int fd)
{
    const uint64_t one = 1;
    while (write(fd, &one, sizeof one) < 0 && errno == EINTR) {}
}

static void calm(int fd)
{
    uint64_t count;
    while (read(fd, &count, sizeof count) < 0 && errno == EINTR) {}
}

/* --- sessions --------------------------------------------------------------------------------------------------- */

/* Let Python know of a session that is over, or wants something. */
static void tell(struct session *s)
{
    struct session **end = &s->relays->told;
    if (!*end) wake(s->relays->event_fd);
    while (*end) end = &(*end)->next_told;
    *end = s;
}

static void untell(struct session *s)
{
    struct session **at = &s->relays->told;
    while (*at && *at != s) at = &(*at)->next_told;
    if (*at) *at = s->next_told;
    s->next_told = NULL;
}

static void bury(struct session *s)
{
    struct relays *r = s->relays;
    untell(s);
    s->over = true;
    if (s->before) s->before->next = s->next;
    else r->sessions = s->next;
    if (s->next) s->next->before = s->before;
    s->next = r->graves;
    r->graves = s;
    if (++r->grave_count >= GRAVES) wake(r->wake_fd);
}

static void free_graves(struct relays *r)
{
    while (r->graves) {
        struct session *s = r->graves;
        r->graves = s->next;
        free(s);
    }
    r->grave_count = 0;
}

static unsigned char *take_rest(struct rest *rest, uint64_t *size)
{
    unsigned char *data = rest->data;
    *size = rest->end - rest->at;
    if (rest->at) memmove(data, data + rest->at, *size);
    *rest = (struct rest){0};
    return data;
}

static void describe(const struct session *s, struct relay_state *state)
{
    *state = (struct relay_state){
        .session_id = s->session_id,
        .ssl = s->ssl,
        .rbio = s->rbio,
        .wbio = s->wbio,
        .from_remote_b = s->from_remote_b,
        .to_remote_b = s->to_remote_b,
        .from_remote_records = s->from_remote_records,
        .to_remote_records = s->to_remote_records,
        .last_ms = s->last_ms,
        .tls_fd = s->tls_fd,
        .plain_fd = s->plain_fd,
        .inward = s->in,
        .outward = s->out,
        .incoming = s->incoming,
        .keeps = s->keeps,
        .packets = s->packets,
        .plain_gone = s->plain_gone,
        .was_busy = s->was_busy,
        .reason = s->reason,
        .detail = s->detail,
        .error = s->error,
    };
    memcpy(state->queue, s->queue, sizeof state->queue);
}

/* --- the thread ------------------------------------------------------------------------------------------------- */

static void slim_all(struct relays *r)
{
    r->some_busy = false;
    for (struct session *s = r->sessions; s; s = s->next) {
        if (s->was_busy && !s->over && !s->wants) session_slim(s);
        r->some_busy |= s->was_busy && !s->over && !s->wants;
    }
}

static void handle(struct relays *r, const struct epoll_event *event)
{
    uint64_t name = event->data.u64;
    struct session *s = (struct session *)(uintptr_t)(name & ~(uint64_t)1);
    if (!s) {
        calm(r->wake_fd);
        return;
    }
    if (s->over || s->wants) return;
    if (name & 1) session_plain_ready(s, event->events);
    else session_tls_ready(s, event->events);
    if (s->over || s->wants) tell(s);
}

static void *serve(void *argument)
{
    struct relays *r = argument;
    struct epoll_event events[EVENTS];
    int wait_ms = -1;
    bool stopping;
    do {
        int count = epoll_wait(r->epoll_fd, events, EVENTS, wait_ms);
        pthread_mutex_lock(&r->lock);
        r->now_ms = now_ms(CLOCK_MONOTONIC_COARSE); /* some ms are nothing to when data last came: it is the cheap one */
        for (int i = 0; i < count; i++) {
            give_way(r);
            handle(r, &events[i]);
        }
        free_graves(r);
        wait_ms = -1;
        if (r->some_busy) {
            int64_t now = now_ms(CLOCK_MONOTONIC);
            if (now >= r->slim_at_ms) {
                if (r->slim_at_ms) slim_all(r);
                r->slim_at_ms = now + SLIM_MS;
            }
            wait_ms = (int)(r->slim_at_ms - now);
        }
        if (!r->some_busy) {
            wait_ms = -1;
            r->slim_at_ms = 0;
        }
        stopping = r->stopping;
        pthread_mutex_unlock(&r->lock);
    } while (!stopping);
    return NULL;
}

static int start(struct relays *r)
{
    sigset_t all, before;
    pthread_attr_t how;
    int error;
    if ((error = pthread_attr_init(&how))) return error;
    pthread_attr_setstacksize(&how, STACK_B);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the main thread's */
    error = pthread_create(&r->thread, &how, serve, r);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&how);
    if (!error) pthread_setname_np(r->thread, "relay");
    return error;
}

static void let_go(struct relays *r)
{
    free_graves(r);
    if (r->epoll_fd >= 0) close(r->epoll_fd);
    if (r->wake_fd >= 0) close(r->wake_fd);
    if (r->event_fd >= 0) close(r->event_fd);
    free(r->cipher);
    free(r->plain);
    pthread_cond_destroy(&r->turn);
    pthread_mutex_destroy(&r->lock);
    free(r);
}

/* --- what Python calls ------------------------------------------------------------------------------------------ */

PUBLIC int relay_fits(size_t openssl_b, size_t state_b)
{
    return openssl_b == sizeof(struct relay_openssl) && state_b == sizeof(struct relay_state);
}

PUBLIC struct relays *relay_open(const struct relay_openssl *openssl)
{
    struct relays *r = calloc(1, sizeof *r);
    struct epoll_event event = {.events = EPOLLIN}; /* data 0: the wake descriptor */
    int error;
    if (!r) return NULL;
    r->o = *openssl;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->turn, NULL);
    r->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    r->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r->cipher = malloc(CIPHER_B); /* blocks of their own, so that sanitizers see where they end */
    r->plain = malloc(PLAIN_B);
    error = !r->cipher || !r->plain || r->epoll_fd < 0 || r->wake_fd < 0 || r->event_fd < 0 ||
                    epoll_ctl(r->epoll_fd, EPOLL_CTL_ADD, r->wake_fd, &event)
                ? errno
                : start(r);
    if (!error) return r;
    let_go(r);
    errno = error;
    return NULL;
}

PUBLIC int relay_event_fd(const struct relays *r)
{
    return r->event_fd;
}

PUBLIC struct session *relay_add(struct relays *r, const struct relay_state *state)
{
    struct session *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->relays = r;
    s->session_id = state->session_id;
    s->ssl = state->ssl;
    s->rbio = state->rbio;
    s->wbio = state->wbio;
    s->from_remote_b = state->from_remote_b;
    s->to_remote_b = state->to_remote_b;
    s->from_remote_records = state->from_remote_records;
    s->to_remote_records = state->to_remote_records;
    s->last_ms = state->last_ms;
    s->tls_fd = state->tls_fd;
    s->plain_fd = state->plain_fd;
    s->in = (enum relay_flow)state->inward;
    s->out = (enum relay_flow)state->outward;
    s->incoming = (enum relay_incoming)state->incoming;
    s->keeps = state->keeps;
    s->packets = state->packets;
    s->plain_gone = state->plain_gone;
    s->was_busy = state->was_busy;
    s->reason = (enum relay_reason)state->reason;
    s->detail = (enum relay_detail)state->detail;
    s->error = state->error;
    memcpy(s->queue, state->queue, sizeof s->queue);
    if (!rest_add(&s->to_plain, state->to_plain, state->to_plain_b) ||
        !rest_add(&s->to_tls, state->to_tls, state->to_tls_b)) {
        rest_drop(&s->to_plain);
        free(s);
        errno = ENOMEM;
        return NULL;
    }
    enter(r);
    s->next = r->sessions;
    if (s->next) s->next->before = s;
    r->sessions = s;
    session_begin(s);
    if (s->over) tell(s);
    if (s->was_busy && !r->some_busy) {
        r->some_busy = true;
        wake(r->wake_fd);
    }
    leave(r);
    return s;
}

PUBLIC int relay_take(struct relays *r, struct session *s, struct relay_state *state)
{
    int there;
    enter(r);
    there = !s->over;
    if (there) {
        session_unwatch(s);
        describe(s, state);
        state->to_plain = take_rest(&s->to_plain, &state->to_plain_b);
        state->to_tls = take_rest(&s->to_tls, &state->to_tls_b);
        bury(s);
    }
    leave(r);
    return there;
}

PUBLIC int relay_look(struct relays *r, struct session *s, struct relay_state *state)
{
    int there;
    enter(r);
    there = !s->over;
    if (there) describe(s, state);
    leave(r);
    return there;
}

PUBLIC void relay_free(struct relay_state *state)
{
    free(state->to_plain);
    free(state->to_tls);
    state->to_plain = state->to_tls = NULL;
    state->to_plain_b = state->to_tls_b = 0;
}

PUBLIC void relay_end(struct relays *r, struct session *s, struct relay_state *state)
{
    enter(r);
    if (!s->over) session_end(s);
    describe(s, state);
    bury(s);
    leave(r);
}

PUBLIC const void *relay_next(struct relays *r, struct relay_state *state)
{
    struct session *s;
    enter(r);
    s = r->told;
    if (!s) {
        calm(r->event_fd);
    } else {
        describe(s, state);
        untell(s);
        if (s->over) bury(s);
        else state->reason = NONE;
    }
    leave(r);
    return s;
}

PUBLIC void relay_close(struct relays *r)
{
    enter(r);
    r->stopping = true;
    leave(r);
    wake(r->wake_fd);
    pthread_join(r->thread, NULL);
    while (r->sessions) {
        struct session *s = r->sessions;
        if (!s->over) {
            session_unwatch(s);
            session_close_plain(s);
        }
        rest_drop(&s->to_plain);
        rest_drop(&s->to_tls);
        bury(s);
    }
    let_go(r);
}
