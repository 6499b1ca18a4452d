/* One session of the relay: bytes both ways, and how each direction ends.
 *
 * The states, the rules and their reasons are those of tlspool_worker/relay.py, function by function, and its tests
 * are run on both.  A change here is a change there. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "relay_session.h"

enum { WANT_READ = 2, WANT_WRITE = 3, ERROR_SSL = 1, ERROR_SYSCALL = 5, ZERO_RETURN = 6 }; /* openssl/ssl.h */

/* With each call, as in channel.py: O_NONBLOCK belongs to the open socket, and an application that kept a copy of it
 * could take it away, and with it everybody's relay. */
enum { SENDING = MSG_NOSIGNAL | MSG_DONTWAIT };

static bool is_later(int error)
{
    return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

/* --- what is left over ---------------------------------------------------------------------------------------- */

static size_t left(const struct rest *rest)
{
    return rest->end - rest->at;
}

void rest_drop(struct rest *rest)
{
    free(rest->data);
    *rest = (struct rest){0};
}

bool rest_add(struct rest *rest, const unsigned char *data, size_t size)
{
    size_t have = left(rest);
    unsigned char *grown;
    if (!size) return true;
    if (rest->at) memmove(rest->data, rest->data + rest->at, have);
    rest->at = 0;
    rest->end = have;
    grown = realloc(rest->data, have + size);
    if (!grown) return false;
    memcpy(grown + have, data, size);
    rest->data = grown;
    rest->end = have + size;
    return true;
}

static void rest_sent(struct rest *rest, size_t size)
{
    rest->at += size;
    if (rest->at == rest->end) rest_drop(rest);
}

/* --- why it ends ---------------------------------------------------------------------------------------------- */

/* Keep the first reason: others follow from it. */
static void note(struct session *s, enum relay_reason reason, enum relay_detail detail, int error)
{
    if (s->reason != NONE) return;
    s->reason = reason;
    s->detail = detail;
    s->error = error;
}

static void broken(struct session *s)
{
    const struct relay_openssl *o = &s->relays->o;
    bool first = s->reason == NONE;
    unsigned at = 0;
    unsigned long number;
    note(s, REMOTE_ALERT, DETAIL_OPENSSL, 0);
    while ((number = o->err_get_error()))
        if (first && at < RELAY_QUEUE) s->queue[at++] = number;
    s->incoming = BROKEN;
    s->in = ENDING;
    if (s->out != DONE) s->out = ENDING;
}

/* The application does not take any more.  What it has sent may still be there to be read. */
static void plain_lost(struct session *s, int error)
{
    note(s, PLAIN_LOST, DETAIL_ERRNO, error);
    s->plain_gone = true;
    rest_drop(&s->to_plain);
}

/* The remote does not take any more.  What it has sent may still be there to be read. */
static void remote_lost(struct session *s, int error)
{
    if (s->incoming != BROKEN) note(s, REMOTE_RESET, DETAIL_ERRNO, error);
    s->out = DONE;
    rest_drop(&s->to_tls);
}

/* --- to the remote -------------------------------------------------------------------------------------------- */

static void send_cipher(struct session *s)
{
    struct relays *r = s->relays;
    int count;
    while ((count = r->o.bio_read(s->wbio, r->cipher, CIPHER_B)) > 0) {
        ssize_t sent = 0;
        if (s->out == DONE) continue; /* the answer to a KeyUpdate, after our end */
        if (!left(&s->to_tls)) {
            sent = send(s->tls_fd, r->cipher, (size_t)count, SENDING);
            if (sent < 0 && !is_later(errno)) {
                remote_lost(s, errno);
                return;
            }
            if (sent < 0) sent = 0;
        }
        if (sent < count && !rest_add(&s->to_tls, r->cipher + sent, (size_t)(count - sent))) {
            remote_lost(s, ENOMEM);
            return;
        }
        if (count < CIPHER_B) return;
    }
}

static void push_tls(struct session *s)
{
    ssize_t sent = send(s->tls_fd, s->to_tls.data + s->to_tls.at, left(&s->to_tls), SENDING);
    if (sent >= 0) rest_sent(&s->to_tls, (size_t)sent);
    else if (!is_later(errno)) remote_lost(s, errno);
}

/* Say close_notify.  Nothing can be written afterwards. */
static void close_tls(struct session *s)
{
    const struct relay_openssl *o = &s->relays->o;
    if (s->incoming == BROKEN) return;
    o->err_clear_error();
    if (o->ssl_shutdown(s->ssl) < 0) o->err_clear_error();
}

/* The application has closed altogether, not only its sending half. */
static void plain_closed(struct session *s)
{
    if (left(&s->to_plain)) note(s, PLAIN_LOST, DETAIL_UNREAD, 0);
    rest_drop(&s->to_plain);
    s->plain_gone = true;
}

/* Receive from the application and encrypt; returns how much, 0 when there is nothing more now.
 *
 * XXX What an application passes over its plaintext is closed by the kernel in recv(2), which waits for a socket that
 * lingers: its user's other sessions in this worker wait, too; with `isolation pool`, everybody's. */
static size_t take_plain(struct session *s)
{
    struct relays *r = s->relays;
    struct pollfd hang_up = {.fd = s->plain_fd};
    ssize_t count = recv(s->plain_fd, r->plain, BATCH_B, MSG_DONTWAIT);
    /* Linux looks for packets first and for the end afterwards, so that an end can be told before packets that came in
     * between; the second answer is the right one.  An empty packet is no end either. */
    if (!count && s->packets) count = recv(s->plain_fd, r->plain, BATCH_B, MSG_DONTWAIT);
    if (count < 0) {
        if (is_later(errno)) return 0;
        plain_lost(s, errno); /* it broke off: the remote is not told that this was the end */
        s->out = ENDING;
        return 0;
    }
    if (!count) {
        if (poll(&hang_up, 1, 0) > 0 && hang_up.revents & POLLHUP) plain_closed(s);
        close_tls(s);
        s->out = ENDING;
        return 0;
    }
    s->last_ms = r->now_ms;
    s->to_remote_b += (uint64_t)count;
    s->to_remote_records += ((uint64_t)count + RECORD_B - 1) / RECORD_B; /* as Stream.encrypt has it */
    r->o.err_clear_error();
    if (r->o.ssl_write(s->ssl, r->plain, (int)count) != count) {
        broken(s);
        return 0;
    }
    if (count > RECORD_B) s->was_busy = r->some_busy = true;
    return (size_t)count;
}

/* --- to the application --------------------------------------------------------------------------------------- */

/* Send to the application; returns how much it took. */
static size_t send_plain(struct session *s, const unsigned char *data, size_t size)
{
    size_t at = 0;
    do {
        size_t part = s->packets && size - at > PACKET_B ? PACKET_B : size - at;
        ssize_t sent = send(s->plain_fd, data + at, part, SENDING);
        if (sent < 0) {
            if (!is_later(errno)) plain_lost(s, errno);
            break;
        }
        at += (size_t)sent;
    } while (s->packets && at < size);
    return at;
}

static void push_plain(struct session *s)
{
    size_t sent = send_plain(s, s->to_plain.data + s->to_plain.at, left(&s->to_plain));
    if (!s->plain_gone) rest_sent(&s->to_plain, sent);
}

/* Pass on the first `count` bytes of r->plain, and look at what else the remote said. */
static void decrypted(struct session *s, size_t count)
{
    struct relays *r = s->relays;
    char *output;
    if (count) {
        size_t sent = 0;
        s->last_ms = r->now_ms;
        s->from_remote_b += count;
        if (s->plain_gone) {
            note(s, PLAIN_LOST, DETAIL_REMOTE_GOES_ON, 0);
        } else {
            if (!left(&s->to_plain)) sent = send_plain(s, r->plain, count);
            if (sent < count && !s->plain_gone && !rest_add(&s->to_plain, r->plain + sent, count - sent))
                plain_lost(s, ENOMEM);
        }
    }
    /* OpenSSL answers KeyUpdates, and says what is wrong */
    if (r->o.bio_get_mem_data(s->wbio, &output) > 0) send_cipher(s);
    if (s->incoming == CLOSED) s->in = ENDING;
}

/* Let what OpenSSL has not read yet be a copy of its own: the buffer is another session's now. */
static void own_input(struct session *s)
{
    const struct relay_openssl *o = &s->relays->o;
    char *data;
    long size = o->bio_get_mem_data(s->rbio, &data);
    void *bio;
    if (s->keeps || size <= 0) return;
    bio = o->bio_new((void *)(uintptr_t)o->bio_s_mem());
    if (!bio) return;
    o->bio_write(bio, data, (int)size);
    o->bio_set_mem_eof_return(bio, -1);
    o->ssl_set_bio(s->ssl, bio, s->wbio);
    s->rbio = bio;
    s->keeps = true;
}

/* What it means that SSL_read gave nothing. */
static void look_at_end(struct session *s, int result)
{
    switch (s->relays->o.ssl_get_error(s->ssl, result)) {
    case WANT_READ:
    case WANT_WRITE:
        break;
    case ZERO_RETURN:
        s->incoming = CLOSED;
        break;
    case ERROR_SSL:
    case ERROR_SYSCALL:
        broken(s);
        break;
    default:
        s->wants = true;
        own_input(s);
    }
}

/* Give OpenSSL the first `count` bytes of r->cipher; returns whether it has them. */
static bool feed(struct session *s, int count)
{
    struct relays *r = s->relays;
    void *bio;
    if (count <= SMALL_B && s->keeps) return r->o.bio_write(s->rbio, r->cipher, count) == count;
    if (count > SMALL_B) {
        bio = r->o.bio_new_mem_buf(r->cipher, count);
    } else {
        bio = r->o.bio_new((void *)(uintptr_t)r->o.bio_s_mem());
        if (bio) r->o.bio_write(bio, r->cipher, count);
    }
    if (!bio) return false;
    r->o.bio_set_mem_eof_return(bio, -1);
    r->o.ssl_set_bio(s->ssl, bio, s->wbio);
    s->rbio = bio;
    s->keeps = count <= SMALL_B;
    return true;
}

/* Decrypt the first `count` bytes of r->cipher into r->plain; returns how much came out. */
static size_t decrypt(struct session *s, int count)
{
    struct relays *r = s->relays;
    size_t total = 0;
    char *unread;
    r->o.err_clear_error();
    if (!feed(s, count)) {
        broken(s);
        return 0;
    }
    for (;;) {
        int got = r->o.ssl_read(s->ssl, r->plain + total, (int)(PLAIN_B - total));
        if (got <= 0) {
            look_at_end(s, got);
            return total;
        }
        total += (size_t)got;
        s->from_remote_records++; /* SSL_read gives of one record, and there is room for all of it */
        if (r->o.bio_get_mem_data(s->rbio, &unread) <= 0) return total;
    }
}

/* Take a batch of the remote. */
static void pull_tls(struct session *s)
{
    ssize_t count = recv(s->tls_fd, s->relays->cipher, CIPHER_B, MSG_DONTWAIT);
    if (count > 0) {
        decrypted(s, decrypt(s, (int)count));
    } else if (!count) {
        note(s, TRUNCATED, DETAIL_NO_CLOSE_NOTIFY, 0);
        s->in = ENDING;
    } else if (!is_later(errno)) {
        note(s, REMOTE_RESET, DETAIL_ERRNO, errno);
        s->in = ENDING;
        s->out = DONE;
        rest_drop(&s->to_tls);
    }
}

/* --- what is watched, and the end ------------------------------------------------------------------------------ */

/* Returns false when a descriptor cannot be watched. */
static bool set_mask(struct session *s, int fd, unsigned *mask, unsigned wanted)
{
    /* the lowest bit of the address says which of the two descriptors it is */
    struct epoll_event event = {.events = wanted, .data.u64 = (uintptr_t)s | (fd == s->plain_fd)};
    int what = !wanted ? EPOLL_CTL_DEL : *mask ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (*mask == wanted) return true;
    *mask = wanted;
    return !epoll_ctl(s->relays->epoll_fd, what, fd, &event) || what == EPOLL_CTL_DEL;
}

void session_unwatch(struct session *s)
{
    set_mask(s, s->tls_fd, &s->tls_mask, 0);
    set_mask(s, s->plain_fd, &s->plain_mask, 0);
}

/* End the application's connection, as lingering.close_now does: close(2) is not to wait, whatever was set meanwhile. */
void session_close_plain(struct session *s)
{
    const struct linger none = {0};
    shutdown(s->plain_fd, SHUT_RDWR);
    setsockopt(s->plain_fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    close(s->plain_fd);
    s->plain_fd = -1;
}

static void finish(struct session *s)
{
    session_unwatch(s);
    session_close_plain(s);
    rest_drop(&s->to_plain);
    rest_drop(&s->to_tls);
    if (s->reason == NONE) s->reason = CLEAN;
    s->over = true;
}

static void watch(struct session *s)
{
    unsigned tls = 0, plain = 0;
    if (s->in == FLOWING && !left(&s->to_plain) && left(&s->to_tls) < UNSENT_B) tls = EPOLLIN;
    if (left(&s->to_tls)) tls |= EPOLLOUT;
    else if (s->out == FLOWING) plain = EPOLLIN;
    if (left(&s->to_plain)) plain |= EPOLLOUT;
    if (!set_mask(s, s->tls_fd, &s->tls_mask, tls)) {
        note(s, REMOTE_RESET, DETAIL_ERRNO, errno);
        finish(s);
    } else if (!set_mask(s, s->plain_fd, &s->plain_mask, plain)) {
        note(s, PLAIN_LOST, DETAIL_ERRNO, errno);
        finish(s);
    }
}

/* Pass on ends whose time has come; then watch for what is left to do. */
static void settle(struct session *s)
{
    if (s->wants) {
        session_unwatch(s);
        return;
    }
    if (s->in == ENDING && !left(&s->to_plain)) {
        s->in = DONE;
        shutdown(s->plain_fd, SHUT_WR);
    }
    if (s->out == ENDING && !left(&s->to_tls)) {
        s->out = DONE;
        shutdown(s->tls_fd, SHUT_WR);
    }
    if (s->out == DONE && (s->in == DONE || s->plain_gone)) finish(s);
    else watch(s);
}

/* --- what happens ---------------------------------------------------------------------------------------------- */

void session_begin(struct session *s)
{
    if (left(&s->to_plain)) push_plain(s);
    settle(s);
}

void session_tls_ready(struct session *s, unsigned events)
{
    if (left(&s->to_tls) && events & ~(unsigned)EPOLLIN) push_tls(s);
    if (s->tls_mask & EPOLLIN && events & ~(unsigned)EPOLLOUT) pull_tls(s);
    settle(s);
}

void session_plain_ready(struct session *s, unsigned events)
{
    if (left(&s->to_plain) && events & ~(unsigned)EPOLLIN) push_plain(s);
    if (s->plain_mask & EPOLLIN && events & ~(unsigned)EPOLLOUT) {
        int turns = s->packets ? PACKETS : 1; /* packets go out together, but not more than a batch and its last */
        size_t total = 0, count;
        while (turns-- && total < BATCH_B && (count = take_plain(s)) > 0) total += count;
        send_cipher(s);
    }
    settle(s);
}

/* End at once, with close_notify, and what can be sent without waiting. */
void session_end(struct session *s)
{
    note(s, ORDERED, DETAIL_NONE, 0);
    if (s->out == FLOWING) {
        close_tls(s);
        send_cipher(s);
    }
    finish(s);
}

/* Give back the memory of a burst: a memory BIO keeps its largest size. */
void session_slim(struct session *s)
{
    const struct relay_openssl *o = &s->relays->o;
    void *bio;
    if (left(&s->to_tls) || !(bio = o->bio_new((void *)(uintptr_t)o->bio_s_mem()))) return;
    o->ssl_set_bio(s->ssl, s->rbio, bio);
    s->wbio = bio;
    s->was_busy = false;
}
