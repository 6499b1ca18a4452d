"""Transcripts that a TLS 1.2 client does not sign: cut, bent, reordered, of other handshakes and other protocols."""

from __future__ import annotations

import random
from collections.abc import Iterator

from tests.vectors.recognise import foreign, shapes
from tests.vectors.recognise.shapes import Pieces, extension, vector
from tlspool_common.messages import Side

ECDSA = 0x0403
Case = tuple[str, Side, int, bytes, str]


def _bodies(name: str, **how: object) -> dict[str, Pieces]:
    return shapes.bodies(random.Random(name), **how)


def _case(name: str, found: dict[str, Pieces], note: str = "", scheme: int = ECDSA) -> Case:
    return f"transcript-{name}", Side.CLIENT, scheme, shapes.join(shapes.transcript(found)), note


def _cut_and_bent() -> Iterator[Case]:
    pieces = shapes.transcript(_bodies("whole", status=True))
    whole = shapes.join(pieces)
    places = shapes.boundaries(pieces)
    yield "transcript-by-server", Side.SERVER, ECDSA, whole, "wrong role"
    yield "transcript-trailing", Side.CLIENT, ECDSA, whole + b"\0", "one byte too many"
    yield "transcript-cut-last", Side.CLIENT, ECDSA, whole[:-1], "one byte short"
    for number, (name, at) in enumerate(places):
        yield f"transcript-cut-{number:02}-{_plain(name)}", Side.CLIENT, ECDSA, whole[:at], f"ends before {name}"
    for number, ((name, data), (_, at)) in enumerate(zip(pieces, [("", 0), *places], strict=True)):
        if shapes.is_fixed(name) and data:
            bent = bytearray(whole)
            bent[at + len(data) - 1] ^= 1
            yield (
                f"transcript-bent-{number:02}-{_plain(name)}",
                Side.CLIENT,
                ECDSA,
                bytes(bent),
                f"a bit of {name} flipped",
            )


def _plain(name: str) -> str:
    return name.lower().replace(".", "-").replace("_", "-")


def _order() -> Iterator[Case]:
    whole = _bodies("order", status=True)
    messages = {name: shapes.join(shapes.message(shapes.NUMBERS[name], name, body)) for name, body in whole.items()}
    names = list(messages)
    for at, name in enumerate(names):
        if name != "CertificateStatus":
            content = b"".join(messages[each] for each in names if each != name)
            yield f"transcript-without-{name.lower()}", Side.CLIENT, ECDSA, content, "a message is missing"
        twice = b"".join(messages[each] * (1 + (each == name)) for each in names)
        yield f"transcript-two-{name.lower()}", Side.CLIENT, ECDSA, twice, "a message is doubled"
        if at + 1 < len(names):
            swapped = [*names[:at], names[at + 1], name, *names[at + 2 :]]
            content = b"".join(messages[each] for each in swapped)
            yield f"transcript-{name.lower()}-late", Side.CLIENT, ECDSA, content, "two messages have changed places"
    joined = b"".join(messages.values())
    for name, before, after in (
        ("hello-request", b"\0\0\0\0", b""),
        ("hello-verify-request", b"\3\0\0\x03\xfe\xfd\0", b""),
        ("new-session-ticket", b"", b"\4\0\0\x06\0\0\0\0\0\0"),
        ("finished", b"", b"\x14\0\0\x0c" + bytes(12)),
        ("certificate-verify", b"", b"\x0f\0\0\x08\4\3\0\4abcd"),
        ("change-cipher-spec", b"", b"\1"),
        ("supplemental-data", b"", b"\x17\0\0\0"),
    ):
        yield f"transcript-with-{name}", Side.CLIENT, ECDSA, before + joined + after, ""
    hello_retry = messages["ClientHello"] + messages["ServerHello"]
    yield "transcript-two-hellos", Side.CLIENT, ECDSA, hello_retry + joined, "as after a HelloRetryRequest"
    yield "transcript-twice", Side.CLIENT, ECDSA, joined + joined, "renegotiation"
    yield "transcript-abbreviated", Side.CLIENT, ECDSA, hello_retry + b"\x14\0\0\x0c" + bytes(12), "resumption"
    records = b"\x16\3\3" + len(joined).to_bytes(2, "big") + joined
    yield "transcript-as-record", Side.CLIENT, ECDSA, records, "with a record header"
    dtls = b""
    for number, message in enumerate(messages.values()):
        head = message[:4] + number.to_bytes(2, "big") + b"\0\0\0" + message[1:4]
        dtls += head + message[4:]
    yield "transcript-dtls", Side.CLIENT, ECDSA, dtls, "DTLS 1.2: message number and fragment in each header"
    yield (
        "transcript-sslv2-hello",
        Side.CLIENT,
        ECDSA,
        b"\x80\x2e\1\3\3\0\x15\0\0\0\x10" + bytes(40),
        "RFC 6101 appendix E",
    )


