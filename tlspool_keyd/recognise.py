"""Decide whether bytes are content that a TLS handshake signs.  Pure, and the heart of the key daemon.

    what                                    who signs   length
    --------------------------------------  ----------  -----------------------------------------------
    TLS 1.3 CertificateVerify               both        130 or 146        RFC 8446 section 4.4.3
    TLS 1.2 ServerKeyExchange (ECDHE)       server      100 124 133 165 201   RFC 8422 section 5.4
    TLS 1.2 client CertificateVerify        client      the whole transcript  RFC 5246 section 7.4.8

Everything else is refused.  The caller is a worker that may have been taken over, so "could this be a TLS
handshake" is not the question; it is "could anybody, anywhere, take this for something else".

**TLS 1.3** was made for that: 64 spaces and a context string that ends in NUL come before 32 or 48 bytes of
hash, and nothing else is free.  Server, client, exported authenticators (RFC 9261) and delegated credentials
(RFC 9345) differ in the string.

**The TLS 1.2 client transcript** begins with 01, and is walked to its last byte: nine or ten messages of known
types in their one order, each length exact, each body taken apart.  Yet randoms, cipher suites, names, and
extensions are bytes that a worker chooses, and so are the last 32 (an X25519 key).

**The TLS 1.2 ServerKeyExchange** is weaker still: 64 random bytes that a worker chooses freely, then
``03 group length``, then a point.  A serial number, a nonce or a payload of another format can carry four given
bytes at offset 64.  Therefore:

* Only the exact lengths of five groups; no finite-field DH, whose parameters are free bytes without end.
* A point on a NIST curve must satisfy the curve's equation.  A forger chooses one coordinate, either of them, and
  the other is then as good as random (256 bits or more); another format needs a field of that size to hide it in.
* X25519 and X448 have no such test: any number below the prime is a point, and all its bytes are free.
* Content that any known format could claim is refused (``lookalikes``), transcripts as well, whatever the group.
  An honest ServerKeyExchange is refused by that about once in a million; the next try succeeds.

XXX Not told apart from TLS 1.2 content, because there is nothing to tell it by.  All are signatures over bare
bytes whose beginning and end are anybody's:

* a detached signature over a file of at least 100 bytes (CMS without signed attributes, ``openssl dgst -sign``,
  minisign, UEFI variables).  For instance a transcript can be a ZIP archive as well, which is read from its end and
  may have a comment there; and 100 bytes of any binary file format that takes 64 bytes of its choice;
* OpenPGP version 3, whose trailer is five bytes of type and time;
* a WebAuthn assertion with 31 bytes of extensions (100 in all), since a hash ends it and a hash begins it;
* BGPsec (RFC 8205) and version 2 of CT (RFC 9162), which begin with a number of their own;
* DTLS 1.2, whose ServerKeyExchange signs the same bytes as that of TLS 1.2.

Against those only the use of one key for one purpose helps, or ``tls_min_version 1.3``: keyd then refuses TLS 1.2
content at all.  An SSH exchange hash, U2F and a CT tree head have other lengths (20 to 69 bytes), and TLS 1.0 and 1.1
sign with MD5 or SHA-1, for which there is no scheme.
"""

from __future__ import annotations

from enum import Enum
from typing import NoReturn

from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import Side
from tlspool_keyd import lookalikes
from tlspool_keyd.lookalikes import definite_end
from tlspool_keyd.schemes import BY_NUMBER


class Recognised(Enum):
    """What the content is."""

    TLS13_CERTIFICATE_VERIFY = "tls13-certificate-verify"
    TLS12_SERVER_KEY_EXCHANGE = "tls12-server-key-exchange"
    TLS12_CLIENT_CERTIFICATE_VERIFY = "tls12-client-certificate-verify"


def _refuse(why: str) -> NoReturn:
    raise PoolError(Code.CONTENT_REFUSED, why)


# --- TLS 1.3 --------------------------------------------------------------------------------------

_PAD = b"\x20" * 64
_TLS13_PREFIX = {
    Side.SERVER: _PAD + b"TLS 1.3, server CertificateVerify\0",
    Side.CLIENT: _PAD + b"TLS 1.3, client CertificateVerify\0",
}
_TLS13_LENGTHS = (130, 146)
"""Prefix (98) and a SHA-256 or SHA-384 transcript hash; every TLS 1.3 cipher suite uses one of them."""

# --- named groups (RFC 8422 section 5.1.1) ----------------------------------------------------------

_P256, _P384, _P521, _X25519, _X448 = 23, 24, 25, 29, 30

_POINT_B = {_P256: 65, _P384: 97, _P521: 133, _X25519: 32, _X448: 56}

_FIELD = {
    _P256: 2**256 - 2**224 + 2**192 + 2**96 - 1,
    _P384: 2**384 - 2**128 - 2**96 + 2**32 - 1,
    _P521: 2**521 - 1,
    _X25519: 2**255 - 19,
    _X448: 2**448 - 2**224 - 1,
}

