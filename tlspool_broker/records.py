"""Formats of the records in the databases; all but policy.db byte for byte those of earlier TLS pools.

    localid.db    key: identity        +-------+-----------------------+----+------------------+
                                       | flags | PKCS #11 URI (VALEXP: | 00 | credential:      |
                                       | U32   | the expression)       |    | certificate(s)   |
                                       +-------+-----------------------+----+------------------+
                                       with NO_PKCS11 neither URI nor 00

    disclose.db   key: selector        a local identity, as text without NUL; or 00 and a validation expression
                                       that holds for all remotes of the selector

    trust.db      key: key identifier  +-------+-----------------------+----+------------------+
                                       | flags | validation expression | 00 | data by type     |
                                       +-------+-----------------------+----+------------------+

    policy.db     key: host, service:NAME, localid:IDENTITY     the name of a crypto policy

What follows a trust record's expression, if that is no certificate, is in trustdata.py.

Integers are big-endian.  The low octet of the flags is an enumeration, the rest are bits; bits without a name are
ignored.  A record that does not parse raises RECORD_MALFORMED with what is wrong; the caller adds where.  Nothing
here opens a database or looks inside a certificate.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tlspool_broker.validation.expression import parse
from tlspool_common import limits
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import Side

TYPE_MASK = 0xFF
X509 = 1
PGP = 2
SRP = 3
KERBEROS = 4
VALEXP = 5

CLIENT = 0x100
SERVER = 0x200
ROLE_MASK = CLIENT | SERVER
ROLE_OF = {Side.CLIENT: CLIENT, Side.SERVER: SERVER}

LOCAL_NO_PKCS11 = 0x1000
LOCAL_CHAINED = 0x2000
LOCAL_NEEDS_CHAIN = 0x4000

TRUST_REVOKED = 0x400
TRUST_PINNED = 0x800
TRUST_NOT_ROOT = 0x1000
TRUST_NOT_ROOT_OLD = 0x10000
"""What earlier tools wrote for TRUST_NOT_ROOT; read, never written."""

TRUST_PIN_NAMED = 0x20000
"""Ours: the data of a pin names the remote it is for.  Earlier pools ignore the bit, and refuse such data."""

TRUST_CLASS_MASK = TYPE_MASK | TRUST_REVOKED | TRUST_PINNED
"""What makes two trust records the same kind: a pin (0x801) is no anchor (0x001)."""

_FLAGS = struct.Struct("!I")

_LOCAL_TYPES = {"x509": X509, "pgp": PGP, "srp": SRP, "kerberos": KERBEROS, "valexp": VALEXP}
_TRUST_TYPES = {"x509": X509, "pgp": PGP}
_ROLES = {"client": CLIENT, "server": SERVER}
_LOCAL_BITS = {"noP11": LOCAL_NO_PKCS11, "chained": LOCAL_CHAINED, "needschain": LOCAL_NEEDS_CHAIN}
_TRUST_BITS = {"revoke": TRUST_REVOKED, "pinned": TRUST_PINNED, "notroot": TRUST_NOT_ROOT}
_ALIASES = {"x.509": "x509", "openpgp": "pgp", "krb5": "kerberos", "cli": "client", "srv": "server"}

_PIN_IN_URI = re.compile(r"(?<=[:;?&])\s*pin-value\b[^&;]*", re.IGNORECASE)
_POLICY_KEY = re.compile(r"host|service:[!-~]+|localid:\S+")
_POLICY_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")


def malformed(what: str) -> PoolError:
    """Return the error for a record, or for what is to become one."""
    return PoolError(Code.RECORD_MALFORMED, what)


@dataclass(frozen=True, slots=True)
class LocalRecord:
    """A record of localid.db; ``uri`` holds the expression of a VALEXP record."""

    flags: int
    uri: str
    credential: bytes

    @property
    def type(self) -> int:
        """The credential's type: X509 to VALEXP, or a number without a name."""
        return self.flags & TYPE_MASK

    @property
    def shown_uri(self) -> str:
        """The URI without the PIN that earlier tools let in."""
        return _PIN_IN_URI.sub("", self.uri)

    def encode(self) -> bytes:
        """Write the record."""
        if self.flags & LOCAL_NO_PKCS11:
            return _FLAGS.pack(self.flags) + self.credential
        return _FLAGS.pack(self.flags) + self.uri.encode() + b"\0" + self.credential

    def chain(self) -> tuple[bytes, ...]:
        """Return the certificates of an X.509 record, leaf first.

        Raises:
            PoolError: RECORD_MALFORMED.
        """
        chain = split_der_untrusted(self.credential)
        if len(chain) > 1 and not self.flags & LOCAL_CHAINED:
            raise malformed("bytes behind the certificate of a record that is not marked as a chain")
        return chain


