"""What keyd writes in DER is what cryptography writes."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, Hash
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tlspool_keyd import der


def spki(public):
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("size", [0, 1, 0x7F, 0x80, 0xFF, 0x100, 0xFFFF, 0x10000])
def test_lengths_are_minimal(size):
    head = der.element(0x30, bytes(size))[: -size or None]
    if size < 0x80:
        assert head == bytes((0x30, size))
    else:
        octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
        assert head == bytes((0x30, 0x80 | len(octets))) + octets


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(0, "020100"), (1, "020101"), (0x7F, "02017f"), (0x80, "02020080"), (0xFF, "020200ff"), (0x100, "02020100")],
)
def test_integers_are_never_negative(value, wanted):
    assert der.integer(value).hex() == wanted


@pytest.mark.parametrize("bits", [1024, 2048, 3072])
def test_rsa(bits):
    public = rsa.generate_private_key(65537, bits).public_key()
    numbers = public.public_numbers()
    modulus, exponent = numbers.n.to_bytes(bits // 8, "big"), numbers.e.to_bytes(3, "big")
    assert der.rsa_spki(modulus, exponent) == spki(public)
    assert der.rsa_spki(b"\0" + modulus, b"\0" + exponent) == spki(public)


@pytest.mark.parametrize(("curve", "oid"), [(ec.SECP256R1(), der.P256), (ec.SECP384R1(), der.P384)])
def test_ec(curve, oid):
    public = ec.generate_private_key(curve).public_key()
    point = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    assert der.ec_spki(oid, point) == spki(public)


def test_ed25519():
    public = ed25519.Ed25519PrivateKey.generate().public_key()
    assert der.ed25519_spki(public.public_bytes(Encoding.Raw, PublicFormat.Raw)) == spki(public)


@pytest.mark.parametrize(("r", "s"), [(1, 1), (0x80, 0x7F), (2**255, 2**256 - 1), (1, 2**255)])
def test_ecdsa_signatures(r, s):
    raw = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    assert decode_dss_signature(der.ecdsa_signature(raw)) == (r, s)


@pytest.mark.parametrize("raw", [b"", b"x", bytes(63)])
def test_what_is_no_pair(raw):
    with pytest.raises(ValueError, match="no r"):
        der.ecdsa_signature(raw)


@pytest.mark.parametrize(("name", "chosen"), [("sha256", SHA256()), ("sha384", SHA384()), ("sha512", SHA512())])
def test_digest_info(name, chosen):
    private = rsa.generate_private_key(65537, 1024)
    signature = private.sign(b"content", padding.PKCS1v15(), chosen)
    digest = Hash(chosen)
    digest.update(b"content")
    recovered = pow(int.from_bytes(signature, "big"), 65537, private.public_key().public_numbers().n).to_bytes(
        128, "big"
    )
    assert recovered.endswith(b"\xff\0" + der.DIGEST_INFO[name] + digest.finalize())
