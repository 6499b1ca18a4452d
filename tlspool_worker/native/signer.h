/* The way to keyd: ask for one signature over an inherited channel. */
#ifndef TLSPOOL_SIGNER_H
#define TLSPOOL_SIGNER_H

#include "reference.h"

/* Bounds of rows 0x30 and 0x31 of tlspool_common/messages.py. */
enum { CONTENT_MAX_B = 65535, SIGNATURE_MAX_B = 2048 };

/* Why there is no signature.  Numbers below 1000 are stable codes of tlspool_common.errors; numbers from 1000 on
 * are our own, and provider.c says under which stable code each of them goes out. */
enum reason {
    REASON_NONE = 0,
    REASON_TOKEN_SLOW = 510,
    REASON_SCHEME = 515,
    REASON_KEYD_GONE = 516,
    REASON_INTERNAL = 901,
    REASON_REFERENCE_MALFORMED = 1001,
    REASON_REFERENCE_VERSION = 1002,
    REASON_CONTENT_LONG = 1003,
    REASON_NO_RESOURCES = 1004,
    REASON_NO_CHANNEL = 1005,
    REASON_ANSWER_MALFORMED = 1006
};

/* Returns 0 and a signature of 1 to `room` octets, or a reason.  Blocks for at most the reference's timeout. */
int signer_ask(const struct reference *key, uint16_t scheme, const uint8_t *content, size_t content_size,
               uint8_t *signature, size_t room, size_t *size);

/* Read a Signed frame; returns as above.  Exactly `room` octets may be written, and nothing unless 0 is returned. */
int signer_answer_untrusted(const uint8_t *frame, size_t frame_size, uint8_t *signature, size_t room, size_t *size);

#endif