@dataclass(frozen=True, slots=True)
class TrustRecord:
    """A record of trust.db."""

    flags: int
    valexp: str
    data: bytes

    @property
    def is_anchor(self) -> bool:
        """Whether this is an X.509 anchor; pins and revocations share its type octet and are told apart first."""
        return not self.flags & (TRUST_REVOKED | TRUST_PINNED) and self.flags & TYPE_MASK == X509

    @property
    def is_pin(self) -> bool:
        """Whether this pins a certificate; one that is marked as a revocation as well is that."""
        return self.flags & (TRUST_REVOKED | TRUST_PINNED) == TRUST_PINNED and self.flags & TYPE_MASK == X509

    @property
    def is_revocation(self) -> bool:
        """Whether this tells what an issuer of X.509 certificates has revoked."""
        return bool(self.flags & TRUST_REVOKED) and self.flags & TYPE_MASK == X509

    @property
    def may_be_no_root(self) -> bool:
        """Whether a chain may end here although the certificate is not self-issued."""
        return bool(self.flags & (TRUST_NOT_ROOT | TRUST_NOT_ROOT_OLD))

    def encode(self) -> bytes:
        """Write the record."""
        return _FLAGS.pack(self.flags) + self.valexp.encode("ascii") + b"\0" + self.data


def flags_untrusted(value: bytes) -> int | None:
    """Return the flags of a record of either kind, malformed or not; None when it has none."""
    if len(value) < _FLAGS.size:
        return None
    flags: int = _FLAGS.unpack_from(value)[0]
    return flags


def is_condition(value: bytes, role: int) -> bool:
    """Tell whether a record of localid.db, malformed or not, is to be what must hold for remotes in a role."""
    flags = flags_untrusted(value) or 0
    return flags & TYPE_MASK == VALEXP and bool(flags & role)


def with_flags(value: bytes, flags: int) -> bytes:
    """Return a record with other flags and nothing else changed."""
    return _FLAGS.pack(flags) + value[_FLAGS.size :]


def decode_local_untrusted(value: bytes) -> LocalRecord:
    """Read a record of localid.db.

    Raises:
        PoolError: RECORD_MALFORMED.
    """
    flags = flags_untrusted(value)
    if flags is None or len(value) == _FLAGS.size:
        raise malformed(f"{len(value)} bytes are too few")
    if flags & LOCAL_NO_PKCS11:
        return LocalRecord(flags, "", value[_FLAGS.size :])
    uri, nul, credential = value[_FLAGS.size :].partition(b"\0")
    if not nul:
        raise malformed("no NUL behind the PKCS #11 URI")
    try:
        return LocalRecord(flags, uri.decode("utf-8"), credential)
    except UnicodeDecodeError:
        raise malformed("the PKCS #11 URI is not UTF-8") from None


def decode_trust_untrusted(value: bytes) -> TrustRecord:
    """Read a record of trust.db.

    Raises:
        PoolError: RECORD_MALFORMED.
    """
    flags = flags_untrusted(value)
    if flags is None or len(value) < _FLAGS.size + 2:
        raise malformed(f"{len(value)} bytes are too few")
    expression, nul, data = value[_FLAGS.size :].partition(b"\0")
    if not nul:
        raise malformed("no NUL behind the validation expression")
    if not expression or not expression.isascii():
        raise malformed("the validation expression is empty or not ASCII")
    return TrustRecord(flags, expression.decode("ascii"), data)


@dataclass(frozen=True, slots=True)
class Disclosed:
    """A record of disclose.db: an identity, or an expression for all remotes of the selector."""

    identity: str = ""
    expression: str = ""

    def encode(self) -> bytes:
        """Write the record."""
        return self.identity.encode() or b"\0" + self.expression.encode("ascii")


def decode_disclosure_untrusted(value: bytes) -> Disclosed:
    """Read a record of disclose.db.

    Raises:
        PoolError: RECORD_MALFORMED.
    """
    if value.startswith(b"\0"):
        if not value[1:] or not value.isascii():
            raise malformed("the validation expression of the selector is empty or not ASCII")
        return Disclosed(expression=value[1:].decode("ascii"))
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    if not text or not text.isprintable():
        raise malformed("the disclosed identity is no text")
    return Disclosed(text)


def decode_policy_untrusted(value: bytes) -> str:
    """Read a record of policy.db: the name of a crypto policy.

    Raises:
        PoolError: RECORD_MALFORMED.
    """
    text = value.decode("ascii", "replace")
    if not _POLICY_NAME.fullmatch(text):
        raise malformed("that is no name of a crypto policy")
    return text


