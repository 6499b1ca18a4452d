/* Key management (provider-keymgmt(7)): keys that are references.  The public half is at hand; the private half is
 * claimed, never shown.  docs/provider.md tells what breaks when a function is missing. */
#define _GNU_SOURCE
#include "provider.h"

#include <stdlib.h>
#include <string.h>

struct key *key_make_untrusted(const struct context *c, const uint8_t *der, size_t size)
{
    struct key *key = malloc(sizeof *key + size);
    if (!key) return NULL;
    key->context = c;
    atomic_init(&key->holders, 1);
    key->bytes_size = size;
    memcpy(key->bytes, der, size);
    if (reference_parse_untrusted(key->bytes, size, &key->reference) != REFERENCE_GOOD) {
        free(key);
        return NULL;
    }
    return key;
}

struct key *key_hold(struct key *key)
{
    if (key) atomic_fetch_add(&key->holders, 1);
    return key;
}

void key_free(void *data)
{
    struct key *key = data;
    if (!key || atomic_fetch_sub(&key->holders, 1) != 1) return;
    explicit_bzero(key->bytes, key->bytes_size); /* a grant that was not used is good until it expires */
    free(key);
}

int is_ec(enum key_kind kind)
{
    return kind == KIND_EC_P256 || kind == KIND_EC_P384;
}

const char *kind_name(enum key_kind kind)
{
    return kind == KIND_RSA ? "RSA" : is_ec(kind) ? "EC" : "ED25519";
}

/* The name that libssl finds a NID for; "P-256" would fail TLS 1.3. */
static const char *group_name(enum key_kind kind)
{
    return kind == KIND_EC_P256 ? "prime256v1" : "secp384r1";
}

static size_t key_bits(const struct reference *r)
{
    size_t bits = r->first.size * 8;
    switch (r->kind) {
    case KIND_RSA:
        for (uint8_t top = r->first.data[0]; !(top & 0x80); top = (uint8_t)(top << 1)) bits--;
        return bits;
    case KIND_EC_P256:
        return 256;
    case KIND_EC_P384:
        return 384;
    default:
        return 253;
    }
}

/* NIST SP 800-57 part 1, table 2; libssl compares it with its security level. */
static size_t security_bits(const struct reference *r)
{
    size_t bits = key_bits(r);
    if (r->kind == KIND_EC_P384) return 192;
    if (r->kind != KIND_RSA) return 128;
    return bits >= 15360 ? 256 : bits >= 7680 ? 192 : bits >= 3072 ? 128 : bits >= 2048 ? 112 : 80;
}

/* ECDSA: the DER of two integers; libssl asks for this before it signs. */
size_t key_signature_max_b(const struct reference *r)
{
    switch (r->kind) {
    case KIND_RSA:
        return r->first.size;
    case KIND_EC_P256:
        return 72;
    case KIND_EC_P384:
        return 104;
    default:
        return 64;
    }
}

static void *key_new(void *context)
{
    (void)context;
    return NULL; /* keys come from references only */
}

static int key_has(const void *data, int selection)
{
    (void)selection; /* a private key is claimed, else PEM loading says "unsupported key components" */
    return data != NULL;
}

static void *key_load(const void *reference, size_t size)
{
    struct key **from = (struct key **)reference, *key;
    if (size != sizeof key) return NULL;
    key = *from;
    *from = NULL; /* ours now */
    return key;
}

static int key_get_params(void *data, OSSL_PARAM params[])
{
    const struct reference *r = &((struct key *)data)->reference;
    int ok = set_size(locate(params, OSSL_PKEY_PARAM_BITS), key_bits(r)) &&
             set_size(locate(params, OSSL_PKEY_PARAM_SECURITY_BITS), security_bits(r)) &&
             set_size(locate(params, OSSL_PKEY_PARAM_MAX_SIZE), key_signature_max_b(r));
    if (r->kind == KIND_RSA)
        return ok && set_text(locate(params, OSSL_PKEY_PARAM_DEFAULT_DIGEST), "SHA256") &&
               set_number(locate(params, OSSL_PKEY_PARAM_RSA_N), r->first) &&
               set_number(locate(params, OSSL_PKEY_PARAM_RSA_E), r->second);
    ok = ok && set_octets(locate(params, OSSL_PKEY_PARAM_PUB_KEY), r->first) &&
         set_octets(locate(params, OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY), r->first);
    if (is_ec(r->kind))
        return ok && set_text(locate(params, OSSL_PKEY_PARAM_GROUP_NAME), group_name(r->kind)) &&
               set_text(locate(params, OSSL_PKEY_PARAM_DEFAULT_DIGEST), "SHA256");
    return ok && set_text(locate(params, OSSL_PKEY_PARAM_MANDATORY_DIGEST), "");
}

