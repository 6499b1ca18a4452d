"""Each kind of OpenSSL error, made with the OpenSSL that is installed, has the code and the alert of the table."""

import re
import ssl
import warnings

import pytest
from OpenSSL import SSL
from OpenSSL._util import ffi, lib

from tests.fixtures import certs
from tests.fixtures.software_handshakes import NAME, Remote, handshake, shake
from tlspool_common.errors import Code
from tlspool_common.messages import RemoteAuth, Side
from tlspool_worker.tls_errors import NO_ALERT, TABLE, Fault, explain, take_queue
from tlspool_worker.verify import TABLE as VERIFY_TABLE

V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3

MEANT = {
    101: "no suitable key share",
    112: "missing sigalgs extension",
    118: "no suitable signature algorithm",
    123: "bad signature",
    134: "certificate verify failed",
    328: "invalid status response",
    234: "callback failed",
    146: "data length too long",
    149: "digest check failed",
    155: "https proxy request",
    156: "http request",
    166: "version too high",
    181: "no ciphers available",
    185: "no cipher match",
    191: "no protocols available",
    193: "no shared cipher",
    198: "packet length too long",
    199: "peer did not return a certificate",
    209: "missing supported groups extension",
    230: "ssl library has no ciphers",
    235: "no application protocol",
    244: "unexpected message",
    245: "unexpected record",
    258: "unsupported protocol",
    259: "unsupported ssl version",
    266: "wrong ssl version",
    267: "wrong version number",
    281: "decryption failed or bad record mac",
    288: "private key mismatch",
    295: "no suitable groups",
    297: "no suitable digest algorithm",
    370: "wrong signature type",
    376: "no shared signature algorithms",
    378: "wrong curve",
    396: "version too low",
    410: "no shared groups",
}


def text_of(reason, library=20):
    SSL.Context(SSL.TLS_METHOD)  # libssl brings its texts along when it is first used
    return ffi.string(lib.ERR_reason_error_string(library << 23 | reason)).decode()


def test_numbers_mean_what_the_table_says():
    assert set(MEANT) == set(TABLE)
    for number, text in MEANT.items():
        assert text_of(number) == text


@pytest.mark.parametrize("alert", [10, 20, 40, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 70, 71, 80, 112, 116, 120])
def test_alerts_are_reasons_too(alert):
    assert "alert" in text_of(1000 + alert) or alert == 112


def test_verification_errors_are_what_the_table_says():
    words = {
        9: "not yet valid", 10: "expired", 18: "self-signed certificate", 20: "local issuer", 26: "purpose",
        62: "hostname mismatch", 63: "email address mismatch", 64: "IP address mismatch", 79: "CA",
    }  # fmt: skip
    for number, word in words.items():
        assert word.lower() in ffi.string(lib.X509_verify_cert_error_string(number)).decode().lower()
        assert number in VERIFY_TABLE


def refused_with(remote):
    """Return what the ssl module calls the alert it got."""
    return remote.error.reason or str(remote.error)


@pytest.mark.parametrize(
    ("fields", "how", "code", "alert", "seen"),
    [
        ({"tls_min": 0x0304}, {"version": V12}, Code.NOTHING_SHARED, 70, "PROTOCOL_VERSION"),
        ({"tls_max": 0x0303}, {"version": V13}, Code.NOTHING_SHARED, 70, "PROTOCOL_VERSION"),
        ({}, {"version": V12, "ciphers": "ECDHE-RSA-AES128-SHA"}, Code.NOTHING_SHARED, 40, "HANDSHAKE_FAILURE"),
        ({"groups": "ffdhe2048"}, {"version": V12}, Code.NOTHING_SHARED, 40, "HANDSHAKE_FAILURE"),
        ({"groups": "brainpoolP256r1tls13"}, {"version": V13}, Code.NOTHING_SHARED, 40, "HANDSHAKE_FAILURE"),
        ({"sigalgs": "ed25519"}, {"version": V12}, Code.NOTHING_SHARED, 40, "HANDSHAKE_FAILURE"),
        ({"alpn": b"\2h2"}, {"alpn": ["imap"]}, Code.NOTHING_SHARED, 120, "application protocol"),
        ({"remote_auth": RemoteAuth.REQUIRE}, {"version": V12}, Code.CERTIFICATE_MISSING, 40, "HANDSHAKE_FAILURE"),
    ],
)
def test_servers(fields, how, code, alert, seen):
    remote = Remote(**how)
    fault = shake(handshake(**fields), remote).fault
    assert (fault.code, fault.alert, fault.received) == (code, alert, False), fault
    assert seen in refused_with(remote)