def split_der_untrusted(data: bytes) -> tuple[bytes, ...]:
    """Split certificates that follow each other, by the lengths of their outer SEQUENCEs (X.690 section 8.1.3).

    Raises:
        PoolError: RECORD_MALFORMED.
    """
    found: list[bytes] = []
    at = 0
    while at < len(data):
        if len(found) == limits.CHAIN_CERTIFICATES:
            raise malformed(f"more than {limits.CHAIN_CERTIFICATES} certificates")
        head = data[at : at + 2]
        if len(head) < 2 or head[0] != 0x30:
            raise malformed(f"no DER certificate at offset {at} of the credential")
        start = at + 2
        size_b = head[1]
        if size_b & 0x80:
            octets = size_b & 0x7F
            if not 1 <= octets <= 4 or start + octets > len(data):
                raise malformed(f"certificate {len(found) + 1} has an impossible length")
            size_b = int.from_bytes(data[start : start + octets], "big")
            start += octets
        end = start + size_b
        if end > len(data):
            raise malformed(f"certificate {len(found) + 1} is cut off")
        if end - at > limits.CERTIFICATE_B:
            raise malformed(f"certificate {len(found) + 1} has more than {limits.CERTIFICATE_B} bytes")
        found.append(data[at:end])
        at = end
    if not found:
        raise malformed("there is no certificate")
    return tuple(found)


def check_policy_key(key: str) -> None:
    """Accept what a crypto policy may be assigned to.

    Raises:
        PoolError: RECORD_MALFORMED.
    """
    if not _POLICY_KEY.fullmatch(key) or len(key.encode()) > limits.IDENTITY_B + len("localid:"):
        raise malformed(f"a policy is assigned to host, service:NAME or localid:IDENTITY, not to {key[:40]!r}")


def check_uri(uri: str) -> None:
    """Accept a PKCS #11 URI (RFC 7512) that may be stored.

    Raises:
        PoolError: RECORD_MALFORMED; the text never holds the URI, which may hold a PIN.
    """
    if not uri.startswith("pkcs11:"):
        raise malformed("the PKCS #11 URI does not start with pkcs11:")
    if has_pin(uri):
        raise malformed("the PKCS #11 URI holds a PIN; leave pin-value out")
    if not uri.isascii() or not uri.isprintable() or " " in uri:
        raise malformed("the PKCS #11 URI has characters that need percent encoding")
    if len(uri) > limits.KEY_URI_B:
        raise malformed(f"the PKCS #11 URI has more than {limits.KEY_URI_B} bytes")


def has_pin(uri: str) -> bool:
    """Tell whether a URI carries a PIN, which must not reach a worker or a terminal."""
    return _PIN_IN_URI.search(uri) is not None


def check_valexp(expression: str) -> None:
    """Accept a validation expression: postfix, one letter a token, exactly one value left.

    Raises:
        PoolError: RECORD_MALFORMED.
    """
    parse(expression)


def conjoined(expressions: Sequence[str]) -> str:
    """Return the expression that is true when all of these are; '' for none."""
    return "".join(expressions) + "&" * (len(expressions) - 1)


def local_flags(words: Iterable[str]) -> int:
    """Return the flags for words such as x509, client, server.

    Raises:
        PoolError: RECORD_MALFORMED, an unknown word, or not exactly one type.
    """
    return _flags_of(words, _LOCAL_TYPES, {**_ROLES, **_LOCAL_BITS})


def trust_flags(words: Iterable[str]) -> int:
    """Return the flags for words such as x509, client, server, notroot.

    Raises:
        PoolError: RECORD_MALFORMED, an unknown word, or not exactly one type.
    """
    return _flags_of(words, _TRUST_TYPES, {**_ROLES, **_TRUST_BITS})


def local_words(flags: int) -> list[str]:
    """Return the words for the flags of a local record."""
    return _words_of(flags, _LOCAL_TYPES, {**_ROLES, **_LOCAL_BITS})


def trust_words(flags: int) -> list[str]:
    """Return the words for the flags of a trust record."""
    if flags & TRUST_NOT_ROOT_OLD:
        flags |= TRUST_NOT_ROOT
    return _words_of(flags, _TRUST_TYPES, {**_ROLES, **_TRUST_BITS})


def _flags_of(words: Iterable[str], types: dict[str, int], bits: dict[str, int]) -> int:
    known = {word.lower(): word for word in (*types, *bits)}
    flags = 0
    named: list[str] = []
    for given in words:
        lower = given.strip().lower()
        word = known.get(_ALIASES.get(lower, lower))
        if word is None:
            raise malformed(f"flag {given!r} is none of {', '.join([*types, *bits])}")
        if word in types:
            named.append(word)
            flags |= types[word]
        else:
            flags |= bits[word]
    if len(set(named)) != 1:
        # Types are an enumeration: x509,kerberos would silently make valexp of 1 | 4.
        raise malformed(f"name one of {', '.join(types)}, not {' and '.join(named) or 'none'}")
    return flags


def _words_of(flags: int, types: dict[str, int], bits: dict[str, int]) -> list[str]:
    names = {number: word for word, number in types.items()}
    kind = flags & TYPE_MASK
    return [names.get(kind, f"type-{kind}"), *(word for word, bit in bits.items() if flags & bit)]
