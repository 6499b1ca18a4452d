"""From what an operator gives to records, and from records to what a handshake can use."""

import hashlib

import pytest

from tests.fixtures import certs
from tlspool_broker import credentials, records
from tlspool_broker.credentials import Anchor
from tlspool_broker.records import LocalRecord, TrustRecord
from tlspool_common import limits
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import KeyKind

URI = "pkcs11:object=web"
BOTH = records.X509 | records.CLIENT | records.SERVER


def anchor_of(value):
    return credentials.anchor_of(b"key", records.decode_trust_untrusted(value))


def refused(code, text, function, *args):
    with pytest.raises(PoolError, match=text) as caught:
        function(*args)
    assert caught.value.code is code


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("rsa", KeyKind.RSA), ("p256", KeyKind.EC_P256), ("p384", KeyKind.EC_P384), ("ed25519", KeyKind.ED25519)],
)
def test_a_credential_goes_in_and_comes_out(kind, expected):
    chain = (certs.leaf(kind=kind).der, certs.intermediate().der)
    record = records.decode_local_untrusted(credentials.local_value(BOTH, URI, chain))
    found = credentials.credential(record)
    assert (found.uri, found.chain, found.key_kind) == (URI, chain, expected)
    assert len(found.spki_sha256) == 32


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("file:/x", "does not start with pkcs11:"),
        (URI + "?pin-value=1234", "holds a PIN"),
        ("pkcs11:object=" + "x" * limits.KEY_URI_B, "more than 512 bytes"),
    ],
)
def test_records_of_other_tools_are_held_to_the_same(uri, text):
    record = LocalRecord(BOTH, uri, certs.leaf().der)
    refused(Code.RECORD_MALFORMED, text, credentials.credential, record)


def test_a_key_that_cannot_sign():
    record = LocalRecord(BOTH, URI, certs.leaf(kind="p521").der)
    refused(Code.RECORD_MALFORMED, "none of RSA", credentials.credential, record)


def test_anchors():
    root, other = certs.root().der, certs.intermediate().der
    key, value = credentials.trust_value(BOTH, "1", root)
    assert key == certs.root().key_identifier
    sha256 = hashlib.sha256(root).digest()
    assert anchor_of(value) == Anchor(3, root, b"key", sha256, "1", False)
    _, value = credentials.trust_value(records.X509 | records.SERVER, "TI&", root)
    assert anchor_of(value) == Anchor(2, root, b"key", sha256, "TI&", False)
    refused(Code.RECORD_MALFORMED, "no root", credentials.trust_value, BOTH, "1", other)
    _, value = credentials.trust_value(BOTH | records.TRUST_NOT_ROOT, "1", other)
    assert anchor_of(value).may_be_no_root
    refused(Code.RECORD_MALFORMED, "expression", credentials.trust_value, BOTH, "TI", root)
    refused(Code.RECORD_MALFORMED, "client, server", credentials.trust_value, records.X509, "1", root)
    refused(Code.NOT_SUPPORTED_YET, "only x509", credentials.trust_value, BOTH | records.TRUST_PINNED, "1", root)


def test_anchors_of_other_tools():
    root, other = certs.root().der, certs.intermediate().der
    assert credentials.anchor_of(b"", TrustRecord(records.X509, "1", root)) is None
    assert credentials.anchor_of(b"", TrustRecord(BOTH | records.TRUST_NOT_ROOT_OLD, "1", other)).may_be_no_root
    refused(Code.RECORD_MALFORMED, "TI", credentials.anchor_of, b"", TrustRecord(BOTH, "TI", root))
    refused(Code.RECORD_MALFORMED, "no root", credentials.anchor_of, b"", TrustRecord(BOTH, "1", other))


def test_expressions():
    credentials.check_expression("x.example", "1")
    refused(Code.LOCALID_UNKNOWN, "never", credentials.check_expression, "x.example", "0")
    credentials.check_expression("x.example", "TI&")