def _bodies_of_others() -> Iterator[Case]:
    chance = random.Random("others")

    def other(name: str, note: str = "", scheme: int = ECDSA, **bodies: Pieces) -> Case:
        return _case(name, {**_bodies("others", status="CertificateStatus" in bodies), **bodies}, note, scheme)

    hello = shapes.client_hello(chance)
    for version, name in (
        (b"\3\0", "ssl3"),
        (b"\3\1", "tls10"),
        (b"\3\2", "tls11"),
        (b"\3\4", "tls13"),
        (b"\xfe\xfd", "dtls12"),
    ):
        yield other(f"client-hello-{name}", ClientHello=[("version", version), *hello[1:]])
        yield other(f"server-hello-{name}", ServerHello=shapes.server_hello(chance, version=version))
    yield other("compressed", ServerHello=shapes.server_hello(chance, compression=b"\1"))
    chosen = extension(43, b"\3\4") + extension(51, b"\0\x1d\0\x20" + bytes(32))
    yield other("of-tls13", "ServerHello chooses TLS 1.3", ServerHello=shapes.server_hello(chance, chosen))
    tls13 = _bodies("others")
    tls13["ServerHello"] = shapes.server_hello(chance, chosen)
    real13 = shapes.join(shapes.transcript({name: tls13[name] for name in ("ClientHello", "ServerHello")}))
    real13 += b"\x08\0\0\2\0\0" + b"\x0d\0\0\x0b\0\0\x08\0\x0d\0\4\0\2\4\3" + b"\x0b\0\0\4\0\0\0\0"
    yield "transcript-tls13-messages", Side.CLIENT, ECDSA, real13, "EncryptedExtensions and so on"
    twice = extension(23, b"") + extension(23, b"")
    yield other("extension-twice", ClientHello=shapes.client_hello(chance, twice))
    yield other("server-extension-twice", ServerHello=shapes.server_hello(chance, twice))
    none = vector("compressions", 1, [("compressions", b"\1")])
    yield other("no-null-compression", ClientHello=[*hello[:6], *none])
    odd = vector("suites", 2, [("suites", b"\xc0\x2b\xc0")])
    yield other("odd-suites", ClientHello=[*hello[:4], *odd, *hello[6:]])
    yield other("no-suites", ClientHello=[*hello[:4], *vector("suites", 2, []), *hello[6:]])
    yield other(
        "session-id-33", ClientHello=[*hello[:2], *vector("session_id", 1, [("session_id", bytes(33))]), *hello[4:]]
    )
    yield other("no-certificate-of-server", ServerCertificate=shapes.chain())
    yield other("no-certificate-of-client", "then there is no CertificateVerify", ClientCertificate=shapes.chain())
    yield other("certificate-is-text", ServerCertificate=shapes.chain(b"-----BEGIN CERTIFICATE-----"))
    yield other("certificate-cut", ClientCertificate=shapes.chain(shapes.der(40, b"")[:-1]))
    yield other("certificate-and-more", ClientCertificate=shapes.chain(shapes.der(40, b"") + b"\0"))
    yield other("certificate-indefinite", ClientCertificate=shapes.chain(b"\x30\x80\2\1\1\0\0"), note="not DER")
    yield other("certificate-raw-key", ClientCertificate=shapes.chain(b"\4" + bytes(64)), note="no SEQUENCE")
    yield other("certificate-of-3-octets", ServerCertificate=shapes.chain(b"\x30\1\0"))
    yield other("status-not-ocsp", CertificateStatus=[("other", b"\2\0\0\1x")])
    yield other("status-empty", CertificateStatus=[("other", b"\1\0\0\0")])
    public = shapes.point(chance, shapes.X25519)
    for name, number in (("secp256k1", 22), ("ffdhe2048", 256), ("hybrid", 4588)):
        yield other(f"group-{name}", ServerKeyExchange=shapes.key_exchange_body(public, number))
    explicit = [("curve_type", b"\1"), *shapes.key_exchange_body(public, shapes.X25519)[1:]]
    yield other("explicit-curve", ServerKeyExchange=explicit)
    dhe = b"".join(len(part).to_bytes(2, "big") + part for part in (b"\xff" * 128, b"\2", b"\x7f" * 128))
    yield other(
        "dhe", ServerKeyExchange=[("other", dhe + b"\4\1\0\1s")], ClientKeyExchange=[("other", b"\0\x80" + bytes(128))]
    )
    unsigned = shapes.key_exchange_body(public, shapes.X25519)[:-2] + vector("signature", 2, [])
    yield other("server-unsigned", ServerKeyExchange=unsigned)
    wrong = shapes.key_exchange_body(bytes(64) + b"\4", shapes.P256)
    yield other("server-point-bad", ServerKeyExchange=wrong)
    yield other("server-point-short", ServerKeyExchange=shapes.key_exchange_body(public[:-1], shapes.X25519))
    p256 = shapes.point(chance, shapes.P256)
    yield other("client-of-another-group", ClientKeyExchange=vector("point", 1, [("point", p256)]))
    yield other("client-point-unreduced", ClientKeyExchange=vector("point", 1, [("point", b"\xff" * 32)]))
    rsa = [("other", b"\1\0" + bytes(256))]
    found = _bodies("rsa key exchange")
    del found["ServerKeyExchange"]
    yield _case("rsa-key-exchange", {**found, "ClientKeyExchange": rsa}, "static RSA has no ServerKeyExchange")
    yield other("client-psk", ClientKeyExchange=[("other", b"\0\4user\x20" + public)])
    yield other("scheme-not-offered", "the scheme is known, but the server did not ask for it", scheme=0x0807)
    request = shapes.certificate_request((ECDSA,), (b"\x31\0",))
    yield other("name-is-no-sequence", CertificateRequest=request)
    yield other("name-cut", CertificateRequest=shapes.certificate_request((ECDSA,), (b"\x30\2\1",)))
    yield other("no-schemes", CertificateRequest=[("other", b"\1\x40\0\0\0\0")], note="TLS 1.1 has no list of schemes")
    yield other("done-with-body", ServerHelloDone=[("other", b"\0")])
    yield other("no-extension-body", ClientHello=[*hello[:8], ("extension", b"\0\4\0\x17\0\1")])


