/* A key reference: what OpenSSL is given in place of a private key.  ../keyref.py draws it and writes it. */
#ifndef TLSPOOL_REFERENCE_H
#define TLSPOOL_REFERENCE_H

#include <stddef.h>
#include <stdint.h>

#define REFERENCE_BEGIN "-----BEGIN TLSPOOL KEY REFERENCE-----"
#define REFERENCE_END "-----END TLSPOOL KEY REFERENCE-----"

/* The numbers of tlspool_common.messages.KeyKind. */
enum key_kind { KIND_RSA = 1, KIND_EC_P256 = 2, KIND_EC_P384 = 3, KIND_ED25519 = 4 };

/* keyref.py has the same bounds: RSA-1024 to RSA-16384, and tlspool_common.limits.GRANT_B. */
enum { REFERENCE_MAX_B = 8192, MODULUS_MIN_B = 128, PUBLIC_MAX_B = 2048, EXPONENT_MAX_B = 8, GRANT_MAX_B = 1024 };

enum verdict { REFERENCE_GOOD, REFERENCE_MALFORMED, REFERENCE_OF_OTHER_VERSION };

struct octets {
    const uint8_t *data;
    size_t size;
};

/* Points into the bytes that were parsed.  `first` is n, a point, or a raw key; `second` is e, or empty. */
struct reference {
    enum key_kind kind;
    int channel_fd;
    uint32_t timeout_ms;
    struct octets first, second, grant;
};

/* Parse SEQUENCE { OCTET STRING body }.  `out` means something only when the verdict is GOOD. */
enum verdict reference_parse_untrusted(const uint8_t *data, size_t size, struct reference *out);

/* Take the DER out of a text that has our label somewhere; returns its size, or 0: not ours, malformed, no room. */
size_t reference_from_pem_untrusted(const char *text, size_t size, uint8_t *der, size_t room);

#endif
