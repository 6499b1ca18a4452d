/* Invariant: whatever the bytes, the parsers of key references and of keyd's answers read nothing outside them, write
 * nothing outside what they were given, and what they accept is within the bounds that the provider relies on.
 *
 * The first octet chooses the parser: 'D' a reference as DER, 'P' a reference as PEM, 'S' a Signed frame.
 *
 *     clang -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -Itlspool_worker/native \
 *         tests/fuzz/fuzz_provider.c tlspool_worker/native/reference.c tlspool_worker/native/signer.c -o fuzz_provider
 *     ./fuzz_provider NEW_CORPUS_DIRECTORY tests/fuzz/corpus/provider */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "reference.h"
#include "signer.h"

#define PROMISE(condition)                                                                                             \
    do {                                                                                                               \
        if (!(condition)) abort();                                                                                     \
    } while (0)

static void is_inside(struct octets part, const uint8_t *data, size_t size)
{
    PROMISE(part.data >= data && part.size <= size && part.data + part.size <= data + size);
}

static void try_reference(const uint8_t *data, size_t size)
{
    struct reference r;
    if (reference_parse_untrusted(data, size, &r) != REFERENCE_GOOD) return;
    is_inside(r.first, data, size);
    is_inside(r.second, data, size);
    is_inside(r.grant, data, size);
    PROMISE(r.channel_fd >= 0 && r.grant.size <= GRANT_MAX_B);
    switch (r.kind) {
    case KIND_RSA:
        PROMISE(r.first.size >= MODULUS_MIN_B && r.first.size <= PUBLIC_MAX_B && r.first.data[0]);
        PROMISE(r.second.size >= 1 && r.second.size <= EXPONENT_MAX_B);
        break;
    case KIND_EC_P256:
        PROMISE(r.first.size == 65 && !r.second.size);
        break;
    case KIND_EC_P384:
        PROMISE(r.first.size == 97 && !r.second.size);
        break;
    case KIND_ED25519:
        PROMISE(r.first.size == 32 && !r.second.size);
        break;
    default:
        abort();
    }
}

static void try_pem(const uint8_t *data, size_t size)
{
    /* each size of room has a block of its own, so that AddressSanitizer sees the octet behind it */
    for (size_t room = 0; room <= REFERENCE_MAX_B; room = room ? room * 16 : 32) {
        uint8_t *der = malloc(room ? room : 1);
        size_t made = der ? reference_from_pem_untrusted((const char *)data, size, der, room) : 0;
        PROMISE(made <= room);
        if (made) try_reference(der, made);
        free(der);
    }
}

static void try_answer(const uint8_t *data, size_t size)
{
    for (size_t room = 1; room <= SIGNATURE_MAX_B; room *= 2) {
        uint8_t *signature = malloc(room);
        size_t made = 0;
        int reason = signature ? signer_answer_untrusted(data, size, signature, room, &made) : REASON_INTERNAL;
        PROMISE(reason >= 0 && (reason < 1000 || reason == REASON_ANSWER_MALFORMED));
        PROMISE(reason ? made == 0 : made >= 1 && made <= room);
        free(signature);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *exact; /* a block of its own again, without the first octet */
    if (!size || !(exact = malloc(size))) return 0;
    memcpy(exact, data + 1, size - 1);
    exact = realloc(exact, size > 1 ? size - 1 : 1);
    switch (data[0]) {
    case 'D':
        try_reference(exact, size - 1);
        break;
    case 'P':
        try_pem(exact, size - 1);
        break;
    case 'S':
        try_answer(exact, size - 1);
        break;
    }
    free(exact);
    return 0;
}
