/* OSSL_PARAM (see OSSL_PARAM(3)): the few helpers that are needed, as libcrypto's are out of reach. */
#include "provider.h"

#include <string.h>

#define UNMODIFIED ((size_t)-1) /* OSSL_PARAM_UNMODIFIED of openssl/params.h, which is no core header */

const OSSL_PARAM params_end = {NULL, 0, NULL, 0, 0};

OSSL_PARAM *locate(OSSL_PARAM *params, const char *key)
{
    for (; params && params->key; params++)
        if (!strcmp(params->key, key)) return params;
    return NULL;
}

int set_size(OSSL_PARAM *p, size_t value)
{
    uint32_t small = (uint32_t)value;
    uint64_t large = value;
    if (!p) return 1;
    if (p->data_type != OSSL_PARAM_INTEGER && p->data_type != OSSL_PARAM_UNSIGNED_INTEGER) return 0;
    p->return_size = p->data ? p->data_size : sizeof large;
    if (!p->data) return 1;
    if (p->data_size == sizeof small) memcpy(p->data, &small, sizeof small);
    else if (p->data_size == sizeof large) memcpy(p->data, &large, sizeof large);
    else return 0;
    return 1;
}

int set_text(OSSL_PARAM *p, const char *text)
{
    size_t size = strlen(text);
    if (!p) return 1;
    p->return_size = size;
    if (p->data_type == OSSL_PARAM_UTF8_PTR) {
        if (p->data) *(const char **)p->data = text;
        return 1;
    }
    if (p->data_type != OSSL_PARAM_UTF8_STRING) return 0;
    if (!p->data) return 1;
    if (p->data_size < size) return 0;
    memcpy(p->data, text, size);
    if (p->data_size > size) ((char *)p->data)[size] = 0;
    return 1;
}

int set_octets(OSSL_PARAM *p, struct octets value)
{
    if (!p) return 1;
    if (p->data_type != OSSL_PARAM_OCTET_STRING) return 0;
    p->return_size = value.size;
    if (!p->data) return 1;
    if (p->data_size < value.size) return 0;
    memcpy(p->data, value.data, value.size);
    return 1;
}

/* Integers of OSSL_PARAM have the machine's byte order, those of a reference the network's. */
void native_order(uint8_t *out, struct octets big_endian)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    for (size_t i = 0; i < big_endian.size; i++) out[i] = big_endian.data[big_endian.size - 1 - i];
#else
    memcpy(out, big_endian.data, big_endian.size);
#endif
}

int set_number(OSSL_PARAM *p, struct octets big_endian)
{
    uint8_t *at;
    if (!p) return 1;
    if (p->data_type != OSSL_PARAM_UNSIGNED_INTEGER) return 0;
    p->return_size = p->data ? p->data_size : big_endian.size;
    if (!p->data) return 1;
    if (p->data_size < big_endian.size) return 0;
    memset(p->data, 0, p->data_size);
    at = p->data;
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    at += p->data_size - big_endian.size;
#endif
    native_order(at, big_endian);
    return 1;
}

const char *get_text(const OSSL_PARAM *p)
{
    if (p->data_type == OSSL_PARAM_UTF8_STRING) return p->data;
    return p->data_type == OSSL_PARAM_UTF8_PTR && p->data ? *(char *const *)p->data : NULL;
}

int get_int(const OSSL_PARAM *p, int *value)
{
    if (p->data_type != OSSL_PARAM_INTEGER || p->data_size != sizeof *value || !p->data) return 0;
    memcpy(value, p->data, sizeof *value);
    return 1;
}

OSSL_PARAM make_param(const char *key, unsigned type, const void *data, size_t size)
{
    OSSL_PARAM p = {key, type, (void *)data, size, UNMODIFIED};
    return p;
}

OSSL_PARAM make_text(const char *key, const char *text)
{
    return make_param(key, OSSL_PARAM_UTF8_STRING, text, strlen(text));
}