_CURVE_B = {  # of y^2 = x^3 - 3x + b (NIST SP 800-186 section 3.2.1)
    _P256: 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B,
    _P384: 0xB3312FA7E23EE7E4988E056BE3F82D19181D9C6EFE8141120314088F5013875AC656398D8A2ED19D2A85C8EDD3EC2AEF,
    _P521: int(
        "0051953EB9618E1C9A1F929A21A0B68540EEA2DA725B99B315F3B8B489918EF109E1"
        "56193951EC7E937B1652C0BD3BB1BF073573DF883D2C34F1EF451FD46B503F00",
        16,
    ),
}


def _check_point(group: int, point: bytes) -> None:
    """Refuse what is no public key of the group in its TLS form."""
    if len(point) != _POINT_B[group]:
        _refuse(f"a point of {len(point)} bytes does not belong to group {group}")
    prime = _FIELD[group]
    if group in (_X25519, _X448):
        # RFC 7748 section 5: a key that was computed is reduced, the top bit of X25519 included
        if int.from_bytes(point, "little") >= prime:
            _refuse("the Montgomery coordinate is not reduced")
        return
    half = len(point) // 2
    x = int.from_bytes(point[1 : 1 + half], "big")
    y = int.from_bytes(point[1 + half :], "big")
    if point[0] != 4 or x >= prime or y >= prime:
        _refuse("not an uncompressed point")
    if (y * y - (x * x * x - 3 * x + _CURVE_B[group])) % prime:
        _refuse("the point is not on its curve")


# --- TLS 1.2 ServerKeyExchange ----------------------------------------------------------------------

_SKE_HEAD = 64
"""client_random and server_random."""

_SKE_LENGTHS = frozenset(_SKE_HEAD + 4 + size for size in _POINT_B.values())


def _check_server_key_exchange(content: bytes) -> None:
    if len(content) not in _SKE_LENGTHS:
        _refuse(f"{len(content)} bytes are no TLS content that a server signs")
    curve_type, group, size = content[64], int.from_bytes(content[65:67], "big"), content[67]
    if curve_type != 3 or group not in _POINT_B or size != len(content) - 68:
        _refuse("neither CertificateVerify nor ServerKeyExchange with a named group")
    _check_point(group, content[68:])
    _check_lookalikes(content)


def _check_lookalikes(content: bytes) -> None:
    name = lookalikes.name_of(content)
    if name:
        _refuse(f"the content could be taken for {name}")


# --- TLS 1.2 client CertificateVerify: the transcript -------------------------------------------------

_TLS12 = 0x0303
_SUPPORTED_VERSIONS = b"\0\x2b"


class _Cursor:
    """Take a message apart; whatever does not fit is refused."""

    __slots__ = ("at", "data", "name")

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.data):
            _refuse(f"{self.name} is cut short")
        part = self.data[self.at : end]
        self.at = end
        return part

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int, low: int, high: int, unit: int = 1) -> bytes:
        """Take a vector with ``size`` length octets, of ``low`` to ``high`` bytes in units."""
        data, start = self.data, self.at + size
        if start > len(data):
            _refuse(f"{self.name} is cut short")
        length = int.from_bytes(data[self.at : start], "big")
        if not low <= length <= high or length % unit:
            _refuse(f"{self.name} has a vector of {length} bytes")
        self.at = end = start + length
        if end > len(data):
            _refuse(f"{self.name} is cut short")
        return data[start:end]

    @property
    def more(self) -> bool:
        return self.at < len(self.data)

    def end(self) -> None:
        if self.more:
            _refuse(f"{self.name} has {len(self.data) - self.at} bytes too many")


def _extensions(cursor: _Cursor) -> set[bytes]:
    """Walk an extension block, which may be absent (RFC 5246 section 7.4.1.2), to the end of the message."""
    kinds: set[bytes] = set()
    if not cursor.more:
        return kinds
    block = cursor.vector(2, 0, 65535)
    cursor.end()
    at, size = 0, len(block)
    while at < size:
        kind = block[at : at + 2]
        at += 4 + int.from_bytes(block[at + 2 : at + 4], "big")
        if at > size:
            _refuse(f"{cursor.name} extensions is cut short")
        if kind in kinds:
            _refuse(f"{cursor.name} has extension {int.from_bytes(kind, 'big')} twice")
        kinds.add(kind)
    return kinds


def _client_hello(body: _Cursor) -> None:
    if body.number(2) != _TLS12:
        _refuse("ClientHello is not of TLS 1.2")
    body.take(32)
    body.vector(1, 0, 32)
    body.vector(2, 2, 65534, unit=2)
    if 0 not in body.vector(1, 1, 255):
        _refuse("ClientHello lacks the null compression")
    _extensions(body)