def _foreign() -> Iterator[Case]:
    """Transcripts that are something else as well."""
    trailer = bytes.fromhex("04001600080006050266000000") + b"\4\xff\0\0\0\x0e"
    for group, size in ((shapes.X25519, 32), (shapes.X448, 56)):
        found = _bodies("openpgp", group=group)
        found["ClientKeyExchange"] = vector("point", 1, [("point", bytes(range(size - len(trailer))) + trailer)])
        yield _case(f"openpgp-{size}", found, "the client's key ends in an OpenPGP version 4 trailer")
    yield _case(
        "dnssec-uri", _dnssec(), "also RRSIG RDATA of algorithm 13 for a URI record of the root, and that record"
    )


def _dnssec() -> dict[str, Pieces]:
    """Type 256 is 01 00: the header of ClientHello.  The record's data are the rest of the transcript."""
    found = _bodies("dnssec")
    hello = found["ClientHello"]
    rest = vector("extensions", 2, extension(21, bytes(0x0D00 - len(shapes.join(hello[:8])) - 6)))
    size_b = len(shapes.join(shapes.transcript({**found, "ClientHello": [*hello[:8], *rest]})))
    ttl = b"\3\3ab"
    record = b"\1\0\0\1" + ttl + (size_b - 30).to_bytes(2, "big")
    random_ = ttl[2:] + bytes(10) + b"\0" + b"\0" + record + bytes(8)
    found["ClientHello"] = [hello[0], ("random", random_), *hello[2:8], *rest]
    return found


def refused() -> Iterator[Case]:
    for part in (_cut_and_bent, _order, _bodies_of_others, _foreign):
        yield from part()
    for frame in (foreign.X25519_FRAME, foreign.X448_FRAME):
        content = (bytes([1, 0, 0, frame[3] + 64]) + bytes(range(60)) + frame).ljust(68 + frame[3], b"\x11")
        yield f"ske-like-hello-{frame[3]}-by-client", Side.CLIENT, ECDSA, content, "begins as a transcript does"
