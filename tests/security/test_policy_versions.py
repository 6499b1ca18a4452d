"""Certificates and lists of versions that do not exist, and with names that are none.

OpenSSL takes them, and the library that reads them next raises what is no ValueError.  A remote that shows one must
end nothing but its own session.
"""

import contextlib
import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.fixtures import certs, legacy_databases
from tests.fixtures.authority import Authority
from tests.fixtures.databases import Databases
from tests.fixtures.software_handshakes import NAME, Remote, handshake, shake
from tests.security.test_policy_chains import KEYS, Made
from tests.unit.test_reauth import Asking
from tlspool_admin import chains, files
from tlspool_broker import admin, certificates, crls
from tlspool_common.errors import Code, PoolError
from tlspool_common.messages import RemoteAuth, Side, Verdict
from tlspool_online.chains import BadChain, links_untrusted
from tlspool_online.lists import BadList, read_untrusted
from tlspool_worker import facts

VERSIONS = [1, 3, 5, 0x7F]


def of_version(der: bytes, version: int) -> bytes:
    """The signature does not count any more, and is not what is looked at first."""
    at = der.index(bytes.fromhex("a003020102"))
    return der[: at + 4] + bytes([version]) + der[at + 5 :]


LEAF = certs.leaf(NAME, "p256")
ODD = [of_version(LEAF.der, version) for version in VERSIONS]


@pytest.fixture(params=ODD)
def odd(request):
    with pytest.raises(x509.InvalidVersion):
        x509.load_der_x509_certificate(request.param)
    return request.param


@pytest.fixture
def chain_file(odd, tmp_path):
    key = LEAF.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = tmp_path / "odd.pem"
    path.write_bytes(ssl.DER_cert_to_PEM_cert(odd).encode() + certs.intermediate().pem + key)
    return str(path)


def client(chain_file):
    remote = Remote()
    remote.context.post_handshake_auth = True
    remote.context.load_cert_chain(chain_file)
    remote.incoming, remote.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    remote.tls = remote.context.wrap_bio(remote.incoming, remote.outgoing, False, NAME)
    return remote


def test_a_server_that_nobody_asks_who_it_is(chain_file):
    step = shake(handshake(Side.CLIENT, remote_auth=RemoteAuth.IGNORE), Remote(Side.SERVER, chain_file=chain_file))
    assert step.facts, step.fault
    assert (step.facts.remote_verified, step.facts.remote_names, step.facts.remote_sha256) == (False, (), b"")


def test_a_server_that_is_asked(chain_file):
    step = shake(handshake(Side.CLIENT, remote_name=NAME), Remote(Side.SERVER, chain_file=chain_file))
    assert step.fault.code is Code.CHAIN_INVALID


def test_a_server_that_is_judged(chain_file):
    asked = []

    def ask(shown):
        asked.append(shown)
        return Verdict(session_id=1, code=0, detail="")

    step = shake(handshake(Side.CLIENT, ask=ask), Remote(Side.SERVER, chain_file=chain_file))
    assert step.fault.code is Code.CHAIN_INVALID
    assert not asked


@pytest.mark.parametrize("auth", [RemoteAuth.REQUIRE, RemoteAuth.REQUEST])
def test_a_client(chain_file, auth):
    step = shake(handshake(remote_auth=auth), client(chain_file))
    assert step.fault.code is Code.CHAIN_INVALID


def test_a_client_that_is_asked_again(chain_file):
    asking = Asking(client(chain_file), NAME, remote_auth=RemoteAuth.IGNORE)
    asking.ask()
    asking.ours.send()
    asking.ours.receive()
    assert asking.answers == [1]
    told = asking.told()
    assert (told.asked, told.code, told.remote_verified) == (True, Code.CHAIN_INVALID, False)
    assert (told.remote_names, told.remote_subject, told.remote_sha256) == ((), "", b"")
    asking.ours.say(b"after")
    assert asking.ours.send() == b"after"


def test_what_a_session_is_bound_to(odd):
    with pytest.raises(PoolError) as caught:
        facts._server_end_point(odd)
    assert caught.value.code is Code.INFO_NOT_FOUND


