"""Invariants of what a remote sends before and while OpenSSL makes sense of it, and of what keyd may sign for it.

One exception type each; what is taken is what a second reader takes; how bytes are cut into pieces changes nothing.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp as x509_ocsp

from tests.fuzz import fuzz_recognise, seeds
from tests.fuzz.target import Target
from tlspool_common import limits
from tlspool_common.codec import encode
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import BY_MESSAGE, ClientHelloSeen, Finding, RemoteShown, Side
from tlspool_online.unreadable import UNREADABLE
from tlspool_worker import certificate_der, facts, ocsp, shown
from tlspool_worker.certificate_der import BadDer
from tlspool_worker.client_hello import HELLO_B, HelloReader, HelloRefused
from tlspool_worker.names import names_untrusted, subject_untrusted
from tlspool_worker.showing import FLIGHT_B, schemes_untrusted
from tlspool_worker.symmetry import IsClient, IsServer, Symmetry

VECTORS = Path(__file__).parents[1] / "vectors"

_REFUSALS = (Code.REMOTE_NOT_TLS, Code.REMOTE_PROTOCOL, Code.REMOTE_ALERT)


@cache
def _hellos():
    return tuple(path.read_bytes() for path in sorted((VECTORS / "hello").glob("*.bin")))


# --- the first bytes ------------------------------------------------------------------------------------


def _read_hello(pieces):
    reader = HelloReader()
    try:
        for piece in pieces:
            found = reader.feed_untrusted(piece)
            assert len(reader.raw) <= 2 * HELLO_B + len(piece)
            if found is not None:
                return found, reader.rest
    except HelloRefused as error:
        assert error.code in _REFUSALS
        assert 0 <= error.alert <= 255
        assert len(error.detail) < 200
        return error.code, b""
    return None, b""


def _plain_hello(data):
    """Read a ClientHello that is known to be one, another way: (random, extensions by number), and what follows."""
    body, at = b"", 0
    while len(body) < 4 or len(body) < 4 + int.from_bytes(body[1:4]):
        end = at + 5 + int.from_bytes(data[at + 3 : at + 5])
        body += data[at + 5 : end]
        at = end
    rest = body[4 + 2 + 32 :]
    for octets in (1, 2, 1):
        rest = rest[octets + int.from_bytes(rest[:octets]) :]
    extensions, rest = {}, rest[2:]
    while rest:
        size = int.from_bytes(rest[2:4])
        extensions[int.from_bytes(rest[:2])], rest = rest[4 : 4 + size], rest[4 + size :]
    return body[6:38], extensions, data[at:]


def _check_hello(data):
    whole, rest = _read_hello([data])
    cut = len(data) * (data[-1] if data else 0) // 256
    pieces, _ = _read_hello([data[:cut], data[cut:]])
    if whole != pieces:
        # Only the guess at what speaks in plaintext may depend on how much has come.
        assert {whole, pieces} <= {Code.REMOTE_NOT_TLS, Code.REMOTE_PROTOCOL}
    if whole is None or isinstance(whole, Code):
        return False
    assert encode(0x62, 0, ClientHelloSeen(session_id=1, sni=whole.sni, alpn=whole.alpn))
    random, extensions, behind = _plain_hello(data)
    assert whole.random == random and rest == behind
    assert whole.sni.encode() == extensions.get(0, b"12345")[5:].lower()
    listed = extensions.get(16, b"12")[2:]
    assert whole.alpn == listed or (len(listed) > limits.ALPN_B and listed.startswith(whole.alpn))
    return True


@cache
def _spoken():
    """What a Symmetry remembers of a ClientHello that it has sent; that one is the same for each input."""
    symmetry = Symmetry()
    symmetry.spoke(_hellos()[0])
    return symmetry._mine


def _check_symmetry(data):
    """The first octet says whether we have spoken, and where the rest is cut."""
    if not data:
        return False
    symmetry, rest = Symmetry(), data[1:]
    spoken = data[0] & 1
    if spoken:
        symmetry._mine = _spoken()
    cut = len(rest) * (data[0] >> 1) // 128
    verdict = None
    given = b""
    try:
        for piece in (rest[:cut], rest[cut:]):
            if piece and verdict is None:
                verdict = symmetry.heard_untrusted(piece)
                given += piece
    except HelloRefused as error:
        assert error.code in _REFUSALS
        return False
    if isinstance(verdict, IsServer):
        assert verdict.data == given  # OpenSSL reads all of it
        return True
    if isinstance(verdict, IsClient):
        assert spoken and given.endswith(verdict.data)
        return True
    assert verdict is None
    return False


def _plain_schemes(flight):
    """Read a flight another way: join whole records, then go from message to message."""
    content, rest = b"", flight
    while len(rest) >= 5 and rest[0] == 22:
        size = rest[3] * 256 + rest[4]
        content += rest[5 : 5 + size]
        rest = rest[5 + size :]
    while len(content) >= 4:
        size = int.from_bytes(content[1:4])
        if len(content) < 4 + size:
            return None
        body = content[4 : 4 + size]
        if content[0] == 13 and body:
            listed = body[1 + body[0] :]
            size_b = int.from_bytes(listed[:2])
            listed = listed[2 : 2 + size_b]
            if not size_b or size_b % 2 or len(listed) < size_b:
                return None
            return {256 * one + two for one, two in zip(listed[::2], listed[1::2], strict=True)}
        content = content[4 + size :]
    return None


def _check_flight(data):
    found = schemes_untrusted(data)
    assert found == _plain_schemes(data)
    return found is not None


def _flight(*messages):
    content = b"".join(bytes((kind,)) + len(body).to_bytes(3) + body for kind, body in messages)
    pieces = [content[at : at + 50] for at in range(0, len(content), 50)]
    return b"".join(b"\x16\x03\x03" + len(piece).to_bytes(2) + piece for piece in pieces)


def _flight_seeds():
    request = b"\2\1\x40\0\6\4\3\x08\7\4\1\0\0"
    yield _flight((2, bytes(70)), (11, bytes(80)), (13, request), (14, b""))
    yield _flight((13, request))
    yield _flight((13, b"\0\0\0")) + b"\x17\x03\x03\0\1x"


# --- certificates ---------------------------------------------------------------------------------------


def _load(data):
    try:
        return x509.load_der_x509_certificate(data)
    except UNREADABLE:
        return None


def _has_extensions(certificate):
    try:
        return bool(certificate.extensions)
    except UNREADABLE:
        return False


def _check_der(data):
    """Whatever the library takes for a certificate is walked over; and what is found is what the library has found."""
    certificate = _load(data)
    try:
        issuer, subject, key = certificate_der.names_and_key_untrusted(data)
        names = certificate_der.general_names_untrusted(data)
    except BadDer:
        assert certificate is None or not _has_extensions(certificate)
        return False
    assert certificate_der.issuer_untrusted(data) == issuer
    assert certificate_der.subject_untrusted(data) == subject
    for part in (issuer, subject, key, *names):
        assert part in data
        (element,) = certificate_der.elements_untrusted(part)
        assert element.whole == part and part.endswith(element.body)
    if certificate is None:
        return True
    assert issuer in certificate.tbs_certificate_bytes
    try:
        spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        written = certificate.issuer.public_bytes(), certificate.subject.public_bytes()
    except UNREADABLE:
        return True
    assert len(spki) != len(key) or spki == key or spki[-20:] == key[-20:]
    assert written == (issuer, subject) or len(written[0]) + len(written[1]) != len(issuer) + len(subject)
    return True


_TAGS = (b"\x30\x80", b"\x30\x82", b"\xa3\x82", b"\x02\x01", b"\x06\x03\x55\x1d", b"\x04\x02", b"\x01\x01\xff")


def _end_point(data, algorithm):
    """Hash a certificate with the hash of its own (outer) signature, but for weak ones (RFC 5929 section 4.1)."""
    made = hashes.Hash(hashes.SHA256() if algorithm.name in ("md5", "sha1") else algorithm)
    made.update(data)
    return made.finalize()


def _check_shown(data):
    """As leaf, as issuer, alone and anchored; what the library does not read, in one of these places.

    Only the first description that there is goes into a message: what the others say of the certificate is in it, too.
    """
    ca, staple = seeds.der("certificate-1-ca"), seeds.der("response-good")
    certificate = _load(data)
    places = (((data, ca), staple), ((data,), b""), ((ca, data), b""))
    names = subject = None
    taken = False
    for chain, with_staple in places if certificate is not None else (places[len(data) % 3],):
        described = shown.Chain(chain, anchored=len(chain) == 2)
        try:
            found = shown.describe_untrusted(described, shown.Wire(), with_staple, seeds.now_s(), tells_chain=True)
        except (ValueError, BadDer):
            continue
        if not taken:
            assert encode(BY_MESSAGE[RemoteShown].code, 0, found)  # it fits the message to the broker
        if chain[0] is data:
            names, subject = found.names, found.subject
        taken = True
        assert len(found.strengths) == len(chain)
    try:
        binding = facts._server_end_point(data)
    except PoolError as error:
        assert error.code is Code.INFO_NOT_FOUND
    else:
        assert binding == _end_point(data, certificate.signature_hash_algorithm)
    if certificate is None:
        assert not taken
        return False
    if names is None:  # it is not described as a leaf: is that because of them?
        try:
            names = names_untrusted(certificate)
        except (ValueError, x509.InvalidVersion):
            names = ()
        subject = subject_untrusted(certificate)
    assert len(names) <= limits.IDENTITY_NAMES and all(name.isprintable() for name in names)
    assert len(subject.encode()) <= limits.SUBJECT_B
    return taken


@cache
def _signed_parts():
    """What of our responses is signed by who may."""
    found = set()
    for der in seeds.ders("response-"):
        response = x509_ocsp.load_der_ocsp_response(der)
        if response.response_status is x509_ocsp.OCSPResponseStatus.SUCCESSFUL:
            found.add(response.tbs_response_bytes)
    return found


@cache
def _certificate(name):
    return x509.load_der_x509_certificate(seeds.der(name))


def _check_ocsp(data):
    leaf, issuer = _certificate("certificate-0-leaf"), _certificate("certificate-1-ca")
    finding, why, until_s = ocsp.check_untrusted(data, leaf, issuer, seeds.now_s())
    assert 0 < len(why) < 400
    if finding in (Finding.BAD, Finding.NONE):
        assert until_s == 0
        return finding is Finding.NONE
    assert x509_ocsp.load_der_ocsp_response(data).tbs_response_bytes in _signed_parts()
    assert until_s >= seeds.now_s() - ocsp.SKEW_S
    return True


# --- what is signed -------------------------------------------------------------------------------------


def _check_recognise(data):
    """Side, scheme, content; the oracle judges all that is taken, and of the rest what begins with a small octet."""
    if len(data) < 4:
        return False
    side = Side.CLIENT if data[0] & 1 else Side.SERVER
    return bool(fuzz_recognise.judge(data[3:], side, int.from_bytes(data[1:3]), always=data[0] < 16))


def _recognise_seeds():
    for path in sorted((VECTORS / "recognise").glob("*/[0-9]*.json")):
        case = json.loads(path.read_text())
        content = path.with_suffix(".bin").read_bytes()
        if len(content) <= 4000:
            yield bytes((case["side"] == "client",)) + int(case["scheme"], 16).to_bytes(2) + content


TARGETS = (
    Target(
        "client-hello",
        "A ClientHello that a second reader reads alike, or more is wanted, or HelloRefused; pieces change nothing.",
        _check_hello,
        _hellos,
        (b"\x16\x03\x01", b"\x16\x03\x01\0\1", b"\x01\0\0", b"\0\0", b"\0\x10", b"\x15\x03\x03\0\2", b"\0\x0a\x0a"),
        limit_b=2 * HELLO_B,
    ),
    Target(
        "peer-hello",
        "A role, or more is wanted, or HelloRefused; a server is given all that came, a client what is behind.",
        _check_symmetry,
        lambda: [bytes((first,)) + hello for first in (0, 1, 91) for hello in _hellos()] + [b"\1\x16\x03\x03\0\1\2"],
        (b"\x16\x03\x01", b"\x01\0\0"),
    ),
    Target(
        "server-flight",
        "The schemes of a CertificateRequest as a second reader finds them, or none.",
        _check_flight,
        _flight_seeds,
        (b"\x16\x03\x03", b"\x0d\0\0", b"\0\2", b"\0\6"),
        limit_b=FLIGHT_B,
    ),
    Target(
        "certificate-der",
        "BadDer, or names and key as they stand in the bytes; whatever the library reads is walked over.",
        _check_der,
        lambda: seeds.ders("certificate-"),
        _TAGS,
        der=0,
    ),
    Target(
        "certificate-shown",
        "ValueError, or a description that fits its message, whatever the place of the certificate in the chain.",
        _check_shown,
        lambda: seeds.ders("certificate-"),
        _TAGS,
        der=0,
    ),
    Target(
        "ocsp",
        "Nothing is raised; good and revoked only if what is signed is, byte for byte, what somebody signed who may.",
        _check_ocsp,
        lambda: seeds.ders("response-"),
        _TAGS,
        der=0,
    ),
    Target(
        "recognise",
        "CONTENT_REFUSED, or the shape that the oracle, written apart, names as well.",
        _check_recognise,
        _recognise_seeds,
        (b"\3\0\x17\x41\4", b"\3\0\x1d\x20", b"\x30\x82", b"TLS 1.3, server CertificateVerify\0", b"\x08\7"),
    ),
)
