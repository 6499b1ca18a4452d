import base64
import contextlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures import certs
from tlspool_common import limits
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import KeyKind
from tlspool_worker import keyref

KINDS = {"rsa": KeyKind.RSA, "p256": KeyKind.EC_P256, "p384": KeyKind.EC_P384, "ed25519": KeyKind.ED25519}


def spki(kind):
    return certs.spki(certs.key(kind))


def public_spki(public):
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("name", KINDS)
def test_round_trip(name):
    pem = keyref.encode(KINDS[name], spki(name), 7, 10_000, b"grant")
    found = keyref.decode_untrusted(pem)
    kind, first, second = keyref.public_parts(spki(name))
    assert found == keyref.KeyReference(kind, 7, 10_000, first, second, b"grant")
    assert kind is KINDS[name]


def test_public_parts_are_the_key():
    numbers = certs.key("rsa").public_key().public_numbers()
    _, modulus, exponent = keyref.public_parts(spki("rsa"))
    assert int.from_bytes(modulus, "big") == numbers.n
    assert int.from_bytes(exponent, "big") == numbers.e
    _, point, nothing = keyref.public_parts(spki("p384"))
    assert (point[0], len(point), nothing) == (4, 97, b"")


def test_layout():
    """The picture in the module's docstring, byte for byte."""
    pem = keyref.encode(KeyKind.ED25519, spki("ed25519"), 0x0102, 0x0304, b"GRANT")
    raw = certs.key("ed25519").public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    body = b"\x01\x04\0\0\x01\x02\0\0\x03\x04" + b"\0\x20" + raw + b"\0\0" + b"\0\x05GRANT"
    lines = pem.splitlines()
    assert lines[0] == b"-----BEGIN TLSPOOL KEY REFERENCE-----"
    assert lines[-1] == b"-----END TLSPOOL KEY REFERENCE-----"
    assert max(map(len, lines[1:-1])) == 64
    der = base64.b64decode(b"".join(lines[1:-1]))
    assert der == bytes([0x30, len(body) + 2, 0x04, len(body)]) + body


def test_limits_are_inclusive():
    pem = keyref.encode(KeyKind.EC_P256, spki("p256"), 2**31 - 1, 2**32 - 1, b"g" * limits.GRANT_B)
    found = keyref.decode_untrusted(pem)
    assert (found.channel_fd, found.timeout_ms, len(found.grant)) == (2**31 - 1, 2**32 - 1, limits.GRANT_B)


@pytest.mark.parametrize(
    ("fd", "timeout_ms", "grant"), [(-1, 1, b""), (2**31, 1, b""), (3, 0, b""), (3, 2**32, b""), (3, 1, bytes(1025))]
)
def test_out_of_bounds(fd, timeout_ms, grant):
    with pytest.raises(ValueError, match="is no good"):
        keyref.encode(KeyKind.EC_P256, spki("p256"), fd, timeout_ms, grant)


def refused(kind, spki_der):
    with pytest.raises(PoolError) as caught:
        keyref.encode(kind, spki_der, 3, 1000, b"")
    assert caught.value.code is Code.SCHEME_REFUSED
    return caught.value.detail


def test_keys_that_cannot_be_used():
    for public in (
        ec.generate_private_key(ec.SECP521R1()).public_key(),
        ec.generate_private_key(ec.SECP256K1()).public_key(),
        x25519.X25519PrivateKey.generate().public_key(),
        ed448.Ed448PrivateKey.generate().public_key(),
        ec.generate_private_key(ec.SECP224R1()).public_key(),
    ):
        assert "P-256" in refused(KeyKind.EC_P256, public_spki(public))
    assert "cannot be read" in refused(KeyKind.RSA, b"")
    assert "cannot be read" in refused(KeyKind.RSA, spki("rsa")[:-1])


def test_rsa_keys_out_of_bounds():
    long_exponent = RSAPublicNumbers(2**65 + 1, certs.key("rsa").public_key().public_numbers().n).public_key()
    assert "64 bits" in refused(KeyKind.RSA, public_spki(long_exponent))


def test_kind_of_another_key():
    assert refused(KeyKind.RSA, spki("p256")) == "the certificate's key is EC_P256, not RSA"


def good_body():
    return keyref._enter_untrusted(keyref._enter_untrusted(der_of(good_pem()), 0x30), 0x04)


def good_pem():
    return keyref.encode(KeyKind.EC_P256, spki("p256"), 3, 1000, b"grant")


def der_of(pem):
    return base64.b64decode(b"".join(pem.splitlines()[1:-1]))


def pem_of(body):
    return keyref.armour(keyref._element(0x30, keyref._element(0x04, body)))


def change(at, value):
    body = bytearray(good_body())
    body[at] = value
    return pem_of(bytes(body))


MALFORMED = {
    "empty": lambda: b"",
    "text before": lambda: b"x" + good_pem(),
    "text behind": lambda: good_pem() + b"x",
    "no end": lambda: good_pem()[:-5],
    "no base64": lambda: good_pem().replace(b"M", b"*"),
    "another label": lambda: good_pem().replace(b"TLSPOOL KEY REFERENCE", b"PRIVATE KEY"),
    "no DER": lambda: keyref.armour(b""),
    "another tag": lambda: keyref.armour(b"\x31" + der_of(good_pem())[1:]),
    "trailing DER": lambda: keyref.armour(der_of(good_pem()) + b"\0"),
    "indefinite length": lambda: keyref.armour(b"\x30\x80" + bytes(128)),
    "long form for a short length": lambda: keyref.armour(b"\x30\x81\x02\x04\x00"),
    "another version": lambda: change(0, 2),
    "kind 0": lambda: change(1, 0),
    "kind 5": lambda: change(1, 5),
    "kind of another size": lambda: change(1, KeyKind.EC_P384),
    "descriptor beyond int": lambda: change(2, 0x80),
    "compressed point": lambda: change(12, 2),
    "octets left over": lambda: pem_of(good_body() + b"\0"),
    "cut in the grant": lambda: pem_of(good_body()[:-1]),
    "cut in a length": lambda: pem_of(good_body()[:11]),
    "cut in the head": lambda: pem_of(good_body()[:9]),
    "grant too long": lambda: pem_of(good_body()[:-7] + b"\x04\x01" + bytes(1025)),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name):
    with pytest.raises(ValueError):
        keyref.decode_untrusted(MALFORMED[name]())


@given(st.binary(max_size=300), st.integers(0, 3))
def test_any_bytes(data, wrapping):
    forms = (lambda: data, lambda: keyref.armour(data), lambda: pem_of(data), lambda: pem_of(good_body() + data))
    with contextlib.suppress(ValueError):
        keyref.decode_untrusted(forms[wrapping]())


def test_rsa_of_1024_bits_is_the_least():
    small = rsa.generate_private_key(65537, 1024).public_key()
    assert keyref.public_parts(public_spki(small))[0] is KeyKind.RSA