static const OSSL_PARAM *key_gettable(void *context)
{
    static const OSSL_PARAM list[] = {
        {OSSL_PKEY_PARAM_BITS, OSSL_PARAM_INTEGER, NULL, 0, 0},
        {OSSL_PKEY_PARAM_SECURITY_BITS, OSSL_PARAM_INTEGER, NULL, 0, 0},
        {OSSL_PKEY_PARAM_MAX_SIZE, OSSL_PARAM_INTEGER, NULL, 0, 0},
        {OSSL_PKEY_PARAM_DEFAULT_DIGEST, OSSL_PARAM_UTF8_STRING, NULL, 0, 0},
        {OSSL_PKEY_PARAM_MANDATORY_DIGEST, OSSL_PARAM_UTF8_STRING, NULL, 0, 0},
        {OSSL_PKEY_PARAM_GROUP_NAME, OSSL_PARAM_UTF8_STRING, NULL, 0, 0},
        {OSSL_PKEY_PARAM_RSA_N, OSSL_PARAM_UNSIGNED_INTEGER, NULL, 0, 0},
        {OSSL_PKEY_PARAM_RSA_E, OSSL_PARAM_UNSIGNED_INTEGER, NULL, 0, 0},
        {OSSL_PKEY_PARAM_PUB_KEY, OSSL_PARAM_OCTET_STRING, NULL, 0, 0},
        {OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY, OSSL_PARAM_OCTET_STRING, NULL, 0, 0},
        {NULL, 0, NULL, 0, 0},
    };
    (void)context;
    return list;
}

/* Comparing certificate and key goes through export of the public half to another provider.  Asked for the private
 * half, this must fail: otherwise OpenSSL would move the key and try to sign elsewhere. */
static int key_export(void *data, int selection, OSSL_CALLBACK *deliver, void *arg)
{
    const struct reference *r = &((struct key *)data)->reference;
    OSSL_PARAM params[3] = {params_end, params_end, params_end};
    uint8_t modulus[PUBLIC_MAX_B], exponent[EXPONENT_MAX_B];
    int count = 0;
    if (selection & OSSL_KEYMGMT_SELECT_PRIVATE_KEY) return 0;
    if (r->kind == KIND_RSA) {
        if (!(selection & OSSL_KEYMGMT_SELECT_PUBLIC_KEY)) return 0;
        native_order(modulus, r->first);
        native_order(exponent, r->second);
        params[0] = make_param(OSSL_PKEY_PARAM_RSA_N, OSSL_PARAM_UNSIGNED_INTEGER, modulus, r->first.size);
        params[1] = make_param(OSSL_PKEY_PARAM_RSA_E, OSSL_PARAM_UNSIGNED_INTEGER, exponent, r->second.size);
        return deliver(params, arg);
    }
    if (is_ec(r->kind)) params[count++] = make_text(OSSL_PKEY_PARAM_GROUP_NAME, group_name(r->kind));
    if (selection & OSSL_KEYMGMT_SELECT_PUBLIC_KEY)
        params[count++] = make_param(OSSL_PKEY_PARAM_PUB_KEY, OSSL_PARAM_OCTET_STRING, r->first.data, r->first.size);
    return count && deliver(params, arg);
}

static const OSSL_PARAM *key_export_types(int selection)
{
    (void)selection;
    return key_gettable(NULL);
}

/* Must exist, for OpenSSL calls it without asking; must refuse, for nothing is imported. */
static int key_import(void *data, int selection, const OSSL_PARAM params[])
{
    (void)data, (void)selection, (void)params;
    return 0;
}

static const OSSL_PARAM *key_import_types(int selection)
{
    (void)selection;
    return &params_end;
}

static const char *ec_operation(int operation)
{
    return operation == OSSL_OP_SIGNATURE ? "ECDSA" : NULL;
}

#define KEY_FUNCTIONS                                                                                                  \
    ENTRY(OSSL_FUNC_KEYMGMT_NEW, key_new), ENTRY(OSSL_FUNC_KEYMGMT_FREE, key_free),                                    \
        ENTRY(OSSL_FUNC_KEYMGMT_HAS, key_has), ENTRY(OSSL_FUNC_KEYMGMT_LOAD, key_load),                                \
        ENTRY(OSSL_FUNC_KEYMGMT_GET_PARAMS, key_get_params),                                                           \
        ENTRY(OSSL_FUNC_KEYMGMT_GETTABLE_PARAMS, key_gettable), ENTRY(OSSL_FUNC_KEYMGMT_EXPORT, key_export),           \
        ENTRY(OSSL_FUNC_KEYMGMT_EXPORT_TYPES, key_export_types), ENTRY(OSSL_FUNC_KEYMGMT_IMPORT, key_import),          \
        ENTRY(OSSL_FUNC_KEYMGMT_IMPORT_TYPES, key_import_types)

static const OSSL_DISPATCH key_functions[] = {KEY_FUNCTIONS, {0, NULL}};
static const OSSL_DISPATCH ec_key_functions[] = {
    KEY_FUNCTIONS, ENTRY(OSSL_FUNC_KEYMGMT_QUERY_OPERATION_NAME, ec_operation), {0, NULL}};

const OSSL_ALGORITHM key_managements[] = {
    {"RSA", PROPERTIES, key_functions, "references to keys behind keyd"},
    {"EC", PROPERTIES, ec_key_functions, "references to keys behind keyd"},
    {"ED25519", PROPERTIES, key_functions, "references to keys behind keyd"},
    {NULL, NULL, NULL, NULL},
};
