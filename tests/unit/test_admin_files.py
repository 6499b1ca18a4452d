"""Certificates in files of every kind an operator may have; files with keys; files with anything else."""

import base64
import subprocess

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.hazmat.primitives.serialization import pkcs7 as pkcs7_of
from cryptography.hazmat.primitives.serialization import pkcs12 as pkcs12_of
from cryptography.x509 import CertificateRevocationListBuilder
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures import certs
from tlspool_admin import files
from tlspool_common.errors import Code, PoolError


@pytest.fixture(scope="module")
def chain():
    middle = certs.intermediate()
    return [middle.issue("www.example"), middle, certs.root()]


def write(tmp_path, data, name="file"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


def refusal(call, *args):
    with pytest.raises(PoolError) as caught:
        call(*args)
    assert caught.value.code is Code.RECORD_MALFORMED
    return caught.value.detail


def test_pem_with_words_around_it_and_a_key_beside_it(tmp_path, chain):
    secret = chain[0].private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    data = b"subject=CN = x\r\n".join([b"", *(one.pem for one in chain)]) + secret
    found = files.read(write(tmp_path, data))
    assert found.certificates == tuple(one.der for one in chain)
    assert found.has_key


@pytest.mark.parametrize("count", [1, 2, 3])
def test_der_one_or_behind_each_other(tmp_path, chain, count):
    ders = [one.der for one in chain[:count]]
    assert files.read(write(tmp_path, b"".join(ders))).certificates == tuple(ders)


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_pkcs7(tmp_path, chain, encoding):
    data = pkcs7_of.serialize_certificates([one.certificate for one in chain], encoding)
    assert set(files.read(write(tmp_path, data)).certificates) == {one.der for one in chain}


def test_trusted_certificates_of_openssl(tmp_path, chain):
    done = subprocess.run(
        ["openssl", "x509", "-trustout", "-addtrust", "serverAuth"], input=chain[2].pem, capture_output=True, check=True
    )
    assert b"TRUSTED CERTIFICATE" in done.stdout
    assert files.read(write(tmp_path, done.stdout)).certificates == (chain[2].der,)


@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_revocation_lists(tmp_path, chain, encoding):
    root = chain[2].certificate
    builder = CertificateRevocationListBuilder().issuer_name(root.subject)
    builder = builder.last_update(root.not_valid_before_utc).next_update(root.not_valid_after_utc)
    crl = builder.sign(chain[2].private, hashes.SHA256())
    found = files.read(write(tmp_path, crl.public_bytes(encoding)))
    assert found == files.Contents(lists=(crl.public_bytes(Encoding.DER),))


def pkcs12(chain, *, key, password=b""):
    secret = chain[0].private if key else None
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    others = [one.certificate for one in chain[1:]]
    return pkcs12_of.serialize_key_and_certificates(b"x", secret, chain[0].certificate, others, encryption)


@pytest.mark.parametrize("password", [b"", b"sesame"])
def test_pkcs12_without_keys(tmp_path, chain, password):
    path = write(tmp_path, pkcs12(chain, key=False, password=password))
    found = files.read(path, lambda _name: password)
    assert set(found.certificates) == {one.der for one in chain}


def test_pkcs12_with_a_key_is_refused_with_the_remedy(tmp_path, chain):
    path = write(tmp_path, pkcs12(chain, key=True))
    detail = refusal(files.read, path)
    assert "import the key into the token" in detail
    assert f"openssl pkcs12 -nokeys -in {path}" in detail


@pytest.mark.parametrize("words", [["-nokeys"], []])
def test_pkcs12_made_by_openssl(tmp_path, chain, words):
    secret = chain[0].private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem = write(tmp_path, b"".join(one.pem for one in chain) + secret, "pem")
    path = tmp_path / "file.p12"
    command = ["openssl", "pkcs12", "-export", "-in", str(pem), "-out", str(path), "-passout", "pass:open", *words]
    subprocess.run(command, check=True, capture_output=True)
    password = write(tmp_path, b"open\n", "password")
    if words:
        found = files.read(path, files.password_of(password))
        assert {one.der for one in chain} == set(found.certificates)
    else:
        assert "holds a private key" in refusal(files.read, path, files.password_of(password))
    assert "password is wrong" in refusal(files.read, path, lambda _name: b"shut")
    assert "--password-file" in refusal(files.read, path)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\x30",
        b"\x30\x82\xff\xff\0",
        b"\x30\x03\x02\x01\x03",
        b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
        b"-----BEGIN CERTIFICATE-----\nMAA=\n",
    ],
)
def test_what_is_none_of_them(tmp_path, data):
    path = write(tmp_path, data)
    refusal(files.certificates_of, path)
    if data != b"" and b"-----" not in data[:1]:
        assert str(path) in refusal(files.certificates_of, path)


def test_pem_and_base64_are_each_others_inverse(tmp_path, chain):
    text = files.pem(base64.b64encode(chain[0].der).decode())
    assert text.encode() == chain[0].pem
    assert files.certificates_of(write(tmp_path, text.encode())) == [base64.b64encode(chain[0].der).decode()]


PIECES = st.sampled_from(
    [
        b"\x30\x80",
        b"\x30\x03\x02\x01\x03",
        bytes.fromhex("300b06092a864886f70d010702"),
        b"-----BEGIN CERTIFICATE-----",
        b"-----END CERTIFICATE-----",
        b"-----BEGIN PKCS7-----",
        b"-----END PKCS7-----",
        b"-----BEGIN TRUSTED CERTIFICATE-----\nMAA=\n-----END TRUSTED CERTIFICATE-----",
        b"MAA=",
        b"\n",
    ]
)


@given(st.lists(PIECES | st.binary(max_size=20), max_size=8).map(b"".join))
def test_anything_is_contents_or_one_error(data):
    try:
        found = files.contents_untrusted(data, "file", lambda _name: b"")
    except PoolError as error:
        assert error.code is Code.RECORD_MALFORMED
    else:
        assert isinstance(found, files.Contents)


@given(st.data())
def test_a_damaged_pkcs12_file_is_contents_or_one_error(data):
    whole = bytearray(PKCS12)
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        files.contents_untrusted(bytes(whole), "file", lambda _name: b"")
    except PoolError as error:
        assert error.code is Code.RECORD_MALFORMED


def test_a_pkcs12_file_in_ber_is_read_in_silence():
    """Its outermost length is indefinite (X.690 section 8.1.3.6), as other programs write it."""
    assert PKCS12[:2] == b"\x30\x82"
    ber = b"\x30\x80" + PKCS12[4:] + b"\0\0"
    assert files.contents_untrusted(ber, "file", lambda _name: b"") == files.contents_untrusted(
        PKCS12, "file", lambda _name: b""
    )


PKCS12 = pkcs12([certs.root().issue("a.example"), certs.root()], key=False)
