/* What the parts of the provider share.  Only libc and <openssl/core*.h>: one binary serves any OpenSSL 3 or 4, also
 * one that is linked statically into a Python extension. */
#ifndef TLSPOOL_PROVIDER_H
#define TLSPOOL_PROVIDER_H

#include <openssl/core.h>
#include <openssl/core_dispatch.h>
#include <openssl/core_names.h>
#include <stdatomic.h>

#include "reference.h"
#include "signer.h"

/* Changes with the key reference and with rows 0x30 and 0x31 of the border; provider.py expects the same. */
#define VERSION "1"

#define NAME "tlspool"
#define PROPERTIES "provider=" NAME
#define STRUCTURE "tlspool-reference"

/* An entry of a dispatch table. */
#define ENTRY(id, function) {id, (void (*)(void))(function)}

/* All state there is: two OpenSSLs in one process may both load this file, and share its static data. */
struct context {
    const OSSL_CORE_HANDLE *core;
    OSSL_FUNC_core_new_error_fn *new_error;
    OSSL_FUNC_core_set_error_debug_fn *set_error_debug;
    OSSL_FUNC_core_vset_error_fn *vset_error;
    OSSL_FUNC_BIO_read_ex_fn *bio_read;
};

/* provider.c: put an error into OpenSSL's queue; `reason` is an enum reason or a stable code. */
void raise_at(const struct context *c, int reason, const char *file, int line, const char *function);
#define RAISE(c, reason) raise_at(c, reason, __FILE__, __LINE__, __func__)

/* key.c: immutable but for the count, so threads may share it. */
struct key {
    const struct context *context;
    atomic_int holders;
    struct reference reference;
    size_t bytes_size;
    uint8_t bytes[]; /* what `reference` points into */
};

struct key *key_make_untrusted(const struct context *c, const uint8_t *der, size_t size); /* NULL: no good reference */
struct key *key_hold(struct key *key);
void key_free(void *key);
size_t key_signature_max_b(const struct reference *r);
int is_ec(enum key_kind kind);
const char *kind_name(enum key_kind kind); /* as OpenSSL calls the algorithm */

/* The algorithms of each part. */
extern const OSSL_ALGORITHM key_managements[], signatures[], decoders[];

/* params.c: OSSL_PARAM arrays, as far as needed here (libcrypto's own helpers are not at hand).  The setters take
 * NULL for "nobody asked", and return 1, or 0 when the value does not fit. */
extern const OSSL_PARAM params_end;
OSSL_PARAM *locate(OSSL_PARAM *params, const char *key);
int set_size(OSSL_PARAM *p, size_t value);
int set_text(OSSL_PARAM *p, const char *text);
int set_octets(OSSL_PARAM *p, struct octets value);
int set_number(OSSL_PARAM *p, struct octets big_endian);
void native_order(uint8_t *out, struct octets big_endian);
const char *get_text(const OSSL_PARAM *p);          /* NULL: it is no text */
int get_int(const OSSL_PARAM *p, int *value);       /* 0: it is no int */
OSSL_PARAM make_param(const char *key, unsigned type, const void *data, size_t size);
OSSL_PARAM make_text(const char *key, const char *text);

#endif
