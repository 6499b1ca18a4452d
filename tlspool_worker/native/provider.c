/* OpenSSL provider whose private keys are references: each signature is made by keyd.
 *
 *     reference.c   parse a reference                       (outside bytes)
 *     signer.c      ask keyd, read its answer               (outside bytes)
 *     decoder.c     PEM or DER -> key
 *     key.c         what OpenSSL may know of a key
 *     signature.c   content -> scheme, signer, signature
 *     params.c      OSSL_PARAM helpers
 *     provider.c    errors, and the way in
 *
 * docs/provider.md explains the choices, and what breaks otherwise. */
#define _GNU_SOURCE
#include "provider.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* The number in brackets is the stable code of tlspool_common.errors by which provider.py finds out what happened. */
static const OSSL_ITEM reasons[] = {
    {501, "[501] the private key is not on any token"},
    {502, "[502] the URI matches more than one private key"},
    {503, "[503] the private key on the token is not the certificate's"},
    {504, "[504] the key's PKCS #11 URI is malformed"},
    {505, "[505] the token needs a PIN and none is known"},
    {506, "[506] the token refused the PIN"},
    {507, "[507] the token's PIN is locked"},
    {508, "[508] the token is not present"},
    {509, "[509] the token failed"},
    {REASON_TOKEN_SLOW, "[510] no signature in time"},
    {511, "[511] keyd does not recognise the content to be signed"},
    {512, "[512] the grant is not valid here"},
    {513, "[513] the grant was used before"},
    {514, "[514] the grant has expired"},
    {REASON_SCHEME, "[515] the signature scheme does not fit"},
    {REASON_KEYD_GONE, "[516] the key daemon went away"},
    {517, "[517] one more wrong PIN would lock the token"},
    {518, "[518] an operator has locked the token"},
    {604, "[604] the key daemon is stopping"},
    {610, "[610] the key daemon cannot record what it signs"},
    {REASON_INTERNAL, "[901] an internal error of the key daemon"},
    {REASON_REFERENCE_MALFORMED, "[901] the key reference is malformed"},
    {REASON_REFERENCE_VERSION, "[702] the key reference is not for provider version " VERSION},
    {REASON_CONTENT_LONG, "[511] the content to be signed is too long"},
    {REASON_NO_RESOURCES, "[901] memory or descriptors are used up"},
    {REASON_NO_CHANNEL, "[516] the key reference names no channel to the key daemon"},
    {REASON_ANSWER_MALFORMED, "[901] the answer of the key daemon is malformed"},
    {0, NULL},
};

static void put_error(const struct context *c, uint32_t reason, ...)
{
    va_list nothing; /* core_vset_error wants one, also without a format */
    va_start(nothing, reason);
    c->vset_error(c->core, reason, NULL, nothing);
    va_end(nothing);
}

void raise_at(const struct context *c, int reason, const char *file, int line, const char *function)
{
    const OSSL_ITEM *item = reasons;
    while (item->id && item->id != (unsigned)reason) item++;
    c->new_error(c->core);
    c->set_error_debug(c->core, file, line, function);
    put_error(c, item->id ? item->id : REASON_INTERNAL);
}

static const OSSL_ALGORITHM *query(void *context, int operation, int *no_cache)
{
    (void)context;
    *no_cache = 0;
    switch (operation) {
    case OSSL_OP_KEYMGMT:
        return key_managements;
    case OSSL_OP_SIGNATURE:
        return signatures;
    case OSSL_OP_DECODER:
        return decoders;
    }
    return NULL;
}

static const OSSL_ITEM *reason_strings(void *context)
{
    (void)context;
    return reasons;
}

static const OSSL_PARAM *gettable(void *context)
{
    static const OSSL_PARAM list[] = {
        {OSSL_PROV_PARAM_NAME, OSSL_PARAM_UTF8_PTR, NULL, 0, 0},
        {OSSL_PROV_PARAM_VERSION, OSSL_PARAM_UTF8_PTR, NULL, 0, 0},
        {OSSL_PROV_PARAM_STATUS, OSSL_PARAM_INTEGER, NULL, 0, 0},
        {NULL, 0, NULL, 0, 0},
    };
    (void)context;
    return list;
}

static int get_params(void *context, OSSL_PARAM params[])
{
    (void)context;
    return set_text(locate(params, OSSL_PROV_PARAM_NAME), "TLS pool: keys behind keyd") &&
           set_text(locate(params, OSSL_PROV_PARAM_VERSION), VERSION) &&
           set_size(locate(params, OSSL_PROV_PARAM_STATUS), 1);
}

static void teardown(void *context)
{
    free(context);
}

static const OSSL_DISPATCH provider_functions[] = {
    ENTRY(OSSL_FUNC_PROVIDER_TEARDOWN, teardown),
    ENTRY(OSSL_FUNC_PROVIDER_QUERY_OPERATION, query),
    ENTRY(OSSL_FUNC_PROVIDER_GET_REASON_STRINGS, reason_strings),
    ENTRY(OSSL_FUNC_PROVIDER_GETTABLE_PARAMS, gettable),
    ENTRY(OSSL_FUNC_PROVIDER_GET_PARAMS, get_params),
    {0, NULL},
};

OSSL_provider_init_fn OSSL_provider_init;

__attribute__((visibility("default"))) int OSSL_provider_init(const OSSL_CORE_HANDLE *core, const OSSL_DISPATCH *in,
                                                              const OSSL_DISPATCH **out, void **context)
{
    struct context *c = calloc(1, sizeof *c);
    if (!c) return 0;
    c->core = core;
    for (; in->function_id; in++) {
        switch (in->function_id) {
        case OSSL_FUNC_CORE_NEW_ERROR:
            c->new_error = OSSL_FUNC_core_new_error(in);
            break;
        case OSSL_FUNC_CORE_SET_ERROR_DEBUG:
            c->set_error_debug = OSSL_FUNC_core_set_error_debug(in);
            break;
        case OSSL_FUNC_CORE_VSET_ERROR:
            c->vset_error = OSSL_FUNC_core_vset_error(in);
            break;
        case OSSL_FUNC_BIO_READ_EX:
            c->bio_read = OSSL_FUNC_BIO_read_ex(in);
            break;
        }
    }
    if (!c->new_error || !c->set_error_debug || !c->vset_error || !c->bio_read) {
        free(c);
        return 0;
    }
    *out = provider_functions;
    *context = c;
    return 1;
}