def _server_hello(body: _Cursor) -> None:
    if body.number(2) != _TLS12:
        _refuse("ServerHello is not of TLS 1.2")
    body.take(32)
    body.vector(1, 0, 32)
    body.take(2)
    if body.number(1) != 0:
        _refuse("ServerHello chose a compression")
    if _SUPPORTED_VERSIONS in _extensions(body):
        _refuse("ServerHello chose another version")


def _certificates(body: _Cursor) -> None:
    chain = _Cursor(body.name, body.vector(3, 1, 2**24 - 1))
    body.end()
    while chain.more:
        certificate = chain.vector(3, 4, 2**24 - 1)
        if certificate[0] != 0x30 or definite_end(certificate, 0) != len(certificate):
            _refuse(f"{body.name} holds something else than certificates")


def _certificate_status(body: _Cursor) -> None:
    if body.number(1) != 1:
        _refuse("CertificateStatus is not OCSP")
    body.vector(3, 1, 2**24 - 1)
    body.end()


def _server_params(body: _Cursor) -> int:
    """Check the ECDHE parameters and the signature's frame; return the group."""
    if body.number(1) != 3:
        _refuse("ServerKeyExchange names no group")
    group = body.number(2)
    if group not in _POINT_B:
        _refuse(f"ServerKeyExchange names group {group}")
    _check_point(group, body.vector(1, 1, 255))
    body.take(2)  # the remote's own scheme: its business, and OpenSSL's
    body.vector(2, 1, 65535)
    body.end()
    return group


def _certificate_request(body: _Cursor) -> set[int]:
    """Check the request; return the signature schemes it allows."""
    body.vector(1, 1, 255)
    schemes = body.vector(2, 2, 65534, unit=2)
    names = _Cursor("CertificateRequest names", body.vector(2, 0, 65535))
    body.end()
    while names.more:
        name = names.vector(2, 2, 65535)
        if name[0] != 0x30 or definite_end(name, 0) != len(name):
            _refuse("CertificateRequest holds something else than names")
    return {int.from_bytes(schemes[at : at + 2], "big") for at in range(0, len(schemes), 2)}


def _message(transcript: _Cursor, kind: int, name: str) -> _Cursor:
    """Take the next handshake message, which must be of this kind (RFC 5246 section 7.4)."""
    found = transcript.number(1)
    if found != kind:
        _refuse(f"handshake message {found} where {name} belongs")
    return _Cursor(name, transcript.vector(3, 0, 2**24 - 1))


def _check_client_transcript(content: bytes, scheme: int) -> None:
    """Walk ClientHello .. ClientKeyExchange of a full ECDHE handshake with client authentication.

    HelloRequest is never part of a transcript; HelloVerifyRequest is DTLS; NewSessionTicket and Finished
    come later; an abbreviated handshake has no CertificateVerify.
    """
    transcript = _Cursor("the transcript", content)
    _client_hello(_message(transcript, 1, "ClientHello"))
    _server_hello(_message(transcript, 2, "ServerHello"))
    _certificates(_message(transcript, 11, "server Certificate"))
    if content[transcript.at : transcript.at + 1] == b"\x16":
        _certificate_status(_message(transcript, 22, "CertificateStatus"))
    group = _server_params(_message(transcript, 12, "ServerKeyExchange"))
    if scheme not in _certificate_request(_message(transcript, 13, "CertificateRequest")):
        _refuse(f"the remote did not offer scheme {scheme:#06x}")
    _message(transcript, 14, "ServerHelloDone").end()
    _certificates(_message(transcript, 11, "client Certificate"))
    exchange = _message(transcript, 16, "ClientKeyExchange")
    _check_point(group, exchange.vector(1, 1, 255))
    exchange.end()
    transcript.end()
    _check_lookalikes(content)


# --- the one function ---------------------------------------------------------------------------------


def recognise_untrusted(content: bytes, side: Side, scheme: int) -> Recognised:
    """Say what the content is, to be signed by this side of a TLS handshake with this scheme.

    Raises:
        PoolError: CONTENT_REFUSED, with the reason; nothing else.
    """
    row = BY_NUMBER.get(scheme)
    if row is None:
        _refuse(f"scheme {scheme:#06x} is not for TLS handshakes")
    if len(content) in _TLS13_LENGTHS and content.startswith(_TLS13_PREFIX[side]):
        if not row.in_tls13:
            _refuse(f"{row.scheme.name} is not for TLS 1.3")
        return Recognised.TLS13_CERTIFICATE_VERIFY
    if side is Side.SERVER:
        _check_server_key_exchange(content)
        return Recognised.TLS12_SERVER_KEY_EXCHANGE
    _check_client_transcript(content, scheme)
    return Recognised.TLS12_CLIENT_CERTIFICATE_VERIFY
