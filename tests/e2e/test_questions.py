"""Keying material, channel bindings and certificates: equal at both ends, whoever the other end is."""

import contextlib
import hashlib
import re
import socket
import ssl
import subprocess
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

import libstub
from tests.e2e.conftest import await_log, connect, log_of, tlspool
from tests.fixtures.ports import free_port
from tlspool_common.appwire import Cmd, ErrorReply, Frame, Prng, frame_untrusted

SERVER = "testsrv@tlspool.arpa2.lab"
CLIENT = "testcli@tlspool.arpa2.lab"
LABEL = "EXPERIMENTAL-tlspool-test"


def certificate_of(pool, identity):
    return x509.load_pem_x509_certificate((pool.directory / "certs" / f"{identity}.pem").read_bytes())


@contextlib.contextmanager
def both_ends(client_pool, server_pool, client=None, server=None):
    """A client's session with a server's, each over its own connection to its own pool."""
    listener = socket.create_server(("127.0.0.1", 0))
    found = {}

    def serve(pool):
        sock, _ = listener.accept()
        found["server"] = libstub.starttls_server(sock, **{"localid": SERVER, "pool": pool, **(server or {})})

    with libstub.Pool(str(client_pool.socket)) as one, libstub.Pool(str(server_pool.socket)) as other, listener:
        thread = threading.Thread(target=serve, args=(other,))
        thread.start()
        sock = connect(listener.getsockname()[1])
        session = libstub.starttls_client(sock, **{"remoteid": SERVER, "pool": one, **(client or {})})
        thread.join(20)
        with session, found["server"]:
            yield session, found["server"]


@pytest.fixture
def sessions(pool):
    with both_ends(pool, pool) as both:
        yield both


IGNORE = {"remote_auth": "ignore"}


@pytest.mark.parametrize("context", [None, b"", b"some context"])
def test_two_pools_export_the_same(pool, other_pool, context, table):
    with both_ends(pool, other_pool, IGNORE, IGNORE) as (client, server):
        value = client.export_keying_material(LABEL, context, 32)
        assert value == server.export_keying_material(LABEL, context, 32)
        assert value != client.export_keying_material(LABEL, b"other context", 32)
        assert len(client.export_keying_material(LABEL, context, 350)) == 350
        assert client.export_keying_material(LABEL, context, 0) == b""
        for kind in ("tls-exporter", "tls-server-end-point"):
            assert client.channel_binding(kind) == server.channel_binding(kind)
        der = certificate_of(other_pool, SERVER).public_bytes(Encoding.DER)
        assert client.channel_binding("tls-server-end-point") == hashlib.sha256(der).digest()
        with pytest.raises(libstub.NotAvailable) as caught:
            client.channel_binding("tls-unique")
        assert caught.value.code == 126
        # two sessions share nothing
        with both_ends(pool, other_pool, IGNORE, IGNORE) as (another, _):
            assert another.channel_binding() != client.channel_binding()
    table.append(("exporter and channel bindings", "another pool", "equal"))


def test_certificates_of_both_ends(sessions, pool):
    client, server = sessions
    for shown, seen, identity in ((client, server, CLIENT), (server, client, SERVER)):
        certificate = certificate_of(pool, identity)
        for part in ("subject", "issuer"):
            expected = getattr(certificate, part).public_bytes()
            assert shown.distinguished_name(part, local=True) == seen.distinguished_name(part) == expected
        name = bytes([0x81, len(identity)]) + identity.encode()
        assert shown.has_general_name(name, local=True)
        assert seen.has_general_name(name)
        assert not seen.has_general_name(name[2:])
        assert not seen.has_general_name(bytes([0x82]) + name[1:])


def test_a_client_that_was_not_asked_has_no_certificate(pool):
    with both_ends(pool, pool, server=IGNORE) as (client, server):
        for session, local in ((client, True), (server, False)):
            with pytest.raises(libstub.NotAvailable):
                session.distinguished_name("subject", local=local)
            assert not session.has_general_name(b"\x81\x01x", local=local)
        assert client.distinguished_name() == server.distinguished_name(local=True)


