"""Certificates and revocation lists in files: PEM, one or many; DER; PKCS #7; PKCS #12 without keys.

Nothing here keeps a private key: those of a PEM file stay unread, and a PKCS #12 file that has one is refused,
for a key belongs on a token.  What a file holds is not yet believed to be anything; the broker checks it again.
"""

from __future__ import annotations

import base64
import binascii
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tlspool_common.errors import Code, PoolError

_FILE_B = 64 * 1024 * 1024
"""Far above the bundle of all public CAs, which has 0.3 MiB."""

_EDGE = re.compile(rb"-----(BEGIN|END) ([A-Z0-9 ]{1,40})-----")
"""Of a PEM block.  No pattern goes from one edge to the other: in a file of beginnings each would look for its end."""

_CERTIFICATE = (b"CERTIFICATE", b"X509 CERTIFICATE", b"TRUSTED CERTIFICATE")
_LIST = (b"X509 CRL",)
_COLLECTION = (b"PKCS7", b"CMS")
_OURS = (*_CERTIFICATE, *_LIST, *_COLLECTION)
_PKCS7_OID = bytes.fromhex("06092a864886f70d0107")
_DERIVED = re.compile(
    # PBKDF2, or a PBE of PKCS #12; its parameters: SEQUENCE, and in it OCTET STRING (the salt)
    rb"(?:\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0c|\x06\x0a\x2a\x86\x48\x86\xf7\x0d\x01\x0c\x01.)"
    rb"\x30(?:\x81?[^\x80]|\x80|\x82..)\x04",
    re.DOTALL,
)
_ROUNDS_OCTETS = 3
"""Of the number of rounds of a key derivation: eight million take seconds, 10 000 are usual, and more are a trap."""

_INTEGER, _OCTETS, _SEQUENCE = 0x02, 0x04, 0x30

Passwords = Callable[[str], bytes]
"""Gets the password of a file, when it has one."""


class Contents(NamedTuple):
    """What is in a file, as DER, in its order; and whether there is a private key beside it, which was not read."""

    certificates: tuple[bytes, ...] = ()
    lists: tuple[bytes, ...] = ()
    has_key: bool = False


def no_password(name: str) -> bytes:
    """Refuse to know a password.

    Raises:
        PoolError: RECORD_MALFORMED, always.
    """
    raise _bad(f"{name} needs a password, or is no PKCS #12 file; `import` asks for one, or takes --password-file")


def read(path: Path, password: Passwords = no_password) -> Contents:
    """Return what a file holds; ``-`` is standard input.

    Raises:
        PoolError: RECORD_MALFORMED, it is of no format that is known, or holds what it must not.
        OSError: the file cannot be read.
    """
    data, name = begin_of(path, _FILE_B + 1)
    if len(data) > _FILE_B:
        raise _bad(f"{name} has more than {_FILE_B} bytes")
    return contents_untrusted(data, name, password)


def begin_of(path: Path, most_b: int) -> tuple[bytes, str]:
    """Return the first bytes of a file, and how it is called; ``-`` is standard input.

    Raises:
        OSError: the file cannot be read.
    """
    if str(path) == "-":
        return sys.stdin.buffer.read(most_b), "standard input"
    with path.open("rb") as file:
        return file.read(most_b), str(path)


def contents_untrusted(data: bytes, name: str, password: Passwords = no_password) -> Contents:
    """Take the bytes of a file apart.

    Raises:
        PoolError: RECORD_MALFORMED; beginning with ``name``.
    """
    if data[:1] == b"\x30":
        return _der(data, name, password)
    certificates: list[bytes] = []
    lists: list[bytes] = []
    has_key = False
    for label, body in _blocks(data, name):
        if label in _CERTIFICATE:
            certificates.append(_first(body, name) if label.startswith(b"TRUSTED") else body)
        elif label in _LIST:
            lists.append(body)
        elif label in _COLLECTION:
            certificates += _pkcs7(body, name)
        elif label.endswith(b"PRIVATE KEY"):
            has_key = True
    return Contents(tuple(certificates), tuple(lists), has_key)


def certificates_of(path: Path, password: Passwords = no_password) -> list[str]:
    """Return the certificates of a file, in their order, as base64 of DER.

    Raises:
        PoolError: RECORD_MALFORMED, there is none.
        OSError: the file cannot be read.
    """
    found = read(path, password).certificates
    if not found:
        raise _bad(f"{path} holds no certificate, neither as PEM nor as DER")
    return [base64.b64encode(der).decode() for der in found]


def pem(der_base64: str) -> str:
    """Return a certificate as PEM (RFC 7468)."""
    lines = [der_base64[at : at + 64] for at in range(0, len(der_base64), 64)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])


def password_of(file: Path | None) -> Passwords:
    """Return what gets passwords: the first line of a file, else somebody at the terminal.

    Raises, when called:
        PoolError: RECORD_MALFORMED, there is neither.
        OSError: the file cannot be read.
    """

    def get(name: str) -> bytes:
        if file is not None:
            return file.read_bytes().split(b"\n")[0]
        if not sys.stdin.isatty():
            return no_password(name)
        import getpass  # loads termios; most files need no password

        return getpass.getpass(f"password of {name}: ").encode()

    return get


def _bad(what: str) -> PoolError:
    return PoolError(Code.RECORD_MALFORMED, what)


