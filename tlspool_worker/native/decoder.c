/* Decoders (provider-decoder(7)), in two stages: PEM with our label to DER, and that DER to a key.  A single stage
 * serves pyOpenSSL's PEM, but neither ASN.1 input nor the openssl command. */
#define _GNU_SOURCE
#include "provider.h"

#include <openssl/core_object.h>
#include <stdlib.h>
#include <string.h>

/* A file with a full chain before the reference: 8 certificates of 16 KiB, in base64. */
enum { PEM_MAX_B = 256 * 1024 };

static void *decoder_new(void *context)
{
    return context; /* decoders keep nothing */
}

static void decoder_free(void *data)
{
    (void)data;
}

static int decoder_selection(void *context, int selection)
{
    (void)context;
    return !selection || (selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY);
}

/* When OpenSSL has rejected our key management it calls this without looking whether it is there. */
static int decoder_export(void *data, const void *reference, size_t size, OSSL_CALLBACK *deliver, void *arg)
{
    (void)data, (void)reference, (void)size, (void)deliver, (void)arg;
    return 0;
}

/* Read a core BIO to its end; NULL when it is empty, longer than `most`, or memory is short.  The caller frees. */
static uint8_t *slurp(const struct context *c, OSSL_CORE_BIO *in, size_t most, size_t *size)
{
    size_t room = 4096, have = 0, got;
    uint8_t *text = malloc(room), *larger;
    while (text && c->bio_read(in, text + have, room - have, &got) && got) {
        have += got;
        if (have < room) continue;
        larger = room < most ? realloc(text, room *= 2) : NULL;
        if (!larger) free(text);
        text = larger;
    }
    if (text && have) {
        *size = have;
        return text;
    }
    free(text);
    return NULL;
}

static int deliver_der(const uint8_t *der, size_t size, const char *name, OSSL_CALLBACK *deliver, void *arg)
{
    int type = OSSL_OBJECT_PKEY;
    OSSL_PARAM params[] = {
        make_param(OSSL_OBJECT_PARAM_TYPE, OSSL_PARAM_INTEGER, &type, sizeof type),
        make_text(OSSL_OBJECT_PARAM_DATA_TYPE, name),
        make_text(OSSL_OBJECT_PARAM_DATA_STRUCTURE, STRUCTURE),
        make_param(OSSL_OBJECT_PARAM_DATA, OSSL_PARAM_OCTET_STRING, der, size),
        params_end,
    };
    return deliver(params, arg);
}

/* Every decoder sees every PEM there is: 1 and nothing delivered means "not mine". */
static int decode_pem(void *data, OSSL_CORE_BIO *in, int selection, OSSL_CALLBACK *deliver, void *arg,
                      OSSL_PASSPHRASE_CALLBACK *password, void *password_arg)
{
    const struct context *c = data;
    uint8_t der[REFERENCE_MAX_B];
    struct reference reference;
    enum verdict verdict = REFERENCE_MALFORMED;
    size_t size = 0;
    uint8_t *text = slurp(c, in, PEM_MAX_B, &size);
    int is_ours = text && memmem(text, size, REFERENCE_BEGIN, strlen(REFERENCE_BEGIN));
    (void)selection, (void)password, (void)password_arg;
    if (is_ours) size = reference_from_pem_untrusted((const char *)text, size, der, sizeof der);
    free(text);
    if (!is_ours) return 1;
    if (size) verdict = reference_parse_untrusted(der, size, &reference);
    if (verdict == REFERENCE_GOOD) return deliver_der(der, size, kind_name(reference.kind), deliver, arg);
    RAISE(c, verdict == REFERENCE_OF_OTHER_VERSION ? REASON_REFERENCE_VERSION : REASON_REFERENCE_MALFORMED);
    return 0;
}

static int decode_der(const struct context *c, OSSL_CORE_BIO *in, const char *name, OSSL_CALLBACK *deliver, void *arg)
{
    int type = OSSL_OBJECT_PKEY, delivered = 1;
    size_t size = 0;
    uint8_t *der = slurp(c, in, REFERENCE_MAX_B, &size);
    struct key *key = der ? key_make_untrusted(c, der, size) : NULL;
    OSSL_PARAM params[] = {
        make_param(OSSL_OBJECT_PARAM_TYPE, OSSL_PARAM_INTEGER, &type, sizeof type),
        make_text(OSSL_OBJECT_PARAM_DATA_TYPE, name),
        make_param(OSSL_OBJECT_PARAM_REFERENCE, OSSL_PARAM_OCTET_STRING, &key, sizeof key),
        params_end,
    };
    free(der);
    if (key && !strcmp(kind_name(key->reference.kind), name)) delivered = deliver(params, arg);
    key_free(key); /* NULL by now when key management took it */
    return delivered;
}

#define DECODER(function)                                                                                              \
    ENTRY(OSSL_FUNC_DECODER_NEWCTX, decoder_new), ENTRY(OSSL_FUNC_DECODER_FREECTX, decoder_free),                      \
        ENTRY(OSSL_FUNC_DECODER_DOES_SELECTION, decoder_selection),                                                    \
        ENTRY(OSSL_FUNC_DECODER_EXPORT_OBJECT, decoder_export), ENTRY(OSSL_FUNC_DECODER_DECODE, function), {0, NULL}

#define DER_DECODER(label, name)                                                                                       \
    static int decode_##label(void *data, OSSL_CORE_BIO *in, int selection, OSSL_CALLBACK *deliver, void *arg,         \
                              OSSL_PASSPHRASE_CALLBACK *password, void *password_arg)                                  \
    {                                                                                                                  \
        (void)selection, (void)password, (void)password_arg;                                                           \
        return decode_der(data, in, name, deliver, arg);                                                               \
    }                                                                                                                  \
    static const OSSL_DISPATCH label##_decoder[] = {DECODER(decode_##label)};

DER_DECODER(rsa, "RSA")
DER_DECODER(ec, "EC")
DER_DECODER(ed25519, "ED25519")

static const OSSL_DISPATCH pem_decoder[] = {DECODER(decode_pem)};

const OSSL_ALGORITHM decoders[] = {
    {"DER", PROPERTIES ",input=pem", pem_decoder, "key references"},
    {"RSA", PROPERTIES ",input=der,structure=" STRUCTURE, rsa_decoder, "key references"},
    {"EC", PROPERTIES ",input=der,structure=" STRUCTURE, ec_decoder, "key references"},
    {"ED25519", PROPERTIES ",input=der,structure=" STRUCTURE, ed25519_decoder, "key references"},
    {NULL, NULL, NULL, NULL},
};