def test_an_anchor_of_another_tool(odd, tmp_path):
    """It is left out, and does not keep every session from its anchors."""
    good = Authority("Root").der
    entries = [(b"k" * 20, b"\0\0\x03\x011\0" + odd), (b"g" * 20, b"\0\0\x03\x011\0" + good)]
    legacy_databases.write(tmp_path, "trust.db", entries)
    reports = []
    databases = Databases(tmp_path, report=reports.append)
    try:
        assert [anchor.der for anchor in databases.anchors()] == [good]
        assert [error.code for error in reports] == [Code.RECORD_MALFORMED]
        with pytest.raises(PoolError):
            databases.trust_set(0x101, "1", [odd])
    finally:
        databases.close()


def test_what_operators_and_the_helper_are_given(odd):
    for read in (certificates.load, chains.load_untrusted):
        with pytest.raises(PoolError) as caught:
            read(odd)
        assert caught.value.code is Code.RECORD_MALFORMED
    with pytest.raises(BadChain):
        links_untrusted((odd, certs.intermediate().der))


def test_lists():
    der = Authority("Root").crl({5: ""})
    at = der.index(b"\x02\x01\x01")
    odd = der[: at + 2] + b"\x41" + der[at + 3 :]
    with pytest.raises(x509.InvalidVersion):
        x509.load_der_x509_crl(odd)
    with pytest.raises(PoolError) as caught:
        crls.load(odd)
    assert caught.value.code is Code.RECORD_MALFORMED
    with pytest.raises(BadList):
        read_untrusted(odd)
    assert files._der(odd, "x", lambda *_: None).certificates == (odd,)


# --- names that are no names ---------------------------------------------------------------------------------


def bits_for_text(der: bytes, before: bytes) -> bytes:
    """Make the text behind ``before`` a BIT STRING, which a name must not have here."""
    at = der.index(before) + len(before)
    assert der[at] in (0x0C, 0x13)
    return der[:at] + b"\x03" + der[at + 1 : at + 2] + b"\0" + der[at + 3 :]


def odd_subject():
    der = LEAF.der
    last = der.rindex(b"\x06\x03\x55\x04\x03")
    return der[:last] + bits_for_text(der[last:], b"\x06\x03\x55\x04\x03")


def odd_directory_name():
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "in a directory")])
    made = Made("x", key=2, san=[x509.DNSName(NAME), x509.DirectoryName(name)])
    at = made.der.rindex(b"in a directory") - 7
    return made.der[:at] + bits_for_text(made.der[at:], b"\x06\x03\x55\x04\x03")


@pytest.fixture(params=["subject", "directory"])
def odd_name(request, tmp_path):
    der, key = (odd_subject(), LEAF.private) if request.param == "subject" else (odd_directory_name(), KEYS[2])
    read = x509.load_der_x509_certificate(der)
    with pytest.raises(TypeError):
        _ = read.subject, read.extensions
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = tmp_path / "odd.pem"
    path.write_bytes(ssl.DER_cert_to_PEM_cert(der).encode() + pem)
    return der, str(path)


@pytest.mark.parametrize("fields", [{"remote_auth": RemoteAuth.IGNORE}, {"remote_name": NAME}, {"ask": lambda _: None}])
def test_a_server_with_an_odd_name(odd_name, fields):
    step = shake(handshake(Side.CLIENT, **fields), Remote(Side.SERVER, chain_file=odd_name[1]))
    if "remote_auth" in fields:
        assert step.facts, step.fault
        assert step.facts.remote_subject in ("", "CN=x")
    else:
        assert step.fault.code is not Code.INTERNAL


def test_odd_names_in_the_databases(odd_name, tmp_path):
    good = Authority("Root").der
    entries = [(b"k" * 20, b"\0\0\x03\x011\0" + odd_name[0]), (b"g" * 20, b"\0\0\x03\x011\0" + good)]
    (tmp_path / "db").mkdir()
    legacy_databases.write(tmp_path / "db", "trust.db", entries)
    databases = Databases(tmp_path / "db", report=lambda _error: None)
    try:
        assert good in [anchor.der for anchor in databases.anchors()]
        for request in ({"cmd": "trust.list"}, {"cmd": "trust.get", "key": "6b" * 20}):
            admin.handle(databases, request)
    finally:
        databases.close()
    for read in (certificates.load, chains.load_untrusted):
        with contextlib.suppress(PoolError):
            certificates.doubts(read(odd_name[0]), None)
