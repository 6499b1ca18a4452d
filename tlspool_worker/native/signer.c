/* One signature: a SignHandshake frame with one end of a fresh socket pair, and the Signed frame that comes back
 * over the other.  A pair for each signature needs neither locks nor matching of answers, among threads and among
 * forked workers.  Frames are those of tlspool_common/messages.py, rows 0x30 and 0x31. */
#define _GNU_SOURCE
#include "signer.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CODE_SIGN_HANDSHAKE = 0x30, CODE_SIGNED = 0x31, HEADER_B = 6, LENGTH_B = 2 };

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Wait for an event; returns REASON_NONE when it is there.  A signal does not prolong the wait. */
static int wait_until(int fd, short events, int64_t deadline_ms)
{
    for (;;) {
        struct pollfd p = {.fd = fd, .events = events};
        int64_t left_ms = deadline_ms - now_ms();
        int n;
        if (left_ms <= 0) return REASON_TOKEN_SLOW;
        n = poll(&p, 1, left_ms > INT32_MAX ? INT32_MAX : (int)left_ms);
        if (n > 0) return p.revents & POLLNVAL ? REASON_NO_CHANNEL : REASON_NONE;
        if (n < 0 && errno != EINTR) return REASON_NO_RESOURCES;
    }
}

static uint8_t *put(uint8_t *at, uint32_t value, unsigned octets)
{
    while (octets--) *at++ = (uint8_t)(value >> 8 * octets);
    return at;
}

static uint8_t *put_octets(uint8_t *at, const uint8_t *data, size_t size)
{
    at = put(at, (uint32_t)size, LENGTH_B);
    if (size) memcpy(at, data, size);
    return at + size;
}

/* The number in a reference may have been closed and reused since.  Were it a connection of the worker by now, the
 * grant would travel to a stranger: look first. */
static int is_channel(int fd)
{
    int family = 0, type = 0;
    socklen_t family_size = sizeof family, type_size = sizeof type;
    return !getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &family_size) && family == AF_UNIX &&
           !getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_size) && type == SOCK_SEQPACKET;
}

static int send_request(int fd, uint8_t *frame, size_t size, int answer_fd, int64_t deadline_ms)
{
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {.iov_base = frame, .iov_len = size};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof control.room};
    struct cmsghdr *rights;
    memset(&control, 0, sizeof control);
    rights = CMSG_FIRSTHDR(&message);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(rights), &answer_fd, sizeof(int));
    for (;;) {
        int reason;
        if (sendmsg(fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0) return REASON_NONE; /* whole, or not at all */
        switch (errno) {
        case EINTR:
            continue;
        case EAGAIN:
            break;
        case EMSGSIZE:
            return REASON_CONTENT_LONG;
        case ENOBUFS:
        case ENOMEM:
        case ETOOMANYREFS: /* more descriptors on their way than this user may have: keyd does not read */
            return REASON_NO_RESOURCES;
        default:
            return REASON_KEYD_GONE;
        }
        reason = wait_until(fd, POLLOUT, deadline_ms);
        if (reason) return reason;
    }
}

int signer_answer_untrusted(const uint8_t *frame, size_t frame_size, uint8_t *signature, size_t room, size_t *size)
{
    unsigned code, length;
    if (frame_size < HEADER_B + 2 + LENGTH_B) return REASON_ANSWER_MALFORMED;
    if ((frame[0] << 8 | frame[1]) != CODE_SIGNED) return REASON_ANSWER_MALFORMED;
    if (frame[2] || frame[3] || frame[4] || frame[5]) return REASON_ANSWER_MALFORMED; /* exchange 0 was asked */
    code = (unsigned)frame[HEADER_B] << 8 | frame[HEADER_B + 1];
    length = (unsigned)frame[HEADER_B + 2] << 8 | frame[HEADER_B + 3];
    if (length != frame_size - HEADER_B - 2 - LENGTH_B) return REASON_ANSWER_MALFORMED;
    if (code) return length || code >= 1000 ? REASON_ANSWER_MALFORMED : (int)code;
    if (!length || length > room) return REASON_ANSWER_MALFORMED;
    memcpy(signature, frame + HEADER_B + 2 + LENGTH_B, length);
    *size = length;
    return REASON_NONE;
}

static int receive_answer(int fd, uint8_t *signature, size_t room, size_t *size, int64_t deadline_ms)
{
    uint8_t frame[HEADER_B + 2 + LENGTH_B + SIGNATURE_MAX_B + 1]; /* one more, so that a longer frame does not fit */
    for (;;) {
        ssize_t got;
        int reason = wait_until(fd, POLLIN, deadline_ms);
        if (reason) return reason;
        got = recv(fd, frame, sizeof frame, MSG_DONTWAIT);
        /* An end can be told before the answer that came just before it, see relay.c. */
        if (got == 0) got = recv(fd, frame, sizeof frame, MSG_DONTWAIT);
        if (got > 0) return signer_answer_untrusted(frame, (size_t)got, signature, room, size);
        if (got == 0 || (errno != EINTR && errno != EAGAIN)) return REASON_KEYD_GONE;
    }
}

int signer_ask(const struct reference *key, uint16_t scheme, const uint8_t *content, size_t content_size,
               uint8_t *signature, size_t room, size_t *size)
{
    int64_t deadline_ms = now_ms() + key->timeout_ms;
    int pair[2], reason;
    uint8_t *frame, *at;
    if (content_size > CONTENT_MAX_B) return REASON_CONTENT_LONG;
    if (!is_channel(key->channel_fd)) return REASON_NO_CHANNEL;
    frame = malloc(HEADER_B + LENGTH_B + key->grant.size + 2 + LENGTH_B + content_size);
    if (!frame) return REASON_NO_RESOURCES;
    at = put(frame, CODE_SIGN_HANDSHAKE, 2);
    at = put(at, 0, 4);
    at = put_octets(at, key->grant.data, key->grant.size);
    at = put(at, scheme, 2);
    at = put_octets(at, content, content_size);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) {
        free(frame);
        return REASON_NO_RESOURCES;
    }
    reason = send_request(key->channel_fd, frame, (size_t)(at - frame), pair[1], deadline_ms);
    close(pair[1]); /* keyd holds the only copy now: if it dies, we read the end */
    if (!reason) reason = receive_answer(pair[0], signature, room, size, deadline_ms);
    close(pair[0]);
    free(frame);
    return reason;
}