def test_a_missing_client_certificate_in_tls_13():
    """The client is done when it hears of it."""
    remote = Remote(version=V13)
    step = shake(handshake(remote_auth=RemoteAuth.REQUIRE), remote)
    assert (step.fault.code, step.fault.alert) == (Code.CERTIFICATE_MISSING, 116)
    remote.read(b"")
    assert "CERTIFICATE_REQUIRED" in refused_with(remote)


@pytest.mark.parametrize(
    ("data", "code", "alert"),
    [
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", Code.REMOTE_PROTOCOL, 10),
        (b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", Code.REMOTE_PROTOCOL, NO_ALERT),
        (b"\x17\x03\x01\x00\x02\x02\x28", Code.REMOTE_PROTOCOL, 10),
        (b"\x16\x03\x01\xff\xff" + bytes(100), Code.REMOTE_PROTOCOL, 22),
        (b"GET / HTTP/1.1\r\n\r\n", Code.REMOTE_NOT_TLS, NO_ALERT),
        (b"CONNECT a:1 HTTP/1.1\r\n\r\n", Code.REMOTE_NOT_TLS, NO_ALERT),
    ],
)
def test_what_a_client_must_not_send(data, code, alert):
    fault = handshake().step(data).fault
    assert (fault.code, fault.alert) == (code, alert), fault
    assert not fault.received


@pytest.mark.parametrize("version", [V12, V13])
def test_spoilt_records(version):
    """A byte of the client's last flight is flipped."""
    flights = iter(range(10))

    def spoil(data):
        return data if next(flights) == 0 else data[:-1] + bytes([data[-1] ^ 1])

    fault = shake(handshake(), Remote(version=version), spoil).fault
    assert (fault.code, fault.alert) == (Code.REMOTE_PROTOCOL, 20), fault


@pytest.mark.parametrize("version", [V12, V13])
def test_an_alert_of_the_remote(version):
    remote = Remote(version=version, verify=ssl.CERT_REQUIRED, name="elsewhere.example", check_name=True)
    fault = shake(handshake(), remote).fault
    assert (fault.code, fault.alert, fault.received) == (Code.REMOTE_ALERT, 42, True), fault
    assert "alert 42" in fault.detail


def test_a_client_whose_server_shares_nothing(tmp_path):
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    leaf = certs.leaf(NAME)
    path = tmp_path / "chain.pem"
    path.write_bytes(
        leaf.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + leaf.pem
        + certs.intermediate().pem
    )
    remote = Remote(Side.SERVER, V12, str(path))
    fault = shake(handshake(Side.CLIENT, (), tls_min=0x0304), remote).fault
    assert (fault.code, fault.alert, fault.received) == (Code.REMOTE_ALERT, 70, True), fault
    remote = Remote(Side.SERVER, V13, str(path))
    fault = shake(handshake(Side.CLIENT, (), tls_max=0x0303), remote).fault
    assert fault.code is Code.REMOTE_ALERT, fault


def test_explain_without_an_error():
    assert explain([]) == Fault(Code.REMOTE_PROTOCOL, NO_ALERT, "an error without a reason")


def test_the_cause_decides_and_keyd_comes_first():
    keyd = (128, 7, "tlspool", "[508] the token is not present")
    evp = (20, 0x80006, "SSL routines", "EVP lib")
    alert = (20, 1048, "SSL routines", "tlsv1 alert unknown ca")
    assert explain([alert, keyd]).code is Code.TOKEN_GONE
    assert explain([evp, alert]) == Fault(Code.REMOTE_ALERT, 48, "alert 48: tlsv1 alert unknown ca", received=True)
    assert explain([(2, 104, "system library", "errno 104")]).code is Code.REMOTE_PROTOCOL
    assert re.fullmatch(r"\[508\] .*; EVP lib", explain([keyd, evp]).detail)


def test_the_queue_is_emptied():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert handshake().step(b"\x16\x03\x01\xff\xff" + bytes(100)).fault
    assert take_queue() == []
    assert lib.ERR_peek_error() == 0
