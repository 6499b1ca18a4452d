"""Formats of other protocols that could be bent into a TLS 1.2 handshake.  Pure; ``recognise`` asks it.

A worker that was taken over chooses nearly all bytes of a ServerKeyExchange or of a client's transcript.  It may
choose them so that they mean something to a verifier of another protocol that trusts the same key.  Each format
here is known by what every one of its objects must have; random bytes have it by chance so seldom that an honest
handshake is refused about once in a million (tests/unit/test_recognise.py measures it).

    format                                  known by                                              by chance 1 in
    --------------------------------------  ----------------------------------------------------  --------------
    X.509, CSR, CRL, OCSP, CMS, CVC, GSS    one SEQUENCE, SET, 7F4E or GSS token, with members    2^20
      (all BER)                             to its end
    JWS, HTTP signatures, XML, PEM, DSSE,   18 printable octets at the start, or behind a length  2^23
      Roughtime, QUIC Crypto, MLS, libp2p   of 1, 2 or 4 octets
    SSH (user authentication, certificate,  a 4-octet integer at the start that is at most the    2^24
      host key proof), CT, APK, PASETO      length of the content, in either byte order
    SSHSIG, DSSE without type               their first octets                                    2^48
    COSE_Sign, COSE_Sign1, counter          an array of 4 to 6 whose first text is a              2^72
      signatures                            "...Signature..."
    DNSSEC RRSIG, SIG(0)                    type and TTL said twice; all zero                     2^48
    IKEv2                                   version, exchange and message id of IKE_SA_INIT       2^44
    OpenPGP version 4, 5, 6                 the trailer                                           2^40

Formats that sign bare bytes have no mark to know them by: see the end of recognise's docstring.
"""

from __future__ import annotations

_PRINTABLE = frozenset(range(0x20, 0x7F)) | {9, 10, 13}
_TEXT_B = 18
"""The shortest header of a JWS has 20: {"alg":"ES256"} in base64url.  (98/256)^18 is 2^-25, at four places."""

_TEXT_AT = (0, 1, 2, 4)

_MAGIC = (b"SSHSIG", b"DSSEv1 ")
"""OpenSSH PROTOCOL.sshsig section 3; DSSE's pre-authentication encoding, whose type may be empty."""

_CBOR_ARRAYS = (0x84, 0x85, 0x86)
"""Sig_structure (RFC 9052 section 4.4) and Countersign_structure (RFC 9338 section 3.3)."""

_BER_TAGS = (b"\x30", b"\x31", b"\x3f", b"\x7f\x4e", b"\x60")
"""SEQUENCE; SET, of CMS signed attributes (RFC 5652 section 5.4); either of them with a long tag, which X.690 section
8.1.2.2 forbids and OpenSSL 3.0 reads; body of a card-verifiable certificate; GSS token."""

_IKE_SA_INIT = 34


def _head(data: bytes, at: int) -> tuple[int, int | None]:
    """Read a BER tag and length; return where the value starts (-1, 0: cut short) and its length (None: indefinite)."""
    size = len(data)
    if at < size and data[at] & 0x1F == 0x1F:  # high tag number: more octets follow
        at += 1
        while at < size and data[at] & 0x80:
            at += 1
    at += 1
    if at >= size:
        return -1, 0
    length = data[at]
    at += 1
    if length < 0x80:
        return at, length
    if length == 0x80:
        return at, None
    octets = length & 0x7F
    return at + octets, int.from_bytes(data[at : at + octets], "big")


def definite_end(data: bytes, at: int) -> int:
    """Return where an element of definite length ends; -1 when it is none, or runs beyond the data."""
    start, length = _head(data, at)
    return start + length if length is not None and start + length <= len(data) else -1


def element_end(data: bytes, at: int) -> int:
    """Return where a BER element ends, in any length form and nesting of forms; -1 when it does not."""
    depth = 0  # of indefinite lengths that wait for their 00 00
    while True:
        start, length = _head(data, at)
        if start < 0:
            return -1
        if length is None:
            if not data[at] & 0x20:  # only constructed elements have it (X.690 section 8.1.3.2)
                return -1
            depth += 1
            at = start
        else:
            if depth and data[at : at + 2] == b"\0\0":
                depth -= 1
            at = start + length
            if at > len(data):
                return -1
        if not depth:
            return at


def is_ber(content: bytes) -> bool:
    """Whether the content is one element of a kind that gets signed, with members to its very end."""
    size = len(content)
    if not content.startswith(_BER_TAGS) or element_end(content, 0) != size:
        return False
    at, length = _head(content, 0)
    if content[0] == 0x60:  # RFC 2743 section 3.1: an object identifier, then whatever its owner likes
        return content[at] == 6
    last = size if length is not None else size - 2
    while 0 <= at < last:
        at = element_end(content, at)
    return at == last


def _is_text(content: bytes) -> bool:
    return any(_PRINTABLE.issuperset(content[at : at + _TEXT_B]) for at in _TEXT_AT)


def _begins_with_a_count(content: bytes) -> bool:
    first = content[:4]
    return int.from_bytes(first, "big") <= len(content) or int.from_bytes(first, "little") <= len(content)


def _is_cose(content: bytes) -> bool:
    return content[0] in _CBOR_ARRAYS and b"Signature" in content[2:20]


def _name_end(data: bytes, at: int) -> int:
    """Return where an uncompressed domain name (RFC 1035 section 3.1) ends; -1 when there is none."""
    while 0 <= at < len(data):
        if not data[at]:
            return at + 1
        at = at + 1 + data[at] if data[at] < 64 else -1
    return -1


def _is_dnssec(content: bytes) -> bool:
    """Whether it is RRSIG RDATA and the RRs it covers (RFC 4034 section 3.1.8.1), or those of SIG(0) (RFC 2931)."""
    if content[:2] == b"\0\0" and content[3:8] == bytes(5):
        return True
    at = _name_end(content, _name_end(content, 18))
    return at > 0 and content[at : at + 2] == content[:2] and content[at + 4 : at + 8] == content[4:8]


def _is_ike(content: bytes) -> bool:
    """Whether it begins with the IKE_SA_INIT message that AUTH signs (RFC 7296 section 2.15)."""
    return content[17] >> 4 == 2 and content[18] == _IKE_SA_INIT and content[20:24] == bytes(4)


def _is_openpgp(content: bytes) -> bool:
    """Whether it ends in the trailer of RFC 9580 section 5.2.4, or of LibrePGP's version 5 (8 octets of length)."""
    size = len(content)
    if content[-6] in (4, 6) and content[-5] == 0xFF and int.from_bytes(content[-4:], "big") < size:
        return True
    return content[-10] == 5 and content[-9] == 0xFF and int.from_bytes(content[-8:], "big") < size


def name_of(content: bytes) -> str:
    """Name the format that content of 100 bytes or more could be taken for; '' when there is none."""
    if is_ber(content):
        return "BER"
    if _is_text(content):
        return "text"
    if _begins_with_a_count(content):
        return "a structure that begins with a count"
    if content.startswith(_MAGIC):
        return "SSHSIG or DSSE"
    if _is_cose(content):
        return "COSE"
    if _is_dnssec(content):
        return "DNSSEC"
    if _is_ike(content):
        return "IKEv2"
    if _is_openpgp(content):
        return "OpenPGP"
    return ""
