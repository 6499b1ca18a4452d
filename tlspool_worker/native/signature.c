/* Signatures (provider-signature(7)).  libssl hands over the whole content and wants the signature in one call; the
 * functions that would sign a digest are left out, so nobody can ask for that. */
#define _GNU_SOURCE
#include "provider.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { PAD_PKCS1 = 1, PAD_PSS = 6, HASH_NONE = 0, HASH_UNKNOWN = -1 }; /* the pads are RSA_PKCS1_..., RSA_..._PSS */

struct signing {
    const struct context *context;
    struct key *key;
    int pad, hash; /* hash: 256, 384, 512, or one of HASH_ */
};

static void *sign_new(void *context, const char *properties)
{
    struct signing *s = calloc(1, sizeof *s);
    (void)properties;
    if (s) s->context = context;
    return s;
}

static void sign_free(void *data)
{
    struct signing *s = data;
    if (!s) return;
    key_free(s->key);
    free(s);
}

static void *sign_dup(void *data)
{
    struct signing *copy = malloc(sizeof *copy);
    if (!copy) return NULL;
    *copy = *(struct signing *)data;
    key_hold(copy->key);
    return copy;
}

static int hash_number(const char *name)
{
    static const struct {
        const char *name;
        int number;
    } names[] = {{"SHA256", 256},   {"SHA2-256", 256}, {"SHA-256", 256}, {"SHA384", 384},  {"SHA2-384", 384},
                 {"SHA-384", 384}, {"SHA512", 512},   {"SHA2-512", 512}, {"SHA-512", 512}, {"", HASH_NONE}};
    if (!name) return HASH_NONE;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcasecmp(name, names[i].name)) return names[i].number;
    return HASH_UNKNOWN;
}

/* SignatureScheme (RFC 8446 section 4.2.3); 0: none fits.  The number of an ECDSA scheme says hash and curve, but in
 * TLS 1.2 the hash alone counts, so it goes by the hash; keyd knows the curve of its key. */
static uint16_t scheme_of(const struct signing *s)
{
    unsigned step;
    if (s->key->reference.kind == KIND_ED25519) return s->hash == HASH_NONE ? 0x0807 : 0;
    if (s->hash < 256) return 0;
    step = (unsigned)(s->hash - 256) / 128;
    if (is_ec(s->key->reference.kind)) return (uint16_t)(0x0403 + 0x100 * step);
    return (uint16_t)(s->pad == PAD_PSS ? 0x0804 + step : 0x0401 + 0x100 * step);
}

static int read_pad(const OSSL_PARAM *p, int *pad)
{
    const char *text = get_text(p);
    if (text) *pad = !strcmp(text, "pss") ? PAD_PSS : !strcmp(text, "pkcs1") ? PAD_PKCS1 : 0;
    else if (!get_int(p, pad)) return 0;
    return *pad == PAD_PSS || *pad == PAD_PKCS1;
}

/* TLS knows only salts as long as the hash (RFC 8446 section 4.2.3); -1 and "digest" mean that. */
static int is_tls_salt(const OSSL_PARAM *p, int hash)
{
    const char *text = get_text(p);
    int size = 0;
    if (text) return !strcmp(text, "digest");
    return get_int(p, &size) && (size == -1 || size == hash / 8);
}

/* Unknown keys are passed over: newer versions of OpenSSL send more ("tls-version"), and refusing them ends TLS 1.3. */
static int sign_set_params(void *data, const OSSL_PARAM params[])
{
    struct signing *s = data;
    int fits = 1;
    for (const OSSL_PARAM *p = params; p && p->key && fits; p++) {
        if (!strcmp(p->key, OSSL_SIGNATURE_PARAM_PAD_MODE)) {
            fits = read_pad(p, &s->pad);
        } else if (!strcmp(p->key, OSSL_SIGNATURE_PARAM_DIGEST)) {
            fits = get_text(p) && (s->hash = hash_number(get_text(p))) != HASH_UNKNOWN;
        } else if (!strcmp(p->key, OSSL_SIGNATURE_PARAM_MGF1_DIGEST)) {
            fits = get_text(p) && hash_number(get_text(p)) == s->hash; /* TLS has one hash for both */
        } else if (!strcmp(p->key, OSSL_SIGNATURE_PARAM_PSS_SALTLEN)) {
            fits = is_tls_salt(p, s->hash);
        }
    }
    if (!fits) RAISE(s->context, REASON_SCHEME);
    return fits;
}

static const OSSL_PARAM *sign_settable(void *data, void *context)
{
    static const OSSL_PARAM list[] = {
        {OSSL_SIGNATURE_PARAM_PAD_MODE, OSSL_PARAM_UTF8_STRING, NULL, 0, 0},
        {OSSL_SIGNATURE_PARAM_DIGEST, OSSL_PARAM_UTF8_STRING, NULL, 0, 0},
        {OSSL_SIGNATURE_PARAM_MGF1_DIGEST, OSSL_PARAM_UTF8_STRING, NULL, 0, 0},
        {OSSL_SIGNATURE_PARAM_PSS_SALTLEN, OSSL_PARAM_UTF8_STRING, NULL, 0, 0},
        {NULL, 0, NULL, 0, 0},
    };
    (void)data, (void)context;
    return list;
}

static int sign_init(void *data, const char *hash, void *key, const OSSL_PARAM params[])
{
    struct signing *s = data;
    if (key) {
        struct key *old = s->key;
        s->key = key_hold(key);
        key_free(old);
    }
    s->pad = PAD_PKCS1;
    s->hash = hash_number(hash);
    if (!s->key || s->hash == HASH_UNKNOWN) {
        RAISE(s->context, REASON_SCHEME);
        return 0;
    }
    return sign_set_params(s, params);
}

static int sign(void *data, unsigned char *out, size_t *size, size_t room, const unsigned char *content, size_t length)
{
    struct signing *s = data;
    size_t most;
    uint16_t scheme;
    int reason;
    if (!s->key) return 0;
    most = key_signature_max_b(&s->key->reference);
    if (!out) {
        *size = most; /* only the size is asked: keyd is not troubled */
        return 1;
    }
    scheme = scheme_of(s);
    reason = scheme ? signer_ask(&s->key->reference, scheme, content, length, out, room < most ? room : most, size)
                    : REASON_SCHEME;
    if (reason) RAISE(s->context, reason);
    return !reason;
}

static const OSSL_DISPATCH signature_functions[] = {
    ENTRY(OSSL_FUNC_SIGNATURE_NEWCTX, sign_new),
    ENTRY(OSSL_FUNC_SIGNATURE_FREECTX, sign_free),
    ENTRY(OSSL_FUNC_SIGNATURE_DUPCTX, sign_dup),
    ENTRY(OSSL_FUNC_SIGNATURE_DIGEST_SIGN_INIT, sign_init),
    ENTRY(OSSL_FUNC_SIGNATURE_DIGEST_SIGN, sign),
    ENTRY(OSSL_FUNC_SIGNATURE_SET_CTX_PARAMS, sign_set_params),
    ENTRY(OSSL_FUNC_SIGNATURE_SETTABLE_CTX_PARAMS, sign_settable),
    {0, NULL},
};

const OSSL_ALGORITHM signatures[] = {
    {"RSA", PROPERTIES, signature_functions, "signatures by keyd"},
    {"ECDSA", PROPERTIES, signature_functions, "signatures by keyd"},
    {"ED25519", PROPERTIES, signature_functions, "signatures by keyd"},
    {NULL, NULL, NULL, NULL},
};
