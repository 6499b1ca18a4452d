"""Parts of certificates are those that other readers find, byte for byte; and what is none is refused."""

import ipaddress
import os
import random
import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from tests.fixtures import certs
from tlspool_worker.certificate_der import (
    BadDer,
    elements_untrusted,
    general_names_untrusted,
    issuer_untrusted,
    subject_untrusted,
)

NAMES = [
    x509.DNSName("www.example.com"),
    x509.RFC822Name("john@example.com"),
    x509.UniformResourceIdentifier("https://example.com/"),
    x509.IPAddress(ipaddress.ip_address("2001:db8::1")),
    x509.DirectoryName(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "somebody")])),
    x509.RegisteredID(x509.ObjectIdentifier("1.2.3.4")),
    x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.5"), b"\x0c\x03abc"),
]


def many_names():
    issuer = certs.intermediate()
    base = certs.leaf("example.com").certificate
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ü" * 30)]))
        .issuer_name(issuer.certificate.subject)
        .public_key(base.public_key())
        .serial_number(1)
        .not_valid_before(base.not_valid_before_utc)
        .not_valid_after(base.not_valid_after_utc)
        .add_extension(x509.KeyUsage(True, *[False] * 8), critical=True)
        .add_extension(x509.SubjectAlternativeName(NAMES), critical=True)
    )
    return builder.sign(issuer.private, hashes.SHA256()).public_bytes(Encoding.DER)


ALL = [certs.root().der, certs.intermediate().der, *(certs.leaf("a@example.com", kind).der for kind in certs.KINDS)]


@pytest.mark.parametrize("der", [*ALL, many_names(), certs.leaf("example.com").issue("x", pad_b=70_000).der])
def test_parts_are_those_that_cryptography_finds(der):
    loaded = x509.load_der_x509_certificate(der)
    assert subject_untrusted(der) == loaded.subject.public_bytes()
    assert issuer_untrusted(der) == loaded.issuer.public_bytes()
    assert len(general_names_untrusted(der)) == len(
        loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    )


def test_general_names_have_tag_and_length():
    names = general_names_untrusted(many_names())
    assert names[:2] == [b"\x82\x0fwww.example.com", b"\x81\x10john@example.com"]
    assert [name[0] & 0x1F for name in names] == [2, 1, 6, 7, 4, 8, 0]


@pytest.mark.parametrize("der", ALL[1:])
def test_parts_are_those_that_openssl_finds(der, tmp_path):
    """``openssl asn1parse`` says where each element is; the parts are cut out of the file at that place."""
    path = tmp_path / "c.der"
    path.write_bytes(der)
    listing = subprocess.run(
        ["openssl", "asn1parse", "-inform", "DER", "-in", str(path)], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    rows = [line.replace("=", " ").replace(":", " ").split() for line in listing]
    at_depth_2 = [(int(row[0]), int(row[4]) + int(row[6])) for row in rows if row[2] == "2"]
    # version, serial, signature algorithm, issuer, validity, subject, ...
    (issuer_at, issuer_b), (subject_at, subject_b) = at_depth_2[3], at_depth_2[5]
    assert issuer_untrusted(der) == der[issuer_at : issuer_at + issuer_b]
    assert subject_untrusted(der) == der[subject_at : subject_at + subject_b]


def test_a_certificate_without_names():
    bare = certs.leaf("example.com").certificate
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(bare.issuer)
        .public_key(bare.public_key())
        .serial_number(1)
        .not_valid_before(bare.not_valid_before_utc)
        .not_valid_after(bare.not_valid_after_utc)
    )
    der = builder.sign(certs.intermediate().private, hashes.SHA256()).public_bytes(Encoding.DER)
    assert subject_untrusted(der) == b"\x30\0"
    assert general_names_untrusted(der) == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30",
        b"\x30\x80\0\0",
        b"\x30\x84\0\0\0\0",
        b"\x30\x05\0",
        b"\x30\0",
        b"\x30\x02\x30\0",
        b"\x31\0",
        b"\x3f\x01\0",
        certs.root().der + b"x",
        certs.root().der[:-1],
    ],
)
@pytest.mark.parametrize("read", [subject_untrusted, issuer_untrusted, general_names_untrusted])
def test_what_is_no_certificate(read, data):
    with pytest.raises(BadDer):
        read(data)


def test_any_bytes_give_a_part_or_the_one_exception():
    dice = random.Random(os.environ.get("TLSPOOL_SEED", "1"))
    original = many_names()
    for _ in range(20_000):
        data = bytearray(original)
        for _ in range(dice.randrange(1, 4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        if dice.random() < 0.3:
            del data[dice.randrange(len(data)) :]
        for read in (subject_untrusted, issuer_untrusted, general_names_untrusted):
            try:
                found = read(bytes(data))
            except BadDer:
                continue
            for part in [found] if isinstance(found, bytes) else found:
                assert part in data


def test_elements_are_counted_once():
    data = b"".join(bytes([0x04, 1, number]) for number in range(200))
    assert [element.body for element in elements_untrusted(data)] == [bytes([number]) for number in range(200)]