def _blocks(data: bytes, name: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield the PEM blocks (RFC 7468); the bodies of private keys are not looked at."""
    label, start = b"", 0  # of the block that has begun; b"": none
    for edge in _EDGE.finditer(data):
        if edge[1] == b"BEGIN":
            if label in _OURS:
                raise _bad(f"{name} has a PEM block without an end")
            label, start = edge[2], edge.end()
        elif label == edge[2]:
            yield from _block(label, data[start : edge.start()], name)
            label = b""


def _block(label: bytes, body: bytes, name: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield what a block has in it, unless that is no base64."""
    if label.endswith(b"PRIVATE KEY"):
        yield label, b""
        return
    try:
        yield label, base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error:
        if label in _OURS:
            raise _bad(f"{name} has a PEM block that is no base64") from None


def _der(data: bytes, name: str, password: Passwords) -> Contents:
    elements = _split(data, name)
    if len(elements) > 1:  # certificates behind each other, as the databases have them
        return Contents(tuple(elements))
    inner = _inside(data)
    if inner[:1] == bytes([_INTEGER]):
        return _pkcs12(data, name, password)
    if inner.startswith(_PKCS7_OID):
        return Contents(tuple(_pkcs7(data, name)))
    from cryptography import x509  # some 50 ms, and PEM needs none of it

    try:
        x509.load_der_x509_crl(data)
    except (ValueError, TypeError, OverflowError, x509.InvalidVersion):
        return Contents((data,))
    return Contents(lists=(data,))


def _inside(data: bytes) -> bytes:
    """Return the content of the outermost element."""
    return data[2 + (data[1] & 0x7F if data[1] & 0x80 else 0) :] if len(data) > 1 else b""


def _split(data: bytes, name: str) -> list[bytes]:
    """Split SEQUENCEs that follow each other (X.690 section 8.1.3); indefinite lengths are left to the parser."""
    found: list[bytes] = []
    at = 0
    while at < len(data):
        size_b = data[at + 1] if at + 1 < len(data) else 0
        start = at + 2
        if data[at] != _SEQUENCE or start > len(data):
            raise _bad(f"{name} has something else than DER at offset {at}")
        if size_b == 0x80:
            return [data]
        if size_b & 0x80:
            octets = size_b & 0x7F
            size_b = int.from_bytes(data[start : start + octets], "big")
            start += octets
        if start + size_b > len(data):
            raise _bad(f"{name} is cut off, or no DER")
        found.append(data[at : start + size_b])
        at = start + size_b
    return found


def _first(data: bytes, name: str) -> bytes:
    """Return the certificate of OpenSSL's TRUSTED CERTIFICATE, without the trust that stands behind it."""
    elements = _split(data, name)
    if not elements:
        raise _bad(f"{name} has an empty PEM block")
    return elements[0]


def _pkcs7(data: bytes, name: str) -> list[bytes]:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

    try:
        found = pkcs7.load_der_pkcs7_certificates(data)
    except (ValueError, TypeError, OverflowError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise _bad(f"{name} is no PKCS #7 collection of certificates: {error}") from None
    return [certificate.public_bytes(Encoding.DER) for certificate in found]


def _pkcs12(data: bytes, name: str, password: Passwords) -> Contents:
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, pkcs12

    if _is_endless(data):
        raise _bad(f"{name} wants more than eight million rounds of key derivation, which nobody would wait for")
    tries: Sequence[Callable[[], bytes | None]] = (lambda: None, lambda: b"", lambda: password(name))
    for get in tries:
        secret = get()
        try:
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # it is BER: Java and Windows do that
                found = pkcs12.load_pkcs12(data, secret)
            break
        except UnsupportedAlgorithm as error:
            raise _bad(f"{name}: {error}; convert it: openssl pkcs12 -nokeys -in FILE -out FILE.pem") from None
        except (ValueError, TypeError, OverflowError, x509.InvalidVersion):
            continue
    else:
        raise _bad(f"{name} is no PKCS #12 file, or the password is wrong")
    if found.key is not None:
        raise _bad(
            f"{name} holds a private key, and nothing of it was taken: import the key into the token "
            "(softhsm2-util --import, pkcs11-tool --write-object), and give the certificates without it "
            f"(openssl pkcs12 -nokeys -in {name})"
        )
    ours = [found.cert] if found.cert else []
    return Contents(tuple(one.certificate.public_bytes(Encoding.DER) for one in [*ours, *found.additional_certs]))


def _is_endless(data: bytes) -> bool:
    """Whether a key would be derived in too many rounds: of what is encrypted, or of the MAC at the end (RFC 7292)."""
    for found in _DERIVED.finditer(data):
        at = found.end() + 1 + (data[found.end()] if found.end() < len(data) else 0)
        if data[at : at + 1] == b"\x02" and data[at + 1 : at + 2] > bytes((_ROUNDS_OCTETS,)):
            return True
    for ends in range(9):  # of the elements around it, where they have no length
        rest = data[: len(data) - 2 * ends]
        for size in range(_ROUNDS_OCTETS + 1, 10):
            salt = rest[: -size - 2]
            if rest[-size - 2 : -size] == bytes((_INTEGER, size)) and any(
                salt[-n - 2 : -n] == bytes((_OCTETS, n)) for n in range(1, 65)
            ):
                return True
        if not rest.endswith(b"\0\0"):
            return False
    return False
