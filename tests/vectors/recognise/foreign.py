"""Content of other protocols that keys sign: as it is, and bent until it has the frame of a ServerKeyExchange.

``fit`` fills the one field that the format leaves free, until the whole has the length of a group; ``bend`` puts
``03 group length`` at offset 64, which must be inside that field.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import random
from collections.abc import Callable, Iterator

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID

from tests.fixtures import certs

X25519_FRAME = b"\3\0\x1d\x20"
X448_FRAME = b"\3\0\x1e\x38"
FRAMES = {"x25519": X25519_FRAME, "x448": X448_FRAME}

Found = tuple[str, bytes, str]


def tlv(tag: int, *parts: bytes, form: int = 0) -> bytes:
    """A BER element; ``form`` 1 to 4: so many length octets, 5: indefinite."""
    body = b"".join(parts)
    if form == 5:
        return bytes([tag, 0x80]) + body + b"\0\0"
    if not form and len(body) < 128:
        return bytes([tag, len(body)]) + body
    octets = form or (len(body).bit_length() + 7) // 8
    return bytes([tag, 0x80 | octets]) + len(body).to_bytes(octets, "big") + body


def fit(build: Callable[[bytes], bytes], frame: bytes = X25519_FRAME) -> bytes:
    """Fill the free field so that the whole has the length of the group, and bend it."""
    chance = random.Random(frame + build(b""))
    size = 68 + frame[3]
    for free_b in range(1, size):
        data = build(chance.randbytes(free_b))
        if len(data) == size:
            bent = bytearray(data[:64] + frame + data[68:])
            prime = 2**255 - 19 if frame == X25519_FRAME else 2**448 - 2**224 - 1
            if int.from_bytes(bent[68:], "little") >= prime:
                bent[-1] &= 0x7F
            return bytes(bent)
    raise AssertionError(f"does not fit: {len(build(b''))}")


# --- ASN.1 --------------------------------------------------------------------------------------------------------

_ED25519 = bytes.fromhex("300506032b6570")
_ECDSA = bytes.fromhex("300a06082a8648ce3d040302")
_NOBODY = tlv(0x30)
_OID = bytes.fromhex("06032a0304")


def _tbs(free: bytes, form: int = 0, version: bytes = b"") -> bytes:
    """A TBSCertificate that ends in a key of free bytes; the times have no seconds, as BER allows."""
    dates = tlv(0x30, tlv(0x17, b"2501010000Z"), tlv(0x17, b"3501010000Z"))
    spki = tlv(0x30, _ED25519, tlv(0x03, b"\0", free))
    return tlv(0x30, version, b"\2\1\x2a", _ED25519, _NOBODY, dates, _NOBODY, spki, form=form)


def _signed_attributes(digest: bytes) -> bytes:
    """SHA-512 fits X448 exactly: grinding 32 bits of a digest would do."""
    kind = tlv(0x30, bytes.fromhex("06092a864886f70d010903"), tlv(0x31, bytes.fromhex("06092a864886f70d010701")))
    value = tlv(0x30, bytes.fromhex("06092a864886f70d010904"), tlv(0x31, tlv(0x04, digest)))
    return tlv(0x31, tlv(0x30, _OID, tlv(0x31, tlv(0x04, b"abcd"))), kind, value)


def _asn1_bent() -> Iterator[Found]:
    v3 = tlv(0xA0, b"\2\1\2")
    for form in range(5):
        yield f"tbs-v1-form-{form}", fit(lambda f, form=form: _tbs(f, form)), f"{form} octets of length, 0: short form"
        yield (
            f"tbs-v3-form-{form}",
            fit(lambda f, form=form: _tbs(f, form, v3), X448_FRAME),
            f"{form} octets of length, 0: short form",
        )
    yield "tbs-indefinite", fit(lambda f: _tbs(f, 5)), "its 00 00 are the end of the point"
    yield (
        "tbs-version-indefinite",
        fit(lambda f: _tbs(f + b"\0\0", 0, tlv(0xA0, b"\2\1\2", form=5))),
        "only the version has indefinite length; OpenSSL reads that",
    )
    yield (
        "tbs-nested-indefinite",
        fit(lambda f: _tbs(f, 1, tlv(0xA0, tlv(0xA1, b"\2\1\2", form=5), form=5)), X448_FRAME),
        "indefinite within indefinite",
    )
    for tag, what in ((b"\x3f\x10", "long-tag"), (b"\x3f\x80\x10", "longer-tag")):
        yield f"tbs-{what}", fit(lambda f, tag=tag: tag + _tbs(f)[1:]), "tag 16 in long form; OpenSSL reads that"
    yield (
        "tbs-long-tag-of-member",
        fit(lambda f: tlv(0x30, b"\x3f\x81\1\3abc", tlv(0x04, f))),
        "a member with a long tag",
    )
    for group, frame in FRAMES.items():
        yield (
            f"csr-{group}",
            fit(lambda f: tlv(0x30, b"\2\1\0", _NOBODY, tlv(0x30, _ED25519, tlv(3, f)), b"\xa0\0"), frame),
            "",
        )
        crl = b"\2\1\1" + _ECDSA + _NOBODY + tlv(0x17, b"250101000000Z")
        yield (
            f"crl-{group}",
            fit(lambda f, crl=crl: tlv(0x30, crl, tlv(0xA0, tlv(0x30, tlv(0x30, _OID, tlv(4, f))))), frame),
            "free: the value of an extension",
        )
        responder = tlv(0xA2, tlv(4, bytes(range(20)))) + tlv(0x18, b"20250101000000Z") + _NOBODY
        nonce = bytes.fromhex("06092b0601050507300102")
        yield (
            f"ocsp-{group}",
            fit(lambda f, r=responder, n=nonce: tlv(0x30, r, tlv(0xA1, tlv(0x30, tlv(0x30, n, tlv(4, f))))), frame),
            "free: the nonce",
        )
        yield f"spkac-{group}", fit(lambda f: tlv(0x30, tlv(0x30, _ED25519, tlv(3, f)), tlv(0x16)), frame), "NetScape"
        yield f"crmf-{group}", fit(lambda f: tlv(0x30, b"\2\1\0", tlv(0x30, tlv(0xA6, f)), tlv(0x30)), frame), ""
        yield f"one-member-{group}", fit(lambda f: tlv(0x30, tlv(0x30, tlv(4, f))), frame), "as in an OCSP TBSRequest"
    yield "cms-sha512-x448", fit(_signed_attributes, X448_FRAME), "a true SHA-512 digest has this place and size"
    yield "cms-x25519", fit(_signed_attributes_short), ""
    yield "cvc", fit(_card_verifiable), "ISO 7816; free: the key"
    yield (
        "gss-token",
        fit(lambda f: tlv(0x60, bytes.fromhex("06092a864886f712010202"), b"\1\0", f)),
        "RFC 2743 section 3.1: what follows the mechanism is its own",
    )


def _card_verifiable(key: bytes) -> bytes:
    public = tlv(0x06, bytes.fromhex("04007f00070202020203")) + tlv(0x86, key)
    body = b"\x5f\x29\1\0" + tlv(0x42, b"NLCA") + b"\x7f" + tlv(0x49, public)
    return b"\x7f" + tlv(0x4E, body)


def _signed_attributes_short(digest: bytes) -> bytes:
    value = tlv(0x30, bytes.fromhex("06092a864886f70d010904"), tlv(0x31, tlv(0x04, digest)))
    return tlv(0x31, tlv(0x30, _OID, tlv(0x31, tlv(0x04, b"abcd"))), value)


def _asn1_whole() -> Iterator[Found]:
    """Made by a library; none has a length of ours."""
    now = datetime.datetime(2025, 1, 1)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "example.com")])
    for kind in certs.KINDS:
        issued = certs.intermediate().issue("example.com", kind)
        yield f"tbs-certificate-{kind}", issued.certificate.tbs_certificate_bytes, "X.509 version 3"
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(certs.key("p256"), hashes.SHA256())
    yield "csr-p256", request.tbs_certrequest_bytes, ""
    builder = x509.CertificateRevocationListBuilder(subject, now, now + datetime.timedelta(days=30))
    yield "crl", builder.sign(certs.key("p256"), hashes.SHA256()).tbs_certlist_bytes, ""
    issuer = certs.intermediate()
    answer = ocsp.OCSPResponseBuilder().add_response(
        issued.certificate, issuer.certificate, hashes.SHA256(), ocsp.OCSPCertStatus.GOOD, now, None, None, None
    )
    answer = answer.responder_id(ocsp.OCSPResponderEncoding.HASH, issuer.certificate)
    yield "ocsp", answer.sign(issuer.private, hashes.SHA256()).tbs_response_bytes, ""
    info = bytes.fromhex("3031300d060960864801650304020105000420") + hashlib.sha256(b"x").digest()
    yield "digest-info-sha256", info, "what PKCS #1 puts in its padding"
    yield "cms-signed-attributes-sha256", _signed_attributes(hashlib.sha256(b"x").digest()), ""
    yield "kerberos-ap-req", tlv(0x6E, tlv(0x30, b"\xa0\3\2\1\5\xa1\3\2\1\x0e", tlv(0xA3, bytes(60)))), ""
    yield "kerberos-pkinit-authpack", tlv(0x30, tlv(0xA0, tlv(0x30, b"\xa0\5\2\3\1\2\3", bytes(40)))), ""
    yield (
        "gss-mic-rfc4121",
        b"\4\4\0\xff\xff\xff\xff\xff" + bytes(range(8)) + bytes(range(12)),
        "RFC 4121 section 4.2.6.1",
    )


# --- text ---------------------------------------------------------------------------------------------------------


def _b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _text() -> Iterator[Found]:
    for alg in ("ES256", "RS256", "EdDSA"):
        payload = _b64(b'{"iss":"joe","exp":1300819380,"http://example.com/is_root":true}')
        yield f"jws-{alg.lower()}", _b64(b'{"alg":"%s"}' % alg.encode()) + b"." + payload, "compact"
    yield "jws-detached", _b64(b'{"alg":"ES256"}') + b"." + _b64(bytes(range(60))), "RFC 7515 appendix F"
    header = _b64(b'{"alg":"ES256","b64":false,"crit":["b64"]}') + b"."
    yield "jws-unencoded-100", fit(lambda f: header + f), "RFC 7797: the payload is any bytes"
    yield "jws-unencoded-124", fit(lambda f: header + f, X448_FRAME), "RFC 7797: the payload is any bytes"
    yield "jws-short-header-100", fit(lambda f: _b64(b'{"alg":"ES256"}') + b"." + f), "the least there is of text"
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(bytes(range(90)))
    yield "pem", pem, ""
    yield "pem-100", fit(lambda f: pem[:60] + f), ""
    yield "openpgp-cleartext", b"-----BEGIN PGP SIGNED MESSAGE-----\r\nHash: SHA256\r\n\r\nhello\r\n", ""
    base = b'"@method": POST\n"@authority": example.com\n"@path": /\n'
    yield "http-signature", base + b'"@signature-params": ("@method");created=1618884473', "RFC 9421"
    yield "http-signature-100", fit(lambda f: base + f), ""
    yield "xml-signed-info", b'<SignedInfo xmlns="http://www.w3.org/2000/09/xmldsig#"><Reference/></SignedInfo>', ""
    yield "dkim-headers", b"from:joe@example.com\r\nsubject:hi\r\ndkim-signature:v=1; a=rsa-sha256; b=", ""
    yield "libp2p-100", fit(lambda f: b"libp2p-tls-handshake:" + f), ""
    yield "quic-crypto-100", fit(lambda f: b"QUIC CHLO and server config signature\0 \0\0\0" + f), "before IETF QUIC"
    srep = (3).to_bytes(4, "little") + b"\4\0\0\0\x0c\0\0\0RADIMIDPROOT" + b"\1\0\0\0" + bytes(8) + bytes(range(32))
    yield (
        "roughtime-100",
        (b"RoughTime v1 response signature\0" + srep)[:64] + X25519_FRAME + bytes(range(32)),
        "a whole response: only its midpoint is absurd",
    )
    yield "dsse-without-type", fit(lambda f: b"DSSEv1 0  88 " + f), "13 octets of text, then anything"
    yield "mls-leaf-node", fit(lambda f: b"\x13MLS 1.0 LeafNodeTBS\x40\x50" + f), "RFC 9420 section 5.1.2"
    yield "spaces-100", fit(lambda f: b" " * 64 + f), "the padding of TLS 1.3 before the frame of TLS 1.2"


# --- SSH, COSE, OpenPGP, DNSSEC, IKE and more -----------------------------------------------------------------------


def _string(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


def _ssh() -> Iterator[Found]:
    for size in (20, 32, 48, 64):
        session = _string(bytes(range(size)))
        request = session + b"\x32" + _string(b"joe") + _string(b"ssh-connection") + _string(b"publickey") + b"\1"
        yield f"ssh-userauth-{size}", request + _string(b"ssh-ed25519") + _string(bytes(51)), "RFC 4252 section 7"
        yield f"ssh-exchange-hash-{size}", bytes(range(1, size + 1)), "RFC 4253 section 8"
    yield (
        "ssh-userauth-100",
        fit(lambda f: _string(bytes(range(32))) + b"\x32" + _string(b"j" + f)),
        "free: the user's name",
    )
    yield "ssh-userauth-124", fit(lambda f: _string(bytes(range(48))) + b"\x32" + _string(f), X448_FRAME), ""
    certificate = _string(b"ssh-ed25519-cert-v01@openssh.com")
    yield "ssh-certificate-100", fit(lambda f: certificate + _string(f)), "free: the nonce"
    yield "ssh-hostkeys-prove", fit(lambda f: _string(b"hostkeys-prove-00@openssh.com") + _string(f)), ""
    yield "sshsig", b"SSHSIG" + _string(b"file") + _string(b"") + _string(b"sha512") + _string(bytes(64)), ""
    yield "sshsig-100", fit(lambda f: b"SSHSIG" + _string(b"") + _string(b"") + _string(f)), ""
    yield "sshsig-124", fit(lambda f: b"SSHSIG" + _string(b"git") + _string(f) + _string(b""), X448_FRAME), ""


def _cbor(data: bytes) -> bytes:
    return (bytes([0x40 | len(data)]) if len(data) < 24 else bytes([0x58, len(data)])) + data


def _cose() -> Iterator[Found]:
    protected = _cbor(b"\xa1\1\x26")
    for head, parts in (
        ("84", "Signature1"),
        ("85", "Signature"),
        ("85", "CounterSignature"),
        ("84", "CounterSignature0"),
        ("86", "CounterSignatureV2"),
        ("85", "CounterSignature0V2"),
    ):
        label = bytes.fromhex(head) + bytes([0x60 | len(parts)]) + parts.encode() + protected
        label += protected if head == "85" else b""
        yield f"cose-{parts.lower()}", label + b"\x40" + _cbor(b"This is the content."), "RFC 9052, RFC 9338"
        yield f"cose-{parts.lower()}-100", fit(lambda f, label=label: label + b"\x40" + _cbor(f)), "free: the payload"


def _openpgp() -> Iterator[Found]:
    text = b"a document \xff of some length, " * 3
    hashed = bytes.fromhex("0400160800060502") + bytes.fromhex("66000000")
    trailers = {
        "v4": hashed + b"\4\xff" + len(hashed).to_bytes(4, "big"),
        "v5": b"\5" + hashed[1:] + bytes(6) + b"\5\xff" + (len(hashed) + 6).to_bytes(8, "big"),
        "v6": b"\6" + hashed[1:4] + bytes(2) + hashed[4:] + b"\6\xff" + (len(hashed) + 2).to_bytes(4, "big"),
    }
    yield "openpgp-v3", text + b"\0\x66\0\0\0", "five octets of trailer"
    for version, trailer in trailers.items():
        yield f"openpgp-{version}", text + trailer, ""
        for group, frame in FRAMES.items():
            yield (
                f"openpgp-{version}-{group}",
                fit(lambda f, t=trailer: b"\xd3\x8f" + f + t, frame),
                "a binary document",
            )
    key = b"\x99\0\x33\4" + bytes.fromhex("66000000") + b"\x16" + bytes(42)
    yield "openpgp-key-certification", fit(lambda f: key + f + trailers["v4"], X448_FRAME), "free: the user id"


def _dnssec() -> Iterator[Found]:
    owner = b"\7example\3com\0"
    rdata = bytes.fromhex("0001 0d 02 00000e10 67000000 66000000 1234") + owner
    yield "dnssec-a", rdata + owner + bytes.fromhex("0001 0001 00000e10 0004 c0000201"), "RFC 4034 section 3.1.8.1"
    txt = bytes.fromhex("0010 0f 00 00000e10 67000000 66000000 1234 00")
    head = txt + b"\0" + bytes.fromhex("0010 0001 00000e10")
    yield "dnssec-txt-100", fit(lambda f: head + len(f).to_bytes(2, "big") + f), "free: the text record"
    yield "dnssec-txt-124", fit(lambda f: head + len(f).to_bytes(2, "big") + f, X448_FRAME), "free: the text record"
    sig0 = bytes.fromhex("0000 0f 00 00000000 67000000 66000000 1234") + owner
    yield "dnssec-sig0-100", fit(lambda f: sig0 + f), "RFC 2931: a dynamic update"


def _others() -> Iterator[Found]:
    ike = bytes(range(8, 16)) + bytes(8) + bytes.fromhex("21 20 22 08 00000000")
    yield "ikev2-100", fit(lambda f: ike + (28 + len(f)).to_bytes(4, "big") + f), "RFC 7296 section 2.15"
    yield "ct-sct-124", fit(lambda f: b"\0\0\0\0\1\x94\x21\0\0\0\0\1" + f, X448_FRAME), "RFC 6962 section 3.2"
    yield "ct-tree-head", b"\0\1\0\0\1\x94\x21\0\0\0" + bytes(8) + bytes(range(32)), "RFC 6962 section 3.5"
    yield "apk-v2", fit(lambda f: (90).to_bytes(4, "little") + f), "APK signature scheme: a little-endian length"
    yield "paseto", fit(lambda f: (4).to_bytes(8, "little") + (10).to_bytes(8, "little") + b"v4.public." + f), ""
    data = hashlib.sha256(b"example.com").digest() + b"\5\0\0\0\1" + hashlib.sha256(b"{}").digest()
    yield "webauthn-assertion", data, "69 bytes; with extensions it can be 100: see recognise's docstring"


def everything() -> Iterator[Found]:
    """Yield (name, content, note); all are to be refused."""
    for part in (_asn1_bent, _asn1_whole, _text, _ssh, _cose, _openpgp, _dnssec, _others):
        yield from part()
