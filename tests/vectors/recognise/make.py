"""Write the vectors anew: python -m tests.vectors.recognise.make [--capture]

The files are what counts; this is where most of them came from.  ``--capture`` makes new handshakes with OpenSSL and
GnuTLS (captured.py); without it those that were captured stay.  A case by hand is two files with the next number:

    NNN-name.bin      the content
    NNN-name.json     side: client or server; scheme: the SignatureScheme; note: what it is; and either
                      what: the value of Recognised (in accepted/), or why: the reason of the refusal (in refused/)
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.vectors.recognise import captured, foreign, shapes
from tlspool_common.errors import PoolError
from tlspool_common.messages import Side
from tlspool_keyd.recognise import recognise_untrusted
from tlspool_keyd.schemes import TABLE, Scheme

HERE = Path(__file__).parent
SEED = 20250101
ECDSA, PKCS1, PSS = 0x0403, 0x0401, 0x0804

Case = tuple[str, Side, int, bytes, str]


def _chance(name: str) -> random.Random:
    return random.Random(f"{SEED} {name}")


# --- accepted -------------------------------------------------------------------------------------------------------


def accepted() -> Iterator[Case]:
    for side in Side:
        for row in TABLE:
            if row.in_tls13:
                for size in (32, 48):
                    name = f"tls13-{side.name}-{row.scheme.name}-{size}".lower()
                    content = shapes.tls13(side.name.lower(), _chance(name).randbytes(size))
                    yield name, side, row.scheme, content, f"transcript hash of {size} bytes"
    for group_name, group in shapes.GROUPS.items():
        for row in TABLE:
            name = f"ske-{group_name}-{row.scheme.name}".lower()
            yield name, Side.SERVER, row.scheme, shapes.join(shapes.server_key_exchange(_chance(name), group)), ""
    yield from _nearly_foreign()
    for row in TABLE:
        name = f"transcript-{row.scheme.name}".lower()
        found = shapes.bodies(_chance(name), scheme=row.scheme, status=row.scheme & 1 == 1)
        yield name, Side.CLIENT, row.scheme, shapes.join(shapes.transcript(found)), "small, made by hand"
    for group_name, group in shapes.GROUPS.items():
        found = shapes.bodies(_chance(group_name), group)
        yield f"transcript-{group_name}", Side.CLIENT, ECDSA, shapes.join(shapes.transcript(found)), ""
    found = shapes.bodies(_chance("bare"))
    found["ClientHello"] = shapes.client_hello(_chance("bare"), [])
    found["ServerHello"] = shapes.server_hello(_chance("bare"), [])
    found["CertificateRequest"] = shapes.certificate_request((ECDSA,), ())
    yield (
        "transcript-without-extensions",
        Side.CLIENT,
        ECDSA,
        shapes.join(shapes.transcript(found)),
        "and without names",
    )
    found["ServerCertificate"] = shapes.chain(shapes.der(5, b""), shapes.der(4, b""))
    long = b"\x30\x82\x2e\xe0" + bytes(12000)
    found["ClientCertificate"] = shapes.chain(*[long] * 5)
    yield "transcript-60-kib", Side.CLIENT, ECDSA, shapes.join(shapes.transcript(found)), "five certificates of 12 KB"


def _nearly_foreign() -> Iterator[Case]:
    """Random bytes may begin or end almost as another format does."""
    heads = {
        "ber-length-wrong": "3061",
        "ber-member-too-long": "306204 7f",
        "ber-primitive-indefinite": "3062 0480",
        "ber-indefinite-not-closed": "3080 020101",
        "cvc-length-wrong": "7f4e60",
        "gss-without-oid": "6062 0401aa",
        "sig0-with-ttl": "0000 0f00 00000001",
        "dnssec-another-ttl": "0010 0f00 00000e10 67000000 66000000 1234 00 00 0010 0001 00000e11",
        "dnssec-another-type": "0010 0f00 00000e10 67000000 66000000 1234 00 00 0011 0001 00000e10",
        "dnssec-pointer": "0010 0f00 00000e10 67000000 66000000 1234 c0 00 0010 0001 00000e10",
        "ikev2-message-1": "0102030405060708 0000000000000000 21 20 22 08 00000001",
        "ikev2-auth": "0102030405060708 0000000000000000 21 20 23 08 00000000",
        "cbor-of-another-kind": "846a 5369676e656420206f7264",
        "count-too-large": "00000066",
    }
    for name, head in heads.items():
        whole = _ske(name, shapes.X25519)
        start = bytes.fromhex(head)
        yield f"nearly-{name}", Side.SERVER, PSS, start + whole[len(start) :], "random bytes, by chance"
    tails = {
        "ber-last-tag-cut": ("307a 0476", "1f85"),
        "ber-last-length-cut": ("307a 0477", "04"),
        "ber-last-indefinite-cut": ("307a 0476", "2480"),
        "openpgp-length-too-large": ("", "04ff00000200"),
        "openpgp-v5-length-too-large": ("", "05ff0000000000000200"),
        "openpgp-v5-without-ff": ("", "05fe0000000000000010"),
    }
    for name, (head, tail) in tails.items():
        whole, start, end = _ske(name, shapes.X448), bytes.fromhex(head), bytes.fromhex(tail)
        content = start + whole[len(start) : len(whole) - len(end)] + end
        yield f"nearly-{name}", Side.SERVER, PSS, content, "random bytes, by chance"


def captures() -> Iterator[Case]:
    for case in captured.CASES:
        (scheme, content), (client_scheme, transcript) = captured.run(case)
        yield f"real-ske-{case.name}", Side.SERVER, scheme, content, f"signed by the server: {case.note}"
        yield (
            f"real-transcript-{case.name}",
            Side.CLIENT,
            client_scheme,
            transcript,
            f"signed by the client: {case.note}",
        )


# --- refused: TLS ---------------------------------------------------------------------------------------------------


def _tls13() -> Iterator[Case]:
    hash_ = _chance("tls13").randbytes(32)
    right = shapes.tls13("server", hash_)
    both = (("server", Side.SERVER), ("client", Side.CLIENT))
    for own, side in both:
        (other,) = (name for name, _ in both if name != own)
        for size in (32, 48):
            yield (
                f"tls13-of-{other}-by-{own}-{size}",
                side,
                ECDSA,
                shapes.tls13(other, hash_.ljust(size, b"h")),
                "wrong role",
            )
        for size in (0, 20, 31, 33, 47, 49, 64):
            content = shapes.tls13(own, hash_.ljust(64, b"h")[:size])
            yield f"tls13-{own}-hash-of-{size}", side, ECDSA, content, "no hash of a TLS 1.3 cipher suite"
        text = f"Exported Authenticator {own}".encode()
        yield f"exported-authenticator-{own}", side, ECDSA, b" " * 64 + text + b"\0" + hash_, "RFC 9261 section 5.2.2"
        text = f"TLS, {own} delegated credentials".encode()
        yield f"delegated-credential-{own}", side, ECDSA, b" " * 64 + text + b"\0" + bytes(300), "RFC 9345 section 4"
    for spaces in (63, 65):
        yield f"tls13-{spaces}-spaces", Side.SERVER, ECDSA, b" " * spaces + right[64:], ""
    yield "tls13-no-nul", Side.SERVER, ECDSA, right.replace(b"\0", b" ", 1), ""
    yield "tls13-lower-case", Side.SERVER, ECDSA, right.replace(b"TLS", b"tls"), ""
    yield "tls13-says-1.2", Side.SERVER, ECDSA, right.replace(b"1.3", b"1.2"), ""
    yield "tls13-no-spaces", Side.SERVER, ECDSA, right[64:], ""
    yield "tls13-hash-first", Side.SERVER, ECDSA, hash_ + right[:-32], ""
    yield "tls13-handshake-message", Side.SERVER, ECDSA, b"\x0f\0\0\x86" + right, "with a header of CertificateVerify"
    for scheme in (PKCS1, 0x0501, 0x0601, 0x0603):
        for own, side in both:
            yield (
                f"tls13-{own}-{Scheme(scheme).name}".lower(),
                side,
                scheme,
                shapes.tls13(own, hash_),
                "not for TLS 1.3",
            )


def _schemes() -> Iterator[Case]:
    names = {
        0x0000: "none",
        0x0101: "rsa-md5",
        0x0201: "rsa-sha1",
        0x0202: "dsa-sha1",
        0x0203: "ecdsa-sha1",
        0x0301: "rsa-sha224",
        0x0303: "ecdsa-sha224",
        0x0402: "dsa-sha256",
        0x0708: "sm2",
        0x0809: "rsa-pss-pss-sha256",
        0x0808: "ed448",
        0x081A: "ecdsa-brainpool",
        0x0904: "ml-dsa-44",
        0x0A0A: "grease",
        0xFFFF: "last",
    }
    content = shapes.join(shapes.server_key_exchange(_chance("schemes"), shapes.X25519))
    for scheme, name in names.items():
        yield f"scheme-{name}", Side.SERVER, scheme, content, "scheme without a row"
    for side in Side:
        content = shapes.tls13(side.name.lower(), bytes(32))
        yield f"scheme-rsa-sha1-tls13-{side.name.lower()}", side, 0x0201, content, "scheme without a row"


def _digests() -> Iterator[Case]:
    for side in Side:
        for size in (16, 20, 28, 32, 36, 48, 64):
            content = _chance(f"digest {size}").randbytes(size)
            note = "MD5 and SHA-1: what TLS 1.0 and 1.1 sign" if size == 36 else "a bare digest"
            yield f"digest-{size}-{side.name.lower()}", side, PKCS1, content, note
        yield f"empty-{side.name.lower()}", side, ECDSA, b"", ""
        yield f"one-byte-{side.name.lower()}", side, ECDSA, b"\1", ""
        yield f"zeros-64-kib-{side.name.lower()}", side, ECDSA, bytes(65535), "as long as content may be"
        yield (
            f"random-64-kib-{side.name.lower()}",
            side,
            ECDSA,
            _chance("64").randbytes(65535),
            "as long as content may be",
        )


def _ske(name: str, of: int, **other: bytes) -> bytes:
    return shapes.join(shapes.server_key_exchange(_chance(name), of, **other))


def _key_exchanges() -> Iterator[Case]:
    s = Side.SERVER
    for group_name, group in shapes.GROUPS.items():
        pieces = shapes.server_key_exchange(_chance(group_name), group)
        whole = shapes.join(pieces)
        for name, at in [*shapes.boundaries(pieces), ("last octet", len(whole) - 1)]:
            yield f"ske-{group_name}-cut-at-{name}".replace(" ", "-"), s, ECDSA, whole[:at], f"ends before {name}"
        yield f"ske-{group_name}-trailing", s, ECDSA, whole + b"\0", "one byte too many"
        yield f"ske-{group_name}-by-client", Side.CLIENT, ECDSA, whole, "wrong role"
        signed = whole[64:] + b"\4\3\0\x40" + bytes(64)
        yield (
            f"ske-{group_name}-message",
            s,
            ECDSA,
            b"\x0c" + len(signed).to_bytes(3, "big") + signed,
            "the message itself",
        )
        at = 0
        for name, data in pieces:
            if shapes.is_fixed(name):
                for bit in (0, 7):
                    bent = bytearray(whole)
                    bent[at + len(data) - 1] ^= 1 << bit
                    yield (
                        f"ske-{group_name}-{name}-bit-{bit}".replace("_", "-"),
                        s,
                        ECDSA,
                        bytes(bent),
                        "one bit flipped",
                    )
            at += len(data)
    for name, number in {
        "secp256k1": 22,
        "brainpool": 26,
        "sect283k1": 9,
        "ffdhe2048": 256,
        "hybrid": 4588,
        "none": 0,
    }.items():
        yield f"ske-group-{name}", s, ECDSA, _ske(name, shapes.P256, group=number.to_bytes(2, "big")), f"group {number}"
    yield "ske-one-random", s, ECDSA, _ske("one", shapes.P256)[32:], "only the server's random"
    parameters = b"".join(len(part).to_bytes(2, "big") + part for part in (b"\xff" * 128, b"\2", b"\x7f" * 128))
    yield "ske-dhe", s, PKCS1, bytes(range(64)) + parameters, "finite field: prime, generator, public key"
    small = b"".join(len(part).to_bytes(2, "big") + part for part in (b"\xfb" * 15, b"\2", b"\x7f" * 14))
    yield "ske-dhe-100", s, PKCS1, bytes(range(64)) + small, "finite field with a tiny prime, as long as X25519"
    explicit = b"\1\x20" + b"\xff" * 32 + b"\x20" + b"\1" * 32 + b"\x20" + b"\2" * 32
    yield "ske-explicit-prime", s, ECDSA, (bytes(range(64)) + explicit).ljust(133, b"\4"), "RFC 4492 curve type 1"
    yield (
        "ske-explicit-char2",
        s,
        ECDSA,
        (bytes(range(64)) + b"\2" + explicit).ljust(133, b"\4"),
        "RFC 4492 curve type 2",
    )


def _points() -> Iterator[Case]:
    s = Side.SERVER
    for group_name, group in (("p256", shapes.P256), ("p384", shapes.P384), ("p521", shapes.P521)):
        name = f"points {group_name}"
        public = shapes.point(_chance(name), group)
        half = len(public) // 2
        prime = {23: 2**256 - 2**224 + 2**192 + 2**96 - 1, 24: 2**384 - 2**128 - 2**96 + 2**32 - 1, 25: 2**521 - 1}[
            group
        ]
        y = int.from_bytes(public[1 + half :], "big")
        bad = {
            "off-curve": public[:-1] + bytes([public[-1] ^ 1]),
            "swapped": b"\4" + public[1 + half :] + public[1 : 1 + half],
            "compressed-form": bytes([2 + (y & 1)]) + public[1:],
            "hybrid-form": bytes([6 + (y & 1)]) + public[1:],
            "infinity": b"\0" * len(public),
            "zero": b"\4" + b"\0" * (2 * half),
            "x-is-prime": b"\4" + prime.to_bytes(half, "big") + public[1 + half :],
            "y-is-prime": public[: 1 + half] + prime.to_bytes(half, "big"),
            "all-ones": b"\4" + b"\xff" * (2 * half),
        }
        for what, point in bad.items():
            yield f"ske-{group_name}-{what}", s, ECDSA, _ske(name, group, point=point), f"point: {what}"
        # (0, sqrt b) is on the curve, so (p, sqrt b) satisfies the equation without being reduced
        root = pow(_B[group], (prime + 1) // 4, prime)
        if prime.bit_length() == half * 8:
            unreduced = b"\4" + prime.to_bytes(half, "big") + root.to_bytes(half, "big")
            yield f"ske-{group_name}-unreduced", s, ECDSA, _ske(name, group, point=unreduced), "satisfies the equation"
        compressed = bytes([2 + (y & 1)]) + public[1 : 1 + half]
        yield f"ske-{group_name}-compressed", s, ECDSA, _ske(name, group, point=compressed), "point: compressed"
    for group_name, group, prime, size in (
        ("x25519", shapes.X25519, 2**255 - 19, 32),
        ("x448", shapes.X448, 2**448 - 2**224 - 1, 56),
    ):
        for what, value in {"prime": prime, "prime-plus-one": prime + 1, "all-ones": 256**size - 1}.items():
            point = value.to_bytes(size, "little")
            yield f"ske-{group_name}-{what}", s, ECDSA, _ske(what, group, point=point), "not reduced"
    point = (9 + 2**255).to_bytes(32, "little")
    yield (
        "ske-x25519-top-bit",
        s,
        ECDSA,
        _ske("top", shapes.X25519, point=point),
        "RFC 7748 would mask it; nobody sends it",
    )


_B = {
    23: 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    24: 0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF,
    25: int(
        "51953eb9618e1c9a1f929a21a0b68540eea2da725b99b315f3b8b489918ef109e1"
        "56193951ec7e937b1652c0bd3bb1bf073573df883d2c34f1ef451fd46b503f00",
        16,
    ),
}


def refused() -> Iterator[Case]:
    from tests.vectors.recognise import transcripts

    for part in (_tls13, _schemes, _digests, _key_exchanges, _points, transcripts.refused):
        yield from part()
    for name, content, note in foreign.everything():
        yield f"foreign-{name}", Side.SERVER, ECDSA, content, note
        if len(content) in (100, 124) and name.endswith(("-100", "-form-0")):
            yield f"foreign-{name}-by-client", Side.CLIENT, ECDSA, content, note


# --- writing --------------------------------------------------------------------------------------------------------


def write(folder: str, cases: Iterator[Case]) -> None:
    """Number and write cases; ask the recogniser for the reason, which is then for people to judge."""
    seen: set[tuple[bytes, Side, int]] = set()
    number = 1 + max((int(path.name[:3]) for path in (HERE / folder).glob("*.bin")), default=0)
    for name, side, scheme, content, note in cases:
        if (content, side, scheme) in seen:
            continue
        seen.add((content, side, scheme))
        expected: dict[str, str] = {"side": side.name.lower(), "scheme": f"{scheme:#06x}"}
        try:
            expected["what"] = recognise_untrusted(content, side, scheme).value
        except PoolError as error:
            expected["why"] = error.detail
        assert ("what" in expected) == (folder == "accepted"), (name, expected)
        path = HERE / folder / f"{number:03}-{name}"
        path.with_name(path.name + ".bin").write_bytes(content)
        path.with_name(path.name + ".json").write_text(json.dumps({**expected, "note": note}, indent=2) + "\n")
        number += 1


def main() -> None:
    capture = "--capture" in sys.argv[1:]
    for path in HERE.glob("*/[0-9]*"):
        if capture or "-real-" not in path.name:
            path.unlink()
    if capture:
        write("accepted", captures())
    write("accepted", accepted())
    write("refused", refused())


if __name__ == "__main__":
    main()
