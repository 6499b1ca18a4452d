/* Parse key references.  No allocation, no libcrypto, nothing global: tests/fuzz/fuzz_provider.c drives this file
 * by itself. */
#define _GNU_SOURCE
#include "reference.h"

#include <string.h>

struct cursor {
    const uint8_t *at;
    size_t left;
    int bad;
};

static uint32_t take_number(struct cursor *c, unsigned octets)
{
    uint32_t value = 0;
    if (c->bad || c->left < octets) {
        c->bad = 1;
        return 0;
    }
    for (unsigned i = 0; i < octets; i++) value = value << 8 | c->at[i];
    c->at += octets;
    c->left -= octets;
    return value;
}

static struct octets take_octets(struct cursor *c, size_t most)
{
    struct octets found = {NULL, 0};
    size_t size = take_number(c, 2);
    if (c->bad || size > most || size > c->left) {
        c->bad = 1;
        return found;
    }
    found.data = c->at;
    found.size = size;
    c->at += size;
    c->left -= size;
    return found;
}

/* Enter a DER element (X.690 section 8.1) that must have this tag and reach to the end. */
static void enter(struct cursor *c, uint8_t tag)
{
    size_t size;
    if (take_number(c, 1) != tag) c->bad = 1;
    size = take_number(c, 1);
    if (size == 0x81) {
        size = take_number(c, 1);
        if (size < 0x80) c->bad = 1; /* DER wants the short form here */
    } else if (size == 0x82) {
        size = take_number(c, 2);
        if (size < 0x100) c->bad = 1;
    } else if (size > 0x7f) {
        c->bad = 1;
    }
    if (size != c->left) c->bad = 1;
}

/* What the rest of the provider relies on: a modulus without leading zero, and points and keys of full length. */
static int sizes_fit(const struct reference *r)
{
    switch (r->kind) {
    case KIND_RSA:
        return r->first.size >= MODULUS_MIN_B && r->first.data[0] != 0 && r->second.size >= 1 &&
               r->second.size <= EXPONENT_MAX_B;
    case KIND_EC_P256:
        return r->first.size == 65 && r->first.data[0] == 4 && r->second.size == 0;
    case KIND_EC_P384:
        return r->first.size == 97 && r->first.data[0] == 4 && r->second.size == 0;
    case KIND_ED25519:
        return r->first.size == 32 && r->second.size == 0;
    }
    return 0;
}

enum verdict reference_parse_untrusted(const uint8_t *data, size_t size, struct reference *out)
{
    struct cursor c = {data, size, size > REFERENCE_MAX_B};
    uint32_t version, kind, fd;
    enter(&c, 0x30);
    enter(&c, 0x04);
    version = take_number(&c, 1);
    if (c.bad) return REFERENCE_MALFORMED;
    if (version != 1) return REFERENCE_OF_OTHER_VERSION;
    kind = take_number(&c, 1);
    fd = take_number(&c, 4);
    out->timeout_ms = take_number(&c, 4);
    out->first = take_octets(&c, PUBLIC_MAX_B);
    out->second = take_octets(&c, PUBLIC_MAX_B);
    out->grant = take_octets(&c, GRANT_MAX_B);
    if (c.bad || c.left || kind < KIND_RSA || kind > KIND_ED25519 || fd > INT32_MAX) return REFERENCE_MALFORMED;
    out->kind = (enum key_kind)kind;
    out->channel_fd = (int)fd;
    return sizes_fit(out) ? REFERENCE_GOOD : REFERENCE_MALFORMED;
}

static int sextet(char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

size_t reference_from_pem_untrusted(const char *text, size_t size, uint8_t *der, size_t room)
{
    static const char begin[] = REFERENCE_BEGIN, end[] = REFERENCE_END;
    const char *at = memmem(text, size, begin, sizeof begin - 1), *stop;
    size_t made = 0;
    uint32_t bits = 0;
    int count = 0, padding = 0;
    if (!at) return 0;
    at += sizeof begin - 1;
    stop = memmem(at, size - (size_t)(at - text), end, sizeof end - 1);
    if (!stop) return 0;
    for (; at < stop; at++) {
        int value = sextet(*at);
        if (*at == '\n' || *at == '\r' || *at == ' ') continue;
        if (*at == '=') {
            padding++;
            continue;
        }
        if (value < 0 || padding) return 0;
        bits = bits << 6 | (uint32_t)value;
        if (++count == 4) {
            if (made + 3 > room) return 0;
            der[made++] = (uint8_t)(bits >> 16);
            der[made++] = (uint8_t)(bits >> 8);
            der[made++] = (uint8_t)bits;
            count = 0;
            bits = 0;
        }
    }
    if (count == 1 || padding != (count ? 4 - count : 0)) return 0;
    if (count >= 2) {
        if (made + (size_t)count - 1 > room) return 0;
        bits <<= 6 * (4 - count);
        der[made++] = (uint8_t)(bits >> 16);
        if (count == 3) der[made++] = (uint8_t)(bits >> 8);
    }
    return made;
}