# --- openssl ----------------------------------------------------------------------------------------


def openssl_client(port, *words):
    return subprocess.Popen(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "localhost", "-ign_eof", *words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.mark.parametrize(("version", "word"), [("1.3", "-tls1_3"), ("1.2", "-tls1_2")])
def test_openssl_s_client_exports_the_same(pool, echo_server, table, version, word):
    server = echo_server(pool)
    with openssl_client(server.port, word, "-keymatexport", LABEL, "-keymatexportlen", "32") as client:
        session = server.await_session()
        assert session.version == f"TLSv{version}"
        value = session.export_keying_material(LABEL, None, 32)
        end_point = session.channel_binding("tls-server-end-point")
        session.sock.shutdown(socket.SHUT_RDWR)
        client.stdin.close()
        said = client.stdout.read()
    assert re.search(rf"Keying material: {value.hex().upper()}\b", said), said
    shown = x509.load_pem_x509_certificate(re.search(r"-----BEGIN.*?END CERTIFICATE-----\n", said, re.S)[0].encode())
    assert end_point == hashlib.sha256(shown.public_bytes(Encoding.DER)).digest()
    table.append(("exporter, as server", f"openssl s_client, TLS {version}", "equal"))


@pytest.mark.parametrize(("version", "word"), [("1.3", "-tls1_3"), ("1.2", "-tls1_2")])
def test_openssl_s_server_exports_the_same(pool, authority, start, table, version, word):
    certificate, key = authority.issue("localhost")
    port = free_port()
    words = ["-accept", f"127.0.0.1:{port}", "-cert", str(certificate), "-key", str(key), word]
    program = start(["openssl", "s_server", *words, "-keymatexport", LABEL, "-keymatexportlen", "40"], port)
    with (
        libstub.Pool(str(pool.socket)) as own,
        libstub.starttls_client(connect(port), "localhost", pool=own) as session,
    ):
        value = session.export_keying_material(LABEL, None, 40)
        assert session.channel_binding("tls-server-end-point") == der_digest(certificate)
        if version == "1.2":
            assert len(session.channel_binding("tls-unique")) == 12
        printed = openssl_names(certificate)
        assert session.distinguished_name("subject") == printed["subject"]
        assert session.distinguished_name("issuer") == printed["issuer"]
        program.await_output(f"Keying material: {value.hex().upper()}")
        session.sock.sendall(b"Q\n")
    program.stop()
    table.append(("exporter, as client", f"openssl s_server, TLS {version}", "equal"))


def der_digest(path):
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()


def openssl_names(path):
    """Return issuer and subject as they stand in the certificate, at the places that ``openssl asn1parse`` prints."""
    der = subprocess.run(
        ["openssl", "x509", "-in", str(path), "-outform", "DER"], capture_output=True, check=True
    ).stdout
    listing = subprocess.run(
        ["openssl", "asn1parse", "-inform", "DER"], input=der, capture_output=True, check=True
    ).stdout.decode()
    rows = re.findall(r"^ *(\d+):d=2 +hl=(\d+) +l= *(\d+)", listing, re.M)
    fields = [der[int(at) : int(at) + int(head) + int(length)] for at, head, length in rows]
    return {"issuer": fields[3], "subject": fields[5]}


def test_tls_unique_is_what_the_ssl_module_says(pool, echo_server):
    server = echo_server(pool)
    context = ssl.create_default_context(cafile=str(pool.directory / "ca.pem"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with context.wrap_socket(connect(server.port), server_hostname="localhost") as client:
        assert server.await_session().channel_binding("tls-unique") == client.get_channel_binding("tls-unique")


# --- bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "ask"),
    [
        (124, lambda one: one.export_keying_material("client finished", None, 16)),
        (124, lambda one: one.export_keying_material("EXPERIMENTAL", None, 16)),
        (124, lambda one: one.export_keying_material("EXPERIMENTAL".ljust(250, "x"), None, 16)),
        (126, lambda one: one.channel_binding("tls-unique")),
    ],
)
def test_what_there_is_not(sessions, code, ask):
    client, server = sessions
    with pytest.raises(libstub.NotAvailable) as caught:
        ask(client)
    assert caught.value.code == code
    server.sock.sendall(b"the session goes on")
    assert client.sock.recv(100) == b"the session goes on"


@pytest.mark.parametrize(
    "ask",
    [
        lambda one: one.export_keying_material("", None, 16),
        lambda one: one.export_keying_material("EXPERIMENTAL-ü", None, 16),
        lambda one: one.export_keying_material(LABEL, bytes(400), 16),
        lambda one: one.export_keying_material(LABEL, None, 351),
        lambda one: one.export_keying_material(LABEL, None, -1),
        lambda one: one.distinguished_name("cn"),
        lambda one: one.has_general_name(b""),
        lambda one: one.has_general_name(bytes(334)),
        lambda one: one.channel_binding("tls-server"),
    ],
)
def test_what_the_library_refuses_by_itself(sessions, ask):
    with pytest.raises(libstub.Misuse) as caught:
        ask(sessions[0])
    assert caught.value.code == 0


def test_a_detached_session_and_one_that_is_over(pool):
    with both_ends(pool, pool, client={"detach": True}) as (client, server):
        with pytest.raises(libstub.NotInControl):
            client.channel_binding()
        client.reattach()
        assert client.channel_binding() == server.channel_binding()
        client.detach()
        with pytest.raises(libstub.NotInControl):
            client.export_keying_material(LABEL, None, 16)
        client.reattach()
        position = len(log_of(pool, "broker"))
        client.close()
        server.close()
        await_log(pool, "broker", r"event=session.end .*side=client", position)
        with pytest.raises(libstub.NotInControl) as caught:
            client.channel_binding()
        assert caught.value.code == 115


def test_the_key_of_another_connection(sessions, pool):
    """Whoever knows the key has nothing of it without control."""
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(20)
        raw.connect(str(pool.socket))
        payload = Prng.ask(sessions[0].ctlkey, LABEL.encode(), None, 16).to_payload()
        raw.sendall(Frame(7, 0, Cmd.PRNG, payload).to_bytes())
        reply = frame_untrusted(raw.recv(388, socket.MSG_WAITALL))
    assert (reply.reqid, reply.cmd) == (7, Cmd.ERROR)
    assert ErrorReply.from_payload_untrusted(reply.payload).message.startswith("[115]")


def test_many_at_once(pool):
    """Sixteen threads ask about eight sessions, and every answer goes to who asked."""
    with contextlib.ExitStack() as stack:
        pairs = [stack.enter_context(both_ends(pool, pool)) for _ in range(8)]
        wrong = []

        def ask(pair, turn):
            for number in range(20):
                label = f"{LABEL}-{turn}-{number}"
                one, other = (session.export_keying_material(label, None, 32) for session in pair)
                if one != other:
                    wrong.append(label)

        threads = [threading.Thread(target=ask, args=(pairs[n % 8], n)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not wrong
        assert not any(thread.is_alive() for thread in threads)


def test_while_data_flows(sessions):
    """The TLS of a session that is asked is used by its relay, too."""
    client, server = sessions
    data = bytes(range(256)) * 40_000
    got = bytearray()

    def read():
        while len(got) < len(data):
            got.extend(server.sock.recv(65536))

    reader = threading.Thread(target=read)
    writer = threading.Thread(target=client.sock.sendall, args=(data,))
    reader.start()
    writer.start()
    values = {session.channel_binding() for _ in range(50) for session in sessions}
    writer.join(60)
    reader.join(60)
    assert got == data
    assert len(values) == 1


def test_nothing_of_it_is_logged(sessions, pool):
    values = [sessions[0].export_keying_material(LABEL, b"the context", 32), sessions[0].channel_binding()]
    values.append(sessions[0].ctlkey)
    tlspool(pool, "sessions", check=False)
    for daemon in ("broker", "worker", "keyd"):
        text = log_of(pool, daemon)
        assert "AskExport" in text or daemon == "keyd"
        for value in values:
            for form in (value.hex(), value.hex(" "), repr(value)[2:-1]):
                assert form not in text
        assert "the context" not in text
