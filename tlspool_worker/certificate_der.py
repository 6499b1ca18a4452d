"""Parts of a certificate as they stand in it, byte for byte.

A library that takes a certificate apart and writes a part of it anew may write it differently, and what is asked
for here is compared with memcmp.  So this walks over the DER itself, as far as it must, and copies:

    Certificate  SEQUENCE { TBSCertificate, ... }                                  RFC 5280 section 4.1
    TBSCertificate  SEQUENCE { [0] version, serial, signature, issuer, validity, subject, key, ..., [3] extensions }

OpenSSL has parsed the certificate before; still nothing here trusts a length.  All functions raise one exception.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

_INTEGER, _OID, _BOOLEAN, _OCTETS, _SEQUENCE = 0x02, 0x06, 0x01, 0x04, 0x30
_VERSION, _EXTENSIONS = 0xA0, 0xA3
_FIELDS = [_INTEGER] + [_SEQUENCE] * 5
_SUBJECT_ALT_NAME = bytes.fromhex("551d11")  # 2.5.29.17

_LENGTH_OCTETS = 3
"""Octets of a long length: a certificate has less than 16 MiB."""


class BadDer(ValueError):
    """These bytes are no certificate."""


class Element(NamedTuple):
    """One element: its tag, all of its bytes, and its contents."""

    tag: int
    whole: bytes
    body: bytes


def elements_untrusted(data: bytes) -> Iterator[Element]:
    """Yield the elements that stand one behind the other in ``data``.

    Raises:
        BadDer: a tag of several octets, an indefinite length, or one that does not fit.
    """
    start, end = 0, len(data)
    while start < end:
        tag = data[start]
        at = start + 2
        if tag & 0x1F == 0x1F or at > end:
            raise BadDer("an element that cannot be read")
        length = data[start + 1]
        if length & 0x80:
            octets = length & 0x7F
            if not 1 <= octets <= _LENGTH_OCTETS or at + octets > end:
                raise BadDer("a length that cannot be read")
            length = int.from_bytes(data[at : at + octets])
            at += octets
        stop = at + length
        if stop > end:
            raise BadDer("a length that does not fit")
        yield Element(tag, data[start:stop], data[at:stop])
        start = stop


def _only_untrusted(data: bytes, tag: int) -> Element:
    found = list(elements_untrusted(data))
    if len(found) != 1 or found[0].tag != tag:
        raise BadDer(f"not exactly one element of type {tag:#x}")
    return found[0]


@lru_cache(maxsize=4)  # one part after the other is asked for
def _fields_untrusted(certificate: bytes) -> tuple[Element, ...]:
    """Return serial, signature, issuer, validity, subject, key, and what optional fields follow."""
    outer = list(elements_untrusted(_only_untrusted(certificate, _SEQUENCE).body))
    if not outer or outer[0].tag != _SEQUENCE:
        raise BadDer("no TBSCertificate")
    fields = list(elements_untrusted(outer[0].body))
    if fields and fields[0].tag == _VERSION:
        del fields[0]
    if [field.tag for field in fields[:6]] != _FIELDS:
        raise BadDer("a TBSCertificate without its fields")
    return tuple(fields)


def names_and_key_untrusted(certificate: bytes) -> tuple[bytes, bytes, bytes]:
    """Return issuer, subject and SubjectPublicKeyInfo, each with tag and length; raises BadDer."""
    fields = _fields_untrusted(certificate)
    return fields[2].whole, fields[4].whole, fields[5].whole


def issuer_untrusted(certificate: bytes) -> bytes:
    """Return the issuer, a Name with tag and length; raises BadDer."""
    return _fields_untrusted(certificate)[2].whole


def subject_untrusted(certificate: bytes) -> bytes:
    """Return the subject, a Name with tag and length; raises BadDer."""
    return _fields_untrusted(certificate)[4].whole


def general_names_untrusted(certificate: bytes) -> list[bytes]:
    """Return the entries of the subjectAltName, each a GeneralName with tag and length; raises BadDer."""
    extensions = [field for field in _fields_untrusted(certificate)[6:] if field.tag == _EXTENSIONS]
    if not extensions:
        return []
    for extension in elements_untrusted(_only_untrusted(extensions[0].body, _SEQUENCE).body):
        parts = [part for part in elements_untrusted(extension.body) if part.tag != _BOOLEAN]
        if [part.tag for part in parts] != [_OID, _OCTETS]:
            raise BadDer("an extension without its fields")
        if parts[0].body == _SUBJECT_ALT_NAME:
            return [name.whole for name in elements_untrusted(_only_untrusted(parts[1].body, _SEQUENCE).body)]
    return []
